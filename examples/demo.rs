//! The show behind `scripts/demo`: three small nats-servers, weir before them, a few hundred clients, and a live view
//! of where they land. What is shown is also checked: the bars are the servers' own `/varz`, beside weir's gauges, and an
//! act that does not come to its end in time ends the demo with exit code 1.
//!
//! `demo` runs the show and then goes on for your own clients until Ctrl-C; `demo --once` ends after the show.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use weir_testkit::process::OWN_GROUP;
use weir_testkit::*;

const MAX: u64 = 120;
const RESERVE: u64 = 5;
const QUOTA: usize = 40;
const PATIENCE: Duration = Duration::from_secs(90);

const SERVERS: &str = "
    accounts {
        SHOP { users: [{user: shop, password: demo}] }
        BATCH { users: [{user: batch, password: demo}] }
        GUESTS { jetstream: enabled, users: [{user: guest, password: demo}] }
    }
    no_auth_user: guest";

/// Why the show does not go on.
enum Stop {
    /// Ctrl-C or SIGTERM.
    Asked,
    /// Something did not come true.
    Failed(String),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--once"] => true,
        _ => {
            eprintln!("usage: demo [--once]");
            return ExitCode::from(2);
        }
    };
    OWN_GROUP.store(true, SeqCst); // Ctrl-C is for the demo alone; it ends what it started itself
    match show(once).await {
        Ok(()) | Err(Stop::Asked) => ExitCode::SUCCESS,
        Err(Stop::Failed(what)) => {
            eprintln!("demo: {what}");
            ExitCode::FAILURE
        }
    }
}

async fn show(once: bool) -> Result<(), Stop> {
    let mut stage = Stage::set().await?;
    let shop = Login::user("shop", "demo").lang("go");
    let batch = Login::user("batch", "demo").lang("go");

    stage.act("180 clients of the account SHOP connect, all at the same moment");
    stage.fleet("shop", 180, &shop);
    stage.until("all are in", |now| now.connected == 180 && now.agrees()).await?;
    stage.done(&format!("180 connected, {} on the servers: placed by load, paced, nobody refused", stage.now.spread()));

    stage.act(&format!("70 clients of the account BATCH connect; its quota is {QUOTA}"));
    stage.fleet("batch", 70, &batch);
    stage
        .until("the quota is used and the rest refused", |now| {
            now.connected == 180 + QUOTA && now.agrees() && now.refused("account_quota") >= 30.0
        })
        .await?;
    stage.linger(4).await?;
    stage.done("40 are in; 30 read 'maximum account active connections exceeded' and try again; SHOP is not touched");

    stage.act("200 more clients of SHOP: far more than there is room for");
    stage.fleet("crowd", 200, &shop);
    let room = 3 * (MAX - RESERVE);
    stage
        .until("every slot is filled and the rest refused", |now| {
            now.connected as u64 == room && now.agrees() && now.refused_for_capacity() >= 75.0
        })
        .await?;
    stage.linger(4).await?;
    if stage.cluster.log_contains("maximum connections exceeded") {
        return Err(Stop::Failed("a server had to refuse by itself".into()));
    }
    stage.done(&format!("{room} are in and no server reached its {MAX}; who has no place reads why, and tries again"));

    stage.act("the crowd leaves");
    stage.leaves("crowd").await;
    stage.until("only the others are left", |now| now.connected == 220 && now.agrees()).await?;
    stage.done(&format!("220 connected, {}", stage.now.spread()));

    stage.act("kill -9 n2");
    let lost = stage.now.servers[1].unwrap_or(0);
    stage.cluster.servers[1].kill9();
    stage.until("its clients are back", |now| now.connected == 220 && now.servers[1].is_none() && now.agrees()).await?;
    stage.done(&format!("its {lost} clients are back on the others: {}", stage.now.spread()));

    stage.act("n2 starts again, and 60 new clients come");
    stage.cluster.servers[1].restart().await;
    stage.until("n2 is seen again", |now| now.up == 3.0).await?;
    stage.fleet("late", 60, &shop);
    stage.until("they are in", |now| now.connected == 280 && now.agrees()).await?;
    stage.done(&format!("{}: new clients go where there is most room, at the cluster's pace", stage.now.spread()));

    if once {
        stage.end().await;
        println!("demo: all as it should be");
        return Ok(());
    }
    let (address, monitor) = (stage.weir.url(), stage.weir.monitor.clone());
    stage.note("");
    stage.note("Now it is yours, until Ctrl-C. Connect your own clients, as many as you like:");
    stage.note(&format!("    {address}        (no password needed)"));
    stage.note(&format!("    nats --server {address} sub '>'        scripts/client-matrix {address}"));
    stage.note(&format!("    curl http://{monitor}/metrics"));
    stage.act("running; Ctrl-C ends it");
    stage.forever().await
}

