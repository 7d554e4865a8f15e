//! A network of the test's own: a namespace for each node, joined by a bridge, and the ways to cut it.
//!
//! Leaves what runs in it to `world`. Everything is named after this process and goes with the value. Needs root and
//! `ip`.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Nodes that reach each other over a bridge.
#[derive(Debug)]
pub struct Net {
    nodes: Vec<Node>,
}

/// One namespace.
#[derive(Clone, Debug)]
struct Node {
    name: String,
    number: u8,
}

/// The node that the test's own clients live in.
const CLIENT: &str = "client";

impl Net {
    /// Makes a namespace for each of these nodes and one for the test itself, and moves the calling thread into it:
    /// call it before any other thread is started.
    ///
    /// # Panics
    /// When the system does not allow it.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Net {
        let mut net = Net { nodes: Vec::new() };
        ip(&["netns", "add", &bridge()]);
        ip(&["-n", &bridge(), "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &bridge(), "link", "set", "br0", "up"]);
        for name in nodes.into_iter().chain([CLIENT]) {
            net.add(name);
        }
        let client = File::open(format!("/var/run/netns/{}", netns(net.of(CLIENT).number)))
            .expect("the namespace was made");
        move_into_link_name_space(client.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter a namespace");
        net
    }

    /// One more node.
    pub fn add(&mut self, name: &str) {
        let number = u8::try_from(self.nodes.len() + 1).expect("few nodes");
        let space = netns(number);
        let port = format!("v{number}");
        ip(&["netns", "add", &space]);
        ip(&[
            "link",
            "add",
            &port,
            "netns",
            &bridge(),
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &space,
        ]);
        ip(&["-n", &bridge(), "link", "set", &port, "master", "br0", "up"]);
        let address = format!("10.9.0.{number}/24");
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"]);
        ip(&["-n", &space, "link", "set", "eth0", "up"]);
        ip(&["-n", &space, "link", "set", "lo", "up"]);
        self.nodes.push(Node {
            name: name.to_owned(),
            number,
        });
    }

    /// Where a node is.
    pub fn address(&self, node: &str) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, self.of(node).number)
    }

    /// What to put before a program so that it runs at that node.
    pub fn prefix(&self, node: &str) -> Vec<String> {
        ["ip", "netns", "exec", &netns(self.of(node).number)]
            .map(str::to_owned)
            .to_vec()
    }

    /// Drops every packet to and from a node, silently.
    pub fn cut(&self, node: &str) {
        self.link(node, "down");
    }

    /// Joins it again.
    pub fn join(&self, node: &str) {
        self.link(node, "up");
    }

    /// Drops every packet between two nodes, silently; others reach both.
    pub fn cut_between(&self, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let (address, space) = self.way(from, to);
            ip(&[
                "-n",
                &space,
                "neigh",
                "replace",
                &address,
                "lladdr",
                NOBODY,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ]);
        }
    }

    /// Undoes [`Net::cut_between`].
    pub fn join_between(&self, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let (address, space) = self.way(from, to);
            ip(&["-n", &space, "neigh", "del", &address, "dev", "eth0"]);
        }
    }

    fn way(&self, from: &str, to: &str) -> (String, String) {
        (self.address(to).to_string(), netns(self.of(from).number))
    }

    /// Makes whatever a node sends slow: `kbit` thousand bits a second.
    pub fn slow(&self, node: &str, kbit: u32) {
        let space = netns(self.of(node).number);
        let rate = format!("{kbit}kbit");
        let status = Command::new("tc")
            .args([
                "-n", &space, "qdisc", "replace", "dev", "eth0", "root", "tbf",
            ])
            .args(["rate", &rate, "burst", "2kb", "latency", "2s"])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "tc tbf");
    }

    /// Undoes [`Net::slow`].
    pub fn fast(&self, node: &str) {
        let space = netns(self.of(node).number);
        let status = Command::new("tc")
            .args(["-n", &space, "qdisc", "del", "dev", "eth0", "root"])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "tc qdisc del");
    }

    fn link(&self, node: &str, state: &str) {
        let port = format!("v{}", self.of(node).number);
        ip(&["-n", &bridge(), "link", "set", &port, state]);
    }

    fn of(&self, node: &str) -> &Node {
        let found = self.nodes.iter().find(|known| known.name == node);
        found.unwrap_or_else(|| panic!("no node {node}"))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in &self.nodes {
            remove(&netns(node.number));
        }
        remove(&bridge());
    }
}

fn remove(space: &str) {
    let _ = Command::new("ip").args(["netns", "del", space]).status();
}

fn netns(number: u8) -> String {
    format!("kh{}-{number}", std::process::id())
}

fn bridge() -> String {
    format!("kh{}-br", std::process::id())
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start ip: {error}"));
    assert!(
        output.status.success(),
        "ip {}: {} (namespaces need root)",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A link address that no node has.
const NOBODY: &str = "02:00:00:00:00:99";
