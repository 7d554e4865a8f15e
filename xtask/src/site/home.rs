//! A token's folder: its module's configuration, its PINs, and what a process needs in its environment to see it.
//!
//! Leaves the token itself to `token`, and the processes that some modules need to `helpers`. Nothing outside of the
//! folder is written.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Folder, kind::Kind, percent, write_file, write_private};
use crate::{Error, command};

/// Where a token is.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) kind: Kind,
    /// The name of the token in `signer.toml`, and of its folder.
    pub(super) name: &'static str,
    pub(super) dir: PathBuf,
    pub(super) module: PathBuf,
}

impl Home {
    /// Makes the folder with PINs and configuration.
    pub(super) fn make(kind: Kind, name: &'static str, folder: &Folder) -> Result<Home, Error> {
        let home = Home {
            kind,
            name,
            dir: folder.token(name)?,
            module: kind.module()?,
        };
        write_private(home.pin(), pin(kind)?)?;
        write_private(home.so_pin(), pin(kind)?)?;
        home.check_sockets()?;
        home.configure()?;
        Ok(home)
    }

    /// The token's label. NSS gives its own.
    pub(super) fn label(&self) -> String {
        match self.kind {
            Kind::Nss => "NSS Certificate DB".to_owned(),
            _ => format!("keyhaven-{}", self.name),
        }
    }

    /// The token's URI without the place of its PIN.
    pub(super) fn uri(&self) -> String {
        format!("pkcs11:token={}", percent(&self.label()))
    }

    pub(super) fn pin(&self) -> PathBuf {
        self.dir.join("pin")
    }

    pub(super) fn so_pin(&self) -> PathBuf {
        self.dir.join("so-pin")
    }

    /// What a process needs in its environment to see the token.
    pub(super) fn env(&self) -> Vec<(&'static str, OsString)> {
        let path = |name: &str| self.dir.join(name).into_os_string();
        let unix = |name: &str| self.address(name).into();
        match self.kind {
            Kind::SoftHsm2 => vec![("SOFTHSM2_CONF", path(CONFIG))],
            Kind::Kryoptic | Kind::KryopticModern => vec![("KRYOPTIC_CONF", path(CONFIG))],
            Kind::Nss => Vec::new(),
            Kind::Tpm2 => vec![
                ("DBUS_SESSION_BUS_ADDRESS", unix(BUS)),
                ("TPM2_PKCS11_STORE", path(STORE)),
                ("TPM2_PKCS11_TCTI", TCTI.into()),
            ],
            Kind::P11Kit => vec![("P11_KIT_SERVER_ADDRESS", unix(P11_KIT))],
            Kind::Craton => vec![
                ("CRATON_HSM_CONFIG", path(CONFIG)),
                // A build of ours has no maker's signature, without which the module does not start.
                ("CRATON_HSM_INTEGRITY_BYPASS", "unsafe-dev-only".into()),
            ],
        }
    }

    /// The address of a socket as D-Bus and p11-kit write it.
    pub(super) fn address(&self, socket: &str) -> String {
        let path = self.dir.join(socket).display().to_string();
        let parts: Vec<_> = path.split('/').map(percent).collect();
        format!("unix:path={}", parts.join("/"))
    }

    /// What C_Initialize wants in `pReserved`.
    pub(super) fn init_args(&self) -> Option<String> {
        (self.kind == Kind::Nss).then(|| {
            format!(
                "configdir='{}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=",
                self.database()
            )
        })
    }

    /// NSS's name for its database.
    pub(super) fn database(&self) -> String {
        format!("sql:{}", self.dir.join(STORE).display())
    }

    /// The token as SoftHSM2 sees it, where that is behind another module.
    pub(super) fn behind(&self) -> Result<Option<Home>, Error> {
        if self.kind != Kind::P11Kit {
            return Ok(None);
        }
        Ok(Some(Home {
            kind: Kind::SoftHsm2,
            name: self.name,
            dir: self.dir.clone(),
            module: Kind::SoftHsm2.module()?,
        }))
    }

    /// A program that sees the token.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.env());
        command
    }

    /// OpenSC's tool with the module; it takes PINs from its environment, where `ps` does not show them.
    pub(super) fn pkcs11_tool(&self) -> Result<Command, Error> {
        let mut tool = self.command("pkcs11-tool");
        tool.env("KEYHAVEN_PIN", read(&self.pin())?);
        tool.env("KEYHAVEN_SO_PIN", read(&self.so_pin())?);
        tool.arg("--module").arg(&self.module);
        Ok(tool)
    }

    fn configure(&self) -> Result<(), Error> {
        let dir = self.dir.display();
        let config = match self.kind {
            Kind::SoftHsm2 | Kind::P11Kit => format!(
                "directories.tokendir = {dir}/{STORE}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
            ),
            Kind::Kryoptic | Kind::KryopticModern => {
                format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = \"{dir}/token.sql\"\n")
            }
            Kind::Craton => format!(
                "[token]\nlabel = \"{}\"\nstorage_path = \"{dir}/{STORE}\"\npersist_objects = true\n\
                 max_sessions = 1000\nmax_rw_sessions = 1000\n[audit]\nenabled = false\nlog_path = \"{dir}/audit.log\"\n",
                self.label()
            ),
            Kind::Nss | Kind::Tpm2 => String::new(),
        };
        if !config.is_empty() {
            write_file(self.dir.join(CONFIG), config)?;
        }
        if self.kind == Kind::Craton {
            return Ok(());
        }
        let store = self.dir.join(STORE);
        std::fs::create_dir(&store).map_err(|source| Error::File {
            act: "make",
            path: store,
            source,
        })
    }

    /// A socket's path fits into 107 bytes (unix(7)), or nothing can be said to the process behind it.
    fn check_sockets(&self) -> Result<(), Error> {
        let longest = self.dir.join(format!("{TPM}.ctrl"));
        let has_sockets = matches!(self.kind, Kind::Tpm2 | Kind::P11Kit);
        if has_sockets && longest.as_os_str().len() > 107 {
            return Err(Error::LongPath(self.dir.clone()));
        }
        Ok(())
    }
}

/// The whole of a small file.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        act: "read",
        path: path.to_path_buf(),
        source,
    })
}

/// Runs a program that prepares a token.
pub(super) fn run(command: &mut Command) -> Result<(), Error> {
    command::capture(command).map(drop)
}

/// Twelve random digits; craton-hsm also wants other kinds of characters.
fn pin(kind: Kind) -> Result<String, Error> {
    let mut bytes = [0; 12];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::Output {
            program: "the random generator".to_owned(),
            why: "it gave nothing".to_owned(),
        })?;
    // Low digits are a little likelier, which does not matter for a token that holds a demo's key.
    let digits = bytes.iter().map(|byte| char::from(b'0' + byte % 10));
    let taste = if kind == Kind::Craton { "Demo-" } else { "" };
    Ok(taste.chars().chain(digits).collect())
}

/// The module's configuration.
pub(super) const CONFIG: &str = "module.conf";
/// The module's own folder.
pub(super) const STORE: &str = "store";
/// The sockets of a token's processes.
pub(super) const BUS: &str = "bus.sock";
/// See [`BUS`].
pub(super) const TPM: &str = "tpm.sock";
/// See [`BUS`].
pub(super) const P11_KIT: &str = "p11-kit.sock";
/// The way of tpm2-pkcs11 to its TPM: abrmd on a bus of the token's own.
pub(super) const TCTI: &str = "tabrmd:bus_type=session";
