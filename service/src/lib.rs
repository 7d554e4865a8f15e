//! What every daemon shares: mutually authenticated listener and dialer, framed connection, config reading,
//! telemetry, shutdown.
//!
//! Moves messages between identities; what a message means, and who may send it, is the business of the
//! daemons. One invariant: no message is read from or written to a connection whose other end has not proven
//! exactly one identity of the role that is expected there.

pub mod config;
pub mod shutdown;
pub mod signed;
pub mod telemetry;

mod calls;
mod client;
mod credentials;
mod dial;
mod identity;
mod link;
mod listener;
mod server;
mod shares;
mod tls;

pub use calls::CallError;
pub use client::{Client, PinnedConnection};
pub use credentials::{Credentials, CredentialsError, CredentialsFile};
pub use dial::{ClientConfig, DialError};
pub use identity::{PeerIdentityError, peer_identity};
pub use listener::{ListenError, Listener, ListenerConfig};
pub use server::{Caller, Handler, ServeLimits};
pub use shares::{Share, Shares};
