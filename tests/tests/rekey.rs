//! Traffic keys change when client or proxy want, each once, and only while the signer agrees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use keyhaven_tests::backend::Manner;
use keyhaven_tests::clients::s_client;
use keyhaven_tests::dialogue::{UPDATE, data, echo, update};
use keyhaven_tests::rawtls::{
    APPLICATION_DATA, Client12, Client13, HANDSHAKE, Hello, Incoming, handshake_message,
};
use keyhaven_tests::relay::{Frame, Rule, decode, pass};
use keyhaven_tests::running::{Site, check_nonces_unique};
use keyhaven_tests::site::{NAME, site};
use keyhaven_types::Direction;
use keyhaven_wire::{Reply, Request};

fn echo_site() -> Site {
    site("EC:prime256v1")
        .backend(Manner::Echo)
        .relay(pass())
        .start()
}

#[test]
fn a_clients_key_updates_are_followed_and_answered() {
    let site = echo_site();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    echo(&mut client, b"first");
    update(&mut client, false);
    echo(&mut client, b"second");
    update(&mut client, true);
    echo(&mut client, b"third");
    let [.., sent] = client.application_keys();
    let crossed = site.relay.as_ref().unwrap().recorded().concat();
    for secret in client.secrets() {
        assert!(
            !keyhaven_tests::daemon::contains(&crossed, &secret),
            "a traffic secret crossed"
        );
    }
    assert!(
        keyhaven_tests::daemon::contains(&crossed, &sent),
        "the next key is what crosses"
    );
}

#[test]
fn two_key_updates_in_one_segment_give_two_generations() {
    let site = echo_site();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    let mut segment = Vec::new();
    for _ in 0..2 {
        segment.extend(
            client
                .write
                .seal(HANDSHAKE, &handshake_message(UPDATE, &[1])),
        );
        client.next_write_key();
    }
    segment.extend(client.write.seal(APPLICATION_DATA, b"after both"));
    client.stream.write_all(&segment).unwrap();
    assert_eq!(data(&mut client), b"after both");
    check_nonces_unique(&site.parts.nonces());
}

#[test]
fn key_updates_without_end_are_refused() {
    let site = echo_site();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    let mut refused = None;
    for _ in 0..10 {
        let one = [
            client.write.seal(APPLICATION_DATA, b"x"),
            client
                .write
                .seal(HANDSHAKE, &handshake_message(UPDATE, &[0])),
        ]
        .concat();
        client.next_write_key();
        if client.stream.write_all(&one).is_err() {
            break;
        }
    }
    while refused.is_none() {
        match client.receive() {
            Ok(incoming) => assert_eq!(incoming.bytes, b"x".repeat(incoming.bytes.len())),
            Err(end) => refused = Some(end.alert()),
        }
    }
    assert_eq!(refused, Some(Some(10)), "unexpected_message");
    let rekeys = site.relay.as_ref().unwrap().recorded();
    let asked = rekeys.iter().filter_map(|frame| decode::<Request>(frame));
    let asked = asked
        .filter(|(_, request)| matches!(request, Request::Rekey(_)))
        .count();
    assert!(asked <= 4, "the signer was asked {asked} times");
}

