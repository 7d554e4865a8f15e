//! The attacks, each on objects of its own.
//!
//! Invariant: an attack that succeeds is shown by a value that came out, or by a flag that the module itself shows.

use cryptoki::{
    error::Error as CryptokiError,
    mechanism::{
        Mechanism, MechanismType,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
        hkdf::{HkdfParams, HkdfSalt},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
};
use cryptoki_sys::CKM_SHA256;
use keyhaven_types::{HashAlgorithm, NamedGroup};

use super::{
    Attack, Outcome,
    target::{Target, readable, told, untried},
};
use crate::{
    Kept, TokenFault, exchange, hkdf,
    template::{self, Usage},
    tls12,
    vault::keys::{self, Name},
};

/// Names stay as they are: reports are compared by them.
pub(super) const ATTACKS: &[(&str, Attack)] = &[
    ("read a sensitive key", read),
    ("lower the flags of a sensitive key", set_readable),
    ("copy a sensitive key into a weaker one", copy_readable),
    (
        "wrap a secret that is not extractable under a known key",
        wrap_secret,
    ),
    (
        "wrap a private key that is not extractable under a known key",
        wrap_private,
    ),
    (
        "wrap a secret that is on the road under a known key",
        wrap_wrappable,
    ),
    ("derive a readable secret by ECDH", derive_ecdh),
    ("derive a readable secret by HKDF", derive_hkdf),
    ("derive a readable master secret of TLS 1.2", derive_master),
    ("unwrap a secret as a readable one", unwrap_readable),
    ("decrypt with a key that wraps", decrypt_with_wrapping),
    ("mark an own key as trusted", mark_trusted),
];

fn read(target: &Target<'_>) -> Result<Outcome, String> {
    let secret = target.secret()?;
    Ok(if target.is_readable(secret) {
        Outcome::Succeeded("the value was read")
    } else {
        Outcome::Refused("CKA_VALUE is not given".to_owned())
    })
}

fn set_readable(target: &Target<'_>) -> Result<Outcome, String> {
    let secret = target.secret()?;
    let mut refused = Vec::new();
    for weaker in [Attribute::Sensitive(false), Attribute::Extractable(true)] {
        match target
            .session
            .update_attributes(secret, std::slice::from_ref(&weaker))
        {
            Ok(()) if has(target, secret, &weaker) => {
                return Ok(Outcome::Succeeded("a flag was lowered"));
            }
            Ok(()) => refused.push("the flag stays as it was".to_owned()),
            Err(error) => refused.push(TokenFault::new(error).to_string()),
        }
    }
    if target.is_readable(secret) {
        return Ok(Outcome::Succeeded("the value was read"));
    }
    refused.dedup();
    Ok(Outcome::Refused(refused.join("; ")))
}

fn copy_readable(target: &Target<'_>) -> Result<Outcome, String> {
    let secret = target.secret()?;
    let mut refused = Vec::new();
    for weaker in [
        vec![Attribute::Sensitive(false), Attribute::Extractable(true)],
        vec![Attribute::Sensitive(false)],
        vec![Attribute::Extractable(true)],
    ] {
        match target.session.copy_object(secret, &weaker) {
            Ok(copy) => {
                target.keep(copy);
                if target.is_readable(copy) {
                    return Ok(Outcome::Succeeded("the copy was read"));
                }
                if weaker.iter().any(|flag| has(target, copy, flag)) {
                    return Ok(Outcome::Succeeded("the copy has a flag lowered"));
                }
                refused.push("the copy is like its model".to_owned());
            }
            Err(error) => refused.push(TokenFault::new(error).to_string()),
        }
    }
    refused.dedup();
    Ok(Outcome::Refused(refused.join("; ")))
}

fn wrap_secret(target: &Target<'_>) -> Result<Outcome, String> {
    target.wrap_and_open(target.secret()?, target.secret_that_is(true)?)
}

fn wrap_private(target: &Target<'_>) -> Result<Outcome, String> {
    target.wrap_and_open(
        target.private_that_is(false)?,
        target.private_that_is(true)?,
    )
}

/// What a ticket or a rekey state takes along must be wrappable; whoever has the login can wrap it, too.
fn wrap_wrappable(target: &Target<'_>) -> Result<Outcome, String> {
    let secret = target.secret()?;
    let expanded = hkdf::expand(
        target.session,
        target.ways,
        HashAlgorithm::Sha256,
        secret,
        b"road",
        32,
        Kept::Wrappable,
    );
    let expanded = target.keep(expanded.map_err(told)?);
    target.wrap_and_open(expanded, target.secret_that_is(true)?)
}

fn derive_ecdh(target: &Target<'_>) -> Result<Outcome, String> {
    let (private, public) = target.exchange_key()?;
    // With itself: any other peer would do as well.
    let honest = exchange::agree(
        target.session,
        target.ways,
        NamedGroup::Secp256r1,
        private,
        &public,
    );
    target.keep(honest.map_err(told)?);
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), &public));
    let made = target
        .session
        .derive_key(&mechanism, private, &readable(Some(32)));
    target.judge(made)
}

