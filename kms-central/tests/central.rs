//! The daemon over real channels, with a real token: what operators and sites ask, and what becomes of it when the
//! process is killed, the store restored or edited.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod central_kit;

use std::{fs, time::Duration};

use central_kit::{Asker, DOMAIN, Kit, class, key, name, named, site};
use keyhaven_kms::{central::store_key, records::CentralKey};
use keyhaven_kms_central::store::{Guard, RedbStore, StateStore as _, Txn};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::{KeyKind, KeyState, Operation, Provenance, Purpose, Replication};
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{
        Entry, Fetch, Grant, HeadMark, Held, Manifest, Record, Scope, Signed,
        admin::{Answer, Ask, Import, NewKey, RefusedCode, Status},
    },
};

const TWO: [Purpose; 2] = [Purpose::Sign, Purpose::Data];

fn record(signed: &Signed) -> Record {
    postcard::from_bytes(&signed.body).unwrap()
}

async fn status(admin: &Asker) -> Status {
    match admin.ask(Ask::Status).await {
        Answer::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Everything that the classes have.
async fn held(admin: &Asker) -> Vec<Held> {
    let Answer::Classes { classes, .. } = admin.ask(Ask::ClassList).await else {
        panic!("no classes");
    };
    let epochs = classes.into_iter().flat_map(|class| {
        let epochs = class.epochs.into_iter();
        epochs.map(move |epoch| (class.name.clone(), epoch))
    });
    epochs
        .map(|(class, epoch)| Held {
            class,
            purpose: epoch.purpose,
            epoch: epoch.epoch,
            kek: epoch.kek,
        })
        .collect()
}

async fn versions(admin: &Asker, key: &str) -> Vec<Manifest> {
    match admin.ask(Ask::KeyShow { key: named(key) }).await {
        Answer::Key { versions, .. } => versions,
        other => panic!("{other:?}"),
    }
}

fn grant(who: &str, key: &str, operation: Operation) -> Ask {
    Ask::GrantSet {
        identity: format!("{DOMAIN}/client/{who}").parse().unwrap(),
        key: Some(named(key)),
        operations: vec![operation],
    }
}

fn revoke(key: &str) -> Ask {
    Ask::KeyState {
        key: named(key),
        version: None,
        state: KeyState::Revoked,
    }
}

#[tokio::test]
async fn m8_a_key_lives_from_its_making_to_its_end_and_outlives_a_crash() {
    let kit = Kit::new(fresh_token!(), &TWO, 1);
    let config = kit.redb();
    let daemon = kit.start(&config);
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin.change(class("near", &TWO, Replication::Eager)).await;
    let create = key("orders", KeyKind::EcP256, Purpose::Sign, "near");
    assert_eq!(admin.change(create.clone()).await, 2);
    assert_eq!(admin.refused(create).await.code, RefusedCode::Exists);
    admin
        .change(Ask::KeyRotate {
            key: named("orders"),
        })
        .await;
    let states: Vec<KeyState> = versions(&admin, "orders")
        .await
        .iter()
        .map(|it| it.state)
        .collect();
    assert_eq!(states, [KeyState::Deactivated, KeyState::Active]);
    let revision = admin.change(revoke("orders")).await;
    daemon.kill();
    let daemon = kit.start(&config);
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    assert_eq!(status(&admin).await.head.revision, revision);
    for manifest in versions(&admin, "orders").await {
        assert_eq!(manifest.state, KeyState::Revoked);
    }
    let back = Ask::KeyState {
        key: named("orders"),
        version: None,
        state: KeyState::Deactivated,
    };
    assert_eq!(admin.refused(back).await.code, RefusedCode::Rule);
    let destroy = Ask::KeyState {
        key: named("orders"),
        version: None,
        state: KeyState::Destroyed,
    };
    admin.change(destroy).await;
    let line = daemon.wait_for("audit line", |line| line["verb"] == "key destroy");
    assert_eq!(
        (&line["event"], &line["outcome"]),
        (&"admin".into(), &"done".into())
    );
}

#[tokio::test]
async fn m2_roles_and_lists_decide_who_may_do_what() {
    let kit = Kit::new(fresh_token!(), &TWO, 1);
    let daemon = kit.start(&kit.redb());
    let auditor = Asker::connect(&kit, &daemon, "admin/auditor").await;
    let stranger = Asker::connect(&kit, &daemon, "admin/mallory").await;
    let signer = Asker::connect(&kit, &daemon, "signer/fra").await;
    let denied = |reply: Reply| matches!(reply, Reply::Error(ErrorCode::Denied));
    let create = || Request::Admin(Box::new(class("near", &TWO, Replication::Eager)));
    let look = || Request::Admin(Box::new(Ask::Status));
    assert!(matches!(auditor.call(look()).await, Reply::Admin(_)));
    assert!(denied(auditor.call(create()).await));
    for who in [&stranger, &signer] {
        assert!(denied(who.call(look()).await));
        assert!(denied(who.call(create()).await));
    }
    let seen = HeadMark::default();
    assert_eq!(signer.follow(0, seen, 0).await, Err(ErrorCode::NotEnrolled));
    let follow = Request::Follow(keyhaven_wire::kms::Follow {
        after: 0,
        seen,
        wait_ms: 0,
        bytes_max: 1,
    });
    assert!(denied(auditor.call(follow).await));
}

#[tokio::test]
async fn m1_a_site_hears_of_everything_and_has_only_its_own_wraps() {
    let kit = Kit::new(fresh_token!(), &TWO, 2);
    let daemon = kit.start(&kit.redb());
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin
        .change(class("near", &[Purpose::Sign], Replication::Eager))
        .await;
    admin.change(site("fra", held(&admin).await)).await;
    admin
        .change(class("other", &[Purpose::Sign], Replication::Eager))
        .await;
    admin
        .change(key("mine", KeyKind::EcP256, Purpose::Sign, "near"))
        .await;
    admin
        .change(key("theirs", KeyKind::EcP256, Purpose::Sign, "other"))
        .await;
    let fra = Asker::connect(&kit, &daemon, "signer/fra").await;
    let changes = fra.follow(0, HeadMark::default(), 0).await.unwrap();
    let central = CentralKey::from_spki(&signing_spki(&kit)).unwrap();
    let mut wraps = Vec::new();
    for entry in &changes.entries {
        let believed = central.believe(entry).unwrap();
        let (Record::Version(manifest), Some(parts)) = (believed.record, believed.parts) else {
            continue;
        };
        assert!(parts.root_wrap.is_empty());
        wraps.push((manifest.class.to_string(), !parts.site_wrap.is_empty()));
    }
    assert_eq!(
        wraps,
        [("near".to_owned(), true), ("other".to_owned(), false)]
    );
    let Record::Head(head) = record(&changes.head) else {
        panic!("no head");
    };
    assert_eq!(changes.through, head.revision);
    // It waits, and hears of what is done meanwhile.
    let (told, revision) = tokio::join!(fra.follow(head.revision, head.mark(), 20_000), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        admin.change(revoke("mine")).await
    });
    assert_eq!(told.unwrap().through, revision);
    // It has said so only with its next question.
    let enforced = |answer| match answer {
        Answer::Enforced { enforced, .. } => enforced,
        other => panic!("{other:?}"),
    };
    assert!(!enforced(admin.ask(Ask::Enforced { revision }).await));
    let seen = match record(&fra.lease(head.mark()).await.unwrap().head) {
        Record::Head(head) => head.mark(),
        other => panic!("{other:?}"),
    };
    fra.follow(revision, seen, 0).await.unwrap();
    assert!(enforced(admin.ask(Ask::Enforced { revision }).await));
}

/// As a site has it by hand: the public key by which everything is judged.
fn signing_spki(kit: &Kit) -> Vec<u8> {
    use keyhaven_hsm::{Module, Pin, Token, managed::CentralToken};
    let module = Module::load_with(Some(kit.token.module()), None).unwrap();
    let pin = Pin::new(kit.token.pin().to_owned());
    let token = Token::open(&module, &kit.token.uri().parse().unwrap(), pin).unwrap();
    CentralToken::open(&token).unwrap().signing_spki().to_vec()
}

#[tokio::test]
async fn m5_a_fetch_is_for_those_with_a_grant_and_says_nothing_to_others() {
    let kit = Kit::new(fresh_token!(), &[Purpose::Sign], 1);
    let daemon = kit.start(&kit.redb());
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin
        .change(class("rare", &[Purpose::Sign], Replication::OnDemand))
        .await;
    admin.change(site("fra", held(&admin).await)).await;
    admin
        .change(key("orders", KeyKind::EcP256, Purpose::Sign, "rare"))
        .await;
    admin.change(grant("shop", "orders", Operation::Sign)).await;
    let fra = Asker::connect(&kit, &daemon, "signer/fra").await;
    let by_following = fra.follow(0, HeadMark::default(), 0).await.unwrap().entries;
    let wraps = |entries: &[Entry]| {
        let parts = entries.iter().filter_map(|entry| entry.parts.as_ref());
        parts.filter(|parts| !parts.site_wrap.is_empty()).count()
    };
    assert_eq!(
        wraps(&by_following),
        0,
        "nothing comes before it is asked for"
    );
    let fetch = |key: &str, who: &str, operation| Fetch {
        key: named(key),
        caller: format!("{DOMAIN}/client/{who}").parse().unwrap(),
        operation,
    };
    let fetched = fra.fetch(fetch("orders", "shop", Operation::Sign)).await;
    assert_eq!(wraps(&fetched.entries), 1);
    let parts = fetched
        .entries
        .iter()
        .filter_map(|entry| entry.parts.as_ref());
    assert!(parts.clone().all(|parts| parts.root_wrap.is_empty()));
    for nothing in [
        fetch("orders", "stranger", Operation::Sign),
        fetch("orders", "shop", Operation::Verify),
        fetch("absent", "shop", Operation::Sign),
    ] {
        assert_eq!(fra.fetch(nothing).await.entries, []);
    }
}

#[tokio::test]
async fn m12_a_site_that_is_thrown_out_loses_its_connection_and_gets_nothing_more() {
    let kit = Kit::new(fresh_token!(), &[Purpose::Sign], 1);
    let daemon = kit.start(&kit.redb());
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin
        .change(class("near", &[Purpose::Sign], Replication::Eager))
        .await;
    admin.change(site("fra", held(&admin).await)).await;
    let fra = Asker::connect(&kit, &daemon, "signer/fra").await;
    let changes = fra.follow(0, HeadMark::default(), 0).await.unwrap();
    let Record::Head(head) = record(&changes.head) else {
        panic!("no head");
    };
    assert!(fra.lease(head.mark()).await.is_ok());
    let waiting = Request::Follow(keyhaven_wire::kms::Follow {
        after: head.revision,
        seen: head.mark(),
        wait_ms: 20_000,
        bytes_max: 1000,
    });
    let (cut, revision) = tokio::join!(fra.try_call(waiting), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        admin.change(Ask::SiteEvict { site: name("fra") }).await
    });
    assert!(
        matches!(cut, Err(_) | Ok(Reply::Error(ErrorCode::NotEnrolled))),
        "{cut:?}"
    );
    daemon.wait_for("closed connection", |line| {
        line["message"]
            .as_str()
            .is_some_and(|it| it.contains("thrown out"))
    });
    let again = Asker::connect(&kit, &daemon, "signer/fra").await;
    assert_eq!(
        again.follow(0, head.mark(), 0).await,
        Err(ErrorCode::NotEnrolled)
    );
    assert_eq!(again.lease(head.mark()).await, Err(ErrorCode::NotEnrolled));
    // What it had a lease for may go on until that ends.
    match admin.ask(Ask::Enforced { revision }).await {
        Answer::Enforced {
            enforced,
            at_most_s,
            waiting_for,
        } => {
            assert!(!enforced && (1..=33).contains(&at_most_s), "{at_most_s}");
            assert_eq!(waiting_for, [name("fra")]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn m4_a_restored_store_is_noticed_by_what_a_site_has_seen() {
    let kit = Kit::new(fresh_token!(), &[Purpose::Sign], 1);
    let config = kit.redb();
    let (file, backup) = (
        kit.dir.path().join("store.redb"),
        kit.dir.path().join("backup"),
    );
    let daemon = kit.start(&config);
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin
        .change(class("near", &[Purpose::Sign], Replication::Eager))
        .await;
    admin.change(site("fra", held(&admin).await)).await;
    admin
        .change(key("orders", KeyKind::EcP256, Purpose::Sign, "near"))
        .await;
    daemon.kill();
    fs::copy(&file, &backup).unwrap();
    let daemon = kit.start(&config);
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin.change(revoke("orders")).await;
    let head = status(&admin).await.head;
    daemon.kill();
    fs::copy(&backup, &file).unwrap();
    let daemon = kit.start(&config);
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    let fra = Asker::connect(&kit, &daemon, "signer/fra").await;
    assert_eq!(
        fra.follow(head.revision, head.mark(), 0).await,
        Err(ErrorCode::History)
    );
    assert_eq!(fra.lease(head.mark()).await, Err(ErrorCode::History));
    let warnings = status(&admin).await.warnings;
    assert!(
        warnings
            .iter()
            .any(|it| it.contains("fra") && it.contains("era bump")),
        "{warnings:?}"
    );
    // Another history of the same length is noticed as well.
    admin.change(grant("shop", "orders", Operation::Sign)).await;
    assert_eq!(status(&admin).await.head.revision, head.revision);
    assert_eq!(fra.lease(head.mark()).await, Err(ErrorCode::History));
    admin.change(Ask::EraBump).await;
    let lease = fra.lease(head.mark()).await.unwrap();
    assert!(matches!(record(&lease.head), Record::Head(new) if new.era == head.era + 1));
    let told = fra.follow(head.revision, head.mark(), 0).await.unwrap();
    assert_eq!(told.entries, []);
    let warnings = status(&admin).await.warnings;
    assert!(
        !warnings.iter().any(|it| it.contains("fra")),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn m4_what_somebody_wrote_into_the_store_is_refused_and_told_and_the_rest_is_served() {
    let kit = Kit::new(fresh_token!(), &[Purpose::Sign], 1);
    let config = kit.redb();
    let daemon = kit.start(&config);
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin
        .change(class("near", &[Purpose::Sign], Replication::Eager))
        .await;
    admin
        .change(key("orders", KeyKind::EcP256, Purpose::Sign, "near"))
        .await;
    admin.change(grant("shop", "orders", Operation::Sign)).await;
    let id = versions(&admin, "orders").await[0].id;
    daemon.kill();
    let mallory = format!("{DOMAIN}/client/mallory").parse().unwrap();
    let forged = Record::Grant(Grant {
        identity: mallory,
        scope: Scope::Key(id),
        operations: vec![Operation::Sign],
        revision: 4,
    });
    let at = store_key::of(&forged).unwrap();
    {
        let store = RedbStore::open(&kit.dir.path().join("store.redb"), 1 << 20).unwrap();
        let shop = format!("{DOMAIN}/client/shop").parse().unwrap();
        let good = store
            .get(&store_key::grant(&Scope::Key(id), &shop))
            .await
            .unwrap()
            .unwrap();
        let mut entry: Entry = postcard::from_bytes(&good.value).unwrap();
        entry.signed.body = postcard::to_stdvec(&forged).unwrap();
        let forgery = postcard::to_stdvec(&entry).unwrap();
        // A good record under another one's name is none, either.
        let puts = vec![(at.clone(), forgery), (b"s/fra".to_vec(), good.value)];
        let guards = vec![(at, Guard::Absent)];
        store.txn(Txn { guards, puts }).await.unwrap();
    }
    let check = kit.command(&config).arg("--check").output().unwrap();
    let complaint = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{complaint}");
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("mallory") && said.contains("s/fra"), "{said}");
    let daemon = kit.start(&config);
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    let list = Ask::GrantList {
        key: None,
        identity: None,
        after: None,
    };
    match admin.ask(list).await {
        Answer::Grants { grants, .. } => assert_eq!(grants.len(), 1, "{grants:?}"),
        other => panic!("{other:?}"),
    }
    let warnings = status(&admin).await.warnings;
    assert!(
        warnings.iter().any(|it| it.contains("mallory")),
        "{warnings:?}"
    );
    assert!(
        warnings.iter().any(|it| it.contains("s/fra")),
        "{warnings:?}"
    );
    // It goes on with the rest, and a good record takes the forged one's place.
    admin
        .change(grant("mallory", "orders", Operation::Verify))
        .await;
    let warnings = status(&admin).await.warnings;
    assert!(
        !warnings.iter().any(|it| it.contains("mallory")),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn m8_what_is_asked_at_the_same_time_is_written_together_and_each_once() {
    let kit = Kit::new(fresh_token!(), &TWO, 1);
    let daemon = kit.start(&kit.redb());
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin.change(class("near", &TWO, Replication::Eager)).await;
    let names: Vec<String> = (0..120).map(|number| format!("key-{number:03}")).collect();
    // Each name twice: one of the two is refused.
    let asks = names
        .iter()
        .chain(&names)
        .map(|name| key(name, KeyKind::Aes256, Purpose::Data, "near"));
    let answers = futures_like::join_all(asks.map(|ask| admin.ask(ask))).await;
    let made = answers
        .iter()
        .filter(|it| matches!(it, Answer::Committed { .. }))
        .count();
    let refused = answers
        .iter()
        .filter(|it| matches!(it, Answer::Refused(why) if why.code == RefusedCode::Exists))
        .count();
    assert_eq!((made, refused), (names.len(), names.len()), "{answers:?}");
    let now = status(&admin).await;
    assert_eq!(now.keys, names.len() as u64);
    assert!(
        now.head.revision < 100,
        "{} transactions",
        now.head.revision
    );
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let Answer::Keys { keys, more } = admin
            .ask(Ask::KeyList {
                after: after.clone(),
            })
            .await
        else {
            panic!("no list");
        };
        after = keys.last().map(|key| key.name.clone());
        listed.extend(keys.into_iter().map(|key| key.name.to_string()));
        if !more {
            break;
        }
    }
    assert_eq!(listed, names);
}

#[tokio::test]
async fn m8_a_key_comes_wrapped_under_a_transport_key_once() {
    let kit = Kit::new(fresh_token!(), &[Purpose::Mac], 1);
    let daemon = kit.start(&kit.redb());
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    admin
        .change(class("near", &[Purpose::Mac], Replication::Eager))
        .await;
    let Answer::TransportKey { id, spki } = admin.ask(Ask::TransportKey).await else {
        panic!("no transport key");
    };
    let kek = [7; 32];
    let import = |text: &str| {
        Ask::KeyImport(Import {
            key: NewKey {
                name: name(text),
                kind: KeyKind::Hmac,
                purpose: Purpose::Mac,
                class: name("near"),
                server_names: Vec::new(),
            },
            transport: id,
            wrapped_kek: oaep(&spki, &kek),
            wrapped_key: wrap(&kek, &[9; 32]),
            public: None,
            provenance: Provenance::ImportedFile,
            chain: Vec::new(),
        })
    };
    match admin.ask(import("orders")).await {
        Answer::Committed { warnings, .. } => {
            assert!(
                warnings.iter().any(|it| it.contains("copies")),
                "{warnings:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    let made = &versions(&admin, "orders").await[0];
    assert_eq!(made.provenance, Provenance::ImportedFile);
    assert_eq!(
        admin.refused(import("again")).await.code,
        RefusedCode::NotFound
    );
}

fn oaep(spki: &[u8], secret: &[u8]) -> Vec<u8> {
    use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(spki).unwrap()).unwrap();
    let mut out = vec![0; key.ciphertext_size()];
    let sealed = key.encrypt(&OAEP_SHA1_MGF1SHA1, secret, &mut out, None);
    sealed.unwrap().to_vec()
}

fn wrap(kek: &[u8], key: &[u8]) -> Vec<u8> {
    use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded as _};
    let mut out = vec![0; key.len() + 8];
    let kek = AesKek::new(&AES_256, kek).unwrap();
    kek.wrap_with_padding(key, &mut out).unwrap().to_vec()
}

#[tokio::test]
async fn m8_a_handshake_key_is_rotated_by_way_of_its_next_certificate() {
    let kit = Kit::new(fresh_token!(), &[Purpose::Handshake], 1);
    let daemon = kit.start(&kit.redb());
    let admin = Asker::connect(&kit, &daemon, "admin/alice").await;
    let handshake = [Purpose::Handshake];
    admin
        .change(class("near", &handshake, Replication::Eager))
        .await;
    let Ask::KeyCreate(mut new) = key("shop", KeyKind::EcP256, Purpose::Handshake, "near") else {
        panic!("no key");
    };
    new.server_names = vec!["shop.example".to_owned()];
    admin.change(Ask::KeyCreate(new.clone())).await;
    new.name = name("second");
    let taken = admin.refused(Ask::KeyCreate(new)).await;
    assert_eq!(taken.code, RefusedCode::Exists, "two keys for one host");
    let first = certify(&kit, &admin).await;
    let chain = |chain| Ask::KeyChain {
        key: named("shop"),
        version: None,
        chain,
    };
    admin.change(chain(vec![first.clone()])).await;
    admin.change(Ask::KeyRotate { key: named("shop") }).await;
    let states = |all: Vec<Manifest>| all.iter().map(|it| it.state).collect::<Vec<_>>();
    let now = states(versions(&admin, "shop").await);
    assert_eq!(
        now,
        [KeyState::Active, KeyState::Pending],
        "the former one serves on"
    );
    // A request is now for the new version; the old certificate fits the old one still.
    let second = certify(&kit, &admin).await;
    assert_ne!(first, second);
    admin.change(chain(vec![second])).await;
    let now = states(versions(&admin, "shop").await);
    assert_eq!(now, [KeyState::Deactivated, KeyState::Active]);
    let alien = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    let refused = admin.refused(chain(vec![alien.cert.der().to_vec()])).await;
    assert_eq!(refused.code, RefusedCode::Rule);
}

/// The key's request, and what a CA makes of it.
async fn certify(kit: &Kit, admin: &Asker) -> Vec<u8> {
    let Answer::Csr(der) = admin.ask(Ask::KeyCsr { key: named("shop") }).await else {
        panic!("no request");
    };
    kit.issue(&der)
}

/// Everything at once, in order.
mod futures_like {
    use std::future::Future;

    pub(crate) async fn join_all<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let mut all: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
        std::future::poll_fn(|context| {
            let mut is_ready = true;
            for (one, done) in &mut all {
                if done.is_none() {
                    match one.as_mut().poll(context) {
                        std::task::Poll::Ready(value) => *done = Some(value),
                        std::task::Poll::Pending => is_ready = false,
                    }
                }
            }
            if is_ready {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
        all.into_iter().filter_map(|(_, done)| done).collect()
    }
}
