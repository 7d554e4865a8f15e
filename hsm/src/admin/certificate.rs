//! Certificates kept as objects beside their key.
//!
//! For tools that look for them there; the key server reads its chain from a file. Whether a certificate is valid,
//! trusted or fresh is not judged. Invariant: a certificate is stored only with a key whose public part it names.

use cryptoki::object::{Attribute, AttributeType, ObjectClass};

use super::{
    error::AdminError,
    object::{self, KeyEntry, KeyName},
    session::AdminSession,
    template,
};

/// A certificate object.
#[derive(Clone, Debug)]
pub struct CertificateEntry {
    /// Label and id, which are its key's.
    pub name: KeyName,
    /// The certificate in DER.
    pub der: Vec<u8>,
}

impl AdminSession {
    /// Every certificate object of the token.
    ///
    /// # Errors
    /// A failed call.
    pub fn certificates(&self) -> Result<Vec<CertificateEntry>, AdminError> {
        let token = &self.info().label;
        let session = self.session();
        let template = [Attribute::Class(ObjectClass::CERTIFICATE)];
        let mut found = Vec::new();
        for handle in object::find(&session, &template, token)? {
            let name = object::read_name(&session, handle, token)?;
            for attribute in object::read(&session, handle, &[AttributeType::Value], token)? {
                if let Attribute::Value(der) = attribute {
                    found.push(CertificateEntry {
                        name: name.clone(),
                        der,
                    });
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.der.cmp(&b.der)));
        Ok(found)
    }

    /// Stores a certificate under its key's name, and issuers' certificates under the same label without an id.
    /// A certificate that the key has already is replaced.
    ///
    /// # Errors
    /// [`AdminError::CertificateMismatch`], [`AdminError::PublicPartMissing`],
    /// [`AdminError::CertificateEncoding`], or a failed call.
    pub fn store_certificates(
        &self,
        key: &KeyEntry,
        leaf: &[u8],
        issuers: &[Vec<u8>],
    ) -> Result<(), AdminError> {
        let Some(spki) = &key.spki else {
            return Err(AdminError::PublicPartMissing {
                token: self.info().label.clone(),
                label: key.name.label.clone(),
            });
        };
        if public_key_of(leaf)? != *spki {
            return Err(AdminError::CertificateMismatch {
                label: key.name.label.clone(),
            });
        }
        let mut templates = vec![certificate_template(&key.name, leaf)?];
        for issuer in issuers {
            let name = KeyName {
                label: key.name.label.clone(),
                id: Vec::new(),
            };
            templates.push(certificate_template(&name, issuer)?);
        }
        let session = self.session();
        // The new ones first: a failure in between leaves the old ones in place.
        let old = [
            Attribute::Class(ObjectClass::CERTIFICATE),
            Attribute::Label(key.name.label.clone().into_bytes()),
        ];
        let old = object::find(&session, &old, &self.info().label)?;
        for template in &templates {
            session
                .create_object(template)
                .map_err(|error| self.fail("store a certificate", error))?;
        }
        for handle in old {
            session
                .destroy_object(handle)
                .map_err(|error| self.fail("remove the old certificate", error))?;
        }
        Ok(())
    }
}

fn public_key_of(der: &[u8]) -> Result<Vec<u8>, AdminError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate.public_key().raw.to_vec()),
        _ => Err(AdminError::CertificateEncoding),
    }
}

fn certificate_template(name: &KeyName, der: &[u8]) -> Result<Vec<Attribute>, AdminError> {
    let Ok(([], certificate)) = x509_parser::parse_x509_certificate(der) else {
        return Err(AdminError::CertificateEncoding);
    };
    let serial = certificate.tbs_certificate.raw_serial();
    // CKA_SERIAL_NUMBER is the DER encoding of the INTEGER; serials have at most 20 bytes (RFC 5280).
    let serial = match u8::try_from(serial.len()) {
        Ok(len) if len < 0x80 => [&[0x02, len], serial].concat(),
        _ => return Err(AdminError::CertificateEncoding),
    };
    Ok(template::certificate(
        name,
        certificate.subject().as_raw(),
        certificate.issuer().as_raw(),
        &serial,
        der,
    ))
}