#[test]
fn openssl_changes_its_key_in_mid_transfer() {
    let site = site("EC:prime256v1").backend(Manner::Echo).start();
    // Without -quiet, s_client takes K (update, and ask for the peer's) and k (update) as commands.
    let mut client = s_client(NAME, site.address(), &site.ca())
        .args(["-tls1_3", "-no_ign_eof"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut said = BufReader::new(client.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    for (count, command) in ["", "K\n", "k\n", "K\n"].into_iter().enumerate() {
        // A command must come in a read of its own: the line before has come back, and this one is awaited.
        if !command.is_empty() {
            stdin.write_all(command.as_bytes()).unwrap();
            assert!(
                said.any(|line| line.contains("KEYUPDATE")),
                "{command} was not understood"
            );
        }
        let line = format!("line number {count}");
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        assert!(lines.any(|got| got == line), "no echo of {line}");
    }
    drop(stdin);
    drop(lines);
    let _ = client.kill();
    client.wait().unwrap();
    site.signer.terminate();
    let counters = site.signer.wait_for_text("\"message\":\"counters\"");
    let rekeyed: u64 = keyhaven_tests::daemon::field(&counters, "rekeyed")
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        rekeyed >= 5,
        "three of the client's, two of ours: {rekeyed}"
    );
}

#[test]
fn the_proxy_changes_its_key_at_its_own_limit() {
    let site = site("EC:prime256v1")
        .backend(Manner::Echo)
        .proxy_limits("records_per_key = 10")
        .start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    let before = client.application_keys()[1].clone();
    for count in 0..35 {
        echo(&mut client, format!("number {count}").as_bytes());
    }
    assert_ne!(
        client.application_keys()[1],
        before,
        "the server's key has changed"
    );
    let nonces = site.parts.nonces();
    let mut keys: Vec<&str> = nonces
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    keys.dedup();
    assert!(
        keys.len() >= 4,
        "{} keys for {} records",
        keys.len(),
        nonces.len()
    );
}

#[test]
fn tls12_has_no_next_key_and_ends_at_the_limit() {
    let site = site("EC:prime256v1")
        .backend(Manner::Echo)
        .proxy_limits("records_per_key = 10")
        .start();
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    client.finish().unwrap();
    let mut echoed = 0;
    for _ in 0..30 {
        if client.send(APPLICATION_DATA, b"x").is_err() || client.receive().is_err() {
            break;
        }
        echoed += 1;
    }
    assert!((5..=10).contains(&echoed), "{echoed} records");
    check_nonces_unique(&site.parts.nonces());
}

/// Changes replies to rekey requests, and lets everything else pass.
fn rekey_rule(change: impl Fn(Frame) -> Vec<Frame> + Send + 'static) -> Rule {
    Box::new(move |frame| match frame {
        Frame::ToProxy(_, Reply::Rekeyed(_)) => change(frame),
        frame => vec![frame],
    })
}

#[test]
fn a_duplicated_reply_installs_nothing_twice() {
    let rule = rekey_rule(|frame| {
        let again = frame.duplicate();
        vec![frame, again]
    });
    let site = site("EC:prime256v1")
        .backend(Manner::Echo)
        .relay(rule)
        .start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    update(&mut client, true);
    // The channel itself may be given up over a reply that nobody asked for, and the connection with it, in order.
    client.send(APPLICATION_DATA, b"after").unwrap();
    let mut rekeyed = false;
    loop {
        match client.receive() {
            Ok(Incoming {
                kind: HANDSHAKE, ..
            }) => {
                assert!(!rekeyed, "a second KeyUpdate for one request");
                rekeyed = true;
                client.next_read_key();
            }
            Ok(incoming) => {
                assert_eq!(incoming.bytes, b"after");
                break;
            }
            Err(end) => {
                assert_eq!(end.alert(), Some(80), "internal_error: {end}");
                break;
            }
        }
    }
}

#[test]
fn a_reply_for_another_direction_is_not_installed() {
    let rule = rekey_rule(|mut frame| {
        if let Frame::ToProxy(_, Reply::Rekeyed(rekeyed)) = &mut frame {
            rekeyed.direction = match rekeyed.direction {
                Direction::Write => Direction::Read,
                Direction::Read => Direction::Write,
            };
        }
        vec![frame]
    });
    let site = site("EC:prime256v1")
        .backend(Manner::Echo)
        .relay(rule)
        .start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    echo(&mut client, b"before");
    update(&mut client, false);
    let _ = client.send(APPLICATION_DATA, b"after");
    assert!(
        client.receive().is_err(),
        "it went on with a key that nobody may have"
    );
    assert_eq!(site.backend().received(), 6, "only what came before");
}

#[test]
fn a_late_reply_stalls_and_loses_nothing() {
    let held = Mutex::new(None::<Frame>);
    let since = Instant::now();
    let rule: Rule = Box::new(move |frame| match frame {
        Frame::ToProxy(_, Reply::Rekeyed(_)) => {
            *held.lock().unwrap() = Some(frame);
            Vec::new()
        }
        // Whatever crosses next takes the held reply along: a handshake of another client.
        Frame::ToProxy(..) => {
            let mut frames = vec![frame];
            frames.extend(held.lock().unwrap().take());
            frames
        }
        frame => vec![frame],
    });
    let site = site("EC:prime256v1")
        .backend(Manner::Echo)
        .relay(rule)
        .start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    update(&mut client, false);
    client.send(APPLICATION_DATA, b"behind the update").unwrap();
    Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    assert_eq!(data(&mut client), b"behind the update");
    assert!(since.elapsed() < Duration::from_secs(20));
}
