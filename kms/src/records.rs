//! Judging records: is this what central said, and does what travels beside it belong to it.
//!
//! Knows central's public key and nothing else. What follows from a record is decided by whoever asked. Invariant: a
//! record that left here as a value was signed by central, and its parts are the ones that it binds (security rule K1).

use aws_lc_rs::{digest, signature};
use keyhaven_wire::kms::{
    Entry, Manifest, Record, Signed, VersionParts, chain_digest, signed_text,
};
use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};

/// Central's public key, by which everything is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CentralKey {
    spki: Vec<u8>,
    point: Vec<u8>,
}

/// Why something is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Central's key is not one on P-256.
    #[error("central's public key must be a DER SubjectPublicKeyInfo of a key on P-256")]
    CentralKey,
    /// No signature of central's.
    #[error("the record is not signed by this central")]
    Signature,
    /// Signed, and still not readable: another version of the program made it.
    #[error("the record cannot be read: was it made by a newer program?")]
    Unreadable,
    /// Parts beside a record that has none, or none beside one that has.
    #[error("what travels with the record does not belong to it: {0}")]
    Parts(&'static str),
}

/// A record that central signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Believed {
    /// What it says.
    pub record: Record,
    /// What it binds, as far as it came along.
    pub parts: Option<VersionParts>,
}

impl CentralKey {
    /// Takes a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Distrust::CentralKey`] when it is not one of a key on P-256.
    pub fn from_spki(spki: &[u8]) -> Result<Self, Distrust> {
        let (rest, info) =
            SubjectPublicKeyInfo::from_der(spki).map_err(|_| Distrust::CentralKey)?;
        let curve = info
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        let is_p256 = curve.is_some_and(|oid| oid.to_id_string() == OID_P256);
        let point = info.subject_public_key.data.to_vec();
        if !rest.is_empty() || !is_p256 || point.len() != 65 {
            return Err(Distrust::CentralKey);
        }
        Ok(Self {
            spki: spki.to_vec(),
            point,
        })
    }

    /// DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the DER, which people compare.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.spki)
    }

    /// Reads a record that central signed.
    ///
    /// # Errors
    /// [`Distrust::Signature`] or [`Distrust::Unreadable`].
    pub fn read(&self, signed: &Signed) -> Result<Record, Distrust> {
        let key = signature::UnparsedPublicKey::new(
            &signature::ECDSA_P256_SHA256_ASN1,
            self.point.as_slice(),
        );
        key.verify(&signed_text(&signed.body), &signed.signature)
            .map_err(|_| Distrust::Signature)?;
        let (record, rest) =
            postcard::take_from_bytes(&signed.body).map_err(|_| Distrust::Unreadable)?;
        if rest.is_empty() {
            Ok(record)
        } else {
            Err(Distrust::Unreadable)
        }
    }

    /// Reads a record with what travels beside it. Wraps may be missing, and are then empty; what is there is what the
    /// record binds.
    ///
    /// # Errors
    /// As [`CentralKey::read`]; [`Distrust::Parts`] when something is not what the record binds.
    pub fn believe(&self, entry: &Entry) -> Result<Believed, Distrust> {
        let record = self.read(&entry.signed)?;
        match (&record, &entry.parts) {
            (Record::Version(manifest), Some(parts)) => belong(manifest, parts)?,
            (Record::Version(_), None) => return Err(Distrust::Parts("a version has parts")),
            (_, Some(_)) => return Err(Distrust::Parts("only a version has parts")),
            (_, None) => {}
        }
        Ok(Believed {
            record,
            parts: entry.parts.clone(),
        })
    }
}

