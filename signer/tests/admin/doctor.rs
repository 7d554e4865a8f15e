//! `doctor`: each fault is made, and found with its remedy.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Bench, Run};

#[test]
fn a_good_token_is_all_well() {
    let bench = Bench::new();
    let folder = bench.token.dir().join("tokens");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    bench.json(&["key", "generate", "--algorithm", "ec-p256", "--label", "k"]);
    let run = bench.on_token(&["doctor"]);
    assert_eq!(run.code, 0, "{run:?}");
    run.found(
        "ok",
        "signs rightly; generated in this token and never readable",
    );
    assert!(run.stdout.ends_with("all well\n"), "{run:?}");
}

#[test]
fn a_wrong_pin_an_open_pin_file_and_no_token_are_found() {
    let bench = Bench::new();
    let wrong = bench.secret("wrong", "999999");
    let run = bench.run(&["doctor", "--pin-source", &wrong]);
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "refused the PIN");

    let open = bench.path("open");
    std::fs::write(&open, bench.token.pin()).unwrap();
    let run = bench.run(&[
        "doctor",
        "--pin-source",
        &format!("file:{}", open.display()),
    ]);
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "can be read by others");
    assert!(run.stdout.contains("change the user PIN too"), "{run:?}");

    bench.token.remove_dir().unwrap();
    let run = bench.on_token(&["doctor"]);
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "cannot be opened");
    assert!(run.stdout.contains("try: "), "{run:?}");
}

#[test]
fn weak_keys_and_twins_are_found() {
    let bench = Bench::new();
    bench.token.generate_key("rsa:2048", "twin", "01").unwrap();
    bench
        .token
        .generate_key("EC:prime256v1", "twin", "02")
        .unwrap();
    let run = bench.on_token(&["doctor"]);
    run.found("warning", "it may decrypt (CKA_DECRYPT)");
    run.found("warning", "2 private keys have this label");
}

impl Bench {
    /// The doctor on a configuration with one site.
    fn examined(&self, certificate: &str, names: &str, key: &str) -> Run {
        let text = format!(
            "listen = \"127.0.0.1:0\"\n[identity]\ncertificate = \"id.crt\"\nkey = \"id.key\"\nca = \"idca.crt\"\n\
             [[token]]\nname = \"main\"\nuri = \"{}\"\n\
             [[site]]\nnames = [{names}]\nproxies = [\"spiffe://keyhaven.test/proxy/edge-1\"]\n\
             [[site.key]]\ntoken = \"main\"\nuri = \"pkcs11:object={key};type=private\"\ncertificate = \"{certificate}\"\n",
            self.token.uri_with_pin()
        );
        std::fs::write(self.path("signer.toml"), text).unwrap();
        self.run(&["doctor", "--config", "signer.toml"])
    }
}

#[test]
fn a_chain_that_ends_early_is_hinted_at() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.chain("ec-p256");
    bench.json(&["key", "import", "ec-p256.pem", "--label", "demo", "--yes"]);
    bench.identity();
    let what = "whose issuer is not included (CN=intermediate)";
    let run = bench.examined("leaf.crt", "\"site.example\"", "demo");
    // It may be right: an issuer can be a root.
    assert_eq!(run.code, 0, "{run:?}");
    run.found("hint", what);

    let read = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    std::fs::write(
        bench.path("whole.crt"),
        read("leaf.crt") + &read("inter.crt"),
    )
    .unwrap();
    let run = bench.examined("whole.crt", "\"site.example\"", "demo");
    assert!(run.code == 0 && !run.stdout.contains(what), "{run:?}");
}

#[test]
fn a_token_that_went_away_is_not_to_be_made_anew() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.json(&["key", "import", "ec-p256.pem", "--label", "demo", "--yes"]);
    bench.identity();
    let tokens = bench.token.dir().join("tokens");
    std::fs::remove_dir_all(&tokens).unwrap();
    std::fs::create_dir(&tokens).unwrap();
    let run = bench.examined("ec-p256.crt", "\"ec-p256.example\"", "demo");
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "has no initialised token");
    assert!(
        run.stdout.contains("restore the folder from a backup")
            && !run.stdout.contains("token init"),
        "{run:?}"
    );
}

#[test]
fn a_configuration_that_is_not_there_is_not_compared() {
    let bench = Bench::new();
    let run = bench.run(&["doctor", "--config", "nowhere.toml"]);
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "cannot read nowhere.toml: No such file");
    assert!(!run.stdout.contains("compare"), "{run:?}");
}

#[test]
fn a_configuration_is_examined_whole() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.make("ed25519");
    bench.json(&["key", "import", "ec-p256.pem", "--label", "demo", "--yes"]);
    bench.identity();
    let write = |certificate: &str, names: &str, key: &str| bench.examined(certificate, names, key);
    let run = write("ec-p256.crt", "\"ec-p256.example\"", "demo");
    assert_eq!(run.code, 0, "{run:?}");
    run.found("ok", "found, and the certificate is its own");
    run.found("ok", "names every name of the site");
    run.found("ok", "identity");

    // A remedy is something to do.
    let mode = std::fs::Permissions::from_mode;
    std::fs::set_permissions(bench.path("id.key"), mode(0o644)).unwrap();
    let run = write("ec-p256.crt", "\"ec-p256.example\"", "demo");
    run.found("warning", "can be read by");
    assert!(run.stdout.contains("try: run `chmod 600`"), "{run:?}");
    std::fs::set_permissions(bench.path("id.key"), mode(0o600)).unwrap();

    // An identity at its end is renewed at the private CA, not in the token.
    let good = std::fs::read(bench.path("id.crt")).unwrap();
    bench.openssl("x509 -req -in id.csr -CA idca.crt -CAkey idca.key -CAcreateserial -days 3 -extfile id.ext -out id.crt");
    let run = write("ec-p256.crt", "\"ec-p256.example\"", "demo");
    assert_eq!(run.code, 0, "{run:?}");
    run.found("warning", "it expires in");
    assert!(
        run.stdout.contains("the private CA") && !run.stdout.contains("key csr"),
        "{run:?}"
    );
    std::fs::write(bench.path("id.crt"), good).unwrap();

    let run = write("ec-p256.crt", "\"other.example\"", "demo");
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "it does not name other.example");
    // Once: the configuration's own warning about it is not repeated.
    assert_eq!(
        run.stdout.matches("not name other.example").count(),
        1,
        "{run:?}"
    );

    let run = write("ed25519.crt", "\"ed25519.example\"", "demo");
    run.found("PROBLEM", "is of another key");

    let run = write("ec-p256.crt", "\"ec-p256.example\"", "gone");
    run.found("PROBLEM", "has no such private key");

    let run = write("nowhere.crt", "\"ec-p256.example\"", "demo");
    run.found("PROBLEM", "nowhere.crt");
    std::fs::write(bench.path("signer.toml"), "listen = 3").unwrap();
    let run = bench.run(&["doctor", "--config", "signer.toml"]);
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "signer.toml:1");
    bench
        .run(&["custody", "--config", "signer.toml"])
        .refused(78, "signer.toml:1");
}
