//! What a peer, a store's writer or a stranger says is believed only when central has signed it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use keyhaven_tests::kms::{Class, Kms, World, named, spiffe, world};
use keyhaven_types::Operation;
use keyhaven_wire::kms::{Entry, Fetch, Fetched, Record, SiteStatus, TaskError};
use keyhaven_wire::{Decoder, Reply, Request, encode};
use std::io::{Read, Write};

/// A site whose signer is the test itself: it answers a Fetch with what it is told to.
struct FalsePeer {
    fetched: Arc<Mutex<Option<Fetched>>>,
    asked: mpsc::Receiver<()>,
    /// Set when it was first asked how it is.
    seen: Arc<AtomicBool>,
}

impl FalsePeer {
    /// Listens where the site's signer would.
    fn start(world: &World, site: &str, status: SiteStatus) -> FalsePeer {
        let node = world.site(site);
        let listener = TcpListener::bind(node.address).expect("its signer was ended");
        let config = Arc::new(keyhaven_tests::channel::server_config(&node.pair));
        let fetched: Arc<Mutex<Option<Fetched>>> = Arc::default();
        let (tell, asked) = mpsc::sync_channel(64);
        let told = fetched.clone();
        let seen: Arc<AtomicBool> = Arc::default();
        let see = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, told, tell, status) =
                    (config.clone(), told.clone(), tell.clone(), status.clone());
                let see = see.clone();
                thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(config).expect("it is right");
                    let mut stream = rustls::StreamOwned::new(connection, stream);
                    let mut requests = Decoder::<Request>::new();
                    let mut bytes = [0; 4096];
                    while let Ok(count) = stream.read(&mut bytes) {
                        if count == 0 {
                            return;
                        }
                        requests.push(&bytes[..count]);
                        while let Ok(Some((id, request))) = requests.next() {
                            let reply = match request {
                                Request::Ping => Reply::Pong,
                                Request::Status => {
                                    see.store(true, Ordering::SeqCst);
                                    Reply::Status(Box::new(status.clone()))
                                }
                                Request::Fetch(_) => {
                                    let _ = tell.try_send(());
                                    match told.lock().expect("whole").clone() {
                                        Some(fetched) => Reply::Fetched(fetched),
                                        None => Reply::Error(keyhaven_wire::ErrorCode::Denied),
                                    }
                                }
                                _ => Reply::Error(keyhaven_wire::ErrorCode::Denied),
                            };
                            let mut frame = Vec::new();
                            if encode(id, &reply, &mut frame).is_err()
                                || stream.write_all(&frame).is_err()
                                || stream.flush().is_err()
                            {
                                return;
                            }
                        }
                    }
                });
            }
        });
        FalsePeer {
            fetched,
            asked,
            seen,
        }
    }

    fn says(&self, fetched: Fetched) {
        *self.fetched.lock().expect("whole") = Some(fetched);
    }
}

/// What an honest peer says of a key.
fn fetch(world: &World, from: &str, as_site: &str, key: &str) -> Fetched {
    let fetch = Fetch {
        key: named(key),
        caller: spiffe("client", "shop").parse().unwrap(),
        operation: Operation::Sign,
    };
    let pair = &world.site(as_site).pair;
    match Kms::connect(world.site(from).address, pair).ask(&Request::Fetch(fetch)) {
        Reply::Fetched(fetched) => fetched,
        other => panic!("{other:?}"),
    }
}

fn record(entry: &Entry) -> Record {
    postcard::from_bytes(&entry.signed.body).expect("central made it")
}

/// The entry of a key's version.
fn version(fetched: &Fetched) -> &Entry {
    let is_version = |entry: &&Entry| matches!(record(entry), Record::Version(_));
    fetched
        .entries
        .iter()
        .find(is_version)
        .expect("it has a version")
}

