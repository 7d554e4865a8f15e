//! Who is let in: every role at both ends, and every certificate that must not pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{
    Ca, PATIENCE, PROXY, SIGNER, Server, dns_name, identity, loopback, refusal, start, uri_name,
};
use keyhaven_service::{
    Credentials, ListenError, Listener, ListenerConfig, PeerIdentityError, peer_identity,
};
use keyhaven_types::Role;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

#[tokio::test]
async fn only_a_proxy_may_call_and_only_the_named_signer_may_answer() {
    let ca = Ca::new();
    let roles = ["proxy/a", "signer/main", "signer/other", "admin/a"];
    for server_path in roles {
        let server =
            Server::start(ca.credentials(&format!("spiffe://keyhaven.test/{server_path}"))).await;
        for client_path in roles {
            let client =
                server.client(ca.credentials(&format!("spiffe://keyhaven.test/{client_path}")));
            if (server_path, client_path) == ("signer/main", "proxy/a") {
                assert!(client.healthy(PATIENCE).await, "{:?}", client.last_error());
                let reply = client.call(start("c"), PATIENCE).await;
                assert!(reply.is_ok(), "{reply:?}");
                continue;
            }
            let why = refusal(&client).await;
            let expected = if server_path == "signer/main" {
                "it refuses our certificate"
            } else {
                "answers where spiffe://keyhaven.test/signer/main is expected"
            };
            assert!(why.contains(expected), "{server_path} {client_path}: {why}");
            assert!(client.pin().is_none());
        }
        let callers = server.script.callers.lock().unwrap();
        assert!(
            callers
                .iter()
                .all(|caller| caller.identity.role() == Role::Proxy)
        );
    }
}

#[tokio::test]
async fn another_one_than_expected_is_corrected_where_its_address_stands() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials("spiffe://keyhaven.test/signer/other")).await;
    for (expected, told) in [
        (
            SIGNER,
            "correct its address or identity in our configuration or, of a site, in `signer-admin kms site list`",
        ),
        (
            "spiffe://keyhaven.test/central/main",
            "correct its address or identity in our configuration",
        ),
    ] {
        let client = server.client_with(ca.credentials(PROXY), |config| {
            config.identity = identity(expected);
        });
        let why = refusal(&client).await;
        assert!(why.ends_with(told), "{why}");
    }
}

#[tokio::test]
async fn a_listener_may_let_other_roles_in() {
    let ca = Ca::new();
    let server = Server::with(ca.credentials(SIGNER), Default::default(), |config| {
        config.roles = vec![Role::Admin];
    })
    .await;
    let admin = server.client(ca.credentials("spiffe://keyhaven.test/admin/ops"));
    assert!(admin.healthy(PATIENCE).await);
    let proxy = server.client(ca.credentials(PROXY));
    assert!(refusal(&proxy).await.contains("refuses our certificate"));
}

#[tokio::test]
async fn expired_certificates_are_refused_by_either_end() {
    let ca = Ca::new();
    let stale = ca.expired(PROXY);
    assert!(
        stale.warnings()[0].contains("others will refuse"),
        "{:?}",
        stale.warnings()
    );
    let server = Server::start(ca.credentials(SIGNER)).await;
    let why = refusal(&server.client(stale)).await;
    assert!(
        why.contains("it says that our certificate has expired"),
        "{why}"
    );

    let server = Server::start(ca.expired(SIGNER)).await;
    let why = refusal(&server.client(ca.credentials(PROXY))).await;
    assert!(why.contains("its certificate has expired"), "{why}");
}

#[tokio::test]
async fn certificates_of_another_ca_are_refused_by_either_end() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let foreign = |uri: &str, trusted: &Ca| {
        let (chain, key) = theirs.issue(&[uri_name(uri)], |_| {});
        Credentials::load(&chain, &key, &trusted.path()).unwrap()
    };
    let server = Server::start(ours.credentials(SIGNER)).await;
    let why = refusal(&server.client(foreign(PROXY, &ours))).await;
    assert!(why.contains("our certificate"), "{why}");

    let server = Server::start(foreign(SIGNER, &ours)).await;
    let why = refusal(&server.client(ours.credentials(PROXY))).await;
    assert!(why.contains("does not come from the CA"), "{why}");
}

