//! What lookup needs to know and to have done here, as seams: records, and the server's own work.
//!
//! [`Table`] and [`Intermediate`] are what stands behind them in a signer; tests put simpler things there. Decides
//! nothing. Invariant: what a [`Directory`] gives was said by central.

use std::{sync::Arc, time::Duration};

use keyhaven_types::{Identity, KeyId, Name, Operation};
use keyhaven_wire::kms::{
    ClassRecord, KeyRecord, KeyRef, Manifest, Scope, SiteRecord, SiteStatus, Task, TaskResult,
};

use crate::intermediate::{BoxFuture, Intermediate, Table};

/// Central's records as they are known here.
pub trait Directory: Send + Sync {
    /// Keys that this names: one at most by id or name, each that is served for it by host name.
    fn keys(&self, key: &KeyRef) -> Vec<Arc<KeyRecord>>;
    /// One version of a key.
    fn manifest(&self, id: KeyId, version: u32) -> Option<Manifest>;
    /// A class.
    fn class(&self, name: &Name) -> Option<Arc<ClassRecord>>;
    /// Every site, evicted ones too.
    fn sites(&self) -> Vec<Arc<SiteRecord>>;
    /// An enrolled site by its signer; none when it was thrown out.
    fn site_of(&self, identity: &Identity) -> Option<Arc<SiteRecord>>;
    /// Whether an identity may do this.
    fn is_granted(&self, identity: &Identity, scope: Scope, operation: Operation) -> bool;
    /// Everything up to this revision is here.
    fn applied(&self) -> u64;
}

impl Directory for Table {
    fn keys(&self, key: &KeyRef) -> Vec<Arc<KeyRecord>> {
        Self::keys(self, key)
    }

    fn manifest(&self, id: KeyId, version: u32) -> Option<Manifest> {
        Some(self.version(id, version)?.manifest.clone())
    }

    fn class(&self, name: &Name) -> Option<Arc<ClassRecord>> {
        Self::class(self, name)
    }

    fn sites(&self) -> Vec<Arc<SiteRecord>> {
        Self::sites(self)
    }

    fn site_of(&self, identity: &Identity) -> Option<Arc<SiteRecord>> {
        Self::site_of(self, identity)
    }

    fn is_granted(&self, identity: &Identity, scope: Scope, operation: Operation) -> bool {
        Self::is_granted(self, identity, scope, operation)
    }

    fn applied(&self) -> u64 {
        Self::applied(self)
    }
}

/// The server's own half: what it knows, how it is, and what it does itself.
pub trait Local: Send + Sync + 'static {
    /// Its name at central.
    fn site(&self) -> Name;
    /// What it knows.
    fn directory(&self) -> Arc<dyn Directory>;
    /// How it is.
    fn status(&self) -> SiteStatus;
    /// How long ago central last answered it anything; none: not since the start.
    fn central_heard(&self) -> Option<Duration>;
    /// Does operations here, for a caller whose identity was proven, and writes the audit lines; a result for each.
    fn operate(
        &self,
        caller: Identity,
        tasks: Vec<Task>,
        passed_from: Option<Name>,
    ) -> BoxFuture<Vec<TaskResult>>;
}

impl Local for Intermediate {
    fn site(&self) -> Name {
        Self::site(self).clone()
    }

    fn directory(&self) -> Arc<dyn Directory> {
        self.table()
    }

    fn status(&self) -> SiteStatus {
        Self::status(self)
    }

    fn central_heard(&self) -> Option<Duration> {
        Self::central_heard(self)
    }

    fn operate(
        &self,
        caller: Identity,
        tasks: Vec<Task>,
        passed_from: Option<Name>,
    ) -> BoxFuture<Vec<TaskResult>> {
        let own = self.clone();
        Box::pin(async move { Self::operate(&own, &caller, &tasks, passed_from.as_ref()).await })
    }
}
