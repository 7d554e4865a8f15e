//! `kms site enroll`: a site's side of its ceremony, in one process.
//!
//! The transport pair and what comes in by it are `hsm`'s. Invariant: nothing is unwrapped before central's signature, the
//! site's name, the transport key and each wrap were found to be the ones that were asked for.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use keyhaven_hsm::managed::{Enrolment, KekName, SiteToken};
use keyhaven_kms::records::{CentralKey, sha256};
use keyhaven_types::{KekId, Name};
use serde_json::json;

use super::{
    exchange::{Believed, BelievedDelivery, Request, Response},
    files, public,
    show::{groups, join},
    site::held,
};
use crate::admin::{
    args::kms::EnrollArgs, ask, channel::deadline_in, failure::Failure, report::Report,
    select::Selected, text,
};

/// Asks for class keys, waits for them, takes them in.
pub(super) fn enroll(args: &EnrollArgs, json: bool) -> Result<Report, Failure> {
    let central = read_central(&args.central_key)?;
    // An older response would be taken for the answer to this request.
    files::refuse_existing(&args.response)?;
    files::check_replaceable::<Request>(&args.request)?;
    let selected = Selected::new(&args.token.token())?;
    let token = selected.open_token(selected.pin()?)?;
    // A token that cannot be a site should say so before anybody walks to the ceremony.
    let has: Vec<KekId> = SiteToken::open(&token)?
        .holds()
        .iter()
        .map(|kek| kek.id)
        .collect();
    let enrolment = Enrolment::begin(&token)?;
    let transport = sha256(enrolment.spki());
    let request = Request::new(args.site.clone(), enrolment.spki(), has);
    files::write_replacing(&args.request, &request)?;
    if !json {
        ask::tell(&announcement(args, &transport, &central));
    }
    let response = wait(&args.response, args.timeout)?;
    let believed = check(response, args, &central, &transport)?;
    let given: Vec<String> = believed
        .deliveries
        .iter()
        .map(|one| held(&one.held))
        .collect();
    let keks: Vec<(KekName, Vec<u8>)> = believed.deliveries.into_iter().map(to_kek).collect();
    enrolment.receive(&keks)?;
    Ok(report(args, &transport, &given))
}

/// Central's public key from its file.
pub(super) fn read_central(path: &Path) -> Result<CentralKey, Failure> {
    CentralKey::from_spki(&public::read(path)?).map_err(|error| {
        Failure::new(
            format!("{}: {error}", path.display()),
            "give the file that kms ceremony init wrote",
        )
    })
}

fn announcement(args: &EnrollArgs, transport: &[u8; 32], central: &CentralKey) -> String {
    let digits = groups(transport);
    // Four lines of four groups: so it is read aloud without losing the place.
    let groups_of_four: Vec<&str> = digits.split(' ').collect();
    let lines: Vec<String> = groups_of_four
        .chunks(4)
        .map(|line| format!("      {}", line.join("  ")))
        .collect();
    format!(
        "site `{}` asks for class keys; the request is in {}\n\n  Read this fingerprint to whoever holds the ceremony:\n\n{}\n\n\
         What comes back must be signed by central's key\n  {}\n  ({}; compare it with what the ceremony wrote down).\n\
         Waiting at most {} s for {}. Ending this process ends the enrolment.",
        args.site,
        args.request.display(),
        lines.join("\n"),
        groups(&central.fingerprint()),
        args.central_key.display(),
        args.timeout,
        args.response.display(),
    )
}

fn wait(path: &Path, seconds: u64) -> Result<Response, Failure> {
    let deadline = deadline_in(seconds);
    loop {
        if let Some(response) = files::look_for(path)? {
            return Ok(response);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(
                format!(
                    "{} did not come, or not whole, in {seconds} s",
                    path.display()
                ),
                "begin again: the transport key is gone, and a response to it is of no use any more; --timeout gives it more time",
            ));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Before anything is unwrapped.
fn check(
    response: Response,
    args: &EnrollArgs,
    central: &CentralKey,
    transport: &[u8; 32],
) -> Result<Believed, Failure> {
    let believed = response.believed_by(central, &args.response)?;
    if believed.site != args.site {
        return Err(not_ours(args, &believed.site));
    }
    if believed
        .deliveries
        .iter()
        .any(|one| one.transport != *transport)
    {
        return Err(Failure::new(
            format!(
                "{} is for another transport key than this process's: it belongs to another enrolment",
                args.response.display()
            ),
            "begin again, and hold the ceremony with the new request",
        ));
    }
    Ok(believed)
}

fn not_ours(args: &EnrollArgs, site: &Name) -> Failure {
    Failure::new(
        format!(
            "{} is for site `{site}`, and this is `{}`",
            args.response.display(),
            args.site
        ),
        "bring the response of this site",
    )
}

fn to_kek(delivery: BelievedDelivery) -> (KekName, Vec<u8>) {
    let name = KekName {
        class: delivery.held.class,
        purpose: delivery.held.purpose,
        epoch: delivery.held.epoch,
        id: delivery.held.kek,
    };
    (name, delivery.wrap)
}

fn report(args: &EnrollArgs, transport: &[u8; 32], given: &[String]) -> Report {
    let text = format!(
        "site `{}` has taken in {}\n  the transport key is gone; {} can be kept or destroyed\n  next: where central can be asked,\n    signer-admin kms site add --from {} --identity spiffe://DOMAIN/signer/{} --address HOST:PORT --region REGION --hardware LEVEL\n",
        args.site,
        join(given),
        args.request.display(),
        args.response.display(),
        args.site,
    );
    let json = json!({
        "site": args.site,
        "fingerprint": text::hex(transport),
        "request": args.request,
        "response": args.response,
        "received": given,
    });
    Report::new(json, text)
}

const LOOK_AGAIN: Duration = Duration::from_millis(100);
