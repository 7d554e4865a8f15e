//! NSS softokn: the certificate database of Firefox and of some directory servers.
//!
//! Speaks through `certutil`, because the module starts only with arguments that `pkcs11-tool` does not give. Its
//! keys have no label, so that a key is found by the id that NSS gave it; labels are kept here, beside the database.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Backend, Place};
use crate::helper::Helpers;
use crate::token::TokenError;
use crate::tools::{percent, run};

pub(super) struct Nss;

impl Backend for Nss {
    fn create(&self, place: &Place) -> Result<Helpers, TokenError> {
        place.make_dir(self.storage())?;
        place.make_dir(KEYS)?;
        run(certutil(place).arg("-N"))?;
        Ok(Helpers::default())
    }

    fn env(&self, _dir: &Path) -> Vec<(&'static str, OsString)> {
        Vec::new()
    }

    fn storage(&self) -> &'static str {
        "nssdb"
    }

    fn key_types(&self) -> &'static [&'static str] {
        &["EC:prime256v1", "EC:secp384r1", "rsa:2048"]
    }

    /// Fixed; the other slot, of cryptography without a store, has the label `NSS Generic Crypto Services`.
    fn label(&self, _asked: &str) -> String {
        "NSS Certificate DB".to_owned()
    }

    fn init_args(&self, dir: &Path) -> Option<String> {
        Some(format!(
            "configdir='{}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=",
            database(dir)
        ))
    }

    /// Makes the key and a certificate signing request with it. `_id` is NSS's own choice.
    fn generate_key(
        &self,
        place: &Place,
        key_type: &str,
        label: &str,
        _id: &str,
    ) -> Result<(), TokenError> {
        let algorithm: &[&str] = match key_type {
            "EC:prime256v1" => &["-k", "ec", "-q", "nistp256"],
            "EC:secp384r1" => &["-k", "ec", "-q", "nistp384"],
            "rsa:2048" => &["-k", "rsa", "-g", "2048"],
            "rsa:3072" => &["-k", "rsa", "-g", "3072"],
            _ => return Err(place.cannot("make a key of this type")),
        };
        let noise = place.dir.join("noise");
        random_file(&noise)?;
        let before = key_ids(place)?;
        run(certutil(place)
            .args(["-R", "-a", "-s", "CN=test"])
            .args(algorithm)
            .args(["--keyAttrFlags", "token,private,sensitive,unextractable"])
            .arg("-z")
            .arg(noise)
            .arg("-o")
            .arg(key_file(place, label, "csr")))?;
        let made = key_ids(place)?;
        let id = made.iter().find(|id| !before.contains(id));
        let id = id.ok_or_else(|| place.cannot("show the key that it has made"))?;
        let path = key_file(place, label, "id");
        fs::write(&path, id).map_err(|source| TokenError::File { path, source })
    }

    /// The key in the signing request, whose signature is checked.
    fn public_key(&self, place: &Place, label: &str) -> Result<Vec<u8>, TokenError> {
        let pem = place.dir.join(KEYS).join("public.pem");
        run(Command::new("openssl")
            .args(["req", "-verify", "-noout", "-pubkey", "-in"])
            .arg(key_file(place, label, "csr"))
            .arg("-out")
            .arg(&pem))?;
        run(Command::new("openssl")
            .args(["pkey", "-pubin", "-outform", "DER", "-in"])
            .arg(&pem))
    }

    fn key_uri(&self, place: &Place, label: &str) -> Result<String, TokenError> {
        let id = read_id(place, label)?;
        let octets = id.as_bytes().chunks(2).map(String::from_utf8_lossy);
        let id: String = octets.map(|octet| format!("%{octet}")).collect();
        Ok(format!("pkcs11:id={id};type=private"))
    }

    fn delete_key(&self, place: &Place, label: &str) -> Result<(), TokenError> {
        let id = read_id(place, label)?;
        run(certutil(place).args(["-F", "-k", &id])).map(drop)
    }
}

/// `certutil` on the token's database, with its PIN.
fn certutil(place: &Place) -> Command {
    let mut command = place.command("certutil");
    command.args(["-d", &database(&place.dir), "-f"]);
    command.arg(place.dir.join("pin"));
    command
}

fn database(dir: &Path) -> String {
    format!("sql:{}", dir.join("nssdb").display())
}

/// The ids of all private keys, in hexadecimal.
fn key_ids(place: &Place) -> Result<Vec<String>, TokenError> {
    let listed = match run(certutil(place).arg("-K")) {
        // A database without keys is an error to it.
        Err(TokenError::Tool { said, .. }) if said.contains("no keys found") => Vec::new(),
        other => other?,
    };
    let is_id = |word: &&str| word.len() == 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let listed = String::from_utf8_lossy(&listed);
    Ok(listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(is_id))
        .map(str::to_owned)
        .collect())
}

fn read_id(place: &Place, label: &str) -> Result<String, TokenError> {
    let path = key_file(place, label, "id");
    fs::read_to_string(&path).map_err(|source| TokenError::File { path, source })
}

fn key_file(place: &Place, label: &str, extension: &str) -> PathBuf {
    place
        .dir
        .join(KEYS)
        .join(format!("{}.{extension}", percent(label)))
}

/// What `certutil` would otherwise ask to be typed on a keyboard.
fn random_file(path: &Path) -> Result<(), TokenError> {
    let mut bytes = [0; 64];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .and_then(|()| fs::write(path, bytes))
        .map_err(|source| TokenError::File {
            path: path.to_path_buf(),
            source,
        })
}

/// The folder of signing requests and ids, by label.
const KEYS: &str = "keys";
