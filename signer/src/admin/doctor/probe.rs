//! `doctor --probe-report`: what a token can do and what it refuses, as one JSON document without anything private.
//!
//! For owners of tokens that nobody here has seen. Tests and attacks are `hsm`'s. Invariant: no label, serial number,
//! key or PIN is in it, and no object of ours stays in the token.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use keyhaven_hsm::{
    Error, PrivateKey, Profile, Token, TokenInfo, Worker, Workers,
    admin::{KeyEntry, SlotFacts, survey},
};
use keyhaven_types::NamedGroup;
use serde_json::{Value, json};

use super::{finding::Findings, token::may_try};
use crate::admin::{
    args::TokenArgs, custody, failure::Failure, nature::Nature, report::Report, select::Selected,
    text,
};

/// Makes the report, and writes it to a new file if one is named.
pub(super) fn run(args: &TokenArgs, file: Option<&Path>) -> Result<Report, Failure> {
    let selected = Selected::new(args)?;
    let mut state = Findings::default();
    if !may_try(&selected.info, "token", &mut state) {
        return Err(Failure::new(
            "the state of the user PIN is not good, and it was not tried",
            "signer-admin doctor without --probe-report says what is wrong",
        ));
    }
    let document = probe(&selected, args.module.init_args.is_some())?;
    let text = format!("{document:#}\n");
    let Some(file) = file else {
        return Ok(Report::new(document, text));
    };
    write_new(file, &text).map_err(|error| Failure::file("write", file, &error))?;
    let told = format!(
        "the report is in {}\nit has no label, serial number, key or PIN; read it before you pass it on\n",
        file.display()
    );
    Ok(Report::new(json!({"file": file}), told))
}

/// An older report is not overwritten: it may be the one to compare with.
fn write_new(file: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(file)?;
    file.write_all(text.as_bytes())
}

fn probe(selected: &Selected, has_init_args: bool) -> Result<Value, Failure> {
    let survey = survey(&selected.module, &selected.info)?;
    let pin = selected.pin()?;
    let (token, login_us) = timed(|| selected.open_token(pin.clone()));
    let token = token?;
    let session = selected.open_with(&pin)?;
    let objects_before = session.session_objects()?;
    let (profile, self_tests_us) = timed(|| token.prove());
    let profile = profile?;
    let (hold, hold_us) = timed(|| token.examine_hold());
    let hold = hold?;
    let keys = loaded_keys(&token, &session.keys()?);
    let signatures: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "algorithm": text::algorithm_name(key.algorithm()),
                "schemes": key.schemes(),
            })
        })
        .collect();
    let timings = measure(token, &profile, keys)?;
    // The signer's own login is over; what it kept for its time went with it.
    let objects_left = session.session_objects()?.saturating_sub(objects_before);
    let module = selected.module.path().file_name().unwrap_or_default();
    let mut document = json!({
        "report": "keyhaven-probe",
        "version": 1,
        "made_by": concat!("signer-admin ", env!("CARGO_PKG_VERSION")),
        "module": module.to_string_lossy(),
        "init_args": has_init_args,
        "nature": Nature::of(&selected.info, &survey.slot),
        "library": survey.library,
        "slot": slot_without_names(&survey.slot, &selected.info),
        "token": survey.token,
        "mechanisms": survey.mechanisms,
        "levels": {"tls13": profile.tls13, "tls12": profile.tls12},
        "groups": profile.groups,
        "pairs": custody::pairs(&profile),
        "ml_kem": profile.ml_kem,
        "prepends": profile.prepends,
        "vault": profile.vault,
        "login_us": login_us,
        "self_tests": {"us": self_tests_us, "checks": profile.checks},
        "hold": {"us": hold_us, "attacks": hold},
        "signatures": signatures,
        "timings": timings,
        "session_objects_left": objects_left,
        "done": DONE,
        "left_out": LEFT_OUT,
    });
    without_names(&mut document, &selected.info);
    Ok(document)
}

/// One key of each kind, loaded as the signer loads it. What cannot be loaded is left out: its reason names it.
fn loaded_keys(token: &Token, entries: &[KeyEntry]) -> Vec<PrivateKey> {
    let mut keys: Vec<PrivateKey> = Vec::new();
    for entry in entries {
        if let Ok(key) = custody::prove(token, entry)
            && keys
                .iter()
                .all(|known| known.algorithm() != key.algorithm())
        {
            keys.push(key);
        }
    }
    keys
}

