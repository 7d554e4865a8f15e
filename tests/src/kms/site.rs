//! A site: a signer with a token of its own, its replica, and its configuration.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use keyhaven_softhsm_test::TestToken;
use serde_json::Value;

use super::World;
use super::world::spiffe;
use crate::daemon::{Daemon, binary, field};
use crate::pki::{Flaw, Pair};

/// One site.
pub struct SiteNode {
    /// Its program, while it runs.
    pub daemon: Option<Daemon>,
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Who its signer is.
    pub identity: String,
    /// Where its signer listens.
    pub address: SocketAddr,
    /// Its identity's files.
    pub pair: Pair,
    /// Its folder, with configuration and replica.
    pub dir: PathBuf,
    /// Its token.
    pub token: TestToken,
    shim: bool,
}

impl SiteNode {
    /// Makes token, folder and identity.
    pub fn prepare(
        world: &World,
        name: &str,
        region: &str,
        address: SocketAddr,
        shim: bool,
    ) -> Self {
        let identity = spiffe("signer", name);
        let pair = world.ca.identity(name, &identity, Flaw::None);
        let dir = world.dir().join(format!("{name}.d"));
        fs::create_dir(&dir).expect("the test's folder can be written");
        SiteNode {
            daemon: None,
            name: name.to_owned(),
            region: region.to_owned(),
            identity,
            address,
            pair,
            dir,
            token: TestToken::new(name).unwrap_or_else(|error| panic!("no token: {error}")),
            shim,
        }
    }

    /// The whole ceremony for these classes: request, delivery, receipt. Gives the response's file.
    ///
    /// # Panics
    /// When a step fails.
    pub fn enroll(&self, world: &World, classes: &[&str]) -> PathBuf {
        let request = self.dir.join("request.json");
        let response = self.dir.join("response.json");
        let _ = fs::remove_file(&request);
        let _ = fs::remove_file(&response);
        let mut enroll = Command::new(binary("signer-admin"));
        enroll
            .args(["kms", "site", "enroll", "--site", &self.name, "--json"])
            .arg("--module")
            .arg(self.token.module())
            .args(["--uri", &self.token.uri_with_pin()])
            .arg("--central-key")
            .arg(world.dir().join("central.pem"))
            .arg("--request")
            .arg(&request)
            .arg("--response")
            .arg(&response)
            .envs(self.token.env())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let enroll = enroll.spawn().expect("signer-admin starts");
        let asked = wait_for_json(&request);
        let fingerprint = field(&asked, "fingerprint").expect("a request has a fingerprint");
        let classes_file = world.dir().join("classes.json").display().to_string();
        world.admin(&["kms", "class", "export", &classes_file]);
        let (request, answer) = (
            request.display().to_string(),
            response.display().to_string(),
        );
        let mut arguments = vec![
            "deliver",
            "--classes",
            &classes_file,
            "--request",
            &request,
            "--fingerprint",
            &fingerprint,
            "--response",
            &answer,
        ];
        for class in classes {
            arguments.extend(["--class", class]);
        }
        world.central().ceremony(world.dir(), &arguments);
        let output = enroll.wait_with_output().expect("it is our child");
        assert!(
            output.status.success(),
            "kms site enroll: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        response
    }

    /// Writes `signer.toml`.
    pub fn write_config(&self, world: &World, sections: &str, kms: &str) {
        let mut text = format!(
            "listen = \"{}\"\n[identity]\ncertificate = \"../{name}.pem\"\nkey = \"../{name}.key\"\nca = \"../ca.pem\"\n\
             [log]\nformat = \"json\"\nlevel = \"info\"\n{sections}\n\
             [kms]\nsite = \"{name}\"\ntoken = \"main\"\ncentral_key = \"../central.pem\"\nreplica = \"replica.redb\"\n\
             peer_interval_ms = 300\n{kms}\n",
            self.address,
            name = self.name,
        );
        for central in &world.centrals {
            let _ = writeln!(
                text,
                "[[kms.central]]\naddress = \"{}\"\nidentity = \"{}\"",
                central.address, central.identity
            );
        }
        let module = match self.shim {
            true => self.token.shim().module(),
            false => self.token.module().to_path_buf(),
        };
        let _ = writeln!(
            text,
            "[[token]]\nname = \"main\"\nmodule = \"{}\"\nuri = \"{}\"",
            module.display(),
            self.token.uri_with_pin()
        );
        fs::write(self.dir.join("signer.toml"), text).expect("the test's folder can be written");
    }

    pub(super) fn command(&self, mut command: Command) -> Command {
        command
            .arg("--config")
            .arg(self.dir.join("signer.toml"))
            .envs(self.token.env());
        if self.shim {
            command.envs(self.token.shim().env());
        }
        command
    }

    pub(super) fn start(&mut self, mut command: Command) {
        let mut daemon = Daemon::spawn(&self.name, &mut command);
        daemon.must_not_log(self.token.pin());
        daemon.listening();
        self.daemon = Some(daemon);
    }

    /// Whether its program was started and not ended by the test.
    pub fn is_running(&self) -> bool {
        self.daemon.is_some()
    }

    /// Its program.
    ///
    /// # Panics
    /// When it does not run.
    pub fn running(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        drop(self.daemon.take());
    }

    /// The replica's file.
    pub fn replica(&self) -> PathBuf {
        self.dir.join("replica.redb")
    }

    /// Audit lines of operations so far: `(caller, operation, outcome)`.
    pub fn operations(&self) -> Vec<(String, String, String)> {
        let lines = self.running().log();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| field(line, "event").as_deref() == Some("operation"))
            .map(|line| {
                let text = |name| field(&line, name).unwrap_or_default();
                (text("caller"), text("operation"), text("outcome"))
            })
            .collect()
    }
}

/// Waits until a whole JSON file is there.
fn wait_for_json(path: &Path) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        {
            return value;
        }
        assert!(Instant::now() < deadline, "no {}", path.display());
        thread::sleep(Duration::from_millis(20));
    }
}

/// A file that others cannot read.
pub(super) fn write_secret(path: &Path, text: &str) {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let mut file = file.expect("the test's folder can be written");
    file.write_all(text.as_bytes())
        .expect("the test's folder can be written");
}
