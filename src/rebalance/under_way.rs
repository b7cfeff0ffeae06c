//! The moves that are under way, as operators see them.

use serde::{Deserialize, Serialize};

use crate::rebalance::run::Progress;

/// The moves that are under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnderWay {
    /// The rebalance that is under way, or the last one.
    pub rebalance: Option<Status>,
    /// Servers whose clients are being moved to the others.
    pub emptied: Vec<Emptied>,
}

/// How far a rebalance has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `running`, `paused`, `stopping` or `ended`.
    pub state: String,
    pub by: String,
    #[serde(flatten)]
    pub progress: Progress,
    /// Moves per second, at most.
    pub rate: f64,
    pub seconds: f64,
    /// How long it will take, if all goes on as it does.
    pub seconds_left: f64,
    /// Why it has stopped before all was done.
    pub stopped: Option<String>,
}

/// A server whose clients are being moved to the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Emptied {
    pub server: String,
    /// As in the log and the metrics.
    pub cause: String,
    /// Those that it had when it began.
    pub sessions: u32,
    /// Those that it still has.
    pub left: u32,
    /// Until when all shall have gone.
    pub seconds_left: f64,
}
