//! A central with its token: made by the ceremony, configured, started.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyhaven_softhsm_test::TestToken;

use super::world::{ADMIN, spiffe};
use crate::daemon::{Daemon, binary};
use crate::pki::{Ca, Flaw, Pair};

/// One central.
pub struct Central {
    /// Its program, while it runs.
    pub daemon: Option<Daemon>,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Who it is.
    pub identity: String,
    /// Its identity's files.
    pub pair: Pair,
    /// Its folder, with configuration and, on one machine, the store.
    pub dir: PathBuf,
    /// Its token; the others use the first one's, as they would use one HSM.
    token: Option<TestToken>,
    token_dir: PathBuf,
}

/// What it keeps its state in.
pub(super) enum CentralStore {
    /// A file.
    Redb,
    /// etcd, with these lines in `[store]`.
    Etcd(String),
}

impl Central {
    /// Makes token, identity and configuration.
    pub(super) fn prepare(
        world: &Path,
        name: &str,
        address: SocketAddr,
        ca: &Ca,
        store: CentralStore,
        first: Option<&Central>,
        pool: u32,
    ) -> Central {
        let identity = spiffe("central", name);
        let pair = ca.identity(name, &identity, Flaw::None);
        let dir = world.join(format!("{name}.d"));
        fs::create_dir(&dir).expect("the test's folder can be written");
        let token = first
            .is_none()
            .then(|| TestToken::new("central").unwrap_or_else(|error| panic!("no token: {error}")));
        let token_dir = match (&token, first) {
            (Some(token), _) => token.dir().to_path_buf(),
            (None, Some(first)) => first.token_dir.clone(),
            (None, None) => unreachable!("the first one has a token"),
        };
        let central = Central {
            daemon: None,
            name: name.to_owned(),
            address,
            identity,
            pair,
            dir,
            token,
            token_dir,
        };
        if central.token.is_some() {
            central.ceremony(
                world,
                &[
                    "init",
                    "--pool",
                    &pool.to_string(),
                    "--central-key",
                    "central.pem",
                ],
            );
        }
        central.write_config(world, store);
        central
    }

    /// Its token.
    pub fn token(&self) -> TestToken {
        TestToken::attach(&self.token_dir).expect("the token is there")
    }

    /// A ceremony at its token, with the SO's PIN.
    ///
    /// # Panics
    /// When it fails.
    pub fn ceremony(&self, world: &Path, arguments: &[&str]) -> String {
        let token = self.token();
        let so_pin = world.join("so-pin");
        if !so_pin.exists() {
            crate::kms::site::write_secret(&so_pin, token.so_pin());
        }
        let mut command = Command::new(binary("signer-admin"));
        command
            .args(["kms", "ceremony"])
            .args(arguments)
            .arg("--module")
            .arg(token.module())
            .args(["--uri", &token.uri_with_pin()])
            .arg("--so-pin-file")
            .arg(&so_pin)
            .arg("--json")
            .current_dir(world)
            .envs(token.env());
        let output = command.output().expect("signer-admin starts");
        assert!(
            output.status.success(),
            "kms ceremony {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn write_config(&self, world: &Path, store: CentralStore) {
        let token = self.token();
        let store = match store {
            CentralStore::Redb => "kind = \"redb\"\npath = \"store.redb\"\n".to_owned(),
            CentralStore::Etcd(lines) => lines,
        };
        let (ca, name) = (world.join("ca.pem"), &self.name);
        let text = format!(
            "listen = \"{}\"\n[identity]\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n\
             [token]\nmodule = \"{}\"\nuri = \"{}\"\n[store]\n{store}\n[admins]\nwrite = [\"{ADMIN}\"]\n\
             read = [\"{}\"]\n[log]\nformat = \"json\"\nlevel = \"info\"\n",
            self.address,
            world.join(format!("{name}.pem")).display(),
            world.join(format!("{name}.key")).display(),
            ca.display(),
            token.module().display(),
            token.uri_with_pin(),
            spiffe("admin", "auditor"),
        );
        fs::write(self.dir.join("kms-central.toml"), text)
            .expect("the test's folder can be written");
    }

    pub(super) fn command(&self, mut command: Command) -> Command {
        command
            .arg("--config")
            .arg(self.dir.join("kms-central.toml"))
            .envs(self.token().env());
        command
    }

    pub(super) fn start(&mut self, mut command: Command) {
        let mut daemon = Daemon::spawn(&self.name, &mut command);
        daemon.must_not_log(self.token().pin());
        daemon.listening();
        self.daemon = Some(daemon);
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

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store.redb")
    }
}
