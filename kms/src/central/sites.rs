//! Sites and grants: who holds what, and who may do what.

use keyhaven_types::{Identity, KeyState, Name, Operation, Replication, Role};
use keyhaven_wire::kms::{
    Grant, Held, KeyRef, Record, Scope, SiteRecord,
    admin::{Answer, NewSite, RefusedCode},
};

use super::{
    Mirror, Step, changes,
    plan::{Claim, Draft, Planned, refuse},
};

impl Mirror {
    pub(super) fn plan_site(&self, site: &NewSite) -> Planned {
        if site.identity.role() != Role::Signer {
            return refuse(
                RefusedCode::Rule,
                format!("{} is no signer's identity", site.identity),
            );
        }
        let mut holds = Vec::new();
        let known = self.site(&site.name);
        if let Some(known) = known {
            if known.evicted {
                return refuse(
                    RefusedCode::Rule,
                    format!(
                        "site `{}` was thrown out; enrol its successor under another name",
                        site.name
                    ),
                );
            }
            if known.identity != site.identity {
                return refuse(
                    RefusedCode::Rule,
                    format!(
                        "site `{}` is {}; another identity is another site",
                        site.name, known.identity
                    ),
                );
            }
            holds.clone_from(&known.holds);
        }
        if let Some(other) = self.site_of(&site.identity)
            && other.name != site.name
        {
            return refuse(
                RefusedCode::Exists,
                format!("{} is site `{}` already", site.identity, other.name),
            );
        }
        for held in &site.holds {
            self.check_held(site, held)?;
            if !holds.contains(held) {
                holds.push(held.clone());
            }
        }
        let record = SiteRecord {
            name: site.name.clone(),
            identity: site.identity.clone(),
            address: site.address.clone(),
            region: site.region.clone(),
            hardware: site.hardware,
            holds,
            evicted: false,
            revision: 0,
        };
        let before = known.map(|known| SiteRecord {
            revision: 0,
            ..known.clone()
        });
        if before.as_ref() == Some(&record) {
            return Ok(self.tell_again(site, known.map_or(0, |known| known.revision)));
        }
        let mut draft = Draft {
            claims: vec![Claim::Identity(site.identity.clone(), site.name.clone())],
            // A new site begins from nothing; one that is there has passed what it may have only now.
            more: before.is_some_and(|before| {
                (&before.holds, &before.region, before.hardware)
                    != (&record.holds, &record.region, record.hardware)
            }),
            ..Draft::default()
        };
        if known.is_none() {
            draft.warnings.extend(other_name(site));
        }
        draft.write(self, Record::Site(record), None);
        Ok(Step::Write(draft))
    }

    /// Versions that a site has passed before it was given their key-encryption keys are written once more, so that it
    /// hears of them. Asked for again, it goes on where it was.
    fn tell_again(&self, site: &NewSite, since: u64) -> Step {
        let mut draft = Draft {
            more: true,
            ..Draft::default()
        };
        let mut bytes = 0;
        for (manifest, entry) in self.all_versions() {
            let is_given = site.holds.iter().any(|held| held.kek == manifest.kek);
            let is_passed = manifest.revision < since && manifest.state < KeyState::Revoked;
            let is_eager = || {
                self.class(&manifest.class)
                    .is_some_and(|class| class.replication == Replication::Eager)
            };
            if !(is_given && is_passed && is_eager()) {
                continue;
            }
            bytes += changes::entry_bytes(entry);
            let is_full = draft.records.len() == TOLD_MAX || bytes > TOLD_BYTES_MAX;
            if is_full && !draft.records.is_empty() {
                break;
            }
            draft.write(self, Record::Version(manifest.clone()), entry.parts.clone());
        }
        if draft.records.is_empty() {
            return Step::Answer(Answer::Committed {
                revision: self.head_or_none().revision,
                key: None,
                warnings: Vec::new(),
            });
        }
        Step::Write(draft)
    }

    fn check_held(&self, site: &NewSite, held: &Held) -> Planned<()> {
        let Some(class) = self.class(&held.class) else {
            return refuse(RefusedCode::NotFound, format!("no class `{}`", held.class));
        };
        let is_epoch = class.epochs.iter().any(|epoch| {
            epoch.purpose == held.purpose && epoch.epoch == held.epoch && epoch.kek == held.kek
        });
        if !is_epoch {
            return refuse(
                RefusedCode::Rule,
                format!(
                    "class `{}` has no epoch {} for {} with that key-encryption key",
                    held.class, held.epoch, held.purpose
                ),
            );
        }
        if !class.regions.contains(&site.region) {
            return refuse(
                RefusedCode::Rule,
                format!(
                    "class `{}` is not for region `{}`, and the site holds its keys by now: initialise its token again, and hold \
                     a ceremony with classes of its region only",
                    class.name, site.region
                ),
            );
        }
        if site.hardware < class.hardware_min {
            return refuse(
                RefusedCode::Rule,
                format!(
                    "class `{}` is for {} tokens or better",
                    class.name, class.hardware_min
                ),
            );
        }
        Ok(())
    }

