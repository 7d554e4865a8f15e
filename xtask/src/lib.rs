//! What the developer verbs share: running commands and daemons, and a whole site in a folder.
//!
//! Leaves every decision of the product to the product: a site is made with the real `signer-admin`, and served
//! by the real `signer` and `proxy`. Never names PKCS#11.

pub mod backend;
pub mod cargo;
pub mod client;
pub mod command;
pub mod daemon;
pub mod error;
pub mod interrupt;
pub mod modules;
pub mod packages;
pub mod say;
pub mod site;

pub use error::Error;
