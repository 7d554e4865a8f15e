//! From central's token to a site's, both of SoftHSM2: what a ceremony has wrapped for the site is all that the site
//! needs to use every key that central makes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod managed_kit;

use common::on_worker;
use keyhaven_hsm::{
    Error, Worker, Workers,
    managed::{
        CentralToken, Enrolment, KekName, ManagedKey, PublicPart, SiteToken, Spec, oaep_encrypt,
        verifies,
    },
};
use keyhaven_softhsm_test::{TestToken, fresh_token};
use keyhaven_types::{KekId, KeyKind, Purpose, SignatureScheme};
use managed_kit::{begin, open, set_up, spec};

/// Two tokens in one process: central's, and a site's that was enrolled with a key of each purpose.
fn enrolled(test: &TestToken) -> (CentralToken, SiteToken, Vec<KekName>) {
    test.init("site").unwrap();
    let keks = set_up(test, 1);
    let site = common::open_with(test, "pkcs11:token=site", test.pin()).unwrap();
    let enrolment = Enrolment::begin(&site).unwrap();
    let mut ceremony = begin(test).unwrap();
    let ids: Vec<KekId> = keks.iter().map(|kek| kek.id).collect();
    let wrapped = ceremony.wrap_for_site(enrolment.spki(), &ids).unwrap();
    drop(ceremony);
    let delivery: Vec<_> = keks
        .iter()
        .zip(wrapped)
        .map(|(kek, (id, wrapped))| {
            assert_eq!(kek.id, id);
            let name = KekName {
                class: "web".parse().unwrap(),
                purpose: kek.purpose,
                epoch: 1,
                id,
            };
            (name, wrapped)
        })
        .collect();
    enrolment.receive(&delivery).unwrap();
    let names = delivery.into_iter().map(|(name, _)| name).collect();
    let central = open(test);
    (central, SiteToken::open(&site).unwrap(), names)
}

/// Whether the site's key does what it is for, with what the record says of it.
fn works(worker: &Worker, site: &SiteToken, key: &ManagedKey) -> bool {
    let message = b"a message".as_slice();
    let scheme = || {
        key.spec()
            .kind
            .algorithm()
            .map(|kind| SignatureScheme::of(kind)[0])
    };
    match (key.spec().purpose, key.public()) {
        (Purpose::Sign, PublicPart::Spki(spki)) => {
            let scheme = scheme().unwrap();
            let signature = worker.managed_sign(key, scheme, message).unwrap();
            verifies(spki, scheme, message, &signature)
        }
        (Purpose::Handshake, PublicPart::Spki(spki)) => {
            let (private, scheme) = (key.private_key().unwrap(), scheme().unwrap());
            let signature = worker.sign(&private, scheme, message).unwrap();
            verifies(spki, scheme, message, &signature)
        }
        (Purpose::Decrypt, PublicPart::Spki(spki)) => {
            let sealed = oaep_encrypt(spki, site.oaep_hash().unwrap(), message).unwrap();
            worker.managed_oaep_decrypt(key, &sealed).unwrap()[..] == *message
        }
        (Purpose::Data, _) => {
            let sealed = worker.managed_encrypt(key, message, b"aad").unwrap();
            worker.managed_decrypt(key, &sealed, b"aad").unwrap()[..] == *message
        }
        (Purpose::Wrap, _) => {
            let wrapped = worker.managed_wrap(key).unwrap();
            let sealed = worker
                .managed_unwrap_encrypt(key, &wrapped, message, b"")
                .unwrap();
            let opened = worker.managed_unwrap_decrypt(key, &wrapped, &sealed, b"");
            opened.unwrap()[..] == *message
        }
        (Purpose::Mac, _) => {
            let mac = worker.managed_mac(key, message).unwrap();
            mac == worker.managed_mac(key, message).unwrap() && mac != [0; 32]
        }
        // Used by signers for themselves, in another way.
        (Purpose::Tickets, _) => true,
        other => panic!("{other:?}"),
    }
}

fn specs() -> Vec<Spec> {
    let kinds = [
        KeyKind::Rsa2048,
        KeyKind::EcP256,
        KeyKind::EcP384,
        KeyKind::Aes256,
        KeyKind::Hmac,
    ];
    let all = kinds.into_iter().flat_map(|kind| {
        let purposes = Purpose::ALL.iter();
        purposes.map(move |&purpose| spec(kind, purpose))
    });
    all.filter(|spec| spec.check().is_ok()).collect()
}

#[test]
fn managed_every_key_of_centrals_is_used_at_a_site() {
    let test = fresh_token!();
    let (central, site, names) = enrolled(&test);
    let workers = Workers::start(1, 8).unwrap();
    let at_site = site.token().clone();
    on_worker(&workers, move |worker| {
        for spec in specs() {
            let kek = names.iter().find(|name| name.purpose == spec.purpose);
            let kek = kek.unwrap().id;
            let made = central.generate(worker, &spec, kek).unwrap();
            let key = site.unwrap(worker, &spec, &made.public, kek, &made.site_wrap);
            assert!(works(worker, &site, &key.unwrap()), "{spec:?}");

            let other = central.generate(worker, &spec, kek).unwrap();
            let refused = site.unwrap(worker, &spec, &made.public, kek, &other.site_wrap);
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::Substituted { .. }), "{refused}");
            let refused = site.unwrap(worker, &spec, &made.public, kek, &made.root_wrap);
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::Blob { .. }), "{refused}");
        }
    });
    drop(workers);
    assert_eq!(at_site.live_ephemerals(), 0);
    assert!(at_site.is_alive());
}
