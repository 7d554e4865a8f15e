//! What a token can do with managed keys, seen on keys that software made and wrapped as central would.
//!
//! Each result is checked by software that is not the token's. Invariant: what is listed was done with a key that came in
//! under a class's key of its purpose, by the templates of real ones; only sizes of RSA beyond the smallest go by the
//! module's word.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    hmac,
    key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    rand::{SecureRandom as _, SystemRandom},
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    },
};
use cryptoki::mechanism::{Mechanism, MechanismType};
use keyhaven_types::{KeyKind, Operation, Purpose, SignatureScheme};
use zeroize::Zeroizing;

use super::{
    bench::{Bench, TEST, Transport, failed},
    data_key, gcm, keks,
    role::is_away,
    software::{OaepHash, oaep_encrypt},
};
use crate::{
    Error, Token,
    generation::Generation,
    managed::{PublicPart, Spec, part, scoped::Scoped, template::AES_LEN},
    sign,
    spki::PublicKey,
};

/// What the token can do.
#[derive(Debug, Default)]
pub(super) struct Proven {
    pub(super) mechanisms: Vec<(KeyKind, Operation)>,
    pub(super) oaep: Option<OaepHash>,
    /// By the smallest kind that signs so.
    schemes: Vec<(KeyKind, Vec<SignatureScheme>)>,
}

impl Proven {
    /// The schemes by which keys of this kind sign; a larger RSA key signs as the smallest does.
    pub(super) fn schemes(&self, kind: KeyKind) -> Vec<SignatureScheme> {
        let proven = if part::is_rsa(kind) {
            KeyKind::Rsa2048
        } else {
            kind
        };
        let found = self.schemes.iter().find(|(known, _)| *known == proven);
        found
            .map(|(_, schemes)| schemes.clone())
            .unwrap_or_default()
    }

    fn add(&mut self, kind: KeyKind, purpose: Purpose) {
        for &operation in purpose.operations() {
            if !self.mechanisms.contains(&(kind, operation)) {
                self.mechanisms.push((kind, operation));
            }
        }
    }
}

/// Tries everything. What fails is not listed, and the log says why.
pub(super) fn run(
    token: &Token,
    generation: &Generation,
    transport: &Transport<'_>,
) -> Result<Proven, Error> {
    let mut proven = Proven::default();
    let larger = larger_rsa(token, generation);
    for kind in KINDS {
        let sample = Sample::new(kind)?;
        for purpose in PURPOSES {
            if !kind.serves(purpose) {
                continue;
            }
            // What is refused may leave something active in the session.
            let session = token.open_session(generation)?;
            let bench = Bench::new(&session, token.quirks(), transport);
            match attempt(&bench, kind, purpose, &sample, &mut proven) {
                Ok(()) => {
                    let others = larger.iter().filter(|_| kind == KeyKind::Rsa2048);
                    for &kind in [kind].iter().chain(others) {
                        proven.add(kind, purpose);
                        // The two have one template and one way to sign.
                        if purpose == Purpose::Sign {
                            proven.add(kind, Purpose::Handshake);
                        }
                    }
                }
                Err(error) if is_away(&error) => return Err(error),
                Err(error) => {
                    let module = token.quirks().name;
                    let error = error.of(&token.info().label).in_full();
                    tracing::info!(module, %kind, %purpose, error, "the token does not do this");
                }
            }
        }
    }
    Ok(proven)
}

