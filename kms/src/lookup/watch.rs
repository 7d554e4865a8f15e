//! Asks every peer again and again how it is, and measures the way to it.
//!
//! One connection and one task a peer, made and ended as central's table of sites says. What the answers mean is decided in
//! `measured` and `marks`. Invariant: at most [`PEERS_MAX`] peers are asked, and each at most once an interval.

use std::{
    collections::BTreeMap,
    sync::Weak,
    time::{Duration, Instant},
};

use keyhaven_service::{Client, ClientConfig};
use keyhaven_types::Name;
use keyhaven_wire::{Reply, Request, kms::SiteRecord};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::shared::{Shared, lock};

/// The most peers that are asked; those of the same region come first.
const PEERS_MAX: usize = 512;
/// With more peers than this, each is asked less often: so many questions an interval are enough.
const PEERS_AN_INTERVAL: usize = 64;
/// How long a peer may take for an answer at most, however long the interval is.
const TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// And at least, however short the interval is.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Keeps connections to peers as central's table says, until the router ends.
pub(super) async fn watch(shared: Weak<Shared>, end: CancellationToken, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut peers = BTreeMap::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = end.cancelled() => return,
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        reconcile(&shared, &mut peers);
    }
}

/// A peer that is asked.
struct Asked {
    address: String,
    identity: keyhaven_types::Identity,
    every: Duration,
    end: CancellationToken,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn reconcile(shared: &std::sync::Arc<Shared>, asked: &mut BTreeMap<Name, Asked>) {
    let wanted = wanted(shared);
    let scale = wanted.len().div_ceil(PEERS_AN_INTERVAL).max(1);
    let every = shared.parts.interval * u32::try_from(scale).unwrap_or(u32::MAX);
    lock(&shared.measured).set_interval(every);
    let fits = |site: &SiteRecord, asked: &Asked| {
        asked.address == site.address && asked.identity == site.identity && asked.every == every
    };
    asked.retain(|name, peer| wanted.get(name).is_some_and(|site| fits(site, peer)));
    lock(&shared.clients).retain(|name, _| asked.contains_key(name));
    lock(&shared.measured).retain(|name| wanted.contains_key(name));
    for (name, site) in wanted {
        if asked.contains_key(&name) {
            continue;
        }
        let config = ClientConfig::new(
            site.address.clone(),
            site.identity.clone(),
            shared.parts.credentials.clone(),
        );
        let client = Client::start(config);
        let end = shared.end.child_token();
        lock(&shared.clients).insert(name.clone(), client.clone());
        let weak = std::sync::Arc::downgrade(shared);
        shared
            .tasks
            .spawn(ask(weak, name.clone(), client, every, end.clone()));
        let peer = Asked {
            address: site.address.clone(),
            identity: site.identity.clone(),
            every,
            end,
        };
        asked.insert(name, peer);
    }
}

/// The sites that are to be asked: enrolled, other than this one, the near ones when there are too many.
fn wanted(shared: &Shared) -> BTreeMap<Name, std::sync::Arc<SiteRecord>> {
    let sites = shared.parts.local.directory().sites();
    let own = sites.iter().find(|site| site.name == shared.site);
    let region = own.map(|site| site.region.clone());
    let mut peers: Vec<_> = sites
        .into_iter()
        .filter(|site| !site.evicted && site.name != shared.site)
        .collect();
    peers.sort_by_key(|site| (Some(&site.region) != region.as_ref(), site.name.clone()));
    let near = peers.into_iter().take(PEERS_MAX);
    near.map(|site| (site.name.clone(), site)).collect()
}

/// Asks one peer until it is to be asked no more.
async fn ask(
    shared: Weak<Shared>,
    name: Name,
    client: Client,
    every: Duration,
    end: CancellationToken,
) {
    let at_most = every.clamp(TIMEOUT_MIN, TIMEOUT_MAX);
    // The first answer is not to wait for the second tick.
    tokio::select! {
        _ = client.healthy(at_most) => {}
        () = end.cancelled() => return,
    }
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = end.cancelled() => return,
        }
        let asked = Instant::now();
        let reply = tokio::select! {
            reply = client.call(Request::Status, at_most) => reply,
            () = end.cancelled() => return,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match reply {
            Ok(Reply::Status(status)) => shared.answered(&name, asked.elapsed(), *status),
            _ => lock(&shared.measured).failed(&name),
        }
    }
}
