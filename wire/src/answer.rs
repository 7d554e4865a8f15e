//! Which reply fits which request.
//!
//! Request ids alone would trust the other end's bookkeeping: a swapped reply would hand one client's keys to
//! another. So each reply names what it answers, and this file compares. It leaves to the caller what to do
//! with a reply that does not fit: close the connection.

use keyhaven_types::Direction;

use crate::kms::{BatchBody, SignedBatch};
use crate::message::{Binding, ConnectionId, HandshakeId, Next, Reply, Request};

/// What the reply to one request must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Handshake {
        binding: Binding,
        sent: usize,
        is_first: bool,
    },
    Noted,
    Alert(HandshakeId),
    Rekeyed {
        connection: ConnectionId,
        direction: Direction,
        generation: u32,
    },
    Pong,
    /// With as many as there were operations.
    Results(usize),
    Found,
    Changes {
        after: u64,
    },
    Fetched,
    Leased([u8; 16]),
    Status,
    Admin,
}

impl Expected {
    /// What answers this request.
    pub fn of(request: &Request) -> Self {
        Self(match request {
            Request::Start(start) => Kind::Handshake {
                binding: start.binding(),
                sent: start.records.len(),
                is_first: true,
            },
            Request::Continue(next) => Kind::Handshake {
                binding: next.binding(),
                sent: next.records.len(),
                is_first: false,
            },
            Request::Outcome(_) => Kind::Noted,
            Request::Refuse(refuse) => Kind::Alert(refuse.handshake),
            Request::Rekey(rekey) => Kind::Rekeyed {
                connection: rekey.connection,
                direction: rekey.direction,
                generation: rekey.generation,
            },
            Request::Ping => Kind::Pong,
            Request::Operate(batch) => Kind::Results(batch.tasks.len()),
            Request::OperateSigned(batch) => Kind::Results(tasks_in(batch)),
            Request::OperatePassed(passed) => Kind::Results(passed.which.len()),
            Request::Lookup(_) => Kind::Found,
            Request::Follow(follow) => Kind::Changes {
                after: follow.after,
            },
            Request::Fetch(_) => Kind::Fetched,
            Request::Lease(lease) => Kind::Leased(lease.nonce),
            Request::Status => Kind::Status,
            Request::Admin(_) => Kind::Admin,
        })
    }

    /// Whether this reply answers that request. An error code answers every request.
    pub fn accepts(&self, reply: &Reply) -> bool {
        match (self.0, reply) {
            (_, Reply::Error(_))
            | (Kind::Noted, Reply::Noted)
            | (Kind::Pong, Reply::Pong)
            | (Kind::Found, Reply::Found(_))
            | (Kind::Fetched, Reply::Fetched(_))
            | (Kind::Status, Reply::Status(_))
            | (Kind::Admin, Reply::Admin(_)) => true,
            (Kind::Results(tasks), Reply::Results(results)) => results.len() == tasks,
            (Kind::Changes { after }, Reply::Changes(changes)) => changes.through >= after,
            (Kind::Leased(nonce), Reply::Leased(grant)) => grant.nonce == nonce,
            (
                Kind::Handshake {
                    binding,
                    sent,
                    is_first,
                },
                Reply::Handshake(reply),
            ) => {
                // Nobody's Finished fits a first flight.
                let is_open = matches!(reply.next, Next::Open(_));
                reply.binding == binding
                    && reply.consumed as usize <= sent
                    && !(is_first && is_open)
            }
            (Kind::Alert(asked), Reply::Alert { handshake, .. }) => *handshake == asked,
            (
                Kind::Rekeyed {
                    connection,
                    direction,
                    generation,
                },
                Reply::Rekeyed(rekeyed),
            ) => {
                rekeyed.connection == connection
                    && rekeyed.direction == direction
                    && rekeyed.generation == generation
            }
            _ => false,
        }
    }
}

/// How many operations a signed batch holds; 0, which no reply fits, when it cannot be read.
fn tasks_in(batch: &SignedBatch) -> usize {
    postcard::from_bytes::<BatchBody>(&batch.body).map_or(0, |body| body.tasks.len())
}