fn attempt(
    bench: &Bench<'_>,
    kind: KeyKind,
    purpose: Purpose,
    sample: &Sample,
    proven: &mut Proven,
) -> Result<(), Error> {
    let class = bench.class(purpose)?;
    let blob = class.wrap(&sample.bytes)?;
    let spec = Spec {
        kind,
        ..keks::sample(purpose)
    };
    let key = bench
        .unwrap(&class, &blob, &bench.managed_template(&spec))
        .map_err(failed)?;
    match purpose {
        Purpose::Sign | Purpose::Handshake => {
            let public = PublicPart::Spki(sample.spki.clone());
            part::check(bench.session, bench.kwp, key.handle(), &spec, &public)?;
            proven.schemes.push((kind, signs(bench, &key, sample)?));
        }
        Purpose::Decrypt => proven.oaep = Some(decrypts(bench, &key, sample)?),
        Purpose::Data => seals(bench, &key, &sample.bytes)?,
        Purpose::Wrap => wraps(bench, &key, &sample.bytes)?,
        Purpose::Mac | Purpose::Tickets => macs(bench, &key, &sample.bytes)?,
    }
    Ok(())
}

fn signs(
    bench: &Bench<'_>,
    key: &Scoped<'_>,
    sample: &Sample,
) -> Result<Vec<SignatureScheme>, Error> {
    let public = PublicKey::parse(&sample.spki)
        .map_err(|_| Error::answer(TEST, "a sample that cannot be read"))?;
    let mut schemes = Vec::new();
    let mut refused = None;
    for &scheme in SignatureScheme::of(public.algorithm()) {
        match sign::sign(bench.session, key.handle(), scheme, TEXT) {
            Ok(signature) if public.verifies(scheme, TEXT, &signature) => schemes.push(scheme),
            Ok(_) => return Err(Error::answer(TEST, "a wrong signature")),
            Err(error) if is_away(&error) => return Err(error),
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    match refused {
        Some(error) if schemes.is_empty() => Err(error),
        _ => Ok(schemes),
    }
}

fn decrypts(bench: &Bench<'_>, key: &Scoped<'_>, sample: &Sample) -> Result<OaepHash, Error> {
    let mut refused = Error::answer(TEST, "no plaintext");
    for hash in OaepHash::ALL {
        let encrypted = oaep_encrypt(&sample.spki, hash, TEXT)?;
        let opened = bench
            .session
            .decrypt(&hash.mechanism(), key.handle(), &encrypted);
        match opened {
            Ok(opened) if opened == TEXT => return Ok(hash),
            Ok(_) => return Err(Error::answer(TEST, "a wrong plaintext")),
            Err(source) => refused = failed(source),
        }
    }
    Err(refused)
}

fn seals(bench: &Bench<'_>, key: &Scoped<'_>, bytes: &[u8]) -> Result<(), Error> {
    let sealed = gcm::seal(bench.session, key.handle(), TEXT, AAD)?;
    opens_in_software(bytes, &sealed)?;
    let opened = gcm::open(bench.session, key.handle(), &sealed, AAD)?;
    if opened[..] == *TEXT {
        Ok(())
    } else {
        Err(Error::answer(TEST, "a wrong plaintext"))
    }
}

fn wraps(bench: &Bench<'_>, key: &Scoped<'_>, bytes: &[u8]) -> Result<(), Error> {
    let (session, kwp) = (bench.session, bench.kwp);
    let wrapped = data_key::make(session, kwp, key.handle())?;
    let mut out = Zeroizing::new([0; AES_LEN + 8]);
    let data = AesKek::new(&AES_256, bytes)
        .and_then(|kek| {
            kek.unwrap_with_padding(&wrapped, &mut out[..])
                .map(|data| data.len())
        })
        .map_err(|_| Error::answer(TEST, "a data key that does not open"))?;
    let back = data_key::bring(session, bench.quirks, kwp, key.handle(), &wrapped)?;
    let sealed = gcm::seal(session, back.handle(), TEXT, AAD)?;
    opens_in_software(&out[..data], &sealed)
}

fn macs(bench: &Bench<'_>, key: &Scoped<'_>, bytes: &[u8]) -> Result<(), Error> {
    let mac = bench
        .session
        .sign_once(&Mechanism::Sha256Hmac, key.handle(), TEXT)
        .map_err(failed)?;
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, bytes), TEXT, &mac)
        .map_err(|_| Error::answer(TEST, "a wrong HMAC"))
}

