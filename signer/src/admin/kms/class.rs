//! `kms class …`.
//!
//! Which key-encryption key a class gets is central's choice. Invariant: the export has classes exactly as central has
//! signed them; the ceremony believes nothing else.

use keyhaven_types::Replication;
use keyhaven_wire::kms::{
    ClassRecord,
    admin::{Answer, Ask, NewClass},
};
use serde_json::{Value, json};

use super::{
    committed::{other_answer, report},
    exchange::Classes,
    files,
    show::{bound as bound_text, class_json, join},
};
use crate::admin::{
    args::kms::{BoundArgs, ClassCreateArgs, ClassRotateArgs, ExportArgs, RewrapArgs},
    channel::Channel,
    failure::Failure,
    report::{Report, table},
};

/// Makes a class.
pub(super) fn create(args: &ClassCreateArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::ClassCreate(NewClass {
        name: args.name.clone(),
        regions: args.region.clone(),
        hardware_min: args.hardware,
        bound_s: args.bound,
        generated_only: args.generated_only,
        replication: if args.on_demand {
            Replication::OnDemand
        } else {
            Replication::Eager
        },
        purposes: args.purpose.clone(),
    }))?;
    report(
        answer,
        &format!(
            "class `{}` is made; a ceremony gives its keys to sites",
            args.name
        ),
    )
}

/// Changes a bound.
pub(super) fn bound(args: &BoundArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::ClassBound {
        class: args.name.clone(),
        bound_s: args.bound,
    })?;
    let bound = bound_text(args.bound);
    report(
        answer,
        &format!("revocations in class `{}` hold within {bound}", args.name),
    )
}

/// Takes new key-encryption keys.
pub(super) fn rotate(args: &ClassRotateArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::ClassRotate {
        class: args.name.clone(),
        purposes: args.purpose.clone(),
    })?;
    report(
        answer,
        &format!(
            "class `{}` has new key-encryption keys, not yet in use\n  next: a ceremony for each site that stays, then signer-admin kms class rewrap {}",
            args.name, args.name
        ),
    )
}

/// Wraps everything anew.
pub(super) fn rewrap(args: &RewrapArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::ClassRewrap {
        class: args.name.clone(),
        leave_behind: args.leave_behind,
    })?;
    report(
        answer,
        &format!(
            "every key of class `{}` is under its newest key-encryption keys",
            args.name
        ),
    )
}

/// Every class.
pub(super) fn list(channel: &Channel) -> Result<Report, Failure> {
    let Answer::Classes { classes, pool, .. } = channel.ask(&Ask::ClassList)? else {
        return Err(other_answer());
    };
    let mut rows = vec![
        [
            "NAME",
            "REGIONS",
            "HARDWARE",
            "BOUND",
            "KEYS",
            "WRAPS",
            "PURPOSES (EPOCH)",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(classes.iter().map(row));
    let mut text = if classes.is_empty() {
        "there is no class yet\n".to_owned()
    } else {
        table(&rows)
    };
    let free: Vec<String> = pool
        .iter()
        .map(|(purpose, free)| format!("{purpose} {free}"))
        .collect();
    text.push_str(&format!("\nleft in the pool: {}\n", join(&free)));
    let pool: Vec<Value> = pool
        .iter()
        .map(|(purpose, free)| json!({"purpose": purpose, "free": free}))
        .collect();
    let classes: Vec<Value> = classes.iter().map(class_json).collect();
    Ok(Report::new(json!({"classes": classes, "pool": pool}), text))
}

fn row(class: &ClassRecord) -> Vec<String> {
    let epochs: Vec<String> = class
        .epochs
        .iter()
        .filter(|epoch| epoch.current)
        .map(|current| {
            let newest = class
                .epochs
                .iter()
                .rfind(|epoch| epoch.purpose == current.purpose);
            match newest {
                Some(newest) if newest.epoch > current.epoch => format!(
                    "{} ({}; {} waits for rewrap)",
                    current.purpose, current.epoch, newest.epoch
                ),
                _ => format!("{} ({})", current.purpose, current.epoch),
            }
        })
        .collect();
    vec![
        class.name.to_string(),
        join(&class.regions),
        class.hardware_min.to_string(),
        bound_text(class.bound_s),
        if class.generated_only {
            "generated only"
        } else {
            "any"
        }
        .to_owned(),
        class.replication.to_string(),
        join(&epochs),
    ]
}

/// Writes the signed classes for the ceremony.
pub(super) fn export(args: &ExportArgs) -> Result<Report, Failure> {
    let channel = Channel::new(&args.client)?;
    let Answer::Classes {
        classes, signed, ..
    } = channel.ask(&Ask::ClassList)?
    else {
        return Err(other_answer());
    };
    files::write_replacing(&args.file, &Classes::new(&signed))?;
    let names: Vec<String> = classes.iter().map(|class| class.name.to_string()).collect();
    let text = format!(
        "{} written to {}\n  carry it to central's token: signer-admin kms ceremony deliver --classes {} …\n",
        join(&names),
        args.file.display(),
        args.file.display()
    );
    Ok(Report::new(
        json!({"file": args.file, "classes": names}),
        text,
    ))
}
