//! What an operator does with `signer-admin`, up to a site that serves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

use keyhaven_tests::clients::{Finished, curl, run};
use keyhaven_tests::daemon::{Daemon, binary};
use keyhaven_tests::http::GREETING;
use keyhaven_tests::running::Parts;
use keyhaven_tests::site::{Builder, NAME, site};

/// Runs `signer-admin` on the site's token and expects success.
fn admin(parts: &Parts, args: &[&str]) -> Finished {
    let done = admin_may_fail(parts, args);
    assert!(done.status.success(), "{args:?}: {}", done.all());
    done
}

fn admin_may_fail(parts: &Parts, args: &[&str]) -> Finished {
    let mut command = Command::new(binary("signer-admin"));
    command
        .args(args)
        .arg("--token")
        .arg(parts.token.uri_with_pin())
        .envs(parts.token.env());
    run(&mut command, b"")
}

/// Serves with the key `made` and the certificate `made.pem`, and fetches a page in both versions.
fn serve_with_it(build: &Builder, parts: &Parts) -> (Daemon, Daemon) {
    parts.edit("signer.toml", "object=key-0", "object=made");
    parts.edit("signer.toml", "key-0.pem", "made.pem");
    let signer = parts.spawn_signer();
    build.write_proxy_config(parts.dir(), &[signer.listening()], parts.backend.address());
    let proxy = parts.spawn_proxy();
    for version in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
        let mut command = curl(NAME, proxy.listening(), &parts.dir().join("site-ca.pem"));
        let got = run(command.args(version).arg(format!("https://{NAME}/")), b"");
        assert!(got.status.success(), "{version:?}: {}", got.all());
        assert_eq!(got.stdout, GREETING);
    }
    (signer, proxy)
}

#[test]
fn a_key_that_is_made_in_the_token_serves_with_the_certificate_of_its_request() {
    for algorithm in ["ec-p256", "ec-p384", "rsa-2048", "ed25519"] {
        let build = site("EC:prime256v1");
        let parts = build.prepare();
        admin(
            &parts,
            &[
                "key",
                "generate",
                "--algorithm",
                algorithm,
                "--label",
                "made",
            ],
        );
        let request = parts.dir().join("made.csr");
        admin(
            &parts,
            &[
                "key",
                "csr",
                "--label",
                "made",
                "--dns",
                NAME,
                "--out",
                request.to_str().unwrap(),
            ],
        );
        parts
            .site_ca
            .sign_request("made", &std::fs::read_to_string(&request).unwrap());
        let programs = serve_with_it(&build, &parts);
        drop(programs);
        assert_eq!(parts.token.shim().report().readable(), 0);
        // One purpose, and no way out (security rule K5).
        let listed = run(
            parts
                .token
                .pkcs11_tool()
                .args(["--list-objects", "--type", "privkey"]),
            b"",
        )
        .text();
        let made = listed
            .split("Private Key Object")
            .find(|object| object.contains("made"))
            .unwrap();
        let line = |name: &str| {
            made.lines()
                .find_map(|line| line.trim().strip_prefix(name))
                .map(str::trim)
        };
        assert_eq!(line("Usage:"), Some("sign"), "{algorithm}: {made}");
        assert_eq!(
            line("Access:"),
            Some("sensitive, always sensitive, never extractable, local"),
            "{made}"
        );
    }
}

#[test]
fn a_key_from_a_file_serves_and_the_file_stays_as_it_is() {
    let kinds = [
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..],
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["-algorithm", "ED25519"],
    ];
    for kind in kinds {
        let build = site("EC:prime256v1");
        let parts = build.prepare();
        let file = parts.dir().join("made.key");
        let made = run(
            Command::new("openssl")
                .arg("genpkey")
                .args(kind)
                .arg("-out")
                .arg(&file),
            b"",
        );
        assert!(made.status.success(), "{}", made.all());
        let public = ["pkey", "-pubout", "-outform", "DER", "-in"];
        let spki = run(Command::new("openssl").args(public).arg(&file), b"").stdout;
        let certificate = parts.site_ca.site("made", &[NAME], &spki);
        let before = std::fs::read(&file).unwrap();

        let (file_text, certificate) = (file.to_str().unwrap(), certificate.to_str().unwrap());
        let said = admin(
            &parts,
            &[
                "key",
                "import",
                file_text,
                "--label",
                "made",
                "--yes",
                "--certificate",
                certificate,
            ],
        );
        assert!(
            said.all().contains("destroy"),
            "that the file should now be destroyed: {}",
            said.all()
        );
        assert_eq!(std::fs::read(&file).unwrap(), before);
        let programs = serve_with_it(&build, &parts);
        drop(programs);
        assert_eq!(parts.token.shim().report().readable(), 0);

        // Once more is refused, and so is a certificate of another key.
        let again = admin_may_fail(
            &parts,
            &["key", "import", file_text, "--label", "made", "--yes"],
        );
        assert_eq!(again.status.code(), Some(1), "{}", again.all());
        let other = parts.dir().join("key-0.pem");
        let other = [
            "key",
            "import",
            file_text,
            "--label",
            "other",
            "--yes",
            "--certificate",
            other.to_str().unwrap(),
        ];
        let other = admin_may_fail(&parts, &other);
        assert_eq!(other.status.code(), Some(1), "{}", other.all());
    }
}

#[test]
fn the_doctor_finds_a_good_setup_good_and_a_bad_one_bad() {
    let parts = site("EC:prime256v1").prepare();
    let doctor = |parts: &Parts| {
        let mut command = Command::new(binary("signer-admin"));
        command
            .args(["doctor", "--config"])
            .arg(parts.dir().join("signer.toml"));
        run(
            command
                .envs(parts.token.env())
                .envs(parts.token.shim().env()),
            b"",
        )
    };
    let good = doctor(&parts);
    assert!(good.status.success(), "{}", good.all());
    parts.edit("signer.toml", "object=key-0", "object=lost");
    let bad = doctor(&parts);
    assert_eq!(bad.status.code(), Some(1), "{}", bad.all());
    assert!(bad.all().contains("lost"), "{}", bad.all());
}
