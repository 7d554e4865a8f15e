//! What the measurement is made of: a connection, and what the daemons use of the machine.

use std::{fmt::Display, fs, net::SocketAddr, path::PathBuf, time::Duration};

use keyhaven_service::{Client, ClientConfig, Credentials};
use keyhaven_types::Name;
use keyhaven_wire::{
    Reply, Request,
    kms::admin::{Answer, Ask},
};
use keyhaven_xtask::{Error, daemon::Daemon, site::Kms};

/// A connection to a daemon.
#[derive(Clone, Debug)]
pub(crate) struct Channel(Client);

impl Channel {
    /// Connects with an identity that was made, and waits until it is answered.
    pub(crate) async fn open(
        kms: &Kms<'_>,
        pair: &str,
        address: SocketAddr,
        identity: String,
    ) -> Result<Channel, Error> {
        let pki = |file: String| kms.folder.pki(&file);
        let credentials = Credentials::load(
            &pki(format!("{pair}.pem")),
            &pki(format!("{pair}.key")),
            &pki("ca.pem".to_owned()),
        );
        let credentials = credentials.map_err(|error| failed(pair, error))?;
        let identity = identity.parse().map_err(|error| failed(pair, error))?;
        let mut config = ClientConfig::new(address.to_string(), identity, credentials);
        config.ping_interval = Duration::from_secs(60);
        config.ping_timeout = Duration::from_secs(60);
        let client = Client::start(config);
        if client.healthy(CONNECT_MAX).await {
            return Ok(Channel(client));
        }
        let why = client
            .last_error()
            .unwrap_or_else(|| "no answer".to_owned());
        Err(failed(&address.to_string(), why))
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Reply, Error> {
        let reply = self.0.call(request, CALL_MAX).await;
        reply.map_err(|error| failed(self.0.address(), error))
    }

    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Error> {
        match self.call(Request::Admin(Box::new(ask))).await? {
            Reply::Admin(answer) => Ok(*answer),
            other => Err(failed("central", format!("{other:?}"))),
        }
    }
}

/// The daemons and their files.
pub(crate) struct Usage<'a> {
    pub(crate) central: &'a Daemon,
    pub(crate) site: &'a Daemon,
    pub(crate) store: PathBuf,
    pub(crate) replica: PathBuf,
}

/// Processor time until now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) central: Duration,
    pub(crate) site: Duration,
}

/// Bytes in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) central_memory: u64,
    pub(crate) central_disk: u64,
    pub(crate) site_memory: u64,
    pub(crate) site_disk: u64,
}

impl Usage<'_> {
    pub(crate) fn time(&mut self) -> Result<Spent, Error> {
        Ok(Spent {
            central: self.central.cpu_time()?,
            site: self.site.cpu_time()?,
        })
    }

    pub(crate) fn space(&self) -> Result<Space, Error> {
        let size = |path: &PathBuf| {
            let data =
                fs::metadata(path).map_err(|error| failed(&path.display().to_string(), error))?;
            Ok::<_, Error>(data.len())
        };
        Ok(Space {
            central_memory: resident(self.central)?,
            central_disk: size(&self.store)?,
            site_memory: resident(self.site)?,
            site_disk: size(&self.replica)?,
        })
    }
}

impl Spent {
    pub(crate) fn until(&self, later: &Spent) -> Spent {
        Spent {
            central: later.central.saturating_sub(self.central),
            site: later.site.saturating_sub(self.site),
        }
    }
}

/// VmRSS of proc(5), in bytes.
fn resident(daemon: &Daemon) -> Result<u64, Error> {
    let path = format!("/proc/{}/status", daemon.pid());
    let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| failed(&path, "no VmRSS"))
}

pub(crate) fn name(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|error| failed(text, error))
}

pub(crate) fn failed(who: &str, why: impl Display) -> Error {
    Error::Output {
        program: who.to_owned(),
        why: why.to_string(),
    }
}

const CONNECT_MAX: Duration = Duration::from_secs(30);
const CALL_MAX: Duration = Duration::from_secs(120);
