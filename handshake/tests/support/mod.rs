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
    time::{Duration, Instant, SystemTime},
};

use keyhaven_handshake::{
    ClientAuth, ClientHello, Clock, Expect, Handshake, Site, SiteKey, SiteSpec, Step, StepResult,
    TicketSpec,
};
use keyhaven_hsm::{Module, PinSource, PrivateKey, Profile, Token, Uri, Workers};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::CustodyLevel;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SubjectPublicKeyInfo};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub const NAME: &str = "site.example";

/// A token that is open, with one certified key.
pub struct Bench {
    pub workers: Workers,
    pub token: Token,
    pub profile: Profile,
    pub site: Arc<Site>,
    pub roots: RootCertStore,
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    runtime: tokio::runtime::Runtime,
}

/// How a bench's site is set up.
#[derive(Clone)]
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
    pub certificate_life: Duration,
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
            certificate_life: Duration::from_secs(30 * 86_400),
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
        Self {
            workers: Workers::start(2, 64).unwrap(),
            site: Arc::new(site(setup, &token, &profile, &key, &chain)),
            token,
            profile,
            roots,
            key,
            chain,
            runtime: runtime(),
        }
    }

    /// Another site with the same token, key and certificate.
    pub fn sibling(&self, setup: &Setup) -> Self {
        Self {
            workers: self.workers.clone(),
            site: Arc::new(site(
                setup,
                &self.token,
                &self.profile,
                &self.key,
                &self.chain,
            )),
            token: self.token.clone(),
            profile: self.profile.clone(),
            roots: self.roots.clone(),
            key: self.key.clone(),
            chain: self.chain.clone(),
            runtime: runtime(),
        }
    }

    /// Runs one step on a worker thread.
    pub fn step(&self, step: impl FnOnce(&keyhaven_hsm::Worker) -> Step + Send + 'static) -> Step {
        let deadline = Instant::now() + Duration::from_secs(20);
        self.runtime
            .block_on(self.workers.run(deadline, step))
            .unwrap()
    }

    /// Lets each worker come to its trash.
    pub fn step_nothing(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        for _ in 0..4 {
            self.runtime
                .block_on(self.workers.run(deadline, |_| ()))
                .unwrap();
        }
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
                    if matches!(expect, Expect::ClientHello | Expect::ClientFlight) {
                        records = without_change_cipher_spec(&records);
                    }
                    step = self.proceed(handshake, records);
                }
                result => return Step { result, ..step },
            }
        }
    }

    pub fn client(&self, offer: &Offer) -> ClientConnection {
        connect(&self.client_config(offer), offer.name)
    }

    /// Connections of one configuration share their tickets.
    pub fn client_config(&self, offer: &Offer) -> Arc<ClientConfig> {
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
        let builder = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[offer.version])
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &offer.identity {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = offer.alpn.clone();
        config.into()
    }
}

/// A client for a name.
pub fn connect(config: &Arc<ClientConfig>, name: &'static str) -> ClientConnection {
    ClientConnection::new(config.clone(), name.try_into().unwrap()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn site(
    setup: &Setup,
    token: &Token,
    profile: &Profile,
    key: &PrivateKey,
    chain: &[CertificateDer<'static>],
) -> Site {
    Site::new(SiteSpec {
        keys: vec![SiteKey {
            key: key.clone(),
            chain: chain.to_vec(),
            ocsp: None,
            custody_min: CustodyLevel::Signature,
            not_after: SystemTime::now() + setup.certificate_life,
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
    .unwrap()
}

/// What a client offers.
pub struct Offer {
    pub version: &'static SupportedProtocolVersion,
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    pub suite: Option<u16>,
    pub alpn: Vec<Vec<u8>>,
    pub name: &'static str,
    /// The client's own certificate with its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Offer {
    pub fn new(version: &'static SupportedProtocolVersion) -> Self {
        Self {
            version,
            groups: aws_lc_rs::DEFAULT_KX_GROUPS.to_vec(),
            suite: None,
            alpn: Vec::new(),
            name: NAME,
            identity: None,
        }
    }
}

/// An authority for clients' certificates, with one client's chain and key.
pub fn authority() -> (
    CertificateDer<'static>,
    (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
) {
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    leaf.distinguished_name
        .push(rcgen::DnType::CommonName, "a client");
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    (
        ca.der().clone(),
        (
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        ),
    )
}

/// A certificate for a public key, and the CA that issued it.
fn certify(spki: &[u8]) -> (Vec<CertificateDer<'static>>, RootCertStore) {
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
