//! TLS on our own channel: version 1.3, ALPN `keyhaven/1`, both ends with certificates of the private CA.
//!
//! Builds the two rustls configurations, checks what a handshake agreed on, and turns its failures into
//! sentences for an operator. One invariant: nothing is resumed, so every connection verifies the other end's
//! certificate now, and an evicted or expired one does not come back through a saved session.

use std::{error::Error as _, io, sync::Arc};

use keyhaven_types::{Identity, Role};
use keyhaven_wire::ALPN;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error, OtherError, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::CryptoProvider,
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    credentials::{Credentials, is_server},
    dial::record,
    identity::peer_identity,
};

/// The library behind the channel.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Our end as a server: only peers of `roles` pass.
pub(crate) fn server_config(
    credentials: &Credentials,
    roles: &[Role],
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = PeerIsCaller {
        chain: client_chain_verifier(credentials.roots())?,
        roles: roles.to_vec(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.key())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Our end as a client: only `expected` may answer.
pub(crate) fn client_config(
    credentials: &Credentials,
    expected: &Identity,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = PeerIs {
        chain: WebPkiServerVerifier::builder_with_provider(credentials.roots(), provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?,
        roots: credentials.roots(),
        expected: expected.clone(),
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.key())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    // The name on the channel is the SPIFFE id, so there is no host name to tell.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The name that rustls asks for; it is neither sent nor compared.
pub(crate) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Whether the other end, with a role of its own, would accept this chain now.
pub(crate) fn check_own(
    chain: &[CertificateDer<'_>],
    roots: &Arc<RootCertStore>,
    role: Role,
) -> Result<(), Error> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(Error::NoCertificatesPresented);
    };
    if is_server(role) {
        verify_server_chain(leaf, intermediates, roots, UnixTime::now(), &provider())
    } else {
        client_chain_verifier(roots.clone())?
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map(|_| ())
    }
}

/// What an operator should look at after a failed handshake, as a clause that follows a colon.
pub(crate) fn explain(error: &io::Error) -> &'static str {
    let Some(error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the other end closed the connection during the handshake"
            }
            _ => "the connection failed",
        };
    };
    match error {
        Error::InvalidCertificate(reason) => explain_certificate(reason),
        Error::NoCertificatesPresented => {
            "it sent no certificate; both ends need one from the private CA"
        }
        Error::AlertReceived(alert) => explain_alert(*alert),
        Error::PeerIncompatible(_) => "it does not speak TLS 1.3 as this channel needs it",
        Error::NoApplicationProtocol => "it does not speak keyhaven/1",
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "it does not speak TLS",
        _ => "the TLS handshake failed",
    }
}

fn explain_certificate(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired; issue a new one, or mend the clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; mend the clock"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate does not come from the CA in [identity] ca"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate's extended key usage does not fit: signers need serverAuth, proxies clientAuth"
        }
        _ => "its certificate is refused",
    }
}

fn explain_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateExpired => {
            "it says that our certificate has expired; issue a new one, or mend the clocks"
        }
        AlertDescription::UnknownCA => "our certificate does not come from the CA that it trusts",
        AlertDescription::CertificateRequired => "it got no certificate from us",
        AlertDescription::NoApplicationProtocol => "it does not speak keyhaven/1",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        _ => "it refuses our certificate or our handshake; its log says why",
    }
}

fn client_chain_verifier(roots: Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

fn verify_server_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf)?,
        roots,
        intermediates,
        now,
        provider.signature_verification_algorithms.all,
    )
}

/// Why a good chain is still not the one that is wanted here.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error(
        "{found} answers where {expected} is expected; correct its address or identity {}",
        record(.expected.role())
    )]
    Other { found: Identity, expected: Identity },
    #[error("{found} has no role that may call here")]
    Role { found: Identity },
}

fn refuse(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// Server side: a chain to the private CA, one identity, and a role that may call.
#[derive(Debug)]
struct PeerIsCaller {
    chain: Arc<dyn ClientCertVerifier>,
    roles: Vec<Role>,
}

impl ClientCertVerifier for PeerIsCaller {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let found = peer_identity(std::slice::from_ref(leaf)).map_err(refuse)?;
        if !self.roles.contains(&found.role()) {
            return Err(refuse(Stranger::Role { found }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Client side: a chain to the private CA and exactly the identity that was asked for.
#[derive(Debug)]
struct PeerIs {
    /// Checks signatures only; host names mean nothing on this channel.
    chain: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    expected: Identity,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PeerIs {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_chain(leaf, intermediates, &self.roots, now, &self.provider)?;
        let found = peer_identity(std::slice::from_ref(leaf)).map_err(refuse)?;
        if found != self.expected {
            return Err(refuse(Stranger::Other {
                found,
                expected: self.expected.clone(),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// An error with everything beneath it, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}

/// What went wrong in a handshake: the library's words, what lies beneath, and where to look.
pub(crate) fn describe(error: &io::Error) -> String {
    let beneath = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .and_then(|inner| match inner {
            Error::InvalidCertificate(CertificateError::Other(other)) => other.source(),
            _ => None,
        });
    match beneath {
        Some(beneath) => chain(beneath),
        None => format!("{} ({error})", explain(error)),
    }
}
