//! What an operator sees at a glance: the answer of `/overviewz`, which the page at `/` and `weir top` draw. It is of
//! bounded size whatever clients do: accounts and sources are the largest ones, the past is the last ten minutes.

mod history;
mod moves;
mod of_fleet;
mod of_weir;

use serde::{Deserialize, Serialize};

pub use self::{
    history::{History, StormCurve},
    moves::in_words as moves_in_words,
    of_fleet::{fleet, mode as fleet_mode, quotas as fleet_quotas},
    of_weir::{of, server_sample},
};

#[cfg(doc)]
use crate::fleet::view::FleetView;
use crate::{
    fleet::view,
    rebalance::under_way::UnderWay,
    reports::answer::{Growing, Rate, RefusedClient, TimeLeft},
};

/// The form of the answer. It changes when a field changes its meaning or goes; more fields may come.
pub const FORM: u32 = 1;

/// Everything. Times are in milliseconds since 1970 where the name says so, else in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// [`FORM`].
    pub form: u32,
    pub now_unix_ms: u64,
    pub weir: Process,
    /// As `/healthz` says it.
    pub health: Health,
    pub clients: Clients,
    pub listeners: Vec<Listener>,
    /// In the order of the configuration.
    pub servers: Vec<Server>,
    /// What is nearly full or full, the fullest first.
    pub warnings: Vec<Warning>,
    /// By reason, without those that have not occurred since weir's start.
    pub refusals: Vec<Refusals>,
    /// Logins that servers refused, by reason, without those that have not occurred.
    pub bad_logins: Vec<Count>,
    /// The accounts with the most connections.
    pub accounts: Vec<Account>,
    /// Accounts that have connections.
    pub accounts_in_use: usize,
    /// The sources whose logins servers refused most often.
    pub sources: Vec<Source>,
    /// The sources with the most sessions, as counted every few seconds.
    pub largest_sources: Vec<LargeSource>,
    pub leaks: Leaks,
    /// The clients that did not get in most often in the last ten minutes, of which as many are told as fit on a page.
    pub refused_clients: Vec<RefusedClient>,
    pub traffic: Traffic,
    pub moves: Moves,
    /// Where weir is in a fleet.
    pub fleet: Option<Fleet>,
    pub history: History,
    pub storms: Storms,
}

/// The process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    pub version: String,
    pub commit: Option<String>,
    pub started_unix_ms: u64,
    pub uptime_seconds: f64,
    /// CPU time that the process has used since its start.
    pub cpu_seconds: f64,
    pub cores: usize,
    pub memory_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub max_open_files: Option<u64>,
    pub panics: u64,
    pub log_lines_dropped: u64,
}

/// Whether a new client would be served now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `ok` or `unavailable`.
    pub status: String,
    pub error: Option<String>,
}

/// Clients now, and since weir's start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clients {
    /// Clients that are in.
    pub sessions: u64,
    /// Of these, leafnodes.
    pub leafnodes: u64,
    /// Clients that wait for their turn.
    pub waiting: u64,
    /// Of these, the ones that wait for a token of a rate by user or name.
    pub waiting_for_rate: u64,
    /// Clients that are being refused: their refusal is delayed, or they have not closed the connection yet.
    pub being_refused: u64,
    /// Whether an operator holds everybody (`weir pause`).
    pub paused: bool,
    /// The most clients that may wait: `max_held`.
    pub max_waiting: u64,
    /// New clients per second that weir sends to the cluster, where that is known.
    pub pace: Option<f64>,
    /// Clients that the servers which are used would still take.
    pub headroom: Option<u64>,
    /// Connections that were accepted since weir's start.
    pub arrived: u64,
    pub admitted: u64,
    pub refused: u64,
    /// Clients that had to wait for their turn.
    pub held: u64,
    /// Connections that opened and closed without sending anything.
    pub probes: u64,
}

/// A listener.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    pub address: String,
    pub clients: u32,
    pub max_clients: u32,
}

