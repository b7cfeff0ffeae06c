//! What a storm has shown, for people and as JSON.

use std::{collections::BTreeMap, fmt, sync::atomic::Ordering::Relaxed, time::Duration};

use serde::Serialize;

use crate::storm::{
    live::{
        Storm,
        client::Shared,
        own::Cpu,
        seen::{Phase, Seen},
    },
    text::grouped,
};

/// One phase: the first connects, or the return after a drop.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    /// `connect` or `reconnect`.
    pub phase: &'static str,
    /// Clients that got in.
    pub came_in: usize,
    /// Seconds until 50 % of all clients had got in; `None` when they did not.
    pub seconds_to_50: Option<f64>,
    /// The same for 90 %.
    pub seconds_to_90: Option<f64>,
    /// The same for 99 %.
    pub seconds_to_99: Option<f64>,
    /// The same for all.
    pub seconds_to_100: Option<f64>,
    /// Tries of all clients.
    pub tries: u64,
    /// The most tries that any client needed to get in.
    pub most_tries: u64,
    /// Refusals by text.
    pub refused: BTreeMap<String, u64>,
    /// Other failures: what happened, and at which step.
    pub errors: BTreeMap<String, u64>,
}

/// TLS handshakes of all phases, as the clients saw them.
#[derive(Debug, Clone, Serialize)]
pub struct TlsReport {
    /// Done in full.
    pub full: u64,
    /// Done with a ticket.
    pub resumed: u64,
    /// Not done: what happened.
    pub failed: BTreeMap<String, u64>,
    /// CPU of the clients' part, in this process; also part of its whole.
    pub cpu_seconds: f64,
}

impl TlsReport {
    fn of(seen: &Seen) -> Self {
        let mut failed = BTreeMap::new();
        for (what, n) in seen.first.errors().into_iter().chain(seen.again.errors()) {
            if let Some(what) = what.strip_suffix(": TLS") {
                *failed.entry(what.to_owned()).or_default() += n;
            }
        }
        Self {
            full: seen.tls.full.load(Relaxed),
            resumed: seen.tls.resumed.load(Relaxed),
            failed,
            cpu_seconds: seen.tls.cpu().as_secs_f64(),
        }
    }

    fn done(&self) -> u64 {
        self.full + self.resumed
    }
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How many clients there were.
    pub clients: usize,
    /// Of which libraries, and where the figures of each come from.
    pub libraries: BTreeMap<&'static str, &'static str>,
    /// Where they went.
    pub addresses: Vec<String>,
    /// One or two phases.
    pub phases: Vec<PhaseReport>,
    /// Connected at the end.
    pub connected: u64,
    /// Closed for good, as their library does.
    pub given_up: u64,
    /// Established connections that the other side ended.
    pub cut: u64,
    /// Sockets still open of attempts that were given up (Go and Python leave them so).
    pub ghosts: u64,
    /// More of those, closed since the limit of open files did not allow them.
    pub ghosts_closed: u64,
    /// How long it took.
    pub seconds: f64,
    /// CPU of this process alone.
    pub cpu_seconds: f64,
    /// For so long its threads had hardly a moment left.
    pub busy_seconds: f64,
    /// The most that a thread was late with what its clients had to do.
    pub late_seconds: f64,
    /// TLS, where it was spoken.
    pub tls: Option<TlsReport>,
    /// Threads that carried the clients.
    pub threads: usize,
    #[serde(skip)]
    title: String,
}

