//! One thread serves everybody: a client that never pauses must not keep the others, or the clocks, from their turn.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use keyhaven_proxy::{config::Limits, record::WriteKey};
use keyhaven_service::shutdown::Ended;
use support::{Client, House, limits};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// After this the flood ends by itself, so that a test that fails also ends.
const FLOOD_MAX: Duration = Duration::from_secs(20);
/// Records that are made before the flood begins: they come faster than the proxy opens them.
const READY_MADE: u64 = 400_000;

/// Two threads of their own: one writes one-byte records without a pause, one takes what arrives at the backend.
struct Flood {
    /// How long it lasted, once it is over.
    lasted: mpsc::Receiver<Duration>,
    arrived: Arc<AtomicU64>,
}

impl Flood {
    fn start(client: Client, mut backend: std::net::TcpStream) -> Self {
        let Client {
            stream, mut write, ..
        } = client;
        let ready_made = records(&mut write, READY_MADE);
        let (said, lasted) = mpsc::sync_channel(1);
        let mut stream = blocking(stream);
        thread::spawn(move || {
            let begun = Instant::now();
            let mut next = ready_made;
            while stream.write_all(&next).is_ok() && begun.elapsed() < FLOOD_MAX {
                next = records(&mut write, 1000);
            }
            said.send(begun.elapsed()).unwrap();
        });
        let arrived = Arc::new(AtomicU64::new(0));
        let count = arrived.clone();
        thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while let Ok(read @ 1..) = backend.read(&mut bytes) {
                count.fetch_add(read as u64, SeqCst);
            }
        });
        Self { lasted, arrived }
    }

    /// Waits for its end, which must not be its own.
    async fn ended(self) {
        let lasted = tokio::task::spawn_blocking(move || self.lasted.recv().unwrap());
        assert!(lasted.await.unwrap() < FLOOD_MAX);
    }
}

fn records(write: &mut WriteKey, count: u64) -> Vec<u8> {
    let mut records = Vec::new();
    for _ in 0..count {
        write.seal(23, b"x", &mut records).unwrap();
    }
    records
}

fn blocking(stream: TcpStream) -> std::net::TcpStream {
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

#[tokio::test(flavor = "current_thread")]
async fn a_flood_of_small_records_leaves_others_their_turn_and_ends_with_its_lifetime() {
    let short = Limits {
        connection_lifetime: Duration::from_secs(3),
        ..limits()
    };
    let mut house = House::new(short).await;
    let (client, backend) = house.established().await;
    let flood = Flood::start(client, blocking(backend));
    for _ in 0..3 {
        let (mut client, mut backend) = house.established().await;
        client.send_data(b"ping").await;
        let mut got = [0; 4];
        backend.read_exact(&mut got).await.unwrap();
        backend.write_all(b"pong").await.unwrap();
        assert_eq!(client.receive_exactly(4).await, b"pong");
    }
    let arrived = flood.arrived.load(SeqCst);
    assert!(arrived < READY_MADE, "the others had to wait: {arrived}");
    flood.ended().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_flood_both_ways_is_cut_at_a_stop() {
    let mut house = House::new(limits()).await;
    let (client, backend) = house.established().await;
    // The backend floods, too, and nobody at the client reads it.
    let from_backend = blocking(backend);
    let mut to_proxy = from_backend.try_clone().unwrap();
    thread::spawn(move || while to_proxy.write_all(&[7; 4096]).is_ok() {});
    let flood = Flood::start(client, from_backend);
    let ended = house.shutdown.finish(Duration::from_millis(300)).await;
    assert!(matches!(ended, Ended::Cut { .. }));
    flood.ended().await;
}
