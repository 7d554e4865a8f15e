//! Certificates for a test: the private CA of our own channel, the CA of the sites, and that of their clients.
//!
//! Leaves the sites' private keys in the token: their certificates are made from the public part alone. All
//! files lie in the folder of the test. What CAs say later, lists and responses, is in `revocation`.

mod revocation;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
    date_time_ymd,
};

/// A CA with its certificate on disk.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    name: String,
    pem: String,
    dir: PathBuf,
}

/// A certificate and its key on disk.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM private key, mode 0600.
    pub key: PathBuf,
}

/// How an identity on our own channel may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not.
    None,
    /// The certificate has expired.
    Expired,
    /// It carries two SPIFFE ids.
    TwoNames,
    /// It carries a DNS name and no SPIFFE id.
    DnsName,
}

/// Whether a client's certificate is valid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It is.
    Now,
    /// It was.
    Over,
}

impl Ca {
    /// Makes a CA and writes its certificate to `dir/NAME.pem`.
    pub fn new(dir: &Path, name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("a CA can be made").pem();
        fs::write(dir.join(format!("{name}.pem")), &pem).expect("the test's folder can be written");
        Ca {
            issuer: Issuer::new(params, key),
            name: name.to_owned(),
            pem,
            dir: dir.to_path_buf(),
        }
    }

    /// The CA's certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// An identity on our own channel, in `dir/FILE.pem` and `dir/FILE.key`.
    pub fn identity(&self, file: &str, spiffe: &str, flaw: Flaw) -> Pair {
        let mut params = CertificateParams::default();
        let uri = |text: &str| SanType::URI(text.try_into().expect("an ASCII name"));
        params.subject_alt_names = match flaw {
            Flaw::None | Flaw::Expired => vec![uri(spiffe)],
            Flaw::TwoNames => vec![uri(spiffe), uri(&format!("{spiffe}-too"))],
            Flaw::DnsName => vec![SanType::DnsName(
                "signer.keyhaven.test".try_into().expect("an ASCII name"),
            )],
        };
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if flaw == Flaw::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        self.pair(file, &params)
    }

    /// A site's certificate for a public key (DER SubjectPublicKeyInfo), in `dir/FILE.pem`.
    pub fn site(&self, file: &str, names: &[&str], spki: &[u8]) -> PathBuf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names of a certificate");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let public = SubjectPublicKeyInfo::from_der(spki).expect("the token gives a public key");
        let certificate = params
            .signed_by(&public, &self.issuer)
            .expect("a certificate can be made");
        let path = self.dir.join(format!("{file}.pem"));
        fs::write(&path, certificate.pem()).expect("the test's folder can be written");
        path
    }

    /// A client's certificate with this common name and serial number, in `dir/FILE.pem` and `dir/FILE.key`.
    pub fn client(&self, file: &str, common_name: &str, serial: u64, validity: Validity) -> Pair {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.serial_number = Some(serial.into());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if validity == Validity::Over {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        self.pair(file, &params)
    }

    /// What a CA makes of a certificate signing request (PEM), in `dir/FILE.pem`.
    pub fn sign_request(&self, file: &str, request: &str) -> PathBuf {
        let request =
            CertificateSigningRequestParams::from_pem(request).expect("a request that can be read");
        let certificate = request
            .signed_by(&self.issuer)
            .expect("a certificate can be made");
        let path = self.dir.join(format!("{file}.pem"));
        fs::write(&path, certificate.pem()).expect("the test's folder can be written");
        path
    }
}

impl Ca {
    fn pair(&self, file: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a certificate can be made");
        let pair = Pair {
            certificate: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}.key")),
        };
        fs::write(&pair.certificate, certificate.pem()).expect("the test's folder can be written");
        write_private(&pair.key, &key.serialize_pem());
        pair
    }
}

fn write_private(path: &Path, text: &str) {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let mut file = file.expect("the test's folder can be written");
    std::io::Write::write_all(&mut file, text.as_bytes())
        .expect("the test's folder can be written");
}
