//! What was measured, for a person and for a program.
//!
//! Two tables: the figures, and where the processors' time went meanwhile, since everybody shares them here. Invariant:
//! the file has every figure that the tables have.

use std::{fmt::Write as _, fs, path::Path, thread, time::Duration};

use keyhaven_xtask::{Error, say};
use serde_json::{Map, Value, json};

use super::{
    Plan,
    usage::{Spent, processor},
};

/// Lines and the same as JSON.
pub(crate) struct Sheet {
    plan: Plan,
    lines: Vec<(String, String)>,
    json: Map<String, Value>,
    phases: Vec<(String, Spent)>,
}

impl Sheet {
    /// An empty one.
    pub(crate) fn new(plan: Plan) -> Sheet {
        Sheet {
            plan,
            lines: Vec::new(),
            json: Map::new(),
            phases: Vec::new(),
        }
    }

    /// Adds a figure, and says it: `id` for a program, `name` and `text` for a person.
    pub(crate) fn add(&mut self, id: &str, name: &str, text: String, value: Value) {
        say::line(format!("  {name}: {text}"));
        self.lines.push((name.to_owned(), text));
        self.json.insert(id.to_owned(), value);
    }

    /// Adds who used the processors meanwhile.
    pub(crate) fn phase(&mut self, name: &str, spent: Spent) {
        self.phases.push((name.to_owned(), spent));
    }

    #[cfg(test)]
    pub(crate) fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        let Plan { keys, sites, .. } = self.plan;
        let (cores, processor) = (cores(), processor());
        say::line(format!(
            "\n{keys} keys (AES-256), 1 real and {sites} simulated sites, on {cores} cores of {processor}\n"
        ));
        say::line(self.figures());
        say::line(self.shares());
        say::line(HOW_TO_READ);
    }

    fn figures(&self) -> String {
        let mut table = String::from("| what | figure |\n| --- | --- |\n");
        for (name, text) in &self.lines {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {name} | {text} |");
        }
        table
    }

    fn shares(&self) -> String {
        let mut table = String::from(
            "| seconds of a processor | on the wall | central | its token | real site | its token | simulated | others |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for (name, spent) in &self.phases {
            let [took, central, token, site, site_token, bench, others] =
                all(spent).map(|time| time.as_secs_f64());
            let _ = writeln!(
                table,
                "| {name} | {took:.1} | {central:.1} | {token:.1} | {site:.1} | {site_token:.1} | {bench:.1} | \
                 {others:.1} |"
            );
        }
        table
    }

    /// Writes the figures as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let Plan {
            keys,
            sites,
            revocations,
        } = self.plan;
        let phases: Map<String, Value> = self.phases.iter().map(phase).collect();
        let report = json!({
            "keys": keys, "sites": sites, "revocations": revocations,
            "machine": {"cores": cores(), "processor": processor()},
            "figures": self.json, "processor_s": phases,
        });
        fs::write(path, format!("{report:#}\n")).map_err(|source| Error::File {
            act: "write",
            path: path.to_owned(),
            source,
        })
    }
}

fn phase((name, spent): &(String, Spent)) -> (String, Value) {
    let [took, central, token, site, site_token, bench, others] =
        all(spent).map(|time| time.as_secs_f64());
    let value = json!({
        "wall": took, "central": central, "central_token": token, "site": site, "site_token": site_token,
        "simulated": bench, "others": others,
    });
    (name.clone(), value)
}

fn all(spent: &Spent) -> [Duration; 7] {
    [
        spent.took,
        spent.central.all,
        spent.central.token,
        spent.site.all,
        spent.site.token,
        spent.bench,
        spent.others,
    ]
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

const HOW_TO_READ: &str = "
Central, one site, both SoftHSM2 tokens and every connection are real, and all of it shares this machine with the
simulated sites and the clients. Times on the wall are therefore longer than on machines of their own; processor times
are not. A processor that others used is in the last column: where that is much, the times on the wall are worth little.
Simulated sites verify heads alone at first, then every record; they keep nothing, and what a site pays for its replica
is in the real site's figures.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_what_the_table_has() {
        let mut sheet = Sheet::new(Plan {
            keys: 1000,
            sites: 4,
            revocations: 2,
        });
        let spent = Spent {
            took: Duration::from_secs(2),
            others: Duration::from_millis(500),
            ..Spent::default()
        };
        sheet.add(
            "made",
            "keys made",
            "500/s".to_owned(),
            json!({"per_s": 500.0}),
        );
        sheet.phase("making keys", spent);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kms.json");
        sheet.write(&path).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written["figures"]["made"]["per_s"], 500.0);
        assert_eq!(written["processor_s"]["making keys"]["others"], 0.5);
        assert!(sheet.figures().contains("| keys made | 500/s"));
        assert!(sheet.shares().contains("| making keys | 2.0 |"));
    }
}
