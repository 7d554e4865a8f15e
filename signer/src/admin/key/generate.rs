//! `key generate`.
//!
//! Chooses a name and has the token do the rest. Invariant: the report is made only after the key signed.

use keyhaven_hsm::admin::KeyName;
use serde_json::json;

use super::{describe, key_json};
use crate::admin::{
    args::GenerateArgs, failure::Failure, report::Report, select, select::Selected,
};

/// Makes a key in the token.
pub(in crate::admin) fn generate(args: &GenerateArgs) -> Result<Report, Failure> {
    let id = match &args.id {
        Some(text) => select::parse_id(text)?,
        None => random_id()?,
    };
    let selected = Selected::new(&args.token)?;
    let session = selected.open()?;
    let name = KeyName {
        label: args.label.clone(),
        id,
    };
    let key = session.generate_key(args.algorithm.into(), &name)?;
    let json = json!({"generated": key_json(session.info(), &key), "proof": "signature verified"});
    let text = format!(
        "{}  proof        it signed in the token, and the signature verifies\n",
        describe(session.info(), &key)
    );
    Ok(Report::new(json, text))
}

fn random_id() -> Result<Vec<u8>, Failure> {
    let mut id = vec![0; 8];
    aws_lc_rs::rand::fill(&mut id)
        .map_err(|_| Failure::new("the system gave no random bytes", "give the key's --id HEX"))?;
    Ok(id)
}
