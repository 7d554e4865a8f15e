//! A signer that runs: its token, its folder, its log, its metrics.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use keyhaven_softhsm_test::TestToken;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A folder with a token that has two keys, `one` and `two`, each with a certificate.
pub(crate) struct Place {
    pub(crate) token: TestToken,
    ca: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

/// A signer that was started in a place.
pub(crate) struct Signer {
    child: Child,
    lines: Receiver<Value>,
    metrics: SocketAddr,
}

impl Place {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "CA");
        let key = KeyPair::generate().unwrap();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let place = Self {
            token: TestToken::new("first").unwrap(),
            ca: Issuer::new(params, key),
            dir: tempfile::tempdir().unwrap(),
        };
        place.write("ca.pem", &ca_pem);
        let mut identity = CertificateParams::default();
        let name = "spiffe://keyhaven.test/signer/main".try_into().unwrap();
        identity.subject_alt_names = vec![SanType::URI(name)];
        let key = KeyPair::generate().unwrap();
        let certificate = identity.signed_by(&key, &place.ca).unwrap();
        place.write("signer.pem", &certificate.pem());
        place.write("signer.key", &key.serialize_pem());
        for (id, label) in [("01", "one"), ("02", "two")] {
            place
                .token
                .generate_key("EC:prime256v1", label, id)
                .unwrap();
            place.certify(label, 1);
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Issues a certificate for a key, and puts it in place as a whole.
    pub(crate) fn certify(&self, label: &str, serial: u64) {
        let spki = self.token.public_key(label).unwrap();
        let public = SubjectPublicKeyInfo::from_der(&spki).unwrap();
        let mut params = CertificateParams::new(vec![format!("{label}.example")]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&public, &self.ca).unwrap();
        self.write("new.pem", &certificate.pem());
        fs::rename(self.path("new.pem"), self.path(&format!("{label}.pem"))).unwrap();
    }

    /// Writes the configuration: what stands before the sites, and the sites.
    pub(crate) fn configure(&self, limits: &str, tokens: &str, sites: &str) {
        self.write(
            "signer.toml",
            &format!(
                "listen = \"127.0.0.1:0\"\n\
                 identity = {{ certificate = \"signer.pem\", key = \"signer.key\", ca = \"ca.pem\" }}\n\
                 log = {{ format = \"json\", level = \"info\" }}\n\
                 metrics = {{ listen = \"127.0.0.1:0\" }}\n\
                 workers = {{ threads = 2 }}\n\
                 limits = {{ {limits} }}\n{tokens}\n{sites}\n"
            ),
        );
    }

    /// A `[[token]]` of the first token, through a module.
    pub(crate) fn first(&self, module: &str) -> String {
        format!(
            "[[token]]\nname = \"main\"\nuri = \"{}\"\n{module}\n",
            self.token.uri_with_pin()
        )
    }

    pub(crate) fn start(&self) -> Signer {
        let mut child = Command::new(env!("CARGO_BIN_EXE_signer"))
            .args(["--config".as_ref(), self.path("signer.toml").as_os_str()])
            .envs(self.token.env())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::sync_channel(10_000);
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let _ = send.send(line);
            }
        });
        let mut signer = Signer {
            child,
            lines,
            metrics: "127.0.0.1:0".parse().unwrap(),
        };
        let served = signer.wait_for("metrics are served");
        signer.metrics = served["metrics"].as_str().unwrap().parse().unwrap();
        signer.wait_for("signer is ready");
        signer
    }
}

/// A `[[site]]` whose one key has its label.
pub(crate) fn site(label: &str, more: &str) -> String {
    format!(
        "[[site]]\nnames = [\"{label}.example\"]\nproxies = [\"spiffe://keyhaven.test/proxy/a\"]\n{more}\n\
         [[site.key]]\ntoken = \"main\"\nuri = \"pkcs11:object={label};type=private\"\ncertificate = \"{label}.pem\"\n"
    )
}

impl Signer {
    /// The next line of the log with this message; what is before it is passed over.
    pub(crate) fn wait_for(&self, message: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line)
                    if line["message"]
                        .as_str()
                        .is_some_and(|text| text.contains(message)) =>
                {
                    return line;
                }
                Ok(line) => seen.push(line.to_string()),
                Err(error) => panic!("{message}: {error} after\n{}", seen.join("\n")),
            }
        }
    }

    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Connects to the metrics.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.metrics).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What is answered to a request.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Whether a line is among the metrics of now.
    pub(crate) fn tells(&self, line: &str) -> bool {
        let answer = self.ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        answer.lines().any(|told| told.starts_with(line))
    }

    /// Stops it, and says whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().success()
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
