//! The CA of a cluster's nodes and of those who talk to them.
//!
//! Knows no node. Invariant: a name is issued to once, into files of that name.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

#[derive(Debug)]
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one; its certificate goes to `ca.pem`.
    pub(super) fn new(dir: &Path) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "etcd");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("a CA can be made");
        fs::write(dir.join("ca.pem"), certificate.pem()).expect("the test's folder can be written");
        Authority {
            issuer: Issuer::new(params, key),
        }
    }

    /// A node's certificate is a server's and a client's, and names its address. etcd takes the common name for the
    /// user's.
    pub(super) fn pair(&self, dir: &Path, name: &str, addresses: &[Ipv4Addr]) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = addresses
            .iter()
            .map(|ip| SanType::IpAddress(IpAddr::V4(*ip)))
            .chain([SanType::DnsName("localhost".try_into().expect("a name"))])
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("it can be signed");
        let write = |file: String, text: String| {
            fs::write(dir.join(file), text).expect("the test's folder can be written");
        };
        write(format!("{name}.pem"), certificate.pem());
        write(format!("{name}.key"), key.serialize_pem());
    }
}
