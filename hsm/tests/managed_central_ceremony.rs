//! The ceremony: what it makes and leaves, what it refuses, and which modules cannot be central whatever is done.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;

use cryptoki::{
    object::{Attribute, KeyType, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};
use keyhaven_hsm::{
    Error, Workers,
    managed::{CentralToken, CeremonyError},
};
use keyhaven_softhsm_test::{ModuleKind, TestToken, fresh_token};
use keyhaven_types::{KekId, KeyKind, Purpose};
use managed_kit::{
    Site, begin, begin_with, has, is_in_files, kek_for, numbers, open, open_token, session, set_up,
    spec,
};

#[test]
fn managed_a_second_ceremony_finds_what_the_first_has_made() {
    let test = fresh_token!();
    let mut ceremony = begin(&test).unwrap();
    let spki = ceremony.make_central().unwrap();
    assert_eq!(ceremony.pool().unwrap(), []);
    let pool = ceremony.make_pool(Purpose::Data, 3).unwrap();
    assert_eq!(ceremony.make_central().unwrap(), spki);
    drop(ceremony);
    let mut ceremony = begin(&test).unwrap();
    assert_eq!(ceremony.make_central().unwrap(), spki);
    let mut found = ceremony.pool().unwrap();
    found.sort_by_key(|kek| pool.iter().position(|known| known.id == kek.id));
    assert_eq!(found, pool);
    for odd in [0, 257] {
        let refused = ceremony.make_pool(Purpose::Data, odd).unwrap_err();
        assert!(
            matches!(refused, CeremonyError::PoolSize { .. }),
            "{refused}"
        );
    }
    drop(ceremony);
    assert_eq!(open(&test).keks().len(), 3);
}

/// Run by the next test in a process of its own, on that test's token.
#[test]
fn managed_a_ceremony_adds_to_the_pool() {
    let test = fresh_token!();
    let mut ceremony = begin(&test).unwrap();
    ceremony.make_central().unwrap();
    let before = ceremony.pool().unwrap().len();
    ceremony.make_pool(Purpose::Mac, 1).unwrap();
    assert_eq!(ceremony.pool().unwrap().len(), before + 1);
}

#[test]
fn managed_what_a_later_ceremony_adds_is_found_while_central_runs() {
    let test = fresh_token!();
    set_up(&test, 1);
    let (central, stale) = (open(&test), open(&test));
    let known = central.keks();
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "managed_a_ceremony_adds_to_the_pool"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let workers = Workers::start(1, 8).unwrap();
    let found = common::on_worker(&workers, move |worker| {
        central.health(worker).unwrap();
        central.refresh(worker).unwrap()
    });
    let added: Vec<_> = found.iter().filter(|kek| !known.contains(kek)).collect();
    let [added] = added[..] else {
        panic!("{added:?}");
    };
    assert_eq!(found.len(), known.len() + 1);
    // One that has not looked since finds it by itself.
    let (id, spec) = (added.id, spec(KeyKind::Hmac, Purpose::Mac));
    assert_eq!(stale.keks(), known);
    common::on_worker(&workers, move |worker| stale.generate(worker, &spec, id)).unwrap();
}

#[test]
fn managed_every_key_is_private_locked_and_trusted_and_nothing_else_is_left() {
    let test = fresh_token!();
    let keks = set_up(&test, 2);
    let session = session(&test);
    let pin = AuthPin::new(test.pin().into());
    session.login(UserType::User, Some(&pin)).unwrap();
    let trusted = session.find_objects(&[Attribute::Trusted(true)]).unwrap();
    assert_eq!(trusted.len(), keks.len() + Purpose::ALL.len());
    for key in trusted {
        for flag in [
            Attribute::Private(true),
            Attribute::Token(true),
            Attribute::Modifiable(false),
            Attribute::Sensitive(true),
            Attribute::AlwaysSensitive(true),
            Attribute::Decrypt(false),
            Attribute::Encrypt(false),
        ] {
            assert!(has(&session, key, &flag), "{flag:?}");
        }
    }
    let all = session.find_objects(&[]).unwrap();
    // And the pair that signs.
    assert_eq!(all.len(), keks.len() + Purpose::ALL.len() + 2);
}

#[test]
fn managed_keys_are_not_in_the_tokens_files_in_clear() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    let site = Site::new();
    let ids: Vec<_> = keks.iter().map(|kek| kek.id).collect();
    let mut ceremony = begin(&test).unwrap();
    let wrapped = ceremony.wrap_for_site(&site.spki(), &ids).unwrap();
    drop(ceremony);
    for (id, wrapped) in wrapped {
        let key = site.receive(&wrapped);
        assert_eq!(key.len(), 32);
        assert!(!is_in_files(test.dir(), &key), "{id}");
    }
    // A key that is public would be seen.
    let known = *b"a key that is public in the file";
    as_officer(&test, |session| {
        trusted_aes(session, "keyhaven-class-x", &known)
    });
    assert!(is_in_files(test.dir(), &known));
}

