//! Input that no honest peer sends, at both doors. Whatever comes, a good client is served in under a second.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use keyhaven_tests::channel::Caller;
use keyhaven_tests::rawtls::{Client12, Client13, HANDSHAKE, Hello, record};
use keyhaven_tests::running::Site;
use keyhaven_tests::site::{NAME, site};
use keyhaven_wire::{Continue, HandshakeId, Next, Outcome, Refuse, Rekey, Reply, Request, Start};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes that look random and are the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// What a good client meets, and what the proxy and the signer hold.
struct Before {
    proxy_files: usize,
    signer_files: usize,
    proxy_kib: u64,
    signer_kib: u64,
}

fn good(site: &Site) {
    let since = Instant::now();
    let mut client = Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
    client.ask().unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "a good client waited {:?}",
        since.elapsed()
    );
}

fn before(site: &Site) -> Before {
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
fn is_as_before(site: &mut Site, before: &Before) {
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
fn knock(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Closes with a reset: data that was never read is there.
fn reset(mut stream: TcpStream) {
    let _ = stream.write_all(&[0]);
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn hello_record() -> Vec<u8> {
    let point = [[4].as_slice(), &P256_POINT].concat();
    Hello::tls13(NAME).record(&point)
}

/// The base point of P-256: a valid public value.
const P256_POINT: [u8; 64] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
    0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
    0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

#[test]
fn random_bytes_at_the_proxys_door() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let mut noise = Noise(0x5eed);
    for count in 0..200 {
        let length = (noise.next() % 600) as usize;
        let mut bytes = noise.bytes(length);
        if count % 2 == 0 {
            // Random, but in a handshake record.
            bytes = record(HANDSHAKE, &bytes);
        }
        knock(site.address(), &bytes);
    }
    is_as_before(&mut site, &then);
    assert_eq!(site.backend().connections(), 7);
}

#[test]
fn a_client_hello_cut_at_every_offset() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let hello = hello_record();
    for length in 0..hello.len() {
        knock(site.address(), &hello[..length]);
    }
    is_as_before(&mut site, &then);
}

#[test]
fn a_client_hello_with_every_byte_altered() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let hello = hello_record();
    for at in 0..hello.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut altered = hello.clone();
            altered[at] ^= change;
            knock(site.address(), &altered);
        }
    }
    is_as_before(&mut site, &then);
}

#[test]
fn a_client_hello_too_big_is_refused_before_the_signer_hears_of_it() {
    let site = site("EC:prime256v1").start();
    good(&site);
    let extra = vec![(21, vec![0; 20_000])];
    let hello = Hello {
        extra,
        ..Hello::tls13(NAME)
    };
    let calls = site.shim().report().calls("C_GenerateKeyPair");
    let end = Client13::connect_with(site.address(), &hello, |stream, message| {
        for piece in message.chunks(16_000) {
            // The proxy may close before all is sent.
            let _ = stream.write_all(&record(HANDSHAKE, piece));
        }
        Ok(())
    })
    .unwrap_err();
    assert_eq!(end.alert(), Some(50), "decode_error: {end}");
    assert_eq!(site.shim().report().calls("C_GenerateKeyPair"), calls);
    good(&site);
}