fn derive_hkdf(target: &Target<'_>) -> Result<Outcome, String> {
    let secret = target.secret()?;
    let salt = HkdfSalt::Data(&[0; 32]);
    let hash = HashAlgorithm::Sha256;
    let honest = hkdf::extract(target.session, target.ways, hash, salt, secret);
    target.keep(honest.map_err(told)?);
    let params = HkdfParams::new(MechanismType::SHA256, Some(salt), None);
    let mechanism = Mechanism::HkdfDerive(params);
    let made = target
        .session
        .derive_key(&mechanism, secret, &readable(Some(32)));
    target.judge(made)
}

fn derive_master(target: &Target<'_>) -> Result<Outcome, String> {
    let secret = target.secret()?;
    let (ways, hash) = (target.ways, HashAlgorithm::Sha256);
    let seed = [0; 32];
    let honest = tls12::extended_master(target.session, ways, hash, secret, &seed, Kept::Never);
    target.keep(honest.map_err(told)?);
    let len = ways.ems.says_length().then_some(48);
    let made = target.session.raw().and_then(|raw| {
        let id = ways.ems.mechanism();
        let template = readable(len);
        raw.tls12_extended_master(target.session, id, CKM_SHA256, &seed, secret, &template)
    });
    target.judge(made)
}

/// The wrapping key of a vault says what may come of its blobs, where the module heeds that.
fn unwrap_readable(target: &Target<'_>) -> Result<Outcome, String> {
    let key = wrapping_key(target)?;
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        template::value_len(32),
        Attribute::Token(false),
        Attribute::Private(target.ways.ephemeral_private),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
    ];
    let secret = target
        .session
        .generate_key(&Mechanism::GenericSecretKeyGen, &template)
        .map_err(untried)?;
    target.keep(secret);
    let blob = keys::wrap(target.session, target.ways, key, secret).map_err(told)?;
    // What the template allows comes back, or the blob says nothing.
    let honest = keys::unwrap(
        target.session,
        target.ways,
        key,
        &blob,
        Usage::Derive,
        Kept::Never,
    );
    target.keep(honest.map_err(told)?);
    let id = target.ways.wrap.mechanism();
    let unwrap = |template: &[Attribute]| {
        let raw = target.session.raw()?;
        raw.unwrap_key(target.session, id, key, &blob, template)
    };
    let usages = [
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
    ];
    let obeying = [readable(None), usages.to_vec()].concat();
    match target.judge(unwrap(&obeying))? {
        // A module that wants the template said and then lets it be broken would refuse the shorter one alone.
        Outcome::Refused(first) => match target.judge(unwrap(&readable(None)))? {
            Outcome::Refused(_) => Ok(Outcome::Refused(first)),
            succeeded => Ok(succeeded),
        },
        succeeded => Ok(succeeded),
    }
}

