//! Certificates of a private CA, in files: who is who between callers and sites.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use keyhaven_service::Credentials;
use keyhaven_types::Identity;

/// A private CA in a folder.
pub(crate) struct Ca {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    issued: AtomicUsize,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = ca.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: rcgen::Issuer::new(ca, key),
            issued: AtomicUsize::new(0),
        }
    }

    pub(crate) fn credentials(&self, who: &Identity) -> Credentials {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::default();
        leaf.subject_alt_names = vec![rcgen::SanType::URI(who.as_str().try_into().unwrap())];
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let number = self.issued.fetch_add(1, SeqCst);
        let file = |kind: &str| -> PathBuf { self.folder.path().join(format!("{number}.{kind}")) };
        std::fs::write(file("pem"), leaf.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        let ca = self.folder.path().join("ca.pem");
        Credentials::load(&file("pem"), &file("key"), &ca).unwrap()
    }
}
