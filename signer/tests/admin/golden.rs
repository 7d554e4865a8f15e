//! Golden files: the help of every verb, and the shape of every verb's JSON.
//!
//! What scripts and people rely on changes only when somebody means it to.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::support::{Bench, PASSWORD};

const VERBS: &[&[&str]] = &[
    &[],
    &["token"],
    &["token", "list"],
    &["token", "init"],
    &["token", "status"],
    &["key"],
    &["key", "generate"],
    &["key", "import"],
    &["key", "list"],
    &["key", "show"],
    &["key", "delete"],
    &["key", "csr"],
    &["cert"],
    &["cert", "import"],
    &["cert", "show"],
    &["custody"],
    &["doctor"],
    &["kms"],
    &["kms", "status"],
    &["kms", "key"],
    &["kms", "key", "create"],
    &["kms", "key", "import"],
    &["kms", "key", "transport"],
    &["kms", "key", "rotate"],
    &["kms", "key", "disable"],
    &["kms", "key", "revoke"],
    &["kms", "key", "destroy"],
    &["kms", "key", "list"],
    &["kms", "key", "show"],
    &["kms", "key", "csr"],
    &["kms", "key", "chain"],
    &["kms", "version"],
    &["kms", "version", "list"],
    &["kms", "version", "disable"],
    &["kms", "version", "revoke"],
    &["kms", "version", "destroy"],
    &["kms", "class"],
    &["kms", "class", "create"],
    &["kms", "class", "bound"],
    &["kms", "class", "rotate"],
    &["kms", "class", "rewrap"],
    &["kms", "class", "list"],
    &["kms", "class", "export"],
    &["kms", "site"],
    &["kms", "site", "enroll"],
    &["kms", "site", "add"],
    &["kms", "site", "evict"],
    &["kms", "site", "list"],
    &["kms", "grant"],
    &["kms", "grant", "set"],
    &["kms", "grant", "withdraw"],
    &["kms", "grant", "list"],
    &["kms", "lease"],
    &["kms", "lease", "status"],
    &["kms", "lease", "enforced"],
    &["kms", "era"],
    &["kms", "era", "bump"],
    &["kms", "ceremony"],
    &["kms", "ceremony", "init"],
    &["kms", "ceremony", "pool"],
    &["kms", "ceremony", "deliver"],
    &["kms", "ceremony", "status"],
    &["lookup"],
    &["sign"],
    &["verify"],
    &["encrypt"],
    &["decrypt"],
    &["mac"],
    &["wrap"],
    &["unwrap"],
    &["random"],
];

#[test]
fn help_of_every_verb() {
    let bench = Bench::new();
    for &verb in VERBS {
        let run = bench.run(&[verb, &["--help"]].concat());
        assert_eq!(run.code, 0, "{run:?}");
        let name = if verb.is_empty() {
            "signer-admin".to_owned()
        } else {
            verb.join("-")
        };
        compare(&format!("help-{name}.txt"), &run.stdout);
    }
}

#[test]
fn json_of_every_verb() {
    let bench = Bench::new();
    bench.make("rsa-2048");
    bench.openssl(
        "pkcs12 -export -inkey rsa-2048.pem -in rsa-2048.crt -passout pass:~ -out site.p12",
    );
    let (pin, so) = (bench.secret("pin", "4321"), bench.secret("so", "87654321"));
    let password = bench.secret("password", PASSWORD);
    let uri = bench.token.uri_with_pin();
    let runs: [&[&str]; 12] = [
        &["token", "list"],
        &[
            "token",
            "init",
            "--label",
            "second",
            "--pin-source",
            &pin,
            "--so-pin-source",
            &so,
        ],
        &[
            "key",
            "generate",
            "--token",
            &uri,
            "--algorithm",
            "ec-p256",
            "--label",
            "k",
        ],
        &[
            "key",
            "import",
            "site.p12",
            "--token",
            &uri,
            "--label",
            "i",
            "--password-source",
            &password,
            "--yes",
            "--store-certificates",
        ],
        &["key", "list", "--token", &uri],
        &["key", "show", "--token", &uri, "--label", "k"],
        &[
            "key",
            "csr",
            "--token",
            &uri,
            "--label",
            "k",
            "--dns",
            "a.example",
        ],
        &[
            "cert",
            "import",
            "rsa-2048.crt",
            "--token",
            &uri,
            "--label",
            "i",
        ],
        &["cert", "show", "--token", &uri],
        &["token", "status", "--token", &uri],
        &["custody", "--token", &uri],
        &["doctor", "--token", &uri],
    ];
    for arguments in runs {
        let run = bench.run(&[arguments, &["--json"]].concat());
        assert_eq!(run.code, 0, "{run:?}");
        let value: Value = serde_json::from_str(&run.stdout).unwrap();
        compare(
            &format!("json-{}-{}.txt", arguments[0], name_of(arguments)),
            &shape(&value),
        );
    }
    let run = bench.run(&[
        "key", "delete", "--token", &uri, "--label", "k", "--yes", "--json",
    ]);
    compare(
        "json-key-delete.txt",
        &shape(&serde_json::from_str(&run.stdout).unwrap()),
    );
    let run = bench.run(&["key", "show", "--token", &uri, "--label", "k", "--json"]);
    compare(
        "json-failure.txt",
        &shape(&serde_json::from_str(&run.stderr).unwrap()),
    );
}

#[test]
fn json_of_sites_and_probes() {
    let bench = Bench::new();
    bench.prepare_site();
    bench.configure("", "", "");
    let run = bench.run(&["custody", "--config", "signer.toml", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let value: Value = serde_json::from_str(&run.stdout).unwrap();
    compare("json-custody-sites.txt", &shape(&value["sites"]));
    let run = bench.on_token(&["doctor", "--probe-report"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let value: Value = serde_json::from_str(&run.stdout).unwrap();
    compare("json-doctor-probe.txt", &shape(&value));
}

fn name_of<'a>(arguments: &[&'a str]) -> &'a str {
    if arguments[1].starts_with("--") {
        "report"
    } else {
        arguments[1]
    }
}

/// Keys and types, one a line; of an array its first element.
pub(crate) fn shape(value: &Value) -> String {
    let mut lines = Vec::new();
    walk("", value, &mut lines);
    lines.join("\n") + "\n"
}

fn walk(path: &str, value: &Value, lines: &mut Vec<String>) {
    let kind = match value {
        Value::Object(map) => return walk_map(path, map, lines),
        Value::Array(items) => match items.first() {
            Some(first) => return walk(&format!("{path}[]"), first, lines),
            None => "empty array",
        },
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    lines.push(format!("{path}: {kind}"));
}

fn walk_map(path: &str, map: &Map<String, Value>, lines: &mut Vec<String>) {
    for (key, value) in map {
        walk(&format!("{path}.{key}"), value, lines);
    }
}

pub(crate) fn compare(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("KEYHAVEN_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        expected,
        "{} (KEYHAVEN_BLESS=1 writes it anew)",
        path.display()
    );
}
