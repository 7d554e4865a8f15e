//! What `signer-admin` says of the demo's tokens and the signer of its handshakes, and whether that was expected.
//!
//! Reads the audit lines of the signer's log. What is expected stands in the row; nothing is rounded up.

use std::process::Command;

use keyhaven_xtask::{
    Error,
    cargo::Programs,
    command, daemon,
    interrupt::Interrupt,
    say,
    site::{Folder, Row, Running, Token, Tokens},
};

/// One handshake, as the signer told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    version: String,
    level: String,
    exchange: Option<String>,
    left: String,
    resumed: bool,
}

/// Has `signer-admin` examine the tokens as the configuration uses them; the site must reach the row's level. It runs
/// before the signer, because some tokens serve one process at a time.
pub(super) fn prove(
    programs: &Programs,
    folder: &Folder,
    tokens: &Tokens<'_>,
    row: Row,
) -> Result<(), Error> {
    let mut admin = Command::new(programs.path("signer-admin"));
    admin.args(["custody", "--min", row.level, "--config"]);
    admin.arg(folder.config("signer")).envs(tokens.env());
    let said = command::capture(&mut admin)?;
    let said = String::from_utf8_lossy(&said);
    // What comes before is about each token, what comes after about each group: of use, but long.
    let site = said.lines().skip_while(|line| !line.starts_with("site "));
    for line in site.take_while(|line| !line.starts_with("  offers")) {
        say::line(line);
    }
    Ok(())
}

/// Waits until the signer has told of both versions and of a resumed session; each handshake must have had the row's
/// level.
pub(super) fn check(running: &mut Running, row: Row, interrupt: &Interrupt) -> Result<(), Error> {
    let mut told = running
        .signer
        .wait_for("finished these handshakes", interrupt, |log| {
            let told: Vec<Told> = daemon::fields(log).filter_map(|line| read(&line)).collect();
            let has = |wanted: &dyn Fn(&Told) -> bool| told.iter().any(wanted);
            (has(&|told| told.version == "1.3" && !told.resumed)
                && has(&|told| told.version == "1.2")
                && has(&|told| told.resumed))
            .then_some(told)
        })?;
    let wrong = told.iter().find(|told| told.level != row.level);
    if let Some(wrong) = wrong {
        return Err(running.signer.error(format!(
            "served TLS {} at level `{}`, and with these modules it is `{}`",
            wrong.version, wrong.level, row.level
        )));
    }
    told.sort_by_key(|told| (told.version.clone(), told.resumed));
    told.dedup();
    for told in told.iter().rev() {
        let kind = if told.resumed { "resumed" } else { "full" };
        say::line(format!(
            "TLS {}  {kind:<8} custody={:?} exchange_token={:?} left={:?}",
            told.version,
            told.level,
            told.exchange.as_deref().unwrap_or_default(),
            told.left
        ));
    }
    Ok(())
}

/// What a level says about each secret, in the order in which a handshake makes them.
pub(super) fn kept(level: &str, tokens: &Tokens<'_>) -> Vec<String> {
    let key = place(&tokens.key);
    let keeper = tokens.exchange.as_ref().map_or_else(|| key.clone(), place);
    let rows = [
        ("the site's private key", "signature", &key),
        (
            "the ephemeral private key and the ECDHE secret",
            "premaster",
            &keeper,
        ),
        (
            "the first derivation from that secret",
            "premaster",
            &keeper,
        ),
        ("the handshake and master secrets", "master", &keeper),
        ("the traffic secrets and Finished keys", "schedule", &keeper),
    ];
    let order = ["signature", "premaster", "master", "schedule"];
    let rank = |name: &str| order.iter().position(|other| *other == name);
    let mut lines: Vec<_> = rows
        .iter()
        .map(|(secret, needed, token)| {
            let place = if rank(level) >= rank(needed) {
                format!("stayed in {token}")
            } else {
                "passed through the signer's memory".to_owned()
            };
            format!("  {secret:<48} {place}")
        })
        .collect();
    lines.push(format!(
        "  {:<48} all that the proxy got",
        "the AEAD keys and IVs of each session"
    ));
    lines.push("  All these tokens are software: they protect against disclosure of the signer's memory, not against".to_owned());
    lines.push(
        "  code that runs as the signer's user. docs/custody.md says what each level is worth."
            .to_owned(),
    );
    lines
}

fn place(token: &Token<'_>) -> String {
    format!("`{}` ({})", token.name(), token.kind().as_str())
}

/// A handshake whose client has proven itself.
fn read(line: &serde_json::Value) -> Option<Told> {
    let text = |name: &str| daemon::find_text(line, name);
    Some(Told {
        level: text("custody")?,
        version: text("version")?,
        exchange: text("exchange_token"),
        left: text("left")?,
        resumed: text("resumed")? == "true",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_an_audit_line_and_nothing_else() {
        let line = json!({"target": "audit", "fields": {
            "event": "proven", "version": "1.3", "custody": "schedule", "exchange_token": "keeper",
            "left": "aead keys", "resumed": true}});
        let told = read(&line).unwrap();
        assert_eq!((told.level.as_str(), told.resumed), ("schedule", true));
        assert_eq!(told.exchange.as_deref(), Some("keeper"));
        assert_eq!(read(&json!({"fields": {"custody": "schedule"}})), None);
    }
}
