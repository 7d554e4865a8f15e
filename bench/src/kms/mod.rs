//! Measures the KMS: many keys to many sites, how soon a revocation holds, what a site serves, and what all of it takes.
//!
//! Central, one site and their tokens are real; an operator's program lays them out. Further sites are simulated by
//! connections of this process. Tells the story and leaves each chapter to its file. Everything runs on one machine and
//! shares its processors: the report says who used them.

mod channel;
mod crowd;
mod making;
mod report;
mod revoking;
mod serving;
mod sheet;
mod store;
mod usage;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use keyhaven_types::Operation;
use keyhaven_xtask::{
    Error,
    cargo::{Programs, target_dir},
    command::last_lines,
    daemon::Daemon,
    interrupt::Interrupt,
    say,
    site::{Folder, Kms, spiffe},
};
use tokio::{runtime::Runtime, task::JoinSet};

use self::{
    channel::{Channel, failed},
    crowd::{Crowd, Verify},
    making::{all_of, key_name},
    report::Report,
    serving::{Ask, Sealed},
    usage::Usage,
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) keys: u32,
    pub(crate) sites: u32,
    pub(crate) revocations: u32,
}

/// Measures everything, prints the tables and writes them down. Central keeps its state in a file of its own, or where
/// the lines in `store` say.
pub(crate) fn run(plan: Plan, store: Option<&Path>, interrupt: &Interrupt) -> Result<(), Error> {
    let plan = plan.checked()?;
    let programs = Programs::built(true);
    let folder = Folder::take(&target_dir().join("bench/kms"))?;
    let kms = Kms::prepare(&folder, &programs, &[(SITE, REGION)], interrupt)?;
    if let Some(lines) = store {
        store::put(lines, &folder)?;
    }
    let central = kms.start_central(interrupt)?;
    let site = begin_site(&kms, interrupt)?;
    let mut report = Report::new(plan);

    let runtime = Runtime::new().map_err(|error| failed("tokio", error))?;
    let measured = runtime.block_on(async {
        let usage = Usage {
            central: &central,
            site: &site,
            store: store.is_none().then(|| folder.kms("store.redb")),
            replica: folder.kms(&format!("{SITE}.redb")),
        };
        let run = Run::open(plan, &kms, usage, interrupt).await?;
        run.make(&mut report).await?;
        let crowd = run.replicate(&mut report).await?;
        let (doomed, kept) = run.seal(&mut report).await?;
        run.revoke(doomed, &crowd, &mut report).await?;
        run.serve(&kept, &mut report).await
    });
    drop(runtime);
    if measured.is_err() {
        for daemon in [&central, &site] {
            say::line(last_lines(&daemon.log_text(), 8));
        }
    }
    measured?;
    start_again(&kms, central, site, &mut report, interrupt)?;
    report.sheet.print();
    report.sheet.write(&target_dir().join("bench/kms.json"))
}

impl Plan {
    /// Some keys must be left when others were revoked.
    fn checked(self) -> Result<Plan, Error> {
        if self.sites > 0 && self.revocations > 0 && self.revocations + KEPT <= self.keys {
            return Ok(self);
        }
        Err(failed(
            "bench kms",
            format!(
                "needs a site, a revocation, and {KEPT} keys more than revocations: not {self:?}"
            ),
        ))
    }
}

/// The real site's way into the class, and its start.
fn begin_site(kms: &Kms<'_>, interrupt: &Interrupt) -> Result<Daemon, Error> {
    let class = ["kms", "class", "create", CLASS, "--bound", "1h"];
    let scope = ["--region", REGION, "--purpose", "data"];
    kms.admin("alice.toml", &[&class[..], &scope].concat())?;
    kms.enroll(&kms.sites[0], &[CLASS])?;
    kms.write_site(&kms.sites[0])?;
    kms.start_site(&kms.sites[0], interrupt)
}

/// Stops both daemons and starts them with all that they have. One that is too slow for whoever waits costs its figure
/// and no other.
fn start_again(
    kms: &Kms<'_>,
    central: Daemon,
    site: Daemon,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    say::line("\nstarting again");
    site.stop(STOP_GRACE)?;
    central.stop(STOP_GRACE)?;
    let began = Instant::now();
    let central = kms.start_central(interrupt);
    let name = "central, started again";
    report.started_again("central_again", name, began.elapsed(), &central);
    let began = Instant::now();
    let site = kms.start_site(&kms.sites[0], interrupt);
    let name = "the real site, started again";
    report.started_again("site_again", name, began.elapsed(), &site);
    interrupt.check()?;
    for daemon in [site, central].into_iter().flatten() {
        daemon.stop(STOP_GRACE)?;
    }
    Ok(())
}

/// One run with its connections.
struct Run<'a> {
    plan: Plan,
    kms: &'a Kms<'a>,
    usage: Usage<'a>,
    interrupt: &'a Interrupt,
    admin: Channel,
    site: Channel,
    /// The identity that asks the real site.
    client: String,
}

