//! A site that runs, and what it rests on.
//!
//! Leaves its making to `site`. The signer reaches the token through the counting module; at the end of each test every
//! key that the module saw must have kept its value, and no key may have used a nonce twice.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use keyhaven_softhsm_test::{ModuleKind, Shim, TestToken};
use tempfile::TempDir;

use crate::backend::Backend;
use crate::daemon::{Daemon, binary, field};
use crate::pki::{Ca, Pair};
use crate::readable::{Mark, is_tapped, readable_keys};
use crate::relay::Relay;

/// What a site rests on.
pub struct Parts {
    /// The backend.
    pub backend: Backend,
    /// The token with the keys.
    pub token: TestToken,
    /// The token that keeps exchange and schedule, where that is another.
    pub keeper: Option<TestToken>,
    /// The CA of our own channel.
    pub channel_ca: Ca,
    /// The CA of the sites.
    pub site_ca: Ca,
    /// The CA of the clients of sites that ask for certificates.
    pub clients_ca: Ca,
    /// The signer's identity.
    pub signer_pair: Pair,
    /// The proxy's identity.
    pub proxy_pair: Pair,
    pub(crate) dir: TempDir,
    pub(crate) env: Vec<(String, String)>,
    /// One for each token, in their order.
    pub(crate) marks: Mutex<Vec<Mark>>,
}

/// A running site. Fields are dropped in their order: the programs end before their files go.
pub struct Site {
    /// The proxy.
    pub proxy: Daemon,
    /// The signer.
    pub signer: Daemon,
    /// The relay between the two, if one was asked for.
    pub relay: Option<Relay>,
    /// What it rests on.
    pub parts: Parts,
    pub(crate) address: SocketAddr,
    pub(crate) signer_address: SocketAddr,
}

impl Parts {
    /// The folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Both tokens, or the one that there is.
    pub fn tokens(&self) -> impl Iterator<Item = &TestToken> {
        [&self.token].into_iter().chain(&self.keeper)
    }

    /// The token that keeps exchange and schedule.
    pub fn exchange(&self) -> &TestToken {
        self.keeper.as_ref().unwrap_or(&self.token)
    }

    /// Replaces a text in a file of the folder.
    ///
    /// # Panics
    /// When the text is not there.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.dir().join(file);
        let text = fs::read_to_string(&path).expect("the file is there");
        assert!(text.contains(from), "{from:?} is not in {file}:\n{text}");
        fs::write(path, text.replace(from, to)).expect("the test's folder can be written");
    }

    /// `signer` with the folder's configuration, for `--check` and the like.
    pub fn signer_command(&self) -> Command {
        let mut command = Command::new(binary("signer"));
        command.arg("--config").arg(self.dir().join("signer.toml"));
        for token in self.tokens() {
            command.envs(token.env()).envs(token.shim().env());
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the signer of the folder's `signer.toml`.
    pub fn spawn_signer(&self) -> Daemon {
        let mut signer = Daemon::spawn("signer", &mut self.signer_command());
        for token in self.tokens() {
            signer.must_not_log(token.pin());
        }
        signer
    }

    /// Starts the proxy of the folder's `proxy.toml`: the build that notes each nonce.
    pub fn spawn_proxy(&self) -> Daemon {
        self.spawn_proxy_build("proxy-nonce-log")
    }

    /// Starts another build of the proxy, and waits until it knows of each signer whether it can be used.
    pub fn spawn_proxy_build(&self, program: &str) -> Daemon {
        let config = fs::read_to_string(self.dir().join("proxy.toml")).expect("it is written");
        let signers = config.matches("[[signer]]").count();
        let proxy = Daemon::spawn("proxy", &mut self.proxy_command(program));
        let known = RefCell::new(HashSet::new());
        proxy.wait_for("word of its signers", |line| {
            let message = field(line, "message").unwrap_or_default();
            if message == "connected" || message == "not connected" {
                known.borrow_mut().extend(field(line, "address"));
            }
            known.borrow().len() >= signers
        });
        proxy
    }

    /// A build of the proxy with the folder's configuration.
    pub fn proxy_command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        command
            .arg("--config")
            .arg(self.dir().join("proxy.toml"))
            .env("KEYHAVEN_NONCE_LOG", self.dir());
        command
    }

    /// From here on keys must not be readable: the signer has done its self-tests.
    pub fn mark(&self) {
        *self.marks.lock().expect("no test fails in between") =
            self.tokens().map(Mark::of).collect();
    }

    /// No key could be read right after its creation since the mark.
    ///
    /// Without a mark nothing is known. Where the key block of TLS 1.2 is handed out as a key, only a token that was
    /// listened to can tell.
    pub fn check_keys_unreadable(&self) {
        for (token, mark) in self
            .tokens()
            .zip(self.marks.lock().expect("no test fails in between").iter())
        {
            if is_tapped(token) || !makes_key_blocks(token.kind()) {
                let readable = readable_keys(token, *mark);
                assert!(
                    readable.is_empty(),
                    "a key's value could be read: {readable:?}"
                );
            }
        }
    }

    /// Every (key, nonce) that a proxy of this folder has encrypted under, in the order of use.
    pub fn nonces(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir())
            .expect("the test's folder can be read")
            .flatten();
        let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("nonces-"));
        let texts = logs.map(|file| fs::read_to_string(file.path()).expect("the log can be read"));
        texts
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }
}

