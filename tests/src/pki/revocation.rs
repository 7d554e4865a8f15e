//! What a CA says of its certificates later: revocation lists and OCSP responses.
//!
//! Lists are made by rcgen, responses by `openssl ocsp`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams,
    date_time_ymd,
};

use super::{Ca, write_private};
use crate::clients::run;

impl Ca {
    /// A revocation list (DER) of these serial numbers, current for decades, in `dir/FILE`.
    pub fn revoke(&self, file: &str, serials: &[u64]) -> PathBuf {
        self.list(file, serials, 2099)
    }

    /// A list that is out of date, in `dir/FILE`.
    pub fn stale_list(&self, file: &str) -> PathBuf {
        self.list(file, &[], 2021)
    }

    fn list(&self, file: &str, serials: &[u64], next_year: i32) -> PathBuf {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_year, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params
            .signed_by(&self.issuer)
            .expect("a revocation list can be made");
        let path = self.dir.join(file);
        fs::write(&path, list.der()).expect("the test's folder can be written");
        path
    }

    /// An OCSP response (DER) for a certificate of this CA, in `dir/FILE`: good, for so many minutes from now on.
    ///
    /// # Panics
    /// When `openssl` does not make one.
    pub fn ocsp(&self, file: &str, certificate: &Path, minutes: u32) -> PathBuf {
        let out = self.dir.join(file);
        let [ca, key, index] = ["pem", "ocsp-key", "ocsp-index"]
            .map(|extension| self.dir.join(format!("{}.{extension}", self.name)));
        write_private(&key, &self.issuer.key().serialize_pem());
        fs::write(&index, self.index_line(certificate)).expect("the test's folder can be written");
        let mut openssl = Command::new("openssl");
        openssl.args([
            "ocsp",
            "-sha256",
            "-noverify",
            "-nmin",
            &minutes.to_string(),
        ]);
        for (option, path) in [
            ("-index", &index),
            ("-CA", &ca),
            ("-rsigner", &ca),
            ("-rkey", &key),
            ("-issuer", &ca),
            ("-respout", &out),
        ] {
            openssl.arg(option).arg(path);
        }
        let made = run(openssl.arg("-cert").arg(certificate), b"");
        assert!(made.status.success() && out.exists(), "{}", made.all());
        out
    }

    /// The line of OpenSSL's database that says that a certificate is valid.
    fn index_line(&self, certificate: &Path) -> String {
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-noout", "-serial", "-in"]);
        let shown = run(openssl.arg(certificate), b"").text();
        let serial = shown.trim().trim_start_matches("serial=").to_owned();
        format!("V\t20991231235959Z\t\t{serial}\tunknown\t/CN=test\n")
    }
}
