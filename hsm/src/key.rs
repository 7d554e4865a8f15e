//! Private keys in a token: found once, bound to their public part, used through a session copy.
//!
//! Signing is `worker`'s business, the copy's life `copy`'s. Invariant: a key is exactly one object, and its first signature in each login is
//! verified against the public key that it was loaded for; a scheme that it was not seen to sign with is not offered.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cryptoki::{
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use keyhaven_types::{KeyAlgorithm, SignatureScheme};

use crate::{
    Error, FaultClass, Token, Uri, copy::Place, generation::Generation, managed::ManagedKey,
    session::OpenSession, sign, spki::PublicKey, uri,
};

/// A private key in a token. Clones are the same key.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    token: Token,
    origin: Origin,
    label: String,
    public: PublicKey,
    /// Proven, in order of preference.
    schemes: Vec<SignatureScheme>,
    warnings: Vec<String>,
    /// Signatures since the handle was found.
    signatures: AtomicU64,
}

/// Where the key is, and how it is had again in another login.
enum Origin {
    /// An object of the token, by its URI, and what it is in the present login.
    Found { uri: Box<Uri>, place: Mutex<Place> },
    /// Unwrapped for this site.
    Managed(ManagedKey),
}

impl PrivateKey {
    /// A managed key, which was compared with its public part when it was unwrapped; its schemes were proven of its kind.
    pub(crate) fn managed(
        key: ManagedKey,
        public: PublicKey,
        schemes: Vec<SignatureScheme>,
    ) -> Self {
        Self(Arc::new(Inner {
            token: key.site().token().clone(),
            label: key.label(),
            origin: Origin::Managed(key),
            public,
            schemes,
            warnings: Vec::new(),
            signatures: AtomicU64::new(0),
        }))
    }

    pub(crate) fn load(
        token: &Token,
        generation: &Arc<Generation>,
        uri: &Uri,
        spki_der: &[u8],
    ) -> Result<Self, Error> {
        let public = PublicKey::parse(spki_der).map_err(|reason| Error::UnsupportedKey {
            key: uri.to_string(),
            reason,
        })?;
        let anchor = generation.anchor();
        let object = find(&anchor, token, uri)?;
        let (label, warnings) = inspect(&anchor, object, &public)?;
        let place = Place::of(token, generation, &anchor, object, &label)?;
        drop(anchor);
        // A refused scheme may leave something active in the session, so that it is one for this alone.
        let proven = token
            .open_session(generation)
            .and_then(|session| prove(&session, place.handle(), &label, &public));
        let schemes = match proven {
            Ok(schemes) => schemes,
            Err(error) => {
                place.end(&generation.anchor());
                return Err(error);
            }
        };
        Ok(Self(Arc::new(Inner {
            token: token.clone(),
            origin: Origin::Found {
                uri: Box::new(uri.clone()),
                place: Mutex::new(place),
            },
            label,
            public,
            schemes,
            warnings,
            signatures: AtomicU64::new(0),
        })))
    }

    /// Its kind.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.0.public.algorithm()
    }

    /// The schemes that it was proven to sign with when it was loaded, in order of preference; never none.
    pub fn schemes(&self) -> &[SignatureScheme] {
        &self.0.schemes
    }

    /// Its public part, DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        self.0.public.der()
    }

    /// Its token.
    pub fn token(&self) -> &Token {
        &self.0.token
    }

    /// Its label in the token.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// What is unwise about it, one sentence each: readable, or with a second purpose.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.0.public
    }

    /// Its handle in this login; found and copied, or unwrapped, again after a reconnection. The session is that of the
    /// thread.
    pub(crate) fn handle(
        &self,
        generation: &Arc<Generation>,
        session: &OpenSession,
    ) -> Result<ObjectHandle, Error> {
        let (handle, is_new) = match &self.0.origin {
            Origin::Managed(key) => key.handle(generation, session)?,
            Origin::Found { uri, place } => {
                let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
                let is_new = !place.is_of(generation);
                if is_new {
                    let anchor = generation.anchor();
                    let object = find(&anchor, &self.0.token, uri)?;
                    *place = Place::of(&self.0.token, generation, &anchor, object, &self.0.label)?;
                }
                (place.handle(), is_new)
            }
        };
        if is_new {
            self.0.signatures.store(0, Ordering::Release);
        }
        Ok(handle)
    }

    /// Whether the signature that is now being made must be verified: RSA always, since one faulty CRT signature
    /// gives the key away; others at first use and one in [`SAMPLE`].
    pub(crate) fn is_checked_now(&self) -> bool {
        let count = self.0.signatures.fetch_add(1, Ordering::AcqRel);
        matches!(self.algorithm(), KeyAlgorithm::Rsa(_)) || count.is_multiple_of(SAMPLE)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, {:?})", self.algorithm(), self.0.label)
    }
}

/// The one private key of the token that fits the URI.
fn find(session: &Session, token: &Token, uri: &Uri) -> Result<ObjectHandle, Error> {
    if !matches!(uri.class(), None | Some(uri::ObjectClass::Private)) {
        return Err(Error::NotAPrivateKey {
            wanted: uri.to_string(),
        });
    }
    let all = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Token(true),
    ];
    let mut template = all.to_vec();
    if let Some(label) = uri.object() {
        template.push(Attribute::Label(label.as_bytes().to_vec()));
    }
    if let Some(id) = uri.id() {
        template.push(Attribute::Id(id.to_vec()));
    }
    let search = |template: &[Attribute]| {
        session
            .find_objects(template)
            .map_err(|source| Error::token("finding a private key", source))
    };
    let info = token.info();
    let other_token = uri.token().is_some_and(|label| label != info.label)
        || uri.serial().is_some_and(|serial| serial != info.serial);
    let found = if other_token {
        Vec::new()
    } else {
        search(&template)?
    };
    match found[..] {
        [only] => Ok(only),
        [] => Err(Error::KeyNotFound {
            wanted: uri.to_string(),
            token: info.label.clone(),
            found: names(session, &search(&all)?),
        }),
        _ => Err(Error::KeyAmbiguous {
            wanted: uri.to_string(),
            token: info.label.clone(),
            found: names(session, &found),
        }),
    }
}

