//! Each key beyond the first ones: its meaning, its default, and each thing that can be wrong with it.

use std::time::{Duration, SystemTime};

use keyhaven_handshake::ClientAuth;
use keyhaven_types::CustodyLevel;
use rcgen::{CertificateParams, DnType, date_time_ymd};

use super::folder::{Folder, data, list, pem};

#[test]
fn the_annotated_file_is_good_and_its_defaults_are_as_it_says() {
    let config = Folder::new().good();
    assert_eq!(config.warnings, [""; 0]);
    assert!(config.tickets.is_none() && config.metrics.is_none());
    assert!(!config.rekey.persistent && config.rekey.seal_secret.is_none());
    assert_eq!(config.limits.reload_every, Duration::from_secs(30));
    assert_eq!(config.tokens[0].init_args, None);
    let site = &config.sites[0];
    assert!(matches!(site.client_auth, ClientAuth::None));
    assert!(site.exchange_token.is_none() && !site.prefer_hybrid);
    let key = &site.keys[0];
    assert_eq!(key.custody_min, CustodyLevel::Signature);
    assert!(key.ocsp.is_none() && config.staples_until().is_none());
    assert!(key.not_after > SystemTime::now());
}

#[test]
fn tickets_are_on_with_their_section_alone() {
    let tickets = Folder::new().tickets("").good().tickets.unwrap();
    assert_eq!(tickets.lifetime, Duration::from_secs(43_200));
    assert!(tickets.secret.is_none() && !tickets.persistent && !tickets.tls12);
    let written = "lifetime_s = 60\nsecret = \"tickets.key\"\ntoken_keys = \"token\"\ntls12 = true";
    let tickets = Folder::new().tickets(written).good().tickets.unwrap();
    assert_eq!(tickets.lifetime, Duration::from_secs(60));
    assert!(tickets.secret.is_some() && tickets.persistent && tickets.tls12);
}

#[test]
fn tickets_live_a_minute_to_a_day() {
    for wrong in ["59", "86401"] {
        let folder = Folder::new().tickets(&format!("lifetime_s = {wrong}"));
        folder.problem(
            &format!("lifetime_s = {wrong}"),
            "out of range",
            "60 to 86400",
        );
    }
}

#[test]
fn a_ticket_secret_is_its_owners_alone_and_long_and_for_tickets_only() {
    let folder = || Folder::new().tickets("secret = \"tickets.key\"");
    let place = "secret = \"tickets.key\"";
    let open = folder();
    open.mode("tickets.key", 0o640);
    open.problem(place, "can be read by others", "chmod 600");
    let short = folder();
    short.secret("tickets.key", &[1; 31]);
    short.problem(place, "31 bytes", "openssl rand");
    let absent = folder();
    std::fs::remove_file(absent.path("tickets.key")).unwrap();
    absent.problem(place, "cannot read secret", "openssl rand");
    let seals = folder().key("seal_key", "\"seal.key\"");
    seals.good();
    seals.secret("seal.key", &[1; 32]);
    seals.problem(place, "same as seal_key", "one purpose");
}

#[test]
fn keys_of_the_token_are_the_process_or_the_tokens() {
    let shared = Folder::new().with(
        "connection_lifetime_s = 86400",
        "connection_lifetime_s = 86400\ntoken_keys = \"token\"",
    );
    assert!(shared.good().rekey.persistent);
    let wrong = Folder::new().tickets("token_keys = \"disk\"").read();
    let said = wrong.err().unwrap().to_string();
    assert!(
        said.contains("signer.toml:") && said.contains("disk"),
        "{said}"
    );
}

#[test]
fn metrics_are_served_at_an_address_and_a_public_one_is_warned_of() {
    let metrics = |address: &str| {
        Folder::new().with(
            "# listen = \"127.0.0.1:9464\"",
            &format!("listen = \"{address}\""),
        )
    };
    let config = metrics("[::1]:9464").good();
    assert!(config.warnings.is_empty());
    assert_eq!(config.metrics, Some("[::1]:9464".parse().unwrap()));
    metrics("0.0.0.0:9464").warning("whoever reaches 0.0.0.0:9464");
    metrics("9464").problem("listen = \"9464\"", "not an address", "IP:PORT");
}

