//! A distributed KMS on this machine: central, sites with a token each, clients, and the network between them.
//!
//! `world` builds it by the operator's own commands, as the manual says; `net` can cut it; `ask` is a KMS client.

mod ask;
mod central;
mod edge;
mod etcd_world;
mod net;
mod site;
mod world;

pub use ask::{Kms, done, named, now_ms, server_of, sign_batch, sign_body};
pub use central::Central;
pub use edge::Edge;
pub use etcd_world::EtcdWorld;
pub use net::Net;
pub use site::SiteNode;
pub use world::{ADMIN, Class, PURPOSES, World, WorldBuilder, spiffe, world};