/// Labels and ids for a message; what cannot be read is left out.
fn names(session: &Session, objects: &[ObjectHandle]) -> Vec<String> {
    let name = |&object: &ObjectHandle| {
        let types = [AttributeType::Label, AttributeType::Id];
        let (mut label, mut id) = (String::new(), String::new());
        for attribute in session.get_attributes(object, &types).ok()? {
            match attribute {
                Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
                Attribute::Id(bytes) => {
                    id = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
                }
                _ => {}
            }
        }
        Some(format!("`{label}` (id {id})"))
    };
    objects.iter().take(NAMES_MAX).filter_map(name).collect()
}

/// Compares what the token says about the key with its public part, and collects what is unwise about it.
fn inspect(
    session: &Session,
    object: ObjectHandle,
    public: &PublicKey,
) -> Result<(String, Vec<String>), Error> {
    let types = [
        AttributeType::Label,
        AttributeType::KeyType,
        AttributeType::Modulus,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::Decrypt,
        AttributeType::Unwrap,
        AttributeType::Derive,
        AttributeType::SignRecover,
        AttributeType::AlwaysAuthenticate,
    ];
    let attributes = session
        .get_attributes(object, &types)
        .map_err(|source| Error::token("reading a private key's attributes", source))?;
    let mut label = String::new();
    let mut warnings = Vec::new();
    for attribute in &attributes {
        if let Attribute::Label(bytes) = attribute {
            label = String::from_utf8_lossy(bytes).into_owned();
        }
    }
    let mismatch = |reason: &str| Error::KeyMismatch {
        key: label.clone(),
        reason: reason.to_owned(),
    };
    for attribute in attributes {
        let warning = match attribute {
            Attribute::KeyType(kind) if !kind_fits(kind, public.algorithm()) => {
                return Err(mismatch(&format!(
                    "it is of another kind than the certificate's {} key",
                    public.algorithm()
                )));
            }
            Attribute::Modulus(bytes)
                if public
                    .modulus()
                    .is_some_and(|modulus| modulus != crate::spki::strip_zeros(&bytes)) =>
            {
                return Err(mismatch("its RSA modulus is another one"));
            }
            Attribute::AlwaysAuthenticate(true) => {
                return Err(Error::UnsupportedKey {
                    key: label,
                    reason: "it wants the PIN for each signature (CKA_ALWAYS_AUTHENTICATE)"
                        .to_owned(),
                });
            }
            Attribute::Sensitive(false) => "is not CKA_SENSITIVE: its value can be read",
            Attribute::Extractable(true) => "is CKA_EXTRACTABLE: it can be taken out wrapped",
            Attribute::Decrypt(true) => "may also decrypt",
            Attribute::Unwrap(true) => "may also unwrap keys",
            Attribute::Derive(true) => "may also derive",
            Attribute::SignRecover(true) => "may also sign with recovery",
            _ => continue,
        };
        warnings.push(format!(
            "key `{label}` {warning}; a handshake key should only sign"
        ));
    }
    Ok((label, warnings))
}

fn kind_fits(kind: KeyType, algorithm: KeyAlgorithm) -> bool {
    match algorithm {
        KeyAlgorithm::Rsa(_) => kind == KeyType::RSA,
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => kind == KeyType::EC,
        KeyAlgorithm::Ed25519 => kind == KeyType::EC_EDWARDS,
    }
}

/// The proof that the handle is the certificate's key, and with which schemes it signs. A module may know less than
/// its key's kind allows: some cloud services bind a key to one scheme.
fn prove(
    session: &OpenSession,
    handle: ObjectHandle,
    label: &str,
    public: &PublicKey,
) -> Result<Vec<SignatureScheme>, Error> {
    let mut proven = Vec::new();
    let mut refused = None;
    let mut is_another = false;
    for &scheme in SignatureScheme::of(public.algorithm()) {
        match sign::sign(session, handle, scheme, PROOF_MESSAGE) {
            Ok(signature) if public.verifies(scheme, PROOF_MESSAGE, &signature) => {
                proven.push(scheme);
            }
            Ok(_) => {
                tracing::debug!(key = label, ?scheme, "a signature does not verify");
                is_another = true;
            }
            Err(error) if is_lost(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(key = label, ?scheme, %error, "the token refuses a scheme");
                refused.get_or_insert(error);
            }
        }
    }
    match (proven.is_empty(), refused) {
        (false, _) => Ok(proven),
        (true, Some(error)) if !is_another => Err(error),
        _ => Err(Error::KeyMismatch {
            key: label.to_owned(),
            reason: "a signature made with it does not verify with the certificate's public key"
                .to_owned(),
        }),
    }
}

/// A failure that says nothing of the scheme.
fn is_lost(error: &Error) -> bool {
    matches!(
        error.fault_class(),
        Some(FaultClass::SessionLost | FaultClass::Busy | FaultClass::Pin)
    )
}

/// One EC or Ed25519 signature in so many is verified before it is used.
pub(crate) const SAMPLE: u64 = 64;
/// Objects that a message lists.
const NAMES_MAX: usize = 20;
/// Unlike any message of TLS, X.509 or JWT.
const PROOF_MESSAGE: &[u8] = b"keyhaven: proof that this private key belongs to its certificate";
