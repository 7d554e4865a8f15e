//! `key import`: a key from a file into the token, shown first, proven after.
//!
//! The file is parsed by `keyfile` and only ever read; the import and its proof are `hsm::admin`'s. Invariant:
//! nothing is created before the operator has seen what it is, and what fails its proof does not stay.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use keyhaven_hsm::{
    Pin,
    admin::{AdminSession, KeyEntry, KeyName},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{describe, key_json};
use crate::admin::{
    args::ImportArgs,
    ask::{self, Wanted},
    cert,
    failure::Failure,
    keyfile::{self, KeyFile, KeyFileError},
    report::Report,
    select::{self, Selected},
    text,
};

/// Bytes of the public key's SHA-256 that make an id when none is given.
const ID_BYTES: usize = 20;

/// Imports a key. With `json` nothing but questions is said beside the report, which then has the preview's facts.
pub(in crate::admin) fn import(args: &ImportArgs, json: bool) -> Result<Report, Failure> {
    let id = args.id.as_deref().map(select::parse_id).transpose()?;
    if let Some(path) = &args.chain_out {
        refuse_existing(path)?;
    }
    let file = read_key(args)?;
    let plan = Plan::new(args, file, id)?;
    let selected = Selected::new(&args.token)?;
    let session = selected.open()?;
    // Before the question: whoever says yes should not then hear that the name is taken.
    session.check_free(&plan.name, Some(&plan.file.key.spki()))?;
    let exposed = open_to_others(&args.file);
    confirm(args, &plan, &text::clean(&session.info().label), json)?;

    let key = session.import_key(&plan.file.key, &plan.name)?;
    // The bytes are of no use any more.
    let Plan {
        file: KeyFile {
            key: bytes, format, ..
        },
        chain,
        left_out,
        ..
    } = plan;
    drop(bytes);
    let stored = keep_chain(args, &session, &key, &chain)?;
    let done = Done {
        format,
        chain,
        left_out,
        exposed,
        stored,
    };
    Ok(report(args, &session, &key, &done))
}

/// What is about to be imported.
struct Plan {
    file: KeyFile,
    name: KeyName,
    /// Leaf first.
    chain: Vec<Vec<u8>>,
    /// Certificates of the file that are no part of the chain.
    left_out: usize,
}

impl Plan {
    fn new(args: &ImportArgs, file: KeyFile, id: Option<Vec<u8>>) -> Result<Self, Failure> {
        let spki = file.key.spki();
        let certificates = match &args.certificate {
            Some(path) => cert::read_file(path)?,
            None => file.certificates.clone(),
        };
        let found = keyfile::order_chain(&spki, &certificates);
        let (chain, left_out) = match (found, &args.certificate) {
            (Some(found), _) => found,
            (None, Some(path)) => {
                return Err(Failure::new(
                    format!("the key does not belong to any certificate in {}", path.display()),
                    "give the certificate that was issued for this key; compare `signer-admin cert show FILE` with the key's public key sha256 ".to_owned()
                        + &text::sha256(&spki),
                ));
            }
            (None, None) => (Vec::new(), certificates.len()),
        };
        if chain.is_empty() && (args.chain_out.is_some() || args.store_certificates) {
            return Err(Failure::new(
                "no certificate of this key was found to keep",
                "give its certificate with --certificate, or leave --chain-out and --store-certificates out",
            ));
        }
        let id = id.unwrap_or_else(|| {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
            digest.as_ref()[..ID_BYTES].to_vec()
        });
        Ok(Self {
            name: KeyName {
                label: args.label.clone(),
                id,
            },
            file,
            chain,
            left_out,
        })
    }

    /// The preview.
    fn describe(&self, args: &ImportArgs, token: &str) -> String {
        let mut out = format!(
            "About to import into token `{token}`:\n  file         {} ({})\n  kind         {}\n  public key   sha256 {}\n  label        {}\n  id           {}\n  it may       sign, and nothing else; never to be read or wrapped out\n",
            args.file.display(),
            self.file.format,
            text::algorithm_name(self.file.key.algorithm()),
            text::sha256(&self.file.key.spki()),
            text::clean(&self.name.label),
            self.name.id_hex(),
        );
        if let Some(mode) = open_to_others(&args.file) {
            out.push_str(&format!(
                "  exposed      other users can read the file (mode {mode:04o}): they may have the key\n"
            ));
        }
        match self.chain.first() {
            Some(leaf) => out.push_str(&cert::describe(leaf, "  ")),
            None => out.push_str("  certificate  none found\n"),
        }
        if self.chain.len() > 1 {
            out.push_str(&format!("  issuers      {}\n", self.chain.len() - 1));
        }
        if self.left_out > 0 {
            out.push_str(&format!(
                "  left out     {} certificates that are no part of the chain, or its root\n",
                self.left_out
            ));
        }
        out
    }
}

