//! The grammar of the two verbs that examine: `custody` and `doctor`.
//!
//! As everything in `args`, it says what may be written, not what it does. Invariant: neither verb has an option that
//! changes a token.

use std::path::PathBuf;

use clap::Args;
use keyhaven_types::CustodyLevel;

use super::TokenArgs;

/// `custody`
#[derive(Args, Debug)]
#[command(
    after_help = "Levels, from the least to the most that stays in the token:
  signature  the long-term key
  premaster  + ephemeral keys, the shared secret and the first derivation from it
  master     + handshake and master secrets
  schedule   + traffic secrets and Finished keys

Examples:
  signer-admin custody --token 'pkcs11:token=keyhaven?pin-source=file:pin'
  signer-admin custody --token keyhaven --min premaster     (exit code 1 when it is less)
  signer-admin custody --config /etc/keyhaven/signer.toml
"
)]
pub struct CustodyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenArgs,
    /// Every token of this signer.toml instead of one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "module", "init_args", "pin_source"])]
    pub config: Option<PathBuf>,
    /// The level that every TLS version must reach
    #[arg(long, value_name = "LEVEL")]
    pub min: Option<CustodyLevel>,
}

/// `doctor`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  signer-admin doctor --config /etc/keyhaven/signer.toml
  signer-admin doctor --token 'pkcs11:token=keyhaven?pin-source=file:pin'

Nothing is changed. A PIN is tried once, and not at all when the token says that it is the last try.
Exit code 1 when something must be repaired.")]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenArgs,
    /// The signer's configuration; every token, key, certificate and identity in it is examined
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "module", "init_args", "pin_source"])]
    pub config: Option<PathBuf>,
}
