//! A whole KMS, made by the operator's own commands: ceremony, central, classes, enrolment, sites.
//!
//! What runs at a site is in `site`, central in `central`. Fields are dropped in their order: programs end before their
//! files and their network go.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;
use tempfile::TempDir;

use super::central::{Central, CentralStore};
use super::net::Net;
use super::site::SiteNode;
use super::{EtcdWorld, Kms};
use crate::daemon::{binary, field};
use crate::pki::{Ca, Flaw, Pair};

/// Everything.
pub struct World {
    /// The centrals; one unless etcd was asked for.
    pub centrals: Vec<Central>,
    /// The sites, in the order in which they were described.
    pub sites: Vec<SiteNode>,
    /// The etcd cluster, where there is one.
    pub etcd: Option<EtcdWorld>,
    /// The CA of our own channel.
    pub ca: Ca,
    /// The CA of the HTTPS sites.
    pub site_ca: Ca,
    /// The network, when it is one of namespaces.
    pub net: Option<Net>,
    dir: TempDir,
}

/// What a KMS is to be like.
#[must_use]
pub struct WorldBuilder {
    sites: Vec<(String, String)>,
    unenrolled: Vec<String>,
    classes: Vec<Class>,
    namespaces: bool,
    centrals: usize,
    etcd: bool,
    shims: bool,
    site_lines: String,
    kms_lines: String,
    pool: u32,
}

/// A class of keys.
#[derive(Clone, Debug)]
pub struct Class {
    name: String,
    regions: Vec<String>,
    purposes: Vec<String>,
    bound: String,
    flags: Vec<String>,
}

/// Every purpose.
pub const PURPOSES: &[&str] = &[
    "handshake",
    "sign",
    "decrypt",
    "data",
    "mac",
    "wrap",
    "tickets",
];

impl Class {
    /// A class for every purpose in these regions, with a bound of an hour.
    pub fn new(name: &str, regions: &[&str]) -> Class {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Class {
            name: name.to_owned(),
            regions: texts(regions),
            purposes: texts(PURPOSES),
            bound: "1h".to_owned(),
            flags: Vec::new(),
        }
    }

    /// For these purposes alone.
    pub fn purposes(mut self, purposes: &[&str]) -> Class {
        self.purposes = purposes.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    /// With this bound on a revocation: `30s`, `1h`, `7d`.
    pub fn bound(mut self, bound: &str) -> Class {
        self.bound = bound.to_owned();
        self
    }

    /// With a flag: `--on-demand`, `--generated-only`.
    pub fn flag(mut self, flag: &str) -> Class {
        self.flags.push(flag.to_owned());
        self
    }
}

/// A KMS without sites.
pub fn world() -> WorldBuilder {
    WorldBuilder {
        sites: Vec::new(),
        unenrolled: Vec::new(),
        classes: Vec::new(),
        namespaces: false,
        centrals: 1,
        etcd: false,
        shims: false,
        site_lines: String::new(),
        kms_lines: String::new(),
        pool: 3,
    }
}

impl WorldBuilder {
    /// A site with its own token in a region.
    pub fn site(mut self, name: &str, region: &str) -> Self {
        self.sites.push((name.to_owned(), region.to_owned()));
        self
    }

    /// A site whose token gets no class keys: it has metadata only.
    pub fn bystander(mut self, name: &str, region: &str) -> Self {
        self.unenrolled.push(name.to_owned());
        self.site(name, region)
    }

    /// A class, whose keys every site of its regions gets.
    pub fn class(mut self, class: Class) -> Self {
        self.classes.push(class);
        self
    }

    /// Each node in a network namespace, so that the network can be cut.
    pub fn namespaces(mut self) -> Self {
        self.namespaces = true;
        self
    }

    /// So many centrals over three etcd nodes.
    pub fn etcd(mut self, centrals: usize) -> Self {
        self.etcd = true;
        self.centrals = centrals;
        self
    }

    /// Signers reach their tokens through the module in between, which fails and hangs on command.
    pub fn shims(mut self) -> Self {
        self.shims = true;
        self
    }

    /// Sections for every signer's file.
    pub fn signer_lines(mut self, lines: &str) -> Self {
        self.site_lines.push_str(lines);
        self.site_lines.push('\n');
        self
    }

