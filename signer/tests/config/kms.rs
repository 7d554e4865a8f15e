//! `[kms]`: what it means, its defaults, and each thing that can be wrong with it.

use std::time::Duration;

use keyhaven_service::config::LogFormat;
use keyhaven_types::CustodyLevel;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData as _};

use super::folder::Folder;

const SECTION: &str = "[kms]\nsite = \"fra\"\ntoken = \"main\"\ncentral_key = \"central.pem\"\n\
    replica = \"replica.redb\"\n";
const CENTRAL: &str = "[[kms.central]]\naddress = \"kms.keyhaven.test:7500\"\n\
    identity = \"spiffe://keyhaven.test/central/main\"\n";
/// What stands before the section in the annotated file.
const BEFORE: &str = "# [kms]\n";

/// A folder with central's key and a section: lines of its own, and what comes behind it.
fn folder(more: &str, central: &str) -> Folder {
    let folder = Folder::new().with(BEFORE, &format!("{SECTION}{more}\n{central}"));
    folder.write("central.pem", public(&KeyPair::generate().unwrap()));
    folder
}

fn public(key: &KeyPair) -> String {
    super::folder::pem("PUBLIC KEY", &key.subject_public_key_info())
}

#[test]
fn a_site_of_the_kms_has_these_defaults() {
    let config = folder("", CENTRAL).good();
    assert_eq!(config.log.format, LogFormat::Human);
    let kms = config.kms.unwrap();
    assert_eq!((kms.site.as_str(), kms.token.as_str()), ("fra", "main"));
    assert_eq!(kms.cache_bytes, 64 * 1024 * 1024);
    assert_eq!(kms.unwrapped_max, 4096);
    assert_eq!(kms.peer_interval, Duration::from_secs(2));
    assert_eq!(kms.central[0].address, "kms.keyhaven.test:7500");
    assert!(kms.replica.is_absolute() && kms.alpn.is_empty());
    assert_eq!(kms.custody_min, CustodyLevel::Signature);
    assert_eq!(kms.custody_max, CustodyLevel::Schedule);
    assert!(kms.ticket_key.is_none() && kms.exchange_token.is_none());
    assert!(config.tickets.is_none());
}

#[test]
fn a_ticket_key_turns_tickets_on_and_excludes_a_secret() {
    let ticket_key = "ticket_key = \"edge-tickets\"";
    let config = folder(ticket_key, CENTRAL).good();
    assert!(config.tickets.unwrap().secret.is_none());
    folder(ticket_key, CENTRAL)
        .tickets("secret = \"tickets.key\"")
        .problem(
            "secret = \"tickets.key\"",
            "both a secret",
            "keep one of the two",
        );
}

#[test]
fn what_is_wrong_is_said_with_its_remedy() {
    for (line, wrong, what, remedy) in [
        (
            "site = \"fra\"",
            "site = \"Frankfurt!\"",
            "is no name",
            "as central knows it",
        ),
        (
            "token = \"main\"\ncentral",
            "token = \"other\"\ncentral",
            "no token named",
            "[[token]]",
        ),
        (
            "replica.redb",
            "absent/replica.redb",
            "no folder",
            "make it",
        ),
        (
            "central.pem",
            "absent.pem",
            "cannot be read",
            "ceremony init",
        ),
        (
            "kms.keyhaven.test:7500",
            "kms.keyhaven.test",
            "no address",
            "HOST:PORT",
        ),
        (
            "/central/main",
            "/signer/main",
            "not the role",
            "central/NAME",
        ),
        (
            "spiffe://keyhaven.test/central/main",
            "nobody",
            "no identity",
            "central/NAME",
        ),
    ] {
        let folder = folder("", CENTRAL).with(line, wrong);
        // The line where it stands.
        let place = wrong.lines().next().unwrap();
        folder.problem(place, what, remedy);
    }
}

#[test]
fn numbers_have_their_ranges() {
    for (line, remedy) in [
        ("cache_mb = 0", "1 to 65536"),
        ("unwrapped_max = 0", "1 to 1000000"),
        ("peer_interval_ms = 99", "100 to 60000"),
    ] {
        folder(line, CENTRAL).problem(line, "out of range", remedy);
    }
}

#[test]
fn a_site_needs_a_central_and_levels_that_fit() {
    folder("", "").problem("site = \"fra\"", "no [[kms.central]]", "name at least one");
    let levels = "custody_max = \"premaster\"\ncustody_min = \"master\"";
    folder(levels, CENTRAL).problem("custody_max = \"premaster\"", "below custody_min", "raise");
}

#[test]
fn centrals_key_is_on_p256() {
    let folder = folder("", CENTRAL);
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    folder.write("central.pem", public(&other));
    folder.problem("central_key = \"central.pem\"", "P-256", "ceremony init");
}
