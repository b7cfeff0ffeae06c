//! What became of the clients of a plan.

use std::time::Duration;

use serde::Serialize;

use crate::{
    client_library::behaviour::Ending,
    storm::plan::{AccountClients, Plan, calendar::Nanos},
};

/// The clients of all accounts, or of one, that have connected or given up.
#[derive(Debug, Default)]
struct Decided {
    /// When each client connected, in ascending order.
    connected_at: Vec<Nanos>,
    lost: usize,
    last_lost: Nanos,
    refused: u64,
    timed_out: u64,
}

impl Decided {
    fn lost(&mut self, at: Nanos) {
        self.lost += 1;
        self.last_lost = self.last_lost.max(at);
    }

    fn failed(&mut self, ending: Ending) {
        match ending {
            Ending::TimedOut => self.timed_out += 1,
            _ => self.refused += 1,
        }
    }

    fn len(&self) -> usize {
        self.connected_at.len() + self.lost
    }

    /// When so many percent of these clients had connected.
    fn seconds_to(&self, percent: usize, clients: usize) -> Option<f64> {
        let needed = (clients * percent).div_ceil(100).max(1);
        self.connected_at.get(needed - 1).map(|&at| seconds(at))
    }

    /// What became of them, of so many clients.
    fn count(&self, clients: usize) -> Count {
        Count {
            clients,
            seconds_to_50: self.seconds_to(50, clients),
            seconds_to_90: self.seconds_to(90, clients),
            seconds_to_99: self.seconds_to(99, clients),
            seconds_to_100: self.seconds_to(100, clients),
            back: self.connected_at.len(),
            lost: self.lost,
            last_lost: (self.lost > 0).then(|| seconds(self.last_lost)),
            still_trying: clients - self.len(),
            refused: self.refused,
            timed_out: self.timed_out,
        }
    }
}

/// Collects the [`Outcome`] while a plan is simulated.
#[derive(Debug)]
pub(super) struct OutcomeBuilder {
    decided: Decided,
    /// The same of each account that the plan names.
    of_accounts: Vec<Decided>,
    /// When the first attempt began.
    pub(super) first_try: Nanos,
    most_tries_of_connected: u32,
    pub(super) tries: u64,
    pub(super) wasted: u64,
    pub(super) over_limit: u64,
}

fn seconds(at: Nanos) -> f64 {
    Duration::from_nanos(at).as_secs_f64()
}

impl OutcomeBuilder {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            decided: Decided::default(),
            of_accounts: plan.accounts.iter().map(|_| Decided::default()).collect(),
            first_try: Nanos::MAX,
            most_tries_of_connected: 0,
            tries: 0,
            wasted: 0,
            over_limit: 0,
        }
    }

    /// Notes something of a client of this account.
    fn note(&mut self, account: usize, note: impl Fn(&mut Decided)) {
        note(&mut self.decided);
        self.of_accounts.get_mut(account).into_iter().for_each(note);
    }

    /// A client of this account has connected with its `tries`th attempt.
    pub(super) fn connected(&mut self, account: usize, now: Nanos, tries: u32) {
        self.note(account, |decided| decided.connected_at.push(now));
        self.most_tries_of_connected = self.most_tries_of_connected.max(tries);
    }

    /// A client of this account gives up for good at this time.
    pub(super) fn lost(&mut self, account: usize, at: Nanos) {
        self.note(account, |decided| decided.lost(at));
    }

    /// An attempt of a client of this account has failed.
    pub(super) fn failed(&mut self, account: usize, ending: Ending) {
        self.note(account, |decided| decided.failed(ending));
    }

    /// Clients that have connected or given up.
    pub(super) fn decided(&self) -> usize {
        self.decided.len()
    }

    pub(super) fn build(self, plan: &Plan, end: Nanos, most_tries: u32, most_connections: u32) -> Outcome {
        let of_account = |(account, decided): (&AccountClients, &Decided)| AccountOutcome {
            account: account.name.to_string(),
            count: decided.count(account.clients as usize),
        };
        Outcome {
            count: self.decided.count(plan.clients as usize),
            first_try: seconds(self.first_try),
            tries: self.tries,
            most_tries,
            most_tries_of_those_in: self.most_tries_of_connected,
            wasted: self.wasted,
            over_limit: self.over_limit,
            most_connections,
            time_limit: seconds(end),
            accounts: plan.accounts.iter().zip(&self.of_accounts).map(of_account).collect(),
            connected_at: self.decided.connected_at,
        }
    }
}

/// What became of some clients. The names are those of the JSON. Times are seconds since the beginning of the storm.
#[derive(Debug, Clone, Serialize)]
pub struct Count {
    pub clients: usize,
    /// When half of them had connected; `None`: they never had.
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
    /// Attempts that were refused.
    pub refused: u64,
    /// Attempts that the client's own deadline ended.
    pub timed_out: u64,
}

/// What became of the clients of one account.
#[derive(Debug, Clone, Serialize)]
pub struct AccountOutcome {
    pub account: String,
    #[serde(flatten)]
    pub count: Count,
}

/// What became of all clients.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub count: Count,
    /// When the first attempt began, in seconds since the beginning of the storm.
    pub first_try: f64,
    /// Attempts of all clients.
    pub tries: u64,
    /// The most attempts of one client.
    pub most_tries: u32,
    /// The most attempts of one client that connected.
    pub most_tries_of_those_in: u32,
    /// Handshakes that a server finished for a client that had given up the attempt.
    pub wasted: u64,
    /// Connections that a full server refused.
    pub over_limit: u64,
    /// The most connections that one server had.
    pub most_connections: u32,
    pub time_limit: f64,
    /// The clients of each account that the plan names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<AccountOutcome>,
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
        if self.count.still_trying > 0 {
            return self.time_limit;
        }
        let last = self.connected_at.last().map_or(0.0, |&at| Duration::from_nanos(at).as_secs_f64());
        last.max(self.count.last_lost.unwrap_or(0.0))
    }
}
