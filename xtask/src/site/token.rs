//! The site's tokens and its key, made by the real `signer-admin` wherever the module lets it.
//!
//! Holds no PIN longer than it takes to write it: programs read it from its file. A token's processes live as long as
//! its value here.

use std::{ffi::OsString, path::PathBuf, process::Command};

use super::{
    Folder, SERVER_NAMES,
    helpers::Helpers,
    home::{self, Home, run},
    kind::{Kind, Row},
};
use crate::{Error, cargo::Programs, interrupt::Interrupt};

/// What kind of key the site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256.
    Ec,
    /// RSA with 2048 bits.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// The name that `signer-admin key generate` knows.
    fn admin_name(self) -> &'static str {
        match self {
            Self::Ec => "ec-p256",
            Self::Rsa => "rsa-2048",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The name that `pkcs11-tool` knows.
    fn tool_name(self) -> &'static str {
        match self {
            Self::Ec => "EC:prime256v1",
            Self::Rsa => "rsa:2048",
            Self::Ed25519 => "EC:edwards25519",
        }
    }
}

/// All tokens of a site.
#[derive(Debug)]
pub struct Tokens<'a> {
    /// The one with the key.
    pub key: Token<'a>,
    /// The one that keeps exchange and key schedule, where that is another.
    pub exchange: Option<Token<'a>>,
}

impl<'a> Tokens<'a> {
    /// Makes them, and the key.
    pub fn create(
        row: Row,
        folder: &Folder,
        programs: &'a Programs,
        algorithm: Algorithm,
        interrupt: &Interrupt,
    ) -> Result<Tokens<'a>, Error> {
        let make = |kind, name| Token::create(kind, name, folder, programs, interrupt);
        let key = make(row.key, KEY_TOKEN)?;
        key.generate(algorithm)?;
        let exchange = row.exchange.map(|kind| make(kind, EXCHANGE_TOKEN));
        Ok(Tokens {
            key,
            exchange: exchange.transpose()?,
        })
    }

    /// Each of them.
    pub fn all(&self) -> impl Iterator<Item = &Token<'a>> {
        std::iter::once(&self.key).chain(&self.exchange)
    }

    /// Each of them, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Token<'a>> {
        std::iter::once(&mut self.key).chain(&mut self.exchange)
    }

    /// What a process needs in its environment to see them.
    pub fn env(&self) -> Vec<(&'static str, OsString)> {
        self.all().flat_map(Token::env).collect()
    }
}

/// One token, and the processes that it needs.
#[derive(Debug)]
pub struct Token<'a> {
    home: Home,
    /// What the signer loads in place of the token's module.
    stand_in: Option<PathBuf>,
    programs: &'a Programs,
    _helpers: Helpers,
}

