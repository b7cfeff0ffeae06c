//! The report of a run, as text and as JSON. The names of the fields are those of the JSON.

use std::{collections::BTreeMap, fmt, sync::atomic::Ordering::Relaxed, time::Duration};

use serde::Serialize;

use crate::storm::{
    live::{
        LoadRun,
        self_load::CpuMeter,
        stats::{PhaseStats, Stats},
    },
    text::grouped,
};

/// One phase: the first connects, or the return after the drop.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    /// `connect` or `reconnect`.
    pub phase: &'static str,
    /// Clients that connected in this phase.
    pub came_in: usize,
    /// Seconds until 50 % of all clients had connected; `None`: they never had.
    pub seconds_to_50: Option<f64>,
    pub seconds_to_90: Option<f64>,
    pub seconds_to_99: Option<f64>,
    pub seconds_to_100: Option<f64>,
    /// Attempts of all clients.
    pub tries: u64,
    /// The most attempts that one client needed to connect.
    pub most_tries: u64,
    /// Refusals, by the text of `-ERR`.
    pub refused: BTreeMap<String, u64>,
    /// Other failures, by what happened and at which step.
    pub errors: BTreeMap<String, u64>,
}

/// The TLS handshakes of all phases.
#[derive(Debug, Clone, Serialize)]
pub struct TlsReport {
    /// Full handshakes.
    pub full: u64,
    /// Handshakes that resumed with a ticket.
    pub resumed: u64,
    /// Failed handshakes, by what happened.
    pub failed: BTreeMap<String, u64>,
    /// The CPU time of the clients' part. [`LoadReport::cpu_seconds`] includes it.
    pub cpu_seconds: f64,
}

impl TlsReport {
    fn new(stats: &Stats) -> Self {
        let mut failed = BTreeMap::new();
        for (what, n) in stats.first.errors().into_iter().chain(stats.again.errors()) {
            if let Some(what) = what.strip_suffix(": TLS") {
                *failed.entry(what.to_owned()).or_default() += n;
            }
        }
        Self {
            full: stats.tls.full.load(Relaxed),
            resumed: stats.tls.resumed.load(Relaxed),
            failed,
            cpu_seconds: stats.tls.cpu().as_secs_f64(),
        }
    }

    fn done(&self) -> u64 {
        self.full + self.resumed
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    pub clients: usize,
    /// The libraries of the clients, and the source of their figures.
    pub libraries: BTreeMap<&'static str, &'static str>,
    pub addresses: Vec<String>,
    /// One phase, or two if the connections were dropped.
    pub phases: Vec<PhaseReport>,
    /// Clients connected at the end.
    pub connected: u64,
    /// Clients that gave up for good, as their library does.
    pub given_up: u64,
    /// Connections that ended, other than those that the run dropped.
    pub cut: u64,
    /// Sockets still open although their client has given up the attempt. Go and Python leave them open.
    pub ghosts: u64,
    /// Such sockets that were closed because of the limit of open files.
    pub ghosts_closed: u64,
    pub seconds: f64,
    /// The CPU time of this process.
    pub cpu_seconds: f64,
    /// How long the threads of this process were busy.
    pub busy_seconds: f64,
    /// The longest delay of a thread with the work of its clients.
    pub late_seconds: f64,
    pub tls: Option<TlsReport>,
    /// The number of threads that the clients ran on.
    pub threads: usize,
    #[serde(skip)]
    title: String,
}

impl PhaseReport {
    fn new(name: &'static str, phase: &PhaseStats, clients: usize) -> Self {
        let times = phase.connected_after();
        let until = |percent: usize| {
            let needed = (clients * percent).div_ceil(100).max(1);
            times.get(needed - 1).map(Duration::as_secs_f64)
        };
        Self {
            phase: name,
            came_in: times.len(),
            seconds_to_50: until(50),
            seconds_to_90: until(90),
            seconds_to_99: until(99),
            seconds_to_100: until(100),
            tries: phase.attempts.load(Relaxed),
            most_tries: phase.most_tries.load(Relaxed),
            refused: phase.refused(),
            errors: phase.errors(),
        }
    }
}

impl LoadReport {
    pub(super) fn new(run: &LoadRun, stats: &Stats, elapsed: Duration, cpu: CpuMeter) -> Self {
        let (cpu, busy) = cpu.finish();
        let mut phases = vec![PhaseReport::new("connect", &stats.first, run.clients)];
        if stats.dropped.load(Relaxed) {
            phases.push(PhaseReport::new("reconnect", &stats.again, run.clients));
        }
        let addresses: Vec<_> = run.targets.iter().map(ToString::to_string).collect();
        Self {
            clients: run.clients,
            libraries: run.mix.libraries().iter().map(|library| (library.lang, library.source)).collect(),
            title: format!("{} {} clients on {}", grouped(run.clients as u64), run.mix.name(), addresses.join(", ")),
            addresses,
            phases,
            connected: stats.connected.load(Relaxed),
            given_up: stats.given_up.load(Relaxed),
            cut: stats.lost.load(Relaxed),
            ghosts: stats.abandoned.load(Relaxed),
            ghosts_closed: stats.abandoned_closed.load(Relaxed),
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: cpu.as_secs_f64(),
            busy_seconds: busy.as_secs_f64(),
            late_seconds: stats.delay.longest().as_secs_f64(),
            tls: run.tls.is_some().then(|| TlsReport::new(stats)),
            threads: run.threads,
        }
    }