/// A server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    pub name: String,
    pub address: String,
    /// `up`, or the name of another standing (`upstream/server/standing.rs`).
    pub state: String,
    /// Why it does not get its share.
    pub why: Option<String>,
    /// Sessions that weir relays to it.
    pub sessions: u32,
    /// Connections of weir that are no sessions: dialled, in a login, or closing.
    pub opening: u32,
    /// Connections that are not weir's.
    pub others: u32,
    /// All of them.
    pub connections: u32,
    /// Its own limit or the configured one, whichever is lower; none where there is no limit, or where it is unknown.
    pub max_connections: Option<u32>,
    /// Whether weir knows its limit.
    pub limit_known: bool,
    /// Slots that weir does not fill.
    pub reserve: u32,
    /// Clients that weir would still send there; none where the limit is unknown or there is none.
    pub headroom: Option<u32>,
    /// Logins under way, and the most that weir gives it at a time.
    pub handshakes: u32,
    pub handshakes_overdue: u32,
    pub handshake_limit: u32,
    /// How old its last reading is.
    pub reading_age_seconds: Option<f64>,
    /// Clients that it let in since weir's start.
    pub admitted: u64,
    /// Logins that failed here and were let in elsewhere, since weir's start.
    pub login_failures: u64,
    /// How often another process has taken its place.
    pub restarts: u64,
    /// How fast it grows, and when it is full then, as in `/reportz`; none where it does not grow, or nobody can tell.
    pub growth: Option<Rate>,
    pub full: Option<TimeLeft>,
}

/// Something that is nearly full or full.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warning {
    /// `server`, `account` or `listener`.
    pub of: String,
    pub name: String,
    pub connections: u32,
    pub max_connections: u32,
    /// `warn_at`, `90%` or `full`.
    pub level: String,
    /// How fast it grows, and when it is full then, as in `/reportz`; none where it does not grow, or nobody can tell.
    pub growth: Option<Rate>,
    pub full: Option<TimeLeft>,
}

/// A reason of refusals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusals {
    /// As in the log and the metrics.
    pub reason: String,
    /// What an operator can do.
    pub advice: String,
    pub last_minute: u64,
    pub last_ten_minutes: u64,
    /// Since weir's start.
    pub total: u64,
}

/// A count with the name of what is counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    pub name: String,
    pub total: u64,
}

/// An account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    pub name: String,
    /// Its connections through weir.
    pub connections: u32,
    /// Its limit, by the configuration or by the cluster, where it has one.
    pub max_connections: Option<u32>,
    /// Clients of it that were refused since weir's start.
    pub refused: u64,
    /// How fast it grows, and when it is full then, as in `/reportz`; none where it does not grow, or nobody can tell.
    pub growth: Option<Rate>,
    pub full: Option<TimeLeft>,
}

/// The fleet as this weir sees it: of [`FleetView`] the summary and the weirs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fleet {
    #[serde(flatten)]
    pub summary: view::Summary,
    /// This weir first; at most 64.
    pub weirs: Vec<view::Weir>,
}

/// A source of clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// An address, of IPv6 the /64.
    pub source: String,
    /// Logins that servers refused.
    pub bad_logins: u64,
}

/// A source of sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LargeSource {
    /// An address, of IPv6 the /64.
    pub source: String,
    pub sessions: u32,
}

/// Sessions that nobody may need, as counted every few seconds; `/reportz` says more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leaks {
    pub sessions: u32,
    /// Without a message either way for `idle_after_seconds`.
    pub idle_sessions: u32,
    pub idle_after_seconds: u64,
    pub unnamed_sessions: u32,
    /// Names, users and sources whose connections only grow, those that grow fastest first.
    pub growing: Vec<Growing>,
}

/// What was relayed since weir's start: `up` from clients to servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub messages_up: u64,
    pub messages_down: u64,
}

/// Clients that weir moves to other servers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moves {
    /// What is under way, as of the last half second.
    #[serde(flatten)]
    pub under_way: UnderWay,
    /// What became of moves since weir's start, without what has not occurred.
    pub totals: Vec<MoveTotal>,
}

/// Moves of one cause that came to the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveTotal {
    /// As in the log and the metrics, as is `result`.
    pub cause: String,
    pub result: String,
    pub total: u64,
}

/// The storms, as `/storms` has them, each with its course in at most [`StormCurve::MOST`] points.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storms {
    pub running: Option<Storm>,
    /// The latest first. With `since`, only those that were not over by then.
    pub over: Vec<Storm>,
}

/// A storm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storm {
    pub began_unix_ms: u64,
    /// From its beginning to the end of the last second that was not calm.
    pub seconds: u32,
    pub goes_on: bool,
    pub arrived: u64,
    pub peak_arrivals: u64,
    pub admitted: u64,
    pub admitted_after_wait: u64,
    pub held: u64,
    pub left: u64,
    pub refused: u64,
    pub most_waiting: u64,
    pub pace: Option<f64>,
    pub sessions_before: u64,
    pub sessions_after: u64,
    /// Refusals by reason.
    pub reasons: Vec<Count>,
    /// The accounts with the most clients that waited or were refused.
    pub accounts: Vec<Count>,
    /// The same by the language of their library.
    pub languages: Vec<Count>,
    pub curve: StormCurve,
}
