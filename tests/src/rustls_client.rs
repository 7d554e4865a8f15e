//! A rustls client, blocking, verified against the sites' CA.
//!
//! The options that tests turn are arguments; the rest is what rustls does by itself.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedCipherSuite,
    SupportedProtocolVersion,
};

/// What a client offers.
#[derive(Clone)]
pub struct Offer {
    /// Versions.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Suites; all when empty.
    pub suites: Vec<SupportedCipherSuite>,
    /// Groups; all when empty.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// Application protocols.
    pub alpn: Vec<Vec<u8>>,
    /// The largest record that the client sends, if smaller than usual.
    pub fragment: Option<usize>,
}

impl Default for Offer {
    fn default() -> Self {
        Offer {
            versions: rustls::ALL_VERSIONS.to_vec(),
            suites: Vec::new(),
            groups: Vec::new(),
            alpn: Vec::new(),
            fragment: None,
        }
    }
}

/// A connection of ours.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects and finishes the handshake.
pub fn connect(address: SocketAddr, name: &str, ca: &Path, offer: &Offer) -> io::Result<Stream> {
    let mut provider = aws_lc_rs::default_provider();
    keep(&mut provider, offer);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(io::Error::other)? {
        roots
            .add(certificate.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&offer.versions)
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offer.alpn.clone();
    config.max_fragment_size = offer.fragment;

    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn keep(provider: &mut CryptoProvider, offer: &Offer) {
    if !offer.suites.is_empty() {
        provider.cipher_suites.clone_from(&offer.suites);
    }
    if !offer.groups.is_empty() {
        provider.kx_groups.clone_from(&offer.groups);
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
