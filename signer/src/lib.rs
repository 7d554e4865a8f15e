//! The key server and its operator's command line.
//!
//! Decides who may use which key, and keeps the account of what was done; handshakes are the business of
//! `handshake`, tokens that of `hsm`, the channel that of `service`.

pub mod admin;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod kms;
pub mod policy;
pub mod reload;
pub mod serve;
pub mod startup;

mod audit;
mod health;
mod metrics;
mod pending;
mod translate;
