//! One real nats-server.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::network::Link;
use crate::process::Process;
use crate::{PATIENCE, eventually, http, installs, ports, project, say, script};

/// The options of a server.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// `server_name`; default `n1`.
    pub name: String,
    /// `max_connections`; the default is nats-server's own.
    pub max_connections: Option<u64>,
    /// More configuration in nats-server's own language: accounts, authorization, limits.
    pub extra: String,
    /// Whether JetStream is on, with its files in the server's temporary folder.
    pub jetstream: bool,
    /// Its domain; default: none.
    pub domain: Option<String>,
    /// The cluster's name, the server's own route port and the route ports of all members. [`crate::Cluster`] sets
    /// them.
    pub routes: Option<(String, u16, Vec<u16>)>,
    /// More keys of the `cluster { … }` block, each after a comma.
    pub cluster: String,
    /// A binary other than that of `scripts/nats-server`.
    pub binary: Option<PathBuf>,
    /// Whether the server keeps nats-server's own `auth_timeout` of 2 s instead of the 10 s that other tests have.
    pub default_timeouts: bool,
    /// The link that the server is behind; default: none, it is at `127.0.0.1`.
    pub link: Option<Arc<Link>>,
    /// Whether the server listens at all addresses, so that it can be reached over links. It is still named as
    /// `127.0.0.1`.
    pub everywhere: bool,
}

impl ServerOptions {
    /// A server of this name.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Sets `max_connections`.
    pub fn max_connections(mut self, max: u64) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// Adds configuration text.
    pub fn with(mut self, extra: &str) -> Self {
        self.extra.push_str(extra);
        self.extra.push('\n');
        self
    }

    /// Keeps the server from advertising the other servers' addresses to clients.
    pub fn no_advertise(mut self) -> Self {
        self.cluster.push_str(", no_advertise: true");
        self
    }

    /// Leaves nats-server's own timeouts as they are. For tests of what happens in time, which the patient settings of
    /// the other tests would hide.
    pub fn default_timeouts(mut self) -> Self {
        self.default_timeouts = true;
        self
    }

    /// Puts the server at the far end of a link.
    pub fn behind(mut self, link: &Arc<Link>) -> Self {
        self.link = Some(Arc::clone(link));
        self
    }

    /// Has the server listen at all addresses.
    pub fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// Switches JetStream on, in this domain.
    pub fn jetstream_domain(mut self, domain: &str) -> Self {
        (self.jetstream, self.domain) = (true, Some(domain.into()));
        self
    }

    /// Switches JetStream on.
    pub fn jetstream(mut self) -> Self {
        self.jetstream = true;
        self
    }
}

/// A nats-server process on loopback. It keeps its addresses when it is restarted, and is killed on drop.
pub struct NatsServer {
    /// Its `server_name`.
    pub name: String,
    /// `127.0.0.1:PORT` for clients; another host behind a link.
    pub address: String,
    /// The same of its monitoring endpoints.
    pub monitor: String,
    binary: PathBuf,
    link: Option<Arc<Link>>,
    process: Process,
    dir: TempDir, // after `process`, so that it is removed once the process is dead
}

/// A server that runs for a part of the time only. Dropped, it runs all of the time.
pub struct Slowed<'a> {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    _server: &'a NatsServer,
}

