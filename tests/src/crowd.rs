//! For tests with hostile crowds: what they send, and whether the programs are as they were before.
//!
//! The crowd itself is the tests' business. Whatever it does, a good client is served in under a second.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::rawtls::{Client13, Hello};
use crate::running::Site;
use crate::site::NAME;

/// Bytes that look random and are the same each time.
pub struct Noise(pub u64);

impl Noise {
    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// A good client is served in under a second.
pub fn good(site: &Site) {
    let since = Instant::now();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "a good client waited {:?}",
        since.elapsed()
    );
}

/// Lets a crowd come again and again until it leaves nothing more behind: a leak grows each time, and what the first
/// ones leave in allocators, thread pools and sessions of the token does not. Each time the files return to where they
/// were, both programs run on, and a good client is served.
///
/// The crowd's own connections must be closed when it returns.
pub fn survives(site: &mut Site, mut crowd: impl FnMut(&Site)) {
    for _ in 0..5 {
        good(site);
    }
    let most_files = files(site).map(|files| files + 2);
    let mut held = vec![memory(site)];
    for round in 0..CROWDS_MAX {
        crowd(site);
        good(site);
        // A good client that was served last may still be on its way out, and so may a session of the token.
        let open = awaited(|| files(site), most_files, Duration::from_secs(15));
        assert!(
            fits(open, most_files),
            "files: proxy and signer {open:?}, not {most_files:?}"
        );
        assert!(site.proxy.is_running() && site.signer.is_running());
        let most = held[round].map(|kib| kib + KIB_GROWTH_MAX);
        let now = awaited(|| memory(site), most, Duration::from_secs(1));
        if fits(now, most) {
            return;
        }
        held.push(now);
    }
    panic!("memory of proxy and signer grows with each crowd (KiB): {held:?}");
}

/// Waits until this is no more than `most`, and gives what it was last.
fn awaited(now: impl Fn() -> [u64; 2], most: [u64; 2], patience: Duration) -> [u64; 2] {
    let deadline = Instant::now() + patience;
    loop {
        let last = now();
        if fits(last, most) || Instant::now() > deadline {
            return last;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fits(now: [u64; 2], most: [u64; 2]) -> bool {
    now[0] <= most[0] && now[1] <= most[1]
}

fn files(site: &Site) -> [u64; 2] {
    [site.proxy.descriptors(), site.signer.descriptors()].map(|files| files as u64)
}

fn memory(site: &Site) -> [u64; 2] {
    [site.proxy.memory_kib(), site.signer.memory_kib()]
}

/// A crowd that leaves no more behind than this leaves nothing.
const KIB_GROWTH_MAX: u64 = 1024;
const CROWDS_MAX: usize = 6;

/// Sends bytes and closes; what comes back does not matter here.
pub fn knock(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Closes with a reset: data that was never read is there.
pub fn reset(mut stream: TcpStream) {
    let _ = stream.write_all(&[0]);
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// The record of a good ClientHello.
pub fn hello_record() -> Vec<u8> {
    let point = [[4].as_slice(), &P256_POINT].concat();
    Hello::tls13(NAME).record(&point)
}

/// The base point of P-256: a valid public value.
pub const P256_POINT: [u8; 64] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
    0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
    0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// A thousand sockets are more than some systems give a process at first.
pub fn raise_file_limit() {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    setrlimit(Resource::Nofile, wanted).unwrap();
}
