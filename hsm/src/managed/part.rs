//! Public parts: read when a key is made, compared whenever a blob was unwrapped, and whose fault a failed unwrapping
//! is.
//!
//! Every module unwraps the blob of one key under the description of another, so what came out is looked at before it
//! is used. Invariant: a key that passes [`check`] is the one that its record speaks of.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use cryptoki::{
    error::Error as CryptokiError,
    object::{Attribute, AttributeType, ObjectHandle},
    session::SessionState,
};
use cryptoki_sys::CK_MECHANISM_TYPE;
use keyhaven_types::{KeyKind, Purpose, SignatureScheme};

use super::{PublicPart, Spec, kcv, template::oaep};
use crate::{
    Error, FaultClass, TokenFault,
    admin::public,
    session::OpenSession,
    sign,
    spki::{PublicKey, strip_zeros},
};

/// The public part of a pair from its public object: DER SubjectPublicKeyInfo.
pub(crate) fn read_pair(
    session: &OpenSession,
    object: ObjectHandle,
    kind: KeyKind,
) -> Result<Vec<u8>, Error> {
    let types = if is_rsa(kind) {
        [AttributeType::Modulus, AttributeType::PublicExponent]
    } else {
        [AttributeType::EcParams, AttributeType::EcPoint]
    };
    let found = session
        .get_attributes(object, &types)
        .map_err(|source| Error::token(READ, source))?;
    let spki = match &found[..] {
        [
            Attribute::Modulus(modulus),
            Attribute::PublicExponent(exponent),
        ] => Some(public::rsa_spki(modulus, exponent)),
        [Attribute::EcParams(params), Attribute::EcPoint(point)] => {
            public::spki_of_point(params, point)
        }
        _ => None,
    };
    let spki = spki.ok_or_else(|| Error::answer(READ, "something that is no public key"))?;
    let is_of_kind =
        PublicKey::parse(&spki).is_ok_and(|key| Some(key.algorithm()) == kind.algorithm());
    if !is_of_kind {
        return Err(Error::answer(READ, "a public key of another kind"));
    }
    Ok(spki)
}

/// The public part of an RSA key from its public or private object. Others tell nothing.
pub(crate) fn read_rsa(session: &OpenSession, key: ObjectHandle) -> Result<Option<Vec<u8>>, Error> {
    let types = [AttributeType::Modulus, AttributeType::PublicExponent];
    let found = session
        .get_attributes(key, &types)
        .map_err(|source| Error::token(READ, source))?;
    Ok(match &found[..] {
        [
            Attribute::Modulus(modulus),
            Attribute::PublicExponent(exponent),
        ] if !modulus.is_empty() && !exponent.is_empty() => {
            Some(public::rsa_spki(modulus, exponent))
        }
        _ => None,
    })
}

/// Compares what was unwrapped with what the record says: RSA by the modulus, which comes from the blob in every
/// module; other pairs by a signature; secrets by their check value.
pub(crate) fn check(
    session: &OpenSession,
    kwp: CK_MECHANISM_TYPE,
    key: ObjectHandle,
    spec: &Spec,
    expected: &PublicPart,
) -> Result<(), Error> {
    let another = |reason| Error::Substituted {
        key: spec.id.to_string(),
        reason,
    };
    match expected {
        PublicPart::Kcv(value) if !spec.kind.is_pair() => {
            if kcv::of(session, kwp, key, spec.purpose)? != *value {
                return Err(another("its check value is not the record's"));
            }
        }
        PublicPart::Spki(der) if spec.kind.is_pair() => {
            let public = PublicKey::parse(der)
                .ok()
                .filter(|public| Some(public.algorithm()) == spec.kind.algorithm())
                .ok_or_else(|| another("the record's public part is of another kind"))?;
            match public.modulus() {
                Some(modulus) => {
                    let found = session
                        .bytes(key, AttributeType::Modulus)
                        .map_err(|source| Error::token(READ, source))?;
                    if strip_zeros(&found) != modulus {
                        return Err(another("its modulus is not the record's"));
                    }
                }
                None if !signs_as(session, key, &public)? => {
                    return Err(another("it does not sign as the record's key would"));
                }
                None => {}
            }
        }
        _ => return Err(another("the record's public part is not one of its kind")),
    }
    Ok(())
}

