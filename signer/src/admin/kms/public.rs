//! Public keys in files: central's, and those of keys that another HSM wraps.
//!
//! Invariant: what is read is one SubjectPublicKeyInfo and nothing else.

use std::path::Path;

use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::files::read_bounded;
use crate::admin::failure::Failure;

/// Reads PEM or DER; gives DER.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read_bounded(path)?;
    parse(&bytes).ok_or_else(|| {
        Failure::new(
            format!("{} holds no public key that can be read", path.display()),
            "give a SubjectPublicKeyInfo in PEM (BEGIN PUBLIC KEY) or DER",
        )
    })
}

fn parse(bytes: &[u8]) -> Option<Vec<u8>> {
    let der = if bytes.first() == Some(&0x30) {
        bytes.to_vec()
    } else {
        SubjectPublicKeyInfoDer::from_pem_slice(bytes)
            .ok()?
            .to_vec()
    };
    let whole = matches!(SubjectPublicKeyInfo::from_der(&der), Ok((rest, _)) if rest.is_empty());
    whole.then_some(der)
}

#[cfg(test)]
mod tests {
    use keyhaven_kms::records::testing::SoftwareCentral;

    use super::*;
    use crate::admin::kms::show::pem;

    #[test]
    fn pem_and_der_are_read_and_nothing_more() {
        let der = SoftwareCentral::new().key().spki().to_vec();
        assert_eq!(parse(&der), Some(der.clone()));
        assert_eq!(parse(pem("PUBLIC KEY", &der).as_bytes()), Some(der.clone()));
        assert_eq!(parse(pem("CERTIFICATE", &der).as_bytes()), None);
        assert_eq!(parse(&[&der[..], &[0]].concat()), None);
        assert_eq!(parse(b""), None);
    }
}
