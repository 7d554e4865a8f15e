//! Values that every room shares: names, schemes, levels, identities.
//!
//! Only values: nothing here reads a file, opens a socket or calls a token. Every type parses once and is
//! then known to be good.

mod custody;
mod identity;
mod secret;
mod tls;

pub use custody::CustodyLevel;
pub use identity::{Identity, IdentityError, Role};
pub use secret::Secret;
pub use tls::{
    AeadAlgorithm, Direction, HashAlgorithm, KeyAlgorithm, NamedGroup, SignatureScheme, TlsVersion,
    alert,
};
