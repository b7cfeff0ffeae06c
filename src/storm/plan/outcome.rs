//! What became of the clients of a plan.

use std::time::Duration;

use serde::Serialize;

use crate::{client_library::behaviour::Ending, storm::plan::calendar::Nanos};

/// Collects the [`Outcome`] while a plan is simulated.
#[derive(Debug)]
pub(super) struct OutcomeBuilder {
    /// When each client connected, in ascending order.
    connected_at: Vec<Nanos>,
    /// When the first attempt began.
    pub(super) first_try: Nanos,
    last_lost: Nanos,
    lost: usize,
    most_tries_of_connected: u32,
    refused: u64,
    timed_out: u64,
    pub(super) tries: u64,
    pub(super) wasted: u64,
    pub(super) over_limit: u64,
}

impl OutcomeBuilder {
    pub(super) fn new() -> Self {
        Self {
            connected_at: Vec::new(),
            first_try: Nanos::MAX,
            last_lost: 0,
            lost: 0,
            most_tries_of_connected: 0,
            refused: 0,
            timed_out: 0,
            tries: 0,
            wasted: 0,
            over_limit: 0,
        }
    }

    /// A client has connected with its `tries`th attempt.
    pub(super) fn connected(&mut self, now: Nanos, tries: u32) {
        self.connected_at.push(now);
        self.most_tries_of_connected = self.most_tries_of_connected.max(tries);
    }

    /// A client gives up for good at this time.
    pub(super) fn lost(&mut self, at: Nanos) {
        self.lost += 1;
        self.last_lost = self.last_lost.max(at);
    }

    /// An attempt has failed.
    pub(super) fn failed(&mut self, ending: Ending) {
        match ending {
            Ending::TimedOut => self.timed_out += 1,
            _ => self.refused += 1,
        }
    }

    /// Clients that have connected or given up.
    pub(super) fn decided(&self) -> usize {
        self.connected_at.len() + self.lost
    }

    pub(super) fn build(self, clients: usize, end: Nanos, most_tries: u32, most_connections: u32) -> Outcome {
        let seconds = |at: Nanos| Duration::from_nanos(at).as_secs_f64();
        let until = |percent: usize| {
            let needed = (clients * percent).div_ceil(100).max(1);
            self.connected_at.get(needed - 1).map(|&at| seconds(at))
        };
        Outcome {
            clients,
            first_try: seconds(self.first_try),
            seconds_to_50: until(50),
            seconds_to_90: until(90),
            seconds_to_99: until(99),
            seconds_to_100: until(100),
            back: self.connected_at.len(),
            lost: self.lost,
            last_lost: (self.lost > 0).then(|| seconds(self.last_lost)),
            still_trying: clients - self.decided(),
            tries: self.tries,
            most_tries,
            most_tries_of_those_in: self.most_tries_of_connected,
            refused: self.refused,
            timed_out: self.timed_out,
            wasted: self.wasted,
            over_limit: self.over_limit,
            most_connections,
            time_limit: seconds(end),
            connected_at: self.connected_at,
        }
    }
}

/// What became of the clients. The names are those of the JSON. Times are seconds since the beginning of the storm.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub clients: usize,
    /// When the first attempt began.
    pub first_try: f64,
    /// When half of all clients had connected; `None`: they never had.
    pub seconds_to_50: Option<f64>,
    pub seconds_to_90: Option<f64>,
    pub seconds_to_99: Option<f64>,
    pub seconds_to_100: Option<f64>,
    /// Clients connected at the end.
    pub back: usize,
    /// Clients that gave up for good.
    pub lost: usize,
    /// When the last of those gave up.
    pub last_lost: Option<f64>,
    /// Clients that had done neither at the time limit.
    pub still_trying: usize,
    /// Attempts of all clients.
    pub tries: u64,
    /// The most attempts of one client.
    pub most_tries: u32,
    /// The most attempts of one client that connected.
    pub most_tries_of_those_in: u32,
    /// Attempts that were refused.
    pub refused: u64,
    /// Attempts that the client's own deadline ended.
    pub timed_out: u64,
    /// Handshakes that a server finished for a client that had given up the attempt.
    pub wasted: u64,
    /// Connections that a full server refused.
    pub over_limit: u64,
    /// The most connections that one server had.
    pub most_connections: u32,
    pub time_limit: f64,
    #[serde(skip)]
    connected_at: Vec<Nanos>,
}

impl Outcome {
    /// How many clients were connected this many seconds after the beginning.
    pub fn back_at(&self, seconds: f64) -> usize {
        let at = (seconds * 1e9) as Nanos;
        self.connected_at.partition_point(|&time| time <= at)
    }

    /// When the last client connected or gave up, or the time limit if some did neither.
    pub fn end(&self) -> f64 {
        if self.still_trying > 0 {
            return self.time_limit;
        }
        let last = self.connected_at.last().map_or(0.0, |&at| Duration::from_nanos(at).as_secs_f64());
        last.max(self.last_lost.unwrap_or(0.0))
    }
}
