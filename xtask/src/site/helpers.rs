//! Processes that a token needs beside the module: a TPM with its bus, or a server.
//!
//! Leaves what the token is to `token`. They live as long as the token, and end in the opposite order of their start.

use std::{os::unix::net::UnixStream, path::Path, process::Command};

use super::{
    home::{BUS, Home, P11_KIT, TPM},
    kind::Kind,
};
use crate::{Error, command, daemon::Daemon, interrupt::Interrupt};

/// The processes of one token.
#[derive(Debug, Default)]
pub(super) struct Helpers(Vec<Daemon>);

impl Helpers {
    /// Starts what is needed before the token can be initialised.
    pub(super) fn before(home: &Home, interrupt: &Interrupt) -> Result<Helpers, Error> {
        let mut helpers = Helpers::default();
        if home.kind == Kind::Tpm2 {
            helpers.start_tpm(home, interrupt)?;
        }
        Ok(helpers)
    }

    /// Starts what can only be started once the token is there.
    pub(super) fn after(&mut self, home: &Home, interrupt: &Interrupt) -> Result<(), Error> {
        let Some(behind) = home.behind()? else {
            return Ok(());
        };
        let socket = home.dir.join(P11_KIT);
        let mut server = behind.command("p11-kit");
        server.args(["server", "--foreground", "--provider"]);
        server.arg(&behind.module).arg("--name").arg(&socket);
        server.arg(behind.uri());
        self.start(home, "p11-kit", &server, interrupt, || listens(&socket))
    }

    /// swtpm is the TPM; abrmd shares it out, without which it is soon out of memory; a bus joins abrmd and module.
    fn start_tpm(&mut self, home: &Home, interrupt: &Interrupt) -> Result<(), Error> {
        let [bus, tpm, control] =
            [BUS, TPM, &format!("{TPM}.ctrl")].map(|name| home.dir.join(name));
        let state = home.dir.join("tpm-state");
        std::fs::create_dir(&state).map_err(|source| Error::File {
            act: "make",
            path: state.clone(),
            source,
        })?;
        let mut dbus = Command::new("dbus-daemon");
        dbus.args(["--session", "--nofork", "--nopidfile"]);
        dbus.args(["--address", &home.address(BUS)]);
        self.start(home, "dbus-daemon", &dbus, interrupt, || listens(&bus))?;

        let mut swtpm = Command::new("swtpm");
        swtpm.args(["socket", "--tpm2", "--tpmstate"]);
        swtpm.arg(format!("dir={}", state.display()));
        swtpm.arg("--server");
        swtpm.arg(format!("type=unixio,path={}", tpm.display()));
        swtpm.arg("--ctrl");
        // abrmd's way to swtpm looks for the second socket under this name.
        swtpm.arg(format!("type=unixio,path={}", control.display()));
        swtpm.args(["--flags", "not-need-init,startup-clear"]);
        self.start(home, "swtpm", &swtpm, interrupt, || listens(&tpm))?;

        let mut abrmd = home.command("tpm2-abrmd");
        abrmd.arg("--session");
        abrmd.arg(format!("--tcti=swtpm:path={}", tpm.display()));
        if rustix::process::geteuid().is_root() {
            abrmd.arg("--allow-root");
        }
        self.start(home, "tpm2-abrmd", &abrmd, interrupt, || {
            owns_its_name(home)
        })
    }

    fn start(
        &mut self,
        home: &Home,
        name: &'static str,
        command: &Command,
        interrupt: &Interrupt,
        ready: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let log = home.dir.join(format!("{name}.log"));
        let mut daemon = Daemon::start(name, command, &log)?;
        daemon.wait_for("is ready", interrupt, |_| ready().then_some(()))?;
        self.0.push(daemon);
        Ok(())
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        while let Some(daemon) = self.0.pop() {
            drop(daemon);
        }
    }
}

fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Whether abrmd is on the bus, by its name.
fn owns_its_name(home: &Home) -> bool {
    let mut ask = home.command("dbus-send");
    ask.args(["--session", "--print-reply=literal"]);
    ask.args(["--dest=org.freedesktop.DBus", "/"]);
    ask.arg("org.freedesktop.DBus.NameHasOwner");
    ask.arg("string:com.intel.tss2.Tabrmd");
    command::capture(&mut ask).is_ok_and(|answer| String::from_utf8_lossy(&answer).contains("true"))
}
