//! What one worker thread does with its sessions.
//!
//! The threads themselves are in `workers`, the PKCS#11 operations in `sign`, `exchange`, `kdf` and, for secrets
//! that stay in the token, behind `derive`; this file picks the session, sorts failures and destroys. Invariant: a session is used by its thread alone, and one in which an
//! operation failed is not used again.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Weak},
};

use cryptoki::error::{Error as CryptokiError, RvError};
use keyhaven_types::{HashAlgorithm, NamedGroup, Secret, SignatureScheme};

use crate::{
    Error, ExchangeKey, FaultClass, PrivateKey, Token, TokenSecret,
    exchange::{self, Ephemeral},
    generation::{Counted, Generation, Owner},
    kdf, point,
    queue::Queue,
    session::OpenSession,
    sign,
    token::Inner as TokenInner,
};

/// The sessions of one worker thread. It lives on that thread and cannot leave it.
pub struct Worker {
    queue: Arc<Queue>,
    /// By the token's number in this process.
    sessions: RefCell<HashMap<u64, Rc<OwnSession>>>,
    /// Sessions that failed but still own objects.
    retired: RefCell<Vec<Rc<OwnSession>>>,
}

/// A thread's session at one token.
pub(crate) struct OwnSession {
    token: Weak<TokenInner>,
    pub(crate) session: OpenSession,
    pub(crate) owner: Arc<Owner>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

impl Worker {
    /// Calls `f` with the worker of the calling thread.
    ///
    /// # Errors
    /// [`Error::NotAWorker`] on any other thread.
    pub fn with_current<T>(f: impl FnOnce(&Self) -> T) -> Result<T, Error> {
        match Self::current() {
            Some(worker) => Ok(f(&worker)),
            None => Err(Error::NotAWorker),
        }
    }

