//! Central's token: it signs records, makes managed keys, and gives them wrapped.
//!
//! Which record, class and site is the caller's business; how its own keys came into the token, the ceremony's.
//! Everything here blocks and runs on a worker. Invariant: a managed key is an object for one operation, and what
//! leaves is wrapped under a trusted key of its purpose.

pub(super) mod find;
mod keys;
mod make;
mod transport;

use std::sync::{Arc, Mutex, PoisonError};

use keyhaven_types::{KekId, Purpose, SignatureScheme};

pub use self::{make::Made, transport::Transport};

use self::keys::Keys;
use super::{KekInfo, PublicPart, Spec, selftest};
use crate::{Error, Token, Worker, sign, spki::PublicKey, worker::OwnSession};

/// Central's token. Clones are the same.
#[derive(Clone)]
pub struct CentralToken(Arc<Inner>);

struct Inner {
    token: Token,
    spki: PublicKey,
    /// What was found in the login that it says.
    keys: Mutex<Arc<Keys>>,
}

impl CentralToken {
    /// Finds central's keys in the token, after it was seen to enforce what central rests on.
    ///
    /// # Errors
    /// [`Error::RoleRefused`] when a module does not enforce it, whatever keys it has; [`Error::KekNotFound`] when
    /// the ceremony was not held; [`Error::UnsupportedKey`] when one of the keys is not what the ceremony makes.
    pub fn open(token: &Token) -> Result<Self, Error> {
        let generation = token.generation()?;
        let session = token.open_session(&generation)?;
        let _inside = token.enter(&generation)?;
        let failed = selftest::central(&session, token.quirks())?;
        if !failed.is_empty() {
            return Err(Error::RoleRefused {
                role: "central",
                module: token.quirks().name.to_owned(),
                failed,
            });
        }
        let (keys, spki) = Keys::find(&session, token.quirks(), generation.number)
            .map_err(|error| error.of(&token.info().label))?;
        Ok(Self(Arc::new(Inner {
            token: token.clone(),
            spki,
            keys: Mutex::new(Arc::new(keys)),
        })))
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.0.token
    }

    /// The public part of the key that signs records: DER SubjectPublicKeyInfo, P-256.
    pub fn signing_spki(&self) -> &[u8] {
        self.0.spki.der()
    }

    /// The keys for classes that were in the token when it was last looked at.
    pub fn keks(&self) -> Vec<KekInfo> {
        let keys = self.known();
        keys.pool.iter().map(|(info, _)| info.clone()).collect()
    }

    /// Looks again for keys that a ceremony has made since. One search and a few calls for each key.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn refresh(&self, worker: &Worker) -> Result<Vec<KekInfo>, Error> {
        worker.twice(self.token(), |own| self.look(own).map(drop))?;
        Ok(self.keks())
    }

    /// Signs these bytes as they are: ECDSA on P-256 with SHA-256, DER. Each signature is verified before it is given.
    ///
    /// # Errors
    /// [`Error::WrongSignature`]; failures of the token.
    pub fn sign_record(&self, worker: &Worker, body: &[u8]) -> Result<Vec<u8>, Error> {
        let scheme = SignatureScheme::EcdsaSecp256r1Sha256;
        let signature = worker.twice(self.token(), |own| {
            let keys = self.keys(own)?;
            sign::sign(&own.session, keys.signing, scheme, body)
        })?;
        self.verified(&self.0.spki, find::SIGNING_LABEL, scheme, body, signature)
    }

    /// Signs with a managed key at central, for its certificate request: its purpose must be handshakes.
    ///
    /// # Errors
    /// [`Error::UnsupportedKey`] with another purpose, [`Error::Scheme`], [`Error::Blob`], [`Error::Substituted`],
    /// [`Error::WrongSignature`]; failures of the token.
    pub fn sign_as(
        &self,
        worker: &Worker,
        spec: &Spec,
        public: &PublicPart,
        root_wrap: &[u8],
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, Error> {
        spec.check()?;
        let unsupported = |reason: &str| Error::UnsupportedKey {
            key: spec.id.to_string(),
            reason: reason.to_owned(),
        };
        let PublicPart::Spki(spki) = public else {
            return Err(unsupported("it has no public part to sign for"));
        };
        if spec.purpose != Purpose::Handshake {
            return Err(unsupported("central signs with keys for handshakes alone"));
        }
        let parsed = PublicKey::parse(spki).map_err(|reason| unsupported(&reason))?;
        let algorithm = parsed.algorithm();
        if !SignatureScheme::of(algorithm).contains(&scheme) {
            return Err(Error::Scheme { algorithm, scheme });
        }
        let signature = worker.twice(self.token(), |own| {
            let keys = self.keys(own)?;
            let key = make::open_root(&self.at(own), &keys, spec, public, root_wrap)?;
            sign::sign(&own.session, key.handle(), scheme, message)
        })?;
        self.verified(&parsed, &spec.id.to_string(), scheme, message, signature)
    }

    /// Whether the token is there with all of central's keys.
    ///
    /// # Errors
    /// Why not.
    pub fn health(&self, worker: &Worker) -> Result<(), Error> {
        self.token().health()?;
        self.refresh(worker).map(drop)
    }

    fn verified(
        &self,
        public: &PublicKey,
        key: &str,
        scheme: SignatureScheme,
        message: &[u8],
        signature: Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        if public.verifies(scheme, message, &signature) {
            return Ok(signature);
        }
        let token = self.token().info().label.clone();
        tracing::error!(token, key, "the token made a wrong signature");
        Err(Error::WrongSignature {
            token,
            key: key.to_owned(),
        })
    }

    /// Central's keys in this login.
    fn keys(&self, own: &OwnSession) -> Result<Arc<Keys>, Error> {
        let known = self.known();
        if known.login == own.owner.generation.number {
            return Ok(known);
        }
        self.look(own)
    }

    /// The key for a class, of this purpose; looked for again if it is not known, since the pool may have grown.
    fn class_kek(
        &self,
        own: &OwnSession,
        keys: &Keys,
        purpose: Purpose,
        id: KekId,
    ) -> Result<cryptoki::object::ObjectHandle, Error> {
        if let Some(key) = keys.class(purpose, id) {
            return Ok(key);
        }
        self.look(own)?
            .class(purpose, id)
            .ok_or_else(|| Error::KekNotFound {
                token: self.token().info().label.clone(),
                kek: format!("class key {id} for {purpose}"),
            })
    }

    fn look(&self, own: &OwnSession) -> Result<Arc<Keys>, Error> {
        let quirks = self.token().quirks();
        let (keys, spki) = Keys::find(&own.session, quirks, own.owner.generation.number)?;
        if spki.der() != self.signing_spki() {
            return Err(Error::KeyMismatch {
                key: find::SIGNING_LABEL.to_owned(),
                reason: "it is another one than at the start".to_owned(),
            });
        }
        let keys = Arc::new(keys);
        *self.0.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
        Ok(keys)
    }

    fn known(&self) -> Arc<Keys> {
        Arc::clone(&self.0.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn at<'a>(&self, own: &'a OwnSession) -> make::At<'a> {
        let quirks = self.token().quirks();
        make::At {
            session: &own.session,
            quirks,
            kwp: find::kwp(quirks),
        }
    }
}

impl std::fmt::Debug for CentralToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CentralToken({:?})", self.0.token)
    }
}
