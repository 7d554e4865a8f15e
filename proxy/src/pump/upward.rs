//! Client to backend: reads several records at once, decrypts them where they lie, writes their data in one call.
//!
//! Ends when the client has sent all it will send, by close_notify or by closing its side; the backend then sees the
//! end of the stream and may still answer.

use std::{
    io::{self, IoSlice},
    ops::Range,
    time::Instant,
};

use tokio::net::TcpStream;

use super::{Buffers, Link, Stop, Turns};
use crate::{
    client::shutdown_write,
    flight::Refused,
    record::{Generation, RECORD_MAX},
    session::{BUFFER_LEN, Batch, Event, Fault, Inbound, Rekeying},
};

/// What may wait for the rest of its record in a buffer of just its size.
const WAITING_MAX: usize = 4096;

/// Moves until the client's side is over.
pub(super) async fn run(
    link: &Link<'_>,
    inbound: &mut Inbound,
    rekeying: &mut Rekeying,
    received: &mut Received,
) -> Result<(), Stop> {
    let mut batch = Batch::default();
    let mut asked_at: Option<Generation> = None;
    let mut turns = Turns::default();
    loop {
        turns.next().await;
        let event = inbound.read(Instant::now(), received.unread(), &mut batch);
        forward(link, received.unread(), &batch.data).await?;
        received.consume(batch.consumed);
        match event? {
            Event::Again => continue,
            Event::CloseNotify => break,
            Event::KeyUpdate { requested } => {
                link.traffic.touch();
                if requested {
                    link.signals.update_key();
                }
                inbound.install(link.next_key(rekeying).await?)?;
                continue;
            }
            Event::More => {}
        }
        if inbound.is_key_spent(link.context.limits.records_per_key)
            && rekeying.is_supported()
            && asked_at != Some(inbound.generation())
        {
            asked_at = Some(inbound.generation());
            inbound.expect_update();
            link.signals.ask_client();
        }
        if !received.fill(link.client, &link.context.buffers).await? {
            if !received.unread().is_empty() {
                let cut = Refused::malformed("a record that the end of the connection cuts off");
                return Err(Fault::Refused(cut).into());
            }
            break;
        }
    }
    // The backend may be gone already; that shows where its answer is read.
    let _ = shutdown_write(link.backend);
    Ok(())
}

/// Writes the data of a batch, all of it, with as few calls as the backend's socket takes.
async fn forward(link: &Link<'_>, buffer: &[u8], data: &[Range<usize>]) -> Result<(), Stop> {
    let mut slices: Vec<IoSlice<'_>> = data
        .iter()
        .map(|range| IoSlice::new(&buffer[range.clone()]))
        .collect();
    let mut slices = slices.as_mut_slice();
    while !slices.is_empty() {
        match link.backend.try_write_vectored(slices) {
            Ok(0) => return Err(Stop::BackendWrite(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                link.traffic.add_up(written);
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                link.backend.writable().await.map_err(Stop::BackendWrite)?;
            }
            Err(error) => return Err(Stop::BackendWrite(error)),
        }
    }
    Ok(())
}

/// What has come from the client and is not used yet.
pub(super) struct Received {
    buffer: Vec<u8>,
    unread: Range<usize>,
    /// How much of the buffer has held something.
    used: usize,
}

impl Received {
    /// Starts with what came behind the handshake.
    pub(super) fn new(rest: Vec<u8>) -> Self {
        Self {
            unread: 0..rest.len(),
            used: rest.len(),
            buffer: rest,
        }
    }

    /// Whether nothing is unread.
    pub(super) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    fn unread(&mut self) -> &mut [u8] {
        &mut self.buffer[self.unread.clone()]
    }

    fn consume(&mut self, bytes: usize) {
        self.unread.start = (self.unread.start + bytes).min(self.unread.end);
    }

    /// Reads what there is; `false` at the end of the stream. While it waits with nothing or little unread it holds no
    /// large buffer.
    async fn fill(&mut self, client: &TcpStream, buffers: &Buffers) -> Result<bool, Stop> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        let mut first_try = true;
        loop {
            if !first_try {
                self.shrink(buffers);
                client.readable().await.map_err(Stop::Client)?;
            }
            first_try = false;
            self.make_room(buffers);
            match client.try_read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.unread.end += read;
                    self.used = self.used.max(self.unread.end);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Stop::Client(error)),
            }
        }
    }

    /// Gives a large buffer back in which little waits for the rest of its record. A client cannot make us hold much
    /// more than it has sent.
    fn shrink(&mut self, buffers: &Buffers) {
        if self.buffer.len() == BUFFER_LEN && self.unread.len() <= WAITING_MAX {
            self.move_to(vec![0; self.unread.len()], buffers);
        }
    }

    /// Makes sure that a whole record fits behind what is unread.
    fn make_room(&mut self, buffers: &Buffers) {
        if self.buffer.len() != BUFFER_LEN {
            self.move_to(buffers.take(), buffers);
        } else if BUFFER_LEN - self.unread.start < 2 * RECORD_MAX {
            let len = self.unread.len();
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..len;
        }
    }

    /// Goes on with another buffer, and gives this one back.
    fn move_to(&mut self, mut buffer: Vec<u8>, buffers: &Buffers) {
        let len = self.unread.len();
        buffer[..len].copy_from_slice(&self.buffer[self.unread.clone()]);
        self.give_back(buffers);
        self.buffer = buffer;
        self.unread = 0..len;
        self.used = len;
    }

    /// Gives the buffer back, with whatever is in it.
    pub(super) fn give_back(&mut self, buffers: &Buffers) {
        self.unread = 0..0;
        buffers.give_back(std::mem::take(&mut self.buffer), self.used);
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
    };

    #[tokio::test]
    async fn a_record_that_has_only_begun_waits_in_a_small_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (proxy, _) = listener.accept().await.unwrap();
        let buffers = Buffers::default();
        let mut received = Received::new(Vec::new());
        let mut sent = Vec::new();
        for begun in [&[23][..], &[3, 3, 0, 40], &[7; 20]] {
            client.write_all(begun).await.unwrap();
            sent.extend_from_slice(begun);
            while received.unread().len() < sent.len() {
                assert!(received.fill(&proxy, &buffers).await.unwrap());
            }
            // The rest does not come: it waits until it is dropped.
            let soon = std::time::Duration::from_millis(20);
            let waited = tokio::time::timeout(soon, received.fill(&proxy, &buffers)).await;
            assert!(waited.is_err());
            assert_eq!(received.buffer.len(), sent.len());
            assert_eq!(received.unread(), sent);
        }
    }
}
