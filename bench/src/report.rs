//! The figures, for a person and for a program.
//!
//! Says how to read them, because a table of microseconds is easily misread. Adds no judgement.

use std::path::Path;

use keyhaven_xtask::{Error, say};
use serde::Serialize;

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) server: &'static str,
    pub(crate) level: &'static str,
    pub(crate) version: &'static str,
    pub(crate) group: String,
    /// Processor time of the program that the client talks to, in microseconds for each handshake.
    pub(crate) frontend_us: f64,
    /// Processor time of the signer.
    pub(crate) signer_us: f64,
    /// Which share of one processor the servers used; well below 1, the load client was the limit.
    pub(crate) busy: f64,
}

impl Row {
    /// Processor time of all server programs.
    pub(crate) fn total_us(&self) -> f64 {
        self.frontend_us + self.signer_us
    }
}

/// All measurements of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    handshakes: u32,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(handshakes: u32) -> Report {
        Report {
            handshakes,
            rows: Vec::new(),
        }
    }

    /// Adds a measurement.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        say::line(format!(
            "\n{:<12} {:<8} {:<10} {:<15} {:<10} {:>9} {:>9} {:>7} {:>9} {:>5}",
            "key",
            "version",
            "group",
            "server",
            "level",
            "frontend",
            "signer",
            "sum",
            "to nginx",
            "busy"
        ));
        for row in &self.rows {
            let ratio = self
                .peer_of(row)
                .map(|peer| format!("{:.2}", row.total_us() / peer.total_us()));
            say::line(format!(
                "{:<12} {:<8} {:<10} {:<15} {:<10} {:>9.0} {:>9.0} {:>7.0} {:>9} {:>5.2}",
                row.key,
                row.version,
                row.group,
                row.server,
                row.level,
                row.frontend_us,
                row.signer_us,
                row.total_us(),
                ratio.unwrap_or_default(),
                row.busy
            ));
        }
        say::line(HOW_TO_READ);
    }

    /// Writes the figures as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| Error::Output {
            program: "the measurement".to_owned(),
            why: error.to_string(),
        })?;
        std::fs::write(path, json).map_err(|source| Error::File {
            act: "write",
            path: path.to_path_buf(),
            source,
        })?;
        say::line(format!("written to {}", path.display()));
        Ok(())
    }

    fn peer_of(&self, row: &Row) -> Option<&Row> {
        self.rows.iter().find(|peer| {
            peer.server != "keyhaven"
                && (peer.key, peer.version, &peer.group) == (row.key, row.version, &row.group)
        })
    }
}

const HOW_TO_READ: &str = "
How to read it: microseconds of processor time, user and system, for each full handshake (32 connections, no
resumption, closed after the handshake); all servers on one processor, the load on the others. nginx holds all of
a handshake's secrets in its own memory and is one program; ours are two with a mutually authenticated connection
between them, and the proxy also connects to a backend for each handshake. The level says what stayed in the
token. Compare within one run and one group; figures drift by a tenth or two from run to run, and by more when the machine
has other work. `busy` is the share of that processor that the servers used: where it is well below 1, the load or
other programs were the limit.";

#[cfg(test)]
mod tests {
    use super::*;

    fn row(server: &'static str, group: &str, frontend_us: f64) -> Row {
        Row {
            key: "k",
            server,
            level: "signature",
            version: "TLS 1.3",
            group: group.to_owned(),
            frontend_us,
            signer_us: 1.0,
            busy: 1.0,
        }
    }

    #[test]
    fn a_row_is_compared_with_the_peer_of_its_own_group() {
        let mut report = Report::new(1);
        report.add(row("nginx + libp11", "X25519", 10.0));
        report.add(row("nginx + libp11", "secp256r1", 20.0));
        report.add(row("keyhaven", "secp256r1", 30.0));
        let peer = report.peer_of(&report.rows[2]).unwrap();
        assert_eq!(peer.frontend_us, 20.0);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        report.write(&path).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(json["rows"][2]["group"], "secp256r1");
    }
}
