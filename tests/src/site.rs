//! A whole site on the loopback: token, certificates, backend, signer, proxy.
//!
//! Describes the site; `config` writes it down, and what runs is in `running`. Every site has its tokens, a PKI and a
//! folder of its own.

mod config;

use std::path::{Path, PathBuf};

use keyhaven_softhsm_test::{ModuleKind, TestToken};

use crate::backend::{Backend, Manner};
use crate::pki::{Ca, Flaw, Pair};
use crate::relay::{Relay, Rule};
use crate::running::{Parts, Site, makes_key_blocks};

/// The identity of the proxy.
pub const PROXY: &str = "spiffe://keyhaven.test/proxy/edge-1";
/// The identity of the signer.
pub const SIGNER: &str = "spiffe://keyhaven.test/signer/main";

/// What a site is to be like.
#[must_use]
pub struct Builder {
    names: Vec<Named>,
    module: ModuleKind,
    exchange: Option<ModuleKind>,
    tap: Option<bool>,
    signer_sections: String,
    signer_limits: String,
    proxy_limits: String,
    proxy_options: String,
    manner: Manner,
    relay: Option<Rule>,
    proxy_flaw: Flaw,
    proxy_identity: String,
    foreign_proxy: bool,
    log_level: &'static str,
    program: &'static str,
    imported: Option<PathBuf>,
    signer_env: Vec<(String, String)>,
    token_faults: &'static str,
    exchange_faults: &'static str,
}

struct Named {
    names: Vec<String>,
    keys: Vec<Key>,
    options: String,
    granted: bool,
}

struct Key {
    key_type: String,
    options: String,
}

/// A site with one name, `site.keyhaven.test`, and one key of this type (`EC:prime256v1`, `rsa:2048`, …).
pub fn site(key: &str) -> Builder {
    empty_site().name(NAME, &[key])
}

/// A site without names.
pub fn empty_site() -> Builder {
    Builder {
        names: Vec::new(),
        module: ModuleKind::SoftHsm2,
        exchange: None,
        tap: None,
        signer_sections: String::new(),
        signer_limits: String::new(),
        proxy_limits: String::new(),
        proxy_options: String::new(),
        manner: Manner::Http,
        relay: None,
        proxy_flaw: Flaw::None,
        proxy_identity: PROXY.to_owned(),
        foreign_proxy: false,
        log_level: "info",
        program: "proxy-nonce-log",
        imported: None,
        signer_env: Vec::new(),
        token_faults: "",
        exchange_faults: "",
    }
}

/// The name of [`site`].
pub const NAME: &str = "site.keyhaven.test";
/// One of each kind of key.
pub const KEY_TYPES: &[&str] = &[
    "EC:prime256v1",
    "EC:secp384r1",
    "EC:edwards25519",
    "rsa:2048",
];

impl Key {
    fn new(key_type: &str) -> Key {
        Key {
            key_type: key_type.to_owned(),
            options: String::new(),
        }
    }
}

impl Builder {
    /// One more name with its keys, in order of preference.
    pub fn name(mut self, name: &str, keys: &[&str]) -> Builder {
        self.names.push(Named {
            names: vec![name.to_owned()],
            keys: keys.iter().map(|key| Key::new(key)).collect(),
            options: String::new(),
            granted: true,
        });
        self
    }

    /// Lines for the `[[site]]` of the name added last.
    pub fn options(mut self, lines: &str) -> Builder {
        let named = self.names.last_mut().expect("a name was added");
        named.options.push_str(lines);
        named.options.push('\n');
        self
    }

    /// Lines for the `[[site.key]]` of the key added last.
    pub fn key_options(mut self, lines: &str) -> Builder {
        let named = self.names.last_mut().expect("a name was added");
        let key = named.keys.last_mut().expect("it has a key");
        key.options.push_str(lines);
        key.options.push('\n');
        self
    }

    /// One more key of the name added last.
    pub fn key(mut self, key: &str) -> Builder {
        let named = self.names.last_mut().expect("a name was added");
        named.keys.push(Key::new(key));
        self
    }

    /// The module whose token has the keys; SoftHSM2 unless said.
    pub fn token(mut self, kind: ModuleKind) -> Builder {
        self.module = kind;
        self
    }

    /// A second token, of this module, keeps the exchange and the schedule.
    pub fn exchange(mut self, kind: impl Into<Option<ModuleKind>>) -> Builder {
        self.exchange = kind.into();
        self
    }

    /// Whether to listen to all that the tokens give, from the signer's start on. Unless said, that is done where
    /// only a closer look tells whether a key could be read.
    pub fn tap(mut self, tap: bool) -> Builder {
        self.tap = Some(tap);
        self
    }

    /// Turns tickets on, with these lines in `[tickets]`.
    pub fn tickets(self, lines: &str) -> Builder {
        self.section("tickets", lines)
    }

    /// A section of the signer's file.
    pub fn section(mut self, name: &str, lines: &str) -> Builder {
        self.signer_sections
            .push_str(&format!("[{name}]\n{lines}\n"));
        self
    }

    /// Clients of the name added last are asked for a certificate: `optional` or `required`. The CA is
    /// [`Parts::clients_ca`].
    pub fn client_auth(self, mode: &str) -> Builder {
        self.options(&format!(
            "client_auth = \"{mode}\"\nclient_ca = \"clients-ca.pem\""
        ))
    }

    /// The proxy may not use the name added last.
    pub fn not_granted(mut self) -> Builder {
        self.names.last_mut().expect("a name was added").granted = false;
        self
    }

