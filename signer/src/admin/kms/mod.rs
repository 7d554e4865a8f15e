//! `kms …`: what operators ask of central, what a site does to be enrolled, what happens at central's token.
//!
//! Rules are central's, the token's work is `hsm`'s; here they are asked and told. Invariant: what cannot be taken back
//! was confirmed, by a name typed again or by `--yes`.

mod ceremony;
mod class;
mod committed;
mod enforce;
mod enroll;
mod exchange;
mod files;
mod grant;
mod import;
mod key;
mod key_files;
mod pkcs8;
mod public;
mod show;
mod site;
mod status;

use keyhaven_types::KeyState;
use keyhaven_wire::kms::{KeyRef, admin::Ask};

use super::{
    args::kms::{
        CeremonyVerb, ClassVerb, EraVerb, GrantVerb, KeyVerb, KmsVerb, LeaseVerb, SiteVerb,
        VersionVerb,
    },
    ask,
    channel::Channel,
    failure::Failure,
    report::Report,
};

/// Runs a verb. With `json` nothing but questions and warnings is said beside the report.
pub(super) fn run(verb: &KmsVerb, json: bool) -> Result<Report, Failure> {
    match verb {
        KmsVerb::Status(client) => status::status(&Channel::new(client)?),
        KmsVerb::Key(verb) => key_verb(verb),
        KmsVerb::Version(verb) => version_verb(verb),
        KmsVerb::Class(verb) => class_verb(verb),
        KmsVerb::Site(SiteVerb::Enroll(args)) => enroll::enroll(args, json),
        KmsVerb::Site(SiteVerb::Add(args)) => site::add(args),
        KmsVerb::Site(SiteVerb::Evict(args)) => site::evict(args),
        KmsVerb::Site(SiteVerb::List(client)) => site::list(&Channel::new(client)?),
        KmsVerb::Grant(GrantVerb::Set(args)) => grant::set(args),
        KmsVerb::Grant(GrantVerb::Withdraw(args)) => grant::withdraw(args),
        KmsVerb::Grant(GrantVerb::List(args)) => grant::list(args),
        KmsVerb::Lease(LeaseVerb::Status(client)) => status::leases(&Channel::new(client)?),
        KmsVerb::Lease(LeaseVerb::Enforced(args)) => enforce::enforced(args),
        KmsVerb::Era(EraVerb::Bump(args)) => {
            if !args.yes {
                ask::confirm_name(
                    "Sites will go along with a store that was restored. What was done since the backup is lost, revocations included.",
                    "bump",
                    "say --yes to do it without being asked",
                )?;
            }
            let channel = Channel::new(&args.client)?;
            committed::report(channel.ask(&Ask::EraBump)?, "the new era has begun")
        }
        KmsVerb::Ceremony(verb) => match verb {
            CeremonyVerb::Init(args) => ceremony::init(args),
            CeremonyVerb::Pool(args) => ceremony::pool(args),
            CeremonyVerb::Deliver(args) => ceremony::deliver(args),
            CeremonyVerb::Status(args) => ceremony::status(args),
        },
    }
}

fn key_verb(verb: &KeyVerb) -> Result<Report, Failure> {
    match verb {
        KeyVerb::Create(args) => key::create(args),
        KeyVerb::Import(args) => import::import(args),
        KeyVerb::Transport(args) => import::transport(args),
        KeyVerb::Rotate(args) => key::rotate(args),
        KeyVerb::Disable(args) => key::end(args, KeyState::Deactivated),
        KeyVerb::Revoke(args) => key::end(args, KeyState::Revoked),
        KeyVerb::Destroy(args) => key::end(args, KeyState::Destroyed),
        KeyVerb::List(client) => key::list(&Channel::new(client)?),
        KeyVerb::Show(args) => key::show(args),
        KeyVerb::Csr(args) => key_files::csr(args),
        KeyVerb::Chain(args) => key_files::chain(args),
    }
}

fn version_verb(verb: &VersionVerb) -> Result<Report, Failure> {
    match verb {
        VersionVerb::List(args) => key::versions(args),
        VersionVerb::Disable(args) => key::end_version(args, KeyState::Deactivated),
        VersionVerb::Revoke(args) => key::end_version(args, KeyState::Revoked),
        VersionVerb::Destroy(args) => key::end_version(args, KeyState::Destroyed),
    }
}

fn class_verb(verb: &ClassVerb) -> Result<Report, Failure> {
    match verb {
        ClassVerb::Create(args) => class::create(args),
        ClassVerb::Bound(args) => class::bound(args),
        ClassVerb::Rotate(args) => class::rotate(args),
        ClassVerb::Rewrap(args) => class::rewrap(args),
        ClassVerb::List(client) => class::list(&Channel::new(client)?),
        ClassVerb::Export(args) => class::export(args),
    }
}

/// A key as people name it: an id, or else a name.
pub(super) fn key_ref(text: &str) -> Result<KeyRef, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(KeyRef::Id(id));
    }
    text.parse().map(KeyRef::Name).map_err(|error| {
        Failure::usage(
            format!("`{}` names no key: {error}", super::text::clean(text)),
            "give a key's name, or its id of 32 hexadecimal digits",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_id_or_name() {
        assert!(matches!(key_ref(&"0a".repeat(16)), Ok(KeyRef::Id(_))));
        assert!(matches!(key_ref("orders"), Ok(KeyRef::Name(_))));
        assert_eq!(key_ref("Orders!").map_err(|error| error.code), Err(64));
    }
}
