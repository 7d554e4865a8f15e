//! The figures of managed keys: what was measured, divided by what it was for.
//!
//! Leaves how they are shown to the sheet, and what follows from them to `docs/scale.md`. Adds no judgement: a figure is
//! a measurement divided by a count, or one of the times.

use std::time::Duration;

use keyhaven_xtask::Error;
use serde_json::json;

use super::{
    Plan,
    crowd::Came,
    revoking::Revocations,
    sheet::Sheet,
    usage::{Space, Spent},
};

/// Takes measurements in the order in which they are made.
pub(crate) struct Report {
    plan: Plan,
    /// What came of them.
    pub(crate) sheet: Sheet,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(plan: Plan) -> Report {
        Report {
            plan,
            sheet: Sheet::new(plan),
        }
    }

    /// Keys were made in so many transactions, and the real site took them up meanwhile.
    pub(crate) fn made(&mut self, spent: Spent, transactions: u64, behind: Duration) {
        let keys = f64::from(self.plan.keys);
        let rate = keys / spent.took.as_secs_f64();
        let [all, token] = [spent.central.all, spent.central.token].map(|time| micros(time) / keys);
        self.sheet.add(
            "made",
            "keys made",
            format!(
                "{rate:.0}/s in {transactions} transactions; {all:.0} µs of central each, {token:.0} of them in its \
                 token's threads"
            ),
            json!({
                "per_s": rate, "transactions": transactions, "central_us": all, "central_token_us": token,
            }),
        );
        let site = micros(spent.site.all) / keys;
        let behind = behind.as_secs_f64();
        self.sheet.add(
            "taken_up",
            "keys taken up by the real site",
            format!("{site:.0} µs of the site each; the last one {behind:.2} s after it was made"),
            json!({"site_us": site, "behind_s": behind}),
        );
        self.sheet.phase("making keys", spent);
    }

    /// Memory and disk before and after keys were made.
    pub(crate) fn space(&mut self, empty: &Space, full: &Space) {
        let keys = f64::from(self.plan.keys);
        let figures = [
            (
                "central_memory",
                "memory of central",
                Some((empty.central_memory, full.central_memory)),
            ),
            (
                "central_disk",
                "central's store",
                empty.central_disk.zip(full.central_disk),
            ),
            (
                "site_memory",
                "memory of the real site",
                Some((empty.site_memory, full.site_memory)),
            ),
            (
                "site_disk",
                "the real site's replica",
                Some((empty.site_disk, full.site_disk)),
            ),
        ];
        for (id, name, bytes) in figures {
            let Some((empty, full)) = bytes else {
                continue;
            };
            let each = full.saturating_sub(empty) as f64 / keys;
            self.sheet.add(
                id,
                name,
                format!(
                    "{:.1} MiB, {:.1} when empty: {each:.0} bytes for each key",
                    mib(full),
                    mib(empty)
                ),
                json!({"bytes": full, "empty_bytes": empty, "per_key": each}),
            );
        }
    }

    /// All simulated sites got everything from nothing.
    pub(crate) fn replicated(
        &mut self,
        id: &str,
        what: &str,
        times: &[Duration],
        came: Came,
        spent: Spent,
    ) {
        let [first, half, last] = [0.0, 0.5, 1.0].map(|at| quantile(times, at).as_secs_f64());
        let records = came.records.max(1) as f64;
        let rate = records / last;
        let [central, bench] = [spent.central.all, spent.bench].map(|time| micros(time) / records);
        self.sheet.add(
            id,
            &format!("to all sites at once, {what}"),
            format!(
                "first {first:.1} s, half {half:.1} s, last {last:.1} s; {rate:.0} records/s; \
                 for each record {central:.1} µs of central, {bench:.1} of the sites"
            ),
            json!({
                "first_s": first, "half_s": half, "last_s": last, "records_per_s": rate,
                "central_us": central, "sites_us": bench, "records": came.records,
                "bytes": came.bytes, "wraps": came.wraps, "pages": came.pages,
            }),
        );
        self.sheet.phase(&format!("to all sites, {what}"), spent);
    }

    /// What that is for each of them.
    pub(crate) fn each_site(&mut self, came: Came) {
        let sites = f64::from(self.plan.sites);
        let [records, wraps, bytes, pages] =
            [came.records, came.wraps, came.bytes, came.pages].map(|all| all as f64 / sites);
        let each = bytes / f64::from(self.plan.keys);
        self.sheet.add(
            "each_site",
            "to each site",
            format!(
                "{records:.0} records, {wraps:.0} with a wrap, {:.1} MiB in {pages:.0} answers: {each:.0} bytes for \
                 each key",
                bytes / MIB
            ),
            json!({
                "records": records, "wraps": wraps, "bytes": bytes, "pages": pages, "bytes_per_key": each,
            }),
        );
    }

