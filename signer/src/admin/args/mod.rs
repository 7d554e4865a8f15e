//! The command line's grammar, and the help that teaches it.
//!
//! Says what may be written, not what it does. Invariant: no argument takes a PIN, a password or key material.

mod client;
mod examine;
pub(super) mod kms;
pub(super) mod operate;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use keyhaven_types::KeyAlgorithm;

pub(super) use client::ClientArgs;
pub(super) use examine::{CustodyArgs, DoctorArgs};

/// Tokens, keys and certificates of a Keyhaven signer; managed keys at many sites.
#[derive(Debug, Parser)]
#[command(
    name = "signer-admin",
    version,
    arg_required_else_help = true,
    after_help = r#"A first key, on SoftHSM2:
  TOKEN='pkcs11:token=keyhaven?pin-source=file:pin'
  signer-admin token init --label keyhaven --pin-source file:pin --so-pin-source file:so-pin
  signer-admin key generate --token "$TOKEN" --algorithm ec-p256 --label site
  signer-admin key csr --token "$TOKEN" --label site --dns www.example.org --out site.csr
  signer-admin doctor --token "$TOKEN"

Exit codes: 0 done, 1 failed, 64 wrong usage, 78 wrong configuration."#
)]
pub struct Cli {
    /// Print one JSON document instead of text; failures too, on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tokens: list them, initialise one, see its state
    #[command(subcommand, arg_required_else_help = true)]
    Token(TokenVerb),
    /// Private keys in a token: make, import, list, show, delete, request a certificate
    #[command(subcommand, arg_required_else_help = true)]
    Key(KeyVerb),
    /// Certificates kept as objects beside their key
    #[command(subcommand, arg_required_else_help = true)]
    Cert(CertVerb),
    /// What a token keeps to itself in a handshake and what it refuses, shown by tests; where its keys come from
    Custody(CustodyArgs),
    /// Find what is wrong with a setup, and what to do about it
    Doctor(DoctorArgs),
    /// Managed keys at many sites: central, classes, keys, sites, grants, ceremonies
    #[command(subcommand, arg_required_else_help = true)]
    Kms(kms::KmsVerb),
    /// Which sites can do an operation with a managed key, the fastest first
    Lookup(operate::LookupArgs),
    /// Sign with a managed key
    Sign(operate::SignArgs),
    /// Verify a signature, or an HMAC, with a managed key
    Verify(operate::VerifyArgs),
    /// Encrypt with a managed key: AES-GCM, or RSA-OAEP
    Encrypt(operate::EncryptArgs),
    /// Decrypt with a managed key
    Decrypt(operate::DecryptArgs),
    /// HMAC-SHA-256 with a managed key
    Mac(operate::MacArgs),
    /// Make a data key in a token, wrapped with a managed key
    Wrap(operate::WrapArgs),
    /// Use a wrapped data key once, inside a token
    Unwrap(operate::UnwrapArgs),
    /// Random bytes of a signer's token
    Random(operate::RandomArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  signer-admin completions bash > /etc/bash_completion.d/signer-admin")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `token …`
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// List the tokens of a module; needs no PIN
    #[command(after_help = "Example:
  signer-admin token list --module /usr/lib/softhsm/libsofthsm2.so")]
    List(ModuleArgs),
    /// Initialise a token and set its user PIN
    #[command(after_help = "A new token:
  signer-admin token init --label keyhaven --pin-source file:pin --so-pin-source file:so-pin
  signer-admin token init --label keyhaven          (asks for both PINs on the terminal)

A token that has the label already is initialised again only after its label was typed again,
or with --yes: every key in it is destroyed. It must be given its present security officer's PIN.")]
    Init(InitArgs),
    /// Show one token: PIN state, keys, certificates
    #[command(after_help = "Example:
  signer-admin token status --token 'pkcs11:token=keyhaven?pin-source=file:pin'")]
    Status(TokenArgs),
}

/// `key …`
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make a handshake key inside the token
    #[command(after_help = "Example:
  signer-admin key generate --token keyhaven --pin-source file:pin --algorithm ec-p256 --label site

The key can sign and nothing else; it cannot be read or wrapped out. It is proven by a signature
before the command says that it is made.")]
    Generate(GenerateArgs),
    /// Import a private key from a file
    #[command(
        after_help = "Formats: PEM or DER; PKCS#8 (encrypted too), PKCS#1, SEC1, PKCS#12 with its chain.
Keys: RSA with 2048 to 4096 bits, ECDSA P-256 and P-384, Ed25519.

Examples:
  signer-admin key import old.pem --token keyhaven --label site --certificate site.pem
  signer-admin key import site.p12 --token keyhaven --label site --chain-out site.pem
  signer-admin key import old.key --token keyhaven --label site --password-source file:pass --yes

The file is never touched. Once the key is in use, destroy the file and its backups: a key that was
in a file may have copies, and `signer-admin custody` will say so for ever. A key made by
`key generate` has none."
    )]
    Import(ImportArgs),
    /// List the private keys of a token
    #[command(after_help = "Example:
  signer-admin key list --token 'pkcs11:token=keyhaven?pin-source=file:pin' --json")]
    List(TokenArgs),
    /// Show one key: kind, public part, origin, what it may do
    #[command(after_help = "Example:
  signer-admin key show --token keyhaven --label site")]
    Show(NamedKeyArgs),
    /// Delete a key with its public part and certificates, for ever
    #[command(after_help = "Example:
  signer-admin key delete --token keyhaven --label old-site