    /// Lines for every signer's `[kms]`.
    pub fn kms_lines(mut self, lines: &str) -> Self {
        self.kms_lines.push_str(lines);
        self.kms_lines.push('\n');
        self
    }

    /// Makes it all; every signer runs and has caught up.
    ///
    /// # Panics
    /// When a step fails.
    pub fn start(self) -> World {
        let dir = tempfile::Builder::new()
            .prefix("keyhaven-kms-")
            .tempdir()
            .expect("a folder can be made");
        let central_names: Vec<String> = (1..=self.centrals)
            .map(|n| format!("central-{n}"))
            .collect();
        let etcd_names: Vec<String> = (1..=3).map(|n| format!("etcd-{n}")).collect();
        let net = self.namespaces.then(|| {
            let mut nodes: Vec<&str> = central_names.iter().map(String::as_str).collect();
            if self.etcd {
                nodes.extend(etcd_names.iter().map(String::as_str));
            }
            nodes.extend(self.sites.iter().map(|(name, _)| name.as_str()));
            Net::new(nodes)
        });
        let place = Place::new(net.as_ref());
        let addresses: Vec<SocketAddr> = self
            .sites
            .iter()
            .enumerate()
            .map(|(number, (name, _))| {
                place.address(name, u8::try_from(number + 50).expect("few sites"), 7443)
            })
            .collect();
        let ca = Ca::new(dir.path(), "ca");
        let site_ca = Ca::new(dir.path(), "site-ca");
        ca.identity("alice", ADMIN, Flaw::None);
        let etcd = self
            .etcd
            .then(|| EtcdWorld::start(dir.path(), net.as_ref(), &etcd_names));
        let mut centrals = Vec::new();
        for (number, name) in central_names.iter().enumerate() {
            let store = match &etcd {
                Some(etcd) => CentralStore::Etcd(etcd.lines()),
                None => CentralStore::Redb,
            };
            let address =
                place.address(name, u8::try_from(number + 1).expect("few centrals"), 7500);
            let first = centrals.first();
            centrals.push(Central::prepare(
                dir.path(),
                name,
                address,
                &ca,
                store,
                first,
                self.pool,
            ));
        }
        let mut world = World {
            centrals,
            sites: Vec::new(),
            etcd,
            ca,
            site_ca,
            net,
            dir,
        };
        for number in 0..world.centrals.len() {
            world.start_central(number);
        }
        world.write_client("client.toml", "alice");
        for class in &self.classes {
            world.create_class(class);
        }
        for ((name, region), address) in self.sites.iter().zip(addresses) {
            let enrolled = !self.unenrolled.contains(name);
            let classes: Vec<&Class> = self
                .classes
                .iter()
                .filter(|class| enrolled && class.regions.contains(region))
                .collect();
            let site = SiteNode::prepare(&world, name, region, address, self.shims);
            world.add_site(site, &classes);
        }
        for number in 0..world.sites.len() {
            world.sites[number].write_config(&world, &self.site_lines, &self.kms_lines);
            world.start_site(number);
        }
        world.write_client("client.toml", "alice");
        world.settle();
        world
    }
}

/// Where nodes are: in namespaces, or on loopback addresses of this process alone.
struct Place<'a> {
    net: Option<&'a Net>,
    loopback: [u8; 2],
}

impl<'a> Place<'a> {
    fn new(net: Option<&'a Net>) -> Self {
        let pid = std::process::id();
        // 127.A.B.N: no other test that runs now has the same two middle bytes, but for a wrap of process ids.
        let loopback = [1 + (pid / 250 % 250) as u8, 1 + (pid % 250) as u8];
        Place { net, loopback }
    }

    fn address(&self, name: &str, number: u8, port: u16) -> SocketAddr {
        let address = match self.net {
            Some(net) => net.address(name),
            None => Ipv4Addr::new(127, self.loopback[0], self.loopback[1], number),
        };
        SocketAddr::new(IpAddr::V4(address), port)
    }
}

impl World {
    /// The folder of everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The first central.
    pub fn central(&self) -> &Central {
        &self.centrals[0]
    }

    /// A site by its name.
    pub fn site(&self, name: &str) -> &SiteNode {
        let found = self.sites.iter().find(|site| site.name == name);
        found.unwrap_or_else(|| panic!("no site {name}"))
    }

    /// The same, to be changed.
    pub fn site_mut(&mut self, name: &str) -> &mut SiteNode {
        let found = self.sites.iter_mut().find(|site| site.name == name);
        found.unwrap_or_else(|| panic!("no site {name}"))
    }

