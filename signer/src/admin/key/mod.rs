//! `key generate | import | list | show | delete | csr`.
//!
//! The three verbs that make something have a file each; the three that look and delete are here. Invariant: a key
//! is named exactly, and never the first of several.

mod csr;
mod generate;
mod import;

use keyhaven_hsm::{TokenInfo, admin::KeyEntry};
use serde_json::{Value, json};

pub(super) use csr::{check_replaceable, csr};
pub(super) use generate::generate;
pub(super) use import::{import, open_to_others, read_bounded, read_key_file};

use super::{
    args::{DeleteArgs, NamedKeyArgs, TokenArgs},
    ask,
    failure::Failure,
    report::{Report, table},
    select::Selected,
    text,
};

/// Every private key of the token.
pub(super) fn list(args: &TokenArgs) -> Result<Report, Failure> {
    let selected = Selected::new(args)?;
    let session = selected.open()?;
    let keys = session.keys()?;
    let mut rows = vec![
        [
            "LABEL",
            "ID",
            "KIND",
            "ORIGIN",
            "PUBLIC KEY SHA-256",
            "NOTE",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for key in &keys {
        let note = match key.flags.weaknesses().len() {
            0 => "",
            _ => "weak, see key show",
        };
        rows.push(vec![
            text::clean(&key.name.label),
            key.name.id_hex(),
            text::kind_of(key),
            text::origin_word(&key.flags).to_owned(),
            key.spki
                .as_deref()
                .map_or_else(|| "unknown".to_owned(), text::sha256),
            note.to_owned(),
        ]);
    }
    let human = match keys.iter().find(|key| !key.name.id.is_empty()) {
        _ if keys.is_empty() => format!(
            "token `{}` has no private key\n",
            text::clean(&session.info().label)
        ),
        Some(key) => format!(
            "{}\nin a URI each pair of an id has a % before it: id={}\n",
            table(&rows),
            text::uri_id(&key.name.id)
        ),
        None => table(&rows),
    };
    let json = json!({
        "token": session.info().label,
        "keys": keys.iter().map(|key| key_json(session.info(), key)).collect::<Vec<_>>(),
    });
    Ok(Report::new(json, human))
}

/// One key in full.
pub(super) fn show(args: &NamedKeyArgs) -> Result<Report, Failure> {
    let selected = Selected::new(&args.token)?;
    let session = selected.open()?;
    let key = selected.find_key(&session, &args.name)?;
    Ok(Report::new(
        key_json(session.info(), &key),
        describe(session.info(), &key),
    ))
}

/// Deletes a key and what goes with it.
pub(super) fn delete(args: &DeleteArgs) -> Result<Report, Failure> {
    let selected = Selected::new(&args.key.token)?;
    let session = selected.open()?;
    let key = selected.find_key(&session, &args.key.name)?;
    let label = text::clean(&key.name.label);
    if !args.yes {
        ask::confirm_label(
            &format!(
                "Key {} ({}) of token `{}` will be deleted for ever, with its public part and certificates.\n{IN_USE}",
                text::clean(&key.to_text()),
                text::kind_of(&key),
                text::clean(&session.info().label),
            ),
            &key.name.label,
            "say --yes to delete it without being asked",
        )?;
    }
    let objects = session.delete_key(&key)?;
    let json = json!({
        "deleted": {"label": key.name.label, "id": key.name.id_hex()},
        "objects": objects,
        "notice": IN_USE,
    });
    Ok(Report::new(
        json,
        format!("key `{label}` is deleted ({objects} objects)\n{IN_USE}\n"),
    ))
}

/// Nobody can see from here whether a signer has the key open.
const IN_USE: &str =
    "A signer that has it open can sign no handshake with it any more: take it out of signer.toml.";

/// A key as scripts see it.
pub(super) fn key_json(token: &TokenInfo, key: &KeyEntry) -> Value {
    json!({
        "label": key.name.label,
        "id": key.name.id_hex(),
        "uri": text::key_uri(token, &key.name),
        "algorithm": key.algorithm.map(text::algorithm_name),
        "spki_sha256": key.spki.as_deref().map(text::sha256),
        "origin": text::origin_word(&key.flags),
        "attributes": key.flags,
        "weaknesses": key.flags.weaknesses(),
    })
}

/// A key for people.
pub(super) fn describe(token: &TokenInfo, key: &KeyEntry) -> String {
    let flags = &key.flags;
    let named: Vec<&str> = [
        ("sign", flags.sign),
        ("sign with recovery", flags.sign_recover),
        ("decrypt", flags.decrypt),
        ("unwrap", flags.unwrap),
        ("derive", flags.derive),
    ]
    .into_iter()
    .filter(|(_, set)| *set == Some(true))
    .map(|(name, _)| name)
    .collect();
    let say = |flag: Option<bool>| match flag {
        Some(true) => "yes",
        Some(false) => "no",
        None => "the token does not say",
    };
    let mut out = format!(
        "key {}\n  kind         {}\n  URI          {}\n  public key   sha256 {}\n  origin       {}\n  may          {}\n  readable     {}\n  extractable  {}\n  modifiable   {}\n",
        text::clean(&key.to_text()),
        text::kind_of(key),
        text::key_uri(token, &key.name),
        key.spki
            .as_deref()
            .map_or_else(|| "unknown".to_owned(), text::sha256),
        text::origin(flags),
        if named.is_empty() {
            "nothing".to_owned()
        } else {
            named.join(", ")
        },
        say(flags.sensitive.map(|sensitive| !sensitive)),
        say(flags.extractable),
        say(flags.modifiable),
    );
    for weakness in flags.weaknesses() {
        out.push_str(&format!("  weak         {weakness}\n"));
    }
    out
}
