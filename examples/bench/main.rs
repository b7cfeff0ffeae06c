//! Measures weir and its peers in front of the same nats-server, one after the other. `scripts/bench` gets the programs
//! that this needs and runs it; `benches/README.md` says what is measured.

mod clients;
mod line;
mod nats;
mod relay;
mod rtt;
mod stage;
mod table;
mod tls;
mod usage;

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use tempfile::TempDir;

use self::{
    relay::{Load, Ready},
    stage::{Candidate, Kind, Server},
    table::{Table, Target},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Handshakes: INFO to PONG, then close.
    Connect,
    /// Handshakes at a low rate, 200 a second.
    Handshake,
    /// Handshakes of clients far away.
    Distant,
    /// Messages as fast as they go.
    Relay,
    /// 40,000 messages a second over 200 connections.
    Paced,
    /// Request and reply at a low rate.
    Rtt,
    /// Memory and CPU of sessions that do nothing, weir's over TLS too.
    Idle,
    /// Clients before a full server.
    Refuse,
    /// Clients that come, go, leave half-way and are refused, for `--minutes`. Runs only if it is named.
    Churn,
}

const MODES: [Mode; 8] =
    [Mode::Connect, Mode::Handshake, Mode::Distant, Mode::Relay, Mode::Paced, Mode::Rtt, Mode::Idle, Mode::Refuse];

/// Measures weir and its peers, one after the other.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Args {
    /// Rounds; the result of fewer than five is noise.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these modes.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = MODES)]
    only: Vec<Mode>,
    /// Only these candidates.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    candidates: Vec<Kind>,
    /// Only this message size, in bytes, in mode relay.
    #[arg(long, value_parser = one_of_the_sizes)]
    size: Option<usize>,
    /// This number of publishers in mode relay, instead of its own numbers.
    #[arg(long)]
    pairs: Option<usize>,
    /// Clients at once in modes connect and refuse, instead of their own numbers.
    #[arg(long)]
    at_once: Option<u64>,
    /// How long mode churn goes on.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Multiplies the number of operations, to give a profiler more to see.
    #[arg(long, default_value_t = 1)]
    times: u64,
}

/// Handshakes of one measurement, and how many of them are under way at once.
const CONNECTS: (u64, u64) = (8_000, 32);
/// Handshakes at a low rate, and the time between two of them.
const HANDSHAKES: (u64, Duration) = (1_000, Duration::from_millis(5));
/// Handshakes over a line, and its round trip in milliseconds.
const LINES: [(u64, u64); 2] = [(400, 1), (100, 20)];
/// Attempts of one measurement, and how many are under way at once: weir delays a refusal by up to 1.5 s on purpose.
const REFUSALS: (u64, u64) = (30_000, 4_000);
/// Idle sessions at the first and at the second measurement of memory.
const IDLE: (u64, u64) = (1_000, 9_000);
/// The time before CPU is measured: the server's first PING comes after 2 s.
const IDLE_SETTLES: Duration = Duration::from_secs(4);
/// How long the CPU of idle sessions is measured.
const IDLE_LASTS: Duration = Duration::from_secs(5);
/// Requests of one measurement.
const REQUESTS: u64 = 2_000;
/// `max_connections` of the server of mode churn, and how many clients come to it at once.
const CHURN: (u32, u64) = (64, 128);
/// `max_connections` of the full server.
const FULL: u32 = 8;

/// Size, messages in all, and the target for weir's CPU per message over the best peer's.
const SIZES: [(usize, u64, Target); 5] = [
    (16, 6_000_000, Target::AtMost(1.1)),
    (128, 4_000_000, Target::AtMost(0.95)),
    (1024, 800_000, Target::AtMost(0.9)),
    (65_536, 16_000, Target::AtMost(0.85)),
    (1_048_576, 1_000, Target::None),
];
const PAIRS: [usize; 3] = [1, 10, 500];

fn one_of_the_sizes(text: &str) -> Result<usize, String> {
    let sizes = SIZES.map(|(size, ..)| size);
    let size = text.parse().ok().filter(|size| sizes.contains(size));
    size.ok_or_else(|| format!("one of {sizes:?}"))
}

