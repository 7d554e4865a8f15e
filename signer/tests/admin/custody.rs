//! `custody`.

use keyhaven_softhsm_test::ModuleKind;
use serde_json::Value;

use crate::support::Bench;

#[test]
fn levels_are_proven_and_origins_told_plainly() {
    let bench = Bench::new();
    bench.make("ec-p256");
    bench.json(&[
        "key",
        "generate",
        "--algorithm",
        "ec-p256",
        "--label",
        "made",
    ]);
    bench.json(&[
        "key",
        "import",
        "ec-p256.pem",
        "--label",
        "brought",
        "--yes",
    ]);
    bench
        .token
        .generate_key("rsa:2048", "foreign", "77")
        .unwrap();
    let report = bench.json(&["custody"]);
    let token = &report["tokens"][0];
    assert_eq!(token["tls13"], "premaster");
    assert_eq!(token["tls12"], "premaster");
    assert_eq!(token["groups"][0], "secp256r1");
    let checks = token["checks"].as_array().unwrap();
    assert!(
        checks.len() > 3 && checks.iter().any(|check| check["passed"] == true),
        "{report}"
    );
    let origin = |label: &str| {
        let keys = token["keys"].as_array().unwrap();
        keys.iter()
            .find(|key| key["label"] == label)
            .map(|key| key["origin"].clone())
    };
    assert_eq!(origin("made"), Some(Value::from("generated")));
    assert_eq!(origin("brought"), Some(Value::from("imported")));
    let text = bench.on_token(&["custody"]).stdout;
    assert!(
        text.contains("generated in this token and never readable"),
        "{text}"
    );
    assert!(
        text.contains("imported: copies may exist outside"),
        "{text}"
    );
    assert!(text.contains("weak: it may decrypt"), "{text}");
}

