//! Managed ticket keys: sessions go on at another site, with no secret shared by a file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;
use std::time::{Duration, Instant};

use keyhaven_tests::kms::{Class, Edge, World, world};
use keyhaven_tests::rawtls::{Client13, Hello, Stop, Ticket};

const HOST: &str = "shop.keyhaven.test";

fn sites() -> World {
    let world = world()
        .class(Class::new("all", &["eu", "us"]).purposes(&["handshake", "tickets"]))
        .site("fra", "eu")
        .site("nyc", "us")
        .kms_lines("ticket_key = \"edge-tickets\"")
        .start();
    world.create_key("edge-tickets", "hmac", "tickets", "all");
    world.create_site_key("shop", "ec-p256", "all", HOST);
    world.grant_proxy("edge", "shop");
    world.settle();
    world
}

/// A full handshake that gave tickets, and how many it took: signers turn to their ticket key a moment after it came.
fn first(edge: &Edge) -> (Vec<Ticket>, usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for handshakes in 1.. {
        let mut client = Client13::established(edge.address, &Hello::tls13(HOST)).unwrap();
        client.ask().unwrap();
        if !client.tickets().is_empty() {
            return (client.tickets().to_vec(), handshakes);
        }
        assert!(Instant::now() < deadline, "no ticket");
        thread::sleep(Duration::from_millis(100));
    }
    unreachable!("it counts on")
}

/// How many handshakes each site has proven, once all of them are in their logs.
fn proven(world: &World, handshakes: usize) -> [usize; 2] {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let proven = ["fra", "nyc"].map(|site| world.proven(site));
        if proven.iter().sum::<usize>() == handshakes {
            return proven;
        }
        assert!(Instant::now() < deadline, "{proven:?} of {handshakes}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A handshake that offers a ticket; whether the session went on.
fn goes_on(edge: &Edge, ticket: &Ticket) -> Result<bool, Stop> {
    let hello = Hello::tls13(HOST).resuming(vec![ticket.offer()]);
    let mut client = Client13::established(edge.address, &hello)?;
    client.ask()?;
    Ok(client.resumed().is_some())
}

#[test]
fn s9_a_session_goes_on_at_another_site() {
    let mut world = sites();
    let edge = world.start_edge("edge", &["fra", "nyc"], "");
    let (tickets, handshakes) = first(&edge);
    let before = proven(&world, handshakes);
    assert!(goes_on(&edge, &tickets[0]).unwrap());
    let after = proven(&world, handshakes + 1);
    // Whoever served it dies; the other one must know the ticket.
    let (served, other) = match after[0] > before[0] {
        true => ("fra", "nyc"),
        false => ("nyc", "fra"),
    };
    let (tickets, more) = first(&edge);
    let [fra, nyc] = proven(&world, handshakes + 1 + more);
    world.site_mut(served).kill();
    let there = if other == "fra" { fra } else { nyc };
    let deadline = Instant::now() + Duration::from_secs(20);
    let went_on = loop {
        if let Ok(went_on) = goes_on(&edge, &tickets[0]) {
            break went_on;
        }
        assert!(Instant::now() < deadline, "{other} does not serve");
        thread::sleep(Duration::from_millis(100));
    };
    assert!(went_on, "{other} does not know the ticket");
    while world.proven(other) == there {
        assert!(Instant::now() < deadline, "{other} did not serve it");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn s9_a_revoked_ticket_key_ends_sessions_and_no_handshake() {
    let world = sites();
    let edge = world.start_edge("edge", &["fra"], "");
    let (tickets, _) = first(&edge);
    assert!(goes_on(&edge, &tickets[0]).unwrap());
    world.admin(&["kms", "key", "revoke", "edge-tickets", "--yes", "--wait"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while goes_on(&edge, &tickets[0]).unwrap() {
        assert!(Instant::now() < deadline, "the session still goes on");
        thread::sleep(Duration::from_millis(100));
    }
    let mut client = Client13::established(edge.address, &Hello::tls13(HOST)).unwrap();
    client.ask().unwrap();
    assert!(client.tickets().is_empty());
}
