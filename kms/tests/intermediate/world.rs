//! A site with a fresh token, and a central that it follows.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use keyhaven_hsm::{
    Module, Pin, Token, Workers,
    managed::{Enrolment, KekName, SiteToken},
};
use keyhaven_kms::intermediate::{Clock, Endpoint, Intermediate, IntermediateParts, Source};
use keyhaven_service::{Listener, ListenerConfig, ServeLimits, shutdown::Shutdown};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::{Identity, Purpose, Replication, Role, SignatureScheme};
use keyhaven_wire::kms::{Done, KeyRef, Task, TaskError};

use crate::{
    ca::Ca,
    central::{Central, KEK, KEK_ID, key_name, name, who},
};

/// The machine's time, and what a test adds to it.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<(AtomicU64, AtomicU8)>);

impl TestClock {
    /// Time goes on at once.
    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.0.0.fetch_add(by, SeqCst);
    }

    /// Another start of the machine.
    pub(crate) fn reboot(&self) {
        self.0.1.fetch_add(1, SeqCst);
    }
}

impl Source for TestClock {
    fn times(&self) -> (Duration, Duration) {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let since = START.get_or_init(Instant::now).elapsed();
        let time = since + Duration::from_millis(self.0.0.load(SeqCst));
        let started = Duration::from_secs(1000);
        (started + time, Duration::from_secs(1_700_000_000) + time)
    }

    fn boot_id(&self) -> io::Result<[u8; 16]> {
        Ok([self.0.1.load(SeqCst); 16])
    }
}

pub(crate) struct World {
    pub(crate) central: Arc<Central>,
    pub(crate) clock: TestClock,
    ca: Ca,
    token: SiteToken,
    workers: Workers,
    folder: tempfile::TempDir,
    address: SocketAddr,
    listening: Option<Shutdown>,
    site: Option<Intermediate>,
}

impl World {
    pub(crate) async fn new(test: &TestToken, replication: Replication) -> Self {
        let module = Module::load_with(Some(test.module()), test.init_args().as_deref()).unwrap();
        let pin = Pin::new(test.pin().to_owned());
        let token = Token::open(&module, &test.uri().parse().unwrap(), pin).unwrap();
        enrol(&token);
        let mut world = Self {
            central: Central::new(replication),
            clock: TestClock::default(),
            ca: Ca::new(),
            token: SiteToken::open(&token).unwrap(),
            workers: Workers::start(2, 64).unwrap(),
            folder: tempfile::tempdir().unwrap(),
            address: "127.0.0.1:0".parse().unwrap(),
            listening: None,
            site: None,
        };
        world.start_central().await;
        world.start_site();
        world
    }

    pub(crate) async fn start_central(&mut self) {
        let credentials = self.ca.credentials(&who("central", "c1"));
        let config = ListenerConfig::new(self.address, credentials, vec![Role::Signer]);
        let listener = Listener::bind(config).await.unwrap();
        self.address = listener.local_addr();
        let shutdown = Shutdown::new();
        let (central, stop) = (Arc::clone(&self.central), shutdown.clone());
        tokio::spawn(async move {
            listener.serve(central, ServeLimits::default(), &stop).await;
        });
        self.listening = Some(shutdown);
    }

    /// Central goes away with its connections.
    pub(crate) fn stop_central(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.stop();
            listening.cut_token().cancel();
        }
    }

    pub(crate) fn replica(&self) -> PathBuf {
        self.folder.path().join("replica.redb")
    }

    pub(crate) fn start_site(&mut self) {
        let parts = IntermediateParts {
            site: name("fra"),
            identity: who("signer", "fra"),
            credentials: self.ca.credentials(&who("signer", "fra")),
            central: vec![Endpoint {
                address: self.address.to_string(),
                identity: who("central", "c1"),
            }],
            central_key: self.central.signer.key(),
            replica: self.replica(),
            cache_bytes: 1 << 20,
            unwrapped_max: 16,
            token: self.token.clone(),
            workers: self.workers.clone(),
            threads: 2,
            clock: Clock::new(self.clock.clone()),
        };
        self.site = Some(Intermediate::start(parts).unwrap());
    }

    pub(crate) async fn stop_site(&mut self) {
        self.site.take().unwrap().stop().await;
    }

    pub(crate) fn site(&self) -> &Intermediate {
        self.site.as_ref().unwrap()
    }

    /// Waits until everything is here, and may be served.
    pub(crate) async fn settle(&self) {
        let revision = self.central.head().revision;
        until("the site has everything", || {
            let status = self.site().status();
            status.applied >= revision && status.lease_age_ms.is_some()
        })
        .await;
    }

    pub(crate) async fn sign(&self, caller: &Identity, key: u8) -> Result<Vec<u8>, TaskError> {
        let task = Task::Sign {
            key: KeyRef::Name(key_name(key)),
            scheme: SignatureScheme::EcdsaSecp256r1Sha256,
            message: MESSAGE.to_vec(),
        };
        let mut results = self.site().operate(caller, &[task], None).await;
        assert_eq!(results.len(), 1);
        match results.remove(0).outcome? {
            Done::Signature {
                version: 1,
                signature,
            } => Ok(signature),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) const MESSAGE: &[u8] = b"what is signed";

pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Brings the class's key into the token, as a ceremony does.
fn enrol(token: &Token) {
    let enrolment = Enrolment::begin(token).unwrap();
    let public = PublicEncryptingKey::from_der(enrolment.spki()).unwrap();
    let key = OaepPublicEncryptingKey::new(public).unwrap();
    let mut out = vec![0; key.ciphertext_size()];
    let wrapped = key.encrypt(&OAEP_SHA1_MGF1SHA1, &KEK, &mut out, None);
    let kek = KekName {
        class: name("all"),
        purpose: Purpose::Sign,
        epoch: 1,
        id: KEK_ID,
    };
    enrolment
        .receive(&[(kek, wrapped.unwrap().to_vec())])
        .unwrap();
}
