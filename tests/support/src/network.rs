//! A test in a network namespace of its own, with servers or weirs behind links that it can cut.
//!
//! A cut link is silent, as a cable that is pulled between two switches: packets are lost, nobody hears an error.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::skip;

/// Set in a process that runs in a namespace of its own.
const INSIDE: &str = "WEIR_TEST_NETWORK";

/// Whether the calling test is in a network namespace of its own. Outside of one it runs itself there, and gives back
/// `false` once that has passed; or it records that this machine allows none.
///
/// # Panics
/// If the test fails in its namespace.
pub fn is_own() -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut try_out = Command::new("unshare");
    try_out.args(["-Urn", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    if !quietly(&mut try_out) {
        skip("this machine allows no network namespaces of ours (unshare -Urn, ip link add type veth)");
        return false;
    }
    let test = std::thread::current().name().expect("libtest names the thread of a test").to_owned();
    // Its output is that of a run of tests of its own, which must not be taken for a part of this one.
    let run = Command::new("unshare")
        .args(["-Urn", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("the test binary"))
        .args(["--exact", &test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .output()
        .expect("run unshare");
    let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    let said: String = said.lines().map(|line| format!("| {line}\n")).collect();
    assert!(run.status.success(), "{test} in a network of its own:\n{said}");
    assert!(said.contains("1 passed"), "it has run there:\n{said}");
    false
}

fn quietly(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Another network namespace, with nothing but its loopback until links lead to it. It ends with the last of them.
#[derive(Debug)]
pub struct Node {
    /// Keeps the namespace.
    keeper: Child,
}

impl Node {
    /// Makes one.
    pub fn new() -> Arc<Self> {
        // It says so when it is in its namespace, and ends when its standard input does.
        let mut keeper = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo; read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare");
        let said = keeper.stdout.as_mut().expect("its output");
        std::io::Read::read_exact(said, &mut [0]).expect("a namespace");
        let node = Self { keeper };
        node.ip("link set lo up");
        Arc::new(node)
    }

    /// A command that runs `binary` there, with the process id that it is started with.
    pub fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-n"]).arg(binary);
        command
    }

    fn ip(&self, words: &str) {
        ip(Command::new("nsenter").args(["-t", &self.pid(), "-n", "ip"]), words);
    }

    fn pid(&self) -> String {
        self.keeper.id().to_string()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A link from the test's namespace to another one. Whoever needs several ways to the same namespace, each to be cut
/// by itself, makes several links to it.
#[derive(Debug)]
pub struct Link {
    /// What it leads to.
    pub node: Arc<Node>,
    /// The address at its far end.
    pub address: String,
    /// The address at this end.
    pub near_address: String,
    far: String,
    near_mac: String,
}

impl Link {
    /// Makes a link, up, to a namespace of its own.
    pub fn new() -> Self {
        Self::to(&Node::new())
    }

    /// Makes a link, up, to this namespace.
    pub fn to(node: &Arc<Node>) -> Self {
        static LINKS: AtomicU8 = AtomicU8::new(1);
        let n = LINKS.fetch_add(1, Relaxed);
        let (near, far) = (format!("near{n}"), format!("far{n}"));
        let (near_mac, far_mac) = (format!("02:00:00:00:{n:02x}:01"), format!("02:00:00:00:{n:02x}:02"));
        let (address, near_address) = (format!("10.201.{n}.2"), format!("10.201.{n}.1"));
        let pid = node.pid();
        // Neighbours are fixed: with a silent link nobody may hear that there is none.
        for words in [
            format!("link add {near} address {near_mac} type veth peer name {far} address {far_mac}"),
            format!("link set {far} netns {pid}"),
            format!("addr add {near_address}/24 dev {near}"),
            format!("link set {near} up"),
            format!("neigh replace {address} lladdr {far_mac} nud permanent dev {near}"),
        ] {
            ip(&mut Command::new("ip"), &words);
        }
        node.ip(&format!("addr add {address}/24 dev {far}"));
        let link = Self { node: Arc::clone(node), address, near_address, far, near_mac };
        link.heal();
        link
    }

    /// Loses every packet from now on, both ways.
    pub fn cut(&self) {
        self.node.ip(&format!("link set {} down", self.far));
    }

    /// Loses none from now on.
    pub fn heal(&self) {
        self.node.ip(&format!("link set {} up", self.far));
        let neighbour = format!("neigh replace {} lladdr {} nud permanent dev", self.near_address, self.near_mac);
        self.node.ip(&format!("{neighbour} {}", self.far));
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

fn ip(command: &mut Command, words: &str) {
    let status = command.args(words.split(' ')).status().expect("run ip");
    assert!(status.success(), "ip {words}");
}
