//! Whole-system tests over sockets, with real clients.
//!
//! Here stands what the tests share: a site with everything in it, a backend, real clients, a raw client that
//! does wrong things, and a relay that sees what proxy and signer say to each other. The tests themselves are in
//! `tests/`, by theme. Every site uses ports that the system chose, on the loopback alone.

pub mod audit;
pub mod backend;
pub mod channel;
pub mod clients;
pub mod cost;
pub mod crowd;
pub mod daemon;
pub mod dialogue;
pub mod etcd;
pub mod http;
pub mod kms;
pub mod matrix;
pub mod overheard;
pub mod pki;
pub mod proxy_header;
pub mod rawtls;
pub mod readable;
pub mod relay;
pub mod running;
pub mod rustls_client;
pub mod site;
