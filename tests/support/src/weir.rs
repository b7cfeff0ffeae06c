//! weir itself, as a child process in front of servers.

mod start;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::descriptors::Descriptor;
use crate::metrics::Metrics;
use crate::network::Link;
use crate::process::Process;
use crate::{Attempt, Cluster, Login, NatsServer, PATIENCE, RawClient, eventually, http};

/// weir's configuration in TOML. With its defaults no client has to wait and none is refused.
#[derive(Debug, Clone)]
pub struct WeirConfig {
    top: String,
    listener: String,
    cluster: String,
    servers: String,
    count: usize,
    admission: String,
    accounts: String,
    log_level: &'static str,
    standard_error: Option<Arc<File>>,
    closes_standard_error: bool,
    file_limit: Option<u32>,
    etc: Option<PathBuf>,
    link: Option<Arc<Link>>,
    environment: Vec<(&'static str, String)>,
}

impl WeirConfig {
    /// The configuration in front of a cluster.
    pub fn of(cluster: &Cluster) -> Self {
        Self::of_servers(&cluster.servers.iter().collect::<Vec<_>>())
    }

    /// The configuration in front of these servers.
    pub fn of_servers(servers: &[&NatsServer]) -> Self {
        let mut text = String::new();
        for server in servers {
            writeln!(
                text,
                "[[cluster.servers]]\nname = \"{}\"\naddress = \"{}\"\nmonitor = \"http://{}\"",
                server.name, server.address, server.monitor
            )
            .expect("string");
        }
        Self {
            top: "workers = 2\n".into(),
            listener: "handshake_timeout = \"30s\"\n".into(),
            cluster: "poll_interval = \"200ms\"\n".into(),
            servers: text,
            count: servers.len(),
            admission: "rate = 20000\nburst = 20000\nmax_hold = \"19s\"\nrefusal_spread = \"100ms\"\n\
                        [admission.max_hold_by_lang]\nrust = \"19s\"\n"
                .into(),
            accounts: String::new(),
            log_level: "debug",
            standard_error: None,
            closes_standard_error: false,
            file_limit: None,
            etc: None,
            link: None,
            environment: Vec::new(),
        }
    }

    /// Leaves listener, admission and polling at weir's own defaults. For tests of what happens in time, which the
    /// patient settings of the other tests (a handshake of 30 s, a hold of 19 s, a poll every 200 ms) would hide.
    pub fn default_settings(mut self) -> Self {
        self.top.clear();
        self.listener.clear();
        self.cluster.clear();
        self.admission.clear();
        self
    }

    /// Replaces the top-level keys (default: two workers).
    pub fn top(mut self, text: &str) -> Self {
        self.top = format!("{text}\n");
        self
    }

    /// Replaces the listener's keys other than `listen` (default: `handshake_timeout = "30s"`).
    pub fn listener(mut self, text: &str) -> Self {
        self.listener = format!("{text}\n");
        self
    }

    /// Adds keys to `[cluster]`, e.g. `reserve = 5`.
    pub fn cluster(mut self, text: &str) -> Self {
        writeln!(self.cluster, "{text}").expect("string");
        self
    }

    /// Sets `poll_interval` (default: 200 ms).
    pub fn poll_interval(mut self, interval: &str) -> Self {
        self.cluster = self.cluster.replace("\"200ms\"", &format!("{interval:?}"));
        self
    }

    /// Writes `[cluster.tls]`.
    pub fn cluster_tls(mut self, text: &str) -> Self {
        self.servers = format!("[cluster.tls]\n{text}\n{}", self.servers);
        self
    }

    /// Names the servers' WebSocket ports, each `ws://127.0.0.1:PORT`, in the order of the servers.
    pub fn websockets(mut self, urls: &[&str]) -> Self {
        let mut urls = urls.iter();
        self.servers = self.servers.lines().fold(String::new(), |all, line| {
            let more = match line.starts_with("address") {
                true => format!("websocket = {:?}\n", urls.next().expect("a URL for each server")),
                false => String::new(),
            };
            all + line + "\n" + &more
        });
        self
    }

