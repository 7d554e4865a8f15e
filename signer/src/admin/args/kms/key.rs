//! The grammar of `kms key …` and `kms version …`.
//!
//! Invariant: key material is named by its file, never given; a password too.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use keyhaven_types::{KeyKind, Name, Purpose};

use super::ClientArgs;

/// `kms key …`
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make a key in central's token
    #[command(after_help = "Examples:
  signer-admin kms key create shop --kind ec-p256 --purpose handshake --class everywhere \\
      --server-name shop.example
  signer-admin kms key create orders --kind rsa-3072 --purpose sign --class everywhere")]
    Create(CreateArgs),
    /// Import a key from a file, or from another HSM that wraps it
    #[command(
        after_help = "From a file (PEM or DER; PKCS#8, encrypted too, PKCS#1, SEC1, PKCS#12; 32 bytes for aes-256
and hmac):
  signer-admin kms key import shop --file shop.key --purpose handshake --class everywhere \\
      --chain shop.pem

The key is encrypted to a key in central's token before it leaves this process. A key that was in a
file may have copies, and its record says so for ever; the file is never touched.

From another HSM, which wraps an AES-256 key by RSA-OAEP (SHA-1) under the transport key, and the
key (PKCS#8, or the secret) under that AES key by AES-KWP (RFC 5649):
  signer-admin kms key transport --out transport.pem
  signer-admin kms key import shop --wrapped-kek kek.bin --wrapped-key key.bin --transport ID \\
      --kind rsa-3072 --public shop-public.pem --purpose handshake --class everywhere"
    )]
    Import(ImportArgs),
    /// Make a transport key in central's token: good for one import within ten minutes
    #[command(after_help = "Example:
  signer-admin kms key transport --out transport.pem")]
    Transport(TransportArgs),
    /// Make a new version current; the former one verifies and decrypts what it made
    #[command(
        after_help = "A handshake key needs a certificate for its new version (csr, chain); until it has one, the
former version serves on."
    )]
    Rotate(KeyArgs),
    /// Let no version make anything new; they verify and decrypt what they made
    Disable(EndArgs),
    /// Let nobody use any version any more
    #[command(after_help = "Example:
  signer-admin kms key revoke shop --wait

It is committed when the command returns, and enforced when no site uses the key any more: --wait
returns then. The name is asked for again; scripts say --yes.")]
    Revoke(EndArgs),
    /// Destroy every version: central and sites delete their wraps, for ever
    #[command(after_help = "The name is asked for again; scripts say --yes.")]
    Destroy(EndArgs),
    /// Keys in the order of their names
    List(ClientArgs),
    /// One key with its versions
    Show(KeyArgs),
    /// Make a certificate signing request (PKCS#10) for a handshake key's current version
    #[command(after_help = "Example:
  signer-admin kms key csr shop --out shop.csr")]
    Csr(CsrArgs),
    /// Give a handshake key its certificates, which travel with it
    #[command(after_help = "Example:
  signer-admin kms key chain shop shop.pem")]
    Chain(ChainArgs),
}

/// `kms version …`
#[derive(Debug, Subcommand)]
pub enum VersionVerb {
    /// The versions of a key; the newest 100 when there are more
    List(KeyArgs),
    /// Let a version make nothing new
    Disable(VersionArgs),
    /// Let nobody use a version any more
    Revoke(VersionArgs),
    /// Destroy a version, for ever
    Destroy(VersionArgs),
}

/// A key to be asked about.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// The key's name or id
    pub key: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Onward in the life of all versions of a key.
#[derive(Args, Debug)]
pub struct EndArgs {
    /// The key's name or id
    pub key: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub how: HowArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Onward in the life of one version.
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// The key's name or id
    pub key: String,
    /// The version, from 1
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub version: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub how: HowArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// How a key or version is taken onward.
#[derive(Args, Clone, Copy, Debug)]
pub struct HowArgs {
    /// Do not ask for the name again
    #[arg(long)]
    pub yes: bool,
    /// Return when it holds at every site
    #[arg(long)]
    pub wait: bool,
}

/// What a new key shall be for.
#[derive(Args, Debug)]
pub struct PlaceArgs {
    /// The one thing it is for: handshake, sign, decrypt, data, mac, wrap or tickets
    #[arg(long)]
    pub purpose: Purpose,
    /// Its class
    #[arg(long)]
    pub class: Name,
    /// A host name that is served with it, `*.` may lead it; again for each further one
    #[arg(long = "server-name", value_name = "NAME")]
    pub server_names: Vec<String>,
}

/// `kms key create`
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// The key's name
    pub name: Name,
    /// Kind: rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384, ed25519, aes-256 or hmac
    #[arg(long)]
    pub kind: KeyKind,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: PlaceArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms key import`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("source").required(true).args(["file", "wrapped_key"])))]
pub struct ImportArgs {
    /// The key's name
    pub name: Name,
    /// The file with the key
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// The first line of this file (mode 0600) is the password; left out, it is asked for on the terminal
    #[arg(long, value_name = "FILE", requires = "file")]
    pub pass_file: Option<PathBuf>,
    /// An AES-256 key, wrapped under the transport key by RSA-OAEP with SHA-1
    #[arg(long, value_name = "FILE", requires = "wrapped_key")]
    pub wrapped_kek: Option<PathBuf>,
    /// The key, wrapped under the AES-256 key by AES-KWP (RFC 5649)
    #[arg(long, value_name = "FILE", requires_all = ["wrapped_kek", "transport", "kind"])]
    pub wrapped_key: Option<PathBuf>,
    /// The transport key's id, as `kms key transport` printed it
    #[arg(long, value_name = "ID", requires = "wrapped_key")]
    pub transport: Option<String>,
    /// Kind: left out, a file tells it; needed for a wrapped key, and for 32 bytes of aes-256 or hmac
    #[arg(long)]
    pub kind: Option<KeyKind>,
    /// The public key that a wrapped pair must have: PEM or DER SubjectPublicKeyInfo
    #[arg(long, value_name = "FILE", requires = "wrapped_key")]
    pub public: Option<PathBuf>,
    /// The certificates of a handshake key, PEM
    #[arg(long, value_name = "FILE")]
    pub chain: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: PlaceArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms key transport`
#[derive(Args, Debug)]
pub struct TransportArgs {
    /// Write the public key to this file, PEM SubjectPublicKeyInfo
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms key csr`
#[derive(Args, Debug)]
pub struct CsrArgs {
    /// The key's name or id
    pub key: String,
    /// Write to this file instead of standard output; an older request in it is replaced, nothing else is
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms key chain`
#[derive(Args, Debug)]
pub struct ChainArgs {
    /// The key's name or id
    pub key: String,
    /// Certificates, PEM; those that are no part of the key's chain are left out
    pub file: PathBuf,
    /// For this version instead of the newest
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub version: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}
