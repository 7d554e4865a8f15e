//! `kms ceremony …`: central's token in the hands of its security officer.
//!
//! What the token does is `hsm`'s; here it is decided what a site is given. Invariant: no key-encryption key is wrapped for a
//! site before the fingerprint that people compared was found to be its transport key's, and nothing but keys of classes
//! that central has signed is.

use keyhaven_hsm::{
    Pin,
    managed::{Ceremony, KekInfo},
};
use keyhaven_kms::records::{CentralKey, sha256};
use keyhaven_types::{KekId, Name, Purpose};
use keyhaven_wire::kms::{ClassRecord, Delivery, Held, Record, Signed, signed_text};
use serde_json::{Value, json};

use super::{
    exchange::{Classes, Request, Response},
    files, public,
    show::{groups, join, pem},
    site::held,
};
use crate::admin::{
    args::kms::{CeremonyArgs, DeliverArgs, InitArgs, PoolArgs},
    ask,
    failure::Failure,
    report::{Report, table},
    select::Selected,
    text,
};

/// Makes central's keys.
pub(super) fn init(args: &InitArgs) -> Result<Report, Failure> {
    let path = &args.central_key;
    let before = match path.symlink_metadata() {
        Ok(_) => Some(public::read(path)?),
        Err(_) => None,
    };
    let mut ceremony = begin(&args.at)?;
    let spki = ceremony.make_central()?;
    match before {
        Some(before) if before != spki => {
            return Err(Failure::new(
                format!(
                    "{} has another central's key; it was left alone",
                    path.display()
                ),
                "choose another --central-key",
            ));
        }
        Some(_) => {}
        None => files::write_whole(path, pem("PUBLIC KEY", &spki).as_bytes(), 0o644)?,
    }
    let there = ceremony.pool()?;
    let mut made = Vec::new();
    for &purpose in Purpose::ALL {
        let has = there.iter().filter(|kek| kek.purpose == purpose).count();
        let missing = (args.pool as usize).saturating_sub(has);
        if missing > 0 {
            made.extend(ceremony.make_pool(purpose, missing)?);
        }
    }
    let fingerprint = sha256(&spki);
    let text = format!(
        "central's keys are in the token\n  public key   {}\n  fingerprint  {}\n  write it down: every site judges everything by this key\n  pool         {} made, {} for each purpose\n",
        path.display(),
        groups(&fingerprint),
        made.len(),
        args.pool,
    );
    let json = json!({
        "central_key": path,
        "fingerprint": text::hex(&fingerprint),
        "made": keks_json(&made),
    });
    Ok(Report::new(json, text))
}

/// Makes more key-encryption keys.
pub(super) fn pool(args: &PoolArgs) -> Result<Report, Failure> {
    let mut ceremony = begin(&args.at)?;
    // A pool in a token that is not central's would be of no use to anybody.
    central_key(&mut ceremony)?;
    let mut purposes = args.purpose.clone();
    purposes.sort_unstable();
    purposes.dedup();
    let mut made = Vec::new();
    for purpose in purposes {
        made.extend(ceremony.make_pool(purpose, args.count as usize)?);
    }
    let text = format!(
        "{} key-encryption keys are made\n  next: bring the token back to central, which sees them by itself\n",
        made.len()
    );
    Ok(Report::new(json!({"made": keks_json(&made)}), text))
}