    /// Leaves out the servers' monitoring addresses.
    pub fn without_monitors(mut self) -> Self {
        self.servers = self
            .servers
            .lines()
            .filter(|line| !line.starts_with("monitor"))
            .fold(String::new(), |all, line| all + line + "\n");
        self
    }

    /// Writes another text in the servers' tables, for example another address.
    pub fn replacing(mut self, text: &str, other: &str) -> Self {
        self.servers = self.servers.replace(text, other);
        self
    }

    /// Gives every server this monitoring address instead of its own.
    pub fn with_monitor(mut self, address: &str) -> Self {
        self.servers = self.servers.lines().fold(String::new(), |all, line| match line.starts_with("monitor") {
            true => format!("{all}monitor = \"http://{address}\"\n"),
            false => all + line + "\n",
        });
        self
    }

    /// Replaces `[admission]` (default: a rate and a hold that no test reaches).
    pub fn admission(mut self, text: &str) -> Self {
        self.admission = format!("{text}\n");
        self
    }

    /// Adds an account, for example `account("ORDERS", "users = [\"orders-*\"]\nmax_connections = 100")`.
    pub fn account(mut self, name: &str, text: &str) -> Self {
        writeln!(self.accounts, "[accounts.{name}]\n{text}").expect("string");
        self
    }

    /// Adds a table with its header, for example `[users."batch-*"]`.
    pub fn table(mut self, text: &str) -> Self {
        writeln!(self.accounts, "{text}").expect("string");
        self
    }

    /// Gives weir this file or pipe as its standard error. [`Weir::log`] is empty then.
    pub fn standard_error(mut self, other: impl Into<OwnedFd>) -> Self {
        self.standard_error = Some(Arc::new(File::from(other.into())));
        self
    }

    /// Starts weir without a standard error: descriptor 2 is closed. [`Weir::log`] is empty then.
    pub fn closed_standard_error(mut self) -> Self {
        self.closes_standard_error = true;
        self
    }

    /// Limits the open files of weir.
    pub fn file_limit(mut self, descriptors: u32) -> Self {
        self.file_limit = Some(descriptors);
        self
    }

    /// Gives weir this folder as its `/etc`, in a mount namespace of its own.
    pub fn etc(mut self, folder: &Path) -> Self {
        self.etc = Some(folder.into());
        self
    }

    /// Runs weir in the namespace that this link leads to, listening at the link's far address.
    pub fn behind(mut self, link: &Arc<Link>) -> Self {
        self.link = Some(Arc::clone(link));
        self
    }

    /// Has weir reach a server, which listens everywhere, over this link.
    pub fn reaching(self, server: &NatsServer, link: &Link) -> Self {
        let over = |address: &str| address.replace("127.0.0.1", &link.near_address);
        self.replacing(&server.address, &over(&server.address)).replacing(&server.monitor, &over(&server.monitor))
    }

