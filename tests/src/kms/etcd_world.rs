//! The etcd nodes behind centrals.

use std::path::Path;

use super::Net;

/// Three nodes.
pub struct EtcdWorld {}

impl EtcdWorld {
    pub(super) fn start(_dir: &Path, _net: Option<&Net>, _names: &[String]) -> EtcdWorld {
        EtcdWorld {}
    }

    /// Lines for `[store]`.
    pub(super) fn lines(&self, _dir: &Path) -> String {
        String::new()
    }
}
