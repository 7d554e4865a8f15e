//! What is refused before anybody is asked, and how it is told when nobody is there to be asked.

use std::{net::TcpListener, os::unix::fs::PermissionsExt};

use crate::support::Bench;

impl Bench {
    /// An operator's identity, and a file that names a central and a signer at this address.
    fn client(&self, address: &str) {
        self.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out idca.key");
        self.openssl("req -new -x509 -key idca.key -subj /CN=ca -days 90 -out idca.crt");
        self.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out id.key");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.path("id.key"), mode).unwrap();
        self.openssl("req -new -key id.key -subj /CN=alice -out id.csr");
        std::fs::write(
            self.path("id.ext"),
            "subjectAltName=critical,URI:spiffe://keyhaven.test/admin/alice\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\nbasicConstraints=critical,CA:FALSE\n",
        )
        .unwrap();
        self.openssl("x509 -req -in id.csr -CA idca.crt -CAkey idca.key -CAcreateserial -days 90 -extfile id.ext -out id.crt");
        let text = format!(
            "timeout_ms = 500\n[identity]\ncertificate = \"id.crt\"\nkey = \"id.key\"\nca = \"idca.crt\"\n\
             [[central]]\naddress = \"{address}\"\nidentity = \"spiffe://keyhaven.test/central/main\"\n\
             [[server]]\naddress = \"{address}\"\nidentity = \"spiffe://keyhaven.test/signer/fra\"\n"
        );
        std::fs::write(self.path("client.toml"), text).unwrap();
    }
}

#[test]
fn without_a_clients_file_it_is_said_how_to_give_one() {
    let bench = Bench::new();
    for verb in [
        &["kms", "status"][..],
        &["lookup", "orders", "--op", "sign"],
        &["random", "--bytes", "8"],
    ] {
        let run = bench.run(verb);
        run.refused(64, "not said where central");
        assert!(run.stderr.contains("KEYHAVEN_CLIENT"), "{run:?}");
    }
    let run = bench.run(&["kms", "status", "--client", "nowhere.toml"]);
    run.refused(78, "nowhere.toml");
}

#[test]
fn the_annotated_file_is_one_that_is_understood() {
    let bench = Bench::new();
    let annotated = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/client.toml");
    let run = bench.run(&["kms", "status", "--client", annotated]);
    // Nothing is wrong with it but that its files are not there.
    assert_eq!(run.code, 78, "{run:?}");
    assert!(run.stderr.contains("certificate file"), "{run:?}");
    assert!(!run.stderr.contains("unknown field"), "{run:?}");
    assert_eq!(run.stderr.matches("client.toml:").count(), 1, "{run:?}");
}

#[test]
fn what_cannot_be_taken_back_needs_a_yes_where_nobody_can_be_asked() {
    let bench = Bench::new();
    bench.client("127.0.0.1:1");
    for verb in [
        &["kms", "key", "revoke", "shop"][..],
        &["kms", "key", "destroy", "shop"],
        &["kms", "version", "revoke", "shop", "1"],
        &["kms", "version", "destroy", "shop", "1"],
        &["kms", "site", "evict", "fra"],
        &["kms", "era", "bump"],
    ] {
        let run = bench.run(&[verb, &["--client", "client.toml"]].concat());
        run.refused(64, "must be confirmed");
        assert!(run.stderr.contains("--yes"), "{run:?}");
    }
}

#[test]
fn who_is_not_there_is_named_at_once() {
    let bench = Bench::new();
    // A port that nobody listens on: it was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    bench.client(&address);
    let run = bench.run(&["kms", "status", "--client", "client.toml"]);
    run.refused(1, "spiffe://keyhaven.test/central/main is not reached");
    assert!(run.stderr.contains(&address), "{run:?}");
    let run = bench.run(&["random", "--bytes", "8", "--client", "client.toml"]);
    run.refused(1, "spiffe://keyhaven.test/signer/fra is not reached");
    let run = bench.run(&[
        "kms",
        "key",
        "revoke",
        "shop",
        "--yes",
        "--client",
        "client.toml",
    ]);
    run.refused(1, "is not reached");
    // It was never sent, so there is nothing to be unsure of.
    assert!(!run.stderr.contains("not known"), "{run:?}");
}

#[test]
fn who_says_nothing_is_not_waited_for_longer_than_was_said() {
    let bench = Bench::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    bench.client(&silent.local_addr().unwrap().to_string());
    let run = bench.run(&["kms", "status", "--client", "client.toml"]);
    run.refused(1, "is not reached");
}