fn belong(manifest: &Manifest, parts: &VersionParts) -> Result<(), Distrust> {
    let fits = |bytes: &[u8], bound: &[u8; 32]| bytes.is_empty() || sha256(bytes) == *bound;
    if !fits(&parts.site_wrap, &manifest.site_wrap) {
        return Err(Distrust::Parts("another wrap for sites"));
    }
    if !fits(&parts.root_wrap, &manifest.root_wrap) {
        return Err(Distrust::Parts("another wrap of central's"));
    }
    if chain_digest(&parts.chain) != manifest.chain {
        return Err(Distrust::Parts("other certificates"));
    }
    Ok(())
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// The chain after a transaction that wrote these bodies, in the order of their store keys.
pub fn chain_after<'a>(before: &[u8; 32], bodies: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    for body in bodies {
        context.update(&sha256(body));
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

const OID_P256: &str = "1.2.840.10045.3.1.7";

/// Records for tests, signed by a key in memory.
pub mod testing {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::{CentralKey, Record, Signed, signed_text};

    /// A central without a token: only for tests.
    pub struct SoftwareCentral(EcdsaKeyPair);

    impl SoftwareCentral {
        /// A new key.
        #[allow(clippy::missing_panics_doc, reason = "for tests")]
        pub fn new() -> Self {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
            Self(key.expect("the system gives random bytes"))
        }

        /// Its public part.
        #[allow(clippy::missing_panics_doc, reason = "for tests")]
        pub fn key(&self) -> CentralKey {
            let header = [
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
                0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
            ];
            let spki = [&header, self.0.public_key().as_ref()].concat();
            CentralKey::from_spki(&spki).expect("a point on P-256 behind its header")
        }

        /// Signs a record.
        #[allow(clippy::missing_panics_doc, reason = "for tests")]
        pub fn sign(&self, record: &Record) -> Signed {
            let body = postcard::to_stdvec(record).expect("records can be written");
            let signature = self
                .0
                .sign(&SystemRandom::new(), &signed_text(&body))
                .expect("the system gives random bytes");
            Signed {
                body,
                signature: signature.as_ref().to_vec(),
            }
        }
    }

    impl Default for SoftwareCentral {
        fn default() -> Self {
            Self::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use keyhaven_types::{KekId, KeyId, KeyKind, KeyState, Provenance, Purpose};
    use keyhaven_wire::kms::Public;

    use super::{testing::SoftwareCentral, *};

    fn manifest(parts: &VersionParts) -> Manifest {
        Manifest {
            id: KeyId([1; 16]),
            version: 1,
            kind: KeyKind::Aes256,
            purpose: Purpose::Data,
            public: Public::Kcv([7; 8]),
            operations: Purpose::Data.operations().to_vec(),
            state: KeyState::Active,
            class: "eu".parse().unwrap(),
            epoch: 1,
            kek: KekId([2; 16]),
            site_wrap: sha256(&parts.site_wrap),
            root_wrap: sha256(&parts.root_wrap),
            chain: chain_digest(&parts.chain),
            provenance: Provenance::Generated,
            made_ms: 1,
            revision: 4,
        }
    }

    fn parts() -> VersionParts {
        VersionParts {
            site_wrap: vec![1; 40],
            root_wrap: vec![2; 40],
            chain: vec![vec![3; 100]],
        }
    }

    #[test]
    fn k1_every_flipped_bit_of_a_record_or_its_parts_is_refused() {
        let central = SoftwareCentral::new();
        let key = central.key();
        let good = Entry {
            signed: central.sign(&Record::Version(manifest(&parts()))),
            parts: Some(parts()),
        };
        assert!(key.believe(&good).is_ok());
        for at in 0..good.signed.body.len() * 8 {
            let mut bad = good.clone();
            bad.signed.body[at / 8] ^= 1 << (at % 8);
            assert_eq!(key.believe(&bad), Err(Distrust::Signature), "bit {at}");
        }
        let alter: [fn(&mut VersionParts); 3] = [
            |parts| parts.site_wrap[0] ^= 1,
            |parts| parts.root_wrap[0] ^= 1,
            |parts| parts.chain[0][0] ^= 1,
        ];
        for alter in alter {
            let mut bad = good.clone();
            alter(bad.parts.as_mut().unwrap());
            assert!(matches!(key.believe(&bad), Err(Distrust::Parts(_))));
        }
    }

    #[test]
    fn wraps_may_be_left_out_and_another_central_is_nobody() {
        let central = SoftwareCentral::new();
        let mut entry = Entry {
            signed: central.sign(&Record::Version(manifest(&parts()))),
            parts: Some(parts()),
        };
        let beside = entry.parts.as_mut().unwrap();
        beside.site_wrap.clear();
        beside.root_wrap.clear();
        assert!(central.key().believe(&entry).is_ok());
        let other = SoftwareCentral::new().key();
        assert_eq!(other.believe(&entry), Err(Distrust::Signature));
    }
}
