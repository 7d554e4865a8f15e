//! What a module must enforce to be a site, seen on objects that are thrown away.
//!
//! The tests go by behaviour, each beside the same act where it is allowed, so that a module that can do nothing does not
//! pass for one that refuses. What no module can bind is the transport key's blob: that is why the pair does not outlive
//! its enrolment. Invariant: a test that cannot be done is one that failed.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, KeyType, ObjectClass},
};
use cryptoki_sys::{CKA_UNWRAP_TEMPLATE, CKM_AES_KEY_WRAP};
use keyhaven_types::Purpose;

use super::{
    bench::{Bench, Class, failed},
    keks::{sample, with},
    proof::Sample,
};
use crate::{
    Error, FaultClass,
    managed::{
        scoped::Scoped,
        template::{AES_LEN, plain},
    },
    raw::{Item, Way},
    template::value_len,
};

/// What the module does not do that a site rests on, each a verb phrase; nothing when all is well. The label is the
/// token's.
pub(super) fn run(bench: &Bench<'_>, label: &str) -> Result<Vec<String>, Error> {
    let mut failed = Vec::new();
    for (claim, test) in TESTS {
        match test(bench) {
            Ok(None) => {}
            Ok(Some(how)) => failed.push(format!("{claim} ({how})")),
            Err(error) if is_away(&error) => return Err(error),
            Err(error) => {
                let why = error.of(label).in_full();
                failed.push(format!("{claim} (it could not be tried: {why})"));
            }
        }
    }
    Ok(failed)
}