    /// Keys were used for the first time.
    pub(crate) fn first_used(&mut self, mut times: Vec<Duration>) {
        times.sort_unstable();
        self.times("first_use", "first use of a key at the real site", &times);
    }

    /// Keys were revoked.
    pub(crate) fn revoked(&mut self, all: &Revocations, spent: Spent) {
        self.times("revoke_committed", "revocation committed", &all.committed);
        self.times("revoke_known", "… known to a simulated site", &all.known);
        self.times(
            "revoke_known_to_all",
            "… known to the last simulated site",
            &all.known_to_all,
        );
        self.times("revoke_refused", "… refused by the real site", &all.refused);
        let count = all.committed.len().max(1) as f64;
        let [central, site] = [spent.central.all, spent.site.all].map(|time| micros(time) / count);
        self.sheet.add(
            "revoke_cost",
            "a revocation to all sites",
            format!("{central:.0} µs of central"),
            json!({"central_us": central, "site_us": site}),
        );
        self.sheet.phase("revoking", spent);
    }

    fn times(&mut self, id: &str, name: &str, times: &[Duration]) {
        let [p50, p99, most] =
            [0.5, 0.99, 1.0].map(|at| quantile(times, at).as_secs_f64() * 1000.0);
        let samples = times.len();
        self.sheet.add(
            id,
            name,
            format!("p50 {p50:.1} ms, p99 {p99:.1} ms, most {most:.1} ms, of {samples}"),
            json!({"p50_ms": p50, "p99_ms": p99, "most_ms": most, "samples": samples}),
        );
    }

    /// The real site was asked things.
    pub(crate) fn served(&mut self, id: &str, what: &str, count: u32, spent: Spent) {
        let count = f64::from(count);
        let rate = count / spent.took.as_secs_f64();
        let [all, token] = [spent.site.all, spent.site.token].map(|time| micros(time) / count);
        self.sheet.add(
            id,
            what,
            format!(
                "{rate:.0}/s; {all:.1} µs of the site each, {token:.1} of them in its token's threads"
            ),
            json!({"per_s": rate, "site_us": all, "site_token_us": token}),
        );
        self.sheet.phase(what, spent);
    }

    /// A daemon was stopped and started again, or was not ready in time.
    pub(crate) fn started_again<T>(
        &mut self,
        id: &str,
        name: &str,
        took: Duration,
        started: &Result<T, Error>,
    ) {
        if let Err(error) = started {
            return self.sheet.add(id, name, error.to_string(), json!(null));
        }
        let keys = f64::from(self.plan.keys);
        let (seconds, each) = (took.as_secs_f64(), micros(took) / keys);
        self.sheet.add(
            id,
            name,
            format!("listens after {seconds:.1} s: {each:.0} µs for each key"),
            json!({"s": seconds, "us_per_key": each}),
        );
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// Of sorted times.
fn quantile(times: &[Duration], at: f64) -> Duration {
    let last = times.len().saturating_sub(1);
    let index = (last as f64 * at).round() as usize;
    times.get(index).copied().unwrap_or_default()
}

const MIB: f64 = 1_048_576.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(Plan {
            keys: 1000,
            sites: 4,
            revocations: 2,
        })
    }

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<_> = (1..=101).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&times, 0.99), Duration::from_millis(100));
        assert_eq!(quantile(&times, 1.0), Duration::from_millis(101));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn what_a_key_takes_is_without_what_nothing_takes() {
        let space = |bytes| Space {
            central_memory: bytes,
            central_disk: Some(bytes),
            site_memory: bytes,
            site_disk: bytes,
        };
        let mut report = report();
        report.space(&space(10_000), &space(510_000));
        assert_eq!(report.sheet.json()["central_disk"]["per_key"], 500.0);
        assert_eq!(report.sheet.json()["site_memory"]["empty_bytes"], 10_000);
        let (mut none, mut report) = (space(10_000), Report::new(report.plan));
        none.central_disk = None;
        report.space(&none, &none);
        assert!(!report.sheet.json().contains_key("central_disk"));
    }

    #[test]
    fn a_site_gets_its_share_of_what_came_to_all() {
        let mut report = report();
        report.each_site(Came {
            records: 8000,
            wraps: 4000,
            bytes: 4_000_000,
            pages: 80,
        });
        assert_eq!(report.sheet.json()["each_site"]["records"], 2000.0);
        assert_eq!(report.sheet.json()["each_site"]["bytes_per_key"], 1000.0);
    }
}
