//! Questions on a terminal: util-linux `script` gives the program one, and types the answers.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::support::Bench;

impl Bench {
    /// Runs the program on a terminal with these lines typed; whether it ended well, and what it showed.
    fn typed(&self, arguments: &str, lines: &str) -> (bool, String) {
        let command = format!("{} {arguments}", env!("CARGO_BIN_EXE_signer-admin"));
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .current_dir(self.path("."))
            .envs(self.token.env())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

#[test]
fn a_label_typed_again_deletes_and_another_does_not() {
    let bench = Bench::new();
    bench.json(&["key", "generate", "--algorithm", "ec-p256", "--label", "k"]);
    let delete = format!(
        "key delete --label k --pin-source file:{}",
        bench.token.pin_file().display()
    );
    let (well, shown) = bench.typed(&delete, "j\n");
    assert!(
        !well && shown.contains("the label does not match"),
        "{shown}"
    );
    assert_eq!(bench.labels("privkey"), ["k"]);
    let (well, shown) = bench.typed(&delete, "k\n");
    assert!(well && shown.contains("is deleted"), "{shown}");
    assert!(bench.labels("privkey").is_empty());
}

#[test]
fn an_import_waits_for_a_yes() {
    let bench = Bench::new();
    bench.make("ec-p256");
    let import = format!(
        "key import ec-p256.pem --label k --pin-source file:{}",
        bench.token.pin_file().display()
    );
    for answer in ["\n", "n\n", "yep\n"] {
        let (well, shown) = bench.typed(&import, answer);
        assert!(!well && shown.contains("nothing was done"), "{shown}");
        assert!(bench.labels("privkey").is_empty());
    }
    let (well, shown) = bench.typed(&import, "y\n");
    assert!(well && shown.contains("About to import"), "{shown}");
    assert_eq!(bench.labels("privkey"), ["k"]);
}

#[test]
fn an_initialised_token_goes_only_when_its_label_is_typed() {
    let bench = Bench::new();
    bench
        .token
        .generate_key("EC:prime256v1", "k", "01")
        .unwrap();
    let pin = bench.secret("pin", "4321");
    let so = bench.secret("so", bench.token.so_pin());
    let init = format!("token init --label test --pin-source {pin} --so-pin-source {so}");
    let (well, shown) = bench.typed(&init, "yes\n");
    assert!(
        !well && shown.contains("Every key in it will be destroyed"),
        "{shown}"
    );
    assert_eq!(bench.labels("privkey"), ["k"]);
    let (well, shown) = bench.typed(&init, "test\n");
    assert!(well && shown.contains("initialised again"), "{shown}");
}

#[test]
fn an_empty_pin_is_not_sent_to_the_token() {
    let bench = Bench::new();
    let (well, shown) = bench.typed("token status", "\n");
    assert!(!well && shown.contains("typed is empty"), "{shown}");
    assert!(!shown.contains("refused the PIN"), "{shown}");
    // The token has counted no wrong try.
    let list = bench.json(&["token", "status"]);
    assert_eq!(list["token"]["user_pin"], "set");
}

#[test]
fn pins_are_asked_for_and_a_new_one_is_typed_twice() {
    let bench = Bench::new();
    let (well, shown) = bench.typed(
        "token init --label second",
        "55667788\n55667788\n4321\n4322\n",
    );
    assert!(
        !well && shown.contains("the two entries of the user PIN differ"),
        "{shown}"
    );
    let (well, shown) = bench.typed(
        "token init --label second",
        "55667788\n55667788\n4321\n4321\n",
    );
    assert!(
        well && shown.contains("token `second` is initialised"),
        "{shown}"
    );
    let (well, shown) = bench.typed("token status --token second", "4321\n");
    assert!(well && shown.contains("private keys  0"), "{shown}");
}

#[test]
fn what_cannot_be_taken_back_is_done_only_after_its_name_was_typed() {
    let bench = Bench::new();
    for (verb, name) in [("era bump", "bump"), ("site evict fra", "fra")] {
        let verb = format!("kms {verb} --client nowhere.toml");
        let (well, shown) = bench.typed(&verb, "no\n");
        assert!(!well && shown.contains("nothing was done"), "{shown}");
        assert!(!shown.contains("cannot read nowhere.toml"), "{shown}");
        // It goes on, as far as it can here.
        let (well, shown) = bench.typed(&verb, &format!("{name}\n"));
        assert!(
            !well && shown.contains("cannot read nowhere.toml"),
            "{shown}"
        );
        assert!(!shown.contains("nothing was done"), "{shown}");
    }
}