#[test]
fn managed_what_a_broken_ceremony_has_left_is_destroyed_and_what_others_trust_is_told() {
    let test = fresh_token!();
    as_officer(&test, |session| {
        trusted_aes(session, "keyhaven-root-data", &[1; 32]);
        trusted_aes(session, "somebody else's", &[2; 32]);
    });
    let mut ceremony = begin(&test).unwrap();
    assert_eq!(ceremony.leftovers().unwrap(), ["somebody else's"]);
    ceremony.make_central().unwrap();
    drop(ceremony);
    open(&test);
}

#[test]
fn managed_a_transport_key_is_trusted_for_one_act() {
    let test = fresh_token!();
    let keks = set_up(&test, 1);
    let mut ceremony = begin(&test).unwrap();
    let site = Site::new();
    let id = kek_for(&keks, Purpose::Mac).id;
    ceremony.wrap_for_site(&site.spki(), &[id]).unwrap();
    let unknown = ceremony
        .wrap_for_site(&site.spki(), &[id, KekId([0; 16])])
        .unwrap_err();
    assert!(matches!(unknown, CeremonyError::NoSuchKek(_)), "{unknown}");
    assert_eq!(ceremony.leftovers().unwrap(), Vec::<String>::new());
    let (modulus, _) = numbers(&site);
    let found = session(&test).find_objects(&[Attribute::Modulus(modulus)]);
    assert_eq!(found.unwrap(), []);
    for bad in [&[][..], b"no key", &site.spki()[1..]] {
        let refused = ceremony.wrap_for_site(bad, &[id]).unwrap_err();
        assert!(
            matches!(refused, CeremonyError::SitePublic { .. }),
            "{refused}"
        );
    }
}

#[test]
fn managed_a_wrong_officers_pin_is_tried_once() {
    let test = fresh_token!();
    for _ in 0..20 {
        let refused = begin_with(&test, "not it").unwrap_err();
        assert!(
            matches!(refused, CeremonyError::SoPinRefused { .. }),
            "{refused}"
        );
    }
    // The user's PIN, told to be the officer's, is another thing than the user's.
    let refused = begin_with(&test, test.pin()).unwrap_err();
    assert!(
        matches!(refused, CeremonyError::SoPinRefused { .. }),
        "{refused}"
    );
    begin(&test).unwrap();
}

#[test]
fn managed_a_ceremony_has_the_token_to_itself() {
    let test = fresh_token!();
    let token = open_token(&test);
    let refused = begin(&test).unwrap_err();
    assert!(
        matches!(refused, CeremonyError::Occupied { .. }),
        "{refused}"
    );
    assert!(token.is_alive());
    drop(token);
    begin(&test).unwrap();
}

