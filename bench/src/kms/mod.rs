//! Measures the KMS: many keys to many sites, how soon a revocation holds, how fast lookups are.
//!
//! Central, one site and their tokens are real. Further sites are connections of this process with an identity and an
//! enrolment each: they follow as a site does and keep nothing. What is measured on one machine shares its processors
//! with what measures; the table says so.

mod crowd;
mod parts;
mod report;

use std::time::{Duration, Instant};

use keyhaven_types::{KeyKind, KeyState, Operation, Purpose, Secret};
use keyhaven_wire::{
    Reply, Request,
    kms::{
        Batch, Done, KeyRef, Lookup, Task, TaskError,
        admin::{Answer, Ask, NewKey, NewSite},
    },
};
use keyhaven_xtask::{
    Error,
    cargo::{Programs, target_dir},
    interrupt::Interrupt,
    say,
    site::{Folder, Kms, spiffe},
};

use self::{
    crowd::Crowd,
    parts::{Channel, Usage, failed, name},
    report::Report,
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) keys: u32,
    pub(crate) sites: u32,
    pub(crate) revocations: u32,
}

/// Measures everything, prints the table and writes it down.
pub(crate) fn run(plan: Plan, interrupt: &Interrupt) -> Result<(), Error> {
    let programs = Programs::built(true);
    let folder = Folder::take(&target_dir().join("bench/kms"))?;
    let kms = Kms::prepare(&folder, &programs, &[(SITE, REGION)], interrupt)?;
    let central = kms.start_central(interrupt)?;
    let class = ["kms", "class", "create", CLASS, "--bound", "30s"];
    let scope = ["--region", REGION, "--purpose", "data"];
    kms.admin("alice.toml", &[&class[..], &scope].concat())?;
    kms.enroll(&kms.sites[0], &[CLASS])?;
    kms.write_site(&kms.sites[0])?;
    let signer = kms.start_site(&kms.sites[0], interrupt)?;
    let client = kms.identity("client", "load")?;

    let runtime = tokio::runtime::Runtime::new().map_err(|error| failed("tokio", error))?;
    let mut report = Report::new(plan);
    let measured = runtime.block_on(async {
        let admin =
            Channel::open(&kms, "admin-alice", kms.central, spiffe("central", "main")).await?;
        let site = Channel::open(
            &kms,
            "client-load",
            kms.sites[0].address,
            spiffe("signer", SITE),
        )
        .await?;
        let mut usage = Usage {
            central: &central,
            site: &signer,
            store: folder.kms("store.redb"),
            replica: folder.kms(&format!("{SITE}.redb")),
        };
        let empty = usage.space()?;
        say::line(format!("\n{} keys", plan.keys));
        let before = usage.time()?;
        let started = Instant::now();
        create(plan, &admin, interrupt).await?;
        report.created(started.elapsed(), before.until(&usage.time()?));
        let revision = head(&admin).await?;
        let waited = Instant::now();
        until_applied(&admin, revision).await?;
        report.real_site_behind(waited.elapsed());
        report.space(&empty, &usage.space()?);

        say::line(format!("{} sites begin with nothing", plan.sites));
        enrol_crowd(plan, &kms, &admin).await?;
        let revision = head(&admin).await?;
        let before = usage.time()?;
        let crowd = Crowd::start(&kms, plan.sites).await?;
        let times = crowd.reach(revision, REPLICATION_MAX).await?;
        report.replicated(&times, &crowd, before.until(&usage.time()?));

        say::line(format!("{} revocations", plan.revocations));
        for number in 0..plan.revocations {
            interrupt.check()?;
            let key = key_name(number);
            let grant = Ask::GrantSet {
                identity: client
                    .parse()
                    .map_err(|error| failed("an identity", error))?,
                key: Some(KeyRef::Name(name(&key)?)),
                operations: vec![Operation::Encrypt],
            };
            let granted = committed(&admin, grant).await?;
            crowd.reach(granted, REPLICATION_MAX).await?;
            let revoked = revoke(&key, &admin, &site, &crowd).await?;
            report.revoked(revoked);
        }

        say::line("lookups and operations at the real site");
        let kept = key_name(plan.keys - 1);
        let grant = Ask::GrantSet {
            identity: client
                .parse()
                .map_err(|error| failed("an identity", error))?,
            key: Some(KeyRef::Name(name(&kept)?)),
            operations: vec![Operation::Encrypt],
        };
        committed(&admin, grant).await?;
        until_usable(&kept, &site).await?;
        for (what, count) in [("lookups", LOOKUPS), ("encryptions", ENCRYPTIONS)] {
            let before = usage.time()?;
            let started = Instant::now();
            hammer(what == "lookups", &kept, count, &site).await?;
            report.served(what, count, started.elapsed(), before.until(&usage.time()?));
        }
        Ok::<_, Error>(())
    });
    if measured.is_err() {
        for daemon in [&central, &signer] {
            say::line(keyhaven_xtask::command::last_lines(&daemon.log_text(), 8));
        }
    }
    measured?;
    signer.stop(STOP_GRACE)?;
    central.stop(STOP_GRACE)?;
    report.print();
    report.write(&target_dir().join("bench/kms.json"))
}