#[test]
fn the_slow_are_not_waited_for() {
    let mut site = site("EC:prime256v1")
        .proxy_limits("client_hello_timeout_ms = 400\nhandshake_timeout_ms = 900")
        .start();
    let then = before(&site);
    let hello = hello_record();
    let since = Instant::now();
    // One sends nothing, one a byte, one all but a byte, one keeps the server waiting for its Finished.
    let mut streams: Vec<TcpStream> = [0, 1, hello.len() - 1, hello.len()]
        .into_iter()
        .map(|length| {
            let mut stream = TcpStream::connect(site.address()).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream.write_all(&hello[..length]).unwrap();
            stream
        })
        .collect();
    for stream in &mut streams {
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert!(
        since.elapsed() > Duration::from_millis(300) && since.elapsed() < Duration::from_secs(5)
    );
    drop(streams);
    is_as_before(&mut site, &then);
}

#[test]
fn resets_at_every_stage() {
    let mut site = site("EC:prime256v1")
        .signer_limits("pending_timeout_s = 1")
        .start();
    let then = before(&site);
    for count in 0..120 {
        match count % 5 {
            0 => reset(TcpStream::connect(site.address()).unwrap()),
            1 => {
                let mut stream = TcpStream::connect(site.address()).unwrap();
                stream.write_all(&hello_record()).unwrap();
                reset(stream);
            }
            2 => reset(
                Client13::connect(site.address(), &Hello::tls13(NAME))
                    .unwrap()
                    .stream,
            ),
            3 => reset(
                Client12::connect(site.address(), &Hello::tls12(NAME))
                    .unwrap()
                    .stream,
            ),
            _ => {
                let mut client =
                    Client13::established(site.address(), &Hello::tls13(NAME)).unwrap();
                client.ask().unwrap();
                reset(client.stream);
            }
        }
    }
    is_as_before(&mut site, &then);
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.backend().open() > 2 {
        assert!(
            Instant::now() < deadline,
            "{} backend connections are open",
            site.backend().open()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_thousand_half_open_clients() {
    raise_file_limit();
    let mut site = site("EC:prime256v1")
        .proxy_limits("client_hello_timeout_ms = 4000")
        .start();
    let then = before(&site);
    let hello = hello_record();
    let crowd: Vec<TcpStream> = (0..1_000)
        .map(|count| {
            let mut stream = TcpStream::connect(site.address()).unwrap();
            stream
                .write_all(&hello[..count % (hello.len() - 1)])
                .unwrap();
            stream
        })
        .collect();
    good(&site);
    drop(crowd);
    is_as_before(&mut site, &then);
}

#[test]
fn over_the_connection_limit_there_is_an_alert() {
    let site = site("EC:prime256v1")
        .proxy_limits("connections_max = 3")
        .start();
    good(&site);
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.backend().open() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut held: Vec<Client13> = (0..3)
        .filter_map(|_| Client13::established(site.address(), &Hello::tls13(NAME)).ok())
        .collect();
    assert_eq!(held.len(), 3);
    let end = Client13::connect(site.address(), &Hello::tls13(NAME)).unwrap_err();
    assert_eq!(end.alert(), Some(80), "a clear refusal: {end}");
    for client in &mut held {
        client.ask().unwrap();
    }
}

#[test]
fn random_bytes_at_the_signers_door() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let mut noise = Noise(0xd00d);
    for _ in 0..100 {
        let length = (noise.next() % 600) as usize;
        knock(site.signer_address(), &noise.bytes(length));
    }
    let hello = hello_record();
    for length in (0..hello.len()).step_by(3) {
        knock(site.signer_address(), &hello[..length]);
    }
    is_as_before(&mut site, &then);
}

#[test]
fn half_open_connections_at_the_signers_door() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let crowd: Vec<TcpStream> = (0..500)
        .map(|_| TcpStream::connect(site.signer_address()).unwrap())
        .collect();
    good(&site);
    drop(crowd);
    is_as_before(&mut site, &then);
}

#[test]
fn the_slow_at_the_signers_door_are_not_waited_for() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let since = Instant::now();
    let mut crowd: Vec<TcpStream> = (0..20)
        .map(|count| {
            let mut stream = TcpStream::connect(site.signer_address()).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream.write_all(&hello_record()[..count]).unwrap();
            stream
        })
        .collect();
    for stream in &mut crowd {
        // Ends with the server's close; a reset says the same.
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(
            ended.is_ok()
                || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
    }
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
    is_as_before(&mut site, &then);
}

#[test]
fn frames_that_are_none_end_the_callers_connection_alone() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let caller = || Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
    let mut ping = Vec::new();
    keyhaven_wire::encode(7, &Request::Ping, &mut ping).unwrap();
    let mut noise = Noise(0xf4a3);
    let mut frames = vec![
        vec![0; 12],
        [0xff; 12].to_vec(),
        [[0, 2, 0, 1].as_slice(), &[0; 8], &[0; 64]].concat(),
        [[0, 0, 0, 2].as_slice(), &[0; 8], &[5, 5]].concat(),
        [[0, 0, 0, 1].as_slice(), &[0; 8], &[200]].concat(),
    ];
    for _ in 0..50 {
        let payload = noise.bytes(40);
        frames.push([[0, 0, 0, 40].as_slice(), &[0; 8], &payload].concat());
    }
    for frame in &frames {
        let mut caller = caller();
        if caller.send(frame).is_ok() {
            // Some of the random ones are requests, which are answered.
            let _ = caller.receive();
        }
    }
    // A frame cut at every offset, then the end.
    for length in 0..ping.len() {
        let mut caller = caller();
        let _ = caller.send(&ping[..length]);
    }
    assert!(matches!(caller().call(&Request::Ping), Ok(Reply::Pong)));
    is_as_before(&mut site, &then);
}

#[test]
fn requests_that_no_proxy_of_ours_sends() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let mut caller = Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
    let hello = hello_record();
    let start = |number: u8, records: Vec<u8>| {
        Request::Start(Start {
            handshake: HandshakeId([number; 32]),
            client: "127.0.0.1:1".to_owned(),
            records,
        })
    };
    let answered = |reply: std::io::Result<Reply>| {
        reply.unwrap_or_else(|error| panic!("the channel broke: {error}"))
    };

    let mut noise = Noise(0xace);
    for length in 1..hello.len() {
        answered(caller.call(&start(1, hello[..length].to_vec())));
    }
    for at in 0..hello.len() {
        let mut altered = hello.clone();
        altered[at] ^= 0xff;
        let reply = answered(caller.call(&start(2, altered)));
        // Whatever began must be ended, so that the name is free again.
        if let Reply::Handshake(reply) = reply
            && !matches!(reply.next, Next::Refused { .. })
        {
            answered(caller.call(&Request::Outcome(Outcome {
                handshake: HandshakeId([2; 32]),
                proof: None,
            })));
        }
    }
    for more in [
        hello.clone(),
        record(20, &[1]),
        record(21, &[2, 0]),
        record(23, &[0; 40]),
        noise.bytes(30),
    ] {
        answered(caller.call(&start(3, [hello.as_slice(), &more].concat())));
        answered(caller.call(&Request::Outcome(Outcome {
            handshake: HandshakeId([3; 32]),
            proof: None,
        })));
    }
    let unknown = HandshakeId([9; 32]);
    for request in [
        Request::Continue(Continue {
            handshake: unknown,
            records: hello,
        }),
        Request::Outcome(Outcome {
            handshake: unknown,
            proof: Some([0; 32]),
        }),
        Request::Refuse(Refuse {
            handshake: unknown,
            alert: 51,
        }),
        Request::Rekey(Rekey {
            connection: keyhaven_wire::ConnectionId([0; 32]),
            direction: keyhaven_types::Direction::Read,
            generation: 1,
            state: noise.bytes(200),
        }),
    ] {
        let reply = answered(caller.call(&request));
        assert!(matches!(reply, Reply::Error(_) | Reply::Noted), "{reply:?}");
    }
    drop(caller);
    is_as_before(&mut site, &then);
}

