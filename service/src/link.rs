//! Frames over one TLS connection, both directions, for either end.
//!
//! Reads one message at a time under a deadline and writes what is queued in one go. Knows neither requests
//! from replies nor what to do when it fails. One invariant: every wait on the other end has a deadline, and
//! every buffer that held a message is wiped.

use std::{io, time::Duration};

use keyhaven_wire::{Decoder, FrameError, Message};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use zeroize::{Zeroize, Zeroizing};

/// One encoded frame on its way out.
pub(crate) type Frame = Zeroizing<Vec<u8>>;

/// What is written at once: enough to fill several TLS records, little enough to wait for.
const BATCH_BYTES: usize = 64 * 1024;

/// Why a connection ended that was not asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the other end sent no whole message in {0:?}")]
    Idle(Duration),
    #[error("the other end read nothing for {0:?}")]
    WriteTimeout(Duration),
    #[error("the other end cut a message short")]
    Truncated,
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the other end broke the protocol")]
    Frame(#[from] FrameError),
    #[error("the other end answered something that was not asked")]
    Unasked,
    #[error("the other end's certificate has expired")]
    Expired,
    #[error("the other end did not answer a ping in {0:?}")]
    Ping(Duration),
}

/// The reading half.
pub(crate) struct FrameReader<R, T> {
    stream: R,
    decoder: Decoder<T>,
}

impl<R: AsyncRead + Unpin, T: Message> FrameReader<R, T> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
        }
    }

    /// The next message, or nothing at the end of the stream. Dropping the future loses no byte.
    ///
    /// The deadline is for the whole message: a peer that trickles bytes gains nothing.
    pub(crate) async fn next(
        &mut self,
        idle_timeout: Duration,
    ) -> Result<Option<(u64, T)>, LinkError> {
        let deadline = Instant::now() + idle_timeout;
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            let read = self.stream.read_buf(self.decoder.room());
            match timeout_at(deadline, read).await {
                Err(_) => return Err(LinkError::Idle(idle_timeout)),
                // A peer that ends without close_notify has still sent whole messages up to here.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.end();
                }
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(0)) => return self.end(),
                Ok(Ok(_)) => {}
            }
        }
    }

    fn end(&self) -> Result<Option<(u64, T)>, LinkError> {
        if self.decoder.is_empty() {
            Ok(None)
        } else {
            Err(LinkError::Truncated)
        }
    }
}

/// Writes frames until every sender is gone, then closes the stream.
pub(crate) async fn write_frames<W: AsyncWrite + Unpin>(
    mut stream: W,
    mut queue: mpsc::Receiver<Frame>,
    write_timeout: Duration,
) -> Result<(), LinkError> {
    let mut batch = Zeroizing::new(Vec::with_capacity(BATCH_BYTES));
    while let Some(first) = queue.recv().await {
        append(&mut batch, &first);
        while batch.len() < BATCH_BYTES
            && let Ok(next) = queue.try_recv()
        {
            append(&mut batch, &next);
        }
        let written = timeout(write_timeout, async {
            stream.write_all(&batch).await?;
            stream.flush().await
        });
        written
            .await
            .map_err(|_| LinkError::WriteTimeout(write_timeout))??;
        batch.zeroize();
    }
    // The other end may be gone already; there is nobody to tell.
    let _ = timeout(write_timeout, stream.shutdown()).await;
    Ok(())
}

/// Appends without leaving an unwiped copy behind when the batch grows.
fn append(batch: &mut Frame, frame: &[u8]) {
    if batch.capacity() - batch.len() < frame.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * (batch.len() + frame.len())));
        larger.extend_from_slice(batch);
        *batch = larger;
    }
    batch.extend_from_slice(frame);
}
