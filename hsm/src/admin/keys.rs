//! Making, importing, finding and deleting private keys.
//!
//! Every new key is compared with its template and proven by a signature before it counts as made. Invariant: a
//! key that fails either is removed again, with its public part.

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, ObjectClass, ObjectHandle},
};
use keyhaven_types::KeyAlgorithm;

use super::{
    error::AdminError,
    material::{Curve, KeyMaterial},
    object::{self, KeyEntry, KeyFlags, KeyName},
    proof, public,
    session::AdminSession,
    template,
};
use crate::Error;

/// How many keys an error message names.
const LISTED_MAX: usize = 20;

impl AdminSession {
    /// Every private key of the token.
    ///
    /// # Errors
    /// A failed call.
    pub fn keys(&self) -> Result<Vec<KeyEntry>, AdminError> {
        object::list_keys(&self.session(), &self.info().label)
    }

    /// The one private key with this label and this id; at least one should be given.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`], [`AdminError::KeyAmbiguous`], or a failed call.
    pub fn find_key(&self, label: Option<&str>, id: Option<&[u8]>) -> Result<KeyEntry, AdminError> {
        let keys = self.keys()?;
        let fits = |key: &&KeyEntry| {
            label.is_none_or(|label| label == key.name.label)
                && id.is_none_or(|id| id == key.name.id)
        };
        let listed = |keys: &mut dyn Iterator<Item = &KeyEntry>| -> Vec<String> {
            keys.take(LISTED_MAX).map(KeyEntry::to_text).collect()
        };
        let fitting: Vec<&KeyEntry> = keys.iter().filter(fits).collect();
        match fitting[..] {
            [key] => Ok(key.clone()),
            [] => Err(AdminError::KeyNotFound {
                token: self.info().label.clone(),
                wanted: wanted(label, id),
                found: listed(&mut keys.iter()),
            }),
            _ => Err(AdminError::KeyAmbiguous {
                token: self.info().label.clone(),
                wanted: wanted(label, id),
                found: listed(&mut fitting.into_iter()),
            }),
        }
    }

    /// Refuses a key that is there already, and a name that another key has; the first says more.
    ///
    /// # Errors
    /// [`AdminError::LabelTaken`], [`AdminError::IdTaken`], [`AdminError::KeyPresent`], or a failed call.
    pub fn check_free(&self, name: &KeyName, spki: Option<&[u8]>) -> Result<(), AdminError> {
        let token = || self.info().label.clone();
        let keys = self.keys()?;
        let same = |key: &&KeyEntry| spki.is_some() && key.spki.as_deref() == spki;
        if let Some(key) = keys.iter().find(same) {
            return Err(AdminError::KeyPresent {
                token: token(),
                id: key.name.id_hex(),
                label: key.name.label.clone(),
            });
        }
        for key in keys {
            if key.name.label == name.label {
                return Err(AdminError::LabelTaken {
                    token: token(),
                    label: key.name.label.clone(),
                    id: key.name.id_hex(),
                });
            }
            if key.name.id == name.id {
                return Err(AdminError::IdTaken {
                    token: token(),
                    id: key.name.id_hex(),
                    label: key.name.label,
                });
            }
        }
        Ok(())
    }

    /// Makes a key pair in the token.
    ///
    /// # Errors
    /// A taken name, a failed call, a token that keeps not to the template, or a failed proof.
    pub fn generate_key(
        &self,
        algorithm: KeyAlgorithm,
        name: &KeyName,
    ) -> Result<KeyEntry, AdminError> {
        self.check_free(name, None)?;
        let (mechanism, parameters) = generation(algorithm)?;
        let (public, private) = self
            .session()
            .generate_key_pair(
                &mechanism,
                &template::generated_public(name, parameters),
                &template::generated_private(name),
            )
            .map_err(|error| self.fail("generate a key pair", error))?;
        self.settle(name, &[private, public])
    }