/// A blob decrypted gives its secret away: by the key as it is, after its flag was raised, and by a copy.
fn decrypt_with_wrapping(target: &Target<'_>) -> Result<Outcome, String> {
    let key = wrapping_key(target)?;
    let secret = target.secret_that_is(true)?;
    let known = target.known_key()?;
    let wrap = |key| keys::wrap(target.session, target.ways, key, secret).map_err(told);
    // A mechanism that no key can use says nothing.
    decrypt(target, known, &wrap(known)?).map_err(untried)?;
    let blob = wrap(key)?;
    let refusal = match decrypt(target, key, &blob) {
        Ok(()) => return Ok(Outcome::Succeeded("it decrypts as it is")),
        Err(error) => TokenFault::new(error).to_string(),
    };
    let raised = [Attribute::Decrypt(true)];
    if target.session.update_attributes(key, &raised).is_ok() && decrypt(target, key, &blob).is_ok()
    {
        return Ok(Outcome::Succeeded("it decrypts after its flag was raised"));
    }
    if let Ok(copy) = target.session.copy_object(key, &raised) {
        target.keep(copy);
        if decrypt(target, copy, &blob).is_ok() {
            return Ok(Outcome::Succeeded("a copy of it decrypts"));
        }
    }
    Ok(Outcome::Refused(refusal))
}

/// By the blocks of the cipher, or by the wrapping itself where it can be used so. The blob is one that the key has
/// made: no other would tell a refusal from a blob that does not open.
fn decrypt(target: &Target<'_>, key: ObjectHandle, blob: &[u8]) -> Result<(), CryptokiError> {
    let raw = target.session.raw()?;
    let mut out = [0; 64];
    let wrapping = target.ways.wrap.mechanism();
    let blocks = &blob[..blob.len() - blob.len() % 16];
    raw.decrypt(target.session, &Mechanism::AesEcb, key, blocks, &mut out)
        .or_else(|refused| {
            raw.decrypt_bare(target.session, wrapping, key, blob, &mut out)
                .map_err(|_| refused)
        })
        .map(drop)
}

/// CKA_TRUSTED is the security officer's alone to give, says the standard.
fn mark_trusted(target: &Target<'_>) -> Result<Outcome, String> {
    let trusted = Attribute::Trusted(true);
    let mut refused = Vec::new();
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        template::value_len(32),
        Attribute::Token(false),
        Attribute::Wrap(true),
        trusted.clone(),
    ];
    let generated = target
        .session
        .generate_key(&Mechanism::AesKeyGen, &template);
    match generated {
        Ok(key) if has(target, target.keep(key), &trusted) => {
            return Ok(Outcome::Succeeded("it was born trusted"));
        }
        Ok(_) => refused.push("the flag stays as it was".to_owned()),
        Err(error) => refused.push(TokenFault::new(error).to_string()),
    }
    let known = target.known_key()?;
    match target
        .session
        .update_attributes(known, std::slice::from_ref(&trusted))
    {
        Ok(()) if has(target, known, &trusted) => {
            return Ok(Outcome::Succeeded("a known key was marked"));
        }
        Ok(()) => refused.push("the flag stays as it was".to_owned()),
        Err(error) => refused.push(TokenFault::new(error).to_string()),
    }
    if let Ok(copy) = target
        .session
        .copy_object(known, std::slice::from_ref(&trusted))
        && has(target, target.keep(copy), &trusted)
    {
        return Ok(Outcome::Succeeded("a copy of a known key was marked"));
    }
    refused.dedup();
    Ok(Outcome::Refused(refused.join("; ")))
}

fn wrapping_key(target: &Target<'_>) -> Result<ObjectHandle, String> {
    let name = Name {
        label: "keyhaven hold",
        id: b"hold",
        persistent: false,
    };
    keys::make_wrapping(target.session, target.ways, name)
        .map(|key| target.keep(key))
        .map_err(told)
}

/// Whether the module says that the object has the flag as it stands here.
fn has(target: &Target<'_>, object: ObjectHandle, flag: &Attribute) -> bool {
    let kind: AttributeType = flag.attribute_type();
    let flags = target.session.get_attributes(object, &[kind]);
    flags.is_ok_and(|flags| flags.contains(flag))
}
