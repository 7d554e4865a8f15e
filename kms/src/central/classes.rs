//! Classes and their key-encryption keys: made from the pool, rotated, and everything wrapped anew.

use keyhaven_types::{KekId, KeyState, Name, Purpose};
use keyhaven_wire::kms::{
    BOUND_S_MAX, BOUND_S_MIN, ClassEpoch, ClassRecord, Manifest, Record,
    admin::{Answer, NewClass, RefusedCode},
};

use super::{
    Mirror, Step, Work, changes,
    enforced::bound_at,
    plan::{Claim, Draft, Planned, Rewrap, Rewrapped, refuse},
    store_key,
};
use crate::records::sha256;

impl Mirror {
    /// Key-encryption keys of the token that no class has.
    pub fn free(&self, pool: &[(Purpose, KekId)]) -> Vec<(Purpose, KekId)> {
        let pool = pool.iter();
        pool.filter(|(_, kek)| !self.is_taken(*kek))
            .copied()
            .collect()
    }

    /// Whether a class has a key-encryption key.
    pub(super) fn is_taken(&self, kek: KekId) -> bool {
        let mut epochs = self.classes().flat_map(|(class, _)| &class.epochs);
        epochs.any(|epoch| epoch.kek == kek)
    }

    /// How many of them there are for each purpose.
    pub fn free_count(&self, pool: &[(Purpose, KekId)]) -> Vec<(Purpose, u32)> {
        let free = self.free(pool);
        let count = |purpose: &Purpose| free.iter().filter(|(of, _)| of == purpose).count();
        Purpose::ALL
            .iter()
            .map(|purpose| (*purpose, u32::try_from(count(purpose)).unwrap_or(u32::MAX)))
            .collect()
    }

    /// Whether a class is for keys of this purpose.
    pub fn has_class_for(&self, purpose: Purpose) -> bool {
        let mut epochs = self.classes().flat_map(|(class, _)| &class.epochs);
        epochs.any(|epoch| epoch.purpose == purpose)
    }

    fn take_free(&self, purpose: Purpose, pool: &[(Purpose, KekId)]) -> Planned<KekId> {
        let free = self.free(pool).into_iter().find(|(of, _)| *of == purpose);
        match free {
            Some((_, kek)) => Ok(kek),
            None => refuse(
                RefusedCode::Token,
                format!(
                    "the pool has no key-encryption key for {purpose} left: make some at central's token with \
                     `signer-admin kms ceremony pool --purpose {purpose}`"
                ),
            ),
        }
    }

    pub(super) fn create_class(&self, class: &NewClass, pool: &[(Purpose, KekId)]) -> Planned {
        if self.class(&class.name).is_some() {
            return refuse(
                RefusedCode::Exists,
                format!("there is a class `{}` already", class.name),
            );
        }
        let mut purposes = class.purposes.clone();
        purposes.sort_unstable();
        purposes.dedup();
        let mut epochs = Vec::new();
        for purpose in purposes {
            epochs.push(ClassEpoch {
                purpose,
                epoch: 1,
                kek: self.take_free(purpose, pool)?,
                current: true,
            });
        }
        let record = ClassRecord {
            name: class.name.clone(),
            regions: class.regions.clone(),
            hardware_min: class.hardware_min,
            bound_s: class.bound_s,
            bound_before: None,
            generated_only: class.generated_only,
            replication: class.replication,
            epochs,
            revision: 0,
        };
        // Two classes must not take one key-encryption key at the same time.
        let claims = record.epochs.iter().map(|epoch| Claim::Kek(epoch.kek));
        let mut draft = Draft {
            claims: claims.collect(),
            ..Draft::default()
        };
        draft.write(self, Record::Class(record), None);
        Ok(Step::Write(draft))
    }

    fn known_class(&self, name: &Name) -> Planned<&ClassRecord> {
        match self.class(name) {
            Some(class) => Ok(class),
            None => refuse(
                RefusedCode::NotFound,
                format!("no class `{name}`; `signer-admin kms class list` shows what there is"),
            ),
        }
    }

