//! The sealed state that a proxy holds for the next key: whose it is, how long it is good, who may use it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use keyhaven_tests::backend::Manner;
use keyhaven_tests::channel::Caller;
use keyhaven_tests::daemon::Daemon;
use keyhaven_tests::dialogue::{echo, update};
use keyhaven_tests::matrix::{self, Row};
use keyhaven_tests::rawtls::{APPLICATION_DATA, Client13, Hello};
use keyhaven_tests::relay::{decode, pass};
use keyhaven_tests::running::{Parts, check_nonces_unique};
use keyhaven_tests::site::{NAME, PROXY, site};
use keyhaven_types::Direction;
use keyhaven_wire::{ErrorCode, Rekey, Reply, Request};

/// May use the site as [`PROXY`] may.
const OTHER_PROXY: &str = "spiffe://keyhaven.test/proxy/edge-2";

/// Sealed by the process, and at `schedule` by either of two modules.
#[test]
fn a_sealed_state_is_good_for_its_proxy_connection_direction_and_generation_alone() {
    for row in [&matrix::SOFTHSM2, &matrix::KRYOPTIC, &matrix::NSS] {
        good_for_its_own_purpose_alone(row);
    }
}

fn good_for_its_own_purpose_alone(row: &Row) {
    let build = row.site().backend(Manner::Echo).relay(pass());
    let parts = build.prepare();
    // Another proxy with the same grant: only whose state it is keeps it out.
    let granted = format!("proxies = [\"{PROXY}\", \"{OTHER_PROXY}\"]");
    parts.edit("signer.toml", &format!("proxies = [\"{PROXY}\"]"), &granted);
    let site = build.start_with(parts);
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
    for at in (0..good.state.len()).step_by(5) {
        let reply = ours.call(&with(&|rekey| rekey.state[at] ^= 1)).unwrap();
        assert!(
            matches!(reply, Reply::Error(ErrorCode::StateRefused)),
            "{} altered at {at}: {reply:?}",
            row.name
        );
    }
    assert!(
        matches!(ours.call(&with(&|_| {})), Ok(Reply::Rekeyed(_))),
        "and is good still"
    );
    let other =
        site.parts
            .channel_ca
            .identity("other", OTHER_PROXY, keyhaven_tests::pki::Flaw::None);
    let reply = Caller::connect(site.signer_address(), Some(&other))
        .call(&with(&|_| {}))
        .unwrap();
    assert!(
        matches!(reply, Reply::Error(ErrorCode::StateRefused)),
        "another proxy's state: {reply:?}"
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
fn at_schedule_a_state_outlives_the_signer_where_its_keys_are_in_the_token() {
    for row in [&matrix::KRYOPTIC, &matrix::NSS] {
        for (keys, is_lasting) in [("token", true), ("process", false)] {
            let mut site = row
                .site()
                .section("rekey", &format!("token_keys = \"{keys}\""))
                .backend(Manner::Echo)
                .start();
            let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
            echo(&mut client, b"before");
            site.restart_signer();
            echo(&mut client, b"the keys in use need nobody");
            update(&mut client, false);
            let sent = client.send(APPLICATION_DATA, b"under the next key");
            let answer = sent.and_then(|()| client.receive());
            assert_eq!(
                answer.is_ok(),
                is_lasting,
                "{} {keys}: {answer:?}",
                row.name
            );
        }
    }
}
