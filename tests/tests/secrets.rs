//! What stays in the token, what crosses the channel, and to whom.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use keyhaven_tests::channel::Caller;
use keyhaven_tests::daemon::contains;
use keyhaven_tests::rawtls::{Client12, Client13, Hello};
use keyhaven_tests::relay::pass;
use keyhaven_tests::running::{Site, check_nonces_unique};
use keyhaven_tests::rustls_client::{Offer, connect};
use keyhaven_tests::site::{KEY_TYPES, NAME, SIGNER, empty_site, site};
use keyhaven_wire::{HandshakeId, Next, Reply, Request, Start};
use rcgen::KeyPair;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::version::{TLS12, TLS13};

fn crossed(site: &Site) -> Vec<u8> {
    site.relay.as_ref().unwrap().recorded().concat()
}

#[test]
fn s2_s8_nothing_above_the_session_keys_crosses_the_channel() {
    let site = site("EC:prime256v1").relay(pass()).start();
    for suite in [0x1301, 0x1302, 0x1303] {
        let hello = Hello {
            suites: vec![suite],
            ..Hello::tls13(NAME)
        };
        let mut client = Client13::connect(site.address(), &hello).unwrap();
        let read_key = client.handshake_write_key();
        client.finish().unwrap();
        client.ask().unwrap();
        let crossed = crossed(&site);
        assert!(
            contains(&crossed, &read_key),
            "what does cross can be seen in the recording"
        );
        for secret in client.secrets() {
            assert!(
                !contains(&crossed, &secret),
                "a secret of the key schedule crossed"
            );
        }
        assert!(
            !contains(&crossed, client.verify_data()),
            "verify_data crossed: the lock's key"
        );
        for key in client.application_keys() {
            assert!(
                !contains(&crossed, &key),
                "an application key crossed outside the locked box"
            );
        }
    }
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    for key in client.application_keys() {
        assert!(
            !contains(&crossed(&site), key),
            "a key crossed before the Finished"
        );
    }
    client.finish().unwrap();
    client.ask().unwrap();
    let crossed = crossed(&site);
    for key in client.application_keys() {
        assert!(
            contains(&crossed, key),
            "what does cross can be seen in the recording"
        );
    }
    for secret in client.secrets() {
        assert!(
            !contains(&crossed, secret),
            "a secret above the session keys crossed"
        );
    }
}

#[test]
fn s4_the_private_key_is_neither_on_the_channel_nor_in_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("key.pem");
    let key = KeyPair::generate().unwrap();
    std::fs::write(&pem, key.serialize_pem()).unwrap();
    // The scalar in PKCS#8: INTEGER 1, then an OCTET STRING of 32 bytes (RFC 5915).
    let der = key.serialized_der();
    let at = der
        .windows(5)
        .position(|window| window == [2, 1, 1, 4, 32])
        .unwrap()
        + 5;
    let scalar = &der[at..at + 32];

    let site = site("EC:prime256v1").imported(&pem).relay(pass()).start();
    for versions in [vec![&TLS13], vec![&TLS12]] {
        connect(
            site.address(),
            NAME,
            &site.ca(),
            &Offer {
                versions,
                ..Offer::default()
            },
        )
        .unwrap();
    }
    assert!(!contains(&crossed(&site), scalar));
    // Only a debugger may look; where this test may not, the frames have to do.
    if !may_debug() {
        eprintln!("left out: the search of the proxy's memory, which needs CAP_SYS_PTRACE");
        return;
    }
    assert_eq!(
        site.proxy.memory_holds(scalar),
        Some(false),
        "the proxy has the private key"
    );
    assert_eq!(
        site.proxy.memory_holds(SIGNER.as_bytes()),
        Some(true),
        "and the search does find things"
    );
}

/// Whether this process may read the memory of one that has made itself undumpable.
fn may_debug() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap().trim(), 16).unwrap();
    effective & CAP_SYS_PTRACE != 0
}