/// How the module did not refuse what it must refuse; nothing when it refused.
type Outcome = Result<Option<&'static str>, Error>;
type Test = fn(&Bench<'_>) -> Outcome;

const TESTS: [(&str, Test); 5] = [
    ("bind what a transport key unwraps", binds_class_keys),
    ("heed CKA_UNWRAP_TEMPLATE", unwraps_by_template),
    ("keep what a class's key wraps", decrypts_no_blob),
    ("heed CKA_MODIFIABLE and CKA_COPYABLE", changes_no_class_key),
    ("keep a managed key", keeps_managed_keys),
];

fn binds_class_keys(bench: &Bench<'_>) -> Outcome {
    let (_, wrapped) = bench.delivery()?;
    let honest = bench.class_template(Purpose::Data);
    bench.receive(&wrapped, &honest).map_err(failed)?;
    for weaker in [
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(true),
    ] {
        let received = bench.receive(&wrapped, &with(&honest, weaker.clone()));
        if received.is_ok_and(|key| has(bench, &key, &weaker)) {
            return Ok(Some("a class's key came in weaker than the template says"));
        }
    }
    if bench.receive(&wrapped, &readable()).is_ok() {
        return Ok(Some("a class's key came in as a secret that can be read"));
    }
    Ok(None)
}

/// A private key, and a key for data.
fn unwraps_by_template(bench: &Bench<'_>) -> Outcome {
    for purpose in [Purpose::Handshake, Purpose::Data, Purpose::Mac] {
        let class = bench.class(purpose)?;
        let spec = sample(purpose);
        let blob = class.wrap(&Sample::new(spec.kind)?.bytes)?;
        let honest = bench.managed_template(&spec);
        bench.unwrap(&class, &blob, &honest).map_err(failed)?;
        for weaker in [
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Derive(true),
            Attribute::Unwrap(true),
        ] {
            let unwrapped = bench.unwrap(&class, &blob, &with(&honest, weaker.clone()));
            if unwrapped.is_ok_and(|key| has(bench, &key, &weaker)) {
                return Ok(Some("a key came out weaker than the template says"));
            }
        }
        if bench.unwrap(&class, &blob, &readable()).is_ok() {
            return Ok(Some("a key came out as a secret that can be read"));
        }
        // An AES key cut short tells itself.
        let cut = with(&honest, value_len(AES_LEN / 2));
        if purpose == Purpose::Data && bench.unwrap(&class, &blob, &cut).is_ok() {
            return Ok(Some("a key came out cut short"));
        }
    }
    Ok(None)
}

/// By the cipher's blocks, by the wrapping itself, and by another wrapping.
fn decrypts_no_blob(bench: &Bench<'_>) -> Outcome {
    let (session, raw) = (bench.session, bench.session.raw().map_err(failed)?);
    let class = bench.class(Purpose::Data)?;
    let blob = class.wrap(&[7; AES_LEN])?;
    let blocks = &blob[..AES_LEN];
    let mut out = [0; 64];
    let free = generate(bench, Attribute::Decrypt(true))?;
    raw.decrypt(session, &Mechanism::AesEcb, free.handle(), blocks, &mut out)
        .map_err(failed)?;
    let key = class.key.handle();
    let by_blocks = raw.decrypt(session, &Mechanism::AesEcb, key, blocks, &mut out);
    let by_wrapping = raw.decrypt_bare(session, bench.kwp, key, &blob, &mut out);
    if by_blocks.is_ok() || by_wrapping.is_ok() {
        return Ok(Some("it decrypts with a key that unwraps"));
    }
    let honest = bench.managed_template(&sample(Purpose::Data));
    let other = Way::Bare(CKM_AES_KEY_WRAP);
    if bench.unwrap_by(other, &class.key, &blob, &honest).is_ok() {
        return Ok(Some("it unwraps by a mechanism that is not allowed"));
    }
    Ok(None)
}

fn changes_no_class_key(bench: &Bench<'_>) -> Outcome {
    let free = generate(bench, Attribute::Decrypt(true))?;
    if !changes(bench, &free, &Attribute::Encrypt(true)) {
        return Err(Error::answer(
            "a test of a site's role",
            "no change of a key that may be changed",
        ));
    }
    let class = bench.class(Purpose::Handshake)?;
    for more in [
        Attribute::Decrypt(true),
        Attribute::Encrypt(true),
        Attribute::Wrap(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Modifiable(true),
    ] {
        if changes(bench, &class.key, &more) || copies(bench, &class.key, &more) {
            return Ok(Some("a class's key or a copy of it was changed"));
        }
    }
    // What the changed key would unwrap is what counts: a copy may ignore what it was told.
    let blob = class.wrap(&Sample::new(sample(Purpose::Handshake).kind)?.bytes)?;
    let emptied = [Item::Template(CKA_UNWRAP_TEMPLATE, Vec::new())];
    let raw = bench.session.raw().map_err(failed)?;
    let key = class.key.handle();
    let honest = bench.managed_template(&sample(Purpose::Handshake));
    let weaker = with(&honest, Attribute::Extractable(true));
    if raw.set_attributes(bench.session, key, &emptied).is_ok()
        && bench.unwrap(&class, &blob, &weaker).is_ok()
    {
        return Ok(Some("a class's key lost its template"));
    }
    if let Ok(copy) = raw.copy_object(bench.session, key, &emptied) {
        let copy = Scoped::new(bench.session, copy);
        let way = Way::Bare(bench.kwp);
        if bench.unwrap_by(way, &copy, &blob, &weaker).is_ok() {
            return Ok(Some("a copy of a class's key lost its template"));
        }
    }
    Ok(None)
}

fn keeps_managed_keys(bench: &Bench<'_>) -> Outcome {
    for purpose in [Purpose::Handshake, Purpose::Data] {
        let class: Class<'_> = bench.class(purpose)?;
        let spec = sample(purpose);
        let blob = class.wrap(&Sample::new(spec.kind)?.bytes)?;
        let honest = bench.managed_template(&spec);
        let key = bench.unwrap(&class, &blob, &honest).map_err(failed)?;
        if bench.session.value(key.handle()).is_ok() {
            return Ok(Some("it can be read"));
        }
        let own = generate(bench, Attribute::Wrap(true))?;
        let wrap = |key: &Scoped<'_>| {
            let raw = bench.session.raw()?;
            let way = Way::Bare(bench.kwp);
            let mut out = [0; 512];
            raw.wrap_by(bench.session, way, own.handle(), key.handle(), &mut out)
        };
        wrap(&generate(bench, Attribute::Extractable(true))?).map_err(failed)?;
        if wrap(&key).is_ok() {
            return Ok(Some("it is wrapped under a key of somebody else"));
        }
        for more in [
            Attribute::Extractable(true),
            Attribute::Sensitive(false),
            Attribute::Derive(true),
            Attribute::Modifiable(true),
        ] {
            if changes(bench, &key, &more) || copies(bench, &key, &more) {
                return Ok(Some("it, or a copy of it, was changed"));
            }
        }
    }
    Ok(None)
}

/// An AES key of the session with one thing granted.
fn generate<'a>(bench: &Bench<'a>, granted: Attribute) -> Result<Scoped<'a>, Error> {
    let template = [
        value_len(AES_LEN),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        granted,
    ];
    let key = bench
        .session
        .generate_key(&Mechanism::AesKeyGen, &template)
        .map_err(failed)?;
    Ok(Scoped::new(bench.session, key))
}

/// Whether C_SetAttributeValue changes it.
fn changes(bench: &Bench<'_>, key: &Scoped<'_>, to: &Attribute) -> bool {
    let set = bench
        .session
        .update_attributes(key.handle(), std::slice::from_ref(to));
    set.is_ok() && has(bench, key, to)
}

/// Whether C_CopyObject changes it.
fn copies(bench: &Bench<'_>, key: &Scoped<'_>, to: &Attribute) -> bool {
    let copy = bench
        .session
        .copy_object(key.handle(), std::slice::from_ref(to));
    copy.is_ok_and(|copy| has(bench, &Scoped::new(bench.session, copy), to))
}

fn has(bench: &Bench<'_>, key: &Scoped<'_>, flag: &Attribute) -> bool {
    let kind = flag.attribute_type();
    let found = bench.session.get_attributes(key.handle(), &[kind]);
    found.is_ok_and(|found| found.contains(flag))
}

fn readable() -> Vec<Item> {
    plain([
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ])
}

/// A failure that says nothing of what the module enforces.
pub(super) fn is_away(error: &Error) -> bool {
    matches!(
        error.fault_class(),
        Some(FaultClass::Busy | FaultClass::SessionLost | FaultClass::Pin)
    )
}
