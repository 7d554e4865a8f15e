//! A clear key is nowhere but in tokens: not in a file of central or a site, not in a frame, not in a log.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use keyhaven_tests::daemon::contains;
use keyhaven_tests::kms::{Class, spiffe, world};
use keyhaven_tests::relay::{Relay, pass};
use rcgen::{KeyPair, PKCS_RSA_SHA256};

/// Every file below a folder with its bytes.
fn files(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path, bytes));
        }
    }
}

/// The value of the INTEGER or OCTET STRING numbers that make a PKCS#8 key secret.
fn secrets_of(pair: &KeyPair) -> Vec<Vec<u8>> {
    let der = pair.serialize_der();
    let mut secrets = Vec::new();
    // Whatever is 32 bytes or longer in the private part: scalars, primes, exponents.
    collect(&der, &mut secrets);
    secrets.retain(|secret| !contains(pair.public_key_raw(), secret));
    assert!(!secrets.is_empty());
    secrets
}

/// The contents of every primitive INTEGER and OCTET STRING of a DER, through those that hold DER themselves.
fn collect(mut der: &[u8], found: &mut Vec<Vec<u8>>) {
    while der.len() >= 2 {
        let (tag, first) = (der[0], usize::from(der[1]));
        let (header, len) = match first {
            0x81 if der.len() > 2 => (3, usize::from(der[2])),
            0x82 if der.len() > 3 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
            short if short < 0x80 => (2, short),
            _ => return,
        };
        let Some(content) = der.get(header..header + len) else {
            return;
        };
        match tag {
            0x30 | 0xa0 | 0xa1 => collect(content, found),
            0x04 if content.first() == Some(&0x30) => collect(content, found),
            0x02 | 0x04 if len >= 32 => {
                let zeros = content.iter().take_while(|byte| **byte == 0).count();
                found.push(content[zeros..].to_vec());
            }
            _ => {}
        }
        der = &der[header + len..];
    }
}

#[test]
fn m10_a_clear_key_is_in_no_file_and_in_no_frame() {
    let mut world = world()
        .class(Class::new("all", &["eu"]))
        .site("fra", "eu")
        .start();
    // Everything that goes to and from central, and to and from the site, passes by a relay.
    let towards_central = Relay::start(
        world.central().address,
        &world.central().pair,
        &world.site("fra").pair,
        pass(),
    );
    let config = world.site("fra").dir.join("signer.toml");
    let text = fs::read_to_string(&config).unwrap();
    let central = world.central().address.to_string();
    assert!(text.contains(&central));
    fs::write(
        &config,
        text.replace(&central, &towards_central.address().to_string()),
    )
    .unwrap();
    world.site_mut("fra").kill();
    world.restart_site("fra");
    let alice = keyhaven_tests::pki::Pair {
        certificate: world.dir().join("alice.pem"),
        key: world.dir().join("alice.key"),
    };
    let from_admin = Relay::start(
        world.central().address,
        &world.central().pair,
        &alice,
        pass(),
    );
    let client = fs::read_to_string(world.dir().join("client.toml")).unwrap();
    let relayed = client.replace(&central, &from_admin.address().to_string());
    fs::write(world.dir().join("client.toml"), relayed).unwrap();

    let mut secrets = Vec::new();
    for (name, pair, purpose) in [
        ("curve", KeyPair::generate().unwrap(), "sign"),
        (
            "rsa",
            KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(),
            "decrypt",
        ),
    ] {
        secrets.extend(secrets_of(&pair));
        let path = world.dir().join("import.pem");
        fs::write(&path, pair.serialize_pem()).unwrap();
        let file = path.display().to_string();
        let import = [
            "kms",
            "key",
            "import",
            name,
            "--file",
            &file,
            "--purpose",
            purpose,
            "--class",
            "all",
        ];
        world.admin(&import);
        fs::remove_file(&path).unwrap();
    }
    world.grant(&spiffe("client", "shop"), "curve", &["sign"]);
    fs::write(world.dir().join("client.toml"), client).unwrap();
    world.settle();
    let shop = world.identity("client", "shop");
    let from_client = Relay::start(
        world.site("fra").address,
        &world.site("fra").pair,
        &shop,
        pass(),
    );
    let mut shop = keyhaven_tests::kms::Kms::connect(from_client.address(), &shop);
    shop.sign("curve", b"used").unwrap();

    let mut kept = Vec::new();
    files(world.dir(), &mut kept);
    files(world.site("fra").token.dir(), &mut kept);
    files(world.central().token().dir(), &mut kept);
    let frames: Vec<u8> = [&towards_central, &from_admin, &from_client]
        .iter()
        .flat_map(|relay| relay.recorded().concat())
        .collect();
    // What is looked through has the key's public side, so that the search can find something.
    assert!(contains(&frames, b"curve"), "the frames were recorded");
    assert!(
        kept.iter().any(|(_, bytes)| contains(bytes, b"curve")),
        "the files were read"
    );
    for secret in &secrets {
        assert!(!contains(&frames, secret), "a clear key is in a frame");
        for (path, bytes) in &kept {
            assert!(
                !contains(bytes, secret),
                "a clear key is in {}",
                path.display()
            );
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(
                !contains(bytes, hex.as_bytes()),
                "in hexadecimal in {}",
                path.display()
            );
        }
    }
    let logs = [
        world.site("fra").running().log(),
        world.central().running().log(),
    ]
    .concat();
    for secret in &secrets {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!logs.iter().any(|line| line.contains(&hex)), "in a log");
    }
}