#[test]
fn a_level_that_is_not_reached_ends_with_1() {
    let bench = Bench::new();
    assert_eq!(bench.on_token(&["custody", "--min", "premaster"]).code, 0);
    let run = bench.on_token(&["custody", "--min", "schedule"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("NOT MET"), "{run:?}");
    assert_eq!(bench.on_token(&["custody", "--min", "much"]).code, 64);
}

#[test]
fn a_whole_schedule_is_told_with_what_the_module_lets_happen_all_the_same() {
    for kind in [ModuleKind::Kryoptic, ModuleKind::Nss] {
        let bench = Bench::of(kind);
        let report = bench.json(&["custody"]);
        let token = &report["tokens"][0];
        assert_eq!(token["tls13"], "schedule", "{kind}: {report}");
        assert_eq!(token["tls12"], "schedule", "{kind}: {report}");
        assert_eq!(token["vault"], true, "{kind}: {report}");
        assert_eq!(token["nature"], "software", "{kind}: {report}");
        let pairs = token["pairs"].as_array().unwrap();
        // Two versions, three groups, two hashes.
        assert_eq!(pairs.len(), 12, "{kind}: {report}");
        assert!(pairs.iter().all(|pair| pair["level"] == "schedule"));
        let text = bench.on_token(&["custody"]).stdout;
        let ecdh = "with the login, code can: derive a readable secret by ECDH";
        assert!(text.contains(ecdh), "{kind}: {text}");
        let private = "with the login, code can: wrap a private key that is not extractable";
        assert_eq!(text.contains(private), kind == ModuleKind::Nss, "{text}");
    }
}

#[test]
fn a_token_that_only_signs_is_said_to_only_sign() {
    for kind in [ModuleKind::P11Kit, ModuleKind::Craton, ModuleKind::Tpm2] {
        let bench = Bench::of(kind);
        bench
            .token
            .generate_key("EC:prime256v1", "k", "01")
            .unwrap();
        let report = bench.json(&["custody"]);
        let token = &report["tokens"][0];
        assert_eq!(token["tls13"], "signature", "{kind}: {report}");
        assert_eq!(token["tls12"], "signature", "{kind}: {report}");
        assert_eq!(token["groups"], Value::Array(Vec::new()), "{kind}");
        assert_eq!(token["vault"], false, "{kind}");
        assert_eq!(token["nature"], "software", "{kind}");
        let schemes = &token["keys"][0]["schemes"];
        assert_eq!(schemes[0], "ecdsa_secp256r1_sha256", "{kind}: {report}");
    }
}

#[test]
fn what_succeeds_is_always_printed_and_what_is_withstood_with_details() {
    let bench = Bench::new();
    let text = bench.on_token(&["custody"]).stdout;
    let done = "with the login, code can: derive a readable secret by ECDH";
    assert!(text.contains(done), "{text}");
    assert!(!text.contains("refused: read a sensitive key"), "{text}");
    assert!(!text.contains("passed  "), "{text}");
    // What is missing is missing for each group and hash: told once, and counted.
    let missing =
        "cannot  secp256r1: TLS 1.3 secrets with Sha256 stay and equal software (and 5 more): ";
    assert_eq!(text.matches(missing).count(), 1, "{text}");
    assert_eq!(text.matches("the handshake secret: ").count(), 1, "{text}");
    let text = bench.on_token(&["custody", "--details"]).stdout;
    assert!(text.contains(done), "{text}");
    assert!(text.contains("refused: read a sensitive key"), "{text}");
    assert!(text.contains("not tried: derive a readable secret by HKDF"));
    assert!(text.contains("passed  "), "{text}");
    let report = bench.json(&["custody"]);
    let hold = report["tokens"][0]["hold"].as_array().unwrap();
    let outcome = |name: &str| {
        let attack = hold.iter().find(|attack| attack["name"] == name);
        attack.unwrap()["refused"].clone()
    };
    assert_eq!(outcome("read a sensitive key"), true);
    assert_eq!(outcome("derive a readable secret by ECDH"), false);
    assert_eq!(outcome("derive a readable secret by HKDF"), Value::Null);
}

#[test]
fn two_tokens_of_one_site_are_told_apart() {
    let bench = Bench::new().and(ModuleKind::Kryoptic);
    bench.prepare_site();
    bench.configure(
        "",
        "exchange_token = \"keeper\"",
        "custody_min = \"schedule\"",
    );
    let custody = ["custody", "--config", "signer.toml"];
    let run = bench.run(&[&custody[..], &["--min", "schedule"]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    let told = |text: &str| assert!(run.stdout.contains(text), "no {text}: {}", run.stdout);
    told(
        "is in `main` (SoftHSM project SoftHSM v2, software); custody_min schedule: TLS 1.3 at schedule",
    );
    told("schedule: exchange and key schedule are in `keeper` (Kryoptic Project v1, software)");
    let run = bench.run(&[&custody[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    // The key's own token proves less, and that is not hidden.
    assert_eq!(report["tokens"][0]["tls13"], "premaster", "{report}");
    let site = &report["sites"][0];
    assert_eq!(site["exchange_token"], "keeper", "{report}");
    assert_eq!(site["tls13"], "schedule", "{report}");
    assert_eq!(site["keys"][0]["token"], "main", "{report}");
    assert_eq!(site["keys"][0]["tls12"], "schedule", "{report}");
    let first = &site["offers"][0];
    assert_eq!(first["suites"][0], "TLS_AES_256_GCM_SHA384", "{report}");
}

#[test]
fn a_site_below_its_minimum_is_not_served_and_the_failed_tests_are_named() {
    let bench = Bench::new();
    bench.prepare_site();
    bench.configure("", "", "custody_min = \"master\"");
    let run = bench.run(&["custody", "--config", "signer.toml"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("NOT SERVED"), "{run:?}");
    assert!(run.stdout.contains("self-tests that failed: "), "{run:?}");
    let run = bench.run(&["custody", "--config", "signer.toml", "--json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["met"], false);
    let why = report["sites"][0]["not_served"].as_str().unwrap();
    assert!(why.contains("custody_min is master"), "{report}");
}

#[test]
fn a_hybrid_exchange_says_its_own_level() {
    let bench = Bench::new();
    bench.prepare_site();
    bench.configure("", "", "");
    let run = bench.run(&["custody", "--config", "signer.toml"]);
    assert_eq!(run.code, 0, "{run:?}");
    let line = "x25519mlkem768 at signature: TLS_";
    assert!(run.stdout.contains(line), "{run:?}");
    bench.configure("", "custody_min = \"premaster\"", "");
    let run = bench.run(&["custody", "--config", "signer.toml"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!run.stdout.contains("x25519mlkem768 at"), "{run:?}");
}