    pub(super) fn plan_evict(&self, name: &Name) -> Planned {
        let Some(site) = self.site(name) else {
            return refuse(
                RefusedCode::NotFound,
                format!("no site `{name}`; `signer-admin kms site list` shows what there is"),
            );
        };
        if site.evicted {
            return refuse(
                RefusedCode::Rule,
                format!("site `{name}` was thrown out before"),
            );
        }
        let record = SiteRecord {
            evicted: true,
            ..site.clone()
        };
        let mut draft = Draft::default();
        let mut classes: Vec<&str> = site.holds.iter().map(|held| held.class.as_str()).collect();
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            draft.warnings.push(format!(
                "its token still has class `{class}`'s key-encryption keys: `signer-admin kms class rotate {class}`, a \
                 ceremony for each remaining site, then `kms class rewrap {class}`"
            ));
        }
        draft.write(self, Record::Site(record), None);
        Ok(Step::Write(draft))
    }

    pub(super) fn plan_grant(
        &self,
        identity: &Identity,
        key: Option<&KeyRef>,
        operations: &[Operation],
    ) -> Planned {
        let mut operations = operations.to_vec();
        operations.sort_unstable();
        operations.dedup();
        let (scope, allowed): (Scope, &[Operation]) = match key {
            Some(key) => {
                let key = self.known(key)?;
                (Scope::Key(key.id), key.purpose.operations())
            }
            None => (Scope::Server, &[Operation::Random]),
        };
        if let Some(bad) = operations
            .iter()
            .find(|operation| !allowed.contains(operation))
        {
            let allowed: Vec<&str> = allowed.iter().map(|operation| operation.as_str()).collect();
            return refuse(
                RefusedCode::Rule,
                format!(
                    "{bad} cannot be asked of it; what can is {}",
                    if allowed.is_empty() {
                        "nothing".to_owned()
                    } else {
                        allowed.join(", ")
                    }
                ),
            );
        }
        if operations.contains(&Operation::Handshake) && identity.role() != Role::Proxy {
            return refuse(
                RefusedCode::Rule,
                format!("{identity} is no proxy: only proxies ask for handshakes"),
            );
        }
        if operations.is_empty() && self.grant(&scope, identity).is_none() {
            return refuse(RefusedCode::NotFound, "there is no such grant");
        }
        let record = Grant {
            identity: identity.clone(),
            scope,
            operations,
            revision: 0,
        };
        let mut draft = Draft::default();
        draft.write(self, Record::Grant(record), None);
        Ok(Step::Write(draft))
    }

    pub(super) fn site_page(&self, after: Option<&Name>) -> Step {
        let (mut page, mut bytes, mut more) = (Vec::new(), 0, false);
        for site in self.sites() {
            if after.is_some_and(|after| site.name <= *after) {
                continue;
            }
            bytes += 128 + site.name.as_str().len() + site.address.len();
            bytes += site.identity.to_string().len() + site.region.as_str().len();
            // What it holds makes most of it.
            bytes += site
                .holds
                .iter()
                .map(|held| held.class.as_str().len() + 28)
                .sum::<usize>();
            if bytes > PAGE_BYTES && !page.is_empty() {
                more = true;
                break;
            }
            page.push(site.clone());
        }
        Step::Answer(Answer::Sites { sites: page, more })
    }

    pub(super) fn grant_page(
        &self,
        key: Option<&KeyRef>,
        identity: Option<&Identity>,
        after: Option<&(Scope, Identity)>,
    ) -> Planned {
        let scope = match key {
            Some(key) => Some(Scope::Key(self.known(key)?.id)),
            None => None,
        };
        let after = after.map(|(scope, identity)| super::store_key::grant(scope, identity));
        let mut grants: Vec<Grant> = self
            .grants()
            .filter(|grant| !grant.operations.is_empty())
            .filter(|grant| scope.is_none_or(|scope| grant.scope == scope))
            .filter(|grant| identity.is_none_or(|identity| grant.identity == *identity))
            .filter(|grant| {
                let at = super::store_key::grant(&grant.scope, &grant.identity);
                after.as_ref().is_none_or(|after| at > *after)
            })
            .take(PAGE + 1)
            .cloned()
            .collect();
        let more = grants.len() > PAGE;
        grants.truncate(PAGE);
        Ok(Step::Answer(Answer::Grants { grants, more }))
    }
}

/// A site keeps its identity for good, so that one of another name is worth a second look.
fn other_name(site: &NewSite) -> Option<String> {
    let name = site.identity.as_str().rsplit('/').next();
    (name != Some(site.name.as_str())).then(|| {
        format!(
            "{} does not end in the site's name, `{}`: is it the right one? If not, `signer-admin kms site evict`, and \
             enrol it under another name",
            site.identity, site.name
        )
    })
}

/// Versions of one transaction.
const TOLD_MAX: usize = 64;
const TOLD_BYTES_MAX: usize = 48 * 1024;
/// Grants of one answer.
const PAGE: usize = 256;
/// Sites of one answer, in bytes: three quarters of a frame.
const PAGE_BYTES: usize = 96 * 1024;
