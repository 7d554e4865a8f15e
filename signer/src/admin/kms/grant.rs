//! `kms grant …`.
//!
//! Invariant: an empty list of operations, which withdraws, is never sent by `set`.

use std::collections::BTreeMap;

use keyhaven_types::{Identity, KeyId, Name};
use keyhaven_wire::kms::{
    Grant, KeyRef, Scope,
    admin::{Answer, Ask},
};
use serde_json::json;

use super::{
    committed::{other_answer, report},
    key, key_ref,
    show::{grant_json, join},
};
use crate::admin::{
    args::kms::{GrantListArgs, GrantSetArgs, GrantWithdrawArgs},
    channel::{Channel, who},
    failure::Failure,
    report::{Report, table},
};

/// Lets an identity do something.
pub(super) fn set(args: &GrantSetArgs) -> Result<Report, Failure> {
    let key = args.key.as_deref().map(key_ref).transpose()?;
    let mut operations = args.op.clone();
    operations.sort_unstable();
    operations.dedup();
    let channel = Channel::new(&args.client)?;
    let with = match &args.key {
        Some(key) => format!("with key `{key}`"),
        None => "(no key is needed)".to_owned(),
    };
    let done = format!("{} may {} {with}", who(&args.identity), join(&operations));
    let answer = channel.ask(&Ask::GrantSet {
        identity: args.identity.clone(),
        key,
        operations,
    })?;
    report(answer, &done)
}

/// Lets it do nothing any more.
pub(super) fn withdraw(args: &GrantWithdrawArgs) -> Result<Report, Failure> {
    let key = args.key.as_deref().map(key_ref).transpose()?;
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::GrantSet {
        identity: args.identity.clone(),
        key,
        operations: Vec::new(),
    })?;
    let with = args.key.as_deref().map_or_else(
        || "that needs no key".to_owned(),
        |key| format!("with key `{key}`"),
    );
    report(
        answer,
        &format!("{} may do nothing {with} any more", who(&args.identity)),
    )
}

/// Grants of a key, of an identity, or all.
pub(super) fn list(args: &GrantListArgs) -> Result<Report, Failure> {
    let key = args.key.as_deref().map(key_ref).transpose()?;
    let channel = Channel::new(&args.client)?;
    let grants = fetch(&channel, key.as_ref(), args.identity.as_ref())?;
    let names = names(&channel, &grants)?;
    let name_of = |grant: &Grant| match grant.scope {
        Scope::Key(id) => names.get(&id),
        Scope::Server => None,
    };
    let mut rows = vec![["IDENTITY", "KEY", "MAY"].map(str::to_owned).to_vec()];
    for grant in &grants {
        let key = match (grant.scope, name_of(grant)) {
            (Scope::Key(_), Some(name)) => name.to_string(),
            (Scope::Key(id), None) => id.to_string(),
            (Scope::Server, _) => "-".to_owned(),
        };
        rows.push(vec![who(&grant.identity), key, join(&grant.operations)]);
    }
    let text = if grants.is_empty() {
        "there is no such grant\n".to_owned()
    } else {
        table(&rows)
    };
    let list: Vec<_> = grants
        .iter()
        .map(|grant| grant_json(grant, name_of(grant)))
        .collect();
    Ok(Report::new(json!({"grants": list}), text))
}

fn fetch(
    channel: &Channel,
    key: Option<&KeyRef>,
    identity: Option<&Identity>,
) -> Result<Vec<Grant>, Failure> {
    let mut grants = Vec::new();
    let mut after = None;
    loop {
        let ask = Ask::GrantList {
            key: key.cloned(),
            identity: identity.cloned(),
            after,
        };
        let Answer::Grants { grants: page, more } = channel.ask(&ask)? else {
            return Err(other_answer());
        };
        after = page
            .last()
            .map(|grant| (grant.scope, grant.identity.clone()));
        grants.extend(page);
        if !more || after.is_none() {
            // A withdrawn grant is kept as a record; it is none.
            grants.retain(|grant| !grant.operations.is_empty());
            return Ok(grants);
        }
    }
}

/// The names of the keys, while they are few: each is a question. Of many, ids are told.
fn names(channel: &Channel, grants: &[Grant]) -> Result<BTreeMap<KeyId, Name>, Failure> {
    let mut ids: Vec<KeyId> = grants
        .iter()
        .filter_map(|grant| match grant.scope {
            Scope::Key(id) => Some(id),
            Scope::Server => None,
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > NAMED_MAX {
        return Ok(BTreeMap::new());
    }
    let named = ids.into_iter().map(|id| {
        let (key, _) = key::fetch(channel, KeyRef::Id(id))?;
        Ok((id, key.name))
    });
    named.collect()
}

const NAMED_MAX: usize = 64;
