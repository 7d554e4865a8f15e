//! `key generate | list | show | delete | csr`.

use serde_json::{Value, json};

use crate::support::Bench;

const ALGORITHMS: [&str; 6] = [
    "rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ed25519",
];

/// The attributes of every handshake key, whatever its kind and origin (K5: one purpose, fixed).
pub(crate) fn assert_handshake_key(key: &Value, generated: bool) {
    let expected = json!({
        "private": true, "sensitive": true, "extractable": false, "modifiable": false, "copyable": true,
        "sign": true, "sign_recover": false, "decrypt": false, "unwrap": false, "derive": false,
        "local": generated, "always_sensitive": generated, "never_extractable": generated,
    });
    assert_eq!(key["attributes"], expected);
    assert_eq!(key["weaknesses"], json!([]));
    assert_eq!(
        key["origin"],
        if generated { "generated" } else { "imported" }
    );
}

#[test]
fn every_kind_is_generated_with_one_purpose_and_requests_a_certificate() {
    let bench = Bench::new();
    for algorithm in ALGORITHMS {
        let made = bench.json(&[
            "key",
            "generate",
            "--algorithm",
            algorithm,
            "--label",
            algorithm,
        ]);
        assert_eq!(made["generated"]["algorithm"], algorithm);
        assert_handshake_key(&made["generated"], true);

        let out = format!("{algorithm}.csr");
        bench.json(&[
            "key",
            "csr",
            "--label",
            algorithm,
            "--dns",
            "www.example.org,*.Example.org",
            "--out",
            &out,
        ]);
        let text = bench.openssl(&format!("req -in {out} -noout -verify -text"));
        assert!(
            text.contains("DNS:www.example.org, DNS:*.example.org"),
            "{text}"
        );
        // The request holds the key that the token says it has.
        bench.openssl(&format!(
            "req -in {out} -noout -pubkey -out {algorithm}.pub"
        ));
        bench.openssl(&format!(
            "pkey -pubin -in {algorithm}.pub -outform DER -out {algorithm}.der"
        ));
        let sum = bench.openssl(&format!("dgst -sha256 -r {algorithm}.der"));
        assert!(
            sum.starts_with(made["generated"]["spki_sha256"].as_str().unwrap()),
            "{sum}"
        );
    }
    assert_eq!(bench.labels("privkey").len(), ALGORITHMS.len());
    assert_eq!(bench.labels("pubkey").len(), ALGORITHMS.len());
}

#[test]
fn the_public_part_may_verify_and_nothing_else() {
    let bench = Bench::new();
    bench.json(&[
        "key",
        "generate",
        "--algorithm",
        "rsa-2048",
        "--label",
        "k",
        "--id",
        "0a0b",
    ]);
    let output = bench
        .token
        .pkcs11_tool()
        .args(["--list-objects", "--label", "k"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let usage: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Usage:"))
        .map(str::trim)
        .collect();
    assert_eq!(usage.len(), 2, "{text}");
    assert!(
        usage.contains(&"sign") && usage.contains(&"verify"),
        "{text}"
    );
}

#[test]
fn taken_names_are_refused() {
    let bench = Bench::new();
    let generate = |label: &str, id: &str| {
        bench.on_token(&[
            "key",
            "generate",
            "--algorithm",
            "ec-p256",
            "--label",
            label,
            "--id",
            id,
        ])
    };
    assert_eq!(generate("a", "01").code, 0);
    generate("a", "02").refused(1, "has a key with label `a` already");
    generate("b", "01").refused(1, "has a key with id 01 already");
    generate("b", "0x").refused(64, "--id is not an id in hexadecimal");
    assert_eq!(bench.labels("privkey"), ["a"]);
    assert_eq!(bench.labels("pubkey"), ["a"]);
}

#[test]
fn keys_are_found_by_label_id_and_uri_and_never_guessed() {
    let bench = Bench::new();
    // Another tool's keys: one label twice.
    bench
        .token
        .generate_key("EC:prime256v1", "twin", "01")
        .unwrap();
    bench
        .token
        .generate_key("EC:prime256v1", "twin", "02")
        .unwrap();
    bench
        .on_token(&["key", "show", "--label", "twin"])
        .refused(1, "more than one private key");
    bench
        .on_token(&["key", "show", "--label", "none"])
        .refused(1, "it has `twin` (id 01)");
    bench
        .on_token(&["key", "show"])
        .refused(64, "no key is named");
    let by_id = bench.json(&["key", "show", "--id", "02"]);
    assert_eq!(by_id["id"], "02");
    assert_eq!(bench.json(&["key", "show", "--id", "%02"]), by_id);
    let list = bench.on_token(&["key", "list"]);
    assert!(list.stdout.contains("id=%01"), "{list:?}");
    let uri = format!(
        "{}?pin-source=file:{}",
        by_id["uri"].as_str().unwrap(),
        bench.token.pin_file().display()
    );
    let run = bench.run(&["key", "show", "--token", &uri, "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn a_key_of_another_tool_is_shown_with_its_weaknesses() {
    let bench = Bench::new();
    bench.token.generate_key("rsa:2048", "k", "01").unwrap();
    let key = bench.json(&["key", "show", "--label", "k"]);
    let weaknesses = key["weaknesses"].to_string();
    assert!(
        weaknesses.contains("CKA_DECRYPT") && weaknesses.contains("CKA_UNWRAP"),
        "{weaknesses}"
    );
    let list = bench.on_token(&["key", "list"]);
    assert!(list.stdout.contains("weak, see key show"), "{list:?}");
}

#[test]
fn delete_takes_the_whole_key_and_asks_first() {
    let bench = Bench::new();
    bench.json(&["key", "generate", "--algorithm", "ec-p256", "--label", "a"]);
    bench.json(&["key", "generate", "--algorithm", "ec-p256", "--label", "b"]);
    bench
        .on_token(&["key", "delete", "--label", "a"])
        .refused(64, "must be confirmed");
    assert_eq!(bench.labels("privkey").len(), 2);
    let gone = bench.json(&["key", "delete", "--label", "a", "--yes"]);
    assert_eq!(gone["objects"], 2);
    assert!(
        gone["notice"].as_str().unwrap().contains("signer"),
        "{gone}"
    );
    assert_eq!(bench.labels("privkey"), ["b"]);
    assert_eq!(bench.labels("pubkey"), ["b"]);
}

#[test]
fn a_request_is_never_written_over_another_kind_of_file() {
    let bench = Bench::new();
    bench.json(&["key", "generate", "--algorithm", "ec-p256", "--label", "k"]);
    std::fs::write(bench.path("precious"), "something else").unwrap();
    let csr = |out: &str, dns: &str| {
        bench.on_token(&["key", "csr", "--label", "k", "--dns", dns, "--out", out])
    };
    csr("precious", "a.example").refused(1, "is not a certificate request");
    assert_eq!(
        std::fs::read(bench.path("precious")).unwrap(),
        b"something else"
    );
    assert_eq!(csr("new", "a.example").code, 0);
    assert_eq!(csr("new", "b.example").code, 0);
    csr("new", "not a name").refused(64, "is not a DNS name");
    let run = bench.on_token(&["key", "csr", "--label", "k", "--dns", "c.example"]);
    assert!(
        run.stdout
            .starts_with("-----BEGIN CERTIFICATE REQUEST-----"),
        "{run:?}"
    );
}