    pub(super) fn plan_bound(&self, name: &Name, bound_s: u32, now_ms: u64) -> Planned {
        let class = self.known_class(name)?;
        if !(BOUND_S_MIN..=BOUND_S_MAX).contains(&bound_s) {
            return refuse(RefusedCode::Rule, "a bound is 5 seconds to 7 days");
        }
        let mut next = ClassRecord {
            bound_s,
            ..class.clone()
        };
        // Leases of the longer bound run on until they end.
        let longest = bound_at(class, now_ms);
        next.bound_before =
            (longest > bound_s).then(|| (longest, now_ms + u64::from(longest) * 1010 + 2000));
        let mut draft = Draft::default();
        draft.write(self, Record::Class(next), None);
        Ok(Step::Write(draft))
    }

    pub(super) fn rotate_class(
        &self,
        name: &Name,
        purposes: &[Purpose],
        pool: &[(Purpose, KekId)],
    ) -> Planned {
        let class = self.known_class(name)?;
        let mut next = class.clone();
        let mut has: Vec<Purpose> = class.epochs.iter().map(|epoch| epoch.purpose).collect();
        has.sort_unstable();
        has.dedup();
        let purposes = if purposes.is_empty() { &has } else { purposes };
        for purpose in purposes {
            let of = |epoch: &&ClassEpoch| epoch.purpose == *purpose;
            let Some(newest) = class.epochs.iter().rev().find(of) else {
                return refuse(
                    RefusedCode::Rule,
                    format!("class `{name}` is not for keys of purpose {purpose}"),
                );
            };
            if !newest.current {
                return refuse(
                    RefusedCode::Rule,
                    format!(
                        "epoch {} for {purpose} is not in use yet: give it to the sites by a ceremony, then `signer-admin \
                         kms class rewrap {name}`",
                        newest.epoch
                    ),
                );
            }
            next.epochs.push(ClassEpoch {
                purpose: *purpose,
                epoch: newest.epoch + 1,
                kek: self.take_free(*purpose, pool)?,
                current: false,
            });
        }
        let mut draft = Draft::default();
        let added = &next.epochs[class.epochs.len()..];
        draft
            .claims
            .extend(added.iter().map(|epoch| Claim::Kek(epoch.kek)));
        draft.write(self, Record::Class(next), None);
        draft.warnings.push(format!(
            "the new key-encryption keys are not in use yet: hold a ceremony for each site of the class, then \
             `signer-admin kms class rewrap {name}`"
        ));
        Ok(Step::Write(draft))
    }

    /// The next versions to be wrapped anew, or the last step: the class's newest epochs become the only current ones
    /// first, so that nothing new is made under an old one while the rest is wrapped anew. Run again after a crash, it
    /// goes on where it was.
    pub(super) fn plan_rewrap(&self, name: &Name, leave_behind: bool) -> Planned {
        let class = self.known_class(name)?;
        let newest = newest_epochs(class);
        let missing = self.sites_without(class, &newest);
        if !missing.is_empty() && !leave_behind {
            return refuse(
                RefusedCode::Rule,
                format!(
                    "these sites have not been given the newest key-encryption keys of class `{name}`, and could not use its \
                     keys afterwards: {}; hold a ceremony for each of them and register what it gave (`kms site add`), or say \
                     --leave-behind",
                    missing.join(", ")
                ),
            );
        }
        if class
            .epochs
            .iter()
            .any(|epoch| epoch.current != newest.contains(&epoch.kek))
        {
            let mut next = class.clone();
            for epoch in &mut next.epochs {
                epoch.current = newest.contains(&epoch.kek);
            }
            let mut draft = Draft {
                more: true,
                ..Draft::default()
            };
            draft.write(self, Record::Class(next), None);
            if !missing.is_empty() {
                draft.warnings.push(format!(
                    "these sites have not been given the newest key-encryption keys, and cannot use what is wrapped under \
                     them: {}",
                    missing.join(", ")
                ));
            }
            return Ok(Step::Write(draft));
        }
        let stale = self.stale(class, &newest);
        if stale.is_empty() {
            return Ok(Step::Answer(Answer::Committed {
                revision: self.head_or_none().revision,
                key: None,
                warnings: Vec::new(),
            }));
        }
        Ok(Step::Work(Work::Rewrap(stale)))
    }