#[test]
fn files_are_looked_at_as_often_as_wanted_or_never() {
    let every = |seconds: &str| {
        Folder::new().with(
            "reload_every_s = 30",
            &format!("reload_every_s = {seconds}"),
        )
    };
    assert!(every("0").good().limits.reload_every.is_zero());
    every("86401").problem("reload_every_s = 86401", "out of range", "0 to 86400");
    let folder = every("1")
        .key("client_auth", "\"optional\"")
        .key("client_ca", "\"clients-ca.pem\"")
        .key("client_crl", "[\"clients.crl\"]");
    let names = ["clients-ca.pem", "clients.crl", "demo.pem"];
    folder.good();
    assert_eq!(folder.watched(), names.map(|name| folder.path(name)));
}

#[test]
fn one_module_is_initialised_in_one_way() {
    let folder = Folder::new().key("init_args", "\"configdir=x\"");
    let second = "[[token]]\nname = \"keeper\"\nuri = \"pkcs11:token=k?pin-source=file:pin\"";
    let two = |arguments: &str| {
        Folder::new()
            .key("init_args", "\"configdir=x\"")
            .with("# One or more sites:", &format!("{second}\n{arguments}\n#"))
    };
    assert_eq!(
        folder.good().tokens[0].init_args.as_deref(),
        Some("configdir=x")
    );
    two("init_args = \"configdir=x\"").good();
    two("init_args = \"configdir=y\"").problem(
        "configdir=y",
        "different init_args",
        "initialised once",
    );
    two("").problem(
        "name = \"keeper\"",
        "different init_args",
        "initialised once",
    );
}

#[test]
fn levels_up_to_schedule_can_be_demanded() {
    for level in ["premaster", "master", "schedule"] {
        let demanded = format!("custody_min = \"{level}\"");
        let folder = Folder::new().with(
            "custody_min = \"signature\"\n# The most",
            &format!("{demanded}\n# The most"),
        );
        let config = folder.good();
        assert_eq!(config.sites[0].custody_min, level.parse().unwrap());
        assert_eq!(config.sites[0].keys[0].custody_min, level.parse().unwrap());
    }
}

/// A key with a level of its own, in a site with others.
fn levels(key: &str, site_min: &str, site_max: &str) -> Folder {
    Folder::new()
        .with(
            "custody_min = \"signature\"\n# The most",
            &format!("custody_min = \"{site_min}\"\n# The most"),
        )
        .key("custody_max", &format!("\"{site_max}\""))
        .with(
            "# custody_min = \"signature\"\n# An OCSP",
            &format!("custody_min = \"{key}\"\n# An OCSP"),
        )
}

#[test]
fn a_key_may_demand_more_than_its_site() {
    let config = levels("schedule", "premaster", "schedule").good();
    assert_eq!(config.sites[0].custody_min, CustodyLevel::Premaster);
    assert_eq!(config.sites[0].keys[0].custody_min, CustodyLevel::Schedule);
    let config = levels("signature", "premaster", "schedule").warning("below the site's");
    assert_eq!(config.sites[0].keys[0].custody_min, CustodyLevel::Premaster);
    levels("schedule", "signature", "master").problem(
        "custody_min = \"schedule\"",
        "above the site's custody_max",
        "never be used",
    );
    levels("premaster", "premaster", "signature")
        .read()
        .err()
        .unwrap();
}