impl Drop for Slowed<'_> {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl NatsServer {
    /// Starts a server and waits until it is ready for clients.
    pub async fn start(options: ServerOptions) -> Self {
        for _ in 0..5 {
            let mut server = Self::spawn(&options);
            if server.ready().await {
                return server;
            }
            assert!(
                server.log().contains("address already in use"),
                "nats-server ended:\n{}",
                server.process.log_tail(20)
            );
            assert!(options.routes.is_none(), "a route port was taken by another process");
        }
        panic!("five times in a row, a port of nats-server was taken by another process");
    }

    fn spawn(options: &ServerOptions) -> Self {
        let dir = TempDir::with_prefix("weir-nats-").expect("temporary folder");
        let path = dir.path().display();
        let name = if options.name.is_empty() { "n1" } else { &options.name }.to_owned();
        let (client, monitor) = (ports::free(), ports::free());

        let host = options.link.as_ref().map_or("127.0.0.1", |link| &link.address);

        let bound = if options.everywhere { "0.0.0.0" } else { host };
        let mut config = format!(
            "server_name: {name}\nlisten: \"{bound}:{client}\"\nhttp: \"{bound}:{monitor}\"\n\
             ports_file_dir: \"{path}\"\n"
        );
        if !options.default_timeouts {
            writeln!(config, "{PATIENT}").expect("string");
        }
        if let Some(max) = options.max_connections {
            writeln!(config, "max_connections: {max}").expect("string");
        }
        if options.jetstream {
            let domain = options.domain.as_ref().map(|name| format!(", domain: {name}")).unwrap_or_default();
            writeln!(config, "jetstream {{ store_dir: \"{path}/js\", max_mem: 256MB, max_file: 2GB{domain} }}")
                .expect("string");
        }
        if let Some((cluster, own, all)) = &options.routes {
            let urls: Vec<String> = all.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
            writeln!(
                config,
                "cluster {{ name: {cluster}, listen: \"127.0.0.1:{own}\", routes: {urls:?}{} }}",
                options.cluster
            )
            .expect("string");
        }
        config.push_str(&options.extra);
        std::fs::write(dir.path().join("nats.conf"), config).expect("write nats.conf");

        let binary = options.binary.clone().unwrap_or_else(binary);
        let link = options.link.clone();
        let process = run(&name, &binary, link.as_deref(), &dir);
        let address = |port| format!("{host}:{port}");
        Self { name, address: address(client), monitor: address(monitor), binary, link, process, dir }
    }

    /// Waits until the server has written its ports file; `false` if it has ended instead.
    async fn ready(&mut self) -> bool {
        eventually(PATIENCE, "ports file of nats-server", async || {
            if self.process.exited().is_some() {
                return Ok(false);
            }
            let file = format!("nats-server_{}.ports", self.process.pid());
            if self.dir.path().join(file).exists() { Ok(true) } else { Err("none") }
        })
        .await
    }

    /// Kills the server with SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Stops the server with SIGTERM and waits until it has ended.
    pub async fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait(PATIENCE).await;
    }

    /// Starts the server again at the same addresses and with the same files. Stops it first if it runs.
    pub async fn restart(&mut self) {
        if self.process.exited().is_none() {
            self.stop().await;
        }
        self.process = run(&self.name, &self.binary, self.link.as_deref(), &self.dir);
        assert!(self.ready().await, "{} did not come back:\n{}", self.name, self.process.log_tail(20));
    }

    /// Replaces `old` by `new` in its configuration, for the next restart or reload.
    pub fn reconfigure(&mut self, old: &str, new: &str) {
        let file = self.dir.path().join("nats.conf");
        let config = std::fs::read_to_string(&file).expect("nats.conf");
        assert!(config.contains(old), "{old:?} is not in nats.conf");
        std::fs::write(&file, config.replace(old, new)).expect("write nats.conf");
    }

    /// The same, and has it read its configuration again, and waits until it has.
    pub async fn reload(&mut self, old: &str, new: &str) {
        let reloads = |server: &Self| server.log().matches("Reloaded server configuration").count();
        let before = reloads(self);
        self.reconfigure(old, new);
        self.signal(Signal::HUP);
        eventually(PATIENCE, "the configuration has been read again", async || match reloads(self) {
            now if now > before => Ok(()),
            _ => Err(self.process.log_tail(5)),
        })
        .await;
    }

    /// Lets the server run for this part of the time only, until what is returned is dropped: as on a machine that has
    /// other work. It is stopped and goes on 20 times a second.
    pub fn slowed_to(&self, part: f64) -> Slowed<'_> {
        let (period, ends) = (Duration::from_millis(50), Arc::new(AtomicBool::new(false)));
        let pid = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        let signal = move |signal| kill_process(pid, signal).expect("signal to nats-server");
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                signal(Signal::STOP);
                std::thread::sleep(period.mul_f64(1.0 - part));
                signal(Signal::CONT);
                std::thread::sleep(period.mul_f64(part));
            }
        });
        Slowed { ends, thread: Some(thread), _server: self }
    }

    /// Sends the server a signal, such as SIGUSR2 for lame duck mode.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Whether the server runs.
    pub fn runs(&mut self) -> bool {
        self.process.exited().is_none()
    }

    /// `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Everything that the server has logged, including before restarts.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Whether the server has ever logged `text`.
    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Waits until the server has logged `text`.
    pub async fn says(&self, text: &str) {
        let said = async || if self.log_contains(text) { Ok(()) } else { Err(self.log()) };
        eventually(PATIENCE, text, said).await;
    }

    /// The answer of a monitoring endpoint; `None` if there is none.
    pub async fn monitoring(&self, path: &str) -> Option<Value> {
        let (status, body) = http::get(&self.monitor, path).await.ok()?;
        (status == 200).then(|| serde_json::from_str(&body).expect("monitoring answers JSON"))
    }

    /// Its `/varz`.
    pub async fn varz(&self) -> Value {
        self.monitoring("/varz").await.unwrap_or_else(|| panic!("{} has no /varz", self.name))
    }

    /// The number of client connections that the server reports; 0 if it is dead.
    pub async fn connections(&self) -> u64 {
        self.monitoring("/varz").await.map_or(0, |varz| varz["connections"].as_u64().expect("connections"))
    }

    /// The number of client connections that the server has accepted since it was last started.
    pub async fn total_connections(&self) -> u64 {
        self.monitoring("/varz").await.map_or(0, |varz| varz["total_connections"].as_u64().expect("total_connections"))
    }

    /// The number of connections that the server has in an account.
    pub async fn account_connections(&self, account: &str) -> u64 {
        let stats = self.monitoring("/accstatz?unused=1").await.unwrap_or_default();
        let all = stats["account_statz"].as_array().cloned().unwrap_or_default();
        all.iter().find(|one| one["acc"] == account).map_or(0, |one| one["conns"].as_u64().expect("conns"))
    }

    /// Waits until the server has exactly `n` client connections.
    pub async fn settles_at(&self, n: u64) {
        let what = format!("{} has {n} connections", self.name);
        eventually(PATIENCE, &what, async || match self.connections().await {
            now if now == n => Ok(()),
            now => Err(now),
        })
        .await;
    }
}