    /// The network.
    ///
    /// # Panics
    /// When there is none of namespaces.
    pub fn net(&self) -> &Net {
        self.net.as_ref().expect("namespaces were asked for")
    }

    /// A command that runs a program of ours at a node.
    pub fn command(&self, node: &str, program: &str) -> Command {
        command_at(self.net.as_ref(), node, program)
    }

    /// Starts a central that does not run, and waits until it is ready.
    pub fn start_central(&mut self, number: usize) {
        self.start_central_with(number, &[]);
    }

    /// The same with these options.
    pub fn start_central_with(&mut self, number: usize, options: &[&str]) {
        let command = self.central_command(number, options);
        self.centrals[number].start(command);
    }

    /// The command that starts a central, with these options.
    pub fn central_command(&self, number: usize, options: &[&str]) -> Command {
        let central = &self.centrals[number];
        let command = command_at(self.net.as_ref(), &central.name, "kms-central");
        let mut command = central.command(command);
        command.args(options);
        command
    }

    /// Starts a site that does not run, and waits until it is ready.
    pub fn start_site(&mut self, number: usize) {
        let command = {
            let site = &self.sites[number];
            site.command(command_at(self.net.as_ref(), &site.name, "signer"))
        };
        self.sites[number].start(command);
    }

    /// The same by its name.
    pub fn restart_site(&mut self, name: &str) {
        let number = self.sites.iter().position(|site| site.name == name);
        self.start_site(number.unwrap_or_else(|| panic!("no site {name}")));
    }

    /// An identity of our channel: `client/NAME`, `proxy/NAME`, …; its pair of files.
    pub fn identity(&self, role: &str, name: &str) -> Pair {
        let file = format!("{role}-{name}");
        self.ca.identity(&file, &spiffe(role, name), Flaw::None)
    }

    /// A KMS client of this name at a site.
    pub fn client(&self, name: &str, site: &str) -> Kms {
        Kms::connect(self.site(site).address, &self.identity("client", name))
    }

