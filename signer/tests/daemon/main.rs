//! The running signer: a new state taken over or refused while it serves, and the metrics.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    time::{Duration, SystemTime},
};

mod running;
mod staple;

use running::{Place, site};

#[test]
fn a_hangup_takes_over_the_file_as_a_whole() {
    let place = Place::new();
    place.configure("", &place.first(""), &site("one", ""));
    let mut signer = place.start();
    assert!(signer.tells("keyhaven_certificate_not_after_seconds{site=\"one.example\""));
    assert!(!signer.tells("keyhaven_certificate_not_after_seconds{site=\"two.example\""));
    assert!(signer.tells("keyhaven_token_up{token=\"first\",name=\"main\"} 1"));
    let two = site("two", "custody_max = \"signature\"");
    place.configure("handshakes_max = 5", &place.first(""), &two);
    signer.hang_up();
    let ignored = signer.wait_for("taken over at the next start");
    assert_eq!(ignored["what"], "[limits]");
    assert_eq!(signer.wait_for("site added")["site"], "two.example");
    assert_eq!(signer.wait_for("site removed")["site"], "one.example");
    assert_eq!(
        signer.wait_for("configuration taken over")["cause"],
        "SIGHUP"
    );
    assert!(signer.tells("keyhaven_certificate_not_after_seconds{site=\"two.example\""));
    assert!(!signer.tells("keyhaven_certificate_not_after_seconds{site=\"one.example\""));
    assert!(signer.tells("keyhaven_reloads_total{result=\"taken\"} 1"));
    assert!(signer.stop());
}

#[test]
fn a_state_that_cannot_be_served_is_refused_and_the_old_one_serves_on() {
    let place = Place::new();
    place.configure("", &place.first(""), &site("one", ""));
    let mut signer = place.start();
    let sites = |more: &str| format!("{}{}", site("one", ""), site("two", more));
    for (sites, why) in [
        (sites("client_ca = \"ca.pem\""), "client_auth ="),
        (
            sites("custody_min = \"schedule\""),
            "custody_min is schedule",
        ),
        (sites("typo = 1"), "typo"),
        (
            site("two", "").replace("object=two", "object=absent"),
            "no usable key",
        ),
        (
            site("two", "").replace("two.pem", "one.pem"),
            "no usable key",
        ),
    ] {
        place.configure("", &place.first(""), &sites);
        signer.hang_up();
        let refused = signer.wait_for("the old one serves on").to_string();
        assert!(refused.contains(why), "{why} in {refused}");
    }
    assert!(signer.tells("keyhaven_certificate_not_after_seconds{site=\"one.example\""));
    assert!(!signer.tells("keyhaven_certificate_not_after_seconds{site=\"two.example\""));
    assert!(signer.tells("keyhaven_reloads_total{result=\"refused\"} 5"));
    place.configure("", &place.first(""), &sites(""));
    signer.hang_up();
    signer.wait_for("configuration taken over");
    assert!(signer.stop());
}

#[test]
fn a_renewed_certificate_is_noticed_and_a_file_that_is_being_edited_is_not() {
    let place = Place::new();
    place.configure("reload_every_s = 1", &place.first(""), &site("one", ""));
    let signer = place.start();
    place.configure("reload_every_s = 1", &place.first(""), "half a");
    place.certify("one", 0x77);
    let changed = signer.wait_for("site changed");
    assert_eq!(changed["what"], "certificates");
    assert!(changed["from"].as_str().unwrap().starts_with("01 until"));
    assert!(changed["to"].as_str().unwrap().starts_with("77 until"));
    assert_eq!(
        signer.wait_for("configuration taken over")["cause"],
        "files"
    );
    assert!(
        signer.tells("keyhaven_certificate_not_after_seconds{site=\"one.example\",serial=\"77\"}")
    );
}

#[test]
fn a_staple_that_ends_while_the_signer_serves_is_left_out() {
    let place = Place::new();
    let certificate = fs::read_to_string(place.path("one.pem")).unwrap();
    let until = SystemTime::now() + Duration::from_secs(4);
    fs::write(place.path("one.ocsp"), staple::good(&certificate, until)).unwrap();
    let site = site("one", "") + "ocsp = \"one.ocsp\"\n";
    // Nobody looks at the files, and yet.
    place.configure("reload_every_s = 0", &place.first(""), &site);
    let signer = place.start();
    let warning = signer.wait_for("is not stapled").to_string();
    assert!(warning.contains("nextUpdate"), "{warning}");
    let changed = signer.wait_for("site changed");
    assert!(
        changed["from"]
            .as_str()
            .unwrap()
            .contains(", stapled until")
    );
    assert!(!changed["to"].as_str().unwrap().contains("stapled"));
    assert!(SystemTime::now() >= until);
}

