//! One measurement: so many handshakes of one kind, and the processor time that they took of each server.
//!
//! Knows servers as running daemons and nothing else of them. A measurement with a failed handshake is an error, not a
//! figure.

use std::{net::SocketAddr, time::Duration};

use keyhaven_xtask::{
    Error,
    client::{Client, Handshake, Version},
    daemon::Daemon,
    interrupt::Interrupt,
    site::{Folder, SERVER_NAME},
};
use rustls::crypto::{
    SupportedKxGroup,
    aws_lc_rs::kx_group::{SECP256R1, X25519},
};

use crate::load::Load;

/// A kind of handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) version: Version,
    /// The group by rustls's name.
    pub(crate) group: String,
    pub(crate) resumed: bool,
}

/// Microseconds of processor time for each handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Of the program that the client talks to.
    pub(crate) frontend_us: f64,
    /// Of the signer.
    pub(crate) signer_us: f64,
    /// Which share of one processor the servers used; well below 1, the load client was the limit.
    pub(crate) busy: f64,
}

/// How much is measured at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) handshakes: u32,
    /// Slow tokens stop here.
    pub(crate) time: Duration,
}

/// The servers that clients of a site talk to.
pub(crate) struct Target<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) address: SocketAddr,
    /// The frontend, and the signer where there is one.
    pub(crate) daemons: Vec<&'a Daemon>,
}

impl Target<'_> {
    /// Measures one kind of handshake, after a tenth as many to warm up.
    pub(crate) fn measure(
        &self,
        shape: &Shape,
        extent: Extent,
        interrupt: &Interrupt,
    ) -> Result<Sample, Error> {
        let load = self.load(shape)?;
        load.prime()?;
        load.run(extent.handshakes / 10, extent.time / 4, interrupt)?;
        let before = self.cpu_times()?;
        let done = load.run(extent.handshakes, extent.time, interrupt)?;
        let after = self.cpu_times()?;
        let spent = |index: usize| match (after.get(index), before.get(index)) {
            (Some(after), Some(before)) => after.saturating_sub(*before).as_secs_f64(),
            _ => 0.0,
        };
        let micros = |seconds: f64| seconds * 1e6 / f64::from(done.handshakes.max(1));
        Ok(Sample {
            frontend_us: micros(spent(0)),
            signer_us: micros(spent(1)),
            busy: (spent(0) + spent(1)) / done.took.as_secs_f64(),
        })
    }

    /// The group that this site likes best: in TLS 1.2 the server chooses it.
    pub(crate) fn preferred_group(&self) -> Result<String, Error> {
        let client = self.client(Version::Tls12, BOTH)?;
        let made = client.handshake(self.address);
        made.map(|made| made.group).map_err(|error| Error::Request {
            version: Version::Tls12.as_str(),
            why: error.to_string(),
        })
    }

    /// Clients that make this kind of handshake.
    pub(crate) fn load(&self, shape: &Shape) -> Result<Load, Error> {
        // In TLS 1.2 the curve of an ECDSA certificate must be among the client's groups (RFC 8422, section 5.1), so
        // P-256 stands behind X25519, and the server chooses.
        let groups = match (shape.version, shape.group.as_str()) {
            (Version::Tls12, "X25519") => BOTH,
            (_, "X25519") => &BOTH[..1],
            _ => &BOTH[1..],
        };
        let client = self.client(shape.version, groups)?;
        let expected = Handshake {
            group: shape.group.clone(),
            resumed: shape.resumed,
        };
        Ok(Load::new(&client, self.address, expected))
    }

    fn client(
        &self,
        version: Version,
        groups: &[&'static dyn SupportedKxGroup],
    ) -> Result<Client, Error> {
        let ca = std::fs::read(self.folder.site_ca()).map_err(|source| Error::File {
            act: "read",
            path: self.folder.site_ca(),
            source,
        })?;
        Client::with_groups(version, SERVER_NAME, &ca, groups)
    }

    fn cpu_times(&self) -> Result<Vec<Duration>, Error> {
        self.daemons
            .iter()
            .map(|daemon| daemon.cpu_time())
            .collect()
    }
}

/// What the load client can offer.
const BOTH: &[&dyn SupportedKxGroup] = &[X25519, SECP256R1];
