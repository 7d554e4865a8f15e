//! `kms site add | evict | list`.
//!
//! What a site holds comes from the response of its ceremony. Invariant: a response that another central's ceremony has
//! signed registers nothing.

use keyhaven_wire::kms::{
    Held, SiteRecord,
    admin::{Answer, Ask, NewSite},
};
use serde_json::json;

use super::{
    committed::{other_answer, report},
    exchange::Response,
    files,
    show::{join, site_json},
    status,
};
use crate::admin::{
    args::kms::{AddArgs, EvictArgs},
    ask,
    channel::{Channel, who},
    failure::Failure,
    report::{Report, table},
    text,
};

/// Registers a site.
pub(super) fn add(args: &AddArgs) -> Result<Report, Failure> {
    let response = args
        .from
        .as_deref()
        .map(|path| files::read::<Response>(path)?.believed(path))
        .transpose()?;
    let name = match (&response, &args.site) {
        (Some(response), Some(site)) if response.site != *site => {
            return Err(Failure::usage(
                format!("the response is for site `{}`, not `{site}`", response.site),
                "give the response file of this site, or leave --site out",
            ));
        }
        (Some(response), _) => response.site.clone(),
        (None, Some(site)) => site.clone(),
        (None, None) => {
            return Err(Failure::usage(
                "no site is named",
                "give --from RESPONSE, or --site NAME",
            ));
        }
    };
    let channel = Channel::new(&args.client)?;
    let mut holds = Vec::new();
    if let Some(response) = response {
        let signer = status::fetch(&channel)?.signer;
        if response.central.fingerprint() != signer {
            return Err(Failure::new(
                "the response was signed by another central's key",
                format!(
                    "hold the ceremony at this central's token, whose key is {}",
                    super::show::groups(&signer)
                ),
            ));
        }
        holds = response
            .deliveries
            .into_iter()
            .map(|one| one.held)
            .collect();
    }
    let given = holds.iter().map(held).collect::<Vec<_>>();
    let answer = channel.ask(&Ask::SiteAdd(NewSite {
        name: name.clone(),
        identity: args.identity.clone(),
        address: args.address.clone(),
        region: args.region.clone(),
        hardware: args.hardware,
        holds,
    }))?;
    report(
        answer,
        &format!(
            "site `{name}` is registered; its ceremony gave it {}",
            join(&given)
        ),
    )
}

/// Throws a site out.
pub(super) fn evict(args: &EvictArgs) -> Result<Report, Failure> {
    if !args.yes {
        ask::confirm_name(
            &format!(
                "Site `{}` will get nothing more and its connections will be closed. It cannot come back under this name.",
                args.site
            ),
            args.site.as_str(),
            "say --yes to do it without being asked",
        )?;
    }
    let channel = Channel::new(&args.client)?;
    let answer = channel.ask(&Ask::SiteEvict {
        site: args.site.clone(),
    })?;
    report(
        answer,
        &format!(
            "site `{}` is thrown out\n  what it has, it has: rotate its classes' key-encryption keys with signer-admin kms class rotate",
            args.site
        ),
    )
}

/// Every site.
pub(super) fn list(channel: &Channel) -> Result<Report, Failure> {
    let mut sites = Vec::new();
    let mut after = None;
    loop {
        let Answer::Sites { sites: page, more } = channel.ask(&Ask::SiteList { after })? else {
            return Err(other_answer());
        };
        after = page.last().map(|site| site.name.clone());
        sites.extend(page);
        // A page without a site has no last name to go on from.
        if !more || after.is_none() {
            break;
        }
    }
    let mut rows = vec![
        ["SITE", "REGION", "ADDRESS", "TOKEN", "IDENTITY", "HOLDS"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(sites.iter().map(row));
    let text = if sites.is_empty() {
        "no site is registered\n".to_owned()
    } else {
        table(&rows)
    };
    let json = json!({"sites": sites.iter().map(site_json).collect::<Vec<_>>()});
    Ok(Report::new(json, text))
}

fn row(site: &SiteRecord) -> Vec<String> {
    let held: Vec<String> = site.holds.iter().map(held).collect();
    vec![
        site.name.to_string(),
        site.region.to_string(),
        text::clean(&site.address),
        site.hardware.to_string(),
        who(&site.identity),
        if site.evicted {
            "thrown out".to_owned()
        } else {
            join(&held)
        },
    ]
}

/// A class's key-encryption key in few words: `everywhere/sign 1`.
pub(super) fn held(held: &Held) -> String {
    format!("{}/{} {}", held.class, held.purpose, held.epoch)
}