/// A new pair does what it is for, and its public part is its own.
pub(crate) fn prove(
    session: &OpenSession,
    key: ObjectHandle,
    purpose: Purpose,
    spki: &[u8],
) -> Result<(), Error> {
    let public = PublicKey::parse(spki)
        .map_err(|_| Error::answer(PROVE, "a public key that cannot be read"))?;
    let is_own = if purpose == Purpose::Decrypt {
        decrypts_as(session, key, spki)?
    } else {
        signs_as(session, key, &public)?
    };
    if is_own {
        Ok(())
    } else {
        Err(Error::answer(
            PROVE,
            "a private key that does not fit its public part",
        ))
    }
}

/// Whether a signature by the key verifies. The token's own failures are errors.
fn signs_as(session: &OpenSession, key: ObjectHandle, public: &PublicKey) -> Result<bool, Error> {
    let schemes = SignatureScheme::of(public.algorithm());
    let Some(&scheme) = schemes.first() else {
        return Ok(false);
    };
    let signature = sign::sign(session, key, scheme, PROOF_MESSAGE)?;
    Ok(public.verifies(scheme, PROOF_MESSAGE, &signature))
}

fn decrypts_as(session: &OpenSession, key: ObjectHandle, spki: &[u8]) -> Result<bool, Error> {
    let encrypted = || {
        let public =
            OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(spki).ok()?).ok()?;
        let mut out = vec![0; public.ciphertext_size()];
        let len = public
            .encrypt(&OAEP_SHA1_MGF1SHA1, PROOF_MESSAGE, &mut out, None)
            .ok()?
            .len();
        out.truncate(len);
        Some(out)
    };
    let Some(encrypted) = encrypted() else {
        return Ok(false);
    };
    let opened = session
        .decrypt(&oaep(), key, &encrypted)
        .map_err(|source| Error::token(PROVE, source))?;
    Ok(opened == PROOF_MESSAGE)
}

/// Whose fault a failed unwrapping or decryption is. Modules say of an altered blob and of a wrong key whatever they
/// like, up to CKR_DEVICE_ERROR; so the login is looked at before the token is blamed. To be called in the session of
/// the failure.
pub(crate) fn blame(
    session: &OpenSession,
    operation: &'static str,
    source: CryptokiError,
) -> Error {
    let error = Error::token(operation, source);
    let is_tokens_own = matches!(
        error.fault_class(),
        Some(FaultClass::Busy | FaultClass::SessionLost | FaultClass::Pin)
    ) || error.is_of_wrapping_key();
    if is_tokens_own || !is_logged_in(session) {
        return error;
    }
    if let Error::Token { source, .. } = &error {
        tracing::debug!(operation, %source, "what was given does not open");
    }
    Error::Blob { operation }
}

fn is_logged_in(session: &OpenSession) -> bool {
    let state = session.get_session_info().map(|info| info.session_state());
    match state {
        Ok(state) => matches!(state, SessionState::RwUser | SessionState::RoUser),
        Err(source) => {
            let fault = TokenFault::new(source);
            tracing::debug!(%fault, "a session does not say its state");
            false
        }
    }
}

pub(crate) fn is_rsa(kind: KeyKind) -> bool {
    matches!(kind, KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096)
}

const READ: &str = "reading a public part";
const PROVE: &str = "proving a new pair";
/// Unlike any message of TLS, X.509, JWT, or a record.
const PROOF_MESSAGE: &[u8] = b"keyhaven: proof of a managed key";
