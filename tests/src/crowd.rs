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

/// What proxy and signer hold.
pub struct Before {
    proxy_files: usize,
    signer_files: usize,
    proxy_kib: u64,
    signer_kib: u64,
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

/// Serves some good clients, then looks.
pub fn before(site: &Site) -> Before {
    for _ in 0..5 {
        good(site);
    }
    // What a first crowd leaves in allocators and thread pools is no leak.
    Before {
        proxy_files: site.proxy.descriptors(),
        signer_files: site.signer.descriptors(),
        proxy_kib: site.proxy.memory_kib(),
        signer_kib: site.signer.memory_kib(),
    }
}

/// A good client is served, and files and memory return to where they were.
pub fn is_as_before(site: &mut Site, before: &Before) {
    good(site);
    let deadline = Instant::now() + Duration::from_secs(15);
    while site.proxy.descriptors() > before.proxy_files + 2
        || site.signer.descriptors() > before.signer_files + 2
    {
        assert!(
            Instant::now() < deadline,
            "files: proxy {} (before {}), signer {} (before {})",
            site.proxy.descriptors(),
            before.proxy_files,
            site.signer.descriptors(),
            before.signer_files
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    for (who, now, then) in [
        ("proxy", site.proxy.memory_kib(), before.proxy_kib),
        ("signer", site.signer.memory_kib(), before.signer_kib),
    ] {
        assert!(
            now < then + KIB_GROWTH_MAX,
            "{who}: {now} KiB, before {then}"
        );
    }
    assert!(site.proxy.is_running() && site.signer.is_running());
    good(site);
}

const KIB_GROWTH_MAX: u64 = 40_000;

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
