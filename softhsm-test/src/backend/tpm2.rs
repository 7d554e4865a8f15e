//! tpm2-pkcs11 on a software TPM.
//!
//! Starts three processes: swtpm is the TPM, tpm2-abrmd shares it out (without it the TPM is soon out of memory), and
//! a bus of this token's own joins abrmd and the module. All sockets are files in the token's folder, so that any
//! number of tokens can live side by side.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Backend, Place};
use crate::helper::{Helpers, listens};
use crate::token::TokenError;
use crate::tools::run;

pub(super) struct Tpm2;

impl Backend for Tpm2 {
    fn create(&self, place: &Place) -> Result<Helpers, TokenError> {
        let helpers = start(place)?;
        let store = place.make_dir(self.storage())?;
        let tool = |verb: &str| {
            let mut tool = place.command("tpm2_ptool");
            tool.args([verb, "--path"]).arg(&store);
            tool
        };
        run(&mut tool("init"))?;
        run(tool("addtoken")
            .args(["--pid", "1", "--label", &place.label])
            .args(["--sopin", self.so_pin(), "--userpin", &place.pin]))?;
        Ok(helpers)
    }

    fn env(&self, dir: &Path) -> Vec<(&'static str, OsString)> {
        let mut bus = OsString::from("unix:path=");
        bus.push(socket(dir, "bus"));
        vec![
            ("DBUS_SESSION_BUS_ADDRESS", bus),
            ("TPM2_PKCS11_STORE", dir.join(self.storage()).into()),
            ("TPM2_PKCS11_TCTI", TCTI.into()),
            ("TPM2TOOLS_TCTI", TCTI.into()),
        ]
    }

    fn storage(&self) -> &'static str {
        "store"
    }

    fn key_types(&self) -> &'static [&'static str] {
        &["EC:prime256v1", "EC:secp384r1", "rsa:2048"]
    }
}

fn start(place: &Place) -> Result<Helpers, TokenError> {
    let dir = &place.dir;
    let mut helpers = Helpers::default();
    let [bus, tpm] = ["bus", "tpm"].map(|name| socket(dir, name));

    let mut daemon = Command::new("dbus-daemon");
    daemon.args(["--session", "--nofork", "--nopidfile", "--address"]);
    daemon.arg(format!("unix:path={}", bus.display()));
    helpers.start(dir, "dbus-daemon", &daemon, || listens(&bus))?;

    let state = place.make_dir("tpm-state")?;
    let mut swtpm = Command::new("swtpm");
    swtpm.args(["socket", "--tpm2", "--tpmstate"]);
    swtpm.arg(format!("dir={}", state.display()));
    swtpm.arg("--server");
    swtpm.arg(format!("type=unixio,path={}", tpm.display()));
    swtpm.arg("--ctrl");
    // The module that talks to swtpm looks for the second socket under this name.
    swtpm.arg(format!("type=unixio,path={}.ctrl", tpm.display()));
    swtpm.args(["--flags", "not-need-init,startup-clear"]);
    helpers.start(dir, "swtpm", &swtpm, || listens(&tpm))?;

    let mut abrmd = place.command("tpm2-abrmd");
    abrmd.args(["--allow-root", "--session"]);
    abrmd.arg(format!("--tcti=swtpm:path={}", tpm.display()));
    helpers.start(dir, "tpm2-abrmd", &abrmd, || owns_its_name(place))?;
    Ok(helpers)
}

/// Whether abrmd is on the bus, by its name.
fn owns_its_name(place: &Place) -> bool {
    let answer = run(place
        .command("dbus-send")
        .args(["--session", "--print-reply=literal"])
        .args([
            "--dest=org.freedesktop.DBus",
            "/",
            "org.freedesktop.DBus.NameHasOwner",
        ])
        .arg("string:com.intel.tss2.Tabrmd"));
    answer.is_ok_and(|answer| String::from_utf8_lossy(&answer).contains("true"))
}

fn socket(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.sock"))
}

/// By way of abrmd on the session bus.
const TCTI: &str = "tabrmd:bus_type=session";
