//! Our own channel's TLS, without its checks.
//!
//! For the relay and for tests that knock at the signer's door: whoever is at the other end is believed, so
//! that whatever refuses is the program under test.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use keyhaven_wire::{ALPN, Decoder, Reply, Request, encode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme, StreamOwned,
};

use crate::pki::Pair;

/// A connection to the signer, as a proxy or anybody else would have it.
pub struct Caller {
    stream: StreamOwned<ClientConnection, TcpStream>,
    replies: Decoder<Reply>,
    next_id: u64,
}

impl Caller {
    /// Connects with this identity, or with none. A refusal shows at the first call.
    pub fn connect(signer: SocketAddr, pair: Option<&Pair>) -> Caller {
        let stream = TcpStream::connect(signer).expect("the signer listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has options");
        stream.set_nodelay(true).expect("a socket has options");
        let name = ServerName::try_from("signer").expect("a name");
        let connection = ClientConnection::new(Arc::new(client_config(pair)), name)
            .expect("a right configuration");
        Caller {
            stream: StreamOwned::new(connection, stream),
            replies: Decoder::new(),
            next_id: 1,
        }
    }

    /// Asks, and waits for the answer.
    pub fn call(&mut self, request: &Request) -> io::Result<Reply> {
        let mut frame = Vec::new();
        encode(self.next_id, request, &mut frame).map_err(io::Error::other)?;
        self.next_id += 1;
        self.send(&frame)?;
        self.receive()
    }

    /// The socket beneath, with nothing said of an end.
    pub fn into_stream(self) -> TcpStream {
        self.stream.sock
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next answer.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((_, reply)) = self.replies.next().map_err(io::Error::other)? {
                return Ok(reply);
            }
            let mut bytes = [0; 16 * 1024];
            let count = self.stream.read(&mut bytes)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Every frame is taken out before more is read, so that there is room.
            self.replies.push(&bytes[..count]);
        }
    }
}

/// A chain and its key from their files.
pub fn load(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&pair.certificate)
        .expect("the test's certificate can be read")
        .collect::<Result<_, _>>()
        .expect("the test's certificate is PEM");
    (
        chain,
        PrivateKeyDer::from_pem_file(&pair.key).expect("the test's key is PEM"),
    )
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A server of the channel that believes any client.
pub fn server_config(pair: &Pair) -> ServerConfig {
    let (chain, key) = load(pair);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_single_cert(chain, key)
        .expect("the key fits");
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// A client of the channel that trusts any server; with or without an identity of its own.
pub fn client_config(pair: Option<&Pair>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match pair.map(load) {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .expect("the key fits"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// Believes every server: the relay must not be stricter than what it stands for.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
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
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Asks for a client certificate and believes it.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
