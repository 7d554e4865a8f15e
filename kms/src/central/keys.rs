//! Keys and their versions: made, imported, rotated, taken onward, shown. Certificates are in `certificates`.

use keyhaven_types::{KekId, KeyId, KeyState, Name, Provenance, Purpose};
use keyhaven_wire::kms::{
    ClassRecord, KeyRecord, KeyRef, Manifest, Public, Record, VersionParts,
    admin::{Answer, Import, NewKey, RefusedCode},
    chain_digest,
};

use super::{
    Mirror, Step, Work,
    certificates::{check_chain, is_host_name, names_of, unnamed, warn_of_names},
    changes,
    plan::{Claim, Draft, Made, Planned, refuse},
    store_key,
};
use crate::records::sha256;

impl Mirror {
    pub(super) fn known(&self, key: &KeyRef) -> Planned<&KeyRecord> {
        match self.find(key) {
            Some(key) => Ok(key),
            None => refuse(
                RefusedCode::NotFound,
                "no such key; `signer-admin kms key list` shows what there is",
            ),
        }
    }

    /// The class and its current key-encryption key for a purpose.
    fn current_kek(&self, class: &Name, purpose: Purpose) -> Planned<(&ClassRecord, u32, KekId)> {
        let Some(class) = self.class(class) else {
            return refuse(
                RefusedCode::NotFound,
                format!("no class `{class}`; `signer-admin kms class list` shows what there is"),
            );
        };
        let current = class
            .epochs
            .iter()
            .rev()
            .find(|epoch| epoch.purpose == purpose && epoch.current);
        match current {
            Some(epoch) => Ok((class, epoch.epoch, epoch.kek)),
            None => refuse(
                RefusedCode::Rule,
                format!(
                    "class `{}` is not for keys of purpose {purpose}",
                    class.name
                ),
            ),
        }
    }

    fn check_new(&self, key: &NewKey) -> Planned<KekId> {
        if !key.kind.serves(key.purpose) {
            return refuse(
                RefusedCode::Rule,
                format!("a key of kind {} cannot be for {}", key.kind, key.purpose),
            );
        }
        if self.key_named(&key.name).is_some() {
            return refuse(
                RefusedCode::Exists,
                format!(
                    "there is a key `{}` already; choose another name, or rotate it",
                    key.name
                ),
            );
        }
        if !key.server_names.is_empty() && key.purpose != Purpose::Handshake {
            return refuse(RefusedCode::Rule, "only a handshake key has host names");
        }
        if let Some(bad) = key.server_names.iter().find(|name| !is_host_name(name)) {
            return refuse(
                RefusedCode::Rule,
                format!(
                    "`{bad}` is no host name: write it in lower case, `*.` only as the first label"
                ),
            );
        }
        self.check_hosts(&key.server_names, None)?;
        self.current_kek(&key.class, key.purpose)
            .map(|(.., kek)| kek)
    }

    /// A host name is served with one key that is in use.
    pub(super) fn check_hosts(&self, names: &[String], own: Option<KeyId>) -> Planned<()> {
        for name in names {
            let others = self.keys_of_host(name);
            if let Some(other) = others.into_iter().find(|other| Some(other.id) != own) {
                return refuse(
                    RefusedCode::Exists,
                    format!(
                        "`{name}` is served with key `{}` already; rotate that one, or revoke it first",
                        other.name
                    ),
                );
            }
        }
        Ok(())
    }

    pub(super) fn plan_create(&self, key: &NewKey, id: KeyId) -> Planned {
        let kek = self.check_new(key)?;
        Ok(Step::Work(Work::Generate {
            id,
            version: 1,
            kind: key.kind,
            purpose: key.purpose,
            kek,
        }))
    }

    pub(super) fn plan_import(&self, import: &Import, id: KeyId) -> Planned {
        let kek = self.check_new(&import.key)?;
        let (class, ..) = self.current_kek(&import.key.class, import.key.purpose)?;
        if class.generated_only {
            return refuse(
                RefusedCode::Rule,
                format!("class `{}` takes only generated keys", class.name),
            );
        }
        if import.provenance == Provenance::Generated {
            return refuse(RefusedCode::Rule, "an imported key was not generated here");
        }
        Ok(Step::Work(Work::Import {
            id,
            kind: import.key.kind,
            purpose: import.key.purpose,
            kek,
            transport: import.transport,
            wrapped_kek: import.wrapped_kek.clone(),
            wrapped_key: import.wrapped_key.clone(),
            public: import.public.clone(),
        }))
    }