The label is asked for again on the terminal; scripts say --yes.")]
    Delete(DeleteArgs),
    /// Make a certificate signing request (PKCS#10), signed in the token
    #[command(after_help = "Example:
  signer-admin key csr --token keyhaven --label site --dns www.example.org,example.org")]
    Csr(CsrArgs),
}

/// `cert …`
#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// Store a certificate (and its issuers) beside the key it belongs to
    #[command(after_help = "Example:
  signer-admin cert import site.pem --token keyhaven --label site

A certificate that the key has already is replaced. The signer reads its chain from the file that
its configuration names; certificates in the token are for programs that look for them there.")]
    Import(CertImportArgs),
    /// Show a certificate file, or the certificates in a token
    #[command(after_help = "Examples:
  signer-admin cert show site.pem
  signer-admin cert show --token keyhaven --label site")]
    Show(CertShowArgs),
}

/// Which module.
#[derive(Args, Debug)]
pub struct ModuleArgs {
    /// PKCS#11 module (shared library); left out, SoftHSM2 is looked for where systems put it
    #[arg(long, value_name = "PATH")]
    pub module: Option<PathBuf>,
    /// Text for the module's C_Initialize (pReserved), as NSS and some vendors' modules want it; not for secrets
    #[arg(long, value_name = "TEXT")]
    pub init_args: Option<String>,
}

/// Which token, and where its PIN is.
#[derive(Args, Debug)]
pub struct TokenArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub module: ModuleArgs,
    /// The token: a PKCS#11 URI (RFC 7512) or its label; may be left out when there is only one
    #[arg(long, value_name = "URI")]
    pub token: Option<String>,
    /// Where the user PIN is: file:PATH (mode 0600), cred:NAME (systemd credential) or terminal:
    ///
    /// Goes before the URI's pin-source. Without either, the PIN is asked for on the terminal. It is tried once.
    #[arg(long, value_name = "SOURCE")]
    pub pin_source: Option<String>,
}

/// Which key of the token.
#[derive(Args, Debug)]
pub struct KeyNameArgs {
    /// The key's label (CKA_LABEL); or `object=` in the token's URI
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub label: Option<String>,
    /// The key's id (CKA_ID) in hexadecimal, or as in a URI (%01%A2); or `id=` in the token's URI
    #[arg(long, value_name = "HEX")]
    pub id: Option<String>,
}

