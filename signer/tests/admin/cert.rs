//! `cert import | show`.

use crate::support::Bench;

#[test]
fn a_certificate_is_stored_beside_its_key_and_replaced() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.make("rsa-2048");
    bench.chain("ec-p256");
    bench.json(&["key", "import", "ec-p256.pem", "--label", "k", "--yes"]);
    bench.json(&["cert", "import", "ec-p256.crt", "--label", "k"]);
    bench
        .on_token(&["cert", "import", "rsa-2048.crt", "--label", "k"])
        .refused(1, "their public keys differ");
    bench
        .on_token(&["cert", "import", "ec-p256.pub", "--label", "k"])
        .refused(1, "holds no certificate");
    let shown = bench.json(&["cert", "show", "--label", "k"]);
    assert_eq!(shown["certificates"][0]["names"][0], "ec-p256.example");

    // Another certificate for the same key, with its issuer.
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    std::fs::write(bench.path("new.crt"), read("inter.crt") + &read("leaf.crt")).unwrap();
    let stored = bench.json(&["cert", "import", "new.crt", "--label", "k"]);
    assert_eq!(stored["certificates_stored"], 2);
    assert_eq!(stored["certificate"]["names"][0], "site.example");
    // Leaf first, however the token lists them.
    let shown = bench.json(&["cert", "show"]);
    let parts: Vec<_> = [0, 1]
        .map(|index| &shown["certificates"][index])
        .map(|one| {
            (
                one["part"].as_str().unwrap(),
                one["subject"].as_str().unwrap(),
            )
        })
        .to_vec();
    assert_eq!(parts, [("leaf", "CN=site"), ("issuer", "CN=intermediate")]);
    assert_eq!(bench.labels("cert").len(), 2);
    // The one with the key's id is the key's own.
    let output = bench
        .token
        .pkcs11_tool()
        .args(["--read-object", "--type", "cert", "--label", "k"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_file_is_shown_without_a_token() {
    let bench = Bench::new();
    bench.make("ed25519");
    let run = bench.run(&["cert", "show", "ed25519.crt"]);
    assert!(
        run.code == 0 && run.stdout.contains("ed25519.example"),
        "{run:?}"
    );
    bench
        .run(&["cert", "show", "ed25519.pub"])
        .refused(1, "holds no certificate");
}
