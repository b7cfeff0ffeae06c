//! The same storm twice: at a cluster by itself, and at an identical one behind weir.

use std::time::{Duration, Instant};

use crate::Failed;
use crate::screen::Screen;
use crate::side::Side;
use weir_testkit::{Crowd, Habit, Login};

/// How long the storm without weir is watched.
pub(crate) const WATCHED: Duration = Duration::from_secs(25);
/// A storm has work for the servers for so many seconds: three times as long as a client of nats.go waits (2 s).
const WORK: f64 = 6.0;

/// What a client is told that finds no place, or whose turn does not come in time.
const REFUSED: &str = "maximum connections exceeded";

/// bcrypt hashes of the password `demo`. A login at cost 11 (what the NATS tools make) takes about 0.1 s of one core;
/// each step doubles it. On machines with more cores a login costs more here, so that a few hundred clients are a storm
/// there too.
const PASSWORDS: [&str; 4] = [
    "$2a$11$abcdefghijklmnopqrstuujwMkwxFQ9SwYTadCvYORCI1D/wjstIG",
    "$2a$12$abcdefghijklmnopqrstuuPZMSJg2LUPgP73PQ9tCr.AZ2Qkj/kWa",
    "$2a$13$abcdefghijklmnopqrstuuLjTquiVrDs/8oWJ4qaqdF7N8unZXmeC",
    "$2a$14$abcdefghijklmnopqrstuuiOyn5sCfEku6F4seDbKXB878tnN9VZi",
];

/// The stored password of the storm's clients, and its bcrypt cost.
pub(crate) fn password() -> (&'static str, usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let step = match cores {
        ..=4 => 0,
        5..=8 => 1,
        9..=16 => 2,
        _ => 3,
    };
    (PASSWORDS[step], 11 + step)
}

pub(crate) fn login() -> Login {
    Login::user("storm", "demo").lang("go")
}

/// Measures how many of the storm's logins the servers finish in a second when a few clients come at a time.
pub(crate) async fn logins_a_second(side: &Side, screen: &mut Screen) -> f64 {
    let began = Instant::now();
    let few = 3 * std::thread::available_parallelism().map_or(1, usize::from).min(16);
    screen.started.clients += few;
    let once = Habit::ONCE;
    let crowds: Vec<_> =
        side.addresses().iter().map(|address| Crowd::start(address, few / 3, &login(), once)).collect();
    for crowd in &crowds {
        crowd.decided().await;
    }
    let rate = few as f64 / began.elapsed().as_secs_f64();
    for crowd in crowds {
        crowd.end().await;
    }
    rate
}

/// How many clients make a storm of [`WORK`] seconds: divisible by three servers, and few enough to find room on them.
pub(crate) fn size(logins_a_second: f64) -> usize {
    let clients = (logins_a_second * WORK) as usize;
    clients.clamp(30, 300) / 3 * 3
}

/// What a storm came to.
pub(crate) struct Outcome {
    clients: usize,
    /// How many were connected within [`WATCHED`].
    pub(crate) connected: usize,
    /// When all were connected.
    pub(crate) all_in: Option<Duration>,
    pub(crate) attempts: usize,
    /// Attempts that nothing answered within the client's 2 s.
    timed_out: u64,
    /// Attempts refused with weir's or the server's reason.
    refused: u64,
    /// Attempts that ended in another way, e.g. closed without a word.
    other: u64,
}

impl Outcome {
    /// All attempts that failed, by kind.
    pub(crate) fn failed(&self) -> String {
        let other = if self.other > 0 { format!(", {} ended without a reason", self.other) } else { String::new() };
        format!("{} timed out, {} were refused with a reason{other}", self.timed_out, self.refused)
    }
}

/// Lets `clients` connect at the same moment, and watches until all are connected; without weir for [`WATCHED`] at
/// most.
pub(crate) async fn run(side: &mut Side, screen: &mut Screen, clients: usize) -> Result<Outcome, Failed> {
    let began = Instant::now();
    side.crowd(screen, "storm", clients, &login());
    let mut all_in = None;
    while began.elapsed() < WATCHED && all_in.is_none() {
        side.watch(screen).await?;
        all_in = (side.now.connected == clients).then(|| began.elapsed());
    }
    let connected = side.now.connected;
    if side.weir.is_some() && all_in.is_none() {
        side.until(screen, "all clients of the storm are connected", |now| now.connected == clients).await?;
        all_in = Some(began.elapsed());
    }
    let (mut timed_out, mut refused, mut other) = (0, 0, 0);
    for (what, n) in side.failures() {
        match what.as_str() {
            "timed out" => timed_out += n,
            REFUSED => refused += n,
            _ => other += n,
        }
    }
    Ok(Outcome { clients, connected, all_in, attempts: side.attempts(), timed_out, refused, other })
}

/// Both outcomes side by side.
pub(crate) fn table(without: &Outcome, with: &Outcome) -> Vec<String> {
    let watched = WATCHED.as_secs();
    let all_in = |one: &Outcome| match one.all_in {
        Some(time) => format!("{:.1} s", time.as_secs_f64()),
        None => format!("not in {watched} s"),
    };
    let row = |what: &str, left: String, right: String| format!("  {what:<28}{left:>12}{right:>12}");
    vec![
        row("the same storm", "without weir".into(), "with weir".into()),
        row("clients", without.clients.to_string(), with.clients.to_string()),
        row(&format!("connected within {watched} s"), without.connected.to_string(), with.connected.to_string()),
        row("until all were connected", all_in(without), all_in(with)),
        row("attempts to connect", without.attempts.to_string(), with.attempts.to_string()),
        row("  of these: timed out", without.timed_out.to_string(), with.timed_out.to_string()),
        row("  refused with a reason", without.refused.to_string(), with.refused.to_string()),
        row("  ended otherwise", without.other.to_string(), with.other.to_string()),
    ]
}