#[test]
fn m12_a_forged_exchanged_or_stale_copy_from_a_peer_is_refused() {
    let mut world = world()
        .class(Class::new("rare", &["eu", "us"]).flag("--on-demand"))
        .site("fra", "eu")
        .site("nyc", "us")
        .start();
    for key in ["a", "b"] {
        world.create_key(key, "ec-p256", "sign", "rare");
        world.grant(&spiffe("client", "shop"), key, &["sign"]);
    }
    world.settle();
    // nyc has both, and an old version of `a` besides.
    for key in ["a", "b"] {
        assert!(world.client("shop", "nyc").sign(key, b"x").is_ok());
    }
    let old = fetch(&world, "nyc", "fra", "a");
    world.admin(&["kms", "key", "rotate", "a"]);
    world.settle();
    assert!(world.client("shop", "nyc").sign("a", b"x").is_ok());
    let good = fetch(&world, "nyc", "fra", "a");
    let other = fetch(&world, "nyc", "fra", "b");
    let status = Kms::connect(world.site("nyc").address, &world.site("fra").pair)
        .status()
        .unwrap();
    // From here on nyc is the test, and central is away.
    world.site_mut("nyc").kill();
    let peer = FalsePeer::start(&world, "nyc", status);
    world.centrals[0].kill();
    let mut shop = world.client("shop", "fra");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !peer.seen.load(Ordering::SeqCst) {
        assert!(std::time::Instant::now() < deadline, "the peer is not seen");
        thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut refused = |what: &str, fetched: Fetched| {
        while peer.asked.try_recv().is_ok() {}
        peer.says(fetched);
        assert_eq!(shop.sign("a", b"x"), Err(TaskError::NotHere), "{what}");
        assert!(
            peer.asked.try_recv().is_ok(),
            "{what}: the peer was not even asked"
        );
    };
    let altered = |alter: &dyn Fn(&mut Entry)| {
        let mut fetched = good.clone();
        for entry in &mut fetched.entries {
            if matches!(record(entry), Record::Version(manifest) if manifest.version == 2) {
                alter(entry);
            }
        }
        fetched
    };
    refused(
        "a flipped bit in the record",
        altered(&|entry| entry.signed.body[20] ^= 1),
    );
    refused(
        "another signature",
        altered(&|entry| {
            entry.signed.signature = version(&other).signed.signature.clone();
        }),
    );
    refused(
        "another key's wrap",
        altered(&|entry| {
            let parts = entry.parts.as_mut().unwrap();
            parts.site_wrap = version(&other).parts.as_ref().unwrap().site_wrap.clone();
        }),
    );
    refused(
        "another key's version under this key's id",
        altered(&|entry| {
            *entry = version(&other).clone();
        }),
    );
    refused("the old version alone", old);
    // The honest answer is taken, so that what was refused before was refused for what it was.
    peer.says(good);
    let signed = shop.sign("a", b"x");
    assert!(signed.is_ok(), "{signed:?}");
}

#[test]
fn m12_a_site_that_was_thrown_out_gets_nothing_more() {
    let world = world()
        .class(Class::new("all", &["eu", "us"]))
        .site("fra", "eu")
        .site("nyc", "us")
        .start();
    world.create_key("orders", "ec-p256", "sign", "all");
    world.grant(&spiffe("client", "shop"), "orders", &["sign"]);
    world.settle();
    world.admin(&["kms", "site", "evict", "nyc", "--yes"]);
    world.settle_at(&["fra"]);
    // It is told so, ends serving, and its peers give it nothing.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut shop = world.client("shop", "nyc");
    while shop.sign("orders", b"x").is_ok() {
        assert!(std::time::Instant::now() < deadline, "it still serves");
        thread::sleep(std::time::Duration::from_millis(50));
    }
    let fetch = Fetch {
        key: named("orders"),
        caller: spiffe("client", "shop").parse().unwrap(),
        operation: Operation::Sign,
    };
    let asked = Kms::connect(world.site("fra").address, &world.site("nyc").pair)
        .try_ask(&Request::Fetch(fetch));
    let wraps = match asked {
        Ok(Reply::Fetched(fetched)) => fetched
            .entries
            .iter()
            .filter_map(|entry| entry.parts.as_ref())
            .filter(|parts| !parts.site_wrap.is_empty())
            .count(),
        _ => 0,
    };
    assert_eq!(wraps, 0);
    // A key that is made from now on is under a key-encryption key that it never had.
    world.admin(&["kms", "class", "rotate", "all"]);
    let fra = world.site("fra");
    let response = fra.enroll(&world, &["all"]);
    world.register(fra, Some(&response));
    world.admin(&["kms", "class", "rewrap", "all"]);
    world.settle_at(&["fra"]);
    let signed = world.client("shop", "fra").sign("orders", b"x");
    assert!(signed.is_ok(), "{signed:?}");
    let shown = world.admin(&["kms", "key", "show", "orders"]).to_string();
    assert!(shown.contains("\"epoch\":2"), "{shown}");
}

#[test]
fn m12_a_site_that_was_thrown_out_keeps_no_connection() {
    let mut world = world()
        .class(Class::new("all", &["eu", "us"]))
        .site("fra", "eu")
        .site("nyc", "us")
        .start();
    world.site_mut("nyc").kill();
    // What was nyc's signer asks once, and then says nothing more.
    let pair = world.site("nyc").pair.clone();
    let mut peer = Kms::connect(world.site("fra").address, &pair);
    assert!(peer.status().is_some());
    world.admin(&["kms", "site", "evict", "nyc", "--yes"]);
    let fra = world.site("fra").running();
    fra.wait_for_text("the site was thrown out: its connection ends");
    assert!(peer.try_ask(&Request::Status).is_err());
}