#[test]
fn s5_the_channel_shows_nothing_to_those_who_listen() {
    let build = site("EC:prime256v1");
    let parts = build.prepare();
    let signer = parts.spawn_signer();
    let (address, heard) = listen_in(signer.listening());
    build.write_proxy_config(parts.dir(), &[address], parts.backend.address());
    let proxy = parts.spawn_proxy();
    let mut client = Client13::connect(proxy.listening(), &Hello::tls13(NAME)).unwrap();
    let key = client.handshake_write_key();
    client.finish().unwrap();
    client.ask().unwrap();
    let heard = heard.lock().unwrap().clone();
    assert!(heard.len() > 2_000, "the handshake went through here");
    assert!(!contains(&heard, &key), "a session key in the clear");
    assert!(
        !contains(&heard, NAME.as_bytes()),
        "the client's name in the clear"
    );
    assert!(!contains(&heard, b"spiffe://"), "an identity in the clear");
}

/// A plain TCP relay: where it listens, and what it hears.
fn listen_in(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Mutex<Vec<u8>>>::default();
    let all = heard.clone();
    thread::spawn(move || {
        for from in listener.incoming().map_while(Result::ok) {
            let to = TcpStream::connect(to).unwrap();
            for (mut from, mut to) in [
                (from.try_clone().unwrap(), to.try_clone().unwrap()),
                (to.try_clone().unwrap(), from),
            ] {
                let all = all.clone();
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        all.lock().unwrap().extend_from_slice(&buffer[..count]);
                        if to.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    (address, heard)
}

#[test]
fn no_key_of_any_handshake_can_be_read_from_the_token() {
    let names = [
        "a.keyhaven.test",
        "b.keyhaven.test",
        "c.keyhaven.test",
        "d.keyhaven.test",
    ];
    let build = KEY_TYPES
        .iter()
        .zip(names)
        .fold(empty_site(), |build, (key, name)| build.name(name, &[key]));
    let site = build.start();
    let before = site.shim().report();
    let mut handshakes = 0;
    for name in names {
        for group in [kx_group::SECP256R1, kx_group::X25519, kx_group::SECP384R1] {
            for version in [&TLS13, &TLS12] {
                let offer = Offer {
                    versions: vec![version],
                    groups: vec![group],
                    ..Offer::default()
                };
                handshakes += u64::from(connect(site.address(), name, &site.ca(), &offer).is_ok());
            }
        }
    }
    assert!(handshakes >= 18, "{handshakes}");
    let after = site.shim().report();
    assert!(
        after.examined() - before.examined() >= 2 * handshakes,
        "a private key and a shared secret for each"
    );
    assert_eq!(after.readable(), 0);
    assert_eq!(
        after.value_asked(),
        before.value_asked(),
        "a handshake never asks for a key's value"
    );
}

#[test]
fn s10_the_signer_signs_nothing_but_its_own_transcripts() {
    let site = site("EC:prime256v1").start();
    let mut caller = Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
    assert!(matches!(caller.call(&Request::Ping), Ok(Reply::Pong)));
    let before = site.shim().report();
    let digest = [0x5a; 32];
    let message = [
        [0x20; 64].as_slice(),
        b"TLS 1.3, server CertificateVerify\0",
        &digest,
    ]
    .concat();
    for content in [
        digest.to_vec(),
        message.clone(),
        keyhaven_tests::rawtls::handshake_message(1, &message),
    ] {
        let records = keyhaven_tests::rawtls::record(22, &content);
        let start = Start {
            handshake: HandshakeId([1; 32]),
            client: "127.0.0.1:1".to_owned(),
            records,
        };
        let reply = caller.call(&Request::Start(start)).unwrap();
        let refused = match &reply {
            Reply::Error(_) => true,
            Reply::Handshake(reply) => matches!(reply.next, Next::Refused { .. }),
            _ => false,
        };
        assert!(refused, "{reply:?}");
    }
    let after = site.shim().report();
    assert_eq!(
        after.calls_since(&before),
        "",
        "the token was not even asked"
    );
}

#[test]
fn every_record_has_a_nonce_of_its_own_and_is_in_the_log() {
    let site = site("EC:prime256v1").start();
    let mut records = 0;
    for _ in 0..5 {
        let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
        client.ask().unwrap();
        records += client.read.seq as usize;
        let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
        client.finish().unwrap();
        client.ask().unwrap();
        records += 1;
    }
    let nonces = site.parts.nonces();
    assert!(
        nonces.len() >= records,
        "{} of {records} records",
        nonces.len()
    );
    check_nonces_unique(&nonces);
}
