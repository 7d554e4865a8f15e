//! A real token with keys and certificates, a real rustls client, and the engine between them, in memory.
//!
//! No sockets and no proxy: what is shown here is the engine alone.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support"
)]

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use keyhaven_handshake::{
    ClientAuth, ClientHello, Clock, Expect, Handshake, Site, SiteKey, SiteSpec, Step, StepResult,
    TicketSpec,
};
use keyhaven_hsm::{Module, PinSource, Profile, Token, Uri, Workers};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::CustodyLevel;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SubjectPublicKeyInfo};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
};

pub const NAME: &str = "site.example";

/// A token that is open, with one certified key.
pub struct Bench {
    pub workers: Workers,
    pub token: Token,
    pub profile: Profile,
    pub site: Arc<Site>,
    pub roots: RootCertStore,
    runtime: tokio::runtime::Runtime,
}

/// How a bench's site is set up.
pub struct Setup {
    pub key_type: &'static str,
    pub custody_min: CustodyLevel,
    pub custody_max: CustodyLevel,
    pub alpn: Vec<Vec<u8>>,
    pub alpn_required: bool,
    pub through_shim: bool,
    pub prefer_hybrid: bool,
    pub tickets: Option<TicketSpec>,
    pub client_auth: ClientAuth,
    pub clock: Clock,
    /// Another site of the same token has another one.
    pub id: [u8; 32],
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            key_type: "EC:prime256v1",
            custody_min: CustodyLevel::Signature,
            custody_max: CustodyLevel::Schedule,
            alpn: Vec::new(),
            alpn_required: false,
            through_shim: false,
            prefer_hybrid: false,
            tickets: None,
            client_auth: ClientAuth::None,
            clock: Clock::default(),
            id: [7; 32],
        }
    }
}