    pub(super) fn import(&self, import: &Import, id: KeyId, made: Made) -> Planned {
        // A key has one purpose and one life: neither begins anew by importing it again.
        let is_known = |manifest: &&Manifest| {
            matches!(manifest.public, Public::Spki(_)) && manifest.public == made.material.public
        };
        let mut all = self.all_versions().map(|(manifest, _)| manifest);
        if let Some(known) = all.find(is_known) {
            let key = self
                .key(known.id)
                .map_or_else(|| known.id.to_string(), |key| key.name.to_string());
            return refuse(
                RefusedCode::Exists,
                format!(
                    "this is version {} of key `{key}` already, which is {}",
                    known.version, known.state
                ),
            );
        }
        let step = self.create(
            &import.key,
            id,
            import.provenance,
            import.chain.clone(),
            made,
        )?;
        let Step::Write(mut draft) = step else {
            return Ok(step);
        };
        if import.provenance == Provenance::ImportedFile {
            draft.warnings.push(
                "the key came from a file: copies of it may exist, and its record says so; rotate it to get one that \
                 was born in the token"
                    .to_owned(),
            );
        }
        Ok(Step::Write(draft))
    }

    pub(super) fn create(
        &self,
        key: &NewKey,
        id: KeyId,
        provenance: Provenance,
        chain: Vec<Vec<u8>>,
        made: Made,
    ) -> Planned {
        self.check_new(key)?;
        let (class, epoch, kek) = self.current_kek(&key.class, key.purpose)?;
        if made.material.kek != kek {
            return Ok(Step::Again);
        }
        check_chain(&chain, &made.material.public)?;
        let mut server_names = key.server_names.clone();
        if server_names.is_empty() && key.purpose == Purpose::Handshake {
            server_names = names_of(&chain);
            self.check_hosts(&server_names, None)?;
        }
        let mut claims = host_claims(&server_names, id);
        claims.push(Claim::KeyName(key.name.clone()));
        let record = KeyRecord {
            id,
            name: key.name.clone(),
            kind: key.kind,
            purpose: key.purpose,
            class: key.class.clone(),
            server_names,
            current: Some(1),
            versions: 1,
            revision: 0,
        };
        let warning = match (key.purpose, chain.is_empty()) {
            (Purpose::Handshake, true) => unnamed(&record.server_names),
            (Purpose::Handshake, false) => warn_of_names(&record.server_names, &chain),
            _ => None,
        };
        let (manifest, parts) = version(&record, epoch, provenance, chain, made);
        let mut draft = Draft {
            about: Some((id, 1)),
            claims,
            warnings: warning.into_iter().collect(),
            ..Draft::default()
        };
        draft.on(self, store_key::class(&class.name));
        draft.write(self, Record::Key(record), None);
        draft.write(self, Record::Version(manifest), Some(parts));
        Ok(Step::Write(draft))
    }

    pub(super) fn plan_rotate(&self, key: &KeyRef) -> Planned {
        let key = self.known(key)?;
        let (.., kek) = self.current_kek(&key.class, key.purpose)?;
        Ok(Step::Work(Work::Generate {
            id: key.id,
            version: key.versions + 1,
            kind: key.kind,
            purpose: key.purpose,
            kek,
        }))
    }

    pub(super) fn rotate(&self, key: &KeyRef, made: Made) -> Planned {
        let key = self.known(key)?.clone();
        let (class, epoch, kek) = self.current_kek(&key.class, key.purpose)?;
        let mut next = key.clone();
        next.versions += 1;
        if (made.material.id, made.material.version, made.material.kek)
            != (key.id, next.versions, kek)
        {
            return Ok(Step::Again);
        }
        let mut draft = Draft {
            about: Some((key.id, next.versions)),
            ..Draft::default()
        };
        draft.on(self, store_key::class(&class.name));
        let (mut manifest, parts) = version(&next, epoch, Provenance::Generated, Vec::new(), made);
        if key.purpose == Purpose::Handshake {
            // It serves when its certificate has come; until then the former version does.
            manifest.state = KeyState::Pending;
            draft.warnings.push(format!(
                "version {} has no certificate yet, and the former one serves until it has: `kms key csr`, then `kms key \
                 chain`",
                next.versions
            ));
        } else {
            next.current = Some(next.versions);
            self.deactivate_current(&key, &mut draft);
        }
        draft.write(self, Record::Key(next), None);
        draft.write(self, Record::Version(manifest), Some(parts));
        Ok(Step::Write(draft))
    }

    pub(super) fn deactivate_current(&self, key: &KeyRecord, draft: &mut Draft) {
        let current = key
            .current
            .and_then(|version| self.version(key.id, version));
        if let Some((manifest, entry)) = current {
            let old = Manifest {
                state: KeyState::Deactivated,
                ..manifest.clone()
            };
            draft.write(self, Record::Version(old), entry.parts.clone());
        }
    }

