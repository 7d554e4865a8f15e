//! What a site is told: what changed since, and one key at once.
//!
//! Every enrolled site gets every record; wraps only where its token can unwrap them. Invariant: central's own wrap never
//! leaves here, and a caller without a grant is answered as if there were no such key.

use keyhaven_types::{HardwareLevel, KeyState, Replication};
use keyhaven_wire::kms::{
    ClassRecord, Entry, Fetch, Follow, HeadMark, Manifest, Scope, Signed, SiteRecord, VersionParts,
};

use super::{Item, Mirror, store_key};

/// What a site is told of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Records, up to this revision.
    Changes {
        /// In the order of their revisions.
        entries: Vec<Entry>,
        /// With these the site has everything up to here.
        through: u64,
    },
    /// Nothing yet: it may wait.
    Nothing,
    /// Its history is not ours.
    History(&'static str),
}

/// Said when a site has seen what central has not.
pub const HISTORY: &str = "the site has seen a later history than the store has: was a backup restored? If that is meant, \
     run `signer-admin kms era bump`";
const FORKED: &str = "the site has seen another history: was the store restored and written to since? If that is meant, \
     run `signer-admin kms era bump`";

impl Mirror {
    /// Compares what a site has seen with our history.
    pub fn compare(&self, seen: &HeadMark) -> Result<(), &'static str> {
        let head = self.head_or_none();
        if seen.revision == 0 || seen.era < head.era {
            return Ok(());
        }
        if (seen.era, seen.revision) > (head.era, head.revision) {
            return Err(HISTORY);
        }
        match self.past_head(seen.revision) {
            Some(past) if past.era == seen.era && past.chain == seen.chain => Ok(()),
            _ => Err(FORKED),
        }
    }

    /// What changed for a site.
    pub fn follow(&self, site: &SiteRecord, follow: &Follow) -> Followed {
        if let Err(why) = self.compare(&follow.seen) {
            return Followed::History(why);
        }
        let head = self.head_or_none();
        if follow.seen.revision > 0 && follow.seen.era < head.era {
            // The site begins anew when it sees the era in the head.
            return Followed::Changes {
                entries: Vec::new(),
                through: follow.after,
            };
        }
        if follow.after >= head.revision {
            return Followed::Nothing;
        }
        let bytes_max = follow.bytes_max as usize;
        let (mut entries, mut bytes, mut through) = (Vec::new(), 0, follow.after);
        for (revision, keys) in self.after(follow.after) {
            let items = keys.iter().filter_map(|key| self.get(key));
            let whole: Vec<Entry> = items.map(|item| self.for_site(site, item)).collect();
            let more: usize = whole.iter().map(entry_bytes).sum();
            if bytes + more > bytes_max && through > follow.after {
                return Followed::Changes { entries, through };
            }
            entries.extend(whole);
            bytes += more;
            through = revision;
        }
        Followed::Changes {
            entries,
            through: head.revision,
        }
    }

    /// A record as a site gets it by following.
    fn for_site(&self, site: &SiteRecord, item: &Item) -> Entry {
        let mut entry = item.entry.clone();
        let keyhaven_wire::kms::Record::Version(manifest) = &item.record else {
            return entry;
        };
        let is_eager = self
            .class(&manifest.class)
            .is_some_and(|class| class.replication == Replication::Eager);
        self.trim(&mut entry, site, manifest, is_eager);
        entry
    }

    /// Takes away what is not for that site.
    fn trim(&self, entry: &mut Entry, site: &SiteRecord, manifest: &Manifest, wanted: bool) {
        let entitled = self
            .class(&manifest.class)
            .is_some_and(|class| is_entitled(site, class, manifest));
        if let Some(parts) = &mut entry.parts {
            parts.root_wrap.clear();
            if !(wanted && entitled && manifest.state < KeyState::Revoked) {
                parts.site_wrap.clear();
            }
        }
    }

    /// One key's records for a site that asks on behalf of a caller.
    pub fn fetch(&self, site: &SiteRecord, fetch: &Fetch) -> Vec<Entry> {
        let Some(key) = self.find(&fetch.key) else {
            return Vec::new();
        };
        let allowed = self
            .grant(&Scope::Key(key.id), &fetch.caller)
            .is_some_and(|grant| grant.operations.contains(&fetch.operation));
        if !allowed {
            return Vec::new();
        }
        let records = [store_key::key(key.id), store_key::class(&key.class)];
        let mut entries: Vec<Entry> = records
            .iter()
            .filter_map(|at| Some(self.get(at)?.entry.clone()))
            .collect();
        entries.extend(self.grants_on(key.id).into_iter().take(GRANTS_MAX).cloned());
        let mut bytes: usize = entries.iter().map(entry_bytes).sum();
        // The newest versions are the likeliest to be asked for.
        for (manifest, entry) in self.versions(key.id).into_iter().rev() {
            let mut entry = entry.clone();
            self.trim(&mut entry, site, manifest, true);
            bytes += entry_bytes(&entry);
            if bytes > FETCH_BYTES_MAX {
                break;
            }
            entries.push(entry);
        }
        entries
    }
}

/// Whether a site's token can unwrap a version, and may.
pub(super) fn is_entitled(site: &SiteRecord, class: &ClassRecord, manifest: &Manifest) -> bool {
    let holds = site.holds.iter().any(|held| held.kek == manifest.kek);
    let is_there = class.regions.contains(&site.region);
    let is_hard =
        site.hardware >= class.hardware_min || class.hardware_min == HardwareLevel::Software;
    !site.evicted && holds && is_there && is_hard
}

/// What an entry takes in a frame, a little more rather than less.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    let Signed { body, signature } = &entry.signed;
    let parts = entry.parts.as_ref().map_or(0, parts_bytes);
    body.len() + signature.len() + parts + ENTRY_OVERHEAD
}

fn parts_bytes(parts: &VersionParts) -> usize {
    let chain: usize = parts.chain.iter().map(|der| der.len() + 3).sum();
    parts.site_wrap.len() + parts.root_wrap.len() + chain + 8
}

const ENTRY_OVERHEAD: usize = 8;
/// What one answer may hold beside its head.
const FETCH_BYTES_MAX: usize = 96 * 1024;
/// A key with more grants than that is known by following.
const GRANTS_MAX: usize = 128;
