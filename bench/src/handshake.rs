//! Measures handshakes: ours on each module at each custody level, and nginx on a SoftHSM2 key, in one run.
//!
//! Every server runs on one processor and the load on the others, so that the figures compare. The rounds go over
//! everything, so that a machine that is busy for a while spoils one sample of many rows and not all of one.

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    thread,
    time::Duration,
};

use keyhaven_xtask::{
    Error,
    cargo::{Programs, target_dir},
    client::Version,
    interrupt::Interrupt,
    say,
    site::{self, Algorithm, Row, SOFTHSM2, Tickets},
};

use crate::{
    measure::{Extent, Shape, Target},
    nginx::Nginx,
    place::Place,
    report::{Report, What},
};

/// What is measured, and how long.
pub(crate) struct Plan {
    pub(crate) extent: Extent,
    pub(crate) rounds: u32,
    /// The names of rows.
    pub(crate) only: Vec<String>,
    pub(crate) algorithm: Algorithm,
}

/// Measures everything, prints the table and writes it down.
pub(crate) fn run(plan: &Plan, interrupt: &Interrupt) -> Result<(), Error> {
    let programs = Programs::built(true);
    let backend = closing_backend()?;
    let make =
        |row: Row, folder: &str| Place::make(row, folder, &programs, plan.algorithm, interrupt);
    let peer = make(SOFTHSM2, "peer")?;
    let rows = plan.only.iter().filter_map(|name| Row::named(name));
    let places = rows.map(|row| make(row, &row.name.replace('+', "-")));
    let mut places = places.collect::<Result<Vec<_>, _>>()?;
    let mut report = Report::new(plan);
    for round in 1..=plan.rounds {
        say::line(format!("\nround {round} of {}", plan.rounds));
        nginx(&peer, plan, &mut report, interrupt)?;
        for place in &places {
            for level in levels(place.row) {
                ours(place, level, plan, backend, &mut report, interrupt)
                    .inspect_err(|_| say::line(format!("in {}, {level}", place.row.name)))?;
            }
        }
    }
    for place in &mut places {
        for level in levels(place.row) {
            count_calls(place, level, backend, &mut report, interrupt)?;
        }
    }
    report.print();
    report.write(&target_dir().join("bench/handshake.json"))
}

fn nginx(
    peer: &Place<'_>,
    plan: &Plan,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    let nginx = Nginx::start(&peer.folder, &peer.tokens.key, interrupt)?;
    let target = Target {
        folder: &peer.folder,
        address: nginx.address,
        daemons: vec![&nginx.daemon],
    };
    for version in [Version::Tls13, Version::Tls12] {
        for group in ["X25519", "secp256r1"] {
            let shape = full(version, group);
            let sample = target.measure(&shape, plan.extent, interrupt)?;
            report.add(What::nginx(shape), sample);
        }
    }
    nginx.daemon.stop(STOP_GRACE).map(drop)
}

fn ours(
    place: &Place<'_>,
    level: &'static str,
    plan: &Plan,
    backend: SocketAddr,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    for tickets in EACH {
        let running = place.start(level, tickets, backend, interrupt)?;
        let target = Target {
            folder: &place.folder,
            address: running.address,
            daemons: vec![&running.proxy, &running.signer],
        };
        for shape in shapes(&target, tickets)? {
            let sample = target.measure(&shape, plan.extent, interrupt)?;
            report.add(What::ours(place.row.name, level, shape), sample);
        }
        place.stop(running, level)?;
    }
    Ok(())
}

/// Counts with a module in between, in sites of their own, because counting takes time.
fn count_calls(
    place: &mut Place<'_>,
    level: &'static str,
    backend: SocketAddr,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    place.set_counting(true);
    for tickets in EACH {
        let running = place.start(level, tickets, backend, interrupt)?;
        let target = Target {
            folder: &place.folder,
            address: running.address,
            daemons: Vec::new(),
        };
        for shape in shapes(&target, tickets)? {
            interrupt.check()?;
            let load = target.load(&shape)?;
            load.prime()?;
            let before = place.calls();
            load.in_turn(COUNTED)?;
            let calls = place.calls() - before;
            let what = What::ours(place.row.name, level, shape);
            report.set_calls(&what, calls as f64 / f64::from(COUNTED));
        }
        place.stop(running, level)?;
    }
    place.set_counting(false);
    Ok(())
}

/// The levels that a row reaches. With a second token `signature` is what it is without.
fn levels(row: Row) -> impl Iterator<Item = &'static str> {
    let all = ["signature", "premaster", "master", "schedule"];
    let highest = all.iter().position(|level| *level == row.level);
    let lowest = usize::from(row.exchange.is_some());
    all.into_iter()
        .take(highest.map_or(0, |highest| highest + 1))
        .skip(lowest)
}

/// The kinds of handshake that a site is measured with, in the group of its choice; and in X25519, because that is
/// what browsers send a share for. Full ones are those of a site without tickets, as nginx's are.
fn shapes(target: &Target<'_>, tickets: Tickets) -> Result<Vec<Shape>, Error> {
    let group = target.preferred_group()?;
    if tickets != Tickets::Off {
        return Ok(vec![Shape {
            resumed: true,
            ..full(Version::Tls13, &group)
        }]);
    }
    let mut shapes = vec![full(Version::Tls13, &group), full(Version::Tls12, &group)];
    if group != "X25519" {
        shapes.push(full(Version::Tls13, "X25519"));
    }
    Ok(shapes)
}

fn full(version: Version, group: &str) -> Shape {
    Shape {
        version,
        group: group.to_owned(),
        resumed: false,
    }
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

/// The processor of all servers.
pub(crate) const SERVER_CPU: usize = 0;
/// Longer than the daemons' own patience.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);
/// A site is measured without and with tickets.
const EACH: [Tickets; 2] = [Tickets::Off, Tickets::Tls13];
/// Handshakes of each kind whose calls are counted.
const COUNTED: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_measured_at_each_level_up_to_its_own() {
        let of = |name| Vec::from_iter(levels(Row::named(name).unwrap()));
        assert_eq!(of("softhsm2"), ["signature", "premaster"]);
        assert_eq!(of("tpm2"), ["signature"]);
        assert_eq!(of("softhsm2+nss"), ["premaster", "master", "schedule"]);
    }
}