    pub(super) fn plan_state(
        &self,
        key: &KeyRef,
        version: Option<u32>,
        state: KeyState,
    ) -> Planned {
        let key = self.known(key)?.clone();
        if !matches!(
            state,
            KeyState::Deactivated | KeyState::Revoked | KeyState::Destroyed
        ) {
            return refuse(
                RefusedCode::Rule,
                "a version is taken to deactivated, revoked or destroyed",
            );
        }
        let mut draft = Draft {
            about: Some((key.id, version.or(key.current).unwrap_or(key.versions))),
            ..Draft::default()
        };
        let mut next = key.clone();
        let (mut found, mut bytes) = (false, 0);
        // The newest first: it is the one in use.
        let versions = self.versions(key.id);
        for (manifest, entry) in versions.into_iter().rev() {
            if version.is_some_and(|only| only != manifest.version) {
                continue;
            }
            found = true;
            if !manifest.state.may_become(state) {
                if version.is_some() {
                    return refuse(
                        RefusedCode::Rule,
                        format!(
                            "version {} is {}, and states go one way only",
                            manifest.version, manifest.state
                        ),
                    );
                }
                continue;
            }
            let (manifest, parts) = onward(manifest, entry.parts.clone(), state);
            bytes += changes::entry_bytes(entry);
            let is_full = draft.records.len() == STATE_RECORDS_MAX || bytes > STATE_BYTES_MAX;
            if is_full && !draft.records.is_empty() {
                draft.more = true;
                continue;
            }
            if next.current == Some(manifest.version) {
                next.current = None;
            }
            draft.write(self, Record::Version(manifest), parts);
        }
        if !found {
            return refuse(RefusedCode::NotFound, "the key has no such version");
        }
        if draft.records.is_empty() {
            return refuse(
                RefusedCode::Rule,
                format!("no version can become {state} any more: states go one way only"),
            );
        }
        // A disabled key keeps its current version, so that what it made can be verified by default.
        if state > KeyState::Deactivated && next.current != key.current {
            draft.write(self, Record::Key(next), None);
        } else {
            draft.on(self, store_key::key(key.id));
        }
        Ok(Step::Write(draft))
    }

    pub(super) fn key_page(&self, after: Option<&Name>) -> Step {
        let keys = self.keys_after(after);
        let (mut page, mut bytes, mut more) = (Vec::new(), 0, false);
        for key in keys {
            // Names of hosts make most of it.
            bytes += 128 + key.name.as_str().len() + key.class.as_str().len();
            bytes += key
                .server_names
                .iter()
                .map(|name| name.len() + 2)
                .sum::<usize>();
            if page.len() == PAGE || (bytes > PAGE_BYTES && !page.is_empty()) {
                more = true;
                break;
            }
            page.push(key.clone());
        }
        Step::Answer(Answer::Keys { keys: page, more })
    }

    pub(super) fn key_shown(&self, key: &KeyRef) -> Planned {
        let key = self.known(key)?;
        let versions = self.versions(key.id);
        let skip = versions.len().saturating_sub(VERSIONS_SHOWN);
        Ok(Step::Answer(Answer::Key {
            key: key.clone(),
            versions: versions
                .into_iter()
                .skip(skip)
                .map(|(manifest, _)| manifest.clone())
                .collect(),
        }))
    }
}

fn version(
    key: &KeyRecord,
    epoch: u32,
    provenance: Provenance,
    chain: Vec<Vec<u8>>,
    made: Made,
) -> (Manifest, VersionParts) {
    let Made { material, at_ms } = made;
    let manifest = Manifest {
        id: key.id,
        version: key.versions,
        kind: key.kind,
        purpose: key.purpose,
        public: material.public,
        operations: key.purpose.operations().to_vec(),
        state: KeyState::Active,
        class: key.class.clone(),
        epoch,
        kek: material.kek,
        site_wrap: sha256(&material.site_wrap),
        root_wrap: sha256(&material.root_wrap),
        chain: chain_digest(&chain),
        provenance,
        made_ms: at_ms,
        revision: 0,
    };
    let parts = VersionParts {
        site_wrap: material.site_wrap,
        root_wrap: material.root_wrap,
        chain,
    };
    (manifest, parts)
}

/// A version in its next state; a destroyed one has no wraps.
fn onward(
    manifest: &Manifest,
    parts: Option<VersionParts>,
    state: KeyState,
) -> (Manifest, Option<VersionParts>) {
    let mut manifest = Manifest {
        state,
        ..manifest.clone()
    };
    let mut parts = parts.unwrap_or_default();
    if state == KeyState::Destroyed {
        parts.site_wrap.clear();
        parts.root_wrap.clear();
        manifest.site_wrap = sha256(&[]);
        manifest.root_wrap = sha256(&[]);
    }
    (manifest, Some(parts))
}

pub(super) fn host_claims(names: &[String], key: KeyId) -> Vec<Claim> {
    let names = names.iter();
    names
        .map(|name| Claim::HostName(name.clone(), key))
        .collect()
}

/// Keys of one answer.
const PAGE: usize = 500;
/// And their bytes: what a frame can hold, with room.
const PAGE_BYTES: usize = 96 * 1024;
/// Versions of one answer.
const VERSIONS_SHOWN: usize = 100;
/// Versions that one transaction takes onward.
const STATE_RECORDS_MAX: usize = 64;
/// And their bytes, with their certificates: a transaction travels to sites whole, in one frame.
const STATE_BYTES_MAX: usize = 48 * 1024;