/// A longer auth timeout than nats-server's 2 s, which a slow machine could exceed. A test's own `authorization`
/// replaces it.
const PATIENT: &str = "authorization { timeout: 10 }";

fn run(name: &str, binary: &Path, link: Option<&Link>, dir: &TempDir) -> Process {
    let mut command = link.map_or_else(|| Command::new(binary), |link| link.node.command(binary));
    command.arg("-c").arg(dir.path().join("nats.conf"));
    Process::start(&format!("nats-server {name}"), &mut command, &dir.path().join("log"))
}

/// The nats-server that `scripts/nats-server` finds or installs. The script runs once per process.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            let output = script("nats-server").stderr(Stdio::inherit()).output().expect("run scripts/nats-server");
            assert!(output.status.success(), "scripts/nats-server failed: {}", output.status);
            PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
        })
        .clone()
}

/// Debian's nats-server, which is an old one, or the reason why it is not available here. A test must not call this
/// while it holds the guard of [`installs::one_at_a_time`].
pub async fn debian() -> Result<PathBuf, String> {
    let _alone = installs::one_at_a_time().await;
    let into = project().join(".nats").join("debian");
    let binary = into.join("nats-server");
    if !binary.exists() {
        let mut install = script("nats-server");
        let install = install.args(["--via", "debian", "--into"]).arg(&into).output().expect("run scripts/nats-server");
        if !install.status.success() {
            let said = String::from_utf8_lossy(&install.stderr);
            say(said.trim_end());
            let last = said.lines().last().unwrap_or_default();
            return Err(format!("needs Debian's nats-server, which cannot be installed: {last}"));
        }
    }
    Ok(binary)
}

/// Whether nats-server is this version or later.
pub fn is_at_least(major: u32, minor: u32) -> bool {
    version().1 >= (major, minor)
}

/// nats-server's version, as text and as numbers.
fn version() -> (String, (u32, u32)) {
    let output = Command::new(binary()).arg("--version").output().expect("nats-server --version");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().rsplit('v').next().unwrap_or_default().to_owned();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    (version, found)
}

/// Panics, with advice, if nats-server is older than the test needs. Debian's package may be too old.
pub fn at_least(major: u32, minor: u32) {
    let (version, _) = version();
    assert!(
        is_at_least(major, minor),
        "this test needs nats-server {major}.{minor} or later and {} is {version}; \
         name another with NATS_SERVER=… or get one with scripts/nats-server --via go|pypi --into DIR",
        binary().display()
    );
}