    /// Whether every client is connected.
    pub fn all_connected(&self) -> bool {
        self.connected == self.clients as u64
    }

    /// Whether this process was so busy, or so late, that the times say more about it than about the servers: busy for
    /// over a quarter of the time until all clients had connected, or late by over 5 % of that time.
    pub fn is_own_bottleneck(&self) -> bool {
        let took = |phase: &PhaseReport| phase.seconds_to_100.unwrap_or(self.seconds);
        let (all, shortest) =
            self.phases.iter().map(took).fold((0.0, f64::MAX), |(sum, least), took| (sum + took, took.min(least)));
        self.busy_seconds > 0.25 * all || self.late_seconds > 0.05 * shortest
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for (lang, source) in &self.libraries {
            writeln!(f, "  {lang}: {source}")?;
        }
        for phase in &self.phases {
            write!(f, "{phase}")?;
        }
        let mut end =
            vec![format!("connected {}", grouped(self.connected)), format!("given up for good {}", self.given_up)];
        let mut also = |n: u64, what: &str| {
            if n > 0 {
                end.push(format!("{} {what}", grouped(n)))
            }
        };
        also(self.cut, "connections ended by the other side");
        also(self.ghosts, "sockets still open although their client has given up the attempt");
        also(self.ghosts_closed, "more such sockets, closed because of the limit of open files");
        writeln!(f, "at the end: {}", end.join(", "))?;
        if let Some(tls) = &self.tls {
            let failed: u64 = tls.failed.values().sum();
            let [full, resumed, failed] = [tls.full, tls.resumed, failed].map(grouped);
            writeln!(f, "TLS handshakes: {full} full, {resumed} resumed, {failed} failed")?;
        }
        write!(
            f,
            "this process took {:.2} s of CPU time in {:.2} s; it was busy for {:.1} s and at most {:.0} ms late",
            self.cpu_seconds,
            self.seconds,
            self.busy_seconds,
            1e3 * self.late_seconds
        )?;
        if let Some(tls) = &self.tls {
            let each = 1e3 * tls.cpu_seconds / tls.done().max(1) as f64;
            write!(
                f,
                "; its part of the TLS handshakes took {:.2} s of CPU time ({each:.2} ms each)",
                tls.cpu_seconds
            )?;
        }
        if self.is_own_bottleneck() {
            write!(f, "; the times are upper bounds, because this process was too busy")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for PhaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |seconds: Option<f64>| seconds.map_or("never".to_owned(), |s| format!("in {s:.2} s"));
        writeln!(
            f,
            "{}: 50 % {}, 90 % {}, 99 % {}, all {}",
            self.phase,
            time(self.seconds_to_50),
            time(self.seconds_to_90),
            time(self.seconds_to_99),
            time(self.seconds_to_100)
        )?;
        writeln!(f, "  {} tries, at most {} by one client that connected", grouped(self.tries), self.most_tries)?;
        for (text, n) in &self.refused {
            writeln!(f, "  refused {} times: {text}", grouped(*n))?;
        }
        for (what, n) in &self.errors {
            writeln!(f, "  failed {} times: {what}", grouped(*n))?;
        }
        Ok(())
    }
}
