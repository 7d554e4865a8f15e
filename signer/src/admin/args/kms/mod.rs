//! The grammar of `kms …`: managed keys, classes, sites, grants, and central itself.
//!
//! As everything in `args`, it says what may be written, not what it does. Invariant: what cannot be taken back asks again,
//! unless `--yes` is there.

mod ceremony;
mod key;
mod site;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyhaven_types::{HardwareLevel, Identity, Name, Operation, Purpose};

use super::client::ClientArgs;

pub(in crate::admin) use ceremony::{CeremonyArgs, CeremonyVerb, DeliverArgs, InitArgs, PoolArgs};
pub(in crate::admin) use key::{
    ChainArgs, CreateArgs, CsrArgs, EndArgs, ImportArgs, KeyArgs, KeyVerb, TransportArgs,
    VersionArgs, VersionVerb,
};
pub(in crate::admin) use site::{AddArgs, EnrollArgs, EvictArgs, SiteVerb};

/// `kms …`
#[derive(Debug, Subcommand)]
pub enum KmsVerb {
    /// How things stand: head, store, pool, sites, and what needs a look
    #[command(after_help = "Example:
  signer-admin kms status --client alice.toml")]
    Status(ClientArgs),
    /// Managed keys: make, import, rotate, revoke, certify
    #[command(subcommand, arg_required_else_help = true)]
    Key(KeyVerb),
    /// One version of a managed key
    #[command(subcommand, arg_required_else_help = true)]
    Version(VersionVerb),
    /// Classes: where keys may be, and how soon a revocation holds
    #[command(subcommand, arg_required_else_help = true)]
    Class(ClassVerb),
    /// Sites: enrol, register, throw out
    #[command(subcommand, arg_required_else_help = true)]
    Site(SiteVerb),
    /// Who may do what with which key
    #[command(subcommand, arg_required_else_help = true)]
    Grant(GrantVerb),
    /// Leases of sites, and whether a change holds everywhere
    #[command(subcommand, arg_required_else_help = true)]
    Lease(LeaseVerb),
    /// History that went back on purpose
    #[command(subcommand, arg_required_else_help = true)]
    Era(EraVerb),
    /// At central's token, cut off from the network: its keys, and what it gives to sites
    #[command(subcommand, arg_required_else_help = true)]
    Ceremony(CeremonyVerb),
}

/// `kms class …`
#[derive(Debug, Subcommand)]
pub enum ClassVerb {
    /// Make a class; its key-encryption keys come from the pool, one for each purpose
    #[command(after_help = "Examples:
  signer-admin kms class create everywhere --region eu --region us --purpose handshake \\
      --purpose sign --bound 1h
  signer-admin kms class create vault --region eu --purpose wrap --hardware hardware \\
      --generated-only")]
    Create(ClassCreateArgs),
    /// Change within which time a revocation holds
    #[command(after_help = "Example:
  signer-admin kms class bound everywhere 30m

A lower bound does not shorten leases that run: until they have ended, the former one counts.")]
    Bound(BoundArgs),
    /// Take new key-encryption keys from the pool; not in use before `rewrap`
    #[command(after_help = "Then, in this order:
  1. a ceremony for each site that stays: kms site enroll, kms ceremony deliver, kms site add
  2. signer-admin kms class rewrap NAME")]
    Rotate(ClassRotateArgs),
    /// Wrap every key of the class under its newest key-encryption keys
    #[command(after_help = "Example:
  signer-admin kms class rewrap everywhere

A site without the newest key-encryption keys cannot use the class's keys afterwards: it is refused
while there is one, unless --leave-behind is said. A rewrap that was broken off goes on when it is
asked for again.")]
    Rewrap(RewrapArgs),
    /// Every class, and what is left of the pool
    List(ClientArgs),
    /// Write every class, as central has signed it, to a file for the ceremony
    #[command(after_help = "Example:
  signer-admin kms class export classes.json")]
    Export(ExportArgs),
}