/// What there is, and what should not be.
pub(super) fn status(args: &CeremonyArgs) -> Result<Report, Failure> {
    let mut ceremony = begin(args)?;
    let central = central_key(&mut ceremony)?;
    let keks = ceremony.pool()?;
    let leftovers: Vec<String> = ceremony
        .leftovers()?
        .iter()
        .map(|label| text::clean(label))
        .collect();
    let mut rows = vec![
        ["KEY-ENCRYPTION KEY", "PURPOSE", "LABEL"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(keks.iter().map(|kek| {
        vec![
            kek.id.to_string(),
            kek.purpose.to_string(),
            text::clean(&kek.label),
        ]
    }));
    let mut text = format!(
        "central's key  {}\n\n{}\nwhich of them a class has, kms class list knows\n",
        groups(&central.fingerprint()),
        table(&rows)
    );
    for label in &leftovers {
        text.push_str(&format!(
            "warning: `{label}` is trusted and public: it is not ours, and whoever made it had the officer's PIN\n"
        ));
    }
    let json = json!({
        "fingerprint": text::hex(&central.fingerprint()),
        "keks": keks_json(&keks),
        "leftovers": leftovers,
    });
    let left = !leftovers.is_empty();
    Ok(Report::new(json, text).failed_if(left))
}

/// Wraps classes' key-encryption keys for a site.
pub(super) fn deliver(args: &DeliverArgs) -> Result<Report, Failure> {
    files::refuse_existing(&args.response)?;
    let request: Request = files::read(&args.request)?;
    let spki = request.transport(&args.request)?;
    compare(&args.fingerprint, &spki)?;
    let classes: Classes = files::read(&args.classes)?;

    let mut ceremony = begin(&args.at)?;
    let central = central_key(&mut ceremony)?;
    let classes = classes.believed_by(&central, &args.classes)?;
    let wanted = choose(&classes, &args.class, &request.holds)?;
    let ids: Vec<KekId> = wanted.iter().map(|one| one.kek).collect();
    let wraps = ceremony.wrap_for_site(&spki, &ids)?;
    let mut deliveries = Vec::new();
    for (held, (_, wrap)) in wanted.iter().zip(wraps) {
        let delivery = Delivery {
            site: request.site.clone(),
            transport: sha256(&spki),
            held: held.clone(),
            wrap: sha256(&wrap),
        };
        deliveries.push((sign(&mut ceremony, &central, delivery)?, wrap));
    }
    let response = Response::new(request.site.clone(), &central, &deliveries);
    files::write_new(&args.response, &response)?;

    let given: Vec<String> = wanted.iter().map(held).collect();
    let text = format!(
        "site `{}` is given {}\n  carry {} to where the site waits for it, then to where kms site add is run\n",
        request.site,
        join(&given),
        args.response.display()
    );
    let json = json!({
        "site": request.site,
        "delivered": given,
        "response": args.response,
        "fingerprint": text::sha256(&spki),
    });
    Ok(Report::new(json, text))
}

/// Finds the token and tries both PINs, once each.
fn begin(args: &CeremonyArgs) -> Result<Ceremony, Failure> {
    let selected = Selected::new(&args.token.token())?;
    let of = format!("token `{}`", text::clean(&selected.info.label));
    let so_pin: Pin = ask::secret(
        "security officer's PIN",
        &of,
        "--so-pin-file",
        args.so_pin_file.as_deref(),
    )?;
    let user_pin = selected.pin()?;
    Ok(Ceremony::begin(
        &selected.module,
        &selected.uri,
        &so_pin,
        &user_pin,
    )?)
}

/// The key by which this token signs records. In a token that is not central's nothing is made: signing fails first.
fn central_key(ceremony: &mut Ceremony) -> Result<CentralKey, Failure> {
    ceremony.sign(PROBE)?;
    let spki = ceremony.make_central()?;
    CentralKey::from_spki(&spki).map_err(|error| {
        Failure::new(
            format!("the token's signing key cannot be used: {error}"),
            "do not use this token",
        )
    })
}

/// The fingerprint as it was read aloud: however it is grouped, and all of it.
fn compare(said: &str, spki: &[u8]) -> Result<(), Failure> {
    let digits: String = said
        .chars()
        .filter(|character| !character.is_whitespace() && !matches!(character, ':' | '-'))
        .collect();
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Failure::usage(
            "--fingerprint is not a whole fingerprint",
            "give all 64 hexadecimal digits, as the site's screen shows them; spaces do not matter",
        ));
    }
    if digits.eq_ignore_ascii_case(&text::sha256(spki)) {
        return Ok(());
    }
    Err(Failure::new(
        format!(
            "the request's key is not the one that the site's screen shows: it is {}",
            groups(&sha256(spki))
        ),
        "do not go on: somebody may have exchanged the request; fetch it from the site again and compare",
    ))
}

/// What the site shall be given of the classes: of each purpose the epoch in use and those that wait to be, without
/// what it has.
fn choose(classes: &[ClassRecord], names: &[Name], has: &[KekId]) -> Result<Vec<Held>, Failure> {
    let mut chosen: Vec<Held> = Vec::new();
    for name in names {
        let class = classes.iter().find(|class| class.name == *name);
        let class = class.ok_or_else(|| {
            Failure::new(
                format!("central has signed no class `{name}`"),
                "export the classes anew (kms class export), or correct --class",
            )
        })?;
        for epoch in &class.epochs {
            let in_use = class
                .epochs
                .iter()
                .find(|other| other.purpose == epoch.purpose && other.current)
                .map_or(0, |current| current.epoch);
            let known = has.contains(&epoch.kek) || chosen.iter().any(|one| one.kek == epoch.kek);
            if epoch.epoch >= in_use && !known {
                chosen.push(Held {
                    class: class.name.clone(),
                    purpose: epoch.purpose,
                    epoch: epoch.epoch,
                    kek: epoch.kek,
                });
            }
        }
    }
    if chosen.is_empty() {
        return Err(Failure::new(
            "the site has every key of these classes already",
            "nothing is to be done, unless a class was rotated since the export: then export the classes anew. If the response was \
             lost or refused: initialise the site's token again, and enrol anew",
        ));
    }
    Ok(chosen)
}

