//! The operator's and a program's day with `signer-admin` alone: every verb against a real central and two real sites.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use keyhaven_tests::daemon::binary;
use keyhaven_tests::kms::{Class, World, spiffe, world};
use serde_json::Value;

fn two_sites() -> World {
    let world = world()
        .class(Class::new("all", &["eu", "us"]))
        .class(Class::new("europe", &["eu"]))
        .site("fra", "eu")
        .site("nyc", "us")
        .start();
    world.identity("client", "shop");
    world.write_client("shop.toml", "client-shop");
    world
}

/// `signer-admin` as the program `shop`.
fn shop(world: &World, client: &str, arguments: &[&str]) -> Output {
    Command::new(binary("signer-admin"))
        .args(arguments)
        .current_dir(world.dir())
        .env("KEYHAVEN_CLIENT", world.dir().join(client))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn well(world: &World, arguments: &[&str]) -> Output {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = shop(world, "shop.toml", arguments);
        if output.status.success() {
            return output;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(Instant::now() < deadline, "{arguments:?}: {said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn openssl(world: &World, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(world.dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
}

fn read(world: &World, name: &str) -> Vec<u8> {
    fs::read(world.dir().join(name)).unwrap()
}

fn allow(world: &World, key: &str, kind: &str, purpose: &str, class: &str, operations: &[&str]) {
    world.create_key(key, kind, purpose, class);
    world.grant(&spiffe("client", "shop"), key, operations);
}

#[test]
fn every_operation_by_the_command_line() {
    let world = two_sites();
    allow(
        &world,
        "orders",
        "ec-p256",
        "sign",
        "all",
        &["sign", "verify"],
    );
    allow(
        &world,
        "data",
        "aes-256",
        "data",
        "all",
        &["encrypt", "decrypt"],
    );
    allow(
        &world,
        "oaep",
        "rsa-3072",
        "decrypt",
        "all",
        &["encrypt", "decrypt"],
    );
    allow(&world, "cookies", "hmac", "mac", "all", &["mac", "verify"]);
    allow(
        &world,
        "vault",
        "aes-256",
        "wrap",
        "all",
        &["wrap", "unwrap"],
    );
    world.admin(&[
        "kms",
        "grant",
        "set",
        &spiffe("client", "shop"),
        "--op",
        "random",
    ]);
    world.settle();
    fs::write(world.dir().join("in"), "one lamp\0\n").unwrap();

    let scheme = "ecdsa_secp256r1_sha256";
    let signed = well(
        &world,
        &[
            "sign", "orders", "--scheme", scheme, "--in", "in", "--out", "sig",
        ],
    );
    assert!(String::from_utf8_lossy(&signed.stdout).contains("version 1"));
    let shown = world.admin(&["kms", "key", "show", "orders"]);
    let spki = shown["versions"][0]["public"]["spki"].as_str().unwrap();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----\n");
    fs::write(world.dir().join("orders.pem"), pem).unwrap();
    openssl(
        &world,
        &[
            "dgst",
            "-sha256",
            "-verify",
            "orders.pem",
            "-signature",
            "sig",
            "in",
        ],
    );
    let verify = [
        "verify",
        "orders",
        "--scheme",
        scheme,
        "--in",
        "in",
        "--signature",
        "sig",
    ];
    well(&world, &verify);
    fs::write(world.dir().join("other"), "two lamps").unwrap();
    let other = [
        "verify",
        "orders",
        "--scheme",
        scheme,
        "--in",
        "other",
        "--signature",
        "sig",
    ];
    let bad = shop(&world, "shop.toml", &other);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    assert!(
        String::from_utf8_lossy(&bad.stdout).contains("NOT good"),
        "{bad:?}"
    );

    for (key, aad) in [("data", &["--aad", "tape"][..]), ("oaep", &[])] {
        well(
            &world,
            &[&["encrypt", key, "--in", "in", "--out", "sealed"], aad].concat(),
        );
        let raw = well(&world, &[&["decrypt", key, "--in", "sealed"], aad].concat());
        assert_eq!(raw.stdout, b"one lamp\0\n", "{key}");
        assert!(
            String::from_utf8_lossy(&raw.stderr).contains("version 1"),
            "{raw:?}"
        );
    }
    let wrong = shop(
        &world,
        "shop.toml",
        &["decrypt", "data", "--in", "sealed", "--aad", "x"],
    );
    assert_eq!(wrong.status.code(), Some(1));

    well(&world, &["mac", "cookies", "--in", "in", "--out", "mac"]);
    assert_eq!(read(&world, "mac").len(), 32);
    well(
        &world,
        &["verify", "cookies", "--in", "in", "--signature", "mac"],
    );

    well(&world, &["wrap", "vault", "--out", "dek"]);
    let unwrap = ["unwrap", "vault", "--wrapped", "dek", "--aad", "a"];
    well(
        &world,
        &[&unwrap[..], &["--encrypt", "--in", "in", "--out", "sealed"]].concat(),
    );
    well(
        &world,
        &[
            &unwrap[..],
            &["--decrypt", "--in", "sealed", "--out", "opened"],
        ]
        .concat(),
    );
    assert_eq!(read(&world, "opened"), b"one lamp\0\n");

    well(&world, &["random", "--bytes", "5000", "--out", "seed"]);
    assert_eq!(read(&world, "seed").len(), 5000);
    let json = well(&world, &["random", "--bytes", "8", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["bytes"], 8, "{json}");
    assert!(json["random"].is_string(), "{json}");

    // Absent and forbidden: the same words.
    let scheme = ["--scheme", scheme, "--in", "in"];
    world.create_key("foreign", "ec-p256", "sign", "all");
    world.settle();
    let said = |key: &str| {
        let output = shop(&world, "shop.toml", &[&["sign", key], &scheme[..]].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(said("foreign"), said("nothing"));
}

#[test]
fn lookup_passing_on_and_the_next_server_by_the_command_line() {
    let mut world = two_sites();
    allow(&world, "euro", "ec-p256", "sign", "europe", &["sign"]);
    world.settle();
    fs::write(world.dir().join("in"), "x").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = well(&world, &["lookup", "euro", "--op", "sign", "--json"]);
        let found: Value = serde_json::from_slice(&found.stdout).unwrap();
        if found["servers"][0]["site"] == "fra" {
            break;
        }
        assert!(Instant::now() < deadline, "{found}");
    }
    let nobody = shop(&world, "shop.toml", &["lookup", "nothing", "--op", "sign"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stdout).contains("nobody"));

    // Only nyc is asked, which cannot hold this class.
    let text = fs::read_to_string(world.dir().join("shop.toml")).unwrap();
    let (before, fra) = text.split_once("[[server]]").unwrap();
    let (_, nyc) = fra.split_once("[[server]]").unwrap();
    fs::write(
        world.dir().join("nyc.toml"),
        format!("{before}[[server]]{nyc}"),
    )
    .unwrap();
    let sign = [
        "sign",
        "euro",
        "--scheme",
        "ecdsa_secp256r1_sha256",
        "--in",
        "in",
        "--json",
    ];
    let alone = shop(&world, "nyc.toml", &sign);
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let passed = shop(&world, "nyc.toml", &[&sign[..], &["--pass-on"]].concat());
        if passed.status.success() {
            let passed: Value = serde_json::from_slice(&passed.stdout).unwrap();
            assert_eq!(passed["server"], "fra", "{passed}");
            break;
        }
        assert!(Instant::now() < deadline, "{passed:?}");
        std::thread::sleep(Duration::from_millis(200));
    }

    // The first of the file is dead: the next one does it.
    allow(&world, "orders", "ec-p256", "sign", "all", &["sign"]);
    world.settle();
    world.site_mut("fra").kill();
    let sign = [
        "sign",
        "orders",
        "--scheme",
        "ecdsa_secp256r1_sha256",
        "--in",
        "in",
        "--json",
    ];
    let signed = well(&world, &sign);
    let signed: Value = serde_json::from_slice(&signed.stdout).unwrap();
    assert_eq!(signed["server"], "nyc");
}

#[test]
fn a_key_that_another_hsm_has_wrapped_and_the_tables_for_people() {
    let world = two_sites();
    let made = world.admin(&["kms", "key", "transport", "--out", "transport.pem"]);
    let id = made["transport"].as_str().unwrap().to_owned();
    openssl(
        &world,
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            "old.pem",
        ],
    );
    openssl(
        &world,
        &["pkey", "-in", "old.pem", "-pubout", "-out", "old.pub"],
    );
    openssl(
        &world,
        &[
            "pkcs8", "-topk8", "-nocrypt", "-in", "old.pem", "-outform", "DER", "-out", "old.der",
        ],
    );
    fs::write(world.dir().join("kek"), [0x42; 32]).unwrap();
    openssl(
        &world,
        &[
            "pkeyutl",
            "-encrypt",
            "-pubin",
            "-inkey",
            "transport.pem",
            "-in",
            "kek",
            "-out",
            "kek.bin",
            "-pkeyopt",
            "rsa_padding_mode:oaep",
            "-pkeyopt",
            "rsa_oaep_md:sha1",
        ],
    );
    openssl(
        &world,
        &[
            "enc",
            "-id-aes256-wrap-pad",
            "-K",
            &"42".repeat(32),
            "-iv",
            "a65959a6",
            "-in",
            "old.der",
            "-out",
            "key.bin",
        ],
    );
    let import = [
        "kms",
        "key",
        "import",
        "old",
        "--wrapped-kek",
        "kek.bin",
        "--wrapped-key",
        "key.bin",
        "--transport",
        &id,
        "--kind",
        "ec-p256",
        "--public",
        "old.pub",
        "--purpose",
        "sign",
        "--class",
        "all",
    ];
    let imported = world.admin(&import);
    assert!(imported["revision"].is_u64(), "{imported}");
    // A transport key is good once.
    let again = world.try_admin(&[
        "kms",
        "key",
        "import",
        "older",
        "--wrapped-kek",
        "kek.bin",
        "--wrapped-key",
        "key.bin",
        "--transport",
        &id,
        "--kind",
        "ec-p256",
        "--public",
        "old.pub",
        "--purpose",
        "sign",
        "--class",
        "all",
    ]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let shown = world.admin(&["kms", "key", "show", "old"]);
    assert_eq!(shown["versions"][0]["provenance"], "imported-wrapped");
    world.grant(&spiffe("client", "shop"), "old", &["sign"]);
    world.settle();
    fs::write(world.dir().join("in"), "x").unwrap();
    well(
        &world,
        &[
            "sign",
            "old",
            "--scheme",
            "ecdsa_secp256r1_sha256",
            "--in",
            "in",
            "--out",
            "sig",
        ],
    );
    openssl(
        &world,
        &[
            "dgst",
            "-sha256",
            "-verify",
            "old.pub",
            "-signature",
            "sig",
            "in",
        ],
    );

    for verb in [
        &["kms", "status"][..],
        &["kms", "lease", "status"],
        &["kms", "key", "list"],
        &["kms", "key", "show", "old"],
        &["kms", "version", "list", "old"],
        &["kms", "class", "list"],
        &["kms", "site", "list"],
        &["kms", "grant", "list"],
        &["kms", "grant", "list", "--key", "old"],
    ] {
        let output = shop(&world, "client.toml", verb);
        assert!(output.status.success(), "{output:?}");
        world.admin(verb);
    }
    // A client is no operator.
    let denied = shop(&world, "shop.toml", &["kms", "key", "list"]);
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
}