    /// Signs `message` (which is hashed here) and gives the signature as TLS has it. RSA signatures are verified
    /// each time, others at first use and now and then. After a lost session it is tried once more.
    ///
    /// # Errors
    /// [`Error::WrongSignature`] when a signature does not verify; it is then thrown away.
    pub fn sign(
        &self,
        key: &PrivateKey,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, Error> {
        if !key.schemes().contains(&scheme) {
            return Err(Error::Scheme {
                algorithm: key.algorithm(),
                scheme,
            });
        }
        let signature = self.twice(key.token(), |own| {
            let handle = key.handle(&own.owner.generation, &own.session)?;
            sign::sign(&own.session, handle, scheme, message)
        })?;
        if key.is_checked_now() && !key.public().verifies(scheme, message, &signature) {
            let token = key.token().info().label.clone();
            tracing::error!(token, key = key.label(), "the token made a wrong signature");
            return Err(Error::WrongSignature {
                token,
                key: key.label().to_owned(),
            });
        }
        Ok(signature)
    }

    /// Makes an ephemeral key pair in the token. After a lost session it is tried once more.
    ///
    /// # Errors
    /// Failures of the token.
    pub fn generate_exchange(
        &self,
        token: &Token,
        group: NamedGroup,
    ) -> Result<ExchangeKey, Error> {
        self.twice(token, |own| {
            let (handle, value) = exchange::generate(&own.session, &token.ways(), group)?;
            let object = Ephemeral::new(token, Counted::new(handle, &own.owner));
            Ok(ExchangeKey::new(object, group, value))
        })
    }

    /// Agrees on a secret that stays in the token.
    ///
    /// # Errors
    /// [`Error::PeerPoint`] when the peer's value is not a good one, before the token is asked; every other
    /// failure is the token's.
    pub fn agree(&self, key: &ExchangeKey, peer: &[u8]) -> Result<TokenSecret, Error> {
        let group = key.group();
        if !point::is_valid(group, peer) {
            return Err(Error::PeerPoint { group });
        }
        let token = key.object().token();
        self.on_object(key.object(), |own, counted| {
            let ways = token.ways();
            let handle = exchange::agree(&own.session, &ways, group, counted.handle, peer)?;
            let object = Ephemeral::new(token, Counted::new(handle, &own.owner));
            Ok(TokenSecret::new(object))
        })
    }

    /// HKDF-Extract (RFC 5869) with `prefix || secret` as input key material; the prefix is empty but for a hybrid
    /// exchange whose first half was made outside.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::extract`].
    pub fn hkdf_extract(
        &self,
        hash: HashAlgorithm,
        salt: &[u8],
        prefix: &[u8],
        secret: &TokenSecret,
    ) -> Result<Secret, Error> {
        self.on_object(secret.object(), |own, counted| {
            kdf::extract(&own.session, hash, salt, prefix, counted.handle)
        })
    }

    /// The TLS 1.2 PRF (RFC 5246, section 5) keyed by the secret, into `out`.
    ///
    /// # Errors
    /// [`Error::Derivation`] when the token cannot; see [`crate::Profile::prf`]. `out` is then to be ignored.
    pub fn tls12_prf(
        &self,
        hash: HashAlgorithm,
        secret: &TokenSecret,
        label: &[u8],
        seed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Error> {
        self.on_object(secret.object(), |own, counted| {
            kdf::prf(&own.session, hash, counted.handle, label, seed, out)
        })
    }

    /// Makes the calling thread a worker until `f` returns; then its sessions are closed.
    pub(crate) fn own_thread(queue: &Arc<Queue>, f: impl FnOnce(&Self)) {
        let worker = Rc::new(Self {
            queue: Arc::clone(queue),
            sessions: RefCell::new(HashMap::new()),
            retired: RefCell::new(Vec::new()),
        });
        CURRENT.set(Some(Rc::clone(&worker)));
        f(&worker);
        CURRENT.set(None);
    }

    /// Destroys an object if this thread can; gives it back otherwise.
    pub(crate) fn destroy_here(token: &Token, object: Counted) -> Option<Counted> {
        match Self::current() {
            Some(worker) => worker.destroy(token, object),
            None => Some(object),
        }
    }

    /// Destroys what was left to the workers, and closes sessions that are of no use any more.
    pub(crate) fn empty_trash(&self) {
        for token in self.queue.tokens() {
            for object in token.take_trash() {
                match self.destroy(&token, object) {
                    // The login is lost, and the object with its session.
                    Some(object) if object.owner.generation.is_broken() => object.gone(),
                    Some(object) => token.put_back(object),
                    None => {}
                }
            }
        }
        // Dropped outside the borrow: closing a session is a call into the module.
        let (useful, useless): (Vec<_>, Vec<_>) = self
            .retired
            .take()
            .into_iter()
            .partition(|own| own.owner.objects() > 0 && !own.owner.generation.is_broken());
        *self.retired.borrow_mut() = useful;
        drop(useless);
        let mut closed = Vec::new();
        self.sessions.borrow_mut().retain(|_, own| {
            let keep = own.token.strong_count() > 0 && !own.owner.generation.is_broken();
            if !keep {
                closed.push(Rc::clone(own));
            }
            keep
        });
    }

    fn current() -> Option<Rc<Self>> {
        CURRENT
            .try_with(|current| current.borrow().clone())
            .ok()
            .flatten()
    }

    pub(crate) fn twice<T>(
        &self,
        token: &Token,
        operation: impl Fn(&OwnSession) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.once(token, &operation) {
            Err(error) if error.fault_class() == Some(FaultClass::SessionLost) => {
                self.once(token, operation)
            }
            result => result,
        }
    }

    pub(crate) fn once<T>(
        &self,
        token: &Token,
        operation: impl FnOnce(&OwnSession) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let own = self.session(token)?;
        let _inside = token.enter(&own.owner.generation)?;
        operation(&own).map_err(|error| self.failed(token, &own, error))
    }

    /// Works with an object, unless the login that it belonged to is gone.
    pub(crate) fn on_object<T>(
        &self,
        object: &Ephemeral,
        operation: impl FnOnce(&OwnSession, &Counted) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let counted = object.counted();
        let lost = || {
            object
                .token()
                .unavailable("the token was lost in mid-exchange")
        };
        if counted.owner.generation.is_broken() {
            return Err(lost());
        }
        self.once(object.token(), |own| {
            if !Arc::ptr_eq(&own.owner.generation, &counted.owner.generation) {
                return Err(lost());
            }
            operation(own, counted)
        })
    }

    /// This thread's session at the token, opened when first needed.
    fn session(&self, token: &Token) -> Result<Rc<OwnSession>, Error> {
        if let Some(own) = self.sessions.borrow().get(&token.id())
            && !own.owner.generation.is_broken()
        {
            return Ok(Rc::clone(own));
        }
        let generation = token.generation()?;
        self.open(token, generation)
    }

    fn open(&self, token: &Token, generation: Arc<Generation>) -> Result<Rc<OwnSession>, Error> {
        let session = token.open_session(&generation)?;
        self.queue.add_token(token);
        token.served_by(&self.queue);
        let own = Rc::new(OwnSession {
            token: Arc::downgrade(token.inner()),
            session,
            owner: Owner::new(generation),
        });
        let old = self
            .sessions
            .borrow_mut()
            .insert(token.id(), Rc::clone(&own));
        drop(old);
        Ok(own)
    }

    /// An operation that fails may leave something active in the session, so it is put aside; it is closed when
    /// its last object is gone, since objects die with the session that made them.
    fn failed(&self, token: &Token, own: &Rc<OwnSession>, error: Error) -> Error {
        let error = token.failed(&own.owner.generation, error);
        let removed = self.sessions.borrow_mut().remove(&token.id());
        if let Some(own) = removed
            && own.owner.objects() > 0
        {
            self.retired.borrow_mut().push(own);
        }
        error
    }

    /// Destroys an object; gives it back when the token is not there for it.
    fn destroy(&self, token: &Token, object: Counted) -> Option<Counted> {
        // Not by way of a reconnection: the object would not live through it.
        let generation = &object.owner.generation;
        let own = self.sessions.borrow().get(&token.id()).map(Rc::clone);
        let own = match own.filter(|own| Arc::ptr_eq(&own.owner.generation, generation)) {
            Some(own) => Ok(own),
            None => self.open(token, Arc::clone(generation)),
        };
        let (Ok(own), Ok(_inside)) = (own, token.enter(generation)) else {
            return Some(object);
        };
        let destroyed = own.session.destroy_object(object.handle);
        match destroyed {
            Ok(()) | Err(CryptokiError::Pkcs11(RvError::ObjectHandleInvalid, _)) => {
                object.gone();
                None
            }
            Err(source) => {
                let error = Error::token("destroying an ephemeral object", source);
                let error = self.failed(token, &own, error);
                tracing::error!(error = %error, "an ephemeral object stays in the token's memory");
                Some(object)
            }
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({} sessions)", self.sessions.borrow().len())
    }
}