/// `token init`
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub module: ModuleArgs,
    /// The token's new label, 1 to 32 bytes; signers find it by this name
    #[arg(long)]
    pub label: String,
    /// An initialised token to take, as URI or label; left out, a fresh one is used
    #[arg(long, value_name = "URI")]
    pub token: Option<String>,
    /// Where the new user PIN is: file:PATH (mode 0600), cred:NAME or terminal:
    #[arg(long, value_name = "SOURCE")]
    pub pin_source: Option<String>,
    /// Where the security officer's PIN is: file:PATH (mode 0600), cred:NAME or terminal:
    #[arg(long, value_name = "SOURCE")]
    pub so_pin_source: Option<String>,
    /// Do not ask; initialise again a token that has the label, and destroy its keys
    #[arg(long)]
    pub yes: bool,
}

/// `key generate`
#[derive(Args, Debug)]
pub struct GenerateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenArgs,
    /// The kind of key
    #[arg(long, value_enum)]
    pub algorithm: Algorithm,
    /// The key's label (CKA_LABEL); no other key of the token may have it
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub label: String,
    /// The key's id (CKA_ID) in hexadecimal, or as in a URI (%01%A2); left out, eight random bytes
    #[arg(long, value_name = "HEX")]
    pub id: Option<String>,
}

/// `key import`
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The file with the private key
    pub file: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenArgs,
    /// The key's label (CKA_LABEL); no other key of the token may have it
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub label: String,
    /// The key's id (CKA_ID) in hexadecimal, or as in a URI (%01%A2); left out, the start of the public key's SHA-256
    #[arg(long, value_name = "HEX")]
    pub id: Option<String>,
    /// Where the file's password is: file:PATH (mode 0600), cred:NAME or terminal:
    #[arg(long, value_name = "SOURCE")]
    pub password_source: Option<String>,
    /// Certificate (PEM chain, leaf first) that the key must belong to
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Write the certificates found, leaf first, to this new file in PEM
    #[arg(long, value_name = "FILE")]
    pub chain_out: Option<PathBuf>,
    /// Store the certificates found beside the key in the token
    #[arg(long)]
    pub store_certificates: bool,
    /// Do not ask before the import
    #[arg(long)]
    pub yes: bool,
}

/// `key show`
#[derive(Args, Debug)]
pub struct NamedKeyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub token: TokenArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub name: KeyNameArgs,
}

/// `key delete`
#[derive(Args, Debug)]
pub struct DeleteArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub key: NamedKeyArgs,
    /// Do not ask for the label again
    #[arg(long)]
    pub yes: bool,
}

/// `key csr`
#[derive(Args, Debug)]
pub struct CsrArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub key: NamedKeyArgs,
    /// DNS names for the certificate, separated by commas; `*.` may lead one
    #[arg(long, value_delimiter = ',', required = true, value_name = "NAMES")]
    pub dns: Vec<String>,
    /// Common name in the subject; left out, the subject is empty, as certificate authorities now prefer
    #[arg(long, value_name = "NAME")]
    pub common_name: Option<String>,
    /// Write to this file instead of standard output; an older request in it is replaced, nothing else is
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `cert import`
#[derive(Args, Debug)]
pub struct CertImportArgs {
    /// Certificate file: PEM chain, leaf first, or one certificate in DER
    pub file: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub key: NamedKeyArgs,
}

/// `cert show`
#[derive(Args, Debug)]
pub struct CertShowArgs {
    /// Certificate file; left out, the token's certificates are shown
    #[arg(conflicts_with_all = ["token", "module", "init_args", "pin_source", "label", "id"])]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub key: NamedKeyArgs,
}

/// The kinds of key that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Algorithm {
    #[value(name = "rsa-2048")]
    Rsa2048,
    #[value(name = "rsa-3072")]
    Rsa3072,
    #[value(name = "rsa-4096")]
    Rsa4096,
    #[value(name = "ec-p256")]
    EcP256,
    #[value(name = "ec-p384")]
    EcP384,
    #[value(name = "ed25519")]
    Ed25519,
}

impl From<Algorithm> for KeyAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Rsa2048 => Self::Rsa(2048),
            Algorithm::Rsa3072 => Self::Rsa(3072),
            Algorithm::Rsa4096 => Self::Rsa(4096),
            Algorithm::EcP256 => Self::EcdsaP256,
            Algorithm::EcP384 => Self::EcdsaP384,
            Algorithm::Ed25519 => Self::Ed25519,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }
}
