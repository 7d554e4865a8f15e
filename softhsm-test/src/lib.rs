//! A fresh token for each test, of any module, and the module that counts calls and injects faults.
//!
//! [`TestToken`] owns a folder with a configuration, a token and its PIN file, and removes it when dropped.
//! [`fresh_token!`] gives a test a token *in its own process*: modules read their variables from the process
//! environment once, so the test runs again in a child that was started with them. Keys are made with the tools that
//! operators use, not with the code under test. Nothing here depends on another room.

mod backend;
mod helper;
mod kind;
mod public_key;
mod reexec;
mod shim;
mod token;
mod tools;

pub use keyhaven_pkcs11_shim::{
    seen::ObjectSeen,
    tapped::{Direction, Tapped},
};
pub use kind::{ModuleKind, UnknownModule};
pub use reexec::{Reexec, reexec, test_name_of};
pub use shim::{Shim, ShimReport};
pub use token::{TestToken, TokenError};