    /// What was wrapped anew, as far as it is still what it was.
    pub(super) fn rewrapped(&self, name: &Name, rewrapped: Vec<Rewrapped>) -> Planned {
        let class = self.known_class(name)?;
        let newest = newest_epochs(class);
        let mut draft = Draft {
            more: true,
            ..Draft::default()
        };
        draft.on(self, store_key::class(name));
        for Rewrapped { of, site_wrap } in rewrapped {
            let Some((manifest, entry)) = self.version(of.manifest.id, of.manifest.version) else {
                continue;
            };
            let is_same = manifest.root_wrap == of.manifest.root_wrap
                && manifest.state < KeyState::Destroyed
                && !newest.contains(&manifest.kek)
                && newest.contains(&of.kek);
            if !is_same {
                continue;
            }
            let manifest = Manifest {
                epoch: of.epoch,
                kek: of.kek,
                site_wrap: sha256(&site_wrap),
                ..manifest.clone()
            };
            let mut parts = entry.parts.clone().unwrap_or_default();
            parts.site_wrap = site_wrap;
            draft.write(self, Record::Version(manifest), Some(parts));
        }
        if draft.records.is_empty() {
            // All of it has changed meanwhile.
            return self.plan_rewrap(name, true);
        }
        Ok(Step::Write(draft))
    }

    /// Versions under an old epoch, as many as one transaction takes.
    fn stale(&self, class: &ClassRecord, newest: &[KekId]) -> Vec<Rewrap> {
        let (mut stale, mut bytes) = (Vec::new(), 0);
        for (manifest, entry) in self.all_versions() {
            let is_stale = manifest.class == class.name
                && manifest.state < KeyState::Destroyed
                && !newest.contains(&manifest.kek);
            let mut epochs = class.epochs.iter().rev();
            let newest = epochs.find(|epoch| epoch.purpose == manifest.purpose);
            let Some(newest) = newest.filter(|_| is_stale) else {
                continue;
            };
            bytes += changes::entry_bytes(entry);
            let is_full = stale.len() == REWRAP_MAX || bytes > REWRAP_BYTES_MAX;
            if is_full && !stale.is_empty() {
                break;
            }
            stale.push(Rewrap {
                manifest: manifest.clone(),
                root_wrap: entry
                    .parts
                    .as_ref()
                    .map(|parts| parts.root_wrap.clone())
                    .unwrap_or_default(),
                epoch: newest.epoch,
                kek: newest.kek,
            });
        }
        stale
    }

    /// Sites that lack a key-encryption key in use of a class that they hold keys of, with the class.
    pub fn left_behind(&self) -> Vec<(String, Name)> {
        let mut all = Vec::new();
        for (class, _) in self.classes() {
            let in_use = class.epochs.iter().filter(|epoch| epoch.current);
            let in_use: Vec<KekId> = in_use.map(|epoch| epoch.kek).collect();
            let sites = self.sites_without(class, &in_use).into_iter();
            all.extend(sites.map(|site| (site, class.name.clone())));
        }
        all
    }

    fn sites_without(&self, class: &ClassRecord, newest: &[KekId]) -> Vec<String> {
        self.sites()
            .filter(|site| !site.evicted && site.holds.iter().any(|held| held.class == class.name))
            .filter(|site| {
                !newest
                    .iter()
                    .all(|kek| site.holds.iter().any(|held| held.kek == *kek))
            })
            .map(|site| site.name.to_string())
            .collect()
    }

    pub(super) fn class_list(&self, pool: &[(Purpose, KekId)]) -> Step {
        let (classes, signed) = self
            .classes()
            .map(|(class, signed)| (class.clone(), signed.clone()))
            .unzip();
        Step::Answer(Answer::Classes {
            classes,
            signed,
            pool: self.free_count(pool),
        })
    }
}

/// The newest key-encryption key of each purpose.
fn newest_epochs(class: &ClassRecord) -> Vec<KekId> {
    Purpose::ALL
        .iter()
        .filter_map(|purpose| {
            let mut epochs = class.epochs.iter().rev();
            Some(epochs.find(|epoch| epoch.purpose == *purpose)?.kek)
        })
        .collect()
}

/// Versions of one transaction.
const REWRAP_MAX: usize = 64;
const REWRAP_BYTES_MAX: usize = 48 * 1024;
