//! Where central and the signers are: one option of every verb that asks over the network.
//!
//! What is in the file is `channel`'s business. Invariant: no address and no identity is given on the command line.

use std::path::PathBuf;

use clap::Args;

/// Whom to ask.
#[derive(Args, Debug)]
pub struct ClientArgs {
    /// File with own identity, centrals and signers, as config/client.toml explains it
    #[arg(
        long,
        value_name = "FILE",
        env = "KEYHAVEN_CLIENT",
        hide_env_values = true
    )]
    pub client: Option<PathBuf>,
}