/// Reads and parses the file.
fn read_key(args: &ImportArgs) -> Result<KeyFile, Failure> {
    read_key_file(&args.file, || {
        let source = args
            .password_source
            .as_deref()
            .map(|text| ask::parse_source("--password-source", text))
            .transpose()?;
        Wanted {
            noun: "password",
            of: &args.file.display().to_string(),
            place: "--password-source ",
            new: false,
        }
        .read(source.as_ref())
    })
}

/// Reads and parses a file; asks for a password only if it needs one. The empty password is tried first: it is
/// what an archive that was exported without one has, and it protects nothing that should be asked for.
pub(in crate::admin) fn read_key_file(
    path: &Path,
    password: impl FnOnce() -> Result<Pin, Failure>,
) -> Result<KeyFile, Failure> {
    let bytes = read_bounded(path)?;
    match keyfile::parse(&bytes, None) {
        Err(KeyFileError::PasswordNeeded) => {}
        Ok(file) => return Ok(file),
        Err(error) => return Err(of_file(path, error)),
    }
    if let Ok(file) = keyfile::parse(&bytes, Some("")) {
        return Ok(file);
    }
    let password = password()?;
    keyfile::parse(&bytes, Some(password.expose_secret())).map_err(|error| of_file(path, error))
}

/// The file's mode, when others than its owner may read it.
pub(in crate::admin) fn open_to_others(path: &Path) -> Option<u32> {
    let mode = path.metadata().ok()?.permissions().mode() & 0o7777;
    (mode & 0o044 != 0).then_some(mode)
}

fn of_file(path: &Path, error: KeyFileError) -> Failure {
    let failure = Failure::from(error);
    Failure {
        what: format!("{}: {}", path.display(), failure.what),
        ..failure
    }
}

/// At most [`keyfile::FILE_BYTES_MAX`] and one, in one buffer that is wiped.
pub(in crate::admin) fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error| Failure::file("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Failure::new(
            format!("{} is not a regular file", path.display()),
            "give a file with the private key",
        ));
    }
    // One buffer of the right size: a growing one would leave copies of the key behind.
    let limit = keyfile::FILE_BYTES_MAX + 1;
    let size = usize::try_from(metadata.len()).map_or(limit, |size| size.min(limit));
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(size as u64)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn confirm(args: &ImportArgs, plan: &Plan, token: &str, json: bool) -> Result<(), Failure> {
    // A script that reads JSON has nobody to look at a preview, and one document to read if this fails.
    if !json || (ask::on_terminal() && !args.yes) {
        ask::tell(plan.describe(args, token).trim_end());
    }
    if args.yes {
        return Ok(());
    }
    ask::confirm("Import it?", "say --yes to import it without being asked")
}

fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(
            format!("{} exists already; nothing was imported", path.display()),
            "choose another --chain-out",
        ));
    }
    Ok(())
}

/// Writes and stores the chain. The key is in the token already, so a failure says that too.
fn keep_chain(
    args: &ImportArgs,
    session: &AdminSession,
    key: &KeyEntry,
    chain: &[Vec<u8>],
) -> Result<usize, Failure> {
    let imported = |failure: Failure| Failure {
        what: format!("the key is imported and proven, but {}", failure.what),
        ..failure
    };
    if let Some(path) = &args.chain_out {
        File::create_new(path)
            .and_then(|mut file| file.write_all(cert::to_pem(chain).as_bytes()))
            .map_err(|error| imported(Failure::file("write", path, &error)))?;
    }
    let Some((leaf, issuers)) = chain.split_first().filter(|_| args.store_certificates) else {
        return Ok(0);
    };
    session
        .store_certificates(key, leaf, issuers)
        .map_err(|error| imported(error.into()))?;
    Ok(chain.len())
}

/// What is told of an import beside the key.
struct Done {
    format: &'static str,
    chain: Vec<Vec<u8>>,
    left_out: usize,
    /// The file's mode, when others can read it.
    exposed: Option<u32>,
    stored: usize,
}

fn report(args: &ImportArgs, session: &AdminSession, key: &KeyEntry, done: &Done) -> Report {
    let Done {
        format,
        chain,
        left_out,
        exposed,
        stored,
    } = done;
    let mut out = describe(session.info(), key);
    out.push_str("  proof        it signed in the token, and the signature verifies\n");
    if let Some(path) = &args.chain_out {
        out.push_str(&format!("  chain        written to {}\n", path.display()));
    }
    if *stored > 0 {
        out.push_str(&format!(
            "  stored       {stored} certificates beside the key\n"
        ));
    }
    out.push_str(&format!(
        "\n{} was left as it was. Once the key is in use, destroy it and its backups:\n  shred -u {}\n",
        args.file.display(),
        args.file.display()
    ));
    let json = json!({
        "imported": key_json(session.info(), key),
        "format": format,
        "proof": "signature verified",
        "certificate": chain.first().map_or(Value::Null, |leaf| cert::to_json(leaf)),
        "chain_length": chain.len(),
        "certificates_left_out": left_out,
        "source_readable_by_others": exposed.is_some(),
        "chain_out": args.chain_out,
        "certificates_stored": stored,
        "source": args.file,
        "advice": "destroy the source file and its backups",
    });
    Report::new(json, out)
}
