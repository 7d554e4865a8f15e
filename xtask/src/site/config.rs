//! Writes `signer.toml` and `proxy.toml` of a site.
//!
//! Sets only what differs from the defaults; `config/*.toml` explain every key. Paths are relative to the
//! folder, so that the daemons can be started from it by hand.

use std::net::SocketAddr;

use toml::{Table, Value};

use super::{
    Folder, SERVER_NAMES,
    pki::{PROXY_IDENTITY, SIGNER_IDENTITY},
    token::{KEY_LABEL, Token, Tokens},
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
    /// The level that must be reached.
    pub custody_min: &'static str,
    /// The highest custody level to use, if not the highest that is proven.
    pub custody_max: Option<&'static str>,
    /// Whether clients get session tickets, also those of TLS 1.2.
    pub tickets: Tickets,
}

/// Which sessions can be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tickets {
    /// None.
    Off,
    /// Those of TLS 1.3.
    Tls13,
    /// Those of both versions.
    Both,
}

/// Writes both files.
pub fn write(folder: &Folder, tokens: &Tokens<'_>, options: &SiteOptions) -> Result<(), Error> {
    let sections: Vec<Table> = tokens.all().map(section).collect();
    for (daemon, table) in [
        ("signer", signer(&sections, options)),
        ("proxy", proxy(options)),
    ] {
        let text =
            format!("# {daemon} of the demo. config/{daemon}.toml explains every key.\n\n{table}");
        write_file(folder.config(daemon), text)?;
    }
    Ok(())
}

/// The token that has the key stands first; a second one keeps exchange and key schedule.
fn signer(tokens: &[Table], options: &SiteOptions) -> Table {
    let name = |index: usize| {
        tokens
            .get(index)
            .and_then(|token| token.get("name"))
            .cloned()
    };
    let mut site = toml::toml! {
        alpn = ["http/1.1"]
    };
    site.insert("names".to_owned(), list(SERVER_NAMES));
    site.insert("proxies".to_owned(), list(&[PROXY_IDENTITY]));
    site.insert("custody_min".to_owned(), options.custody_min.into());
    if let Some(level) = options.custody_max {
        site.insert("custody_max".to_owned(), level.into());
    }
    if let Some(exchange) = name(1) {
        site.insert("exchange_token".to_owned(), exchange);
    }
    let mut key = table(&[
        (
            "uri",
            format!("pkcs11:object={KEY_LABEL};type=private").into(),
        ),
        ("certificate", "demo.pem".into()),
    ]);
    key.extend(name(0).map(|name| ("token".to_owned(), name)));
    site.insert("key".to_owned(), Value::Array(vec![key.into()]));
    let mut signer = table(&[
        ("listen", options.signer.to_string().into()),
        ("identity", identity("signer").into()),
        ("limits", table(&[("shutdown_grace_s", 5.into())]).into()),
        ("log", json_log().into()),
        (
            "token",
            Value::Array(tokens.iter().cloned().map(Value::from).collect()),
        ),
        ("site", Value::Array(vec![site.into()])),
    ]);
    let tls12 = options.tickets == Tickets::Both;
    if options.tickets != Tickets::Off {
        let tickets = table(&[("tls12", tls12.into())]);
        signer.insert("tickets".to_owned(), tickets.into());
    }
    signer
}

/// A `[[token]]`. The PIN's place is relative to the file.
fn section(token: &Token<'_>) -> Table {
    let (name, uri) = (token.name(), token.bare_uri());
    let mut section = table(&[
        ("name", name.into()),
        ("module", token.module().display().to_string().into()),
        (
            "uri",
            format!("{uri}?pin-source=file:tokens/{name}/pin").into(),
        ),
    ]);
    section.extend(
        token
            .init_args()
            .map(|text| ("init_args".to_owned(), text.into())),
    );
    section
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

    fn options() -> SiteOptions {
        SiteOptions {
            signer: ([127, 0, 0, 1], 7443).into(),
            listen: ([127, 0, 0, 1], 8443).into(),
            backend: ([127, 0, 0, 1], 8080).into(),
            custody_min: "signature",
            custody_max: Some("signature"),
            tickets: Tickets::Off,
        }
    }

    fn token(name: &str) -> Table {
        table(&[("name", name.into())])
    }

    #[test]
    fn what_is_written_is_toml() {
        let signer = signer(&[token("main")], &options()).to_string();
        let signer: Table = signer.parse().unwrap();
        assert_eq!(signer["site"][0]["key"][0]["token"].as_str(), Some("main"));
        assert_eq!(signer["site"][0]["custody_max"].as_str(), Some("signature"));
        assert!(signer["site"][0].get("exchange_token").is_none());
        assert!(signer.get("tickets").is_none());
        let proxy: Table = proxy(&options()).to_string().parse().unwrap();
        assert_eq!(
            proxy["signer"][0]["address"].as_str(),
            Some("127.0.0.1:7443")
        );
    }

    #[test]
    fn the_second_token_keeps_what_is_not_the_key() {
        let options = SiteOptions {
            tickets: Tickets::Tls13,
            ..options()
        };
        let signer = signer(&[token("main"), token("keeper")], &options);
        assert_eq!(signer["site"][0]["key"][0]["token"].as_str(), Some("main"));
        let exchange = &signer["site"][0]["exchange_token"];
        assert_eq!(exchange.as_str(), Some("keeper"));
        assert_eq!(signer["token"].as_array().unwrap().len(), 2);
        assert_eq!(signer["tickets"]["tls12"].as_bool(), Some(false));
    }
}