fn opens_in_software(key: &[u8], sealed: &[u8]) -> Result<(), Error> {
    let wrong = || Error::answer(TEST, "a wrong ciphertext");
    let (iv, sealed) = sealed.split_first_chunk::<12>().ok_or_else(wrong)?;
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| wrong())?;
    let nonce = Nonce::assume_unique_for_key(*iv);
    let mut text = sealed.to_vec();
    let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::from(AAD), &mut text);
    match opened {
        Ok(opened) if opened == TEXT => Ok(()),
        _ => Err(wrong()),
    }
}

/// A key that software made.
pub(super) struct Sample {
    /// What is wrapped: PKCS#8, or the bytes of a secret.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// DER SubjectPublicKeyInfo; empty for a secret.
    spki: Vec<u8>,
}

impl Sample {
    pub(super) fn new(kind: KeyKind) -> Result<Self, Error> {
        Self::make(kind).ok_or_else(|| Error::answer(TEST, "no key to begin with"))
    }

    fn make(kind: KeyKind) -> Option<Self> {
        let rsa = |size| {
            let pair = RsaKeyPair::generate(size).ok()?;
            let bytes = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).ok()?;
            Some((bytes.as_ref().to_vec(), pair.public_key().as_der().ok()?))
        };
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
            let pair = EcdsaKeyPair::generate(algorithm).ok()?;
            let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
            Some((pair.to_pkcs8v1().ok()?.as_ref().to_vec(), spki))
        };
        let (bytes, spki) = match kind {
            KeyKind::Rsa2048 => rsa(KeySize::Rsa2048)?,
            KeyKind::Rsa3072 => rsa(KeySize::Rsa3072)?,
            KeyKind::Rsa4096 => rsa(KeySize::Rsa4096)?,
            KeyKind::EcP256 => ec(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            KeyKind::EcP384 => ec(&ECDSA_P384_SHA384_ASN1_SIGNING)?,
            KeyKind::Ed25519 => {
                let pair = Ed25519KeyPair::generate().ok()?;
                let spki = pair.public_key().as_der().ok()?;
                (pair.to_pkcs8v1().ok()?.as_ref().to_vec(), spki)
            }
            KeyKind::Aes256 | KeyKind::Hmac => {
                let mut bytes = Zeroizing::new(vec![0; AES_LEN]);
                SystemRandom::new().fill(&mut bytes).ok()?;
                let spki = Vec::new();
                return Some(Self { bytes, spki });
            }
        };
        Some(Self {
            bytes: Zeroizing::new(bytes),
            spki: spki.as_ref().to_vec(),
        })
    }
}

/// Kinds of RSA keys beyond the smallest whose size the module takes.
fn larger_rsa(token: &Token, generation: &Generation) -> Vec<KeyKind> {
    let info = token
        .module()
        .pkcs11()
        .get_mechanism_info(generation.slot, MechanismType::RSA_PKCS);
    let bits_max = info.map_or(0, |info| info.max_key_size());
    [(KeyKind::Rsa3072, 3072), (KeyKind::Rsa4096, 4096)]
        .into_iter()
        .filter(|&(_, bits)| bits_max >= bits)
        .map(|(kind, _)| kind)
        .collect()
}

/// Larger RSA keys take seconds to make.
const KINDS: [KeyKind; 6] = [
    KeyKind::Rsa2048,
    KeyKind::EcP256,
    KeyKind::EcP384,
    KeyKind::Ed25519,
    KeyKind::Aes256,
    KeyKind::Hmac,
];
/// Each has its own template; those of handshakes and tickets are as those of signatures and MACs.
const PURPOSES: [Purpose; 5] = [
    Purpose::Sign,
    Purpose::Decrypt,
    Purpose::Data,
    Purpose::Wrap,
    Purpose::Mac,
];
const TEXT: &[u8] = b"keyhaven: proof of what a site can do";
const AAD: &[u8] = b"keyhaven";
