//! The central KMS server: the store of state, the root token, and the requests of sites and operators.
//!
//! What may be done to a key is decided in `kms`; here it is done and remembered. Invariant: nothing is acknowledged
//! before the store has it for good.

pub mod config;
pub mod daemon;
pub mod startup;
pub mod store;

mod asks;
mod audit;
mod clock;
mod commit;
mod csr;
mod follow;
mod server;
mod sites;
mod view;
mod words;
mod work;

/// 16 random bytes: the id of something new.
fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    // The system's randomness does not fail once the machine is up.
    aws_lc_rs::rand::fill(&mut id).expect("the system gives random bytes");
    id
}

fn random_byte() -> u8 {
    random_id()[0]
}