#[test]
fn wrong_words_are_usage() {
    let bench = Bench::new();
    bench.client("127.0.0.1:1");
    let with_client = |verb: &[&str]| bench.run(&[verb, &["--client", "client.toml"]].concat());
    for verb in [
        &["kms", "key", "show", "Not A Name"][..],
        &[
            "kms",
            "key",
            "create",
            "a",
            "--kind",
            "des",
            "--purpose",
            "sign",
            "--class",
            "c",
        ],
        &[
            "kms",
            "key",
            "import",
            "a",
            "--purpose",
            "sign",
            "--class",
            "c",
        ],
        &[
            "kms",
            "class",
            "create",
            "c",
            "--region",
            "eu",
            "--purpose",
            "sign",
            "--bound",
            "1s",
        ],
        &["kms", "class", "create", "c", "--purpose", "sign"],
        &["kms", "grant", "set", "spiffe://d/client/x", "--key", "a"],
        &["kms", "grant", "set", "alice", "--key", "a", "--op", "sign"],
        &["sign", "orders", "--scheme", "md5"],
        &["unwrap", "vault", "--wrapped", "w"],
        &["random", "--bytes", "0"],
    ] {
        let run = with_client(verb);
        assert_eq!(run.code, 64, "{verb:?}: {run:?}");
    }
}

#[test]
fn a_wrapped_pair_is_not_sent_without_the_public_key_it_must_have() {
    let bench = Bench::new();
    bench.client("127.0.0.1:1");
    std::fs::write(bench.path("blob"), "blob").unwrap();
    let run = bench.run(&[
        "kms",
        "key",
        "import",
        "a",
        "--wrapped-key",
        "blob",
        "--wrapped-kek",
        "blob",
        "--transport",
        "0123456789abcdef0123456789abcdef",
        "--kind",
        "ec-p256",
        "--purpose",
        "sign",
        "--class",
        "c",
        "--client",
        "client.toml",
    ]);
    run.refused(64, "needs its public key");
}

#[test]
fn an_imported_file_is_judged_and_warned_of_before_anybody_is_asked() {
    let bench = Bench::new();
    bench.client("127.0.0.1:1");
    bench.make("ec-p256");
    std::fs::write(bench.path("short"), [7; 16]).unwrap();
    let import = |file: &str, more: &[&str]| {
        let verb = [
            "kms",
            "key",
            "import",
            "a",
            "--file",
            file,
            "--class",
            "c",
            "--client",
            "client.toml",
        ];
        bench.run(&[&verb, more].concat())
    };
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(bench.path("ec-p256.pem"), mode).unwrap();
    let run = import("ec-p256.pem", &["--purpose", "sign"]);
    // Central is not there; how the file keeps the key was said all the same.
    run.refused(1, "is not reached");
    assert!(run.stderr.contains("in the clear"), "{run:?}");
    assert!(run.stderr.contains("mode 0644"), "{run:?}");
    import("ec-p256.pem", &["--purpose", "sign", "--kind", "rsa-2048"])
        .refused(1, "holds a key of kind ec-p256");
    import(
        "ec-p256.pem",
        &["--purpose", "sign", "--chain", "ec-p256.crt"],
    )
    .refused(64, "only a key with the purpose handshake");
    import("short", &["--purpose", "data", "--kind", "aes-256"]).refused(1, "16 bytes");
    import("client.toml", &["--purpose", "sign"]).refused(1, "client.toml");

    bench.openssl("pkcs8 -topk8 -in ec-p256.pem -passout pass:~ -out sealed.pem");
    import("sealed.pem", &["--purpose", "sign"]).refused(64, "no password");
    bench.secret("wrong", "not it");
    import("sealed.pem", &["--purpose", "sign", "--pass-file", "wrong"]).refused(1, "sealed.pem");
    bench.secret("pass", crate::support::PASSWORD);
    let run = import("sealed.pem", &["--purpose", "sign", "--pass-file", "pass"]);
    run.refused(1, "is not reached");
    assert!(!run.stderr.contains("in the clear"), "{run:?}");

    let archive = "pkcs12 -export -inkey ec-p256.pem -in ec-p256.crt";
    bench.openssl(&format!("{archive} -passout pass:~ -out sealed.p12"));
    bench.openssl(&format!("{archive} -passout pass: -out open.p12"));
    let run = import("sealed.p12", &["--purpose", "sign", "--pass-file", "pass"]);
    run.refused(1, "is not reached");
    assert!(!run.stderr.contains("warning"), "{run:?}");
    // An empty password keeps nothing.
    let run = import("open.p12", &["--purpose", "sign"]);
    run.refused(1, "is not reached");
    assert_eq!(run.stderr.matches("warning").count(), 1, "{run:?}");
    assert!(run.stderr.contains("in the clear"), "{run:?}");
}
