//! Ephemeral key exchange in the token: key pairs and shared secrets as objects that nobody can read.
//!
//! Which session does the work is `worker`'s business; peers' values were judged by `point` before they come here.
//! Invariant: every object made here is destroyed by the drop of the value that stands for it, or with its session.

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, ObjectHandle},
};
use keyhaven_types::NamedGroup;

use crate::{
    Error, Kept, Token, Worker,
    generation::Counted,
    quirks::Ways,
    session::OpenSession,
    template::{self, Usage},
};

/// An ephemeral key pair whose private half is an object of the token. Dropping it destroys the object, on
/// whatever thread.
#[derive(Debug)]
pub struct ExchangeKey {
    object: Ephemeral,
    group: NamedGroup,
    public_value: Vec<u8>,
}

/// A secret that is an object of the token: an exchange's, or one derived from it. Dropping it destroys the object, on whatever thread.
#[derive(Debug)]
pub struct TokenSecret {
    object: Ephemeral,
}

impl ExchangeKey {
    pub(crate) fn new(object: Ephemeral, group: NamedGroup, public_value: Vec<u8>) -> Self {
        Self {
            object,
            group,
            public_value,
        }
    }

    /// The public value as it stands on the wire: an uncompressed point, or 32 bytes.
    pub fn public_value(&self) -> &[u8] {
        &self.public_value
    }

    /// The group.
    pub fn group(&self) -> NamedGroup {
        self.group
    }

    pub(crate) fn object(&self) -> &Ephemeral {
        &self.object
    }
}

impl TokenSecret {
    pub(crate) fn new(object: Ephemeral) -> Self {
        Self { object }
    }

    pub(crate) fn object(&self) -> &Ephemeral {
        &self.object
    }
}

/// An object that is destroyed when this is dropped.
pub(crate) struct Ephemeral {
    token: Token,
    counted: Option<Counted>,
}

impl Ephemeral {
    pub(crate) fn new(token: &Token, counted: Counted) -> Self {
        Self {
            token: token.clone(),
            counted: Some(counted),
        }
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// The object's handle and the login it belongs to.
    pub(crate) fn counted(&self) -> &Counted {
        self.counted
            .as_ref()
            .expect("taken by drop alone, after which nobody can ask")
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let Some(counted) = self.counted.take() else {
            return;
        };
        // The objects of a lost login are gone, or go with their sessions.
        if counted.owner.generation.is_broken() {
            counted.gone();
        } else if let Some(counted) = Worker::destroy_here(&self.token, counted) {
            self.token.throw_away(counted);
        }
    }
}

impl std::fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let handle = self.counted.as_ref().map(|counted| counted.handle.handle());
        write!(f, "object {handle:?} of {:?}", self.token)
    }
}

/// Makes a key pair and reads its public value; the public object is destroyed at once. Three PKCS#11 calls:
/// C_GenerateKeyPair, C_GetAttributeValue, C_DestroyObject.
pub(crate) fn generate(
    session: &OpenSession,
    ways: &Ways,
    group: NamedGroup,
) -> Result<(ObjectHandle, Vec<u8>), Error> {
    let (mechanism, params) = match group {
        NamedGroup::Secp256r1 => (Mechanism::EccKeyPairGen, P256_PARAMS),
        NamedGroup::Secp384r1 => (Mechanism::EccKeyPairGen, P384_PARAMS),
        NamedGroup::X25519 => (ways.x25519.mechanism(), ways.x25519.params()),
    };
    let public_template = [
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::EcParams(params.to_vec()),
        Attribute::Derive(true),
        Attribute::Verify(false),
    ];
    // CKA_SIGN is said: left out it is true, and some modules then test each new pair by a signature.
    let private_template = [
        Attribute::Token(false),
        Attribute::Private(ways.ephemeral_private),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(true),
        Attribute::Sign(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
    ];
    let (public, private) = session
        .generate_key_pair(&mechanism, &public_template, &private_template)
        .map_err(|source| Error::token(GENERATE, source))?;
    let value = read_point(session, public, group);
    let destroyed = session.destroy_object(public);
    match (value, destroyed) {
        (Ok(value), Ok(())) => Ok((private, value)),
        (value, destroyed) => {
            // The first failure is the one that is told.
            let _ = session.destroy_object(private);
            value?;
            Err(destroyed.err().map_or(
                Error::answer(GENERATE, "no error and no success"),
                |source| Error::token("destroying an ephemeral public key", source),
            ))
        }
    }
}

/// ECDH (SEC 1, section 3.3.1, or RFC 7748) to a secret that can be used for HMAC and digests and not be read.
/// One PKCS#11 call.
pub(crate) fn agree(
    session: &OpenSession,
    ways: &Ways,
    group: NamedGroup,
    private: ObjectHandle,
    peer: &[u8],
) -> Result<ObjectHandle, Error> {
    // Above `premaster` it is the base of derivations; the TLS 1.2 PRF of `premaster` is an HMAC keyed by it.
    let usage = if ways.derives_from(group) {
        Usage::SignAndDerive
    } else {
        Usage::Sign
    };
    let template = template::secret(ways, Some(group.secret_len()), usage, Kept::Never);
    // Raw, not wrapped in a DER OCTET STRING: every module takes that.
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer));
    session
        .derive_key(&mechanism, private, &template)
        .map_err(|source| Error::token("deriving a shared secret", source))
}

/// CKA_EC_POINT: a DER OCTET STRING around the point, or the point itself where modules differ.
fn read_point(
    session: &OpenSession,
    public: ObjectHandle,
    group: NamedGroup,
) -> Result<Vec<u8>, Error> {
    let bytes = session
        .bytes(public, AttributeType::EcPoint)
        .map_err(|source| Error::token("reading an ephemeral public key", source))?;
    let len = group.public_len();
    let value = match bytes.len() {
        n if n == len => &bytes[..],
        n if n == len + 2 && bytes[0] == 0x04 && usize::from(bytes[1]) == len => &bytes[2..],
        _ => return Err(Error::answer(GENERATE, "a public point of the wrong form")),
    };
    if group != NamedGroup::X25519 && value[0] != 0x04 {
        return Err(Error::answer(GENERATE, "a compressed public point"));
    }
    Ok(value.to_vec())
}

const GENERATE: &str = "making an ephemeral key pair";

/// 1.2.840.10045.3.1.7.
pub(crate) const P256_PARAMS: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.132.0.34.
const P384_PARAMS: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
