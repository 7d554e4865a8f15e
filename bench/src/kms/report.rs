//! The table of the KMS's figures, and the same as JSON.

use std::{fs, path::Path, time::Duration};

use keyhaven_xtask::{Error, say};
use serde_json::{Map, Value, json};

use super::{
    Plan, Revoked,
    crowd::Crowd,
    parts::{Space, Spent},
};

/// Collects figures in the order in which they are measured.
pub(crate) struct Report {
    plan: Plan,
    lines: Vec<(String, String)>,
    json: Map<String, Value>,
    revoked: Vec<Revoked>,
}

impl Report {
    pub(crate) fn new(plan: Plan) -> Report {
        Report {
            plan,
            lines: Vec::new(),
            json: Map::new(),
            revoked: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, text: String, value: Value) {
        self.lines.push((name.to_owned(), text));
        self.json.insert(name.to_owned(), value);
    }

    pub(crate) fn created(&mut self, took: Duration, spent: Spent) {
        let keys = f64::from(self.plan.keys);
        let rate = keys / took.as_secs_f64();
        let cpu = micros(spent.central) / keys;
        let site = micros(spent.site) / keys;
        self.add(
            "keys made at central",
            format!("{rate:.0}/s, {cpu:.0} µs of central's processor time each"),
            json!({"per_s": rate, "central_us": cpu}),
        );
        self.add(
            "replication to the real site meanwhile",
            format!("{site:.0} µs of its processor time for each key"),
            json!({"site_us": site}),
        );
    }

    pub(crate) fn real_site_behind(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.add(
            "the real site has the last key",
            format!("{seconds:.2} s after it was made"),
            json!(seconds),
        );
    }

    pub(crate) fn space(&mut self, empty: &Space, full: &Space) {
        let keys = u64::from(self.plan.keys);
        let each = |full: u64, empty: u64| full.saturating_sub(empty) / keys;
        let figures = [
            (
                "memory at central",
                full.central_memory,
                empty.central_memory,
            ),
            ("disk at central", full.central_disk, empty.central_disk),
            (
                "memory at the real site",
                full.site_memory,
                empty.site_memory,
            ),
            ("disk at the real site", full.site_disk, empty.site_disk),
        ];
        for (name, full, empty) in figures {
            let (mib, each) = (full / (1 << 20), each(full, empty));
            self.add(
                name,
                format!("{mib} MiB, {each} bytes for each key"),
                json!({"bytes": full, "empty_bytes": empty, "per_key": each}),
            );
        }
    }

    pub(crate) fn replicated(&mut self, times: &[Duration], crowd: &Crowd, spent: Spent) {
        let (records, bytes) = crowd.counted();
        let [first, half, last] = [0.0, 0.5, 1.0].map(|at| quantile(times, at).as_secs_f64());
        let all = records as f64 * f64::from(self.plan.sites);
        self.add(
            "everything to all simulated sites at once",
            format!("first {first:.1} s, half {half:.1} s, last {last:.1} s"),
            json!({"first_s": first, "half_s": half, "last_s": last}),
        );
        self.add(
            "to each of them",
            format!("{records} records, {} MiB", bytes / (1 << 20)),
            json!({"records": records, "bytes": bytes}),
        );
        let cpu = micros(spent.central) / all;
        self.add(
            "a record to one site",
            format!(
                "{cpu:.1} µs of central's processor time; {:.0} records/s in all",
                all / last
            ),
            json!({"central_us": cpu, "per_s": all / last}),
        );
    }

    pub(crate) fn revoked(&mut self, revoked: Revoked) {
        self.revoked.push(revoked);
    }

    fn revocations(&mut self) {
        let revoked = std::mem::take(&mut self.revoked);
        let kinds: [(&str, Vec<Duration>); 3] = [
            (
                "revocation committed",
                revoked.iter().map(|r| r.committed).collect(),
            ),
            (
                "known to a simulated site",
                revoked.iter().flat_map(|r| r.known.clone()).collect(),
            ),
            (
                "refused by the real site",
                revoked.iter().map(|r| r.refused).collect(),
            ),
        ];
        for (name, mut times) in kinds {
            times.sort_unstable();
            let [p50, p99] = [0.5, 0.99].map(|at| quantile(&times, at).as_secs_f64() * 1e3);
            self.add(
                name,
                format!("p50 {p50:.1} ms, p99 {p99:.1} ms after it was asked for"),
                json!({"p50_ms": p50, "p99_ms": p99, "samples": times.len()}),
            );
        }
    }

    pub(crate) fn served(&mut self, what: &str, count: u32, took: Duration, spent: Spent) {
        let rate = f64::from(count) / took.as_secs_f64();
        let cpu = micros(spent.site) / f64::from(count);
        self.add(
            what,
            format!("{rate:.0}/s, {cpu:.0} µs of the site's processor time each"),
            json!({"per_s": rate, "site_us": cpu}),
        );
    }

    pub(crate) fn print(&mut self) {
        self.revocations();
        let Plan { keys, sites, .. } = self.plan;
        say::line(format!(
            "\n{keys} keys (AES-256), 1 real and {sites} simulated sites\n"
        ));
        say::line("| What | Figure |\n| --- | --- |");
        for (name, text) in &self.lines {
            say::line(format!("| {name} | {text} |"));
        }
        say::line(NOTE);
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let Plan { keys, sites, .. } = self.plan;
        let all = json!({"keys": keys, "sites": sites, "figures": self.json});
        fs::write(path, format!("{all:#}\n")).map_err(|source| Error::File {
            act: "write",
            path: path.to_owned(),
            source,
        })
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Of sorted times.
fn quantile(times: &[Duration], at: f64) -> Duration {
    let last = times.len().saturating_sub(1);
    let index = (last as f64 * at).round() as usize;
    times.get(index).copied().unwrap_or_default()
}

const NOTE: &str = "
Central, one site, their SoftHSM2 tokens and the connections are real and share one machine with the simulated sites.
Each of these has a connection and an enrolment, follows from nothing, and leaves the records' signatures unread, which
the real site reads. Times include the machine's load by all of them; processor times do not.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<_> = (1..=101).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&times, 0.99), Duration::from_millis(100));
        assert_eq!(quantile(&times, 1.0), Duration::from_millis(101));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
