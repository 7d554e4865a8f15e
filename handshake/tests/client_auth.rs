//! Clients' certificates: asked for, judged, and passed on, on a real token against a rustls client.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use keyhaven_handshake::{Authorities, ClientAuth, Established, Step, StepResult};
use keyhaven_softhsm_test::fresh_token;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use support::{Bench, Offer, Setup, deliver, flight};

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A CA of clients.
struct ClientCa(CertifiedIssuer<'static, KeyPair>);

impl ClientCa {
    fn new() -> Self {
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        Self(CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap())
    }

    fn client(&self, serial: u64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        leaf.serial_number = Some(SerialNumber::from(serial));
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = leaf.signed_by(&key, &self.0).unwrap();
        (
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    }

    fn crl(&self, revoked: u64, valid_days: i64) -> CertificateRevocationListDer<'static> {
        let begins = rcgen::date_time_ymd(2020, 1, 1);
        let ends = begins + time_of(valid_days);
        CertificateRevocationListParams {
            this_update: begins,
            next_update: ends,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(revoked),
                revocation_time: begins,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.0)
        .unwrap()
        .into()
    }

    fn authorities(&self, crls: Vec<CertificateRevocationListDer<'static>>) -> Authorities {
        Authorities {
            roots: vec![self.0.der().clone()],
            crls,
        }
    }
}

fn time_of(days: i64) -> std::time::Duration {
    std::time::Duration::from_secs(u64::try_from(days * 86_400).unwrap())
}

/// Runs a handshake; the error is the alert that the client is refused with.
fn shake(bench: &Bench, offer: &Offer) -> Result<Established, u8> {
    let mut client = bench.client(offer);
    let Step {
        to_client, result, ..
    } = bench.handshake(&mut client);
    match result {
        StepResult::Established(established) => {
            assert_eq!(deliver(&mut client, &to_client), None);
            assert!(!client.is_handshaking());
            Ok(*established)
        }
        StepResult::Released(released) => {
            assert_eq!(deliver(&mut client, &to_client), None);
            Ok(released.established)
        }
        StepResult::Refused(refusal) => {
            assert!(deliver(&mut client, &to_client).is_some(), "it is told");
            Err(refusal.alert)
        }
        other => panic!("{other:?}"),
    }
}

fn with(identity: Option<&Identity>, version: &'static rustls::SupportedProtocolVersion) -> Offer {
    Offer {
        identity: identity.map(|(chain, key)| (chain.clone(), key.clone_key())),
        ..Offer::new(version)
    }
}

#[test]
fn a_certificate_is_asked_for_judged_and_passed_on() {
    let token = fresh_token!();
    let ca = ClientCa::new();
    let (client, stranger) = (ca.client(7), ClientCa::new().client(7));
    let setup = |client_auth| Setup {
        client_auth,
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup(ClientAuth::Required(ca.authorities(vec![]))));
    let optional = bench.sibling(&setup(ClientAuth::Optional(ca.authorities(vec![]))));
    let none = bench.sibling(&setup(ClientAuth::None));
    for version in [&TLS13, &TLS12] {
        for bench in [&bench, &optional] {
            let established = shake(bench, &with(Some(&client), version)).unwrap();
            assert_eq!(
                established.client_certificate.as_deref(),
                Some(client.0[0].as_ref())
            );
            assert_eq!(established.rekey.is_some(), established.is_tls13);
            assert!(
                shake(bench, &with(Some(&stranger), version)).is_err(),
                "another CA's"
            );
        }
        assert!(
            shake(&bench, &with(None, version)).is_err(),
            "it must have one"
        );
        let established = shake(&optional, &with(None, version)).unwrap();
        assert_eq!(established.client_certificate, None);
        let established = shake(&none, &with(Some(&client), version)).unwrap();
        assert_eq!(established.client_certificate, None, "it was not asked");
    }
    assert_eq!(bench.token.live_ephemerals(), 0);
}

#[test]
fn a_revoked_certificate_is_refused_and_so_is_an_old_list() {
    let token = fresh_token!();
    let ca = ClientCa::new();
    let (good, revoked) = (ca.client(7), ca.client(8));
    let setup = |crl| Setup {
        client_auth: ClientAuth::Required(ca.authorities(vec![crl])),
        ..Setup::default()
    };
    let bench = Bench::new(&token, &setup(ca.crl(8, 36_500)));
    let stale = bench.sibling(&setup(ca.crl(9, 10)));
    for version in [&TLS13, &TLS12] {
        assert!(shake(&bench, &with(Some(&good), version)).is_ok());
        assert!(shake(&bench, &with(Some(&revoked), version)).is_err());
        assert!(
            shake(&stale, &with(Some(&good), version)).is_err(),
            "nobody knows any more"
        );
    }
}

/// A client that is asked and says nothing more holds no object of the token for longer than its handshake.
#[test]
fn a_client_that_falls_silent_leaves_nothing() {
    let token = fresh_token!();
    let ca = ClientCa::new();
    let bench = Bench::new(
        &token,
        &Setup {
            client_auth: ClientAuth::Required(ca.authorities(vec![])),
            ..Setup::default()
        },
    );
    let mut client = bench.client(&Offer::new(&TLS13));
    let step = bench.start(flight(&mut client));
    let StepResult::More(handshake, expect) = step.result else {
        panic!("{:?}", step.result)
    };
    assert_eq!(expect, keyhaven_handshake::Expect::ClientFlight);
    assert_eq!(
        bench.token.live_ephemerals(),
        0,
        "at premaster nothing in the token is needed any more"
    );
    drop(handshake);
    bench.step_nothing();
    assert_eq!(bench.token.live_ephemerals(), 0);
}

/// At `schedule` three secrets must outlive the wait: the client's handshake secret and the two of the application.
#[test]
fn a_waiting_handshake_keeps_no_more_than_it_needs() {
    let token = fresh_token!(kind: keyhaven_softhsm_test::ModuleKind::Kryoptic);
    let ca = ClientCa::new();
    let client = ca.client(7);
    let bench = Bench::new(
        &token,
        &Setup {
            client_auth: ClientAuth::Required(ca.authorities(vec![])),
            ..Setup::default()
        },
    );
    let established = shake(&bench, &with(Some(&client), &TLS13)).unwrap();
    assert_eq!(
        established.custody.level,
        keyhaven_types::CustodyLevel::Schedule
    );
    drop(established);
    bench.step_nothing();
    let before = bench.token.live_ephemerals();
    let mut silent = bench.client(&Offer::new(&TLS13));
    let step = bench.start(flight(&mut silent));
    assert!(matches!(step.result, StepResult::More(..)));
    assert_eq!(bench.token.live_ephemerals(), before + 3);
    drop(step);
    bench.step_nothing();
    assert_eq!(bench.token.live_ephemerals(), before);
}
