//! `custody`.

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
