//! Three real etcd nodes with mutual TLS.
//!
//! Starts, stops and kills them by process id, and hands out certificates. What is kept in them is the tests' business.
//! Also used by central's own tests, so it needs nothing else of this crate. Invariant: no node outlives its cluster.

// Named, because central's tests include this file from elsewhere.
#[path = "etcd/authority.rs"]
mod authority;
#[path = "etcd/operator.rs"]
mod operator;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use self::authority::Authority;

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
    options: Vec<String>,
}

#[derive(Debug)]
struct Node {
    name: String,
    place: EtcdPlace,
    child: Option<Child>,
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
    /// Three nodes on a loopback address of this process alone, so that no other program takes a port between the
    /// choice and the start, or between a stop and a start.
    pub fn local() -> Vec<EtcdPlace> {
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 128 | high, middle, low);
        // All are held until all are chosen: two nodes must not get the same.
        let pairs: Vec<_> = (0..3).map(|_| two_ports(ip)).collect();
        let port = |(first, _): &(TcpListener, TcpListener)| first.local_addr().map(|it| it.port());
        pairs
            .iter()
            .map(|pair| EtcdPlace {
                ip,
                prefix: Vec::new(),
                port: port(pair).expect("it is bound"),
            })
            .collect()
    }
}

/// A port that is free, and the next one, too.
fn two_ports(ip: Ipv4Addr) -> (TcpListener, TcpListener) {
    for _ in 0..100 {
        let first = TcpListener::bind((ip, 0)).expect("the whole of 127.0.0.0/8 is loopback");
        let port = first.local_addr().expect("it is bound").port();
        let next = port.checked_add(1);
        if let Some(second) = next.and_then(|port| TcpListener::bind((ip, port)).ok()) {
            return (first, second);
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
        EtcdCluster::start_with(dir, places, &[])
    }

    /// As [`EtcdCluster::start`], with more options for each node.
    ///
    /// # Panics
    /// When they do not come up.
    pub fn start_with(dir: &Path, places: Vec<EtcdPlace>, options: &[&str]) -> EtcdCluster {
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
        let mut cluster = EtcdCluster {
            dir,
            nodes,
            ca,
            options: options.iter().map(ToString::to_string).collect(),
        };
        for node in &cluster.nodes {
            cluster.ca.pair(&cluster.dir, &node.name, &[node.place.ip]);
        }
        for name in ["central", ROOT] {
            cluster.ca.pair(&cluster.dir, name, &[]);
        }
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
        self.files("central")
    }

    /// Files for somebody else whom the CA knows.
    pub fn issue(&self, name: &str) -> EtcdPair {
        self.ca.pair(&self.dir, name, &[]);
        self.files(name)
    }

    fn files(&self, name: &str) -> EtcdPair {
        EtcdPair {
            certificate: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
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
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file(format!("{}.log", node.name)))
            .expect("it can be written");
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
            .args(&self.options)
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

    /// Ends a node as its operator does: SIGTERM, and it says goodbye to the others.
    pub fn stop(&mut self, number: usize) {
        self.signal(number, "-TERM");
        if let Some(mut child) = self.nodes[number].child.take() {
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

    /// Holds a node, as a network cut or a stalled disk would: SIGSTOP. Returns when all its threads have stopped: on a
    /// busy machine one of them may answer once more before it hears of the signal.
    pub fn hold(&self, number: usize) {
        self.signal(number, "-STOP");
        let child = self.nodes[number].child.as_ref().expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        while !is_stopped(child.id()) {
            assert!(Instant::now() < deadline, "it does not stop");
            thread::sleep(Duration::from_millis(1));
        }
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

/// Whether every thread of a process has stopped (proc(5): the state stands behind the name's bracket).
fn is_stopped(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_none_or(|(_, state)| state.starts_with('T'))
    })
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

/// Whom etcd lets do everything.
const ROOT: &str = "root";
const PATIENCE: Duration = Duration::from_secs(30);