    /// `signer-admin` as the operator, with `--json`: what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn admin(&self, arguments: &[&str]) -> Value {
        let output = self.try_admin(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "signer-admin {}: {}\n{said}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let printed = String::from_utf8_lossy(&output.stdout);
            panic!("signer-admin {}: {error}: {printed}", arguments.join(" "))
        })
    }

    /// The same, however it ends.
    pub fn try_admin(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("signer-admin"));
        command
            .args(arguments)
            .arg("--json")
            .current_dir(self.dir())
            .env("KEYHAVEN_CLIENT", self.dir().join("client.toml"));
        command.output().expect("signer-admin starts")
    }

    /// Creates a key; its id.
    pub fn create_key(&self, name: &str, kind: &str, purpose: &str, class: &str) -> String {
        let made = self.admin(&[
            "kms",
            "key",
            "create",
            name,
            "--kind",
            kind,
            "--purpose",
            purpose,
            "--class",
            class,
        ]);
        field(&made, "id").unwrap_or_else(|| panic!("no id: {made}"))
    }

    /// Creates a handshake key for a host name and gives it a certificate of the sites' CA.
    pub fn create_site_key(&self, name: &str, kind: &str, class: &str, host: &str) -> String {
        let made = self.admin(&[
            "kms",
            "key",
            "create",
            name,
            "--kind",
            kind,
            "--purpose",
            "handshake",
            "--class",
            class,
            "--server-name",
            host,
        ]);
        self.certify(name);
        field(&made, "id").unwrap_or_else(|| panic!("no id: {made}"))
    }

    /// Gives a handshake key's current version a certificate.
    pub fn certify(&self, name: &str) {
        let request = format!("{name}.csr");
        self.admin(&["kms", "key", "csr", name, "--out", &request]);
        let pem = fs::read_to_string(self.dir().join(&request)).expect("the request is written");
        let chain = self.site_ca.sign_request(&format!("{name}-chain"), &pem);
        self.admin(&["kms", "key", "chain", name, &chain.display().to_string()]);
    }

    /// Lets a client do things with a key.
    pub fn grant(&self, identity: &str, key: &str, operations: &[&str]) {
        let mut arguments = vec!["kms", "grant", "set", identity, "--key", key];
        for operation in operations {
            arguments.extend(["--op", operation]);
        }
        self.admin(&arguments);
    }

    /// Era and revision of the head at central.
    pub fn head(&self) -> (u32, u64) {
        let status = self.admin(&["kms", "status"]);
        let number = |name: &str| {
            let found = status.get("head").and_then(|head| head.get(name));
            found
                .and_then(Value::as_u64)
                .unwrap_or_else(|| panic!("no {name}: {status}"))
        };
        let era = u32::try_from(number("era")).expect("few eras");
        (era, number("revision"))
    }

    /// Waits until every running site that is not thrown out has all that central has.
    pub fn settle(&self) {
        let names: Vec<&str> = self
            .sites
            .iter()
            .filter(|site| site.is_running())
            .map(|site| site.name.as_str())
            .collect();
        self.settle_at(&names);
    }

    /// Waits until these sites have all that central has.
    ///
    /// # Panics
    /// When 30 seconds pass.
    pub fn settle_at(&self, names: &[&str]) {
        let (era, revision) = self.head();
        let deadline = Instant::now() + Duration::from_secs(30);
        for name in names {
            loop {
                let status = Kms::connect(self.site(name).address, &self.peer()).status();
                let is_there = status.as_ref().is_some_and(|status| {
                    status.seen.era == era
                        && status.applied >= revision
                        && status.lease_age_ms.is_some()
                });
                if is_there {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{name} is not at {revision} with a lease: {status:?}"
                );
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// An identity that may ask a site how it is: the first site's own.
    pub fn peer(&self) -> Pair {
        self.sites[0].pair.clone()
    }

    /// Writes a file by which `signer-admin` finds centrals and sites, as this identity's pair.
    pub fn write_client(&self, file: &str, pair: &str) -> PathBuf {
        let mut text = format!(
            "timeout_ms = 15000\n[identity]\ncertificate = \"{pair}.pem\"\nkey = \"{pair}.key\"\nca = \"ca.pem\"\n"
        );
        for central in &self.centrals {
            text.push_str(&endpoint("central", central.address, &central.identity));
        }
        for site in &self.sites {
            text.push_str(&endpoint("server", site.address, &site.identity));
        }
        let path = self.dir().join(file);
        fs::write(&path, text).expect("the test's folder can be written");
        path
    }

    /// Creates a class.
    pub fn create_class(&self, class: &Class) {
        let mut arguments = vec![
            "kms",
            "class",
            "create",
            &class.name,
            "--bound",
            &class.bound,
        ];
        for region in &class.regions {
            arguments.extend(["--region", region]);
        }
        for purpose in &class.purposes {
            arguments.extend(["--purpose", purpose]);
        }
        arguments.extend(class.flags.iter().map(String::as_str));
        self.admin(&arguments);
    }

    /// Gives a site its class keys by a ceremony and registers it.
    fn add_site(&mut self, site: SiteNode, classes: &[&Class]) {
        let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
        let holds = (!names.is_empty()).then(|| site.enroll(self, &names));
        self.register(&site, holds.as_deref());
        self.sites.push(site);
    }

    /// Registers a site at central, with what a ceremony gave it.
    pub fn register(&self, site: &SiteNode, response: Option<&Path>) {
        let address = site.address.to_string();
        let mut arguments = vec![
            "kms",
            "site",
            "add",
            "--identity",
            &site.identity,
            "--address",
            &address,
            "--region",
            &site.region,
            "--hardware",
            "software",
        ];
        let response = response.map(|path| path.display().to_string());
        match &response {
            Some(path) => arguments.extend(["--from", path]),
            None => arguments.extend(["--site", &site.name]),
        }
        self.admin(&arguments);
    }
}

fn command_at(net: Option<&Net>, node: &str, program: &str) -> Command {
    let Some(net) = net else {
        return Command::new(binary(program));
    };
    let prefix = net.prefix(node);
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).arg(binary(program));
    command
}

/// An identity's text.
pub fn spiffe(role: &str, name: &str) -> String {
    format!("spiffe://keyhaven.test/{role}/{name}")
}

fn endpoint(section: &str, address: SocketAddr, identity: &str) -> String {
    format!("[[{section}]]\naddress = \"{address}\"\nidentity = \"{identity}\"\n")
}

/// The operator.
pub const ADMIN: &str = "spiffe://keyhaven.test/admin/alice";
