//! Measures full handshakes: ours at each custody level, and nginx, on one SoftHSM2 key in one run.
//!
//! Every server runs on one processor and the load on the others, so that the figures compare. A measurement
//! with a failed handshake is an error, not a figure.

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    thread,
    time::Duration,
};

use keyhaven_xtask::{
    Error,
    cargo::{Programs, target_dir},
    client::{Client, Version},
    daemon::Daemon,
    interrupt::Interrupt,
    say,
    site::{self, Algorithm, Folder, Running, SERVER_NAME, SOFTHSM2, SiteOptions, Tickets, Tokens},
};
use rustls::crypto::{
    SupportedKxGroup,
    aws_lc_rs::kx_group::{SECP256R1, X25519},
};

use crate::{
    load,
    nginx::Nginx,
    report::{Report, Row},
};

/// Measures everything, prints the table and writes it down.
pub(crate) fn run(handshakes: u32, interrupt: &Interrupt) -> Result<(), Error> {
    let programs = Programs::built(true);
    let backend = closing_backend()?;
    let mut report = Report::new(handshakes);
    for (algorithm, name) in [(Algorithm::Ec, "ECDSA P-256"), (Algorithm::Rsa, "RSA-2048")] {
        say::line(format!(
            "\nkey: {name}, {handshakes} handshakes in each measurement"
        ));
        let folder = Folder::take(&target_dir().join("bench/site"))?;
        let tokens = Tokens::create(SOFTHSM2, &folder, &programs, algorithm, interrupt)?;
        site::issue_identities(&folder)?;
        site::issue_site_certificate(&folder, &tokens.key.signing_request(&folder)?)?;
        let bench = Bench {
            tokens: &tokens,
            folder: &folder,
            handshakes,
            key: name,
            interrupt,
        };
        bench.nginx(&mut report)?;
        for level in ["signature", "premaster"] {
            bench.ours(&programs, backend, level, &mut report)?;
        }
    }
    report.print();
    report.write(&target_dir().join("bench/handshake.json"))
}

/// What all measurements of one key share.
struct Bench<'a> {
    tokens: &'a Tokens<'a>,
    folder: &'a Folder,
    handshakes: u32,
    key: &'static str,
    interrupt: &'a Interrupt,
}

impl Bench<'_> {
    fn nginx(&self, report: &mut Report) -> Result<(), Error> {
        let nginx = Nginx::start(self.folder, &self.tokens.key, self.interrupt)?;
        for (version, groups) in OFFERS {
            let row = self.row(
                "nginx + libp11",
                "signature",
                *version,
                groups,
                nginx.address,
                &[&nginx.daemon],
            )?;
            report.add(row);
        }
        nginx.daemon.stop(Duration::from_secs(10)).map(drop)
    }

    fn ours(
        &self,
        programs: &Programs,
        backend: SocketAddr,
        level: &'static str,
        report: &mut Report,
    ) -> Result<(), Error> {
        let options = SiteOptions {
            signer: free_address()?,
            listen: free_address()?,
            backend,
            custody_min: level,
            custody_max: Some(level),
            tickets: Tickets::Off,
        };
        site::write_configs(self.folder, self.tokens, &options)?;
        let running = Running::start_on(
            programs,
            self.folder,
            self.tokens,
            Some(SERVER_CPU),
            self.interrupt,
        )?;
        for (version, groups) in OFFERS {
            // With both groups offered in TLS 1.2 the token's order decides, and that is P-256.
            if level != "signature" && groups.len() > 1 {
                continue;
            }
            let daemons = [&running.proxy, &running.signer];
            let row = self.row(
                "keyhaven",
                level,
                *version,
                groups,
                running.address,
                &daemons,
            )?;
            report.add(row);
        }
        running.proxy.stop(Duration::from_secs(10))?;
        running.signer.stop(Duration::from_secs(10)).map(drop)
    }

    fn row(
        &self,
        server: &'static str,
        level: &'static str,
        version: Version,
        groups: &[&'static dyn SupportedKxGroup],
        address: SocketAddr,
        daemons: &[&Daemon],
    ) -> Result<Row, Error> {
        self.interrupt.check()?;
        let ca = std::fs::read(self.folder.site_ca()).map_err(|source| Error::File {
            act: "read",
            path: self.folder.site_ca(),
            source,
        })?;
        let client = Client::with_groups(version, SERVER_NAME, &ca, groups)?;
        let group = groups
            .first()
            .map(|group| format!("{:?}", group.name()))
            .unwrap_or_default();
        load::run(
            &client,
            address,
            &group,
            self.handshakes / 10,
            self.interrupt,
        )?;
        let before = cpu_times(daemons)?;
        let took = load::run(&client, address, &group, self.handshakes, self.interrupt)?;
        let after = cpu_times(daemons)?;
        let micros: Vec<f64> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| {
                (*after - *before).as_secs_f64() * 1e6 / f64::from(self.handshakes)
            })
            .collect();
        let row = Row {
            key: self.key,
            server,
            level,
            version: version.as_str(),
            group,
            frontend_us: micros.first().copied().unwrap_or_default(),
            signer_us: micros.get(1).copied().unwrap_or_default(),
            busy: micros.iter().sum::<f64>() * f64::from(self.handshakes)
                / 1e6
                / took.as_secs_f64(),
        };
        say::line(format!(
            "  {server}, {level}, {}, {}: {:.0} µs",
            row.version,
            row.group,
            row.total_us()
        ));
        Ok(row)
    }
}

fn cpu_times(daemons: &[&Daemon]) -> Result<Vec<Duration>, Error> {
    daemons.iter().map(|daemon| daemon.cpu_time()).collect()
}

/// A backend that closes at once: what is measured is the handshake.
fn closing_backend() -> Result<SocketAddr, Error> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    thread::spawn(move || listener.incoming().for_each(drop));
    Ok(bound)
}

/// A port of the loopback interface that is free now.
pub(crate) fn free_address() -> Result<SocketAddr, Error> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    TcpListener::bind(any)
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Listen {
            address: any,
            source,
        })
}

/// A command bound to the processor that all servers run on, where `taskset` is installed.
pub(crate) fn on_server_cpu(command: &Command) -> Command {
    site::on_cpu(command, SERVER_CPU)
}

/// What the load client offers; the first group is the one that must be used. In TLS 1.2 the curve of an ECDSA
/// certificate must be among the client's groups (RFC 8422, section 5.1), so P-256 stands behind X25519.
const OFFERS: &[(Version, &[&'static dyn SupportedKxGroup])] = &[
    (Version::Tls13, &[X25519]),
    (Version::Tls13, &[SECP256R1]),
    (Version::Tls12, &[X25519, SECP256R1]),
    (Version::Tls12, &[SECP256R1]),
];

const SERVER_CPU: usize = 0;
