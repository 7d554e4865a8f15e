//! A managed key at work: an object of the login, and the blob to have it again in the next one.
//!
//! How many there are, and which may be used, is decided in `kms`; what they do is in `operate`. Invariant: the object is the
//! key of its record in every login, and it is destroyed when the last value that stands for it is dropped.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cryptoki::object::ObjectHandle;
use keyhaven_types::{KekId, Purpose, SignatureScheme};

use super::SiteToken;
use crate::{
    Error, PrivateKey, Worker,
    copy::Place,
    generation::Generation,
    managed::{
        PublicPart, Spec, part,
        template::{self, AES_LEN, Home},
    },
    raw::Way,
    session::OpenSession,
    spki::PublicKey,
};

/// A managed key in a site's token. Clones are the same key.
#[derive(Clone)]
pub struct ManagedKey(Arc<Inner>);

struct Inner {
    site: SiteToken,
    spec: Spec,
    public: PublicPart,
    /// To verify with; nothing for a secret.
    verifier: Option<PublicKey>,
    kek: KekId,
    blob: Vec<u8>,
    /// What it is in the present login.
    place: Mutex<Place>,
    /// Signatures since it was unwrapped.
    signatures: AtomicU64,
}

impl ManagedKey {
    pub(super) fn unwrap(
        site: &SiteToken,
        worker: &Worker,
        spec: &Spec,
        public: &PublicPart,
        kek: KekId,
        blob: &[u8],
    ) -> Result<Self, Error> {
        spec.check()?;
        // The blob tells the length of a secret to eight bytes, and an AES key's exactly; a pair's is bounded.
        let is_of_kind = match spec.kind.is_pair() {
            true => blob.len() <= BLOB_MAX,
            false => blob.len() == AES_LEN + WRAPPING_LEN,
        };
        if !is_of_kind {
            return Err(Error::Blob { operation: UNWRAP });
        }
        let verifier = match public {
            PublicPart::Spki(spki) => {
                Some(
                    PublicKey::parse(spki).map_err(|reason| Error::UnsupportedKey {
                        key: spec.id.to_string(),
                        reason,
                    })?,
                )
            }
            PublicPart::Kcv(_) => None,
        };
        let place = worker.twice(site.token(), |own| {
            let wrapped = Wrapped {
                site,
                spec,
                public,
                kek,
                blob,
            };
            wrapped.open(&own.owner.generation, &own.session)
        })?;
        Ok(Self(Arc::new(Inner {
            site: site.clone(),
            spec: *spec,
            public: public.clone(),
            verifier,
            kek,
            blob: blob.to_vec(),
            place: Mutex::new(place),
            signatures: AtomicU64::new(0),
        })))
    }

    /// Which key it is.
    pub fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// Its public part.
    pub fn public(&self) -> &PublicPart {
        &self.0.public
    }

    /// The site's token.
    pub fn site(&self) -> &SiteToken {
        &self.0.site
    }

    /// The key of the class under which it came.
    pub fn kek(&self) -> KekId {
        self.0.kek
    }

    /// The schemes by which it signs, in order of preference; none unless it is for signatures or handshakes.
    pub fn schemes(&self) -> Vec<SignatureScheme> {
        match self.0.spec.purpose {
            Purpose::Sign | Purpose::Handshake => self.0.site.schemes(self.0.spec.kind),
            _ => Vec::new(),
        }
    }

    /// The same key for handshakes, if that is what it is for. It keeps the object as long as it lives.
    pub fn private_key(&self) -> Option<PrivateKey> {
        let PublicPart::Spki(spki) = &self.0.public else {
            return None;
        };
        let schemes = self.schemes();
        if self.0.spec.purpose != Purpose::Handshake || schemes.is_empty() {
            return None;
        }
        // It was parsed before.
        let public = PublicKey::parse(spki).ok()?;
        Some(PrivateKey::managed(self.clone(), public, schemes))
    }

    /// Its name in messages.
    pub(crate) fn label(&self) -> String {
        format!(
            "managed key {}, version {}",
            self.0.spec.id, self.0.spec.version
        )
    }

    /// Its handle in this login, and whether it was unwrapped anew for it.
    pub(crate) fn handle(
        &self,
        generation: &Arc<Generation>,
        session: &OpenSession,
    ) -> Result<(ObjectHandle, bool), Error> {
        let mut place = self.0.place.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !place.is_of(generation);
        if is_new {
            let wrapped = Wrapped {
                site: &self.0.site,
                spec: &self.0.spec,
                public: &self.0.public,
                kek: self.0.kek,
                blob: &self.0.blob,
            };
            *place = wrapped.open(generation, session)?;
            self.0.signatures.store(0, Ordering::Release);
        }
        Ok((place.handle(), is_new))
    }

    pub(super) fn verifier(&self) -> Option<&PublicKey> {
        self.0.verifier.as_ref()
    }

    /// How many signatures there were before this one, in this login.
    pub(super) fn count_signature(&self) -> u64 {
        self.0.signatures.fetch_add(1, Ordering::AcqRel)
    }
}

impl fmt::Debug for ManagedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.0.spec;
        write!(
            f,
            "ManagedKey({}, {}, {}, {})",
            spec.id, spec.version, spec.kind, spec.purpose
        )
    }
}

/// A key as its record has it.
struct Wrapped<'a> {
    site: &'a SiteToken,
    spec: &'a Spec,
    public: &'a PublicPart,
    kek: KekId,
    blob: &'a [u8],
}

impl Wrapped<'_> {
    /// Unwraps it to an object of the anchor session, which lives as long as the login: a worker's may end before.
    fn open(&self, generation: &Arc<Generation>, session: &OpenSession) -> Result<Place, Error> {
        let (site, spec) = (self.site, self.spec);
        let mut is_first = true;
        let place = loop {
            let kek = site.kek(generation, session, spec, self.kek)?;
            match self.unwrap(generation, kek) {
                // Somebody has destroyed the class's key; another one by its name may be there.
                Err(error) if is_first && error.is_of_wrapping_key() => {
                    site.find_again(generation, session)?;
                    is_first = false;
                }
                unwrapped => break unwrapped?,
            }
        };
        let checked = part::check(session, site.kwp(), place.handle(), spec, self.public);
        if let Err(error) = checked {
            place.end(&generation.anchor());
            if matches!(error, Error::Substituted { .. }) {
                tracing::error!(key = %spec.id, %error, "a wrapped key is not the one of its record");
            }
            return Err(error);
        }
        Ok(place)
    }

    fn unwrap(&self, generation: &Arc<Generation>, kek: ObjectHandle) -> Result<Place, Error> {
        let template = template::unwrapped(self.site.quirks(), self.spec, Home::Site);
        let anchor = generation.anchor();
        let way = Way::Bare(self.site.kwp());
        let key = anchor
            .raw()
            .and_then(|raw| raw.unwrap_to(&anchor, way, kek, self.blob, &template))
            .map_err(|source| part::blame(&anchor, UNWRAP, source))?;
        Ok(Place::unwrapped(self.site.token(), generation, key))
    }
}

const UNWRAP: &str = "unwrapping a managed key";
/// RFC 5649: the wrapping's own eight bytes.
const WRAPPING_LEN: usize = 8;
/// A PKCS#8 key of 4,096 bits has about 2,400 bytes.
const BLOB_MAX: usize = 4096;
