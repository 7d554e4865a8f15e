//! `key import`: every format and kind that is accepted.

use serde_json::Value;

use crate::{
    key::assert_handshake_key,
    support::{Bench, PASSWORD, fingerprint},
};

/// How openssl makes a key of each kind.
const KINDS: [(&str, &str); 6] = [
    (
        "rsa-2048",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048",
    ),
    (
        "rsa-3072",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072",
    ),
    (
        "rsa-4096",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096",
    ),
    (
        "ec-p256",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
    ),
    (
        "ec-p384",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    ),
    ("ed25519", "genpkey -algorithm ED25519"),
];

impl Bench {
    /// Makes a key, its public part and a self-signed certificate.
    pub(crate) fn make(&self, kind: &str) {
        let (_, command) = KINDS.iter().find(|(name, _)| *name == kind).unwrap();
        self.openssl(&format!("{command} -out {kind}.pem"));
        self.openssl(&format!("pkey -in {kind}.pem -pubout -out {kind}.pub"));
        self.openssl(&format!(
            "req -new -x509 -key {kind}.pem -subj /CN={kind} -addext subjectAltName=DNS:{kind}.example -days 90 -out {kind}.crt"
        ));
    }

    fn import(&self, file: &str, label: &str, more: &[&str]) -> Value {
        let source = fingerprint(&self.path(file));
        let mut arguments = vec!["key", "import", file, "--label", label, "--yes"];
        arguments.extend(more);
        let report = self.json(&arguments);
        assert_eq!(fingerprint(&self.path(file)), source, "{file} was touched");
        report
    }

    /// The key in the token makes a request whose public key openssl finds equal to the file's.
    fn assert_same_key(&self, label: &str, kind: &str) {
        let out = format!("{label}.csr");
        self.json(&[
            "key",
            "csr",
            "--label",
            label,
            "--dns",
            "a.example",
            "--out",
            &out,
        ]);
        self.openssl(&format!("req -in {out} -noout -verify"));
        let in_token = self.openssl(&format!("req -in {out} -noout -pubkey"));
        assert_eq!(
            in_token,
            std::fs::read_to_string(self.path(&format!("{kind}.pub"))).unwrap()
        );
    }
}

#[test]
fn pkcs8_of_every_kind_in_pem_der_and_encrypted() {
    let bench = Bench::new();
    let password = bench.secret("password", &format!("{PASSWORD}\n"));
    for (kind, _) in KINDS {
        bench.make(kind);
        bench.openssl(&format!(
            "pkcs8 -topk8 -in {kind}.pem -v2 aes-256-cbc -passout pass:~ -out {kind}.enc"
        ));
        bench.openssl(&format!(
            "pkcs8 -topk8 -in {kind}.pem -outform DER -nocrypt -out {kind}.der"
        ));
        for (file, format, more) in [
            (format!("{kind}.pem"), "PKCS#8, PEM", vec![]),
            (format!("{kind}.der"), "PKCS#8, DER", vec![]),
            (
                format!("{kind}.enc"),
                "encrypted PKCS#8, PEM",
                vec!["--password-source", &password],
            ),
        ] {
            let report = bench.import(&file, "k", &more);
            assert_eq!(report["imported"]["algorithm"], kind);
            assert_eq!(report["format"], format);
            assert_eq!(report["proof"], "signature verified");
            assert_handshake_key(&report["imported"], false);
            bench.assert_same_key("k", kind);
            bench.json(&["key", "delete", "--label", "k", "--yes"]);
        }
    }
}

#[test]
fn other_ciphers_and_derivations_of_encrypted_pkcs8() {
    let bench = Bench::new();
    let password = bench.secret("password", PASSWORD);
    bench.make("ec-p256");
    for (label, options) in [
        ("aes128", "-v2 aes-128-cbc -v2prf hmacWithSHA1 -iter 1"),
        (
            "sha512",
            "-v2 aes-256-cbc -v2prf hmacWithSHA512 -iter 100000",
        ),
        ("scrypt", "-scrypt"),
        ("3des", "-v2 des3 -v2prf hmacWithSHA1"),
    ] {
        bench.openssl(&format!(
            "pkcs8 -topk8 -in ec-p256.pem {options} -passout pass:~ -outform DER -out {label}"
        ));
        let report = bench.import(label, label, &["--password-source", &password]);
        assert_eq!(report["format"], "encrypted PKCS#8, DER");
        bench.json(&["key", "delete", "--label", label, "--yes"]);
    }
}

#[test]
fn pkcs1_and_sec1_in_pem_and_der_with_certificates_in_the_file() {
    let bench = Bench::new();
    for (kind, convert, name) in [
        ("rsa-2048", "rsa -traditional", "PKCS#1"),
        ("ec-p256", "ec", "SEC1"),
        ("ec-p384", "ec", "SEC1"),
    ] {
        bench.make(kind);
        bench.openssl(&format!("{convert} -in {kind}.pem -out old.pem"));
        bench.openssl(&format!(
            "{convert} -in {kind}.pem -outform DER -out old.der"
        ));
        // A server's combined file: parameters, certificate, key, CRLF.
        let parts = ["ec-param", &format!("{kind}.crt"), "old.pem"].map(|part| {
            std::fs::read_to_string(bench.path(part)).unwrap_or_else(|_| {
                "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
                    .to_owned()
            })
        });
        std::fs::write(
            bench.path("combined.pem"),
            parts.concat().replace('\n', "\r\n"),
        )
        .unwrap();
        for (file, encoding) in [
            ("old.pem", "PEM"),
            ("old.der", "DER"),
            ("combined.pem", "PEM"),
        ] {
            let report = bench.import(file, "k", &[]);
            assert_eq!(report["format"], format!("{name}, {encoding}"));
            assert_eq!(report["certificate"].is_null(), file != "combined.pem");
            bench.assert_same_key("k", kind);
            bench.json(&["key", "delete", "--label", "k", "--yes"]);
        }
    }
}

