//! What an operator does to a cluster with etcd's own programs.
//!
//! Leaves processes to the cluster. Invariant: a command that fails fails the test, with its words.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{EtcdCluster, PATIENCE, ROOT, at, peer_url};

impl EtcdCluster {
    /// From now on only central may read and write, and only below this prefix.
    pub fn restrict(&self, prefix: &str) {
        self.must(&["user", "add", ROOT, "--no-password"]);
        self.must(&["user", "grant-role", ROOT, "root"]);
        self.must(&["user", "add", "central", "--no-password"]);
        self.must(&["role", "add", "central"]);
        let grant = ["role", "grant-permission", "central", "--prefix=true"];
        self.must(&[&grant[..], &["readwrite", prefix]].concat());
        self.must(&["user", "grant-role", "central", "central"]);
        self.must(&["auth", "enable"]);
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
        // It returns when what was forgotten is removed: a defragmentation right after it frees nothing otherwise.
        self.must(&["compact", "--physical=true", &revision.to_string()]);
    }

    /// Gives back what compaction freed, on one node, and takes its full disk for over.
    pub fn make_room(&self, number: usize) {
        self.done(number, &["defrag"]);
        self.done(number, &["alarm", "disarm"]);
    }

    /// Writes a value past central: whoever has a certificate could.
    pub fn put(&self, key: &str, value: &[u8]) {
        let mut put = self.command(self.running(), &["put", key]);
        let mut child = put
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("etcdctl starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(value).expect("etcdctl reads");
        drop(stdin);
        let ended = child.wait().expect("etcdctl ends");
        assert!(ended.success(), "etcdctl put {key}: {ended}");
    }

    /// The value of a key; none when there is no such key.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let output = self.ctl(self.running(), &["get", key, "--print-value-only"]);
        assert!(output.status.success(), "etcdctl get {key}");
        // It ends with a line's end of its own.
        output.stdout.strip_suffix(b"\n").map(<[u8]>::to_vec)
    }

    /// Deletes a key past central.
    pub fn delete(&self, key: &str) {
        self.must(&["del", key]);
    }

    /// A snapshot of the whole state.
    pub fn snapshot(&self, file: &Path) {
        self.must(&["snapshot", "save", &file.display().to_string()]);
    }

    /// On any node that runs.
    fn must(&self, arguments: &[&str]) {
        self.done(self.running(), arguments);
    }

    fn running(&self) -> usize {
        let running = self.nodes.iter().position(|node| node.child.is_some());
        running.expect("a node runs")
    }

    fn done(&self, number: usize, arguments: &[&str]) {
        let output = self.ctl(number, arguments);
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {why}");
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
            let output = restorer()
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

    pub(super) fn ctl(&self, number: usize, arguments: &[&str]) -> Output {
        let output = self.command(number, arguments).output();
        output.expect("etcdctl starts")
    }

    fn command(&self, number: usize, arguments: &[&str]) -> Command {
        let place = &self.nodes[number].place;
        let root = self.files(ROOT);
        let mut command = at(&place.prefix, "etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(format!("https://{}:{}", place.ip, place.port))
            .arg("--cacert")
            .arg(self.ca())
            .arg("--cert")
            .arg(root.certificate)
            .arg("--key")
            .arg(root.key)
            .args(["--command-timeout", "10s"])
            .args(arguments);
        command
    }
}

/// etcd 3.6 restores by a program of its own.
fn restorer() -> Command {
    let found = Command::new("etcdutl").arg("version").output();
    let program = match found {
        Ok(output) if output.status.success() => "etcdutl",
        _ => "etcdctl",
    };
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3");
    command
}
