//! A whole site on the loopback: token, certificates, backend, signer, proxy.
//!
//! Describes the site and writes its configuration; what runs is in `running`. Every site has a token, a PKI and
//! a folder of its own.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use keyhaven_softhsm_test::TestToken;

use crate::backend::{Backend, Manner};
use crate::pki::{Ca, Flaw, Pair};
use crate::relay::{Relay, Rule};
use crate::running::{Parts, Site};

/// The identity of the proxy.
pub const PROXY: &str = "spiffe://keyhaven.test/proxy/edge-1";
/// The identity of the signer.
pub const SIGNER: &str = "spiffe://keyhaven.test/signer/main";

/// What a site is to be like.
#[must_use]
pub struct Builder {
    names: Vec<Named>,
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
}

struct Named {
    names: Vec<String>,
    keys: Vec<String>,
    options: String,
    granted: bool,
}

/// A site with one name, `site.keyhaven.test`, and one key of this type (`EC:prime256v1`, `rsa:2048`, …).
pub fn site(key: &str) -> Builder {
    empty_site().name(NAME, &[key])
}

/// A site without names.
pub fn empty_site() -> Builder {
    Builder {
        names: Vec::new(),
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

impl Builder {
    /// One more name with its keys, in order of preference.
    pub fn name(mut self, name: &str, keys: &[&str]) -> Builder {
        self.names.push(Named {
            names: vec![name.to_owned()],
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
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

    /// Makes token, certificates, backend and the signer's configuration, and starts neither program.
    pub fn prepare(&self) -> Parts {
        let dir = tempfile::Builder::new()
            .prefix("keyhaven-site-")
            .tempdir()
            .expect("a folder can be made");
        let token = TestToken::new("site").unwrap_or_else(|error| panic!("no token: {error}"));
        let channel_ca = Ca::new(dir.path(), "ca");
        let site_ca = Ca::new(dir.path(), "site-ca");
        let signer_pair = channel_ca.identity("signer", SIGNER, Flaw::None);
        let proxy_pair = self.proxy_pair(&channel_ca, dir.path());
        self.write_signer_config(dir.path(), &token, &site_ca);
        if !self.token_faults.is_empty() {
            token.shim().set_faults(self.token_faults);
        }
        let backend = Backend::start(self.manner);
        Parts {
            backend,
            token,
            channel_ca,
            site_ca,
            signer_pair,
            proxy_pair,
            dir,
            env: self.signer_env.clone(),
        }
    }

    /// Makes it all and waits until both programs listen.
    pub fn start(mut self) -> Site {
        let parts = self.prepare();
        let signer = parts.spawn_signer();
        let signer_address = signer.listening();
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

    fn write_signer_config(&self, dir: &Path, token: &TestToken, site_ca: &Ca) {
        let mut text = format!(
            "listen = \"127.0.0.1:0\"\n[identity]\ncertificate = \"signer.pem\"\nkey = \"signer.key\"\nca = \"ca.pem\"\n\
             [limits]\n{}[log]\nformat = \"json\"\nlevel = \"{}\"\n\
             [[token]]\nname = \"main\"\nmodule = \"{}\"\nuri = \"{}\"\n",
            self.signer_limits,
            self.log_level,
            token.shim().module().display(),
            token.uri_with_pin(),
        );
        let mut number = 0;
        for named in &self.names {
            let names = named
                .names
                .iter()
                .map(|name| format!("\"{name}\""))
                .collect::<Vec<_>>()
                .join(", ");
            let proxies = if named.granted {
                format!("\"{PROXY}\"")
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "[[site]]\nnames = [{names}]\nproxies = [{proxies}]\n{}",
                named.options
            );
            for key in &named.keys {
                let label = format!("key-{number}");
                let id = format!("{number:02x}");
                let made = match &self.imported {
                    Some(pem) if number == 0 => token.import_pem(pem, &label, &id),
                    _ => token.generate_key(key, &label, &id),
                };
                made.unwrap_or_else(|error| panic!("no key: {error}"));
                let spki = token
                    .public_key(&label)
                    .unwrap_or_else(|error| panic!("no public key: {error}"));
                let names: Vec<&str> = named.names.iter().map(String::as_str).collect();
                site_ca.site(&label, &names, &spki);
                let _ = writeln!(
                    text,
                    "[[site.key]]\ntoken = \"main\"\nuri = \"pkcs11:object={label};type=private\"\n\
                     certificate = \"{label}.pem\""
                );
                number += 1;
            }
        }
        fs::write(dir.join("signer.toml"), text).expect("the test's folder can be written");
    }

    /// Writes the proxy's configuration for these signers.
    pub fn write_proxy_config(&self, dir: &Path, signers: &[SocketAddr], backend: SocketAddr) {
        let mut text = format!(
            "listen = \"127.0.0.1:0\"\nbackend = \"{backend}\"\n{}\
             [identity]\ncertificate = \"proxy.pem\"\nkey = \"proxy.key\"\nca = \"ca.pem\"\n",
            self.proxy_options
        );
        for address in signers {
            let _ = writeln!(
                text,
                "[[signer]]\naddress = \"{address}\"\nidentity = \"{SIGNER}\""
            );
        }
        let _ = write!(
            text,
            "[limits]\nhandshakes_per_client_max = 100000\n{}[log]\nformat = \"json\"\nlevel = \"{}\"\n",
            self.proxy_limits, self.log_level
        );
        fs::write(dir.join("proxy.toml"), text).expect("the test's folder can be written");
    }
}
