//! Writes down what a site is: `signer.toml` with the keys that it names, and `proxy.toml`.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use keyhaven_softhsm_test::TestToken;

use super::{Builder, Named, PROXY, SIGNER};
use crate::pki::Ca;

impl Builder {
    /// Makes the keys and their certificates, and writes the signer's configuration.
    pub(super) fn write_signer_config(
        &self,
        dir: &Path,
        token: &TestToken,
        keeper: Option<&TestToken>,
        site_ca: &Ca,
    ) {
        let mut text = format!(
            "listen = \"127.0.0.1:0\"\n[identity]\ncertificate = \"signer.pem\"\nkey = \"signer.key\"\nca = \"ca.pem\"\n\
             [limits]\n{}[log]\nformat = \"json\"\nlevel = \"{}\"\n{}",
            self.signer_limits, self.log_level, self.signer_sections,
        );
        text.push_str(&token_lines("main", token));
        if let Some(keeper) = keeper {
            text.push_str(&token_lines("keeper", keeper));
        }
        let mut number = 0;
        for named in &self.names {
            text.push_str(&site_lines(named, keeper.is_some()));
            for key in &named.keys {
                let label = format!("key-{number}");
                let id = format!("{number:02x}");
                let made = match &self.imported {
                    Some(pem) if number == 0 => token.import_pem(pem, &label, &id),
                    _ => token.generate_key(&key.key_type, &label, &id),
                };
                made.unwrap_or_else(|error| panic!("no key: {error}"));
                let spki = token
                    .public_key(&label)
                    .unwrap_or_else(|error| panic!("no public key: {error}"));
                let names: Vec<&str> = named.names.iter().map(String::as_str).collect();
                site_ca.site(&label, &names, &spki);
                let _ = writeln!(
                    text,
                    "[[site.key]]\ntoken = \"main\"\nuri = \"{}\"\ncertificate = \"{label}.pem\"\n{}",
                    token.key_uri(&label),
                    key.options
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

fn token_lines(name: &str, token: &TestToken) -> String {
    let init = token
        .init_args()
        .map(|text| format!("init_args = \"{text}\"\n"));
    format!(
        "[[token]]\nname = \"{name}\"\nmodule = \"{}\"\nuri = \"{}\"\n{}",
        token.shim().module().display(),
        token.uri_with_pin(),
        init.unwrap_or_default(),
    )
}

fn site_lines(named: &Named, has_keeper: bool) -> String {
    let names: Vec<String> = named
        .names
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect();
    let proxies = if named.granted {
        format!("\"{PROXY}\"")
    } else {
        String::new()
    };
    let exchange = if has_keeper {
        "exchange_token = \"keeper\"\n"
    } else {
        ""
    };
    format!(
        "[[site]]\nnames = [{}]\nproxies = [{proxies}]\n{exchange}{}\n",
        names.join(", "),
        named.options
    )
}