    /// Lines for the signer's `[limits]`.
    pub fn signer_limits(mut self, lines: &str) -> Builder {
        self.signer_limits.push_str(lines);
        self.signer_limits.push('\n');
        self
    }

    /// Lines for the proxy's `[limits]`.
    pub fn proxy_limits(mut self, lines: &str) -> Builder {
        self.proxy_limits.push_str(lines);
        self.proxy_limits.push('\n');
        self
    }

    /// Lines at the top of the proxy's file.
    pub fn proxy_options(mut self, lines: &str) -> Builder {
        self.proxy_options.push_str(lines);
        self.proxy_options.push('\n');
        self
    }

    /// What the backend does; HTTP unless said.
    pub fn backend(mut self, manner: Manner) -> Builder {
        self.manner = manner;
        self
    }

    /// Puts a relay between proxy and signer that sees every frame, and changes what `rule` changes.
    pub fn relay(mut self, rule: Rule) -> Builder {
        self.relay = Some(rule);
        self
    }

    /// Something is wrong with the proxy's own certificate.
    pub fn proxy_flaw(mut self, flaw: Flaw) -> Builder {
        self.proxy_flaw = flaw;
        self
    }

    /// The proxy's identity; [`PROXY`] unless said. The grants stay with [`PROXY`].
    pub fn proxy_identity(mut self, identity: &str) -> Builder {
        self.proxy_identity = identity.to_owned();
        self
    }

    /// The proxy's certificate comes from another CA.
    pub fn foreign_proxy(mut self) -> Builder {
        self.foreign_proxy = true;
        self
    }

    /// Another build of the proxy; the one that notes each nonce unless said.
    pub fn program(mut self, program: &'static str) -> Builder {
        self.program = program;
        self
    }

    /// The first key is this one (PEM, PKCS#8), imported, and not made in the token.
    pub fn imported(mut self, pem: &Path) -> Builder {
        self.imported = Some(pem.to_path_buf());
        self
    }

    /// Logs at this level; `info` unless said.
    pub fn log_level(mut self, level: &'static str) -> Builder {
        self.log_level = level;
        self
    }

    /// A variable in the signer's environment.
    pub fn signer_env(mut self, name: &str, value: &str) -> Builder {
        self.signer_env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Faults of the token that are there before the signer starts.
    pub fn token_faults(mut self, faults: &'static str) -> Builder {
        self.token_faults = faults;
        self
    }

    /// The same for the second token.
    pub fn exchange_faults(mut self, faults: &'static str) -> Builder {
        self.exchange_faults = faults;
        self
    }

    /// Makes token, certificates, backend and the signer's configuration, and starts neither program.
    pub fn prepare(&self) -> Parts {
        let dir = tempfile::Builder::new()
            .prefix("keyhaven-site-")
            .tempdir()
            .expect("a folder can be made");
        let made = |kind, label| {
            TestToken::of(kind, label).unwrap_or_else(|error| panic!("no token: {error}"))
        };
        let token = made(self.module, "site");
        let keeper = self.exchange.map(|kind| made(kind, "keeper"));
        let channel_ca = Ca::new(dir.path(), "ca");
        let site_ca = Ca::new(dir.path(), "site-ca");
        let clients_ca = Ca::new(dir.path(), "clients-ca");
        let signer_pair = channel_ca.identity("signer", SIGNER, Flaw::None);
        let proxy_pair = self.proxy_pair(&channel_ca, dir.path());
        self.write_signer_config(dir.path(), &token, keeper.as_ref(), &site_ca);
        for (token, faults) in [
            (Some(&token), self.token_faults),
            (keeper.as_ref(), self.exchange_faults),
        ] {
            let Some(token) = token else { continue };
            if !faults.is_empty() {
                token.shim().set_faults(faults);
            }
            if self.tap.unwrap_or(makes_key_blocks(token.kind())) {
                token.shim().tap();
            }
        }
        let backend = Backend::start(self.manner);
        Parts {
            backend,
            token,
            keeper,
            channel_ca,
            site_ca,
            clients_ca,
            signer_pair,
            proxy_pair,
            dir,
            env: self.signer_env.clone(),
            marks: Default::default(),
        }
    }

    /// Makes it all and waits until both programs listen.
    pub fn start(self) -> Site {
        let parts = self.prepare();
        self.start_with(parts)
    }

    /// The same with parts that were prepared.
    pub fn start_with(mut self, parts: Parts) -> Site {
        let signer = parts.spawn_signer();
        let signer_address = signer.listening();
        parts.mark();
        let relay = self
            .relay
            .take()
            .map(|rule| Relay::start(signer_address, &parts.signer_pair, &parts.proxy_pair, rule));
        let towards_signer = relay.as_ref().map_or(signer_address, Relay::address);
        self.write_proxy_config(parts.dir.path(), &[towards_signer], parts.backend.address());
        let proxy = parts.spawn_proxy_build(self.program);
        let address = proxy.listening();
        Site {
            proxy,
            signer,
            relay,
            parts,
            address,
            signer_address,
        }
    }

    fn proxy_pair(&self, channel_ca: &Ca, dir: &Path) -> Pair {
        if !self.foreign_proxy {
            return channel_ca.identity("proxy", &self.proxy_identity, self.proxy_flaw);
        }
        Ca::new(dir, "foreign-ca").identity("proxy", &self.proxy_identity, self.proxy_flaw)
    }
}