impl<'a> Token<'a> {
    pub(super) fn create(
        kind: Kind,
        name: &'static str,
        folder: &Folder,
        programs: &'a Programs,
        interrupt: &Interrupt,
    ) -> Result<Token<'a>, Error> {
        let home = Home::make(kind, name, folder)?;
        let mut helpers = Helpers::before(&home, interrupt)?;
        initialise(&home, programs)?;
        helpers.after(&home, interrupt)?;
        Ok(Token {
            home,
            stand_in: None,
            programs,
            _helpers: helpers,
        })
    }

    /// Its name in `signer.toml`.
    pub fn name(&self) -> &'static str {
        self.home.name
    }

    /// Which module it is of.
    pub fn kind(&self) -> Kind {
        self.home.kind
    }

    /// The file that the signer loads.
    pub fn module(&self) -> PathBuf {
        let stand_in = self.stand_in.as_ref();
        stand_in.unwrap_or(&self.home.module).clone()
    }

    /// From the next configuration on, has the signer load another module, which passes calls on to the token's own.
    pub fn set_stand_in(&mut self, module: Option<PathBuf>) {
        self.stand_in = module;
    }

    /// The folder with everything that belongs to the token.
    pub fn dir(&self) -> PathBuf {
        self.home.dir.clone()
    }

    /// The file that holds its PIN.
    pub fn pin(&self) -> PathBuf {
        self.home.pin()
    }

    /// The token's URI without the place of its PIN.
    pub fn bare_uri(&self) -> String {
        self.home.uri()
    }

    /// The token's URI with the place of its PIN.
    pub fn uri(&self) -> String {
        format!(
            "{}?pin-source=file:{}",
            self.home.uri(),
            self.home.pin().display()
        )
    }

    /// The key's URI, without the place of the PIN.
    pub fn key_uri(&self) -> String {
        format!("{};object={KEY_LABEL};type=private", self.home.uri())
    }

    /// What a process needs in its environment to see the token.
    pub fn env(&self) -> Vec<(&'static str, OsString)> {
        self.home.env()
    }

    /// What C_Initialize wants in `pReserved`.
    pub fn init_args(&self) -> Option<String> {
        self.home.init_args()
    }

    /// A certificate signing request, signed in the token.
    pub fn signing_request(&self, folder: &Folder) -> Result<String, Error> {
        let path = folder.csr();
        let mut admin = self.admin("key", "csr");
        admin.args(["--label", KEY_LABEL, "--dns", &SERVER_NAMES.join(",")]);
        run(admin.arg("--out").arg(&path))?;
        home::read(&path)
    }

    fn generate(&self, algorithm: Algorithm) -> Result<(), Error> {
        if self.home.kind == Kind::Tpm2 {
            // It refuses a public key that cannot verify, and ours has one purpose.
            let label = self.home.label();
            let mut tool = self.home.pkcs11_tool()?;
            tool.args(["--token-label", &label, "--login"]);
            tool.args(["--pin", "env:KEYHAVEN_PIN", "--keypairgen"]);
            tool.args(["--key-type", algorithm.tool_name()]);
            tool.args(["--label", KEY_LABEL, "--id", "01"]);
            return run(tool.args(["--usage-sign", "--sensitive", "--private"]));
        }
        let mut admin = self.admin("key", "generate");
        admin.args(["--label", KEY_LABEL]);
        run(admin.args(["--algorithm", algorithm.admin_name()]))
    }

    /// `signer-admin` on this token.
    fn admin(&self, noun: &str, verb: &str) -> Command {
        let mut admin = admin(&self.home, self.programs, noun, verb);
        admin.arg("--token").arg(self.uri());
        admin
    }
}

/// `signer-admin` on the token's module.
fn admin(home: &Home, programs: &Programs, noun: &str, verb: &str) -> Command {
    let mut admin = home.command(programs.path("signer-admin"));
    admin.args([noun, verb, "--module"]).arg(&home.module);
    if let Some(text) = home.init_args() {
        admin.arg("--init-args").arg(text);
    }
    admin
}

/// Makes the token in a home that is ready for it.
fn initialise(home: &Home, programs: &Programs) -> Result<(), Error> {
    match home.kind {
        Kind::Nss => {
            let mut certutil = home.command("certutil");
            certutil.args(["-N", "-d", &home.database(), "-f"]);
            run(certutil.arg(home.pin()))
        }
        // Before it is initialised it says that PINs have at most 0 bytes.
        Kind::Kryoptic | Kind::KryopticModern => {
            let label = home.label();
            let so_pin = ["--so-pin", "env:KEYHAVEN_SO_PIN", "--slot", "0"];
            let mut init = home.pkcs11_tool()?;
            run(init.args(["--init-token", "--label", &label]).args(so_pin))?;
            let mut set_pin = home.pkcs11_tool()?;
            set_pin.args(["--login", "--login-type", "so"]).args(so_pin);
            run(set_pin.args(["--init-pin", "--new-pin", "env:KEYHAVEN_PIN"]))
        }
        _ => {
            let behind = home.behind()?;
            let home = behind.as_ref().unwrap_or(home);
            let mut init = admin(home, programs, "token", "init");
            init.args(["--label", &home.label()]);
            for (option, file) in [
                ("--pin-source", home.pin()),
                ("--so-pin-source", home.so_pin()),
            ] {
                init.arg(option).arg(format!("file:{}", file.display()));
            }
            run(&mut init)
        }
    }
}

/// The names of a site's tokens in `signer.toml`.
const KEY_TOKEN: &str = "main";
/// See [`KEY_TOKEN`].
const EXCHANGE_TOKEN: &str = "keeper";
/// The label of the key.
pub(super) const KEY_LABEL: &str = "demo";