#[test]
fn the_exchange_token_is_one_of_the_file() {
    let config = Folder::new().key("exchange_token", "\"main\"").good();
    assert_eq!(config.sites[0].exchange_token.as_deref(), Some("main"));
    Folder::new().key("exchange_token", "\"keeper\"").problem(
        "exchange_token = \"keeper\"",
        "no [[token]] named \"keeper\"",
        "name of a [[token]]",
    );
    Folder::new()
        .key("exchange_token", "\"main\"")
        .key("custody_max", "\"signature\"")
        .warning("exchange_token is not used");
}

#[test]
fn hybrid_first_is_a_choice() {
    assert!(Folder::new().key("prefer_hybrid", "true").good().sites[0].prefer_hybrid);
}

fn clients(mode: &str) -> Folder {
    Folder::new()
        .key("client_auth", &format!("\"{mode}\""))
        .key("client_ca", "\"clients-ca.pem\"")
}

#[test]
fn clients_are_asked_as_wanted() {
    let optional = clients("optional").good();
    let ClientAuth::Optional(authorities) = &optional.sites[0].client_auth else {
        panic!("not optional");
    };
    assert_eq!((authorities.roots.len(), authorities.crls.len()), (1, 0));
    let required = clients("required")
        .key("client_crl", "[\"clients.crl\"]")
        .good();
    assert_eq!(required.warnings, [""; 0]);
    let ClientAuth::Required(authorities) = &required.sites[0].client_auth else {
        panic!("not required");
    };
    assert_eq!((authorities.roots.len(), authorities.crls.len()), (1, 1));
}

#[test]
fn asking_clients_needs_a_ca_and_a_ca_needs_the_asking() {
    Folder::new().key("client_auth", "\"required\"").problem(
        "client_auth = \"required\"",
        "needs client_ca",
        "PEM",
    );
    Folder::new()
        .key("client_ca", "\"clients-ca.pem\"")
        .problem(
            "client_ca = \"clients",
            "no client is asked",
            "client_auth =",
        );
    Folder::new()
        .key("client_crl", "[\"clients.crl\"]")
        .problem("client_crl = [", "no client is asked", "client_auth =");
}

#[test]
fn a_bad_ca_bundle_is_told() {
    let place = "client_ca = \"clients";
    let folder = clients("required");
    folder.write("clients-ca.pem", "nothing\n");
    folder.problem(place, "holds no certificate", "PEM");
    folder.write("clients-ca.pem", pem("CERTIFICATE", b"no DER"));
    folder.problem(place, "not X.509", "PEM");
    folder.write("clients-ca.pem", "-----BEGIN CERTIFICATE-----\n!\n");
    folder.problem(place, "clients-ca.pem", "PEM");
    std::fs::remove_file(folder.path("clients-ca.pem")).unwrap();
    folder.problem(place, "cannot read client_ca", "path");
}

#[test]
fn too_many_names_of_cas_are_refused() {
    let folder = clients("required");
    let mut bundle = String::new();
    for number in 0..40 {
        folder.authority("one.pem", &format!("{number}{}", "x".repeat(900)));
        bundle += &std::fs::read_to_string(folder.path("one.pem")).unwrap();
    }
    folder.write("clients-ca.pem", bundle);
    folder.problem(
        "client_ca = \"clients",
        "more than 32768 bytes",
        "every client",
    );
}

#[test]
fn a_ca_that_is_none_or_is_old_is_warned_of() {
    let folder = clients("required");
    let ca = folder.authority("other.pem", "Other");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.not_after = date_time_ymd(2021, 1, 1);
    folder.leaf("clients-ca.pem", &params, &ca);
    folder.warning("is not a CA");
    folder.warning("is not valid now");
}

