//! What the token does for requests: it makes, imports and wraps keys, and signs requests for certificates.
//!
//! The rules are in `kms`. Invariant: a transport key serves one import, and not for longer than ten minutes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keyhaven_hsm::{
    Error, Worker, Workers,
    managed::{CentralToken, Made, PublicPart, Spec, Transport},
};
use keyhaven_kms::central::{Material, Rewrap, Rewrapped, Work, WorkDone};
use keyhaven_types::{KekId, Purpose};
use keyhaven_wire::kms::{
    Manifest, Public,
    admin::{Refused, RefusedCode},
};

use crate::{
    csr,
    words::{refused, refused_by_token},
};

/// Transport keys by id, with when they were made.
type Transports = HashMap<[u8; 16], (Instant, Arc<Transport>)>;

/// The token with what waits in it.
pub(crate) struct TokenWork {
    token: CentralToken,
    workers: Workers,
    transports: Mutex<Transports>,
}

impl TokenWork {
    pub(crate) fn new(token: CentralToken, workers: Workers) -> Self {
        Self {
            token,
            workers,
            transports: Mutex::default(),
        }
    }

    /// Those that were there when the token was last looked at.
    pub(crate) fn known_pool(&self) -> Vec<(Purpose, KekId)> {
        let keks = self.token.keks().into_iter();
        keks.map(|kek| (kek.purpose, kek.id)).collect()
    }

    /// Does one piece of work.
    pub(crate) async fn run(&self, work: Work) -> Result<WorkDone, Refused> {
        match work {
            Work::Generate {
                id,
                version,
                kind,
                purpose,
                kek,
            } => {
                let spec = Spec {
                    id,
                    version,
                    kind,
                    purpose,
                };
                let made = self
                    .on_token(move |token, worker| token.generate(worker, &spec, kek))
                    .await?;
                Ok(WorkDone::Made(material(&spec, kek, made)))
            }
            work @ Work::Import { .. } => self.import(work).await,
            Work::Transport => self.make_transport().await,
            Work::Csr {
                manifest,
                root_wrap,
                names,
            } => {
                let der = self
                    .on_token(move |token, worker| {
                        csr::request(token, worker, &manifest, &root_wrap, &names)
                    })
                    .await?;
                Ok(WorkDone::Csr(der))
            }
            Work::Rewrap(rewraps) => {
                let done = self
                    .on_token(move |token, worker| {
                        rewraps
                            .into_iter()
                            .map(|rewrap| wrap_anew(token, worker, rewrap))
                            .collect::<Result<Vec<_>, _>>()
                    })
                    .await?;
                Ok(WorkDone::Rewrapped(done))
            }
            Work::Pool => self.pool().await,
        }
    }

    /// The key-encryption keys that are in the token now.
    pub(crate) async fn pool(&self) -> Result<WorkDone, Refused> {
        let keks = self.on_token(|token, worker| token.refresh(worker)).await?;
        let keks = keks.into_iter().map(|kek| (kek.purpose, kek.id));
        Ok(WorkDone::Pool(keks.collect()))
    }

    async fn import(&self, work: Work) -> Result<WorkDone, Refused> {
        let Work::Import {
            id,
            kind,
            purpose,
            kek,
            transport,
            wrapped_kek,
            wrapped_key,
            public,
        } = work
        else {
            return Err(refused(RefusedCode::Token, "this is no import"));
        };
        let found = self.transports().remove(&transport);
        let Some((_, transport)) = found.filter(|(made, _)| made.elapsed() < TRANSPORT_LIFE) else {
            return Err(refused(
                RefusedCode::NotFound,
                "no such transport key here: it serves one import within ten minutes, at the central that made it; make \
                 another one",
            ));
        };
        let spec = Spec {
            id,
            version: 1,
            kind,
            purpose,
        };
        let made = self
            .on_token(move |token, worker| {
                let public = public.as_deref();
                token.import(
                    worker,
                    &transport,
                    &spec,
                    kek,
                    &wrapped_kek,
                    &wrapped_key,
                    public,
                )
            })
            .await?;
        Ok(WorkDone::Made(material(&spec, kek, made)))
    }

    async fn make_transport(&self) -> Result<WorkDone, Refused> {
        self.transports()
            .retain(|_, (made, _)| made.elapsed() < TRANSPORT_LIFE);
        if self.transports().len() >= TRANSPORTS_MAX {
            return Err(refused(
                RefusedCode::Rule,
                "there are too many transport keys; use those that were made, or wait ten minutes",
            ));
        }
        let transport = self
            .on_token(|token, worker| token.transport(worker))
            .await?;
        let spki = transport.spki().to_vec();
        let id = crate::random_id();
        self.transports()
            .insert(id, (Instant::now(), Arc::new(transport)));
        Ok(WorkDone::Transport { id, spki })
    }

    fn transports(&self) -> MutexGuard<'_, Transports> {
        self.transports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on a token thread.
    pub(crate) async fn on_token<T: Send + 'static>(
        &self,
        job: impl FnOnce(&CentralToken, &Worker) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Refused> {
        let token = self.token.clone();
        let deadline = Instant::now() + WORK_TIMEOUT;
        self.workers
            .run(deadline, move |worker| job(&token, worker))
            .await
            .and_then(|done| done)
            .map_err(|error| refused_by_token(&error))
    }
}

/// What the token knows a version by.
pub(crate) fn spec_of(manifest: &Manifest) -> Spec {
    Spec {
        id: manifest.id,
        version: manifest.version,
        kind: manifest.kind,
        purpose: manifest.purpose,
    }
}

/// A record's public part, as the token's room has it.
pub(crate) fn public_part(public: &Public) -> PublicPart {
    match public {
        Public::Spki(spki) => PublicPart::Spki(spki.clone()),
        Public::Kcv(kcv) => PublicPart::Kcv(*kcv),
    }
}

fn material(spec: &Spec, kek: KekId, made: Made) -> Material {
    Material {
        id: spec.id,
        version: spec.version,
        kek,
        public: match made.public {
            PublicPart::Spki(spki) => Public::Spki(spki),
            PublicPart::Kcv(kcv) => Public::Kcv(kcv),
        },
        site_wrap: made.site_wrap,
        root_wrap: made.root_wrap,
    }
}

fn wrap_anew(token: &CentralToken, worker: &Worker, of: Rewrap) -> Result<Rewrapped, Error> {
    let public = public_part(&of.manifest.public);
    let spec = spec_of(&of.manifest);
    let site_wrap = token.rewrap(worker, &spec, &public, &of.root_wrap, of.kek)?;
    Ok(Rewrapped { of, site_wrap })
}

const TRANSPORT_LIFE: Duration = Duration::from_secs(600);
const TRANSPORTS_MAX: usize = 16;
/// RSA-4096 takes a software token some seconds.
const WORK_TIMEOUT: Duration = Duration::from_secs(60);
