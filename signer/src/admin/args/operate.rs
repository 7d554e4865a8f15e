//! The grammar of operations with managed keys, and of lookup.
//!
//! Invariant: input and output are files or the standard streams, never arguments.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use keyhaven_types::{Operation, SignatureScheme};

use super::client::ClientArgs;

/// `lookup`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  signer-admin lookup orders --op sign

The exit code is 1 when nobody can.")]
pub struct LookupArgs {
    /// The key's name or id
    pub key: String,
    /// What: sign, verify, encrypt, decrypt, mac, wrap, unwrap or handshake
    #[arg(long, value_name = "OPERATION")]
    pub op: Operation,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Where the input is.
#[derive(Args, Debug)]
pub struct InArgs {
    /// The input, at most 64 KiB; `-` is standard input
    #[arg(long = "in", value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
}

/// Where the output goes.
#[derive(Args, Debug)]
pub struct OutArgs {
    /// The output, as bytes; `-` is standard output (with --json: base64 in the document)
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub out: PathBuf,
}

/// Who does it.
#[derive(Args, Debug)]
pub struct ByArgs {
    /// Let the server pass it on to another one: the request is signed with this identity's key, for that server
    #[arg(long)]
    pub pass_on: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Which version did it.
#[derive(Args, Debug)]
pub struct VersionArg {
    /// The version that made it; left out, the current one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub version: Option<u32>,
}

/// `sign`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  signer-admin sign orders --in order.txt --out order.sig --scheme ecdsa_secp256r1_sha256

Signatures are as in TLS: RSA and Ed25519 as they are, ECDSA in DER, as openssl takes them.")]
pub struct SignArgs {
    /// The key's name or id
    pub key: String,
    /// How: ecdsa_secp256r1_sha256, ecdsa_secp384r1_sha384, ed25519, or rsa_pss_rsae_ or rsa_pkcs1_ with sha256, sha384
    /// or sha512
    #[arg(long, value_parser = parse_scheme)]
    pub scheme: SignatureScheme,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub input: InArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub out: OutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// `verify`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  signer-admin verify orders --in order.txt --signature order.sig --scheme ecdsa_secp256r1_sha256
  signer-admin verify cookies --in cookie.txt --signature cookie.mac          (an HMAC)

The exit code is 1 when it is not good.")]
pub struct VerifyArgs {
    /// The key's name or id
    pub key: String,
    /// How it was signed, as in `sign`; left out for an HMAC
    #[arg(long, value_parser = parse_scheme)]
    pub scheme: Option<SignatureScheme>,
    /// The signature or HMAC
    #[arg(long, value_name = "FILE")]
    pub signature: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub version: VersionArg,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub input: InArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// `encrypt`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  signer-admin encrypt backup --in plain --out sealed --aad tape-7

Keep the version that it prints: decrypt needs it once the key was rotated.")]
pub struct EncryptArgs {
    /// The key's name or id
    pub key: String,
    /// A text that decrypt must be given too; not with an RSA key
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub aad: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub input: InArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub out: OutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// `decrypt`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  signer-admin decrypt backup --version 1 --in sealed --out plain --aad tape-7")]
pub struct DecryptArgs {
    /// The key's name or id
    pub key: String,
    /// The text that encrypt was given
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub aad: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub version: VersionArg,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub input: InArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub out: OutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// `mac`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  signer-admin mac cookies --in cookie.txt --out cookie.mac")]
pub struct MacArgs {
    /// The key's name or id
    pub key: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub input: InArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub out: OutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// `wrap`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  signer-admin wrap vault --out data-key.wrapped

The data key is born in the token and never leaves it in the clear; `unwrap` uses it there.")]
pub struct WrapArgs {
    /// The key's name or id
    pub key: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub out: OutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// `unwrap`
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("use").required(true).args(["encrypt", "decrypt"])),
    after_help = "Examples:
  signer-admin unwrap vault --wrapped data-key.wrapped --encrypt --in plain --out sealed
  signer-admin unwrap vault --wrapped data-key.wrapped --decrypt --in sealed --out plain"
)]
pub struct UnwrapArgs {
    /// The key's name or id
    pub key: String,
    /// The data key, as `wrap` gave it
    #[arg(long, value_name = "FILE")]
    pub wrapped: PathBuf,
    /// Encrypt the input with the data key, inside the token
    #[arg(long)]
    pub encrypt: bool,
    /// Decrypt the input with the data key, inside the token
    #[arg(long)]
    pub decrypt: bool,
    /// A text that is bound to the ciphertext
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub aad: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub version: VersionArg,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub input: InArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub out: OutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// `random`
#[derive(Args, Debug)]
#[command(after_help = "Example:
  signer-admin random --bytes 32 --out seed")]
pub struct RandomArgs {
    /// How many, 1 to 65536
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub bytes: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub out: OutArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub by: ByArgs,
}

/// Reads a scheme by its name in TLS (RFC 8446, section 4.2.3).
fn parse_scheme(text: &str) -> Result<SignatureScheme, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        "known are ecdsa_secp256r1_sha256, ecdsa_secp384r1_sha384, ed25519, and rsa_pss_rsae_ and rsa_pkcs1_ with \
         sha256, sha384 and sha512"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_have_the_names_of_tls() {
        let ecdsa = parse_scheme("ecdsa_secp256r1_sha256");
        assert_eq!(ecdsa, Ok(SignatureScheme::EcdsaSecp256r1Sha256));
        let pss = parse_scheme("rsa_pss_rsae_sha512");
        assert_eq!(pss, Ok(SignatureScheme::RsaPssRsaeSha512));
        assert!(parse_scheme("sha256").is_err());
    }
}