    /// Puts a key and its public part into the token.
    ///
    /// # Errors
    /// A taken name, a failed call, a token that keeps not to the template, or a failed proof.
    pub fn import_key(&self, key: &KeyMaterial, name: &KeyName) -> Result<KeyEntry, AdminError> {
        self.check_free(name, Some(&key.spki()))?;
        let public = self
            .session()
            .create_object(&template::imported_public(name, key))
            .map_err(|error| self.fail("store the public key", error))?;
        let private = {
            let template = template::imported_private(name, key);
            self.session().create_object(&template.0)
        };
        let private = private.map_err(|error| {
            let reason = self.fail("store the private key", error);
            self.undo(name, &[public], reason)
        })?;
        self.settle(name, &[private, public])
    }

    /// Removes a private key, its public key and its certificates; says how many objects went.
    ///
    /// # Errors
    /// A failed call; what was removed before it stays removed.
    pub fn delete_key(&self, key: &KeyEntry) -> Result<usize, AdminError> {
        let session = self.session();
        let mut handles = vec![key.handle];
        // Companions are found by id; without one, by label.
        let name = if key.name.id.is_empty() {
            Attribute::Label(key.name.label.clone().into_bytes())
        } else {
            Attribute::Id(key.name.id.clone())
        };
        let token = &self.info().label;
        for class in [ObjectClass::PUBLIC_KEY, ObjectClass::CERTIFICATE] {
            let template = [Attribute::Class(class), name.clone()];
            handles.extend(object::find(&session, &template, token)?);
        }
        // Issuers' certificates were stored under the label alone.
        let template = [
            Attribute::Class(ObjectClass::CERTIFICATE),
            Attribute::Label(key.name.label.clone().into_bytes()),
        ];
        for handle in object::find(&session, &template, token)? {
            let issuer = object::read_name(&session, handle, token)?.id.is_empty();
            if issuer && !handles.contains(&handle) {
                handles.push(handle);
            }
        }
        for handle in &handles {
            session
                .destroy_object(*handle)
                .map_err(|error| self.fail("destroy an object", error))?;
        }
        Ok(handles.len())
    }

    /// Signs with a key, for a certificate request: SHA-256 with RSA PKCS#1 v1.5 and P-256, SHA-384 with P-384;
    /// ECDSA signatures in DER. The signature is verified before it is returned.
    ///
    /// # Errors
    /// [`AdminError::PublicPartMissing`], [`AdminError::ProofFailed`], or a failed call.
    pub fn sign(&self, key: &KeyEntry, message: &[u8]) -> Result<Vec<u8>, AdminError> {
        let (Some(algorithm), Some(spki)) = (key.algorithm, &key.spki) else {
            return Err(AdminError::PublicPartMissing {
                token: self.info().label.clone(),
                label: key.name.label.clone(),
            });
        };
        let signature = proof::sign(&self.session(), key.handle, algorithm, message)
            .map_err(|error| self.fail("sign", error))?;
        if proof::verifies(algorithm, spki, message, &signature) {
            proof::encode(algorithm, &signature)
                .ok_or_else(|| Error::answer("sign", "a signature of a wrong length").into())
        } else {
            Err(AdminError::ProofFailed {
                token: self.info().label.clone(),
                label: key.name.label.clone(),
            })
        }
    }

    /// Reads a new key back, compares it with the template, and has it sign.
    fn settle(&self, name: &KeyName, handles: &[ObjectHandle]) -> Result<KeyEntry, AdminError> {
        self.examine(handles[0])
            .map_err(|reason| self.undo(name, handles, reason))
    }

    fn examine(&self, private: ObjectHandle) -> Result<KeyEntry, AdminError> {
        let key = object::read_key(&self.session(), private, &self.info().label)?;
        if let Some(what) = key.flags.first_weakness() {
            return Err(AdminError::TemplateIgnored {
                token: self.info().label.clone(),
                label: key.name.label,
                what: what.to_owned(),
            });
        }
        // What is signed is of no use to anybody: it is no certificate, no request and no handshake.
        self.sign(&key, b"keyhaven: proof that this key signs in its token")?;
        // Two administrators at once could both have found the name free.
        let twins = self
            .keys()?
            .iter()
            .filter(|other| other.name.label == key.name.label || other.name.id == key.name.id)
            .count();
        if twins > 1 {
            return Err(AdminError::LabelTaken {
                token: self.info().label.clone(),
                id: key.name.id_hex(),
                label: key.name.label,
            });
        }
        Ok(key)
    }