/// What there is to see at one moment.
#[derive(Clone, Default)]
struct Now {
    /// What each server says it has; `None`: it does not answer.
    servers: Vec<Option<u64>>,
    /// What weir says it has there.
    sessions: Vec<f64>,
    up: f64,
    held: f64,
    refused: BTreeMap<String, f64>,
    /// Of the demo's own clients.
    connected: usize,
    clients: usize,
}

impl Now {
    /// weir's gauges are the servers' own counts.
    fn agrees(&self) -> bool {
        self.servers.iter().zip(&self.sessions).all(|(theirs, ours)| theirs.unwrap_or(0) as f64 == *ours)
    }

    fn refused(&self, reason: &str) -> f64 {
        self.refused.get(reason).copied().unwrap_or(0.0)
    }

    fn refused_for_capacity(&self) -> f64 {
        self.refused("server_capacity") + self.refused("hold_expired") + self.refused("queue_full")
    }

    fn spread(&self) -> String {
        let each = |share: &Option<u64>| share.map_or_else(|| "down".into(), |n| n.to_string());
        self.servers.iter().map(each).collect::<Vec<_>>().join(" / ")
    }

    fn refusals(&self) -> String {
        let all = self.refused.iter().filter(|(_, n)| **n > 0.0);
        let text = all.map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", ");
        if text.is_empty() { "none".into() } else { text }
    }
}

/// The servers, weir, the clients, and the terminal.
struct Stage {
    fleets: BTreeMap<&'static str, Fleet>, // first, so that clients go before what they are connected to
    weir: Weir,
    cluster: Cluster,
    now: Now,
    act: String,
    began: Instant,
    terminal: bool,
    painted: usize,
    last_line: String,
    interrupt: Signal,
    terminate: Signal,
}

impl Stage {
    async fn set() -> Result<Self, Stop> {
        let began = Instant::now();
        let handler = |kind| signal(kind).map_err(|e| Stop::Failed(format!("signal handler: {e}")));
        let (mut interrupt, mut terminate) = (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
        println!("weir demo: three nats-servers, each for {MAX} connections, of which weir keeps {RESERVE} free");
        let build = async {
            let cluster = Cluster::start(3, |server| server.max_connections(MAX).jetstream().with(SERVERS)).await;
            let weir = WeirConfig::of(&cluster)
                .log_level("info")
                .listener("")
                .cluster(&format!("reserve = {RESERVE}"))
                .admission("rate = 150\nburst = 20")
                .account("BATCH", &format!("users = [\"batch\"]\nmax_connections = {QUOTA}"))
                .account("SHOP", "users = [\"shop\"]")
                .start()
                .await;
            (cluster, weir)
        };
        let (cluster, weir) = tokio::select! {
            built = build => built,
            _ = interrupt.recv() => return Err(Stop::Asked),
            _ = terminate.recv() => return Err(Stop::Asked),
        };
        for server in &cluster.servers {
            println!("  {}    {}", server.name, server.url());
        }
        println!("  weir  {}    the one address for clients\n", weir.url());
        let terminal = std::io::stdout().is_terminal();
        let (now, act, last_line) = (Now::default(), String::new(), String::new());
        let fleets = BTreeMap::new();
        Ok(Self { fleets, weir, cluster, now, act, began, terminal, painted: 0, last_line, interrupt, terminate })
    }

    /// Clients with the tempo of nats.go.
    fn fleet(&mut self, name: &'static str, n: usize, login: &Login) {
        let fleet = Fleet::start(&self.weir.address, n, &login.clone().name(name), Habit::NATS_GO);
        self.fleets.insert(name, fleet);
    }

    async fn leaves(&mut self, name: &str) {
        if let Some(fleet) = self.fleets.remove(name) {
            fleet.end().await;
        }
    }

    fn act(&mut self, text: &str) {
        self.act = text.into();
        if !self.terminal {
            self.note(&format!("> {text}"));
        }
    }

    fn done(&mut self, text: &str) {
        let act = std::mem::take(&mut self.act);
        if self.terminal {
            self.note(&format!("> {act}"));
        }
        self.note(&format!("  ok: {text}"));
    }

    /// A line that stays; the live view goes on below it.
    fn note(&mut self, line: &str) {
        self.wipe();
        println!("{line}");
    }

    /// Looks, paints, and looks again until `come_true`.
    async fn until(&mut self, what: &str, come_true: impl Fn(&Now) -> bool) -> Result<(), Stop> {
        let began = Instant::now();
        loop {
            self.look_and_paint().await?;
            if come_true(&self.now) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let line = self.plain();
                return Err(Stop::Failed(format!("{}: not within {PATIENCE:?}: {what}\n{line}", self.act)));
            }
        }
    }

