//! The grammar of `kms site …`.
//!
//! Invariant: `enroll` runs at a site and asks nobody; the others ask central.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyhaven_types::{HardwareLevel, Identity, Name};

use super::{ClientArgs, ceremony::TokenAtArgs};

/// `kms site …`
#[derive(Debug, Subcommand)]
pub enum SiteVerb {
    /// At the site: make a one-shot transport key, wait for what the ceremony delivers, take it into the token
    #[command(after_help = "Example:
  signer-admin kms site enroll --site frankfurt --module /usr/lib/softhsm/libsofthsm2.so \\
      --uri 'pkcs11:token=frankfurt?pin-source=file:pin' --central-key central.pem \\
      --request frankfurt-request.json --response frankfurt-response.json

Read the fingerprint that it shows to whoever holds the ceremony. The transport key lives as long as
this process: when it ends, the response is of no use any more.")]
    Enroll(EnrollArgs),
    /// Register a site at central, or what a further ceremony has given it
    #[command(after_help = "Example:
  signer-admin kms site add --from frankfurt-response.json \\
      --identity spiffe://example.org/signer/frankfurt --address frankfurt.example:7443 \\
      --region eu --hardware software")]
    Add(AddArgs),
    /// Throw a site out: it gets nothing more
    #[command(after_help = "Example:
  signer-admin kms site evict frankfurt

What the site has, it has: rotate its classes' key-encryption keys (kms class rotate), and if its
machine is in bad hands, the keys too. The name is asked for again; scripts say --yes.")]
    Evict(EvictArgs),
    /// Every site
    List(ClientArgs),
}

/// `kms site enroll`
#[derive(Args, Debug)]
pub struct EnrollArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenAtArgs,
    /// The site's name at central
    #[arg(long)]
    pub site: Name,
    /// Central's public key, PEM, as its ceremony has given it; it came here by a way that is trusted
    #[arg(long, value_name = "FILE")]
    pub central_key: PathBuf,
    /// Where to write the request; an older one is replaced, nothing else is
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// Where the response will be; it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub response: PathBuf,
    /// How long to wait for the response
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = super::parse_time)]
    pub timeout: u64,
}

/// `kms site add`
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The response file of the site's ceremony
    #[arg(long, value_name = "FILE", required_unless_present = "site")]
    pub from: Option<PathBuf>,
    /// The site's name; only for a site that no ceremony has given anything
    #[arg(long)]
    pub site: Option<Name>,
    /// Who its signer is: spiffe://DOMAIN/signer/NAME
    #[arg(long)]
    pub identity: Identity,
    /// Where its signer listens, HOST:PORT, for other sites, clients and proxies
    #[arg(long)]
    pub address: String,
    /// Where it is
    #[arg(long)]
    pub region: Name,
    /// What its token is: software or hardware
    #[arg(long, value_name = "LEVEL")]
    pub hardware: HardwareLevel,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms site evict`
#[derive(Args, Debug)]
pub struct EvictArgs {
    /// The site
    pub site: Name,
    /// Do not ask for the name again
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}
