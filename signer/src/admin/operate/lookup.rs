//! `lookup`: who can do an operation with a key, fastest first.

use keyhaven_wire::{
    Reply, Request,
    kms::{Found, Lookup, Server},
};
use serde_json::{Value, json};

use crate::admin::{
    args::operate::LookupArgs,
    channel::{CallFailure, Channel, Turn, unexpected},
    failure::Failure,
    kms::key_ref,
    report::{Report, table},
};

/// Asks the first server that answers.
pub(in crate::admin) fn lookup(args: &LookupArgs) -> Result<Report, Failure> {
    let key = key_ref(&args.key)?;
    let channel = Channel::new(&args.client)?;
    let (asked, found) = channel.any_server(|server| {
        let request = Request::Lookup(Lookup {
            key: key.clone(),
            operation: args.op,
            caller: None,
        });
        match channel.call(server, request) {
            Ok(Reply::Found(found)) => Ok(Turn::Done((server.identity.clone(), found))),
            Ok(reply) => Err(unexpected(server, &reply)),
            Err(CallFailure::NotAsked(why) | CallFailure::Unanswered(why)) => Ok(Turn::Next(why)),
            Err(CallFailure::Said(code)) => Ok(Turn::Next(Failure::new(
                format!("{}: {code}", server.identity),
                "has that signer a [kms] section? Its log says more",
            ))),
        }
    })?;
    let json = json!({
        "key": args.key,
        "operation": args.op,
        "asked": asked,
        "servers": found.servers.iter().map(server_json).collect::<Vec<_>>(),
        "revision": found.revision,
        "central_ms_ago": found.central_ms_ago,
        "good_for_ms": found.good_for_ms,
    });
    let nobody = found.servers.is_empty();
    Ok(Report::new(json, shown(&found)).failed_if(nobody))
}

fn server_json(server: &Server) -> Value {
    json!({
        "site": server.site,
        "identity": server.identity,
        "address": server.address,
        "region": server.region,
        "estimate_us": server.estimate_us,
        "measured_ms_ago": server.measured_ms_ago,
        "is_self": server.is_self,
    })
}

fn shown(found: &Found) -> String {
    if found.servers.is_empty() {
        return "nobody: no such key, no grant for it, or no site that can do it now\n".to_owned();
    }
    let mut rows = vec![
        ["site", "region", "address", "estimate", "measured"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for server in &found.servers {
        let measured = match server.measured_ms_ago {
            Some(ago) => format!("{} ago", duration(ago)),
            None if server.is_self => "itself".to_owned(),
            None => "not yet".to_owned(),
        };
        rows.push(vec![
            server.site.to_string(),
            server.region.to_string(),
            server.address.clone(),
            format!("{:.1} ms", server.estimate_us as f64 / 1000.0),
            measured,
        ]);
    }
    let central = found.central_ms_ago.map_or_else(
        || "not since it started".to_owned(),
        |ago| format!("{} ago", duration(ago)),
    );
    format!(
        "{}good for {}; word from central: {central}\n",
        table(&rows),
        duration(found.good_for_ms)
    )
}

fn duration(ms: u64) -> String {
    if ms < 10_000 {
        format!("{:.1} s", ms as f64 / 1000.0)
    } else {
        format!("{} s", ms / 1000)
    }
}
