//! Asks peers in order to answer: who can, when this server is behind them, and for a key's records.
//!
//! What peers say of servers is held against this server's own table, and records against central's signature, elsewhere.
//! Invariant: whether a peer is asked depends on how far this server is, never on whether a key exists.

use std::time::{Duration, Instant};

use keyhaven_types::{Identity, Name};
use keyhaven_wire::{
    Reply, Request,
    kms::{Fetch, Fetched, Found, KeyRef, Lookup, Server},
};

use super::{
    answer::millis,
    shared::{Handle, Shared, lock},
};

/// How long one peer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Peers that are asked in turn for a lookup.
const LOOKUPS_MAX: usize = 2;
/// Peers that are asked in turn for a key.
const FETCHES_MAX: usize = 3;

/// Asks those that are further than this server who can (L4). None when nobody is, or nobody knows better.
pub(super) async fn look_elsewhere(
    shared: &Handle,
    caller: &Identity,
    lookup: &Lookup,
) -> Option<Found> {
    for peer in ahead(shared).into_iter().take(LOOKUPS_MAX) {
        let Some(client) = shared.client(&peer) else {
            continue;
        };
        let asking = Request::Lookup(Lookup {
            caller: Some(caller.clone()),
            ..lookup.clone()
        });
        let Ok(Reply::Found(mut found)) = client.call(asking, TIMEOUT).await else {
            continue;
        };
        found.servers = seen_from_here(shared, found.servers);
        if !found.servers.is_empty() {
            found.central_ms_ago = shared.parts.local.central_heard().map(millis);
            return Some(found);
        }
    }
    None
}

/// Asks for a key's records: first those that were given the key that its wraps are made with, then anybody.
pub(super) async fn fetch(shared: &Handle, fetch: Fetch) -> Option<Fetched> {
    for peer in holders(shared, &fetch.key).into_iter().take(FETCHES_MAX) {
        let Some(client) = shared.client(&peer) else {
            continue;
        };
        let reply = client.call(Request::Fetch(fetch.clone()), TIMEOUT).await;
        if let Ok(Reply::Fetched(fetched)) = reply
            && !fetched.entries.is_empty()
        {
            return Some(fetched);
        }
    }
    None
}

/// Peers that are alive and further than this server, the nearest first.
fn ahead(shared: &Shared) -> Vec<Name> {
    shared.with_view(|view| {
        let peers = view.measured.nearest(view.now).into_iter();
        peers
            .filter(|(_, peer)| view.is_behind(&peer.status))
            .map(|(name, _)| name.clone())
            .collect()
    })
}

/// Peers that are alive, the likeliest first; of equals the nearest.
fn holders(shared: &Shared, key: &KeyRef) -> Vec<Name> {
    let directory = shared.parts.local.directory();
    let keks: Vec<_> = directory
        .keys(key)
        .iter()
        .filter_map(|key| directory.manifest(key.id, key.current.unwrap_or(key.versions)))
        .map(|manifest| manifest.kek)
        .collect();
    let sites = directory.sites();
    let holds = |name: &Name| {
        let site = sites.iter().find(|site| site.name == *name);
        site.is_some_and(|site| site.holds.iter().any(|held| keks.contains(&held.kek)))
    };
    let measured = lock(&shared.measured);
    let mut peers: Vec<Name> = measured
        .nearest(Instant::now())
        .into_iter()
        .map(|(name, _)| name.clone())
        .collect();
    drop(measured);
    peers.sort_by_key(|name| !holds(name));
    peers
}

/// What a peer named, as this server knows it: addresses from central, times from here.
fn seen_from_here(shared: &Shared, servers: Vec<Server>) -> Vec<Server> {
    let directory = shared.parts.local.directory();
    let measured = lock(&shared.measured);
    let now = Instant::now();
    let mut known: Vec<Server> = servers
        .into_iter()
        .filter_map(|server| {
            let site = directory.site_of(&server.identity)?;
            let is_self = site.name == shared.site;
            let peer = measured.alive(now, &site.name);
            if peer.is_none() && !is_self {
                return None;
            }
            // The peer's estimate holds its own way to that server; ours is the one that counts, and the longer of the
            // two is no promise that is broken.
            let way = peer.map_or(Duration::ZERO, |peer| peer.round_trip);
            let way = u64::try_from(way.as_micros()).unwrap_or(u64::MAX);
            let age = peer.map(|peer| peer.age(now));
            Some(Server {
                site: site.name.clone(),
                identity: site.identity.clone(),
                address: site.address.clone(),
                region: site.region.clone(),
                estimate_us: server.estimate_us.max(way),
                measured_ms_ago: age.map(millis),
                is_self,
            })
        })
        .collect();
    known.sort_by_key(|server| (server.estimate_us, !server.is_self));
    known
}