impl Bench {
    pub fn new(test_token: &TestToken, setup: &Setup) -> Self {
        static KEYS: AtomicUsize = AtomicUsize::new(1);
        let number = KEYS.fetch_add(1, Ordering::Relaxed);
        let label = format!("k{number}");
        test_token
            .generate_key(setup.key_type, &label, &format!("{number:02x}"))
            .unwrap();
        let spki = test_token.public_key(&label).unwrap();
        let shim = test_token.shim().module();
        let path = if setup.through_shim {
            &shim
        } else {
            test_token.module()
        };
        let module = Module::load_with(Some(path), test_token.init_args().as_deref()).unwrap();
        let uri: Uri = format!("pkcs11:token={}", test_token.label())
            .parse()
            .unwrap();
        let pin = PinSource::File(test_token.pin_file())
            .read("/".as_ref(), "t")
            .unwrap();
        let token = Token::open(&module, &uri, pin).unwrap();
        let profile = token.prove().unwrap();
        let key = token
            .load_key(&test_token.key_uri(&label).parse().unwrap(), &spki)
            .unwrap();
        let (chain, roots) = certify(&spki);
        let site = Site::new(SiteSpec {
            keys: vec![SiteKey {
                key,
                chain,
                ocsp: None,
                custody_min: CustodyLevel::Signature,
                not_after: std::time::SystemTime::now() + Duration::from_secs(3600),
            }],
            alpn: setup.alpn.clone(),
            alpn_required: setup.alpn_required,
            custody_min: setup.custody_min,
            custody_max: setup.custody_max,
            exchange: token.clone(),
            profile: profile.clone(),
            id: setup.id,
            tickets: setup.tickets.clone(),
            client_auth: setup.client_auth.clone(),
            prefer_hybrid: setup.prefer_hybrid,
            rekey_persistent: false,
            clock: setup.clock.clone(),
        })
        .unwrap();
        Self {
            workers: Workers::start(2, 64).unwrap(),
            token,
            profile,
            site: Arc::new(site),
            roots,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    /// Runs one step on a worker thread.
    pub fn step(&self, step: impl FnOnce(&keyhaven_hsm::Worker) -> Step + Send + 'static) -> Step {
        let deadline = Instant::now() + Duration::from_secs(20);
        self.runtime
            .block_on(self.workers.run(deadline, step))
            .unwrap()
    }

    /// Begins a handshake at this bench's site.
    pub fn start(&self, records: Vec<u8>) -> Step {
        let hello = ClientHello::from_records(&records).ok();
        let site = self.site.clone();
        self.step(move |worker| Handshake::start(worker, Some(&site), hello.as_ref(), &records))
    }

    /// Goes on with a handshake.
    pub fn proceed(&self, handshake: Box<Handshake>, records: Vec<u8>) -> Step {
        self.step(move |worker| handshake.proceed(worker, &records))
    }

    /// Starts, and follows a HelloRetryRequest or the second flight of TLS 1.2.
    pub fn handshake(&self, client: &mut ClientConnection) -> Step {
        let mut step = self.start(flight(client));
        loop {
            match step.result {
                StepResult::More(handshake, expect) => {
                    deliver(client, &step.to_client);
                    let mut records = flight(client);
                    if expect == Expect::ClientHello {
                        records = without_change_cipher_spec(&records);
                    }
                    step = self.proceed(handshake, records);
                }
                result => return Step { result, ..step },
            }
        }
    }

    pub fn client(&self, offer: &Offer) -> ClientConnection {
        let provider = CryptoProvider {
            kx_groups: offer.groups.clone(),
            cipher_suites: match offer.suite {
                Some(code) => aws_lc_rs::ALL_CIPHER_SUITES
                    .iter()
                    .filter(|suite| u16::from(suite.suite()) == code)
                    .copied()
                    .collect(),
                None => aws_lc_rs::ALL_CIPHER_SUITES.to_vec(),
            },
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[offer.version])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = offer.alpn.clone();
        ClientConnection::new(config.into(), offer.name.try_into().unwrap()).unwrap()
    }
}

impl Drop for Bench {
    /// SoftHSM2 takes itself apart at the end of the process; no thread may be inside it by then.
    fn drop(&mut self) {
        self.runtime
            .block_on(self.workers.shutdown(Duration::from_secs(20)));
    }
}

/// What a client offers.
pub struct Offer {
    pub version: &'static SupportedProtocolVersion,
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    pub suite: Option<u16>,
    pub alpn: Vec<Vec<u8>>,
    pub name: &'static str,
}

impl Offer {
    pub fn new(version: &'static SupportedProtocolVersion) -> Self {
        Self {
            version,
            groups: aws_lc_rs::DEFAULT_KX_GROUPS.to_vec(),
            suite: None,
            alpn: Vec::new(),
            name: NAME,
        }
    }
}

/// A certificate for a public key, and the CA that issued it.
fn certify(
    spki: &[u8],
) -> (
    Vec<rustls_pki_types::CertificateDer<'static>>,
    RootCertStore,
) {
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let leaf = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let leaf = leaf
        .signed_by(&SubjectPublicKeyInfo::from_der(spki).unwrap(), &ca)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    (vec![leaf.der().clone()], roots)
}

/// What the client has to send now.
pub fn flight(client: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut records).unwrap();
    }
    records
}

/// Gives the client records; the error is the client's opinion of them.
pub fn deliver(client: &mut ClientConnection, mut records: &[u8]) -> Option<rustls::Error> {
    while !records.is_empty() {
        client.read_tls(&mut records).unwrap();
        if let Err(error) = client.process_new_packets() {
            return Some(error);
        }
    }
    None
}

pub fn without_change_cipher_spec(mut records: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Some(header) = records.first_chunk::<5>() {
        let (record, rest) =
            records.split_at(5 + usize::from(u16::from_be_bytes([header[3], header[4]])));
        if header[0] != 20 {
            kept.write_all(record).unwrap();
        }
        records = rest;
    }
    kept
}

/// Whatever plaintext the client has received.
pub fn received(client: &mut ClientConnection) -> Vec<u8> {
    let mut plaintext = Vec::new();
    let _ = client.reader().read_to_end(&mut plaintext);
    plaintext
}
