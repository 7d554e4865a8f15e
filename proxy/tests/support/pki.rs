//! Certificates of a private CA, in files: who is who between proxy and signers.

use std::path::{Path, PathBuf};

use keyhaven_service::Credentials;

/// Certificates of a private CA, in files.
pub(crate) struct Pki {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = ca.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = rcgen::Issuer::new(ca, key);
        Self { folder, issuer }
    }

    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::default();
        let uri = format!("spiffe://keyhaven.test/{name}");
        leaf.subject_alt_names = vec![rcgen::SanType::URI(uri.as_str().try_into().unwrap())];
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str| self.path(&format!("{}.{kind}", name.replace('/', "-")));
        std::fs::write(file("pem"), leaf.pem()).unwrap();
        write_private(&file("key"), &key.serialize_pem());
        Credentials::load(&file("pem"), &file("key"), &self.path("ca.pem")).unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
}
