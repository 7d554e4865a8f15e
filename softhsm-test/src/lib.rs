//! A fresh SoftHSM2 token for each test, and the module that counts calls and injects faults.
//!
//! [`TestToken`] owns a folder with a configuration, a token and its PIN file, and removes it when dropped.
//! [`fresh_token!`] gives a test a token *in its own process*: SoftHSM2 reads `SOFTHSM2_CONF` from the process
//! environment once, so the test runs again in a child that was started with it. Keys are made with
//! `pkcs11-tool` and `softhsm2-util`, not with the code under test. Nothing here depends on another room.

mod public_key;
mod reexec;
mod shim;
mod token;
mod tools;

pub use reexec::{Reexec, reexec, test_name_of};
pub use shim::{Shim, ShimReport};
pub use token::{TestToken, TokenError};
