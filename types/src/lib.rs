//! Values that every room shares: names, schemes, levels, identities, managed keys.
//!
//! Only values: nothing here reads a file, opens a socket or calls a token. Every type parses once and is
//! then known to be good.

mod custody;
mod identity;
mod managed;
mod secret;
mod tls;

pub use custody::CustodyLevel;
pub use identity::{Identity, IdentityError, Role};
pub use managed::{
    HardwareLevel, KekId, KeyId, KeyKind, KeyState, Name, NameError, Operation, Provenance,
    Purpose, Replication,
};
pub use secret::Secret;
pub use tls::{
    AeadAlgorithm, Direction, HashAlgorithm, KeyAlgorithm, NamedGroup, SignatureScheme, TlsVersion,
    alert,
};