impl<'a> Run<'a> {
    async fn open(
        plan: Plan,
        kms: &'a Kms<'a>,
        usage: Usage<'a>,
        interrupt: &'a Interrupt,
    ) -> Result<Run<'a>, Error> {
        let client = kms.identity("client", "load")?;
        let central = spiffe("central", "main");
        let signer = spiffe("signer", SITE);
        let address = kms.sites[0].address;
        Ok(Run {
            plan,
            kms,
            usage,
            interrupt,
            admin: Channel::open(kms, "admin-alice", kms.central, central).await?,
            site: Channel::open(kms, "client-load", address, signer).await?,
            client,
        })
    }

    async fn make(&self, report: &mut Report) -> Result<(), Error> {
        say::line(format!("\n{} keys", self.plan.keys));
        let begin = self.admin.head().await?;
        making::until_applied(SITE, begin, &self.admin).await?;
        let empty = self.usage.space()?;
        let before = self.usage.read()?;
        making::make(self.plan.keys, CLASS, &self.admin, self.interrupt).await?;
        let spent = self.usage.since(&before)?;
        let head = self.admin.head().await?;
        let behind = making::until_applied(SITE, head, &self.admin).await?;
        report.made(spent, head.saturating_sub(begin), behind);
        report.space(&empty, &self.usage.space()?);
        Ok(())
    }

    /// Twice from nothing; the sites of the second time go on following.
    async fn replicate(&self, report: &mut Report) -> Result<Crowd, Error> {
        let Plan { keys, sites, .. } = self.plan;
        say::line(format!("\n{sites} sites begin with nothing"));
        crowd::enrol(sites, SITE, self.kms, &self.admin).await?;
        let head = self.admin.head().await?;
        making::until_applied(SITE, head, &self.admin).await?;
        let ways = [
            ("all_heads", "heads verified", Verify::Heads),
            ("all_verified", "each record verified", Verify::Everything),
        ];
        let mut last = None;
        for (id, what, verify) in ways {
            // The former ones go before these come.
            drop(last.take());
            let before = self.usage.read()?;
            let crowd = Crowd::start(sites, verify, self.kms).await?;
            let times = crowd.since_start(head).await?;
            let (came, spent) = (crowd.came(), self.usage.since(&before)?);
            if came.wraps < u64::from(keys) * u64::from(sites) {
                return Err(failed(
                    "a simulated site",
                    "it got keys without their wraps",
                ));
            }
            report.replicated(id, what, &times, came, spent);
            if verify == Verify::Everything {
                report.each_site(came);
            }
            last = Some(crowd);
        }
        last.ok_or_else(|| failed("the simulated sites", "there are none"))
    }

    /// Lets the client use some keys, and uses each once: those to be revoked, those to be kept.
    async fn seal(&self, report: &mut Report) -> Result<(Vec<Sealed>, Vec<Sealed>), Error> {
        say::line("\nfirst use");
        let doomed = 0..self.plan.revocations;
        let kept = self.plan.keys - KEPT..self.plan.keys;
        let mut grants = JoinSet::new();
        for number in doomed.clone().chain(kept.clone()) {
            let (admin, client) = (self.admin.clone(), self.client.clone());
            grants.spawn(async move {
                let operations = [Operation::Encrypt, Operation::Decrypt];
                admin.grant(&client, &key_name(number), &operations).await
            });
        }
        let granted = all_of(grants).await?.into_iter().max().unwrap_or_default();
        making::until_applied(SITE, granted, &self.admin).await?;
        let mut times = Vec::new();
        let (mut for_revocation, mut for_use) = (Vec::new(), Vec::new());
        for number in doomed.chain(kept.clone()) {
            let (sealed, took) = Sealed::with(key_name(number), &self.site).await?;
            times.push(took);
            match kept.contains(&number) {
                true => for_use.push(sealed),
                false => for_revocation.push(sealed),
            }
        }
        report.first_used(times);
        Ok((for_revocation, for_use))
    }

    async fn revoke(
        &self,
        keys: Vec<Sealed>,
        crowd: &Crowd,
        report: &mut Report,
    ) -> Result<(), Error> {
        say::line(format!("\n{} revocations", keys.len()));
        let before = self.usage.read()?;
        let (admin, site) = (&self.admin, &self.site);
        let revoked = revoking::revoke(keys, admin, site, crowd, self.interrupt).await?;
        report.revoked(&revoked, self.usage.since(&before)?);
        Ok(())
    }

    async fn serve(&self, keys: &[Sealed], report: &mut Report) -> Result<(), Error> {
        say::line("\nthe real site serves");
        let works = [
            (Ask::Lookup, "lookups", "lookups at the real site"),
            (Ask::Decrypt, "decryptions", "decryptions at the real site"),
        ];
        for (ask, id, what) in works {
            // Whatever is made on the first use is made before.
            serving::ask(ask, WARM_UP, keys, &self.site, self.interrupt).await?;
            let before = self.usage.read()?;
            serving::ask(ask, ASKED, keys, &self.site, self.interrupt).await?;
            report.served(id, what, ASKED, self.usage.since(&before)?);
        }
        Ok(())
    }
}

const SITE: &str = "frankfurt";
const REGION: &str = "eu";
const CLASS: &str = "bench";
/// Keys that are not revoked and that a client uses.
const KEPT: u32 = 64;
/// Lookups, and decryptions.
const ASKED: u32 = 50_000;
const WARM_UP: u32 = 2_000;
const STOP_GRACE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_leaves_no_key_to_use_is_refused() {
        let plan = Plan {
            keys: 100,
            sites: 1,
            revocations: 36,
        };
        assert!(plan.checked().is_ok());
        let bad = [
            Plan {
                revocations: 37,
                ..plan
            },
            Plan {
                revocations: 0,
                ..plan
            },
            Plan { sites: 0, ..plan },
        ];
        assert!(bad.into_iter().all(|plan| plan.checked().is_err()));
    }
}
