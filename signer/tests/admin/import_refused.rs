//! `key import`: what is refused, and that nothing of it stays in the token.

use crate::support::Bench;

impl Bench {
    fn refuse(&self, file: &str, what: &str) {
        self.on_token(&["key", "import", file, "--label", "bad", "--yes"])
            .refused(1, what);
        assert!(
            !self.labels("privkey").contains(&"bad".to_owned()),
            "{file}"
        );
        assert!(!self.labels("pubkey").contains(&"bad".to_owned()), "{file}");
    }
}

#[test]
fn keys_that_are_not_served_are_named() {
    let bench = Bench::new();
    for (command, what) in [
        (
            "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024",
            "the RSA key has 1024 bits",
        ),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "secp256k1 keys are not supported",
        ),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521",
            "P-521 (secp521r1) keys are not supported",
        ),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
            "describes its curve by parameters",
        ),
        ("genpkey -algorithm ED448", "Ed448 keys are not supported"),
        (
            "genpkey -algorithm X25519",
            "X25519 (key agreement) keys are not supported",
        ),
        (
            "genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "RSASSA-PSS (restricted RSA) keys are not supported",
        ),
    ] {
        bench.openssl(&format!("{command} -out bad.pem"));
        bench.refuse("bad.pem", what);
    }
}

#[test]
fn files_that_are_no_key_are_named() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.make("ed25519");
    bench.refuse("ec-p256.crt", "holds no private key, only a certificate");
    bench.refuse("ec-p256.pub", "holds no private key, only `PUBLIC KEY`");
    std::fs::write(bench.path("text"), "hello\n").unwrap();
    bench.refuse("text", "not a private key in a known format");
    std::fs::write(bench.path("empty"), "").unwrap();
    bench.refuse("empty", "not a private key in a known format");
    bench.refuse("missing", "cannot read missing");
    bench.refuse(".", "not a regular file");
    std::fs::write(bench.path("large"), vec![0x30; (1 << 20) + 1]).unwrap();
    bench.refuse("large", "larger than 1 MiB");
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    std::fs::write(
        bench.path("two.pem"),
        read("ec-p256.pem") + &read("ed25519.pem"),
    )
    .unwrap();
    bench.refuse("two.pem", "more than one private key");
    bench.openssl("genrsa -traditional -aes128 -passout pass:~ -out old.pem 2048");
    bench.refuse("old.pem", "the old OpenSSL way");
}

#[test]
fn a_wrong_or_missing_password_is_told_apart() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.openssl("pkcs8 -topk8 -in ec-p256.pem -passout pass:~ -out enc.pem");
    bench.openssl(
        "pkcs12 -export -inkey ec-p256.pem -in ec-p256.crt -passout pass:~ -out modern.p12",
    );
    bench.openssl(
        "pkcs12 -export -legacy -inkey ec-p256.pem -in ec-p256.crt -passout pass:~ -out legacy.p12",
    );
    let wrong = bench.secret("wrong", "not this one");
    for file in ["enc.pem", "modern.p12", "legacy.p12"] {
        bench
            .on_token(&["key", "import", file, "--label", "bad", "--yes"])
            .refused(64, "there is no password");
        bench
            .on_token(&[
                "key",
                "import",
                file,
                "--label",
                "bad",
                "--yes",
                "--password-source",
                &wrong,
            ])
            .refused(1, "the password is wrong");
        let run = bench.on_token(&[
            "key",
            "import",
            file,
            "--label",
            "bad",
            "--yes",
            "--password-source",
            PASSWORD_ARGUMENT,
        ]);
        run.refused(64, "--password-source does not name the place");
        assert!(!run.stderr.contains(PASSWORD_ARGUMENT), "{run:?}");
    }
    assert!(bench.labels("privkey").is_empty());
}

/// Somebody writes the password itself.
const PASSWORD_ARGUMENT: &str = "hunter22";

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.make("rsa-2048");
    bench
        .on_token(&[
            "key",
            "import",
            "ec-p256.pem",
            "--label",
            "bad",
            "--yes",
            "--certificate",
            "rsa-2048.crt",
        ])
        .refused(1, "does not belong to any certificate in rsa-2048.crt");
    bench
        .on_token(&[
            "key",
            "import",
            "ec-p256.pem",
            "--label",
            "bad",
            "--yes",
            "--chain-out",
            "chain.pem",
        ])
        .refused(1, "no certificate of this key was found");
    std::fs::write(bench.path("old-chain.pem"), "x").unwrap();
    bench
        .on_token(&[
            "key",
            "import",
            "ec-p256.pem",
            "--label",
            "bad",
            "--yes",
            "--certificate",
            "ec-p256.crt",
            "--chain-out",
            "old-chain.pem",
        ])
        .refused(1, "exists already; nothing was imported");
    assert!(bench.labels("privkey").is_empty());
}

#[test]
fn taken_names_and_a_key_that_is_there_already_are_refused() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.make("ed25519");
    let import = |file: &str, label: &str, id: &str| {
        bench.on_token(&["key", "import", file, "--label", label, "--id", id, "--yes"])
    };
    assert_eq!(import("ec-p256.pem", "a", "01").code, 0);
    import("ed25519.pem", "a", "02").refused(1, "label `a` already");
    import("ed25519.pem", "b", "01").refused(1, "id 01 already");
    import("ec-p256.pem", "b", "02").refused(1, "this key is in token `test` already, as `a`");
    // The same key twice, with the id that is made of it.
    let by_itself =
        |label: &str| bench.on_token(&["key", "import", "ed25519.pem", "--label", label, "--yes"]);
    assert_eq!(by_itself("c").code, 0);
    by_itself("d").refused(1, "this key is in token `test` already, as `c`");
    by_itself("c").refused(1, "this key is in token `test` already, as `c`");
    assert_eq!(bench.labels("privkey").len(), 2);
    assert_eq!(bench.labels("pubkey").len(), 2);
}

/// Flips bytes in the middle of plain keys: numbers that no longer fit together must not get in.
#[test]
fn damaged_numbers_are_found() {
    let bench = Bench::new();
    bench.make("rsa-2048");
    bench.make("ec-p256");
    bench.make("ed25519");
    for kind in ["rsa-2048", "ec-p256"] {
        bench.openssl(&format!(
            "pkcs8 -topk8 -in {kind}.pem -nocrypt -outform DER -out whole.der"
        ));
        let whole = std::fs::read(bench.path("whole.der")).unwrap();
        for part in 1..12 {
            let mut damaged = whole.clone();
            let place = whole.len() * part / 12;
            damaged[place] ^= 0x10;
            std::fs::write(bench.path("damaged.der"), damaged).unwrap();
            let run = bench.on_token(&["key", "import", "damaged.der", "--label", "bad", "--yes"]);
            assert_eq!(run.code, 1, "byte {place} of {kind}: {run:?}");
        }
    }
    assert!(bench.labels("privkey").is_empty());
    assert!(bench.labels("pubkey").is_empty());
}
