//! A TLS client that verifies the certificate, for the demo's own requests and the benchmark's load.
//!
//! It is rustls as it comes: it shares no code with the product's handshake. Offers one protocol version at a
//! time, so that what was asked for is what was seen.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

use crate::Error;

/// Which protocol version a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.3.
    Tls13,
    /// TLS 1.2.
    Tls12,
}

impl Version {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls13 => "TLS 1.3",
            Self::Tls12 => "TLS 1.2",
        }
    }

    fn rustls(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Tls13 => &TLS13,
            Self::Tls12 => &TLS12,
        }
    }
}

/// A client that offers one version.
#[derive(Clone, Debug)]
pub struct Client {
    version: Version,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// What a request brought.
#[derive(Debug)]
pub struct Answer {
    /// The cipher suite.
    pub suite: String,
    /// The key exchange group.
    pub group: String,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The whole answer.
    pub text: String,
    /// The server's certificate, DER.
    pub leaf: Vec<u8>,
}

/// What a handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The key exchange group.
    pub group: String,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl Client {
    /// A client that trusts one CA and offers what rustls offers by default.
    pub fn new(version: Version, server_name: &str, ca_pem: &[u8]) -> Result<Client, Error> {
        Self::with_groups(version, server_name, ca_pem, aws_lc_rs::DEFAULT_KX_GROUPS)
    }

    /// The same with chosen key exchange groups. It never resumes a session.
    pub fn with_groups(
        version: Version,
        server_name: &str,
        ca_pem: &[u8],
        groups: &[&'static dyn SupportedKxGroup],
    ) -> Result<Client, Error> {
        let failed = |why: String| Error::Request {
            version: version.as_str(),
            why,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|error| failed(format!("the CA: {error}")))?;
            roots
                .add(certificate)
                .map_err(|error| failed(format!("the CA: {error}")))?;
        }
        let provider = CryptoProvider {
            kx_groups: groups.to_vec(),
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version.rustls()])
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Client {
            version,
            name: ServerName::try_from(server_name.to_owned())
                .map_err(|error| failed(error.to_string()))?,
            config: Arc::new(config),
        })
    }

    /// The same client, but it keeps the tickets that it is given and resumes sessions with them.
    pub fn remembering(&self) -> Client {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
        Client {
            config: Arc::new(config),
            ..self.clone()
        }
    }

    /// Which version it offers.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes one handshake and one request, and reads to the end that the server announces.
    pub fn get(&self, address: SocketAddr, path: &str) -> Result<Answer, Error> {
        self.exchange(address, path)
            .map_err(|error| Error::Request {
                version: self.version.as_str(),
                why: error.to_string(),
            })
    }

    /// Makes one handshake, closes, and waits for the server to close.
    pub fn handshake(&self, address: SocketAddr) -> std::io::Result<Handshake> {
        let mut stream = self.connect(address)?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        stream.conn.send_close_notify();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut stream.sock)?;
        }
        stream.sock.shutdown(Shutdown::Write)?;
        // What comes until then may be tickets.
        while stream.conn.read_tls(&mut stream.sock)? > 0 {
            stream
                .conn
                .process_new_packets()
                .map_err(std::io::Error::other)?;
        }
        Ok(Handshake {
            group: group_name(&stream.conn),
            resumed: is_resumed(&stream.conn),
        })
    }

    fn exchange(&self, address: SocketAddr, path: &str) -> std::io::Result<Answer> {
        let mut stream = self.connect(address)?;
        let host = self.name.to_str();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        stream.flush()?;
        let mut bytes = Vec::new();
        // An end without close_notify is an error here, so a cut answer cannot pass for a whole one.
        Read::by_ref(&mut stream)
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        let suite = stream
            .conn
            .negotiated_cipher_suite()
            .map(|suite| format!("{:?}", suite.suite()));
        let chain = stream.conn.peer_certificates().unwrap_or_default();
        Ok(Answer {
            leaf: chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default(),
            suite: suite.unwrap_or_default(),
            group: group_name(&stream.conn),
            resumed: is_resumed(&stream.conn),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let socket = TcpStream::connect_timeout(&address, PEER_TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PEER_TIMEOUT))?;
        socket.set_write_timeout(Some(PEER_TIMEOUT))?;
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(std::io::Error::other)?;
        Ok(StreamOwned::new(connection, socket))
    }
}

fn group_name(connection: &ClientConnection) -> String {
    let group = connection.negotiated_key_exchange_group();
    group
        .map(|group| format!("{:?}", group.name()))
        .unwrap_or_default()
}

fn is_resumed(connection: &ClientConnection) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// Tickets that a remembering client keeps.
const TICKETS_MAX: usize = 64;
const PEER_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
