//! The grammar of `kms ceremony …`: at central's token, with the security officer.
//!
//! Invariant: no verb here asks anybody over the network, and neither PIN can be given on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyhaven_types::{Name, Purpose};

use crate::admin::args::{ModuleArgs, TokenArgs};

/// `kms ceremony …`
#[derive(Debug, Subcommand)]
pub enum CeremonyVerb {
    /// Make central's keys: the one that signs records, a root key for each purpose, a pool for classes
    #[command(after_help = "Example:
  signer-admin kms ceremony init --module M --uri 'pkcs11:token=central?pin-source=file:pin' \\
      --so-pin-file so-pin --pool 8 --central-key central.pem

What is there already stays; what is missing is made. Write down the fingerprint of central.pem, and
bring the file to every site by hand.")]
    Init(InitArgs),
    /// Make more key-encryption keys for classes to come
    #[command(after_help = "Example:
  signer-admin kms ceremony pool --module M --uri U --so-pin-file so-pin --purpose sign --count 8")]
    Pool(PoolArgs),
    /// Wrap classes' key-encryption keys for one site
    #[command(after_help = "Example:
  signer-admin kms ceremony deliver --module M --uri U --so-pin-file so-pin \\
      --classes classes.json --class everywhere --request frankfurt-request.json \\
      --response frankfurt-response.json --fingerprint '3f2a 91c0 …'

The fingerprint is the one on the site's screen, as it was read aloud: all of it. It is what keeps
an impostor's key from being trusted.")]
    Deliver(DeliverArgs),
    /// What the token has, and whether a broken-off ceremony left anything behind
    Status(CeremonyArgs),
}

/// Which token, in a ceremony.
#[derive(Args, Debug)]
pub struct TokenAtArgs {
    /// PKCS#11 module (shared library); left out, SoftHSM2 is looked for where systems put it
    #[arg(long, value_name = "PATH")]
    pub module: Option<PathBuf>,
    /// Text for the module's C_Initialize (pReserved), as NSS and some vendors' modules want it; not for secrets
    #[arg(long, value_name = "TEXT")]
    pub init_args: Option<String>,
    /// The token: a PKCS#11 URI, with pin-source for the user PIN, or its label
    #[arg(long)]
    pub uri: String,
}

impl TokenAtArgs {
    /// The same as other verbs write it.
    pub(in crate::admin) fn token(&self) -> TokenArgs {
        TokenArgs {
            module: ModuleArgs {
                module: self.module.clone(),
                init_args: self.init_args.clone(),
            },
            token: Some(self.uri.clone()),
            pin_source: None,
        }
    }
}

/// The token with its officer.
#[derive(Args, Debug)]
pub struct CeremonyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenAtArgs,
    /// The first line of this file (mode 0600) is the security officer's PIN; left out, it is asked for
    #[arg(long, value_name = "FILE")]
    pub so_pin_file: Option<PathBuf>,
}

/// `kms ceremony init`
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub at: CeremonyArgs,
    /// How many key-encryption keys there shall be for each purpose
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=256))]
    pub pool: u32,
    /// Where to write central's public key, PEM SubjectPublicKeyInfo; the same key in it is left alone
    #[arg(long, value_name = "FILE")]
    pub central_key: PathBuf,
}

/// `kms ceremony pool`
#[derive(Args, Debug)]
pub struct PoolArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub at: CeremonyArgs,
    /// What the classes' keys will be for; again for each further one
    #[arg(long, required = true, value_name = "PURPOSE")]
    pub purpose: Vec<Purpose>,
    /// How many to make for each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub count: u32,
}

/// `kms ceremony deliver`
#[derive(Args, Debug)]
pub struct DeliverArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub at: CeremonyArgs,
    /// The classes as central has signed them: `kms class export`
    #[arg(long, value_name = "FILE")]
    pub classes: PathBuf,
    /// A class that the site shall hold; again for each further one
    #[arg(long = "class", required = true, value_name = "NAME")]
    pub class: Vec<Name>,
    /// The site's request
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// The fingerprint of the site's transport key as read aloud from the site's screen: 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub fingerprint: String,
    /// Where to write the response
    #[arg(long, value_name = "FILE")]
    pub response: PathBuf,
}
