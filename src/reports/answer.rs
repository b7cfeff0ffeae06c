//! The reports as `/reportz` answers with them and `weir report` reads them.

use serde::{Deserialize, Serialize};

use crate::growth::Confidence;

/// The reports that were asked for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<Refusals>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaks: Option<Leaks>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
}

/// Who did not get in, and why.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusals {
    /// For how long it has been counted: an hour, or since weir began.
    pub seconds: u64,
    pub total: u64,
    pub reasons: Vec<Reason>,
    pub accounts: Vec<Count>,
    pub users: Vec<Count>,
    pub names: Vec<Count>,
    pub sources: Vec<Count>,
    pub clients: Vec<RefusedClient>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Reason {
    pub reason: String,
    pub count: u64,
    /// What an operator can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Count {
    pub name: String,
    pub count: u64,
}

/// Clients that are alike. What they have not said is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedClient {
    pub reason: String,
    pub account: String,
    pub user: String,
    pub name: String,
    pub source: String,
    pub count: u64,
    /// How long ago the last one was, in whole minutes.
    pub minutes_ago: u64,
}

/// Connections that are not used, or become more and more.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Leaks {
    pub sessions: u32,
    /// A session counts as idle after so many seconds without a message either way.
    pub idle_after_seconds: u64,
    pub idle_sessions: u32,
    pub unnamed_sessions: u32,
    /// Groups that only grow, the fastest first.
    pub growing: Vec<Growing>,
    /// Clients with idle sessions, those with the most first.
    pub idle: Vec<IdleClients>,
    /// Clients without a name, those with the most sessions first.
    pub unnamed: Vec<UnnamedClients>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    Name,
    User,
    Source,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growing {
    /// What the sessions have in common.
    pub by: GroupKind,
    /// Empty for a source.
    pub account: String,
    pub group: String,
    pub connections: u32,
    pub idle: u32,
    /// Connections more than so many seconds ago.
    pub grown: u32,
    pub over_seconds: u64,
    pub per_minute: f64,
    pub confidence: Confidence,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IdleClients {
    pub account: String,
    pub user: String,
    pub name: String,
    pub source: String,
    pub connections: u32,
    pub idle: u32,
    pub longest_idle_seconds: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnnamedClients {
    pub account: String,
    pub user: String,
    pub source: String,
    pub connections: u32,
}

/// Who connects again and again.
#[derive(Debug, Serialize, Deserialize)]
pub struct Churn {
    /// For how long it has been counted: an hour, or since weir began.
    pub seconds: u64,
    /// A session that has ended within so many seconds has ended soon.
    pub soon_seconds: u64,
    pub accounts: Vec<Turnover>,
    pub users: Vec<Turnover>,
    pub names: Vec<Turnover>,
    pub sources: Vec<Turnover>,
    pub clients: Vec<ChurningClient>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Turnover {
    pub name: String,
    pub began: u64,
    /// Sessions that ended, soon or not.
    pub ended: u64,
    pub ended_soon: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ChurningClient {
    pub account: String,
    pub user: String,
    pub name: String,
    pub source: String,
    pub began: u64,
    pub ended: u64,
    pub ended_soon: u64,
    pub minutes_ago: u64,
}

/// How sessions are spread over the servers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    pub servers: Vec<ServerShare>,
    /// Accounts by their sessions, the largest first.
    pub accounts: Vec<AccountSpread>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ServerShare {
    pub server: String,
    pub up: bool,
    /// Connections of the server, of others too.
    pub connections: u32,
    pub sessions: u32,
    /// Whether it has twice the sessions of the mean, or more.
    pub hot: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AccountSpread {
    pub account: String,
    pub sessions: u32,
    pub mean: f64,
    /// How many times the mean the server with the most has.
    pub peak: f64,
    pub servers: Vec<AccountOnServer>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AccountOnServer {
    pub server: String,
    pub sessions: u32,
    pub hot: bool,
}

/// How much room there is, and how long it lasts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Headroom {
    pub servers: Vec<Room>,
    /// Those that have a limit first, the fullest first.
    pub accounts: Vec<Room>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Room {
    pub name: String,
    pub used: u32,
    /// `max_connections`; null where there is none, or it is not known.
    pub limit: Option<u32>,
    /// What weir fills of that: it leaves the reserve of a server free.
    pub usable: Option<u32>,
    /// Null where the number does not grow.
    pub growth: Option<Rate>,
    /// When it has 80 % of its limit.
    pub at_80_percent: Option<TimeLeft>,
    /// When all that is usable is used.
    pub full: Option<TimeLeft>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub per_minute: f64,
    /// The standard error of that.
    pub error: f64,
    /// The time that was looked at.
    pub over_seconds: u64,
    pub confidence: Confidence,
}

/// In how many seconds, if it grows on as it does; 0 where that has come already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeLeft {
    pub seconds: u64,
    pub earliest: u64,
    pub latest: u64,
}
