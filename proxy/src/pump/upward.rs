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
        if inbound.records() >= link.context.limits.records_per_key
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
}

impl Received {
    /// Starts with what came behind the handshake.
    pub(super) fn new(rest: Vec<u8>) -> Self {
        Self {
            unread: 0..rest.len(),
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

    /// Reads what there is; `false` at the end of the stream. While it waits with nothing unread it holds no buffer.
    async fn fill(&mut self, client: &TcpStream, buffers: &Buffers) -> Result<bool, Stop> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        let mut first_try = true;
        loop {
            if self.unread.is_empty() && !first_try {
                buffers.give_back(self.take_buffer());
            }
            if !first_try {
                client.readable().await.map_err(Stop::Client)?;
            }
            first_try = false;
            self.make_room(buffers);
            match client.try_read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.unread.end += read;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Stop::Client(error)),
            }
        }
    }

    /// Makes sure that a whole record fits behind what is unread.
    fn make_room(&mut self, buffers: &Buffers) {
        if self.buffer.len() != BUFFER_LEN {
            let mut buffer = buffers.take();
            let len = self.unread.len();
            buffer[..len].copy_from_slice(&self.buffer[self.unread.clone()]);
            self.unread = 0..len;
            self.buffer = buffer;
        } else if BUFFER_LEN - self.unread.start < 2 * RECORD_MAX {
            let len = self.unread.len();
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..len;
        }
    }

    /// Gives the buffer away while nothing is unread.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        self.unread = 0..0;
        std::mem::take(&mut self.buffer)
    }
}