/// The middle of some runs of what handshakes ask for, on one thread with a session of its own.
fn measure(token: Token, profile: &Profile, keys: Vec<PrivateKey>) -> Result<Vec<Value>, Failure> {
    let workers = Workers::start(1, 1)?;
    let (send, receive) = mpsc::sync_channel(1);
    let groups = profile.groups.clone();
    workers.submit(move |worker| {
        let mut timings = Vec::new();
        for group in groups {
            exchange(worker, &token, group, &mut timings);
        }
        for key in keys {
            let algorithm = text::algorithm_name(key.algorithm());
            for &scheme in key.schemes() {
                let sign = || worker.sign(&key, scheme, b"keyhaven: a probe is made");
                let name = json!(scheme);
                let name = name.as_str().unwrap_or_default();
                timings.push(middle(&format!("{algorithm}: sign with {name}"), sign));
            }
        }
        drop(token);
        // Nobody waits any more when the deadline has passed.
        let _ = send.send(timings);
    })?;
    receive.recv_timeout(MEASURE_PATIENCE).map_err(|_| {
        Failure::new(
            "the token did not come to an end with what was measured",
            "signer-admin doctor without --probe-report looks at it part by part",
        )
    })
}

fn exchange(worker: &Worker, token: &Token, group: NamedGroup, timings: &mut Vec<Value>) {
    let name = group.as_str();
    let generate = || worker.generate_exchange(token, group);
    timings.push(middle(&format!("{name}: make a key pair"), generate));
    let (Ok(own), Ok(peer)) = (generate(), generate()) else {
        return;
    };
    let agree = || worker.agree(&own, peer.public_value());
    timings.push(middle(&format!("{name}: derive a shared secret"), agree));
}

/// The time of the middle run; what it made is destroyed in between, off the clock.
fn middle<T>(name: &str, run: impl Fn() -> Result<T, Error>) -> Value {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let (made, us) = timed(&run);
        if let Err(error) = made {
            return json!({"what": name, "us": null, "error": without_label(&error)});
        }
        times.push(us);
    }
    times.sort_unstable();
    json!({"what": name, "us": times[RUNS / 2], "error": null})
}

/// Errors name the token; its own words do not.
fn without_label(error: &Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(
        || "the operation failed".to_owned(),
        |source| text::clean(&source.to_string()),
    )
}

/// Takes out of every text what tells one token from another of its kind. Some modules call a slot by its token's
/// label, and SoftHSM2 by a number that is the end of the serial number.
fn without_names(value: &mut Value, info: &TokenInfo) {
    match value {
        Value::String(text) => {
            let clean = text::clean(text).replace(&format!("`{}`", info.label), "`(label)`");
            *text = without(&clean, &info.serial, "(serial)");
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without_names(item, info)),
        Value::Object(map) => map.values_mut().for_each(|item| without_names(item, info)),
        _ => {}
    }
}

/// A slot's own words, where the label may stand bare.
fn slot_without_names(slot: &SlotFacts, info: &TokenInfo) -> Value {
    let mut slot = slot.clone();
    let mut text = without(&slot.description, &info.label, "(label)");
    // Small numbers are the same for everybody.
    if info.slot_id > SLOT_IDS_OF_ALL {
        for number in [format!("{:x}", info.slot_id), info.slot_id.to_string()] {
            text = without(&text, &number, "(slot)");
        }
    }
    slot.description = text;
    json!(slot)
}

fn without(text: &str, secret: &str, instead: &str) -> String {
    if secret.is_empty() {
        text.to_owned()
    } else {
        text.replace(secret, instead)
    }
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, u64) {
    let start = Instant::now();
    let result = run();
    (
        result,
        u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
    )
}

const RUNS: usize = 5;
const SLOT_IDS_OF_ALL: u64 = 0xffff;
/// Far more than a slow token over a network needs for some dozens of operations.
const MEASURE_PATIENCE: Duration = Duration::from_secs(300);

const DONE: [&str; 4] = [
    "one login as user; nothing was changed or stored in the token",
    "self-tests and attacks made session objects, attacked those alone, and destroyed them; session_objects_left counts those that are there after all",
    "one private key of each kind signed fixed texts that fit no protocol; the signatures were verified and thrown away",
    "each time is the middle of 5 runs on one thread; those of self-tests and hold are of all together",
];
const LEFT_OUT: [&str; 3] = [
    "labels and serial numbers of the token",
    "labels, ids and public parts of keys, and every other object",
    "the PIN, its place, and the text for C_Initialize",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_token_is_taken_out_of_every_text() {
        let info = TokenInfo {
            label: "prod".to_owned(),
            serial: "cafe0123".to_owned(),
            slot_id: 0x4afe_0123,
            ..TokenInfo::default()
        };
        let mut value = json!({"a": ["token `prod` failed", {"b": "no cafe0123 here", "c": 1}]});
        without_names(&mut value, &info);
        let expected = json!({"a": ["token `(label)` failed", {"b": "no (serial) here", "c": 1}]});
        assert_eq!(value, expected);

        let slot = SlotFacts {
            description: "prod in slot 0x4afe0123".to_owned(),
            manufacturer: String::new(),
            hardware: false,
            removable: false,
            hardware_version: String::new(),
            firmware_version: String::new(),
        };
        let description = slot_without_names(&slot, &info)["description"].clone();
        assert_eq!(description, "(label) in slot 0x(slot)");
    }
}