    /// Sets an environment variable of weir.
    pub fn environment(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Sets weir's log level (default: debug).
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// The text of the configuration file.
    pub fn toml(&self, ports_file: &str) -> String {
        let Self { top, listener, cluster, servers, admission, accounts, log_level, .. } = self;
        let host = self.link.as_ref().map_or("127.0.0.1", |link| &link.address);
        format!(
            "ports_file = \"{ports_file}\"\n{top}\n[log]\nlevel = \"{log_level}\"\n\n[[listeners]]\nlisten = \"{host}:0\"\n{listener}\n\
             [monitor]\nlisten = \"{host}:0\"\n\n[cluster]\n{cluster}{servers}\n[admission]\n{admission}\n{accounts}"
        )
    }

    /// weir without its arguments. A shell lowers the limit of open files, or mounts its `/etc`, and becomes weir, with
    /// the same process id.
    fn command(&self) -> Command {
        let limit = self.file_limit.map(|limit| format!("ulimit -n {limit} && "));
        let mount = self.etc.as_ref().map(|etc| format!("mount --bind {} /etc && ", etc.display()));
        let without = if self.closes_standard_error { " 2>&-" } else { "" };
        let (mount, limit) = (mount.unwrap_or_default(), limit.unwrap_or_default());
        let become_weir = format!("{mount}{limit}exec \"$0\" \"$@\"{without}");
        let needs_shell = self.file_limit.is_some() || self.closes_standard_error;
        let mut command = match (&self.etc, needs_shell) {
            (None, false) => match &self.link {
                Some(link) => link.node.command(&binary()),
                None => Command::new(binary()),
            },
            (Some(_), _) => Command::new("unshare"),
            (None, true) => Command::new("sh"),
        };
        if self.etc.is_some() {
            command.args(["-Urm", "sh"]);
        }
        if self.etc.is_some() || needs_shell {
            command.arg("-c").arg(become_weir).arg(binary());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The monitoring addresses in the configuration, without those that are names.
    fn monitors(&self) -> Vec<SocketAddr> {
        let urls = self.servers.lines().filter_map(|line| line.strip_prefix("monitor = \"http://"));
        // A server's `http_base_path` may stand behind its port.
        urls.filter_map(|url| url.split(['/', '"']).next()?.parse().ok()).collect()
    }

    /// Starts weir and waits until it has a reading from every server.
    pub async fn start(&self) -> Weir {
        let weir = self.start_before(self.count).await;
        weir.sees(self.count).await;
        weir
    }

    /// Starts weir and waits only until weir sees `up` servers, for example because the others do not run yet.
    pub async fn start_before(&self, up: usize) -> Weir {
        let mut weir = self.start_at_once().await;
        weir.sees(up).await;
        weir.others_at_start = weir.fewest_others().await;
        weir
    }

    /// Starts weir and waits for nothing: its servers cannot be used, or only now and then.
    pub async fn start_at_once(&self) -> Weir {
        let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
        let toml = self.toml(&dir.path().join("ports.json").display().to_string());
        let standard_error = self.standard_error.as_deref().map(|file| file.try_clone().expect("a descriptor"));
        let mut weir = Weir::spawn_with(&toml, dir, self.command(), standard_error).await;
        weir.monitors = self.monitors();
        weir.has_system = self.cluster.contains("[cluster.system]");
        weir
    }
}

/// A running weir. It is killed on drop.
pub struct Weir {
    /// `127.0.0.1:PORT` for clients.
    pub address: String,
    /// The same of its further listeners, in the order of the configuration.
    pub other_listeners: Vec<String>,
    /// `127.0.0.1:PORT` of its monitor endpoints.
    pub monitor: String,
    pub(crate) process: Process,
    monitors: Vec<SocketAddr>,
    has_system: bool,
    others_at_start: usize,
    pub(crate) _dir: TempDir, // after `process`, so that it is removed once the process is dead
}

impl Weir {
    /// `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The port of its listener.
    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().expect("a port")
    }

    /// Waits until the log has this text. weir writes its log on a thread of its own, after what it tells of.
    pub async fn says(&self, text: &str) {
        eventually(PATIENCE, text, async || if self.log().contains(text) { Ok(()) } else { Err(self.log()) }).await;
    }

    /// Waits until the log has this text exactly `n` times.
    pub async fn says_times(&self, text: &str, n: usize) {
        let what = format!("{n} times {text:?}");
        let times = async || if self.log().matches(text).count() == n { Ok(()) } else { Err(self.log()) };
        eventually(PATIENCE, &what, times).await;
    }

    /// One reading of its metrics.
    pub async fn metrics(&self) -> Metrics {
        let (status, text) = http::get(&self.monitor, "/metrics").await.expect("GET /metrics");
        assert_eq!(status, 200, "/metrics: {text}");
        Metrics::parse(&text)
    }

    /// The value of one sample, such as `weir_sessions_active{server="n1"}`; 0 if there is no such sample yet.
    pub async fn gauge(&self, sample: &str) -> f64 {
        self.metrics().await.get(sample).unwrap_or(0.0)
    }

    /// The status of `/healthz`.
    pub async fn health(&self) -> u16 {
        http::get(&self.monitor, "/healthz").await.expect("GET /healthz").0
    }

    /// Waits until weir counts exactly `n` servers as up.
    pub async fn sees(&self, n: usize) {
        self.until(&format!("{n} servers are up"), |metrics| metrics.sum("weir_server_up") == n as f64).await;
    }

    /// Waits until `shown` accepts weir's metrics; returns them.
    pub async fn until(&self, what: &str, mut shown: impl FnMut(&Metrics) -> bool) -> Metrics {
        eventually(PATIENCE, what, async || {
            let now = self.metrics().await;
            if shown(&now) { Ok(now) } else { Err(now.excerpt(GAUGES)) }
        })
        .await
    }

    /// Waits until weir's gauges and the servers' `/varz` report the same number of sessions for each server.
    pub async fn agrees_with(&self, cluster: &Cluster) {
        self.agrees_with_servers(&cluster.servers.iter().collect::<Vec<_>>()).await;
    }

    /// The same for these servers, which must have no other clients.
    pub async fn agrees_with_servers(&self, servers: &[&NatsServer]) {
        eventually(PATIENCE, "weir's gauges and the servers' /varz agree", async || {
            let metrics = self.metrics().await;
            for server in servers {
                let sample = format!("weir_sessions_active{{server=\"{}\"}}", server.name);
                let (ours, theirs) = (metrics.get(&sample).unwrap_or(0.0), server.connections().await);
                if ours != theirs as f64 {
                    return Err(format!("{sample} {ours}, the server has {theirs}"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// These servers are polled too, although the configuration does not name them.
    pub fn polls(&mut self, servers: &[&NatsServer]) {
        self.monitors.extend(servers.iter().map(|server| server.monitor.parse::<SocketAddr>().expect("an address")));
    }

    /// Checks, after all clients are gone, that every gauge is back to 0, that weir has no descriptor of a client left,
    /// and that no task of weir has panicked. The descriptors are those of weir's process, by its pid.
    pub async fn assert_nothing_leaked(&self) {
        assert!(self.metrics().await.knows("weir_held"), "weir_held is not among the metrics");
        self.assert_no_panic();
        self.until("all gauges are back to 0", |metrics| LOAD.iter().all(|name| metrics.sum(name) == 0.0)).await;
        eventually(PATIENCE, "no descriptor is left of a client", async || self.left_over()).await;
    }

    /// Checks that nothing has panicked in weir, nor in the processes that it has taken over from or that were to take
    /// over from it: weir logs each panic.
    pub fn assert_no_panic(&self) {
        for entry in std::fs::read_dir(self._dir.path()).expect("weir's folder") {
            let path = entry.expect("a file").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log")) {
                let log = String::from_utf8_lossy(&std::fs::read(&path).expect("a log")).into_owned();
                assert!(!log.contains("panic: "), "a panic in weir:\n{log}");
            }
        }
    }

    /// Checks that weir has nothing open beyond what it has without clients: its listeners, a connection to each
    /// server's monitoring port, one to the system account, and what it had at the start. The error lists all
    /// descriptors.
    fn left_over(&self) -> Result<(), String> {
        let all = self.process.descriptors();
        let own = self.monitor.parse::<SocketAddr>().expect("an address");
        let (mut monitors, mut sessions, mut others) = (HashMap::<_, usize>::new(), 0, 0);
        for one in &all {
            match one {
                Descriptor::Tcp { peer, .. } if self.monitors.contains(peer) => {
                    *monitors.entry(*peer).or_default() += 1
                }
                // A connection of this test to weir's endpoints.
                Descriptor::Tcp { local, .. } if *local == own => {}
                Descriptor::Tcp { state: "listening", .. } => {}
                Descriptor::Tcp { .. } => sessions += 1,
                Descriptor::Other(_) => others += 1,
            }
        }
        let once = monitors.values().all(|&n| n <= 1);
        match once && sessions <= usize::from(self.has_system) && others <= self.others_at_start {
            true => Ok(()),
            false => Err(format!("{others} that are no TCP sockets ({} at the start); {all:?}", self.others_at_start)),
        }
    }

    /// weir is full with `clients`, whose login is `theirs`. Connects a client with the login `late`, which is held
    /// until one of `clients` leaves, and then gets in.
    pub async fn lets_in_late(&self, clients: &mut Vec<RawClient>, theirs: &Login, late: &Login) -> RawClient {
        // weir refuses a client that cannot be served in time at a random moment, which is now and then too early for
        // this.
        loop {
            let refused = "weir_refused_total";
            let before = self.metrics().await.sum(refused);
            let (address, login) = (self.address.clone(), late.clone());
            let waiting = tokio::spawn(async move { RawClient::attempt(&address, &login, PATIENCE).await });
            let held = |metrics: &Metrics| metrics.sum("weir_held") == 1.0 || metrics.sum(refused) > before;
            self.until("one client is held", held).await;
            drop(clients.pop());
            match waiting.await.expect("an attempt") {
                Attempt::In(late) => return late,
                early => assert_eq!(early.refusal(), Some("maximum connections exceeded"), "{early:?}"),
            }
            clients.push(RawClient::connect(&self.address, theirs).await);
        }
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self._dir.path().join("weir.toml")
    }

    /// Where it writes its ports.
    pub fn ports_file(&self) -> PathBuf {
        self._dir.path().join("ports.json")
    }

    /// Replaces `old` by `new` in its configuration, for the next reload. The file is another one then, as an editor or
    /// a deployment writes it.
    pub fn reconfigure(&self, old: &str, new: &str) {
        let file = self.config_file();
        let config = std::fs::read_to_string(&file).expect("weir.toml");
        assert!(config.contains(old), "{old:?} is not in weir.toml:\n{config}");
        let beside = file.with_extension("new");
        std::fs::write(&beside, config.replace(old, new)).expect("write weir.toml");
        std::fs::set_permissions(&beside, Permissions::from_mode(0o600)).expect("weir.toml is for its owner");
        std::fs::rename(&beside, &file).expect("rename weir.toml");
    }

    /// Has it read its configuration again, and waits until it has. Returns the metrics after that.
    pub async fn reload(&mut self) -> Metrics {
        let reloads = |metrics: &Metrics| metrics.sum("weir_config_reloads_total");
        let before = reloads(&self.metrics().await);
        self.signal(Signal::HUP);
        self.until("the configuration has been read again", |metrics| reloads(metrics) > before).await
    }

    /// The same for a configuration that it must take.
    pub async fn reloads(&mut self) -> Metrics {
        let metrics = self.reload().await;
        assert_eq!(metrics.get("weir_config_last_reload_successful"), Some(1.0), "{}", self.log());
        metrics
    }

    /// weir's resident memory, in bytes.
    pub fn rss(&self) -> u64 {
        self.process.rss()
    }

    /// Sends weir a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills weir with SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Stops the process, as a machine that stands still does: it does nothing, and the kernel keeps its connections.
    pub fn stand_still(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets a process go on that stands still.
    pub fn go_on(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// weir's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// weir's exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// Waits until weir has ended.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline).await
    }

    /// What weir has printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The smallest of several counts of descriptors that are not TCP sockets in the kernel's table. A socket may be
    /// missing there while it is being opened.
    async fn fewest_others(&self) -> usize {
        let mut fewest = usize::MAX;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let others = self.process.descriptors().iter().filter(|one| matches!(one, Descriptor::Other(_))).count();
            fewest = fewest.min(others);
        }
        fewest
    }
}

/// Gauges of sessions and holds, which are 0 without clients.
const LOAD: &[&str] = &["weir_sessions_active", "weir_held", "weir_account_connections"];

/// The metrics that the message of a failed wait shows.
const GAUGES: &[&str] = &[
    "weir_sessions_active",
    "weir_held",
    "weir_account_connections",
    "weir_server_up",
    "weir_server_headroom",
    "weir_refused_total",
];

/// The weir under test. Cargo names it in `CARGO_BIN_EXE_weir` to the tests that it runs; anything else, such as an
/// example, names it in `WEIR_BIN`.
pub fn binary() -> PathBuf {
    let named = ["CARGO_BIN_EXE_weir", "WEIR_BIN"].into_iter().find_map(std::env::var_os);
    named.map(PathBuf::from).expect("WEIR_BIN names weir's binary")
}
