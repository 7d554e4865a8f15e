//! Which reply fits which request.
//!
//! Request ids alone would trust the other end's bookkeeping: a swapped reply would hand one client's keys to
//! another. So each reply names what it answers, and this file compares. It leaves to the caller what to do
//! with a reply that does not fit: close the connection.

use keyhaven_types::Direction;

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
        })
    }

    /// Whether this reply answers that request. An error code answers every request.
    pub fn accepts(&self, reply: &Reply) -> bool {
        match (self.0, reply) {
            (_, Reply::Error(_)) | (Kind::Noted, Reply::Noted) | (Kind::Pong, Reply::Pong) => true,
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