/// `kms class create`
#[derive(Args, Debug)]
pub struct ClassCreateArgs {
    /// The class's name
    pub name: Name,
    /// A region whose sites may hold its keys; again for each further one
    #[arg(long, required = true, value_name = "REGION")]
    pub region: Vec<Name>,
    /// What its keys are for: handshake, sign, decrypt, data, mac, wrap or tickets; again for each further one
    #[arg(long, required = true, value_name = "PURPOSE")]
    pub purpose: Vec<Purpose>,
    /// Within which time a revocation holds everywhere, whatever the network does: 5s to 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_bound)]
    pub bound: u32,
    /// The least that a site's token must be: software or hardware
    #[arg(long, value_name = "LEVEL", default_value = "software")]
    pub hardware: HardwareLevel,
    /// Take no imported keys
    #[arg(long)]
    pub generated_only: bool,
    /// Bring a key to a site at the first request for it there, not before
    #[arg(long)]
    pub on_demand: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms class bound`
#[derive(Args, Debug)]
pub struct BoundArgs {
    /// The class
    pub name: Name,
    /// The new bound: 5s to 7d
    #[arg(value_name = "TIME", value_parser = parse_bound)]
    pub bound: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms class rotate`
#[derive(Args, Debug)]
pub struct ClassRotateArgs {
    /// The class
    pub name: Name,
    /// Only for this purpose; again for each further one
    #[arg(long, value_name = "PURPOSE")]
    pub purpose: Vec<Purpose>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms class rewrap`
#[derive(Args, Debug)]
pub struct RewrapArgs {
    /// The class
    pub name: Name,
    /// Although sites lack the newest key-encryption keys
    #[arg(long)]
    pub leave_behind: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms class export`
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Where to write; an older export in it is replaced, nothing else is
    pub file: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms grant …`
#[derive(Debug, Subcommand)]
pub enum GrantVerb {
    /// Let an identity do these operations with a key, and no others
    #[command(after_help = "Examples:
  signer-admin kms grant set spiffe://example.org/proxy/edge-1 --key shop --op handshake
  signer-admin kms grant set spiffe://example.org/client/orders --key orders --op sign --op verify
  signer-admin kms grant set spiffe://example.org/client/orders --op random")]
    Set(GrantSetArgs),
    /// Take a grant away
    #[command(after_help = "Example:
  signer-admin kms grant withdraw spiffe://example.org/client/orders --key orders")]
    Withdraw(GrantWithdrawArgs),
    /// Grants: all, of one key, or of one identity
    List(GrantListArgs),
}

/// `kms grant set`
#[derive(Args, Debug)]
pub struct GrantSetArgs {
    /// Who: spiffe://DOMAIN/ROLE/NAME
    pub identity: Identity,
    /// With which key, by name or id; left out, what needs no key (random)
    #[arg(long)]
    pub key: Option<String>,
    /// What: sign, verify, encrypt, decrypt, mac, wrap, unwrap, handshake or random; again for each further one
    #[arg(long, required = true, value_name = "OPERATION")]
    pub op: Vec<Operation>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms grant withdraw`
#[derive(Args, Debug)]
pub struct GrantWithdrawArgs {
    /// Who: spiffe://DOMAIN/ROLE/NAME
    pub identity: Identity,
    /// Of which key, by name or id; left out, what needs no key
    #[arg(long)]
    pub key: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms grant list`
#[derive(Args, Debug)]
pub struct GrantListArgs {
    /// Only of this key, by name or id
    #[arg(long)]
    pub key: Option<String>,
    /// Only of this identity
    #[arg(long)]
    pub identity: Option<Identity>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms lease …`
#[derive(Debug, Subcommand)]
pub enum LeaseVerb {
    /// Each site: what it has applied, when it was heard of, when it last got a lease
    Status(ClientArgs),
    /// Whether everything up to a revision holds at every site
    #[command(after_help = "Example:
  signer-admin kms lease enforced 4711 --wait")]
    Enforced(EnforcedArgs),
}

/// `kms lease enforced`
#[derive(Args, Debug)]
pub struct EnforcedArgs {
    /// The revision that a command printed
    pub revision: u64,
    /// Return when it holds
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// `kms era …`
#[derive(Debug, Subcommand)]
pub enum EraVerb {
    /// Say that central's store was restored on purpose: sites go along
    #[command(
        after_help = "What was done after the backup is lost, revocations included. Look for them in central's
audit log first, and revoke again what was revoked since."
    )]
    Bump(BumpArgs),
}

/// `kms era bump`
#[derive(Args, Debug)]
pub struct BumpArgs {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Reads a time: a number with `s`, `m`, `h` or `d`; gives seconds within the bounds that a class can have.
fn parse_bound(text: &str) -> Result<u32, String> {
    let seconds = parse_time(text)?;
    let range = keyhaven_wire::kms::BOUND_S_MIN..=keyhaven_wire::kms::BOUND_S_MAX;
    u32::try_from(seconds)
        .ok()
        .filter(|seconds| range.contains(seconds))
        .ok_or_else(|| "a bound is 5s to 7d".to_owned())
}

/// The same without bounds.
fn parse_time(text: &str) -> Result<u64, String> {
    let bad = || "write a number with its unit: 30s, 10m, 1h or 7d".to_owned();
    let unit = text.chars().next_back().ok_or_else(bad)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(bad()),
    };
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(factor).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_bounds_have_ends() {
        assert_eq!(parse_bound("30s"), Ok(30));
        assert_eq!(parse_bound("10m"), Ok(600));
        assert_eq!(parse_bound("1h"), Ok(3600));
        assert_eq!(parse_bound("7d"), Ok(604_800));
        for bad in [
            "",
            "s",
            "30",
            "h1",
            "-5s",
            "+5s",
            "4s",
            "8d",
            "1w",
            "1é",
            "99999999999999999999d",
        ] {
            assert!(parse_bound(bad).is_err(), "{bad}");
        }
    }
}
