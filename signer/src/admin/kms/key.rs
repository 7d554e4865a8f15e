//! `kms key create | rotate | disable | revoke | destroy | list | show` and `kms version …`.
//!
//! Invariant: a key that cannot come back was named twice.

use keyhaven_types::{KeyState, Name};
use keyhaven_wire::kms::{
    KeyRecord, KeyRef, Manifest, Public,
    admin::{Answer, Ask, NewKey},
};
use serde_json::{Value, json};

use super::{
    committed::{Committed, other_answer, report},
    enforce, key_ref,
    show::{date, join, key_json, version_json},
};
use crate::admin::{
    args::kms::{CreateArgs, EndArgs, KeyArgs, VersionArgs},
    ask,
    channel::Channel,
    failure::Failure,
    report::{Report, table},
    text,
};

/// Makes a key in central's token.
pub(super) fn create(args: &CreateArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::KeyCreate(NewKey {
        name: args.name.clone(),
        kind: args.kind,
        purpose: args.place.purpose,
        class: args.place.class.clone(),
        server_names: args.place.server_names.clone(),
    }))?;
    report(answer, &format!("key `{}` is made", args.name))
}

/// Makes a new version.
pub(super) fn rotate(args: &KeyArgs) -> Result<Report, Failure> {
    let key = key_ref(&args.key)?;
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::KeyRotate { key })?;
    report(answer, &format!("key `{}` has a new version", args.key))
}

/// Takes all versions onward.
pub(super) fn end(args: &EndArgs, state: KeyState) -> Result<Report, Failure> {
    let key = key_ref(&args.key)?;
    let channel = Channel::new(&args.client)?;
    let what = format!("key `{}`", args.key);
    if !args.how.yes {
        confirm(&channel, &key, &args.key, &what, state)?;
    }
    onward(&channel, key, None, state, &what, args.how.wait)
}

/// Takes one version onward.
pub(super) fn end_version(args: &VersionArgs, state: KeyState) -> Result<Report, Failure> {
    let key = key_ref(&args.key)?;
    let channel = Channel::new(&args.client)?;
    let what = format!("version {} of key `{}`", args.version, args.key);
    if !args.how.yes {
        confirm(&channel, &key, &args.key, &what, state)?;
    }
    let version = Some(args.version);
    onward(&channel, key, version, state, &what, args.how.wait)
}

/// Only what nobody can use any more is asked about; without a terminal nothing is even looked up.
fn confirm(
    channel: &Channel,
    key: &KeyRef,
    named: &str,
    what: &str,
    state: KeyState,
) -> Result<(), Failure> {
    let consequence = match state {
        KeyState::Revoked => {
            "Nobody will be able to use it any more, nor to verify or decrypt with it."
        }
        KeyState::Destroyed => "It will be gone for ever, with all that only it can decrypt.",
        _ => return Ok(()),
    };
    let mut about = format!("About to end {what}. {consequence}");
    let mut name = named.to_owned();
    if ask::on_terminal() {
        let (key, _) = fetch(channel, key.clone())?;
        about = format!(
            "About to end {what}: {} for {}, in class {}. {consequence}",
            key.kind, key.purpose, key.class
        );
        name = key.name.to_string();
    }
    ask::confirm_name(&about, &name, "say --yes to do it without being asked")
}

fn onward(
    channel: &Channel,
    key: KeyRef,
    version: Option<u32>,
    state: KeyState,
    what: &str,
    wait: bool,
) -> Result<Report, Failure> {
    let answer = channel.ask(&Ask::KeyState {
        key,
        version,
        state,
    })?;
    let committed = Committed::of(answer)?;
    committed.warn();
    let mut json = committed.json();
    let mut text = committed.text(&format!("{what} is {state}"));
    if wait {
        let standing = enforce::wait(channel, committed.revision)?;
        json["enforced"] = Value::Bool(standing.enforced);
        text.push_str(&standing.text());
    } else if state >= KeyState::Revoked {
        text.push_str(&format!(
            "committed, not yet enforced: signer-admin kms lease enforced {} --wait\n",
            committed.revision
        ));
    }
    Ok(Report::new(json, text))
}

/// Every key, in the order of names.
pub(super) fn list(channel: &Channel) -> Result<Report, Failure> {
    let mut keys = Vec::new();
    let mut after: Option<Name> = None;
    loop {
        let Answer::Keys { keys: page, more } = channel.ask(&Ask::KeyList { after })? else {
            return Err(other_answer());
        };
        after = page.last().map(|key| key.name.clone());
        keys.extend(page);
        // A page without a key has no last name to go on from.
        if !more || after.is_none() {
            break;
        }
    }
    let mut rows = vec![
        [
            "NAME",
            "KIND",
            "PURPOSE",
            "CLASS",
            "CURRENT",
            "VERSIONS",
            "SERVER NAMES",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for key in &keys {
        rows.push(vec![
            key.name.to_string(),
            key.kind.to_string(),
            key.purpose.to_string(),
            key.class.to_string(),
            current(key),
            key.versions.to_string(),
            text::clean(&join(&key.server_names)),
        ]);
    }
    let text = if keys.is_empty() {
        "no key is managed yet\n".to_owned()
    } else {
        table(&rows)
    };
    let json = json!({"keys": keys.iter().map(key_json).collect::<Vec<_>>()});
    Ok(Report::new(json, text))
}

fn current(key: &KeyRecord) -> String {
    key.current
        .map_or_else(|| "none".to_owned(), |version| version.to_string())
}

/// One key.
pub(super) fn show(args: &KeyArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let (key, versions) = fetch(&channel, key_ref(&args.key)?)?;
    let text = format!(
        "key `{}`\n  id            {}\n  kind          {}\n  purpose       {}\n  class         {}\n  server names  {}\n  current       {}\n  operations    {}\n\n{}",
        key.name,
        key.id,
        key.kind,
        key.purpose,
        key.class,
        text::clean(&join(&key.server_names)),
        current(&key),
        join(key.purpose.operations()),
        versions_text(&versions),
    );
    Ok(Report::new(both(&key, &versions), text))
}

/// The versions of a key.
pub(super) fn versions(args: &KeyArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let (key, versions) = fetch(&channel, key_ref(&args.key)?)?;
    Ok(Report::new(both(&key, &versions), versions_text(&versions)))
}

fn both(key: &KeyRecord, versions: &[Manifest]) -> Value {
    json!({
        "key": key_json(key),
        "versions": versions.iter().map(version_json).collect::<Vec<_>>(),
    })
}

/// Asks central for a key with its versions.
pub(super) fn fetch(channel: &Channel, key: KeyRef) -> Result<(KeyRecord, Vec<Manifest>), Failure> {
    match channel.ask(&Ask::KeyShow { key })? {
        Answer::Key { key, versions } => Ok((key, versions)),
        _ => Err(other_answer()),
    }
}

fn versions_text(versions: &[Manifest]) -> String {
    let mut rows = vec![
        [
            "VERSION",
            "STATE",
            "MADE",
            "HOW",
            "EPOCH",
            "CERTIFICATE",
            "PUBLIC PART",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for version in versions {
        let public = match &version.public {
            Public::Spki(spki) => format!("sha256 {}", text::sha256(spki)),
            Public::Kcv(kcv) => format!("check value {}", text::hex(kcv)),
        };
        rows.push(vec![
            version.version.to_string(),
            version.state.to_string(),
            date(version.made_ms),
            version.provenance.to_string(),
            version.epoch.to_string(),
            if version.chain == [0; 32] {
                "none"
            } else {
                "yes"
            }
            .to_owned(),
            public,
        ]);
    }
    table(&rows)
}
