//! A KMS in one folder: central with its token, sites with a token each, proxies, certificates, configurations.
//!
//! Lays out and writes, and runs the real `signer-admin` for everything that an operator would do. What is done with it
//! is the demo's story. Each node has a loopback address of its own.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Folder,
    kind::Kind,
    pki::{Authority, write_pair},
    token::Token,
    write_file,
};
use crate::{Error, cargo::Programs, command, daemon::Daemon, interrupt::Interrupt};

/// A site of the demo.
#[derive(Debug)]
pub struct KmsSite<'a> {
    /// Its name, which is also its token's.
    pub name: &'static str,
    /// Its region.
    pub region: &'static str,
    /// Where its signer listens.
    pub address: SocketAddr,
    token: Token<'a>,
}

/// Everything but the running programs.
#[derive(Debug)]
pub struct Kms<'a> {
    /// The folder.
    pub folder: &'a Folder,
    /// Its sites.
    pub sites: Vec<KmsSite<'a>>,
    /// Where central listens.
    pub central: SocketAddr,
    token: Token<'a>,
    private: Authority,
    public: Authority,
    programs: &'a Programs,
}

impl<'a> Kms<'a> {
    /// Makes tokens and identities, and has the ceremony at central's token held.
    pub fn prepare(
        folder: &'a Folder,
        programs: &'a Programs,
        sites: &[(&'static str, &'static str)],
        interrupt: &Interrupt,
    ) -> Result<Kms<'a>, Error> {
        let make = |name| Token::create(Kind::SoftHsm2, name, folder, programs, interrupt);
        let token = make("central")?;
        let mut made = Vec::new();
        for (number, (name, region)) in sites.iter().enumerate() {
            made.push(KmsSite {
                name,
                region,
                address: node(number + 2, 7443),
                token: make(name)?,
            });
        }
        let kms = Kms {
            folder,
            sites: made,
            central: node(1, 7500),
            token,
            private: Authority::new("Keyhaven demo: private CA")?,
            public: Authority::new("Keyhaven demo: site CA")?,
            programs,
        };
        write_file(folder.pki("ca.pem"), kms.private.pem())?;
        write_file(folder.site_ca(), kms.public.pem())?;
        kms.identity("central", "main")?;
        kms.identity("admin", "alice")?;
        for (name, _) in sites {
            kms.identity("signer", name)?;
        }
        kms.ceremony(&["init", "--pool", "2", "--central-key", "central.pem"])?;
        kms.write_central()?;
        kms.write_client("alice.toml", "admin-alice")?;
        Ok(kms)
    }

    /// Makes an identity of the private CA: `pki/ROLE-NAME.pem` and `.key`.
    pub fn identity(&self, role: &str, name: &str) -> Result<String, Error> {
        let identity = spiffe(role, name);
        let pair = self.private.identity(&identity)?;
        write_pair(self.folder, &format!("{role}-{name}"), &pair)?;
        Ok(identity)
    }

    /// A certificate of the site CA for a request, written beside it; its path.
    pub fn certify(&self, request: &Path, names: &[&str]) -> Result<PathBuf, Error> {
        let text = super::home::read(request)?;
        let path = request.with_extension("pem");
        write_file(path.clone(), self.public.certify(&text, names)?)?;
        Ok(path)
    }

    /// `signer-admin … --json` with a client's file; what it printed.
    pub fn admin(&self, client: &str, arguments: &[&str]) -> Result<Value, Error> {
        let mut admin = self.admin_command();
        admin
            .env("KEYHAVEN_CLIENT", self.folder.kms(client))
            .args(arguments)
            .arg("--json");
        let printed = command::capture(&mut admin)?;
        serde_json::from_slice(&printed).map_err(|error| Error::Output {
            program: format!("signer-admin {}", arguments.join(" ")),
            why: error.to_string(),
        })
    }

    /// `signer-admin` as a person runs it; what it printed.
    pub fn shown(&self, client: &str, arguments: &[&str]) -> Result<String, Error> {
        let mut admin = self.admin_command();
        admin
            .env("KEYHAVEN_CLIENT", self.folder.kms(client))
            .args(arguments);
        let printed = command::capture(&mut admin)?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// The whole way of a site into a class: request, delivery at central's token, receipt, registration.
    pub fn enroll(&self, site: &KmsSite<'_>, classes: &[&str]) -> Result<(), Error> {
        let file = |what: &str| {
            let path = self.folder.kms(&format!("{}-{what}.json", site.name));
            path.display().to_string()
        };
        let (request, response) = (file("request"), file("response"));
        let mut enroll = self.admin_command();
        enroll
            .args(["kms", "site", "enroll", "--json", "--site", site.name])
            .arg("--module")
            .arg(site.token.module())
            .args(["--uri", &site.token.uri(), "--central-key", "central.pem"])
            .args(["--request", &request, "--response", &response])
            .envs(site.token.env())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut enroll = enroll.spawn().map_err(|source| Error::Start {
            program: "signer-admin kms site enroll".to_owned(),
            source,
        })?;
        let delivered = self.deliver(&mut enroll, &request, &response, classes);
        if delivered.is_err() {
            let _ = enroll.kill();
        }
        let ended = enroll.wait_with_output();
        delivered?;
        let ended = ended.map_err(|source| Error::Start {
            program: "signer-admin kms site enroll".to_owned(),
            source,
        })?;
        if !ended.status.success() {
            return Err(Error::Failed {
                command: "signer-admin kms site enroll".to_owned(),
                status: ended.status.to_string(),
                said: String::from_utf8_lossy(&ended.stderr).into_owned(),
            });
        }
        let (address, identity) = (site.address.to_string(), spiffe("signer", site.name));
        self.admin(
            "alice.toml",
            &[
                "kms",
                "site",
                "add",
                "--from",
                &response,
                "--identity",
                &identity,
                "--address",
                &address,
                "--region",
                site.region,
                "--hardware",
                "software",
            ],
        )?;
        Ok(())
    }

    fn deliver(
        &self,
        enroll: &mut Child,
        request: &str,
        response: &str,
        classes: &[&str],
    ) -> Result<(), Error> {
        let asked = wait_for_json(enroll, Path::new(request))?;
        let fingerprint = asked["fingerprint"].as_str().unwrap_or_default();
        self.admin("alice.toml", &["kms", "class", "export", "classes.json"])?;
        let mut arguments = vec![
            "deliver",
            "--classes",
            "classes.json",
            "--request",
            request,
            "--response",
            response,
            "--fingerprint",
            fingerprint,
        ];
        for class in classes {
            arguments.extend(["--class", class]);
        }
        self.ceremony(&arguments)
    }

    /// A ceremony at central's token.
    fn ceremony(&self, arguments: &[&str]) -> Result<(), Error> {
        let mut admin = self.admin_command();
        admin
            .args(["kms", "ceremony"])
            .args(arguments)
            .arg("--module")
            .arg(self.token.module())
            .args(["--uri", &self.token.uri(), "--so-pin-file"])
            .arg(self.token.dir().join("so-pin"))
            .arg("--json")
            .envs(self.token.env());
        command::capture(&mut admin).map(drop)
    }

    fn admin_command(&self) -> Command {
        let mut admin = Command::new(self.programs.path("signer-admin"));
        admin.current_dir(self.folder.kms_dir());
        admin
    }

    fn write_central(&self) -> Result<(), Error> {
        let text = format!(
            "listen = \"{}\"\n{}[token]\nmodule = \"{}\"\nuri = \"{}\"\n[store]\nkind = \"redb\"\npath = \"store.redb\"\n\
             [admins]\nwrite = [\"{}\"]\n[log]\nformat = \"json\"\nlevel = \"info\"\n",
            self.central,
            identity_lines("central-main"),
            self.token.module().display(),
            self.token.uri(),
            spiffe("admin", "alice"),
        );
        write_file(self.folder.kms("kms-central.toml"), text)
    }

    /// Writes a site's `NAME.toml`.
    pub fn write_site(&self, site: &KmsSite<'_>) -> Result<(), Error> {
        let text = format!(
            "listen = \"{}\"\n{}[kms]\nsite = \"{name}\"\ntoken = \"main\"\ncentral_key = \"central.pem\"\n\
             replica = \"{name}.redb\"\npeer_interval_ms = 500\n{}[[token]]\nname = \"main\"\nmodule = \"{}\"\n\
             uri = \"{}\"\n[log]\nformat = \"json\"\nlevel = \"info\"\n",
            site.address,
            identity_lines(&format!("signer-{}", site.name)),
            endpoint("kms.central", self.central, &spiffe("central", "main")),
            site.token.module().display(),
            site.token.uri(),
            name = site.name,
        );
        write_file(self.folder.kms(&format!("{}.toml", site.name)), text)
    }

    /// Writes a proxy's `NAME.toml`, which knows one site to begin with.
    pub fn write_proxy(
        &self,
        name: &str,
        listen: SocketAddr,
        backend: SocketAddr,
        first: &KmsSite<'_>,
    ) -> Result<(), Error> {
        let text = format!(
            "listen = \"{listen}\"\nbackend = \"{backend}\"\n{}[lookup]\nenabled = true\nrefresh_ms = 500\n{}\
             [limits]\nshutdown_grace_s = 3\n[log]\nformat = \"json\"\nlevel = \"info\"\n",
            identity_lines(&format!("proxy-{name}")),
            endpoint("signer", first.address, &spiffe("signer", first.name)),
        );
        write_file(self.folder.kms(&format!("{name}.toml")), text)
    }

    /// Writes a file by which `signer-admin` finds central and the sites.
    pub fn write_client(&self, file: &str, pair: &str) -> Result<(), Error> {
        let mut text = identity_lines(pair);
        text.push_str(&endpoint(
            "central",
            self.central,
            &spiffe("central", "main"),
        ));
        for site in &self.sites {
            text.push_str(&endpoint(
                "server",
                site.address,
                &spiffe("signer", site.name),
            ));
        }
        write_file(self.folder.kms(file), text)
    }

    /// The same for one site alone.
    pub fn write_client_of(&self, file: &str, pair: &str, site: &KmsSite<'_>) -> Result<(), Error> {
        let server = endpoint("server", site.address, &spiffe("signer", site.name));
        write_file(self.folder.kms(file), identity_lines(pair) + &server)
    }

    /// Starts central and waits for it.
    pub fn start_central(&self, interrupt: &Interrupt) -> Result<Daemon, Error> {
        self.start("kms-central", "kms-central", self.token.env(), interrupt)
    }

    /// Starts a site's signer and waits for it.
    pub fn start_site(&self, site: &KmsSite<'_>, interrupt: &Interrupt) -> Result<Daemon, Error> {
        self.start("signer", site.name, site.token.env(), interrupt)
    }

    /// Starts a proxy and waits for it.
    pub fn start_proxy(&self, name: &str, interrupt: &Interrupt) -> Result<Daemon, Error> {
        self.start("proxy", name, Vec::new(), interrupt)
    }

    fn start(
        &self,
        program: &str,
        name: &str,
        env: Vec<(&'static str, std::ffi::OsString)>,
        interrupt: &Interrupt,
    ) -> Result<Daemon, Error> {
        let mut command = Command::new(self.programs.path(program));
        command
            .arg("--config")
            .arg(self.folder.kms(&format!("{name}.toml")))
            .envs(env);
        let mut daemon = Daemon::start(name, &command, &self.folder.log(name))?;
        daemon.wait_listening(interrupt)?;
        Ok(daemon)
    }
}

/// An identity's text.
pub fn spiffe(role: &str, name: &str) -> String {
    format!("spiffe://keyhaven.test/{role}/{name}")
}

/// A loopback address for each node, in a network of this process's own: two demos may run at once.
fn node(number: usize, port: u16) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // A demo has few nodes, and 127.0.0.0/16 is everybody's.
    SocketAddr::from(([127, high | 0x80, low, number as u8], port))
}

fn identity_lines(pair: &str) -> String {
    format!(
        "[identity]\ncertificate = \"../pki/{pair}.pem\"\nkey = \"../pki/{pair}.key\"\nca = \"../pki/ca.pem\"\n"
    )
}

fn endpoint(section: &str, address: SocketAddr, identity: &str) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "[[{section}]]\naddress = \"{address}\"\nidentity = \"{identity}\""
    );
    text
}

fn wait_for_json(child: &mut Child, path: &Path) -> Result<Value, Error> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        let whole = std::fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(value) = whole {
            return Ok(value);
        }
        let ended = child.try_wait().ok().flatten().is_some();
        if ended || Instant::now() > deadline {
            return Err(Error::Output {
                program: "signer-admin kms site enroll".to_owned(),
                why: format!("it wrote no request to {}", path.display()),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A transport key of 3072 bits takes a software token some seconds at worst.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
