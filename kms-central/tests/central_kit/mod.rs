//! A `kms-central` that runs: its token from a ceremony, its identities from a CA of the test, its log on lines.
//!
//! Nothing here asserts the behaviour under test.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test uses its part, and a helper of a test fails by panicking"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use keyhaven_hsm::{Module, Pin, managed::Ceremony};
use keyhaven_service::{Client, ClientConfig, Credentials};
use keyhaven_softhsm_test::TestToken;
use keyhaven_types::{HardwareLevel, Identity, KeyKind, Name, Purpose, Replication};
use keyhaven_wire::{
    ErrorCode, Reply, Request,
    kms::{
        Changes, Fetch, Fetched, Follow, HeadMark, Held, KeyRef, LeaseGrant, LeaseRequest,
        admin::{Answer, Ask, NewClass, NewKey, NewSite, Refused},
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    SanType,
};

pub const DOMAIN: &str = "spiffe://keyhaven.test";

/// The test's folder with CA and token.
pub struct Kit {
    pub dir: tempfile::TempDir,
    pub token: TestToken,
    issuer: Issuer<'static, KeyPair>,
}

impl Kit {
    /// After a ceremony, with so many key-encryption keys for these purposes.
    pub fn new(token: TestToken, purposes: &[Purpose], pool: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(
            dir.path().join("ca.pem"),
            ca.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        let kit = Self {
            issuer: Issuer::new(ca, key),
            dir,
            token,
        };
        kit.identity("central/one");
        kit.ceremony(purposes, pool);
        kit
    }

    fn ceremony(&self, purposes: &[Purpose], pool: usize) {
        let module = Module::load_with(Some(self.token.module()), None).unwrap();
        let so_pin = Pin::new(self.token.so_pin().to_owned());
        let pin = Pin::new(self.token.pin().to_owned());
        let uri = self.token.uri().parse().unwrap();
        let mut ceremony = Ceremony::begin(&module, &uri, &so_pin, &pin).unwrap();
        ceremony.make_central().unwrap();
        for purpose in purposes {
            ceremony.make_pool(*purpose, pool).unwrap();
        }
    }

    /// Certificate and key of `ROLE/NAME`.
    pub fn identity(&self, path: &str) -> (PathBuf, PathBuf) {
        let file = self.dir.path().join(path.replace('/', "-"));
        let (certificate, key) = (file.with_extension("pem"), file.with_extension("key"));
        if !certificate.exists() {
            let mut leaf = CertificateParams::default();
            let uri = format!("{DOMAIN}/{path}").as_str().try_into().unwrap();
            leaf.subject_alt_names = vec![SanType::URI(uri)];
            let pair = KeyPair::generate().unwrap();
            fs::write(
                &certificate,
                leaf.signed_by(&pair, &self.issuer).unwrap().pem(),
            )
            .unwrap();
            write_secret(&key, &pair.serialize_pem());
        }
        (certificate, key)
    }

    /// What the CA makes of a request (PKCS#10, DER); it must be signed by the key that it is for.
    pub fn issue(&self, request: &[u8]) -> Vec<u8> {
        let request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        request.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub fn credentials(&self, path: &str) -> Credentials {
        let (certificate, key) = self.identity(path);
        Credentials::load(&certificate, &key, &self.dir.path().join("ca.pem")).unwrap()
    }

    /// The configuration file, with these lines in `[store]`.
    pub fn config(&self, name: &str, store: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let text = format!(
            "listen = \"127.0.0.1:0\"\n[identity]\ncertificate = \"central-one.pem\"\nkey = \"central-one.key\"\n\
             ca = \"ca.pem\"\n[token]\nmodule = \"{}\"\nuri = \"{}\"\n[store]\n{store}\n[admins]\n\
             write = [\"{DOMAIN}/admin/alice\"]\nread = [\"{DOMAIN}/admin/auditor\"]\n[log]\nformat = \"json\"\n",
            self.token.module().display(),
            self.token.uri_with_pin(),
        );
        fs::write(&path, text).unwrap();
        path
    }

    pub fn redb(&self) -> PathBuf {
        self.config("central.toml", "kind = \"redb\"\npath = \"store.redb\"")
    }

    pub fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kms-central"));
        command.arg("--config").arg(config).envs(self.token.env());
        command
    }

    pub fn start(&self, config: &Path) -> Daemon {
        Daemon::start(self.command(config))
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The program.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Daemon {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                let value = serde_json::from_str(&line).unwrap_or(serde_json::Value::Null);
                lines.lock().unwrap().push(value);
            }
        });
        let mut daemon = Self {
            child,
            address: "127.0.0.1:0".parse().unwrap(),
            log,
        };
        let ready = daemon.wait_for("readiness", |line| !line["listening"].is_null());
        daemon.address = ready["listening"].as_str().unwrap().parse().unwrap();
        daemon
    }

    pub fn log(&self) -> Vec<serde_json::Value> {
        self.log.lock().unwrap().clone()
    }

    pub fn wait_for(
        &self,
        what: &str,
        fits: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(line) = self.log().into_iter().find(|line| fits(line)) {
                return line;
            }
            assert!(Instant::now() < deadline, "no {what} in the log");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody who asks.
pub struct Asker(Client);

impl Asker {
    pub async fn connect(kit: &Kit, daemon: &Daemon, path: &str) -> Self {
        let central: Identity = format!("{DOMAIN}/central/one").parse().unwrap();
        let config = ClientConfig::new(daemon.address.to_string(), central, kit.credentials(path));
        let client = Client::start(config);
        assert!(
            client.healthy(Duration::from_secs(20)).await,
            "central is not well"
        );
        Self(client)
    }

    pub async fn try_call(&self, request: Request) -> Result<Reply, String> {
        let reply = self.0.call(request, Duration::from_secs(60)).await;
        reply.map_err(|error| format!("{error:?}"))
    }

    pub async fn call(&self, request: Request) -> Reply {
        self.try_call(request).await.unwrap()
    }

    pub async fn ask(&self, ask: Ask) -> Answer {
        match self.call(Request::Admin(Box::new(ask))).await {
            Reply::Admin(answer) => *answer,
            other => panic!("{other:?}"),
        }
    }

    /// The revision that a change was written with.
    pub async fn change(&self, ask: Ask) -> u64 {
        let told = format!("{ask:?}");
        match self.ask(ask).await {
            Answer::Committed { revision, .. } => revision,
            other => panic!("{told}: {other:?}"),
        }
    }

    pub async fn refused(&self, ask: Ask) -> Refused {
        match self.ask(ask).await {
            Answer::Refused(refused) => refused,
            other => panic!("{other:?}"),
        }
    }

    pub async fn follow(
        &self,
        after: u64,
        seen: HeadMark,
        wait_ms: u32,
    ) -> Result<Changes, ErrorCode> {
        let follow = Follow {
            after,
            seen,
            wait_ms,
            bytes_max: 96 * 1024,
        };
        match self.call(Request::Follow(follow)).await {
            Reply::Changes(changes) => Ok(changes),
            Reply::Error(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    pub async fn lease(&self, seen: HeadMark) -> Result<LeaseGrant, ErrorCode> {
        let nonce = [7; 16];
        match self
            .call(Request::Lease(LeaseRequest { nonce, seen }))
            .await
        {
            Reply::Leased(grant) => Ok(grant),
            Reply::Error(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    pub async fn fetch(&self, fetch: Fetch) -> Fetched {
        match self.call(Request::Fetch(fetch)).await {
            Reply::Fetched(fetched) => fetched,
            other => panic!("{other:?}"),
        }
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn named(text: &str) -> KeyRef {
    KeyRef::Name(name(text))
}

pub fn class(text: &str, purposes: &[Purpose], replication: Replication) -> Ask {
    Ask::ClassCreate(NewClass {
        name: name(text),
        regions: vec![name("eu")],
        hardware_min: HardwareLevel::Software,
        bound_s: 30,
        generated_only: false,
        replication,
        purposes: purposes.to_vec(),
    })
}

pub fn key(text: &str, kind: KeyKind, purpose: Purpose, class: &str) -> Ask {
    Ask::KeyCreate(NewKey {
        name: name(text),
        kind,
        purpose,
        class: name(class),
        server_names: Vec::new(),
    })
}

pub fn site(text: &str, holds: Vec<Held>) -> Ask {
    Ask::SiteAdd(NewSite {
        name: name(text),
        identity: format!("{DOMAIN}/signer/{text}").parse().unwrap(),
        address: "site.example:7443".to_owned(),
        region: name("eu"),
        hardware: HardwareLevel::Software,
        holds,
    })
}