#[test]
fn revocation_lists_are_pem_or_der() {
    let folder = clients("required").key("client_crl", "[\"clients.crl\"]");
    let ca = folder.authority("clients-ca.pem", "Clients");
    folder.write("clients.crl", list(&ca, 2090));
    folder.good();
    let twice = pem("X509 CRL", &list(&ca, 2090)).repeat(2);
    folder.write("clients.crl", twice);
    let ClientAuth::Required(authorities) = &folder.good().sites[0].client_auth else {
        panic!("not required");
    };
    assert_eq!(authorities.crls.len(), 2);
    let mut cut = list(&ca, 2090);
    cut.pop();
    for bad in [&b"nothing"[..], &cut, &data("ocsp/leaf.der")] {
        folder.write("clients.crl", bad);
        folder.problem("client_crl = [", "not a revocation list", "fetch");
    }
    std::fs::remove_file(folder.path("clients.crl")).unwrap();
    folder.problem("client_crl = [", "cannot read client_crl", "path");
}

#[test]
fn a_revocation_list_that_lets_nobody_in_is_warned_of() {
    let folder = clients("required").key("client_crl", "[\"clients.crl\"]");
    let ca = folder.authority("clients-ca.pem", "Clients");
    folder.write("clients.crl", list(&ca, 2021));
    folder.warning("is out of date");
    let other = folder.authority("other.pem", "Other");
    folder.write("clients.crl", list(&other, 2090));
    folder.warning("no list of the CA");
}

#[test]
fn a_staple_that_is_no_response_is_refused() {
    let folder = Folder::new().key("ocsp", "\"demo.ocsp\"");
    let place = "ocsp = \"demo.ocsp\"";
    folder.problem(place, "cannot read ocsp", "path");
    folder.write("demo.ocsp", "nothing");
    folder.problem(place, "not an OCSP response", "openssl ocsp");
    folder.write("demo.ocsp", [0; 9000]);
    folder.problem(place, "more than 8192 bytes", "");
}

#[test]
fn a_staple_that_does_not_say_good_is_left_out_and_warned_of() {
    let folder = Folder::new().key("ocsp", "\"demo.ocsp\"");
    // As after a renewal, before the new certificate's response is there.
    folder.write("demo.ocsp", data("ocsp/good.der"));
    let config = folder.warning("another certificate");
    assert!(config.sites[0].keys[0].ocsp.is_none());
    folder.write("demo.pem", pem("CERTIFICATE", &data("ocsp/leaf.der")));
    for (file, what) in [
        ("ocsp/revoked.der", "revoked"),
        ("ocsp/unknown.der", "does not know"),
        ("ocsp/failed.der", "status 2"),
    ] {
        folder.write("demo.ocsp", data(file));
        let config = folder.warning(what);
        assert!(config.sites[0].keys[0].ocsp.is_none());
    }
    folder.write("demo.ocsp", data("ocsp/endless.der"));
    let config = folder.good();
    let key = &config.sites[0].keys[0];
    assert_eq!(key.ocsp, Some(data("ocsp/endless.der")));
    assert_eq!(key.serial, "00:f1:e2:d3:c4:b5:a6:97:88");
}

#[test]
fn a_leaf_that_ends_soon_is_warned_of() {
    use std::time::UNIX_EPOCH;
    let folder = Folder::new();
    let ca = folder.authority("ca.pem", "CA");
    let now = SystemTime::now();
    let days = |days: u64| now + Duration::from_secs(days * 86_400);
    let mut params = CertificateParams::new(vec!["demo.keyhaven.test".to_owned()]).unwrap();
    params.not_before = (now - Duration::from_secs(80 * 86_400)).into();
    params.not_after = days(13).into();
    folder.leaf("demo.pem", &params, &ca);
    let config = folder.warning("ends soon");
    let left = config.sites[0].keys[0].not_after.duration_since(UNIX_EPOCH);
    let end = days(13).duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(left.unwrap().as_secs(), end.as_secs());
    // A certificate of a few days is not always about to end.
    params.not_before = now.into();
    params.not_after = days(6).into();
    folder.leaf("demo.pem", &params, &ca);
    assert_eq!(folder.good().warnings, [""; 0]);
    params.not_after = (now - Duration::from_secs(1)).into();
    folder.leaf("demo.pem", &params, &ca);
    folder.warning("is not valid now");
}