impl Site {
    /// Where TLS clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where proxies connect.
    pub fn signer_address(&self) -> SocketAddr {
        self.signer_address
    }

    /// The file of the sites' CA.
    pub fn ca(&self) -> PathBuf {
        self.dir().join("site-ca.pem")
    }

    /// The site's folder.
    pub fn dir(&self) -> &Path {
        self.parts.dir()
    }

    /// The backend.
    pub fn backend(&self) -> &Backend {
        &self.parts.backend
    }

    /// The token.
    pub fn token(&self) -> &TestToken {
        &self.parts.token
    }

    /// The counting module.
    pub fn shim(&self) -> Shim {
        self.parts.token.shim()
    }

    /// The counting module of the token that keeps exchange and schedule.
    pub fn exchange_shim(&self) -> Shim {
        self.parts.exchange().shim()
    }

    /// Has the signer read its files again, and waits until they are taken over.
    pub fn reload(&self) {
        let first = self.signer.log().len();
        self.signer.hang_up();
        self.signer.wait_from(first, "a reload", |line| {
            field(line, "message").as_deref() == Some("configuration taken over")
        });
    }

    /// Ends the signer and starts another at the same address, as after an update. The proxy finds it again.
    ///
    /// # Panics
    /// When a relay is in between.
    pub fn restart_signer(&mut self) {
        assert!(self.relay.is_none(), "the relay knows the old signer");
        self.signer.stop();
        let listen = format!("listen = \"{}\"", self.signer_address);
        self.parts
            .edit("signer.toml", "listen = \"127.0.0.1:0\"", &listen);
        let first = self.proxy.log().len();
        self.signer = self.parts.spawn_signer();
        assert_eq!(self.signer.listening(), self.signer_address);
        self.parts.mark();
        self.parts
            .edit("signer.toml", &listen, "listen = \"127.0.0.1:0\"");
        self.proxy.wait_from(first, "its signer again", |line| {
            field(line, "message").as_deref() == Some("connected")
        });
    }

    /// Stops the signer and gives the counters that it says last.
    pub fn signer_counters(&mut self) -> impl Fn(&str) -> u64 + use<> {
        self.signer.stop();
        let line = self.signer.wait_for("its counters", |line| {
            line.to_string().contains("\"message\":\"counters\"")
        });
        move |name| {
            field(&line, name)
                .and_then(|text| text.parse().ok())
                .unwrap_or(u64::MAX)
        }
    }

    /// Every key that the counting module saw has kept its value.
    pub fn check_keys_unreadable(&self) {
        assert!(
            self.exchange_shim().report().examined() > 0,
            "no key was examined"
        );
        self.parts.check_keys_unreadable();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_keys_unreadable();
        }
    }
}

/// Whatever ran in this folder, several proxies and signers included.
impl Drop for Parts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_keys_unreadable();
            check_nonces_unique(&self.nonces());
        }
    }
}

/// Whether a module hands out the key block of TLS 1.2 as a key.
pub(crate) fn makes_key_blocks(kind: ModuleKind) -> bool {
    matches!(
        kind,
        ModuleKind::Kryoptic | ModuleKind::KryopticModern | ModuleKind::Nss
    )
}

/// No key protects two records with one nonce.
pub fn check_nonces_unique(nonces: &[String]) {
    let mut seen = HashSet::new();
    for used in nonces {
        assert!(seen.insert(used), "a nonce was used twice: {used}");
    }
}
