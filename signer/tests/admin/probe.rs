//! `doctor --probe-report`.

use keyhaven_softhsm_test::ModuleKind;
use serde_json::Value;

use crate::support::Bench;

#[test]
fn a_report_has_everything_about_the_module_and_nothing_of_its_owner() {
    let bench = Bench::new();
    let rsa = ["--algorithm", "rsa-2048", "--label", "private-name"];
    bench.json(&[&["key", "generate"], &rsa[..]].concat());
    let serial = bench.json(&["token", "status"])["token"]["serial"].clone();
    let run = bench.on_token(&["doctor", "--probe-report"]);
    assert_eq!(run.code, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["report"], "keyhaven-probe");
    assert_eq!(report["levels"]["tls13"], "premaster");
    assert_eq!(report["hold"]["attacks"].as_array().unwrap().len(), 12);
    assert_eq!(report["session_objects_left"], 0);
    assert_eq!(report["signatures"][0]["algorithm"], "rsa-2048");
    assert_eq!(
        report["signatures"][0]["schemes"].as_array().unwrap().len(),
        6
    );
    let attacks = report["hold"]["attacks"].as_array().unwrap();
    let told = |attack: &Value| attack["detail"].as_str().unwrap().contains("CKR_");
    assert!(attacks.iter().any(told));
    let checks = report["self_tests"]["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["passed"] == false));
    let timings = report["timings"].as_array().unwrap();
    let timed = |what: &str| {
        let timing = timings.iter().find(|timing| timing["what"] == what);
        timing.unwrap()["us"].as_u64().unwrap()
    };
    assert!(timed("secp256r1: derive a shared secret") > 0);
    assert!(timed("rsa-2048: sign with rsa_pss_rsae_sha256") > 0);
    // Its own id, and not what the binding knows alone.
    let mechanisms = report["mechanisms"]["list"].as_array().unwrap();
    assert!(mechanisms.iter().any(|mechanism| mechanism["id"] == 0x1041));
    assert_eq!(report["slot"]["description"], "SoftHSM slot ID 0x(slot)");
    for secret in [
        "private-name",
        serial.as_str().unwrap(),
        bench.token.pin(),
        bench.token.dir().to_str().unwrap(),
    ] {
        assert!(!run.stdout.contains(secret), "{secret}: {}", run.stdout);
    }
    assert_eq!(bench.labels("privkey"), ["private-name"]);
}

#[test]
fn a_token_that_keeps_the_schedule_is_left_as_it_was() {
    let bench = Bench::of(ModuleKind::Kryoptic);
    bench
        .token
        .generate_key("EC:prime256v1", "k", "01")
        .unwrap();
    let run = bench.on_token(&["doctor", "--probe-report"]);
    assert_eq!(run.code, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["levels"]["tls12"], "schedule");
    assert_eq!(report["vault"], true);
    assert_eq!(report["session_objects_left"], 0);
    assert!(!run.stdout.contains("`test`") && !run.stdout.contains("\"label\""));
}

/// Its module calls a slot by the label of the token in it.
#[test]
fn a_label_in_the_name_of_a_slot_is_taken_out() {
    let bench = Bench::of(ModuleKind::Tpm2);
    let run = bench.on_token(&["doctor", "--probe-report"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["slot"]["description"], "(label)");
    assert_eq!(report["token"]["model"], "SW   TPM");
    assert_eq!(report["nature"], "software");
}

#[test]
fn a_file_is_written_once_and_never_over_another() {
    let bench = Bench::new();
    let run = bench.on_token(&["doctor", "--probe-report", "hsm.json"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("the report is in hsm.json"), "{run:?}");
    let written = std::fs::read_to_string(bench.path("hsm.json")).unwrap();
    let report: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(report["version"], 1);
    bench
        .on_token(&["doctor", "--probe-report", "hsm.json"])
        .refused(1, "cannot write hsm.json");
    assert_eq!(
        std::fs::read_to_string(bench.path("hsm.json")).unwrap(),
        written
    );
}
