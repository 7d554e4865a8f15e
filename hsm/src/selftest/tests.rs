//! The self-tests themselves: an attack must be able to succeed, and what is not there is not claimed.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, KeyType, ObjectClass},
    session::UserType,
    types::AuthPin,
};

use keyhaven_softhsm_test::ModuleKind;

use super::*;
use crate::{
    Module, TokenInfo,
    quirks::{Ems, Guards, KeyBlock, Wrappable, X25519},
    slot,
};

fn open(test: &keyhaven_softhsm_test::TestToken) -> (OpenSession, TokenInfo) {
    let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
    let (slot, info) = slot::find_slot(&module, &test.uri().parse().unwrap()).unwrap();
    let session = OpenSession::open(&module, slot).unwrap();
    // Keys of a vault are private.
    let pin = AuthPin::new(test.pin().into());
    session.login(UserType::User, Some(&pin)).unwrap();
    (session, info)
}

/// The attack must be able to succeed, or its failure proves nothing.
#[test]
fn a_readable_secret_is_noticed() {
    let test = keyhaven_softhsm_test::fresh_token!();
    let (session, info) = open(&test);
    for (sensitive, extractable) in [(false, true), (true, true), (false, false), (true, false)] {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::ValueLen(32.into()),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Sensitive(sensitive),
            Attribute::Extractable(extractable),
        ];
        let object = session
            .generate_key(&Mechanism::GenericSecretKeyGen, &template)
            .unwrap();
        let mut run = Run {
            session: &session,
            quirks: Quirks::of(&info),
            ways: Ways::first_of(Quirks::of(&info)),
            profile: nothing(),
        };
        let hidden = run.attack("attack".to_owned(), object);
        assert_eq!(
            hidden,
            sensitive && !extractable,
            "{:?}",
            run.profile.checks
        );
        // PKCS#11: refused when it is sensitive or not extractable.
        assert_eq!(
            attack::is_readable(&session, object),
            !sensitive && extractable
        );
    }
}

/// A module may keep CKA_EXTRACTABLE as it was without a word: then the next way is tried, and nothing is held against
/// those that work.
#[test]
fn flags_that_are_stricter_than_asked_spoil_their_own_way_alone() {
    let test = keyhaven_softhsm_test::fresh_token!();
    let (session, info) = open(&test);
    let ways = Ways::first_of(Quirks::of(&info));
    assert_eq!(ways.wrappable, Wrappable::Extractable);
    let secret = |sensitive, extractable| {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::ValueLen(32.into()),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Sensitive(sensitive),
            Attribute::Extractable(extractable),
        ];
        let made = session.generate_key(&Mechanism::GenericSecretKeyGen, &template);
        made.map_err(|source| Error::token("a secret", source))
    };
    let keep = |sensitive, extractable| {
        let mut made = Made::new(&session, ways);
        let kept = made.keep("it", secret(sensitive, extractable), Kept::Wrappable);
        (kept.is_ok(), made.end().is_ok())
    };
    assert_eq!(keep(true, true), (true, true), "as asked");
    assert_eq!(keep(true, false), (false, true), "stricter");
    assert_eq!(keep(false, false), (false, true), "not readable either");
    assert_eq!(keep(false, true), (false, false), "readable");
}

#[test]
fn a_module_that_derives_in_the_host_proves_nothing() {
    let test = keyhaven_softhsm_test::fresh_token!();
    let (session, _) = open(&test);
    let info = TokenInfo {
        manufacturer: "Yubico (www.yubico.com)".to_owned(),
        model: "YubiHSM".to_owned(),
        ..TokenInfo::default()
    };
    let (profile, _) = run(&session, Quirks::of(&info));
    assert_eq!(
        (profile.tls12, profile.tls13),
        (CustodyLevel::Signature, CustodyLevel::Signature)
    );
    assert!(profile.groups.is_empty() && profile.checks.iter().any(|check| !check.passed));
}

/// A mechanism that is not there is a failed check and no claim.
#[test]
fn what_the_token_cannot_make_is_not_claimed() {
    let test = keyhaven_softhsm_test::fresh_token!();
    let (session, info) = open(&test);
    let (profile, ways) = run(&session, Quirks::of(&info));
    let short = (NamedGroup::Secp256r1, HashAlgorithm::Sha384);
    assert!(
        !profile.prf.contains(&short),
        "an HMAC that SoftHSM2 has not"
    );
    assert_eq!(profile.level12(short.0, short.1), CustodyLevel::Signature);
    assert_eq!(profile.tls13, CustodyLevel::Premaster);
    for group in NamedGroup::ALL {
        assert!(
            !ways.derives_from(group),
            "{group:?}: nothing is derived from"
        );
    }
}

/// A module that nobody has seen is asked in every way that there is.
fn a_stranger(test: &keyhaven_softhsm_test::TestToken) -> (Profile, Ways) {
    let (session, info) = open(test);
    let (known, known_ways) = run(&session, Quirks::of(&info));
    let (profile, ways) = run(&session, Quirks::of(&TokenInfo::default()));
    assert_eq!(ways.derives, known_ways.derives);
    for (found, known) in [
        (&profile.extract, &known.extract),
        (&profile.prf, &known.prf),
        (&profile.master13, &known.master13),
        (&profile.schedule13, &known.schedule13),
        (&profile.schedule12, &known.schedule12),
    ] {
        let mut found = found.clone();
        found.sort_by_key(|pair| known.iter().position(|other| other == pair));
        assert_eq!(&found, known);
    }
    (profile, ways)
}

#[test]
fn a_stranger_with_the_ways_of_softhsm_is_found_out() {
    let test = keyhaven_softhsm_test::fresh_token!();
    let (profile, ways) = a_stranger(&test);
    assert_eq!(ways.x25519, X25519::Edwards);
    assert_eq!(profile.tls13, CustodyLevel::Premaster);
}

#[test]
fn a_stranger_with_the_ways_of_nss_is_found_out() {
    let test = keyhaven_softhsm_test::fresh_token!(kind: ModuleKind::Nss);
    let (profile, ways) = a_stranger(&test);
    assert_eq!((ways.x25519, ways.ems), (X25519::Nss, Ems::Nss));
    assert_eq!(ways.key_block, KeyBlock::HmacPrf);
    assert_eq!(profile.tls12, CustodyLevel::Schedule);
    // It keeps CKA_EXTRACTABLE as it was, wraps all the same, and heeds no template.
    assert!(profile.vault, "{:#?}", profile.checks);
    assert_eq!(ways.wrappable, Wrappable::AsItIs);
    assert_eq!(ways.guards, Guards::UsagesAlone);
    assert!(!profile.vault_guarded);
}

#[test]
fn a_stranger_with_the_ways_of_kryoptic_is_found_out() {
    let test = keyhaven_softhsm_test::fresh_token!(kind: ModuleKind::Kryoptic);
    let (profile, ways) = a_stranger(&test);
    assert_eq!((ways.x25519, ways.ems), (X25519::Montgomery, Ems::Standard));
    assert_eq!(ways.key_block, KeyBlock::TlsKdf);
    assert_eq!(profile.tls12, CustodyLevel::Schedule);
    assert!(profile.vault && profile.vault_guarded);
}
