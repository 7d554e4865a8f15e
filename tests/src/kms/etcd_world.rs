//! The etcd nodes behind centrals: where they are in a world, and what centrals are told of them.

use std::path::Path;

use super::Net;
use crate::etcd::{EtcdCluster, EtcdPlace};

/// Three nodes.
pub struct EtcdWorld {
    /// The nodes.
    pub cluster: EtcdCluster,
}

impl EtcdWorld {
    pub(super) fn start(dir: &Path, net: Option<&Net>, names: &[String]) -> EtcdWorld {
        let places = match net {
            None => EtcdPlace::local(),
            Some(net) => names
                .iter()
                .map(|name| EtcdPlace {
                    ip: net.address(name),
                    prefix: net.prefix(name),
                    port: 2379,
                })
                .collect(),
        };
        EtcdWorld {
            cluster: EtcdCluster::start(dir, places),
        }
    }

    /// Lines for `[store]`.
    pub(super) fn lines(&self) -> String {
        let central = self.cluster.central();
        format!(
            "kind = \"etcd\"\nendpoints = {:?}\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\ntimeout_ms = 3000\n",
            self.cluster.endpoints(),
            self.cluster.ca().display(),
            central.certificate.display(),
            central.key.display(),
        )
    }
}
