//! `token list | init | status`.

use keyhaven_softhsm_test::ModuleKind;

use crate::support::Bench;

#[test]
fn a_fresh_token_is_made_and_can_be_used() {
    let bench = Bench::new();
    let (pin, so) = (
        bench.secret("pin", "4321\n"),
        bench.secret("so", "87654321\n"),
    );
    let init = |label: &str| {
        bench.run(&[
            "token",
            "init",
            "--label",
            label,
            "--pin-source",
            &pin,
            "--so-pin-source",
            &so,
        ])
    };
    let run = init("second");
    assert_eq!(run.code, 0, "{run:?}");
    let next = format!("'pkcs11:token=second?pin-source={pin}'");
    assert!(run.stdout.contains(&next), "{run:?}");
    let run = bench.run(&[
        "key",
        "generate",
        "--token",
        "second",
        "--pin-source",
        &pin,
        "--algorithm",
        "ec-p256",
        "--label",
        "k",
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    let list = bench.run(&["token", "list"]);
    assert!(
        list.stdout.contains("second") && list.stdout.contains("test"),
        "{list:?}"
    );
    // Two tokens, none named: none is guessed.
    bench
        .run(&["token", "status", "--pin-source", &pin])
        .refused(64, "more than one token fits");
}

#[test]
fn an_initialised_token_is_not_destroyed_by_a_script_without_yes() {
    let bench = Bench::new();
    bench
        .token
        .generate_key("EC:prime256v1", "k", "01")
        .unwrap();
    let (pin, so) = (bench.secret("pin", "4321"), bench.secret("so", "11223344"));
    let arguments = [
        "token",
        "init",
        "--label",
        "test",
        "--pin-source",
        &pin,
        "--so-pin-source",
        &so,
    ];
    let run = bench.run(&arguments);
    run.refused(64, "must be confirmed");
    assert!(run.stderr.contains("--yes"), "{run:?}");
    // With --yes, but a security officer's PIN that is not the token's.
    let with_yes = [&arguments[..], &["--yes"]].concat();
    bench.run(&with_yes).refused(1, "security officer's PIN");
    assert_eq!(bench.labels("privkey"), ["k"]);

    let real = bench.secret("so", bench.token.so_pin());
    assert_eq!(real, so);
    let run = bench.run(&with_yes);
    assert_eq!(run.code, 0, "{run:?}");
    let status = bench.run(&["token", "status", "--pin-source", &pin, "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["keys"].as_array().map(Vec::len), Some(0));
}

#[test]
fn unfit_pins_and_labels_are_refused_before_anything_is_done() {
    let bench = Bench::new();
    let (pin, so) = (bench.secret("pin", "4321"), bench.secret("so", "87654321"));
    let short = bench.secret("short", "1");
    let init = |label: &str, pin: &str, so: &str| {
        bench.run(&[
            "token",
            "init",
            "--label",
            label,
            "--pin-source",
            pin,
            "--so-pin-source",
            so,
        ])
    };
    init("new", &pin, &pin).refused(1, "are the same");
    init("new", &short, &so).refused(1, "user PIN must have 4 to 255 bytes");
    init("a label that is longer than 32 bytes", &pin, &so).refused(1, "1 to 32 bytes");
    init("new", "4321", &so).refused(64, "--pin-source does not name the place of a secret");
    let list = bench.run(&["token", "list"]);
    assert!(!list.stdout.contains("new"), "{list:?}");
}

#[test]
fn a_pin_comes_from_a_private_file_or_a_credential_and_never_from_a_uri() {
    let bench = Bench::new();
    let open = bench.path("open-pin");
    std::fs::write(&open, bench.token.pin()).unwrap();
    let source = format!("file:{}", open.display());
    bench
        .run(&["token", "status", "--pin-source", &source])
        .refused(1, "can be read by others");
    let run = bench.run(&[
        "token",
        "status",
        "--token",
        "pkcs11:token=test?pin-value=9753",
    ]);
    run.refused(64, "`pin-value` is refused");
    assert!(!run.stderr.contains("9753"), "{run:?}");
    bench
        .run(&["token", "status"])
        .refused(64, "no terminal to ask on");
    bench
        .run(&["token", "status", "--pin-source", "cred:pin"])
        .refused(1, "$CREDENTIALS_DIRECTORY is not set");
}

#[test]
fn a_wrong_pin_is_told_plainly_and_an_unknown_token_lists_those_there_are() {
    let bench = Bench::new();
    let wrong = bench.secret("wrong", "999999");
    let run = bench.run(&["key", "list", "--pin-source", &wrong]);
    run.refused(1, "refused the PIN; it was tried once");
    assert!(!run.stderr.contains("restart"), "{run:?}");
    assert!(!run.stderr.contains("999999"), "{run:?}");
    bench
        .run(&["key", "list", "--token", "nowhere", "--pin-source", &wrong])
        .refused(1, "the module has `test`");
    bench
        .run(&[
            "key",
            "list",
            "--module",
            "/nowhere.so",
            "--pin-source",
            &wrong,
        ])
        .refused(1, "/nowhere.so");
    let run = bench.run(&["token", "list", "--module", "/nowhere.so"]);
    assert!(
        run.stderr.contains("there is no such file: install"),
        "{run:?}"
    );
}

#[test]
fn usage_errors_end_with_64_and_help_with_0() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["--help"]).code, 0);
    assert_eq!(bench.run(&["--version"]).code, 0);
    assert_eq!(bench.run(&[]).code, 64);
    assert_eq!(bench.run(&["token", "frobnicate"]).code, 64);
    assert_eq!(
        bench
            .run(&["key", "generate", "--algorithm", "rsa-1024", "--label", "x"])
            .code,
        64
    );
    let run = bench.run(&["completions", "bash"]);
    assert!(
        run.code == 0 && run.stdout.contains("signer-admin"),
        "{run:?}"
    );
}

#[test]
fn a_module_that_wants_a_text_at_its_start_gets_it_with_every_noun() {
    let bench = Bench::of(ModuleKind::Nss);
    bench
        .token
        .generate_key("EC:prime256v1", "k", "01")
        .unwrap();
    let options = bench.module_options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let list = bench.run(&[&["token", "list"], &options[..]].concat());
    assert!(list.stdout.contains("NSS Certificate DB"), "{list:?}");
    let keys = bench.json(&["key", "list"]);
    assert_eq!(keys["keys"][0]["algorithm"], "ec-p256", "{keys}");
    // Without the text it finds no database, and so not the token's PIN.
    let uri = bench.token.uri_with_pin();
    let run = bench.run(&[&["key", "list", "--token", &uri], &options[..2]].concat());
    assert_eq!(run.code, 1, "{run:?}");
}
