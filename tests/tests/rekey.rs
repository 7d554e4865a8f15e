//! Traffic keys change when client or proxy want, each once, and only while the signer agrees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use keyhaven_tests::backend::Manner;
use keyhaven_tests::channel::Caller;
use keyhaven_tests::clients::s_client;
use keyhaven_tests::daemon::Daemon;
use keyhaven_tests::rawtls::{
    APPLICATION_DATA, Client12, Client13, HANDSHAKE, Hello, Incoming, handshake_message,
};
use keyhaven_tests::relay::{Frame, Rule, decode, pass};
use keyhaven_tests::running::{Parts, Site, check_nonces_unique};
use keyhaven_tests::site::{NAME, PROXY, site};
use keyhaven_types::Direction;
use keyhaven_wire::{ErrorCode, Rekey, Reply, Request};

const UPDATE: u8 = 24;

/// The next record that is data; the server's KeyUpdates are followed and answered.
fn data(client: &mut Client13) -> Vec<u8> {
    loop {
        match client.receive().unwrap() {
            Incoming {
                kind: APPLICATION_DATA,
                bytes,
            } => return bytes,
            Incoming {
                kind: HANDSHAKE,
                bytes,
            } => {
                client.next_read_key();
                match bytes.as_slice() {
                    [UPDATE, 0, 0, 1, 0] => {}
                    [UPDATE, 0, 0, 1, 1] => update(client, false),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Sends a KeyUpdate and goes on with the next key.
fn update(client: &mut Client13, requested: bool) {
    client
        .send(
            HANDSHAKE,
            &handshake_message(UPDATE, &[u8::from(requested)]),
        )
        .unwrap();
    client.next_write_key();
}

fn echo(client: &mut Client13, text: &[u8]) {
    client.send(APPLICATION_DATA, text).unwrap();
    let mut got = Vec::new();
    while got.len() < text.len() {
        got.extend(data(client));
    }
    assert_eq!(got, text);
}

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
            !keyhaven_tests::daemon::contains(&crossed, secret),
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
    // The channel itself may be given up over a reply that nobody asked for; the data must stay right.
    client.send(APPLICATION_DATA, b"after").unwrap();
    if let Ok(Incoming {
        kind: HANDSHAKE, ..
    }) = client.receive()
    {
        client.next_read_key();
        if let Ok(incoming) = client.receive() {
            assert_eq!(incoming.bytes, b"after");
        }
    }
    check_nonces_unique(&site.parts.nonces());
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

#[test]
fn a_signer_that_is_gone_ends_the_connection_at_the_key_update() {
    let mut site = site("EC:prime256v1").backend(Manner::Echo).start();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    echo(&mut client, b"before");
    site.signer.kill();
    echo(&mut client, b"data needs no signer");
    update(&mut client, false);
    let _ = client.send(APPLICATION_DATA, b"after");
    let end = client.receive().unwrap_err();
    assert_eq!(end.alert(), Some(80), "internal_error: {end}");
}

#[test]
fn a_sealed_state_is_good_for_its_proxy_connection_direction_and_generation_alone() {
    let site = echo_site();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    update(&mut client, false);
    echo(&mut client, b"so that a state has crossed");
    let frames = site.relay.as_ref().unwrap().recorded();
    let rekey = frames
        .iter()
        .filter_map(|frame| decode::<Request>(frame))
        .find_map(|(_, request)| match request {
            Request::Rekey(rekey) => Some(rekey),
            _ => None,
        });
    let good = rekey.unwrap();
    let with = |change: &dyn Fn(&mut Rekey)| {
        let mut rekey = Rekey {
            connection: good.connection,
            direction: good.direction,
            generation: good.generation,
            state: good.state.clone(),
        };
        change(&mut rekey);
        Request::Rekey(rekey)
    };
    let mut ours = Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
    assert!(
        matches!(ours.call(&with(&|_| {})), Ok(Reply::Rekeyed(_))),
        "the state itself is good"
    );
    let changes: [&dyn Fn(&mut Rekey); 5] = [
        &|rekey| rekey.connection.0[0] ^= 1,
        &|rekey| rekey.generation += 1,
        &|rekey| rekey.state[20] ^= 1,
        &|rekey| rekey.state.truncate(8),
        &|rekey| {
            rekey.direction = match rekey.direction {
                Direction::Write => Direction::Read,
                Direction::Read => Direction::Write,
            }
        },
    ];
    for change in changes {
        let reply = ours.call(&with(change)).unwrap();
        assert!(
            matches!(reply, Reply::Error(ErrorCode::StateRefused)),
            "{reply:?}"
        );
    }
    let name = "spiffe://keyhaven.test/proxy/edge-2";
    let other = site
        .parts
        .channel_ca
        .identity("other", name, keyhaven_tests::pki::Flaw::None);
    let reply = Caller::connect(site.signer_address(), Some(&other))
        .call(&with(&|_| {}))
        .unwrap();
    assert!(
        matches!(reply, Reply::Error(_)),
        "another proxy got a key: {reply:?}"
    );
}

/// A site whose signer can be started again: with a port of its own and a seal in a file.
struct Lasting {
    proxy: Daemon,
    signer: Daemon,
    parts: Parts,
}

impl Lasting {
    fn start() -> Lasting {
        let build = site("EC:prime256v1").backend(Manner::Echo);
        let parts = build.prepare();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        parts.edit("signer.toml", "127.0.0.1:0", &port.to_string());
        parts.edit(
            "signer.toml",
            "[log]",
            "[rekey]\nseal_key = \"seal.key\"\n[log]",
        );
        let seal = parts.dir().join("seal.key");
        std::fs::write(&seal, [0x42; 32]).unwrap();
        std::fs::set_permissions(&seal, std::fs::Permissions::from_mode(0o600)).unwrap();
        let signer = parts.spawn_signer();
        build.write_proxy_config(parts.dir(), &[signer.listening()], parts.backend.address());
        let proxy = parts.spawn_proxy();
        Lasting {
            proxy,
            signer,
            parts,
        }
    }

    /// Ends the signer and starts it again; waits until the proxy has found it.
    fn restart_signer(&mut self) {
        self.signer.stop();
        self.signer = self.parts.spawn_signer();
        self.signer.listening();
        self.signer.wait_for_text("connection open");
    }
}

#[test]
fn a_sealed_state_outlives_the_signers_process() {
    let mut site = Lasting::start();
    let mut client = Client13::established(site.proxy.listening(), &Hello::tls13(NAME)).unwrap();
    echo(&mut client, b"before");
    site.restart_signer();
    update(&mut client, true);
    echo(&mut client, b"after");
    check_nonces_unique(&site.parts.nonces());
}

#[test]
fn s6_a_grant_that_is_gone_ends_the_connection_at_the_next_key() {
    let mut site = Lasting::start();
    let mut client = Client13::established(site.proxy.listening(), &Hello::tls13(NAME)).unwrap();
    echo(&mut client, b"before");
    site.parts.edit(
        "signer.toml",
        PROXY,
        "spiffe://keyhaven.test/proxy/somebody-else",
    );
    site.restart_signer();
    echo(&mut client, b"data needs no signer");
    update(&mut client, false);
    let _ = client.send(APPLICATION_DATA, b"after");
    assert_eq!(
        client.receive().unwrap_err().alert(),
        Some(80),
        "internal_error"
    );
    site.signer
        .wait_for("a word about it", |line| line.to_string().contains("rekey"));
}
