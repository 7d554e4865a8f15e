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

The hold is another question: what the module refuses even to code that has the login. Attacks on
throw-away objects show it; those that succeed are printed. Without --config one token is examined;
with it every token of a signer, and what each site is served at.

Examples:
  signer-admin custody --token 'pkcs11:token=keyhaven?pin-source=file:pin'
  signer-admin custody --token keyhaven --min premaster     (exit code 1 when it is less)
  signer-admin custody --config /etc/keyhaven/signer.toml --details
  signer-admin custody --config /etc/keyhaven/signer.toml --json   (docs/custody.md explains it)"
)]
pub struct CustodyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenArgs,
    /// Every token and site of this signer.toml instead of one token
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "module", "init_args", "pin_source"])]
    pub config: Option<PathBuf>,
    /// The level that every TLS version must reach: the token's, or with --config every site's
    #[arg(long, value_name = "LEVEL")]
    pub min: Option<CustodyLevel>,
    /// Print every self-test and every attack with its outcome, not only what failed
    #[arg(long)]
    pub details: bool,
}

/// `doctor`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  signer-admin doctor --config /etc/keyhaven/signer.toml
  signer-admin doctor --token 'pkcs11:token=keyhaven?pin-source=file:pin'
  signer-admin doctor --token keyhaven --probe-report hsm.json

Nothing is changed. A PIN is tried once, and not at all when the token says that it is the last try.
Exit code 1 when something must be repaired.

A probe report tells what a token can do and what it refuses, for tokens that we have not seen:
library, slot, mechanisms, self-tests, attacks, limits. It has no label, serial number, key or PIN.
The tests make session objects and destroy them; nothing is stored in the token.")]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenArgs,
    /// The signer's configuration; every token, key, certificate and identity in it is examined
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "module", "init_args", "pin_source"])]
    pub config: Option<PathBuf>,
    /// Write a probe report, JSON, to this new file (without a name: to standard output) instead of examining
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "config")]
    pub probe_report: Option<Option<PathBuf>>,
}