#[test]
fn managed_central_does_not_start_without_its_keys_or_with_others_by_their_names() {
    let test = fresh_token!();
    let refused = CentralToken::open(&open_token(&test)).unwrap_err();
    assert!(matches!(refused, Error::KekNotFound { .. }), "{refused}");
    assert!(
        refused.to_string().contains("keyhaven-central"),
        "{refused}"
    );

    // A root key that a user could have made, were it not for the officer.
    let mut ceremony = begin(&test).unwrap();
    ceremony.make_central().unwrap();
    drop(ceremony);
    open(&test);
    let root = |session: &Session| {
        let label = Attribute::Label(b"keyhaven-root-data".to_vec());
        managed_kit::only(session, &[label])
    };
    as_user(&test, |session| {
        session.destroy_object(root(session)).unwrap()
    });
    as_officer(&test, |session| {
        trusted_aes(session, "keyhaven-root-data", &[3; 32]);
    });
    as_user(&test, |session| {
        let private = [Attribute::Private(true), Attribute::Modifiable(false)];
        let public = root(session);
        session.copy_object(public, &private).unwrap();
        session.destroy_object(public).unwrap();
    });
    let refused = CentralToken::open(&open_token(&test)).unwrap_err();
    assert!(matches!(refused, Error::UnsupportedKey { .. }), "{refused}");
    let refused = begin(&test).unwrap().make_central().unwrap_err();
    assert!(
        matches!(refused, CeremonyError::Token(Error::UnsupportedKey { .. })),
        "{refused}"
    );
}

#[test]
fn managed_a_second_signing_key_is_not_chosen_from() {
    let test = fresh_token!();
    set_up(&test, 1);
    test.generate_key("EC:prime256v1", "keyhaven-central", "0a")
        .unwrap();
    let refused = CentralToken::open(&open_token(&test)).unwrap_err();
    assert!(matches!(refused, Error::UnsupportedKey { .. }), "{refused}");
}

/// The failed tests of a module as central.
fn refused(test: &TestToken) -> Vec<String> {
    match CentralToken::open(&open_token(test)).unwrap_err() {
        Error::RoleRefused { role, failed, .. } => {
            assert_eq!(role, "central");
            failed
        }
        other => panic!("{other}"),
    }
}

fn names(failed: &[String], claim: &str) -> bool {
    failed.iter().any(|one| one.starts_with(claim))
}

#[test]
fn managed_kryoptic_is_refused_as_central_since_users_trust_their_own_keys() {
    let test = fresh_token!(kind: ModuleKind::Kryoptic);
    let failed = refused(&test);
    assert!(
        names(&failed, "keep CKA_TRUSTED for the security officer"),
        "{failed:?}"
    );
    assert!(!names(&failed, "heed CKA_EXTRACTABLE"), "{failed:?}");
}

#[test]
fn managed_nss_is_refused_as_central_for_all_that_it_ignores() {
    let test = fresh_token!(kind: ModuleKind::Nss);
    let failed = refused(&test);
    for claim in [
        "keep CKA_TRUSTED for the security officer",
        "heed CKA_WRAP_WITH_TRUSTED",
        "heed CKA_EXTRACTABLE",
        "heed CKA_UNWRAP_TEMPLATE",
        "heed CKA_WRAP_TEMPLATE",
        "heed CKA_ALLOWED_MECHANISMS",
        "heed CKA_MODIFIABLE",
    ] {
        assert!(names(&failed, claim), "{claim}: {failed:?}");
    }
}

fn as_officer<T>(test: &TestToken, act: impl FnOnce(&Session) -> T) -> T {
    logged_in(test, UserType::So, test.so_pin(), act)
}

fn as_user<T>(test: &TestToken, act: impl FnOnce(&Session) -> T) -> T {
    logged_in(test, UserType::User, test.pin(), act)
}

fn logged_in<T>(test: &TestToken, who: UserType, pin: &str, act: impl FnOnce(&Session) -> T) -> T {
    // Whoever has not started the module yet does it here.
    let module = keyhaven_hsm::Module::load(Some(test.module())).unwrap();
    module.tokens().unwrap();
    let session = session(test);
    session.login(who, Some(&AuthPin::new(pin.into()))).unwrap();
    let done = act(&session);
    session.logout().unwrap();
    done
}

/// A trusted key with a known value, public and in the token.
fn trusted_aes(session: &Session, label: &str, value: &[u8; 32]) {
    session
        .create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Trusted(true),
            Attribute::Wrap(true),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Value(value.to_vec()),
        ])
        .unwrap();
}
