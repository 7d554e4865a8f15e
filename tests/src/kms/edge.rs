//! A proxy in front of the sites: it finds the signers of a name by lookup.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::World;
use super::world::spiffe;
use crate::backend::{Backend, Manner};
use crate::daemon::Daemon;
use crate::http;
use crate::rustls_client::{Offer, connect};

/// A proxy with its backend.
pub struct Edge {
    /// Its program.
    pub daemon: Daemon,
    /// Where clients connect.
    pub address: SocketAddr,
    _backend: Backend,
    ca: PathBuf,
}

impl World {
    /// Starts a proxy of this name that knows these sites to begin with, at the test's own node. It is granted
    /// nothing by this.
    pub fn start_edge(&self, name: &str, sites: &[&str], lines: &str) -> Edge {
        let backend = Backend::start(Manner::Http);
        let pair = self.identity("proxy", name);
        let mut text = format!(
            "listen = \"127.0.0.1:0\"\nbackend = \"{}\"\n[identity]\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"ca.pem\"\n\
             [lookup]\nenabled = true\nrefresh_ms = 300\n{lines}\n[log]\nformat = \"json\"\nlevel = \"info\"\n",
            backend.address(),
            pair.certificate.display(),
            pair.key.display(),
        );
        for site in sites {
            let site = self.site(site);
            let _ = writeln!(
                text,
                "[[signer]]\naddress = \"{}\"\nidentity = \"{}\"",
                site.address, site.identity
            );
        }
        let config = self.dir().join(format!("proxy-{name}.toml"));
        fs::write(&config, text).expect("the test's folder can be written");
        let mut command = std::process::Command::new(crate::daemon::binary("proxy"));
        command.arg("--config").arg(config);
        let daemon = Daemon::spawn(name, &mut command);
        let address = daemon.listening();
        daemon.wait_for_text("connected");
        Edge {
            daemon,
            address,
            _backend: backend,
            ca: self.dir().join("site-ca.pem"),
        }
    }

    /// Lets a proxy serve with a key.
    pub fn grant_proxy(&self, name: &str, key: &str) {
        self.grant(&spiffe("proxy", name), key, &["handshake"]);
    }

    /// Site of the last handshake that was proven: whose log has most of them since `before`.
    pub fn proven(&self, site: &str) -> usize {
        let lines = self.site(site).running().log();
        lines
            .iter()
            .filter(|line| line.contains("\"proven\""))
            .count()
    }
}

impl Edge {
    /// One request over a connection of its own.
    pub fn get(&self, host: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = connect(self.address, host, &self.ca, &Offer::default())?;
        http::exchange(&mut stream, &http::get("/bytes/10"))
    }

    /// The DER of the certificate that a host shows.
    pub fn certificate(&self, host: &str) -> std::io::Result<Vec<u8>> {
        let stream = connect(self.address, host, &self.ca, &Offer::default())?;
        let chain = stream.conn.peer_certificates().unwrap_or_default();
        chain
            .first()
            .map(|leaf| leaf.to_vec())
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}
