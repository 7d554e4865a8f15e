//! The figures, for a person and for a program.
//!
//! Says how to read them, because a table of microseconds is easily misread. Adds no judgement: a median of the rounds,
//! how far they were apart, and the ratio to nginx where nginx did the same.

use std::{fmt::Write as _, path::Path};

use keyhaven_xtask::{Error, client::Version, say};
use serde_json::{Value, json};

use crate::{
    handshake::Plan,
    measure::{Sample, Shape},
};

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct What {
    server: &'static str,
    level: &'static str,
    shape: Shape,
}

impl What {
    /// nginx.
    pub(crate) fn nginx(shape: Shape) -> What {
        Self::ours(NGINX, "signature", shape)
    }

    /// A row of ours.
    pub(crate) fn ours(row: &'static str, level: &'static str, shape: Shape) -> What {
        What {
            server: row,
            level,
            shape,
        }
    }

    /// Stands in one line of the table.
    fn line(&self) -> (&'static str, &'static str, &str) {
        (self.server, self.level, &self.shape.group)
    }
}

/// All measurements of one thing.
#[derive(Debug)]
struct Row {
    what: What,
    samples: Vec<Sample>,
    /// Calls into all modules for each handshake.
    calls: Option<f64>,
}

impl Row {
    fn median_of(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(value).collect())
    }

    fn total_us(&self) -> f64 {
        self.median_of(Sample::total_us)
    }

    /// Least and most of the rounds.
    fn span_us(&self) -> (f64, f64) {
        let totals = self.samples.iter().map(Sample::total_us);
        totals.fold((f64::INFINITY, 0.0), |(least, most), total| {
            (least.min(total), most.max(total))
        })
    }
}

/// All measurements of a run.
#[derive(Debug)]
pub(crate) struct Report {
    handshakes: u32,
    rows: Vec<Row>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(plan: &Plan) -> Report {
        Self::of(plan.extent.handshakes)
    }

    fn of(handshakes: u32) -> Report {
        Report {
            handshakes,
            rows: Vec::new(),
        }
    }

    /// Adds a measurement, and says so.
    pub(crate) fn add(&mut self, what: What, sample: Sample) {
        let Shape {
            version,
            group,
            resumed,
        } = &what.shape;
        say::line(format!(
            "  {:<18} {:<9} {} {:<9} {:<7} {:>5.0} + {:>5.0} µs, busy {:.2}",
            what.server,
            what.level,
            version.as_str(),
            group,
            if *resumed { "resumed" } else { "full" },
            sample.frontend_us,
            sample.signer_us,
            sample.busy
        ));
        match self.rows.iter_mut().find(|row| row.what == what) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row {
                what,
                samples: vec![sample],
                calls: None,
            }),
        }
    }

    /// Says how many calls a handshake makes.
    pub(crate) fn set_calls(&mut self, what: &What, calls: f64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.what == *what) {
            row.calls = Some(calls);
        }
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        say::line(self.table());
        say::line(HOW_TO_READ);
    }

    /// Writes the figures as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let rows: Vec<Value> = self.rows.iter().map(|row| self.json(row)).collect();
        let report = json!({"handshakes": self.handshakes, "rows": rows});
        std::fs::write(path, format!("{report:#}\n")).map_err(|source| Error::File {
            act: "write",
            path: path.to_path_buf(),
            source,
        })?;
        say::line(format!("written to {}", path.display()));
        Ok(())
    }

    fn json(&self, row: &Row) -> Value {
        let (least, most) = row.span_us();
        json!({
            "server": row.what.server,
            "level": row.what.level,
            "version": row.what.shape.version.as_str(),
            "group": row.what.shape.group,
            "resumed": row.what.shape.resumed,
            "frontend_us": row.median_of(|sample| sample.frontend_us),
            "signer_us": row.median_of(|sample| sample.signer_us),
            "total_us": row.total_us(),
            "total_us_least": least,
            "total_us_most": most,
            "busy": row.median_of(|sample| sample.busy),
            "rounds": row.samples.len(),
            "calls": row.calls,
            "to_nginx": self.ratio(row),
        })
    }

    /// The table, in Markdown: a line for each server, level and group.
    fn table(&self) -> String {
        let mut table = String::from(HEAD);
        let mut lines: Vec<_> = Vec::new();
        for row in &self.rows {
            if !lines.contains(&row.what.line()) {
                lines.push(row.what.line());
            }
        }
        for line @ (server, level, group) in lines {
            let of = |version, resumed| {
                self.rows.iter().find(move |row| {
                    let shape = &row.what.shape;
                    row.what.line() == line && (shape.version, shape.resumed) == (version, resumed)
                })
            };
            let rows = [
                of(Version::Tls13, false),
                of(Version::Tls12, false),
                of(Version::Tls13, true),
            ];
            let cells = rows.map(|row| row.map(|row| self.cell(row)).unwrap_or_default());
            let calls = rows.map(|row| row.and_then(|row| row.calls));
            let calls = match calls {
                [None, None, None] => String::new(),
                calls => calls.map(count).join(" / "),
            };
            // Nothing can fail in a text.
            let _ = writeln!(
                table,
                "| {server} | `{level}` | {} | {} | {calls} |",
                group_name(group),
                cells.join(" | ")
            );
        }
        table
    }

    /// Frontend and signer, how far the sums of the rounds were apart, and the ratio to nginx.
    fn cell(&self, row: &Row) -> String {
        let (least, most) = row.span_us();
        let frontend = row.median_of(|sample| sample.frontend_us);
        let signer = row.median_of(|sample| sample.signer_us);
        let mut cell = if row.what.server == NGINX {
            format!("{frontend:.0}")
        } else {
            format!("{frontend:.0} + {signer:.0}")
        };
        let _ = write!(cell, " ±{:.0}", (most - least) / 2.0);
        if let Some(ratio) = self.ratio(row).filter(|_| row.what.server != NGINX) {
            let _ = write!(cell, ", {ratio:.1}×");
        }
        cell
    }

    fn ratio(&self, row: &Row) -> Option<f64> {
        let peer = self
            .rows
            .iter()
            .find(|peer| peer.what.server == NGINX && peer.what.shape == row.what.shape)?;
        Some(row.total_us() / peer.total_us())
    }
}