async fn create(plan: Plan, admin: &Channel, interrupt: &Interrupt) -> Result<(), Error> {
    let mut asked = tokio::task::JoinSet::new();
    for worker in 0..WRITERS {
        let admin = admin.clone();
        asked.spawn(async move {
            for number in (worker..plan.keys).step_by(WRITERS as usize) {
                let new = NewKey {
                    name: name(&key_name(number))?,
                    kind: KeyKind::Aes256,
                    purpose: Purpose::Data,
                    class: name(CLASS)?,
                    server_names: Vec::new(),
                };
                committed(&admin, Ask::KeyCreate(new)).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = asked.join_next().await {
        interrupt.check()?;
        done.map_err(|error| failed("a writer", error))??;
    }
    Ok(())
}

/// Enrols the simulated sites with what the ceremony gave the real one.
async fn enrol_crowd(plan: Plan, kms: &Kms<'_>, admin: &Channel) -> Result<(), Error> {
    let Answer::Sites { sites, .. } = admin.ask(Ask::SiteList { after: None }).await? else {
        return Err(failed("central", "it listed no sites"));
    };
    let real = sites
        .into_iter()
        .find(|site| site.name.as_str() == SITE)
        .ok_or_else(|| failed("central", "it does not know the site"))?;
    for number in 0..plan.sites {
        let site = crowd::site_name(number);
        let identity = kms.identity("signer", &site)?;
        let new = NewSite {
            name: name(&site)?,
            identity: identity
                .parse()
                .map_err(|error| failed("an identity", error))?,
            // Nobody listens there: a peer that does not answer.
            address: format!("127.77.1.{}:7443", number % 250 + 1),
            region: real.region.clone(),
            hardware: real.hardware,
            holds: real.holds.clone(),
        };
        committed(admin, Ask::SiteAdd(new)).await?;
    }
    Ok(())
}

/// How long a revocation took, from the question.
#[derive(Clone, Debug)]
pub(crate) struct Revoked {
    committed: Duration,
    refused: Duration,
    known: Vec<Duration>,
}

async fn revoke(
    key: &str,
    admin: &Channel,
    site: &Channel,
    crowd: &Crowd,
) -> Result<Revoked, Error> {
    until_usable(key, site).await?;
    let ask = Ask::KeyState {
        key: KeyRef::Name(name(key)?),
        version: None,
        state: KeyState::Revoked,
    };
    let used = {
        let (key, site) = (key.to_owned(), site.clone());
        tokio::spawn(async move { until_refused(&key, &site).await })
    };
    let seen = crowd.watch();
    let started = Instant::now();
    let revision = committed(admin, ask).await?;
    let committed = started.elapsed();
    let known = seen.reach(revision, started).await?;
    let refused = used.await.map_err(|error| failed("a client", error))??;
    Ok(Revoked {
        committed,
        refused: refused.saturating_duration_since(started),
        known,
    })
}

async fn until_usable(key: &str, site: &Channel) -> Result<(), Error> {
    let deadline = Instant::now() + REPLICATION_MAX;
    loop {
        match encrypt(key, site).await? {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(failed("the site", error)),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Uses a key again and again; when it was first refused.
async fn until_refused(key: &str, site: &Channel) -> Result<Instant, Error> {
    let deadline = Instant::now() + REPLICATION_MAX;
    loop {
        match encrypt(key, site).await? {
            Err(TaskError::State) => return Ok(Instant::now()),
            Ok(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
            other => return Err(failed("the site", format!("{other:?} for a revoked key"))),
        }
    }
}

async fn encrypt(key: &str, site: &Channel) -> Result<Result<Done, TaskError>, Error> {
    let task = Task::Encrypt {
        key: KeyRef::Name(name(key)?),
        plaintext: Secret::new(vec![7; 32]),
        aad: Vec::new(),
    };
    let batch = Batch { tasks: vec![task] };
    match site.call(Request::Operate(batch)).await? {
        Reply::Results(mut results) if results.len() == 1 => Ok(results.remove(0).outcome),
        other => Err(failed("the site", format!("{other:?}"))),
    }
}

async fn hammer(lookups: bool, key: &str, count: u32, site: &Channel) -> Result<(), Error> {
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (key, site) = (key.to_owned(), site.clone());
        asked.spawn(async move {
            for _ in 0..count / CALLERS {
                if !lookups {
                    encrypt(&key, &site)
                        .await?
                        .map_err(|error| failed("the site", error))?;
                    continue;
                }
                let lookup = Lookup {
                    key: KeyRef::Name(name(&key)?),
                    operation: Operation::Encrypt,
                    caller: None,
                };
                match site.call(Request::Lookup(lookup)).await? {
                    Reply::Found(found) if !found.servers.is_empty() => {}
                    other => return Err(failed("the site", format!("{other:?} to a lookup"))),
                }
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = asked.join_next().await {
        done.map_err(|error| failed("a caller", error))??;
    }
    Ok(())
}

async fn committed(admin: &Channel, ask: Ask) -> Result<u64, Error> {
    match admin.ask(ask).await? {
        Answer::Committed { revision, .. } => Ok(revision),
        other => Err(failed("central", format!("{other:?}"))),
    }
}

async fn head(admin: &Channel) -> Result<u64, Error> {
    match admin.ask(Ask::Status).await? {
        Answer::Status(status) => Ok(status.head.revision),
        other => Err(failed("central", format!("{other:?}"))),
    }
}

/// Waits until the real site says that it has everything up to a revision.
async fn until_applied(admin: &Channel, revision: u64) -> Result<(), Error> {
    let deadline = Instant::now() + REPLICATION_MAX;
    while Instant::now() < deadline {
        if let Answer::Status(status) = admin.ask(Ask::Status).await? {
            let real = status.sites.iter().find(|site| site.site.as_str() == SITE);
            if real
                .and_then(|site| site.applied)
                .is_some_and(|applied| applied >= revision)
            {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err(failed("the site", "it did not apply what central has"))
}

fn key_name(number: u32) -> String {
    format!("key-{number:07}")
}

const SITE: &str = "frankfurt";
const REGION: &str = "eu";
const CLASS: &str = "bench";
/// Requests in flight while keys are made.
const WRITERS: u32 = 64;
/// Requests in flight at the real site.
const CALLERS: u32 = 16;
const LOOKUPS: u32 = 48_000;
const ENCRYPTIONS: u32 = 16_000;
const REPLICATION_MAX: Duration = Duration::from_secs(900);
const LOOK_AGAIN: Duration = Duration::from_millis(1);
const STOP_GRACE: Duration = Duration::from_secs(15);