#[test]
fn pkcs12_modern_and_legacy_with_its_chain() {
    let bench = Bench::new();
    let password = bench.secret("password", PASSWORD);
    bench.make("rsa-2048");
    bench.make("ec-p256");
    bench.chain("rsa-2048");
    let export = |options: &str, out: &str| {
        bench.openssl(&format!(
            "pkcs12 -export -inkey rsa-2048.pem -in leaf.crt -certfile issuers.crt -name site {options} -passout pass:~ -out {out}"
        ));
    };
    export("", "modern.p12");
    export("-legacy", "legacy.p12");
    export("-keypbe NONE -certpbe NONE", "open.p12");
    for file in ["modern.p12", "legacy.p12", "open.p12"] {
        let chain = format!("{file}.chain");
        let report = bench.import(
            file,
            "site",
            &[
                "--password-source",
                &password,
                "--chain-out",
                &chain,
                "--store-certificates",
            ],
        );
        assert_eq!(report["format"], "PKCS#12");
        assert_eq!(report["certificate"]["names"][0], "site.example");
        // Leaf and intermediate; the root is left to the clients.
        assert_eq!(report["chain_length"], 2);
        bench.openssl(&format!(
            "verify -CAfile root.crt -untrusted {chain} {chain}"
        ));
        assert_eq!(bench.labels("cert").len(), 2);
        bench.assert_same_key("site", "rsa-2048");
        let gone = bench.json(&["key", "delete", "--label", "site", "--yes"]);
        // Both parts of the key, its certificate, and the issuer's.
        assert_eq!(gone["objects"], 4);
        assert!(bench.labels("cert").is_empty());
    }
}

#[test]
fn an_archive_without_a_password_needs_none() {
    let bench = Bench::new();
    bench.make("ec-p256");
    for (name, options) in [("modern", ""), ("legacy", "-legacy")] {
        bench.openssl(&format!(
            "pkcs12 -export -inkey ec-p256.pem -in ec-p256.crt {options} -passout pass: -out {name}"
        ));
        let report = bench.import(name, "k", &[]);
        assert_eq!(report["format"], "PKCS#12");
        bench.assert_same_key("k", "ec-p256");
        bench.json(&["key", "delete", "--label", "k", "--yes"]);
    }
}

impl Bench {
    /// root.crt, an intermediate, and leaf.crt for a key; issuers.crt has root before intermediate.
    pub(crate) fn chain(&self, kind: &str) {
        self.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out root.key");
        self.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out inter.key");
        self.openssl("req -new -x509 -key root.key -subj /CN=root -days 90 -out root.crt");
        self.openssl("req -new -key inter.key -subj /CN=intermediate -out inter.csr");
        std::fs::write(self.path("ca.ext"), "basicConstraints=critical,CA:TRUE\n").unwrap();
        self.openssl("x509 -req -in inter.csr -CA root.crt -CAkey root.key -CAcreateserial -days 90 -extfile ca.ext -out inter.crt");
        self.openssl(&format!(
            "req -new -key {kind}.pem -subj /CN=site -out leaf.csr"
        ));
        std::fs::write(self.path("leaf.ext"), "subjectAltName=DNS:site.example\n").unwrap();
        self.openssl("x509 -req -in leaf.csr -CA inter.crt -CAkey inter.key -CAcreateserial -days 90 -extfile leaf.ext -out leaf.crt");
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap();
        std::fs::write(
            self.path("issuers.crt"),
            read("root.crt") + &read("inter.crt"),
        )
        .unwrap();
    }
}

#[test]
fn with_json_there_is_one_document_and_no_preview() {
    let bench = Bench::new();
    bench.make("ec-p256");
    let arguments = ["key", "import", "ec-p256.pem", "--label", "k", "--json"];
    let run = bench.on_token(&arguments);
    assert_eq!(run.code, 64, "{run:?}");
    let failure: Value = serde_json::from_str(&run.stderr).unwrap();
    assert_eq!(failure["exit_code"], 64);
    let run = bench.on_token(&[&arguments[..], &["--yes"]].concat());
    assert!(run.code == 0 && run.stderr.is_empty(), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["source_readable_by_others"], false);
    assert_eq!(report["certificates_left_out"], 0);
}

#[test]
fn it_says_what_it_imports_and_that_the_file_must_go() {
    let bench = Bench::new();
    bench.make("ec-p256");
    let arguments = [
        "key",
        "import",
        "ec-p256.pem",
        "--label",
        "k",
        "--certificate",
        "ec-p256.crt",
    ];
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(bench.path("ec-p256.pem"), mode).unwrap();
    // Without a terminal and without --yes it shows, and stops.
    let run = bench.on_token(&arguments);
    run.refused(64, "must be confirmed");
    for part in [
        "ec-p256",
        "sha256",
        "CN=ec-p256",
        "ec-p256.example",
        "days left",
    ] {
        assert!(run.stderr.contains(part), "{part}: {run:?}");
    }
    assert!(
        run.stderr.contains("other users can read the file"),
        "{run:?}"
    );
    assert!(bench.labels("privkey").is_empty());
    let run = bench.on_token(&[&arguments[..], &["--yes"]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("destroy it and its backups"), "{run:?}");
    assert!(
        run.stdout.contains("imported: copies may exist outside"),
        "{run:?}"
    );
}
