//! `kms key csr` and `kms key chain`: a handshake key's request out, its certificates in.
//!
//! Invariant: nothing but an older request is replaced, and only certificates of the key's own chain are sent.

use keyhaven_types::KeyState;
use keyhaven_wire::kms::{
    Public,
    admin::{Answer, Ask},
};
use serde_json::json;

use super::{
    committed::{other_answer, report},
    key_ref,
    show::pem,
};
use crate::admin::{
    args::kms::{ChainArgs, CsrArgs},
    cert,
    channel::Channel,
    failure::Failure,
    key::check_replaceable,
    keyfile,
    report::Report,
};

/// A PKCS#10 request for the newest version.
pub(super) fn csr(args: &CsrArgs) -> Result<Report, Failure> {
    let key = key_ref(&args.key)?;
    if let Some(path) = &args.out {
        check_replaceable(path)?;
    }
    let Answer::Csr(der) = Channel::new(&args.client)?.ask(&Ask::KeyCsr { key })? else {
        return Err(other_answer());
    };
    let pem = pem("CERTIFICATE REQUEST", &der);
    let json = json!({ "key": args.key, "out": args.out, "csr": pem });
    let Some(path) = &args.out else {
        return Ok(Report::new(json, pem));
    };
    std::fs::write(path, &pem).map_err(|error| Failure::file("write", path, &error))?;
    Ok(Report::new(
        json,
        format!(
            "certificate request written to {}\n  give it to your certificate authority; then signer-admin kms key chain {} FILE\n",
            path.display(),
            args.key
        ),
    ))
}

/// Gives a version its certificates.
pub(super) fn chain(args: &ChainArgs) -> Result<Report, Failure> {
    let key = key_ref(&args.key)?;
    let certificates = cert::read_file(&args.file)?;
    let channel = Channel::new(&args.client)?;
    let Answer::Key { versions, .. } = channel.ask(&Ask::KeyShow { key: key.clone() })? else {
        return Err(other_answer());
    };
    let in_use = versions.iter().rev().filter(|version| match args.version {
        Some(only) => version.version == only,
        None => version.state <= KeyState::Active,
    });
    let found = in_use
        .filter_map(|version| match &version.public {
            Public::Spki(spki) => {
                let (chain, _) = keyfile::order_chain(spki, &certificates)?;
                Some((version.version, chain))
            }
            Public::Kcv(_) => None,
        })
        .next();
    let Some((version, chain)) = found else {
        return Err(Failure::new(
            format!(
                "no certificate in {} is for a version of `{}` that is in use",
                args.file.display(),
                args.key
            ),
            "give the certificate that was made from `signer-admin kms key csr`",
        ));
    };
    let answer = channel.ask(&Ask::KeyChain {
        key,
        version: Some(version),
        chain,
    })?;
    report(
        answer,
        &format!(
            "version {version} of key `{}` has its certificates",
            args.key
        ),
    )
}
