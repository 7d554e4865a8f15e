//! Clients of another make at the signer's door: what is missing or wrong is refused, and told apart in the log.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, atomic::Ordering};

use common::{Ca, PROXY, SIGNER, Server, dns_name, uri_name};
use rustls::{
    ClientConfig, ClientConnection,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;

/// A client of another make: it trusts anybody, so that what it meets is the server's own judgement.
#[derive(Debug)]
struct TrustsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

struct Odd {
    certificate: Option<(std::path::PathBuf, std::path::PathBuf)>,
    alpn: &'static [&'static [u8]],
    version: &'static rustls::SupportedProtocolVersion,
}

impl Odd {
    /// Connects and reads; gives how it ended. A good server says nothing unasked, so any end is a refusal.
    async fn refused_by(self, server: &Server) -> String {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)));
        let mut config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(chain).unwrap()],
                    PrivateKeyDer::from_pem_file(key).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("signer.test").unwrap();
        let outcome = async {
            let mut stream = TlsConnector::from(Arc::new(config))
                .connect(name, tcp)
                .await?;
            let mut byte = [0];
            stream
                .read(&mut byte)
                .await
                .map(|bytes| format!("end after {bytes} bytes"))
        };
        let outcome = common::in_time("an end", outcome).await;
        outcome.unwrap_or_else(|error| error.to_string())
    }
}

#[tokio::test]
async fn clients_that_are_not_ours_get_no_channel() {
    common::logged();
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let good = || Some(ca.issue(&[uri_name(PROXY)], |_| {}));
    let odd = |certificate, alpn, version| Odd {
        certificate,
        alpn,
        version,
    };
    let ours: &[&[u8]] = &[keyhaven_wire::ALPN];
    let tls13 = &rustls::version::TLS13;

    let none = odd(None, ours, tls13).refused_by(&server).await;
    assert!(none.contains("CertificateRequired"), "{none}");
    let old = odd(good(), ours, &rustls::version::TLS12)
        .refused_by(&server)
        .await;
    assert!(old.contains("ProtocolVersion"), "{old}");
    let web = odd(good(), &[b"h2"], tls13).refused_by(&server).await;
    assert!(web.contains("NoApplicationProtocol"), "{web}");
    let mute = odd(good(), &[], tls13).refused_by(&server).await;
    assert!(
        mute.contains("close_notify") || mute.contains("end after 0"),
        "{mute}"
    );
    let two = ca.issue(
        &[
            uri_name(PROXY),
            uri_name("spiffe://keyhaven.test/signer/main"),
        ],
        |_| {},
    );
    let two = odd(Some(two), ours, tls13).refused_by(&server).await;
    assert!(two.contains("ertificate"), "{two}");
    let dns = ca.issue(&[dns_name("edge-1.keyhaven.test")], |_| {});
    let dns = odd(Some(dns), ours, tls13).refused_by(&server).await;
    assert!(dns.contains("ertificate"), "{dns}");
    assert_eq!(server.script.callers.lock().unwrap().len(), 0);
    assert_eq!(server.script.closed.load(Ordering::SeqCst), 0);
    let stale = ca.issue(&[uri_name(PROXY)], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    odd(Some(stale), ours, tls13).refused_by(&server).await;
    let other_ca = Ca::new();
    let foreign = other_ca.issue(&[uri_name(PROXY)], |_| {});
    odd(Some(foreign), ours, tls13).refused_by(&server).await;

    // The signer's log tells each of them apart, with what to do.
    for told in [
        "it sent no certificate; both ends need one",
        "does not speak TLS 1.3",
        "it does not speak keyhaven/1",
        "the certificate names 2 URIs",
        "the certificate names no SPIFFE id",
        "its certificate has expired; issue a new one",
        "its certificate does not come from the CA in [identity] ca",
    ] {
        common::until(told, || common::logged().contains(told)).await;
    }
}

#[tokio::test]
async fn nothing_is_resumed() {
    let ca = Ca::new();
    let server = Server::start(ca.credentials(SIGNER)).await;
    let (chain, key) = ca.issue(&[uri_name(PROXY)], |_| {});
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody(provider)))
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(chain).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![keyhaven_wire::ALPN.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..2 {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("signer.test").unwrap();
        let mut stream = connector.connect(name, tcp).await.unwrap();
        let mut frame = Vec::new();
        keyhaven_wire::encode(1, &keyhaven_wire::Request::Ping, &mut frame).unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &frame)
            .await
            .unwrap();
        common::in_time("a pong", stream.read_u8()).await.unwrap();
        let tls: &ClientConnection = stream.get_ref().1;
        assert_eq!(tls.tls13_tickets_received(), 0);
        assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
