//! What raw clients often say once their handshake is done.
//!
//! Follows the server's KeyUpdates. A conversation that goes otherwise fails the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;
use std::time::{Duration, Instant};

use crate::rawtls::{
    APPLICATION_DATA, Client12, Client13, HANDSHAKE, Hello, Incoming, handshake_message,
};
use crate::running::Site;
use crate::site::NAME;

/// The next record that is data; the server's KeyUpdates are followed and answered.
pub fn data(client: &mut Client13) -> Vec<u8> {
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
pub fn update(client: &mut Client13, requested: bool) {
    client
        .send(
            HANDSHAKE,
            &handshake_message(UPDATE, &[u8::from(requested)]),
        )
        .unwrap();
    client.next_write_key();
}

/// Sends a text and waits until it has come back.
pub fn echo(client: &mut Client13, text: &[u8]) {
    client.send(APPLICATION_DATA, text).unwrap();
    let mut got = Vec::new();
    while got.len() < text.len() {
        got.extend(data(client));
    }
    assert_eq!(got, text);
}

/// A TLS 1.3 client of the site that has finished its handshake.
pub fn established13(site: &Site) -> Client13 {
    Client13::established(site.address(), &Hello::tls13(NAME)).unwrap()
}

/// A TLS 1.2 client of the site that has finished its handshake.
pub fn established12(site: &Site) -> Client12 {
    let mut client = Client12::connect(site.address(), &Hello::tls12(NAME)).unwrap();
    client.finish().unwrap();
    client
}

/// Tries until a client is served.
pub fn until_served(site: &Site) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(end) = Client13::established(site.address(), &Hello::tls13(NAME)) {
        assert!(Instant::now() < deadline, "it does not come back: {end}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Handshake message type key_update.
pub const UPDATE: u8 = 24;