impl Sample {
    /// Processor time of all server programs.
    pub(crate) fn total_us(&self) -> f64 {
        self.frontend_us + self.signer_us
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Some tokens make a call only every few handshakes.
fn count(calls: Option<f64>) -> String {
    match calls {
        None => "–".to_owned(),
        Some(calls) if (calls - calls.round()).abs() < 0.05 => format!("{calls:.0}"),
        Some(calls) => format!("{calls:.1}"),
    }
}

fn group_name(group: &str) -> &str {
    match group {
        "secp256r1" => "P-256",
        other => other,
    }
}

const NGINX: &str = "nginx + libp11";
const HEAD: &str = "
| tokens | level | group | TLS 1.3, µs | TLS 1.2, µs | TLS 1.3 resumed, µs | calls |
|---|---|---|---|---|---|---|
";
const HOW_TO_READ: &str = "
How to read it: microseconds of processor time, user and system, for each handshake, the median of the rounds: proxy +
signer, ± half of what lay between the least and the most, and how many times nginx on the same kind of handshake.
32 connections at a time, each closed after its handshake; all servers on one processor, the load on the others. nginx
holds all of a handshake's secrets in its own memory and is one program; its key is in SoftHSM2. Ours are two with a
mutually authenticated connection between them, and the proxy also connects to a backend for each handshake. The level
says what stayed in the token. Full handshakes are those of sites without tickets; a resumed one also gives new tickets.
Calls are those into the modules, in the three kinds of handshake. What a token spends in a process of its own (tpm2,
p11kit) is in no figure. Compare within one run; when the machine has other work, figures
drift.";

#[cfg(test)]
mod tests {
    use super::*;

    fn what(server: &'static str, group: &str) -> What {
        What::ours(
            server,
            "signature",
            Shape {
                version: Version::Tls13,
                group: group.to_owned(),
                resumed: false,
            },
        )
    }

    fn sample(frontend_us: f64) -> Sample {
        Sample {
            frontend_us,
            signer_us: 1.0,
            busy: 1.0,
        }
    }

    #[test]
    fn a_row_is_compared_with_the_peer_of_its_own_group() {
        let mut report = Report::of(1);
        report.add(what(NGINX, "X25519"), sample(9.0));
        report.add(what(NGINX, "secp256r1"), sample(19.0));
        for frontend_us in [79.0, 29.0, 39.0] {
            report.add(what("softhsm2", "secp256r1"), sample(frontend_us));
        }
        report.set_calls(&what("softhsm2", "secp256r1"), 15.02);
        let table = report.table();
        let line = "| softhsm2 | `signature` | P-256 | 39 + 1 ±25, 2.0× |  |  | 15 / – / – |";
        assert!(table.contains(line), "{table}");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        report.write(&path).unwrap();
        let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(json["rows"][2]["total_us"], 40.0);
        assert_eq!(json["rows"][2]["to_nginx"], 2.0);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
