//! What has become of the clients of a plan.

use std::time::Duration;

use serde::Serialize;

use crate::{client_library::behaviour::Ending, storm::plan::calendar::Nanos};

/// Counts while a plan runs.
#[derive(Debug)]
pub(super) struct Tally {
    /// When clients came in, in order.
    back: Vec<Nanos>,
    /// When the first client came back.
    pub(super) first_try: Nanos,
    last_lost: Nanos,
    lost: usize,
    most_tries_of_those_in: u32,
    refused: u64,
    timed_out: u64,
    pub(super) tries: u64,
    pub(super) wasted: u64,
    pub(super) over_limit: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            back: Vec::new(),
            first_try: Nanos::MAX,
            last_lost: 0,
            lost: 0,
            most_tries_of_those_in: 0,
            refused: 0,
            timed_out: 0,
            tries: 0,
            wasted: 0,
            over_limit: 0,
        }
    }

    pub(super) fn comes_in(&mut self, now: Nanos, tries: u32) {
        self.back.push(now);
        self.most_tries_of_those_in = self.most_tries_of_those_in.max(tries);
    }

    pub(super) fn lost(&mut self, at: Nanos) {
        self.lost += 1;
        self.last_lost = self.last_lost.max(at);
    }

    pub(super) fn failed(&mut self, ending: Ending) {
        match ending {
            Ending::TimedOut => self.timed_out += 1,
            _ => self.refused += 1,
        }
    }

    pub(super) fn decided(&self) -> usize {
        self.back.len() + self.lost
    }

    pub(super) fn outcome(self, clients: usize, end: Nanos, most_tries: u32, most_connections: u32) -> Outcome {
        let seconds = |at: Nanos| Duration::from_nanos(at).as_secs_f64();
        let until = |percent: usize| {
            let needed = (clients * percent).div_ceil(100).max(1);
            self.back.get(needed - 1).map(|&at| seconds(at))
        };
        Outcome {
            clients,
            first_try: seconds(self.first_try),
            seconds_to_50: until(50),
            seconds_to_90: until(90),
            seconds_to_99: until(99),
            seconds_to_100: until(100),
            back: self.back.len(),
            lost: self.lost,
            last_lost: (self.lost > 0).then(|| seconds(self.last_lost)),
            still_trying: clients - self.decided(),
            tries: self.tries,
            most_tries,
            most_tries_of_those_in: self.most_tries_of_those_in,
            refused: self.refused,
            timed_out: self.timed_out,
            wasted: self.wasted,
            over_limit: self.over_limit,
            most_connections,
            time_limit: seconds(end),
            times: self.back,
        }
    }
}

/// What has become of the clients.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// How many there were.
    pub clients: usize,
    /// When the first of them tried.
    pub first_try: f64,
    /// Seconds until half of all were back; `None` when they never were.
    pub seconds_to_50: Option<f64>,
    /// The same for 90 %.
    pub seconds_to_90: Option<f64>,
    /// The same for 99 %.
    pub seconds_to_99: Option<f64>,
    /// The same for all.
    pub seconds_to_100: Option<f64>,
    /// Back in the end.
    pub back: usize,
    /// Closed for good.
    pub lost: usize,
    /// When the last of them was.
    pub last_lost: Option<f64>,
    /// Neither, when the time was up.
    pub still_trying: usize,
    /// Attempts.
    pub tries: u64,
    /// The most of one client.
    pub most_tries: u32,
    /// The most of one client that got in.
    pub most_tries_of_those_in: u32,
    /// Attempts that were refused.
    pub refused: u64,
    /// Attempts that the client's own deadline ended.
    pub timed_out: u64,
    /// Handshakes that a server finished for nobody.
    pub wasted: u64,
    /// Connections that a server refused since it was full.
    pub over_limit: u64,
    /// The most connections of one server.
    pub most_connections: u32,
    /// When the plan ended at the latest.
    pub time_limit: f64,
    #[serde(skip)]
    times: Vec<Nanos>,
}

impl Outcome {
    /// How many were back so many seconds after the beginning.
    pub fn back_at(&self, seconds: f64) -> usize {
        let at = (seconds * 1e9) as Nanos;
        self.times.partition_point(|&time| time <= at)
    }

    /// When nothing happened any more: the last came back or gave up, or the time was up.
    pub fn end(&self) -> f64 {
        if self.still_trying > 0 {
            return self.time_limit;
        }
        let last = self.times.last().map_or(0.0, |&at| Duration::from_nanos(at).as_secs_f64());
        last.max(self.last_lost.unwrap_or(0.0))
    }
}