#[test]
fn second_flights_that_no_client_sends() {
    let mut site = site("EC:prime256v1").start();
    let then = before(&site);
    let mut caller = Caller::connect(site.signer_address(), Some(&site.parts.proxy_pair));
    let hello = Hello::tls12(NAME).record(&[]);
    let point = [[65, 4].as_slice(), &P256_POINT].concat();
    let flight = [
        record(
            HANDSHAKE,
            &keyhaven_tests::rawtls::handshake_message(16, &point),
        ),
        record(20, &[1]),
        record(HANDSHAKE, &[7; 40]),
    ]
    .concat();
    let handshake = HandshakeId([5; 32]);
    let mut continued = |records: Vec<u8>| {
        let start = Start {
            handshake,
            client: "127.0.0.1:1".to_owned(),
            records: hello.clone(),
        };
        let reply = caller.call(&Request::Start(start)).unwrap();
        assert!(
            matches!(&reply, Reply::Handshake(reply) if matches!(reply.next, Next::More(_))),
            "{reply:?}"
        );
        let reply = caller
            .call(&Request::Continue(Continue { handshake, records }))
            .unwrap();
        let keys = matches!(&reply, Reply::Handshake(reply) if matches!(reply.next, Next::Open(_)));
        assert!(!keys, "keys for nothing");
        // Used up or not, the name must be free for the next round.
        let _ = caller
            .call(&Request::Outcome(Outcome {
                handshake,
                proof: None,
            }))
            .unwrap();
    };
    for length in (1..flight.len()).step_by(5) {
        continued(flight[..length].to_vec());
    }
    for at in (0..flight.len()).step_by(3) {
        let mut altered = flight.clone();
        altered[at] ^= 0xff;
        continued(altered);
    }
    drop(caller);
    is_as_before(&mut site, &then);
}

/// A thousand sockets are more than some systems give a process at first.
fn raise_file_limit() {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    setrlimit(Resource::Nofile, wanted).unwrap();
}
