//! Backend to client: reads up to several records' worth into place, seals it there, sends it in one call.
//!
//! Ends with close_notify when the backend has sent all it will send. Data waits while a new key is on its way.

use std::io::{self, IoSliceMut};

use super::{Link, Stop, Turns};
use crate::{
    client::shutdown_write,
    session::{Outbound, Rekeying},
};

/// Moves until the backend's side is over.
pub(super) async fn run(
    link: &Link<'_>,
    outbound: &mut Outbound,
    rekeying: &mut Rekeying,
) -> Result<(), Stop> {
    let mut turns = Turns::default();
    loop {
        turns.next().await;
        flush(link, outbound).await?;
        if link.signals.take_update() || outbound.is_key_spent() {
            if !rekeying.is_supported() {
                return Err(Stop::KeySpent);
            }
            let next = link.next_key(rekeying).await?;
            outbound.update_key(next, link.signals.take_ask())?;
            continue;
        }
        match read_and_seal(link, outbound) {
            Ok(0) => break,
            Ok(read) => link.traffic.add_down(read),
            Err(Stop::BackendRead(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                // All that it held was sealed, and is on its way to the client.
                link.context.buffers.give_back(outbound.take_buffer(), 0);
                tokio::select! {
                    ready = link.backend.readable() => ready.map_err(Stop::BackendRead)?,
                    () = link.signals.raised() => {}
                }
            }
            Err(stop) => return Err(stop),
        }
    }
    outbound.close_notify()?;
    flush(link, outbound).await?;
    shutdown_write(link.client).map_err(Stop::Client)
}

/// Sends what is sealed. Interrupted anywhere, the rest is still there and in order.
async fn flush(link: &Link<'_>, outbound: &mut Outbound) -> Result<(), Stop> {
    while !outbound.pending().is_empty() {
        match link.client.try_write(outbound.pending()) {
            Ok(0) => return Err(Stop::Client(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                outbound.advance(written);
                link.traffic.touch();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                link.client.writable().await.map_err(Stop::Client)?;
            }
            Err(error) => return Err(Stop::Client(error)),
        }
    }
    Ok(())
}

/// Takes what the backend has, without waiting. `WouldBlock` comes back as an error of reading.
fn read_and_seal(link: &Link<'_>, outbound: &mut Outbound) -> Result<usize, Stop> {
    if outbound.lacks_buffer() {
        outbound.give_buffer(link.context.buffers.take());
    }
    let mut places: Vec<IoSliceMut<'_>> =
        outbound.slots().into_iter().map(IoSliceMut::new).collect();
    let read = link
        .backend
        .try_read_vectored(&mut places)
        .map_err(Stop::BackendRead)?;
    outbound.seal_slots(read)?;
    Ok(read)
}
