//! Writes `signer.toml` and `proxy.toml` of a site.
//!
//! Sets only what differs from the defaults; `config/*.toml` explain every key. Paths are relative to the
//! folder, so that the daemons can be started from it by hand.

use std::net::SocketAddr;

use toml::{Table, Value};

use super::{
    Folder, SERVER_NAMES,
    pki::{PROXY_IDENTITY, SIGNER_IDENTITY},
    token::{KEY_LABEL, TOKEN_LABEL},
    write_file,
};
use crate::Error;

/// What differs from site to site.
#[derive(Clone, Copy, Debug)]
pub struct SiteOptions {
    /// Where the signer listens.
    pub signer: SocketAddr,
    /// Where the proxy listens.
    pub listen: SocketAddr,
    /// The plaintext backend.
    pub backend: SocketAddr,
    /// The highest custody level to use, if not the highest that is proven.
    pub custody_max: Option<&'static str>,
}

/// Writes both files.
pub fn write(folder: &Folder, options: &SiteOptions) -> Result<(), Error> {
    for (daemon, table) in [("signer", signer(options)), ("proxy", proxy(options))] {
        let text =
            format!("# {daemon} of the demo. config/{daemon}.toml explains every key.\n\n{table}");
        write_file(folder.config(daemon), text)?;
    }
    Ok(())
}

fn signer(options: &SiteOptions) -> Table {
    let mut site = toml::toml! {
        alpn = ["http/1.1"]
        custody_min = "signature"
    };
    site.insert("names".to_owned(), list(SERVER_NAMES));
    site.insert("proxies".to_owned(), list(&[PROXY_IDENTITY]));
    if let Some(level) = options.custody_max {
        site.insert("custody_max".to_owned(), level.into());
    }
    let key = table(&[
        ("token", "main".into()),
        (
            "uri",
            format!("pkcs11:object={KEY_LABEL};type=private").into(),
        ),
        ("certificate", "demo.pem".into()),
    ]);
    site.insert("key".to_owned(), Value::Array(vec![key.into()]));
    let token = table(&[
        ("name", "main".into()),
        (
            "uri",
            format!("pkcs11:token={TOKEN_LABEL}?pin-source=file:pin").into(),
        ),
    ]);
    table(&[
        ("listen", options.signer.to_string().into()),
        ("identity", identity("signer").into()),
        ("limits", table(&[("shutdown_grace_s", 5.into())]).into()),
        ("log", json_log().into()),
        ("token", Value::Array(vec![token.into()])),
        ("site", Value::Array(vec![site.into()])),
    ])
}

fn proxy(options: &SiteOptions) -> Table {
    let signer = table(&[
        ("address", options.signer.to_string().into()),
        ("identity", SIGNER_IDENTITY.into()),
    ]);
    table(&[
        ("listen", options.listen.to_string().into()),
        ("backend", options.backend.to_string().into()),
        ("identity", identity("proxy").into()),
        ("limits", table(&[("shutdown_grace_s", 3.into())]).into()),
        ("log", json_log().into()),
        ("signer", Value::Array(vec![signer.into()])),
    ])
}

fn identity(name: &str) -> Table {
    table(&[
        ("certificate", format!("pki/{name}.pem").into()),
        ("key", format!("pki/{name}.key").into()),
        ("ca", "pki/ca.pem".into()),
    ])
}

fn json_log() -> Table {
    table(&[("format", "json".into()), ("level", "info".into())])
}

fn list(values: &[&str]) -> Value {
    Value::Array(values.iter().map(|value| Value::from(*value)).collect())
}

fn table(entries: &[(&str, Value)]) -> Table {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_toml() {
        let options = SiteOptions {
            signer: ([127, 0, 0, 1], 7443).into(),
            listen: ([127, 0, 0, 1], 8443).into(),
            backend: ([127, 0, 0, 1], 8080).into(),
            custody_max: Some("signature"),
        };
        let signer: Table = signer(&options).to_string().parse().unwrap();
        assert_eq!(signer["site"][0]["key"][0]["token"].as_str(), Some("main"));
        assert_eq!(signer["site"][0]["custody_max"].as_str(), Some("signature"));
        let proxy: Table = proxy(&options).to_string().parse().unwrap();
        assert_eq!(
            proxy["signer"][0]["address"].as_str(),
            Some("127.0.0.1:7443")
        );
    }
}
