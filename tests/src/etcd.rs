//! Three real etcd nodes with mutual TLS.
//!
//! Starts, stops and kills them by process id, and hands out certificates. What is kept in them is the tests' business.
//! Also used by central's own tests, so it needs nothing else of this crate.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Where one node is and how programs are run there.
#[derive(Clone, Debug)]
pub struct EtcdPlace {
    /// Its address.
    pub ip: Ipv4Addr,
    /// What to put before a program: `ip netns exec NAME`, or nothing.
    pub prefix: Vec<String>,
    /// The port for clients; the one for peers is one more.
    pub port: u16,
}

/// A cluster.
#[derive(Debug)]
pub struct EtcdCluster {
    dir: PathBuf,
    nodes: Vec<Node>,
    ca: Authority,
}

#[derive(Debug)]
struct Node {
    name: String,
    place: EtcdPlace,
    child: Option<Child>,
}

#[derive(Debug)]
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Files of somebody who may talk to the cluster.
#[derive(Clone, Debug)]
pub struct EtcdPair {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl EtcdPlace {
    /// Three nodes on loopback addresses of this process alone.
    pub fn local() -> Vec<EtcdPlace> {
        (0..3)
            .map(|_| {
                let ip = Ipv4Addr::LOCALHOST;
                EtcdPlace {
                    ip,
                    prefix: Vec::new(),
                    port: free_ports(ip),
                }
            })
            .collect()
    }
}

/// A port that is free, and the next one, too.
fn free_ports(ip: Ipv4Addr) -> u16 {
    for _ in 0..100 {
        let Ok(first) = TcpListener::bind((ip, 0)) else {
            continue;
        };
        let port = first.local_addr().map(|address| address.port());
        if let Ok(port) = port
            && port < u16::MAX
            && TcpListener::bind((ip, port + 1)).is_ok()
        {
            return port;
        }
    }
    panic!("no two ports are free");
}

impl EtcdCluster {
    /// Starts the nodes and waits until they have a leader.
    ///
    /// # Panics
    /// When they do not come up.
    pub fn start(dir: &Path, places: Vec<EtcdPlace>) -> EtcdCluster {
        let dir = dir.join("etcd");
        fs::create_dir(&dir).expect("the test's folder can be written");
        let ca = Authority::new(&dir);
        let nodes = places
            .into_iter()
            .enumerate()
            .map(|(number, place)| Node {
                name: format!("n{}", number + 1),
                place,
                child: None,
            })
            .collect();
        let mut cluster = EtcdCluster { dir, nodes, ca };
        for node in &cluster.nodes {
            cluster.ca.pair(&cluster.dir, &node.name, &[node.place.ip]);
        }
        cluster.ca.pair(&cluster.dir, "central", &[]);
        for number in 0..cluster.nodes.len() {
            cluster.start_node(number);
        }
        cluster.wait_healthy();
        cluster
    }