fn sign(
    ceremony: &mut Ceremony,
    central: &CentralKey,
    delivery: Delivery,
) -> Result<Signed, Failure> {
    let failed = |why: String| {
        Failure::new(
            format!("a delivery cannot be signed: {why}"),
            "do not use this token",
        )
    };
    let record = Record::Delivery(delivery);
    let body = postcard::to_stdvec(&record).map_err(|error| failed(error.to_string()))?;
    let signature = ceremony.sign(&signed_text(&body))?;
    let signed = Signed { body, signature };
    // A site would refuse it, and the officer would have to come again.
    match central.read(&signed) {
        Ok(read) if read == record => Ok(signed),
        Ok(_) => Err(failed("it reads otherwise".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn keks_json(keks: &[KekInfo]) -> Value {
    keks.iter()
        .map(|kek| json!({"kek": kek.id, "purpose": kek.purpose, "label": kek.label}))
        .collect()
}

/// Begins like no text that is signed for anybody.
const PROBE: &[u8] = b"keyhaven ceremony probe 1\0";

#[cfg(test)]
mod tests {
    use keyhaven_types::{HardwareLevel, Replication};
    use keyhaven_wire::kms::ClassEpoch;

    use super::*;

    fn class(name: &str, epochs: &[(Purpose, u32, u8, bool)]) -> ClassRecord {
        ClassRecord {
            name: name.parse().unwrap(),
            regions: vec!["eu".parse().unwrap()],
            hardware_min: HardwareLevel::Software,
            bound_s: 30,
            bound_before: None,
            generated_only: false,
            replication: Replication::Eager,
            epochs: epochs
                .iter()
                .map(|&(purpose, epoch, kek, current)| ClassEpoch {
                    purpose,
                    epoch,
                    kek: KekId([kek; 16]),
                    current,
                })
                .collect(),
            revision: 1,
        }
    }

    fn chosen(classes: &[ClassRecord], names: &[&str], has: &[u8]) -> Result<Vec<String>, String> {
        let names: Vec<Name> = names.iter().map(|name| name.parse().unwrap()).collect();
        let has: Vec<KekId> = has.iter().map(|&byte| KekId([byte; 16])).collect();
        choose(classes, &names, &has)
            .map(|chosen| chosen.iter().map(held).collect())
            .map_err(|failure| failure.what)
    }

    #[test]
    fn a_site_gets_what_is_in_use_and_what_waits_and_nothing_twice() {
        let classes = [
            class(
                "a",
                &[
                    (Purpose::Sign, 1, 1, false),
                    (Purpose::Sign, 2, 2, true),
                    (Purpose::Sign, 3, 3, false),
                    (Purpose::Data, 1, 4, true),
                ],
            ),
            class("b", &[(Purpose::Sign, 1, 5, true)]),
        ];
        let new = chosen(&classes, &["a"], &[]).unwrap();
        assert_eq!(new, ["a/sign 2", "a/sign 3", "a/data 1"]);
        let old = chosen(&classes, &["a", "a"], &[1, 2, 4]).unwrap();
        assert_eq!(old, ["a/sign 3"]);
        assert!(chosen(&classes, &["a"], &[2, 3, 4]).is_err());
        assert!(
            chosen(&classes, &["b", "c"], &[])
                .unwrap_err()
                .contains("`c`")
        );
    }

    #[test]
    fn a_fingerprint_is_compared_whole_and_however_it_is_grouped() {
        let spki = b"a public key";
        let digits = text::sha256(spki);
        assert!(compare(&digits, spki).is_ok());
        assert!(compare(&groups(&sha256(spki)).to_uppercase(), spki).is_ok());
        for (bad, code) in [
            (digits[..16].to_owned(), 64),
            (format!("{digits}0"), 64),
            ("z".repeat(64), 64),
            (text::sha256(b"another"), 1),
        ] {
            assert_eq!(compare(&bad, spki).map_err(|error| error.code), Err(code));
        }
    }
}