/// What this share of them did not take longer than, in microseconds. They are sorted.
fn at_share(took: &[Duration], share: f64) -> f64 {
    took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6
}

struct Bench {
    args: Args,
    dir: TempDir,
    server: Server,
    candidates: Vec<(Kind, Candidate)>,
    table: Table,
    failures: Vec<String>,
    round: u32,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: Args) -> Outcome<bool> {
    let (there, missing): (Vec<_>, Vec<_>) = args.candidates.iter().partition(|kind| kind.is_there());
    args.candidates = there;
    for kind in missing {
        eprintln!("bench: {} is missing, and is left out", kind.name());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = tempfile::Builder::new().prefix("weir-bench").tempdir()?;
    let server = Server::start(dir.path(), 60_000)?;
    let mut candidates = Vec::new();
    for &kind in &args.candidates {
        let candidate = server.front(kind, dir.path())?;
        eprintln!("bench: {} runs as process {}", kind.name(), candidate.id().unwrap_or(server.id()));
        candidates.push((kind, candidate));
    }
    let mut bench = Bench { args, dir, server, candidates, table: Table::default(), failures: Vec::new(), round: 0 };
    runtime.block_on(bench.rounds());
    println!("{}", bench.table.print(&bench.args.candidates));
    for failure in &bench.failures {
        println!("failed: {failure}");
    }
    Ok(bench.failures.is_empty())
}

impl Bench {
    async fn rounds(&mut self) {
        // A warm-up: what a process does only once is not to be measured.
        for at in self.shuffled(Mode::Connect) {
            let (kind, address) = (self.candidates[at].0, self.candidates[at].1.address);
            if let Err(error) = clients::connect(address, 500, 8).await {
                self.failures.push(format!("{}, warming up: {error}", kind.name()));
            }
        }
        for round in 1..=self.args.rounds {
            self.round = round;
            for mode in self.args.only.clone() {
                eprintln!("bench: round {round} of {}, {mode:?}", self.args.rounds);
                match mode {
                    Mode::Relay => self.relay_all().await,
                    Mode::Refuse => self.refuse().await,
                    Mode::Churn => {
                        for at in self.shuffled(mode) {
                            let measured = self.churn(at).await;
                            self.note(at, "Churn", measured);
                        }
                    }
                    _ => {
                        for at in self.shuffled(mode) {
                            let measured = match mode {
                                Mode::Connect => self.connect(at).await,
                                Mode::Handshake => self.handshake(at),
                                Mode::Distant => self.distant(at),
                                Mode::Paced => self.paced(at).await,
                                Mode::Rtt => self.rtt(at),
                                _ => self.idle(at).await,
                            };
                            self.note(at, &format!("{mode:?}"), measured);
                        }
                    }
                }
            }
        }
    }

    /// The indexes of the candidates that take part, in another order each time. The rejector takes part only where
    /// clients are refused.
    fn shuffled(&self, mode: Mode) -> Vec<usize> {
        let takes_part = |&at: &usize| match self.candidates[at].0 {
            Kind::Rejector => mode == Mode::Refuse,
            _ => true,
        };
        let mut order: Vec<_> = (0..self.candidates.len()).filter(takes_part).collect();
        fastrand::shuffle(&mut order);
        order
    }

    fn note(&mut self, at: usize, what: &str, measured: Outcome<()>) {
        if let Err(error) = measured {
            let failure = format!("{}, {what}: {error}", self.candidates[at].0.name());
            eprintln!("bench: {failure}");
            self.failures.push(failure);
        }
    }

    /// Adds a value to a row. Without a value it only declares the row.
    fn add(&mut self, at: usize, name: &str, target: Target, value: impl Into<Option<f64>>) {
        let kind = self.candidates[at].0;
        self.table.declare(name, target);
        if let Some(value) = value.into() {
            eprintln!("  {name}: {} {value:.3}", kind.name());
            self.table.add(name, kind, self.round, value);
        }
    }

    /// CPU per operation of `count`, in microseconds; `None` if there is no proxy.
    fn each(&self, at: usize, cpu: f64, count: u64) -> Option<f64> {
        (self.candidates[at].0 != Kind::Direct).then(|| cpu * 1e6 / count as f64)
    }

    /// CPU seconds that the candidate has used so far; the server itself if there is no proxy.
    fn cpu(&self, at: usize) -> Outcome<f64> {
        usage::cpu_seconds(&[self.candidates[at].1.id().unwrap_or(self.server.id())])
    }

    async fn connect(&mut self, at: usize) -> Outcome<()> {
        let count = CONNECTS.0 * self.args.times;
        let both = self.candidates[at].1.with_server(&self.server);
        let (before, both_before) = (self.cpu(at)?, usage::cpu_seconds(&both)?);
        let took =
            clients::connect(self.candidates[at].1.address, count, self.args.at_once.unwrap_or(CONNECTS.1)).await?;
        // The proxy closes the last connections a moment after the clients have gone.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (cpu, of_both) = (self.cpu(at)? - before, usage::cpu_seconds(&both)? - both_before);
        self.add(at, "connect: CPU, µs", Target::AtMost(0.9), self.each(at, cpu, count));
        // A process pays for what the kernel does with a packet that it sends over loopback, also on the other side.
        self.add(at, "connect: CPU of proxy and server, µs", Target::None, of_both * 1e6 / count as f64);
        self.add(at, "connect: clients per second", Target::AtLeast(1.0), count as f64 / took.as_secs_f64());
        Ok(())
    }

    fn handshake(&mut self, at: usize) -> Outcome<()> {
        let address = self.candidates[at].1.address;
        let (count, every) = (HANDSHAKES.0 * self.args.times, HANDSHAKES.1);
        let before = self.cpu(at)?;
        let mut took = tokio::task::block_in_place(|| rtt::handshakes(address, count, every))?;
        let cpu = self.cpu(at)? - before;
        took.sort();
        let at_share = |share| at_share(&took, share);
        self.add(at, "handshake, 200 a second: p50, µs", Target::None, at_share(0.5));
        self.add(at, "handshake, 200 a second: p99, µs", Target::None, at_share(0.99));
        self.add(at, "handshake, 200 a second: CPU, µs", Target::None, self.each(at, cpu, count));
        Ok(())
    }

    fn distant(&mut self, at: usize) -> Outcome<()> {
        for (count, round_trip) in LINES {
            let near = line::open(self.candidates[at].1.address, Duration::from_millis(round_trip))?;
            let count = count * self.args.times;
            let mut took = tokio::task::block_in_place(|| rtt::handshakes(near, count, HANDSHAKES.1))?;
            took.sort();
            for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
                let name = format!("handshake over {round_trip} ms: {name}, µs");
                self.add(at, &name, Target::None, at_share(&took, share));
            }
        }
        Ok(())
    }

    async fn relay_all(&mut self) {
        let (only, pairs) = (self.args.size, self.args.pairs.map_or(PAIRS.to_vec(), |pairs| vec![pairs]));
        for pairs in pairs {
            for (size, messages, target) in SIZES.into_iter().filter(|one| only.is_none_or(|only| only == one.0)) {
                if pairs > 100 && size > 65_536 {
                    continue;
                }
                let load = Load { size, pairs, messages: messages * self.args.times };
                for at in self.shuffled(Mode::Relay) {
                    let measured = self.relay(at, load, target).await;
                    self.note(at, &format!("{load:?}"), measured);
                }
            }
        }
    }

    async fn relay(&mut self, at: usize, load: Load, target: Target) -> Outcome<()> {
        let ready = Ready::open(self.candidates[at].1.address, load).await?;
        let before = self.cpu(at)?;
        let ran = ready.run().await?;
        let cpu = self.cpu(at)? - before;
        let size = match load.size {
            size if size >= 1024 * 1024 => format!("{} MiB", size / (1024 * 1024)),
            size if size >= 1024 => format!("{} KiB", size / 1024),
            size => format!("{size} B"),
        };
        let name = format!("relay {size}, {} → {}", load.pairs, load.pairs);
        self.add(at, &format!("{name}: CPU per message, µs"), target, self.each(at, cpu, ran.messages));
        let rate = ran.messages as f64 / ran.took.as_secs_f64();
        self.add(at, &format!("{name}: messages per second"), Target::AtLeast(0.95), rate);
        Ok(())
    }

    async fn paced(&mut self, at: usize) -> Outcome<()> {
        let load = Load { size: 128, pairs: 100, messages: 0 };
        let ready = Ready::open(self.candidates[at].1.address, load).await?;
        let before = self.cpu(at)?;
        let ran = ready.run_paced(40_000, Duration::from_secs(3 * self.args.times)).await?;
        let cpu = self.cpu(at)? - before;
        let each = self.each(at, cpu, ran.messages);
        self.add(at, "paced 128 B, 100 → 100: CPU per message, µs", Target::AtMost(1.0), each);
        let rate = ran.messages as f64 / ran.took.as_secs_f64();
        self.add(at, "paced 128 B, 100 → 100: messages per second of 40,000", Target::Told, rate);
        Ok(())
    }

    fn rtt(&mut self, at: usize) -> Outcome<()> {
        let address = self.candidates[at].1.address;
        let mut took = tokio::task::block_in_place(|| rtt::run(address, REQUESTS * self.args.times))?;
        took.sort();
        let at_share = |share| at_share(&took, share);
        self.add(at, "request to reply: p50, µs", Target::AtMost(1.05), at_share(0.5));
        self.add(at, "request to reply: p99, µs", Target::AtMost(1.0), at_share(0.99));
        self.add(at, "request to reply: p99.9, µs", Target::None, at_share(0.999));
        Ok(())
    }

    /// Measures a fresh process: memory that an earlier measurement left behind would hide what a session takes.
    async fn idle(&mut self, at: usize) -> Outcome<()> {
        let kind = self.candidates[at].0;
        let fresh = self.server.front(kind, self.dir.path())?;
        let Some(pid) = fresh.id() else { return Ok(()) };
        let first = clients::stay(fresh.address, IDLE.0).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = usage::resident_kib(pid)?;
        let rest = clients::stay(fresh.address, IDLE.1 - IDLE.0).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = usage::resident_kib(pid)?;
        tokio::time::sleep(IDLE_SETTLES).await;
        let cpu_before = usage::cpu_seconds(&[pid])?;
        tokio::time::sleep(IDLE_LASTS).await;
        let cpu = usage::cpu_seconds(&[pid])? - cpu_before;
        drop((first, rest));
        let name = format!("idle, from {} to {} sessions: KiB each", IDLE.0, IDLE.1);
        self.add(at, &name, Target::Below(2.0), (after - before) / (IDLE.1 - IDLE.0) as f64);
        self.add(at, &format!("idle: RSS with {} sessions, MiB", IDLE.1), Target::None, after / 1024.0);
        let each = cpu * 1e9 / IDLE_LASTS.as_secs_f64() / IDLE.1 as f64;
        self.add(at, "idle: CPU of each session in a second, ns", Target::None, each);
        match kind {
            Kind::Weir => self.idle_over_tls(at).await,
            _ => Ok(()),
        }
    }

    /// Only for weir: the peers would do TLS before INFO, which is another protocol.
    async fn idle_over_tls(&mut self, at: usize) -> Outcome<()> {
        let tls = tls::prepare(self.dir.path())?;
        let fresh = self.server.front_with_tls(self.dir.path())?;
        let pid = fresh.id().ok_or("no process")?;
        let first = clients::stay_over_tls(fresh.address, &tls, IDLE.0).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = usage::resident_kib(pid)?;
        let rest = clients::stay_over_tls(fresh.address, &tls, IDLE.1 - IDLE.0).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = usage::resident_kib(pid)?;
        drop((first, rest));
        let name = format!("idle over TLS, from {} to {} sessions: KiB each", IDLE.0, IDLE.1);
        self.add(at, &name, Target::Below(20.0), (after - before) / (IDLE.1 - IDLE.0) as f64);
        Ok(())
    }

    /// Uses a small server of its own, so that half of the clients find no room. What has grown after an hour is a
    /// leak.
    async fn churn(&mut self, at: usize) -> Outcome<()> {
        let kind = self.candidates[at].0;
        let server = Server::start(self.dir.path(), CHURN.0)?;
        let candidate = server.front(kind, self.dir.path())?;
        let Some(pid) = candidate.id() else { return Ok(()) };
        let minutes = self.args.minutes.max(2);
        let mut left = (minutes - 1) * 60;
        // The first minute fills caches and pools.
        let mut counted = clients::churn(candidate.address, CHURN.1, Duration::from_secs(60)).await?;
        let before = Self::state(pid, candidate.address, server.address()).await?;
        while left > 0 {
            let slice = left.min(300);
            counted += clients::churn(candidate.address, CHURN.1, Duration::from_secs(slice)).await?;
            left -= slice;
            let now = Self::state(pid, candidate.address, server.address()).await?;
            eprintln!("  {} minutes left: {counted:?} {now:?}", left / 60);
        }
        let after = Self::state(pid, candidate.address, server.address()).await?;
        for (name, of) in [
            ("RSS, MiB", (|s| s.resident_mib) as fn(&clients::State) -> f64),
            ("descriptors", |s| s.descriptors),
            ("handshake p50, µs", |s| s.handshake.p50),
            ("handshake p99, µs", |s| s.handshake.p99),
            ("handshake p50 over a direct one's", |s| s.handshake.p50 / s.direct.p50),
            ("handshake p99 over a direct one's", |s| s.handshake.p99 / s.direct.p99),
        ] {
            self.add(at, &format!("churn, after 1 minute: {name}"), Target::Told, of(&before));
            self.add(at, &format!("churn, after {minutes} minutes: {name}"), Target::Told, of(&after));
        }
        self.add(at, "churn: clients that were in", Target::Told, counted.admitted as f64);
        self.add(at, "churn: clients that were refused", Target::Told, counted.refused as f64);
        self.add(at, "churn: clients that left half-way", Target::Told, counted.left as f64);
        Ok(())
    }

    /// Measures a candidate while nothing else is going on.
    async fn state(pid: u32, address: SocketAddr, direct: SocketAddr) -> Outcome<clients::State> {
        // Until lingering connections have closed, and the server has forgotten the clients that have gone.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (resident, descriptors) = (usage::resident_kib(pid)? / 1024.0, usage::descriptors(pid)?);
        let [handshake, direct] = clients::handshake_times([address, direct], 1_000).await?;
        Ok(clients::State { resident_mib: resident, descriptors, handshake, direct })
    }

    /// Uses a server of its own, which is full.
    async fn refuse(&mut self) {
        for at in self.shuffled(Mode::Refuse) {
            let measured = self.refuse_at(at).await;
            self.note(at, "Refuse", measured);
        }
    }

    async fn refuse_at(&mut self, at: usize) -> Outcome<()> {
        let kind = self.candidates[at].0;
        let server = Server::start(self.dir.path(), FULL)?;
        let candidate = server.front(kind, self.dir.path())?;
        let direct = server.front(Kind::Direct, self.dir.path())?;
        let _full = clients::fill(direct.address, FULL).await?;
        // weir reads the server's own count once a second.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let both = candidate.with_server(&server);
        let before = usage::cpu_seconds(&both)?;
        let count = REFUSALS.0 * self.args.times;
        let read = clients::refuse(candidate.address, count, self.args.at_once.unwrap_or(REFUSALS.1)).await?;
        let cpu = usage::cpu_seconds(&both)? - before;
        let name = "refusal: CPU of proxy and server, µs";
        let each = cpu * 1e6 / count as f64;
        self.add(at, name, Target::Below(20.0), each);
        if matches!(kind, Kind::Weir | Kind::Rejector) {
            // A target of 20 µs was set when this rejector took 15.5 µs.
            self.add(at, "refusal: the same, beside the rejector's", Target::OfRejector(1.29), each);
        }
        let name = "refusal: told why after CONNECT, % of clients";
        self.add(at, name, Target::Exactly(100.0), read * 100.0);
        Ok(())
    }
}