    /// Goes on looking for a moment, so that people can, too.
    async fn linger(&mut self, seconds: u64) -> Result<(), Stop> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            self.look_and_paint().await?;
        }
        Ok(())
    }

    async fn forever(&mut self) -> Result<(), Stop> {
        loop {
            self.look_and_paint().await?;
        }
    }

    async fn end(&mut self) {
        for (_, fleet) in std::mem::take(&mut self.fleets) {
            fleet.end().await;
        }
        self.wipe();
    }

    async fn look_and_paint(&mut self) -> Result<(), Stop> {
        tokio::select! {
            now = look(&self.cluster, &self.weir, &self.fleets) => self.now = now,
            _ = self.interrupt.recv() => return Err(Stop::Asked),
            _ = self.terminate.recv() => return Err(Stop::Asked),
        }
        if let Some(status) = self.weir.exited() {
            return Err(Stop::Failed(format!("weir has ended: {status}\n{}", self.weir.log())));
        }
        if self.terminal {
            self.paint();
        } else {
            let line = self.plain();
            if line != self.last_line {
                println!("  {} {line}", self.clock());
                self.last_line = line;
            }
        }
        let pause = if self.terminal { 100 } else { 500 };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause)) => Ok(()),
            _ = self.interrupt.recv() => Err(Stop::Asked),
            _ = self.terminate.recv() => Err(Stop::Asked),
        }
    }

    fn clock(&self) -> String {
        let seconds = self.began.elapsed().as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }

    fn plain(&self) -> String {
        let Now { held, connected, clients, sessions, .. } = &self.now;
        let (spread, refusals, ours) = (self.now.spread(), self.now.refusals(), sessions.iter().sum::<f64>());
        format!("servers {spread} | weir {ours}, held {held} | clients {connected} of {clients} | refused {refusals}")
    }

    /// Takes the live view off the terminal.
    fn wipe(&mut self) {
        if self.painted > 0 {
            print!("\x1b[{}A\x1b[J", self.painted);
            self.painted = 0;
        }
    }

    fn paint(&mut self) {
        let Now { held, connected, clients, servers, sessions, .. } = &self.now;
        let mut view = format!("\x1b[1m> {}\x1b[0m   {}\n\n", self.act, self.clock());
        for (i, server) in self.cluster.servers.iter().enumerate() {
            let bar = servers[i].map_or_else(|| "\x1b[31mdown\x1b[0m".into(), bar);
            let theirs = servers[i].map_or_else(|| "-".into(), |n| n.to_string());
            writeln!(view, "  {}  {bar}  {theirs:>3} of {MAX}   weir says {}", server.name, sessions[i])
                .expect("string");
        }
        write!(
            view,
            "\n  held {held}   clients connected {connected} of {clients}\n  refused: {}\n",
            self.now.refusals()
        )
        .expect("string");
        self.wipe();
        self.painted = view.lines().count();
        print!("\x1b[?7l{view}\x1b[?7h"); // without wrapping: a line of the view is a line of the terminal
        let _ = std::io::stdout().flush();
    }
}

/// One cell for three connections; `:` marks the reserve.
fn bar(connections: u64) -> String {
    let cell = |i| match i * 3 {
        at if at < connections => "█",
        at if at >= MAX - RESERVE => ":",
        _ => "·",
    };
    let cells: String = (0..MAX / 3).map(cell).collect();
    format!("\x1b[32m{cells}\x1b[0m")
}

async fn look(cluster: &Cluster, weir: &Weir, fleets: &BTreeMap<&'static str, Fleet>) -> Now {
    let servers = futures::future::join_all(
        cluster
            .servers
            .iter()
            .map(|server| async { server.monitoring("/varz").await.and_then(|varz| varz["connections"].as_u64()) }),
    );
    let metrics = http::get(&weir.monitor, "/metrics");
    let (servers, metrics) = tokio::join!(servers, metrics);
    let metrics = metrics::Metrics::parse(&metrics.map(|(_, text)| text).unwrap_or_default());
    let session = |server: &NatsServer| metrics.sum_where("weir_sessions_active", "server", &server.name);
    let reason = |sample: &str| sample.split('"').nth(1).unwrap_or("?").to_owned();
    Now {
        servers,
        sessions: cluster.servers.iter().map(session).collect(),
        up: metrics.sum("weir_server_up"),
        held: metrics.sum("weir_held"),
        refused: metrics.of("weir_refused_total").map(|(sample, n)| (reason(sample), n)).collect(),
        connected: fleets.values().map(Fleet::connected).sum(),
        clients: fleets.values().map(Fleet::size).sum(),
    }
}