    /// Removes what was created and passes the reason on.
    fn undo(&self, name: &KeyName, handles: &[ObjectHandle], reason: AdminError) -> AdminError {
        let session = self.session();
        for handle in handles {
            if let Err(error) = session.destroy_object(*handle) {
                return AdminError::LeftBehind {
                    reason: Box::new(reason),
                    removal: Error::token("destroy an object", error).of(&self.info().label),
                    label: name.label.clone(),
                };
            }
        }
        reason
    }
}

impl KeyFlags {
    /// The first attribute that a handshake key should not have, in words; `None` for a key as it should be.
    pub fn first_weakness(&self) -> Option<&'static str> {
        self.weaknesses().into_iter().next()
    }

    /// Every attribute that a handshake key should not have, in words.
    pub fn weaknesses(&self) -> Vec<&'static str> {
        let checks = [
            (
                self.private == Some(true),
                "it can be found without a login (CKA_PRIVATE)",
            ),
            (
                self.sensitive == Some(true),
                "its value can be read (CKA_SENSITIVE)",
            ),
            (
                self.extractable == Some(false),
                "it can be wrapped out (CKA_EXTRACTABLE)",
            ),
            (self.sign == Some(true), "it may not sign (CKA_SIGN)"),
            // Absent is as good as false: not every kind of key has these.
            (
                self.sign_recover != Some(true),
                "it may sign with recovery (CKA_SIGN_RECOVER)",
            ),
            (self.decrypt != Some(true), "it may decrypt (CKA_DECRYPT)"),
            (self.unwrap != Some(true), "it may unwrap keys (CKA_UNWRAP)"),
            (
                self.derive != Some(true),
                "it may derive secrets (CKA_DERIVE)",
            ),
        ];
        checks
            .into_iter()
            .filter(|(good, _)| !good)
            .map(|(_, what)| what)
            .collect()
    }
}

/// The mechanism that makes a key pair, and what its public template says.
fn generation(algorithm: KeyAlgorithm) -> Result<(Mechanism<'static>, Vec<Attribute>), AdminError> {
    let curve = |curve| {
        let parameters = vec![Attribute::EcParams(template::ec_params(curve))];
        (Mechanism::EccKeyPairGen, parameters)
    };
    Ok(match algorithm {
        KeyAlgorithm::Rsa(bits @ (2048 | 3072 | 4096)) => (
            Mechanism::RsaPkcsKeyPairGen,
            vec![
                Attribute::ModulusBits(u64::from(bits).into()),
                Attribute::PublicExponent(vec![1, 0, 1]),
            ],
        ),
        KeyAlgorithm::Rsa(_) => return Err(AdminError::Unsupported { algorithm }),
        KeyAlgorithm::EcdsaP256 => curve(Curve::P256),
        KeyAlgorithm::EcdsaP384 => curve(Curve::P384),
        KeyAlgorithm::Ed25519 => (
            Mechanism::EccEdwardsKeyPairGen,
            vec![Attribute::EcParams(public::ED25519_PARAMS.to_vec())],
        ),
    })
}

fn wanted(label: Option<&str>, id: Option<&[u8]>) -> String {
    let label = label.map(|label| format!("label `{label}`"));
    let id = id.map(|id| {
        let name = KeyName {
            label: String::new(),
            id: id.to_vec(),
        };
        format!("id {}", name.id_hex())
    });
    match (label, id) {
        (Some(label), Some(id)) => format!("{label} and {id}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "any name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_one_purpose_has_no_weakness() {
        let good = KeyFlags {
            private: Some(true),
            sensitive: Some(true),
            extractable: Some(false),
            sign: Some(true),
            ..KeyFlags::default()
        };
        assert_eq!(good.first_weakness(), None);
        for weak in [
            KeyFlags {
                extractable: Some(true),
                ..good
            },
            KeyFlags {
                extractable: None,
                ..good
            },
            KeyFlags {
                decrypt: Some(true),
                ..good
            },
            KeyFlags {
                derive: Some(true),
                ..good
            },
            KeyFlags {
                sign_recover: Some(true),
                ..good
            },
            KeyFlags {
                unwrap: Some(true),
                ..good
            },
        ] {
            assert_eq!(weak.weaknesses().len(), 1, "{weak:?}");
        }
    }
}
