//! `doctor --config` on what a site asks of its tokens and files: each fault is made, and found with its remedy.

use std::os::unix::fs::PermissionsExt;

use keyhaven_softhsm_test::ModuleKind;

use crate::support::{Bench, Run};

impl Bench {
    fn doctor(&self, whole: &str, of_site: &str, of_key: &str) -> Run {
        self.configure(whole, of_site, of_key);
        self.run(&["doctor", "--config", "signer.toml"])
    }
}

#[test]
fn a_level_that_cannot_be_reached_is_found_with_the_tests_that_failed() {
    let bench = Bench::new();
    bench.prepare_site();
    let run = bench.doctor("", "", "custody_min = \"schedule\"");
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "custody_min is schedule, but ");
    run.found("PROBLEM", "self-tests that failed: ");
    let run = bench.doctor("", "custody_min = \"premaster\"", "");
    assert_eq!(run.code, 0, "{run:?}");
    run.found(
        "ok",
        "it is served: TLS 1.3 at premaster, TLS 1.2 at premaster",
    );
}

#[test]
fn the_exchange_token_counts_and_not_that_of_the_key() {
    let bench = Bench::new().and(ModuleKind::Nss);
    bench.prepare_site();
    let run = bench.doctor(
        "[tickets]\ntoken_keys = \"token\"",
        "exchange_token = \"keeper\"",
        "custody_min = \"schedule\"",
    );
    assert_eq!(run.code, 0, "{run:?}");
    run.found(
        "ok",
        "it is served: TLS 1.3 at schedule, TLS 1.2 at schedule",
    );
    // SoftHSM2's files are SoftHSM2's alone.
    assert_eq!(run.stdout.matches(" token folder: ").count(), 1, "{run:?}");
    let run = bench.doctor("", "exchange_token = \"nobody\"", "");
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "there is no [[token]] named \"nobody\"");
}

#[test]
fn a_preference_for_a_hybrid_that_cannot_be_is_found() {
    let bench = Bench::new();
    bench.prepare_site();
    let run = bench.doctor("", "prefer_hybrid = true\ncustody_min = \"premaster\"", "");
    run.found("warning", "prefer_hybrid has no effect");
}

#[test]
fn a_ticket_secret_that_others_can_read_is_found() {
    let bench = Bench::new();
    bench.prepare_site();
    bench.secret("tickets.key", &"x".repeat(32));
    let tickets = "[tickets]\nsecret = \"tickets.key\"";
    assert_eq!(bench.doctor(tickets, "", "").code, 0);
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(bench.path("tickets.key"), open).unwrap();
    let run = bench.doctor(tickets, "", "");
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "can be read by others");
    assert!(run.stdout.contains("try: chmod 600"), "{run:?}");
}

#[test]
fn a_staple_of_another_certificate_is_found() {
    let bench = Bench::new();
    bench.prepare_site();
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ocsp/good.der");
    // Named like the certificate: what is said of the one is not taken for the other.
    std::fs::copy(good, bench.path("ec-p256.crt.ocsp")).unwrap();
    let run = bench.doctor("", "", "ocsp = \"ec-p256.crt.ocsp\"");
    // It is not sent, so that no client fails.
    assert_eq!(run.code, 0, "{run:?}");
    run.found("warning", "is not stapled: it is about another certificate");
    assert!(run.stdout.contains("try: fetch it again"), "{run:?}");
}

#[test]
fn authorities_and_lists_of_clients_are_examined() {
    let bench = Bench::new();
    bench.prepare_site();
    let required = "client_auth = \"required\"";
    let run = bench.doctor("", required, "");
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "client_auth needs client_ca");

    let with_ca = format!("{required}\nclient_ca = \"idca.crt\"");
    assert_eq!(bench.doctor("", &with_ca, "").code, 0);

    // A list of version 1, which nobody can use, then one of version 2 that is out of date.
    std::fs::write(bench.path("index"), "").unwrap();
    std::fs::write(bench.path("number"), "01").unwrap();
    let common = "[ca]\ndefault_ca = d\n[d]\ndatabase = index\ndefault_md = sha256\n";
    let with_list = format!("{with_ca}\nclient_crl = [\"old.crl\"]");
    let list = |extensions: &str| {
        std::fs::write(bench.path("ca.conf"), format!("{common}{extensions}")).unwrap();
        bench.openssl("ca -gencrl -config ca.conf -cert idca.crt -keyfile idca.key -crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z -out old.crl");
        bench.doctor("", &with_list, "")
    };
    let run = list("");
    assert_eq!(run.code, 1, "{run:?}");
    run.found("PROBLEM", "clients' certificates cannot be judged");
    let run = list("crlnumber = number\ncrl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid\n");
    assert_eq!(run.code, 0, "{run:?}");
    run.found("warning", "is out of date: its nextUpdate is past");
    let remedy = "try: no client of this CA is let in";
    assert!(run.stdout.contains(remedy), "{run:?}");
}