    /// `https://…` of each node.
    pub fn endpoints(&self) -> Vec<String> {
        let url = |node: &Node| format!("https://{}:{}", node.place.ip, node.place.port);
        self.nodes.iter().map(url).collect()
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Central's files.
    pub fn central(&self) -> EtcdPair {
        EtcdPair {
            certificate: self.dir.join("central.pem"),
            key: self.dir.join("central.key"),
        }
    }

    /// Starts a node that does not run.
    pub fn start_node(&mut self, number: usize) {
        let initial: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{}={}", node.name, peer_url(&node.place)))
            .collect();
        let file = |name: String| self.dir.join(name);
        let node = &self.nodes[number];
        let client = format!("https://{}:{}", node.place.ip, node.place.port);
        let peer = peer_url(&node.place);
        let log = fs::File::create(file(format!("{}.log", node.name))).expect("it can be written");
        let (certificate, key) = (
            file(format!("{}.pem", node.name)),
            file(format!("{}.key", node.name)),
        );
        let mut command = at(&node.place.prefix, "etcd");
        command
            .args(["--name", &node.name, "--data-dir"])
            .arg(file(format!("{}.data", node.name)))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &initial.join(","),
                "--initial-cluster-state",
                "new",
            ])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .arg("--cert-file")
            .arg(&certificate)
            .arg("--key-file")
            .arg(&key)
            .arg("--trusted-ca-file")
            .arg(self.ca())
            .arg("--client-cert-auth")
            .arg("--peer-cert-file")
            .arg(&certificate)
            .arg("--peer-key-file")
            .arg(&key)
            .arg("--peer-trusted-ca-file")
            .arg(self.ca())
            .arg("--peer-client-cert-auth")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start etcd: {error} (`cargo xtask test` installs it)")
        });
        self.nodes[number].child = Some(child);
    }

    /// Ends a node with SIGKILL.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.nodes[number].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends all of them.
    pub fn kill_all(&mut self) {
        for number in 0..self.nodes.len() {
            self.kill(number);
        }
    }

    /// Starts all that do not run and waits for a leader.
    pub fn start_all(&mut self) {
        for number in 0..self.nodes.len() {
            if self.nodes[number].child.is_none() {
                self.start_node(number);
            }
        }
        self.wait_healthy();
    }

    /// Holds a node, as a network cut or a stalled disk would: SIGSTOP.
    pub fn hold(&self, number: usize) {
        self.signal(number, "-STOP");
    }

    /// Lets it go on.
    pub fn release(&self, number: usize) {
        self.signal(number, "-CONT");
    }

    fn signal(&self, number: usize, name: &str) {
        let child = self.nodes[number].child.as_ref().expect("it runs");
        let status = Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name}");
    }

    /// The number of the node that leads.
    ///
    /// # Panics
    /// When none does for 20 seconds.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for number in 0..self.nodes.len() {
                if self.nodes[number].child.is_none() {
                    continue;
                }
                let status = self.ctl(number, &["endpoint", "status", "-w", "fields"]);
                let text = String::from_utf8_lossy(&status.stdout).into_owned();
                let value = |name: &str| {
                    let line = text
                        .lines()
                        .find(|line| line.starts_with(&format!("\"{name}\"")))?;
                    line.split(':').nth(1).map(|value| value.trim().to_owned())
                };
                if let (Some(leader), Some(me)) = (value("Leader"), value("MemberID"))
                    && leader == me
                    && leader != "0"
                {
                    return number;
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Forgets everything before this revision.
    pub fn compact(&self, revision: u64) {
        let output = self.ctl(self.any(), &["compact", &revision.to_string()]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Writes a value past central: whoever has a certificate could.
    pub fn put(&self, key: &str, value: &str) {
        let output = self.ctl(self.any(), &["put", key, value]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A snapshot of the whole state.
    pub fn snapshot(&self, file: &Path) {
        let output = self.ctl(
            self.any(),
            &["snapshot", "save", &file.display().to_string()],
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Replaces the state of all nodes by a snapshot; they must not run, and do afterwards.
    pub fn restore(&mut self, file: &Path) {
        let initial: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{}={}", node.name, peer_url(&node.place)))
            .collect();
        for node in &self.nodes {
            assert!(node.child.is_none(), "{} still runs", node.name);
            let data = self.dir.join(format!("{}.data", node.name));
            fs::remove_dir_all(&data).expect("the node's folder is there");
            let output = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore", &file.display().to_string()])
                .args([
                    "--name",
                    &node.name,
                    "--initial-cluster",
                    &initial.join(","),
                ])
                .args(["--initial-advertise-peer-urls", &peer_url(&node.place)])
                .args(["--data-dir", &data.display().to_string()])
                .output()
                .expect("etcdctl starts");
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        self.start_all();
    }

    fn any(&self) -> usize {
        let running = self.nodes.iter().position(|node| node.child.is_some());
        running.expect("a node runs")
    }

    fn ctl(&self, number: usize, arguments: &[&str]) -> Output {
        let place = &self.nodes[number].place;
        let central = self.central();
        at(&place.prefix, "etcdctl")
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(format!("https://{}:{}", place.ip, place.port))
            .arg("--cacert")
            .arg(self.ca())
            .arg("--cert")
            .arg(central.certificate)
            .arg("--key")
            .arg(central.key)
            .args(["--command-timeout", "5s"])
            .args(arguments)
            .output()
            .expect("etcdctl starts")
    }

    fn wait_healthy(&self) {
        let deadline = Instant::now() + PATIENCE;
        for number in 0..self.nodes.len() {
            while !self.ctl(number, &["endpoint", "health"]).status.success() {
                if Instant::now() > deadline {
                    let log = self.dir.join(format!("{}.log", self.nodes[number].name));
                    let log = fs::read_to_string(log).unwrap_or_default();
                    let from = log.len().saturating_sub(4000);
                    panic!(
                        "etcd does not come up; its log ends:\n{}",
                        log.get(from..).unwrap_or(&log)
                    );
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn peer_url(place: &EtcdPlace) -> String {
    let address = SocketAddr::new(IpAddr::V4(place.ip), place.port + 1);
    format!("https://{address}")
}

fn at(prefix: &[String], program: &str) -> Command {
    match prefix.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    }
}

impl Authority {
    fn new(dir: &Path) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "etcd");
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("a CA can be made");
        fs::write(dir.join("ca.pem"), certificate.pem()).expect("the test's folder can be written");
        Authority {
            issuer: Issuer::new(params, key),
        }
    }

    /// A node's certificate is a server's and a client's, and names its address.
    fn pair(&self, dir: &Path, name: &str, addresses: &[Ipv4Addr]) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = addresses
            .iter()
            .map(|ip| SanType::IpAddress(IpAddr::V4(*ip)))
            .chain([SanType::DnsName("localhost".try_into().expect("a name"))])
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("it can be signed");
        let write = |file: String, text: String| {
            fs::write(dir.join(file), text).expect("the test's folder can be written");
        };
        write(format!("{name}.pem"), certificate.pem());
        write(format!("{name}.key"), key.serialize_pem());
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