impl PhaseReport {
    fn of(name: &'static str, phase: &Phase, clients: usize) -> Self {
        let back = phase.back();
        let until = |percent: usize| {
            let needed = (clients * percent).div_ceil(100).max(1);
            back.get(needed - 1).map(Duration::as_secs_f64)
        };
        Self {
            phase: name,
            came_in: back.len(),
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

impl Report {
    pub(super) fn of(storm: &Storm, shared: &Shared, elapsed: Duration, own: Cpu) -> Self {
        let (cpu, busy) = own.end();
        let seen: &Seen = &shared.seen;
        let mut phases = vec![PhaseReport::of("connect", &seen.first, storm.clients)];
        if seen.dropped.load(Relaxed) {
            phases.push(PhaseReport::of("reconnect", &seen.again, storm.clients));
        }
        let addresses: Vec<_> = storm.targets.iter().map(ToString::to_string).collect();
        Self {
            clients: storm.clients,
            libraries: storm.like.libraries().iter().map(|library| (library.lang, library.source)).collect(),
            title: format!(
                "{} {} clients on {}",
                grouped(storm.clients as u64),
                storm.like.name(),
                addresses.join(", ")
            ),
            addresses,
            phases,
            connected: seen.connected.load(Relaxed),
            given_up: seen.given_up.load(Relaxed),
            cut: seen.cut.load(Relaxed),
            ghosts: seen.ghosts.load(Relaxed),
            ghosts_closed: seen.ghosts_closed.load(Relaxed),
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: cpu.as_secs_f64(),
            busy_seconds: busy.as_secs_f64(),
            late_seconds: seen.late.most().as_secs_f64(),
            tls: storm.tls.is_some().then(|| TlsReport::of(seen)),
            threads: storm.threads,
        }
    }

    /// Whether every client is connected.
    pub fn all_in(&self) -> bool {
        self.connected == self.clients as u64
    }

    /// Whether this process was too busy to measure anything but itself: for a good part of what it took until all were in, or so
    /// late that it shows in that.
    pub fn is_own_bottleneck(&self) -> bool {
        let took = |phase: &PhaseReport| phase.seconds_to_100.unwrap_or(self.seconds);
        let (all, shortest) =
            self.phases.iter().map(took).fold((0.0, f64::MAX), |(sum, least), took| (sum + took, took.min(least)));
        self.busy_seconds > 0.25 * all || self.late_seconds > 0.05 * shortest
    }
}

impl fmt::Display for Report {
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
        also(self.cut, "cut by the other side");
        also(self.ghosts, "sockets left open by clients that had given up the attempt");
        also(self.ghosts_closed, "more such sockets, closed for want of files");
        writeln!(f, "at the end: {}", end.join(", "))?;
        if let Some(tls) = &self.tls {
            let failed: u64 = tls.failed.values().sum();
            let [full, resumed, failed] = [tls.full, tls.resumed, failed].map(grouped);
            writeln!(f, "TLS handshakes: {full} full, {resumed} resumed, {failed} failed")?;
        }
        write!(
            f,
            "this process took {:.2} s of CPU in {:.2} s, was busy for {:.1} s of them and at most {:.0} ms late",
            self.cpu_seconds,
            self.seconds,
            self.busy_seconds,
            1e3 * self.late_seconds
        )?;
        if let Some(tls) = &self.tls {
            let each = 1e3 * tls.cpu_seconds / tls.done().max(1) as f64;
            write!(f, "; {:.2} s of CPU for its part of the TLS handshakes ({each:.2} ms each)", tls.cpu_seconds)?;
        }
        if self.is_own_bottleneck() {
            write!(f, ", so the times are upper bounds")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for PhaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |seconds: Option<f64>| seconds.map_or("not".to_owned(), |s| format!("{s:.2} s"));
        writeln!(
            f,
            "{}: 50 % in {}, 90 % in {}, 99 % in {}, all in {}",
            self.phase,
            time(self.seconds_to_50),
            time(self.seconds_to_90),
            time(self.seconds_to_99),
            time(self.seconds_to_100)
        )?;
        writeln!(f, "  {} tries, {} at most by a client that got in", grouped(self.tries), self.most_tries)?;
        for (text, n) in &self.refused {
            writeln!(f, "  refused {} times: {text}", grouped(*n))?;
        }
        for (what, n) in &self.errors {
            writeln!(f, "  failed {} times: {what}", grouped(*n))?;
        }
        Ok(())
    }
}