#[test]
fn an_identity_is_exactly_one_spiffe_uri() {
    let ca = Ca::new();
    let found = |names: &[rcgen::SanType]| {
        let (chain, _) = ca.issue(names, |_| {});
        let leaf = CertificateDer::from_pem_file(chain).unwrap();
        peer_identity(&[leaf])
    };
    assert_eq!(found(&[uri_name(PROXY)]), Ok(identity(PROXY)));
    assert_eq!(
        found(&[dns_name("proxy.test"), uri_name(PROXY)]),
        Ok(identity(PROXY))
    );
    assert_eq!(
        found(&[dns_name("proxy.test")]),
        Err(PeerIdentityError::Nameless)
    );
    assert_eq!(found(&[]), Err(PeerIdentityError::Nameless));
    let two = found(&[uri_name(PROXY), uri_name("https://x.test/")]);
    assert_eq!(two, Err(PeerIdentityError::Ambiguous { uris: 2 }));
    let twice = found(&[uri_name(PROXY), uri_name(PROXY)]);
    assert_eq!(twice, Err(PeerIdentityError::Ambiguous { uris: 2 }));
    let web = found(&[uri_name("https://keyhaven.test/proxy/a")]);
    assert!(matches!(web, Err(PeerIdentityError::NotAnIdentity(_))));
    assert_eq!(peer_identity(&[]), Err(PeerIdentityError::NoCertificate));
    let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    assert_eq!(
        peer_identity(&[garbage]),
        Err(PeerIdentityError::Unreadable)
    );
}

#[test]
fn credentials_say_which_file_is_wrong() {
    let ca = Ca::new();
    let (chain, key) = ca.issue(&[uri_name(PROXY)], |_| {});
    let (other_chain, _) = ca.issue(&[uri_name(PROXY)], |_| {});
    let (dns_chain, dns_key) = ca.issue(&[dns_name("a.test")], |_| {});
    let told = |result: Result<Credentials, keyhaven_service::CredentialsError>| {
        let error = result.unwrap_err();
        assert!(!error.remedy().is_empty());
        error.to_string()
    };
    assert!(told(Credentials::load(&chain, &key, &key)).contains("CA file"));
    assert!(told(Credentials::load(&key, &key, &ca.path())).contains("no PEM certificate"));
    assert!(told(Credentials::load(&chain, &chain, &ca.path())).contains("private key"));
    assert!(told(Credentials::load(&other_chain, &key, &ca.path())).contains("does not serve"));
    assert!(
        told(Credentials::load(&dns_chain, &dns_key, &ca.path())).contains("names no identity")
    );
    let missing = ca.folder.path().join("none.pem");
    assert!(told(Credentials::load(&missing, &key, &ca.path())).contains("none.pem"));

    assert!(
        Credentials::load(&chain, &key, &ca.path())
            .unwrap()
            .warnings()
            .is_empty()
    );
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = Credentials::load(&chain, &key, &ca.path()).unwrap();
    assert!(
        open.warnings()[0].contains("chmod 600"),
        "{:?}",
        open.warnings()
    );
}

#[tokio::test]
async fn an_identity_is_not_believed_longer_than_its_certificate() {
    let ca = Ca::new();
    let short = |uri: &str| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let (chain, key) = ca.issue(&[uri_name(uri)], |params| {
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(3);
        });
        Credentials::load(&chain, &key, &ca.path()).unwrap()
    };
    let seen = async |signer, proxy, told| {
        let server = Server::start(signer).await;
        let client = server.client(proxy);
        assert!(client.healthy(PATIENCE).await, "{:?}", client.last_error());
        common::until(told, || {
            client.pin().is_none() && client.last_error().is_some_and(|why| why.contains(told))
        })
        .await;
    };
    tokio::join!(
        seen(
            ca.credentials(SIGNER),
            short(PROXY),
            "our certificate has expired"
        ),
        seen(
            short(SIGNER),
            ca.credentials(PROXY),
            "its certificate has expired"
        ),
    );
}

#[tokio::test]
async fn an_address_in_use_is_a_clear_error() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let config = ListenerConfig::new(
        loopback(server.address.port()),
        ca.credentials(SIGNER),
        vec![Role::Proxy],
    );
    let error = Listener::bind(config).await.err().unwrap();
    assert!(matches!(error, ListenError::Bind { .. }));
    assert!(
        error.to_string().contains("is another process there"),
        "{error}"
    );
}