#[test]
fn a_broken_certificate_is_refused_and_its_repair_noticed() {
    let place = Place::new();
    place.configure("reload_every_s = 1", &place.first(""), &site("one", ""));
    let signer = place.start();
    place.write("one.pem", "half a certificate");
    let refused = signer.wait_for("the old one serves on").to_string();
    assert!(refused.contains("one.pem"), "{refused}");
    place.certify("one", 0x78);
    signer.wait_for("configuration taken over");
    assert!(
        signer.tells("keyhaven_certificate_not_after_seconds{site=\"one.example\",serial=\"78\"}")
    );
}

#[test]
fn what_is_open_is_not_opened_again() {
    let place = Place::new();
    let shim = place.token.shim();
    let module = format!("module = \"{}\"", shim.module().display());
    place.configure("", &place.first(&module), &site("one", ""));
    let signer = place.start();
    let before = shim.report();
    place.certify("one", 2);
    signer.hang_up();
    signer.wait_for("configuration taken over");
    let after = shim.report();
    assert_eq!(
        after.total(),
        before.total(),
        "{}",
        after.calls_since(&before)
    );
    // A second key costs its own finding and proof, and no login.
    let sites = format!("{}{}", site("one", ""), site("two", ""));
    place.configure("", &place.first(&module), &sites);
    signer.hang_up();
    signer.wait_for("configuration taken over");
    let more = shim.report();
    assert!(more.calls("C_Sign") > after.calls("C_Sign"));
    for once in ["C_Login", "C_GenerateKeyPair"] {
        assert_eq!(more.calls(once), after.calls(once), "{once}");
    }
}

#[test]
fn a_new_token_is_opened_and_nobody_is_asked_for_a_pin() {
    let place = Place::new();
    // SoftHSM2 sees the tokens that were there when it was loaded.
    place.token.init("second").unwrap();
    place.configure("", &place.first(""), &site("one", ""));
    let mut signer = place.start();
    let keeper = |query: &str| {
        let second =
            format!("[[token]]\nname = \"keeper\"\nuri = \"pkcs11:token=second{query}\"\n");
        place.first("") + &second
    };
    let sites = site("one", "exchange_token = \"keeper\"");
    place.configure("", &keeper(""), &sites);
    signer.hang_up();
    let refused = signer.wait_for("the old one serves on").to_string();
    assert!(refused.contains("nobody is asked for a PIN"), "{refused}");
    let pin = format!("?pin-source=file:{}", place.token.pin_file().display());
    place.configure("", &keeper(&pin), &sites);
    signer.hang_up();
    assert_eq!(
        signer.wait_for("token is open and proven")["token"],
        "keeper"
    );
    let changed = signer.wait_for("site changed");
    assert_eq!(changed["to"], "signing main, exchange keeper");
    assert!(signer.tells("keyhaven_token_up{token=\"second\",name=\"keeper\"} 1"));
    place.configure("", &place.first(""), &site("one", ""));
    signer.hang_up();
    assert_eq!(
        signer.wait_for("site changed")["to"],
        "signing main, exchange main"
    );
    assert!(!signer.tells("keyhaven_token_up{token=\"second\""));
    assert!(signer.stop());
}

#[test]
fn a_token_that_is_away_is_told_so() {
    let place = Place::new();
    place.configure("", &place.first(""), &site("one", ""));
    let signer = place.start();
    place.token.remove_dir().unwrap();
    assert!(signer.tells("keyhaven_token_up{token=\"first\",name=\"main\"} 0"));
}

#[test]
fn metrics_are_bounded_in_size_connections_and_time() {
    let place = Place::new();
    place.configure("", &place.first(""), &site("one", ""));
    let signer = place.start();
    assert!(
        signer
            .ask("GET /else HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 404 ")
    );
    assert!(
        signer
            .ask("PUT /metrics HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 405 ")
    );
    assert!(signer.ask(&"x".repeat(4096)).starts_with("HTTP/1.1 431 "));
    let mut silent: Vec<_> = (0..16).map(|_| signer.connect()).collect();
    for stream in &mut silent {
        stream.write_all(b"GET").unwrap();
    }
    // One more is closed without an answer, while the others are not.
    let mut more = signer.connect();
    let answer = more.read_to_end(&mut Vec::new());
    assert!(
        matches!(answer, Ok(0)) || answer.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
    );
    silent[0].set_nonblocking(true).unwrap();
    let open = silent[0].read(&mut [0]);
    assert!(open.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    silent[0].set_nonblocking(false).unwrap();
    // The silent ones are closed in time, and then there is room again.
    for stream in &mut silent {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(signer.tells("keyhaven_handshakes_started_total 0"));
}
