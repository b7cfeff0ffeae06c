//! What a ledger goes by that is not in the bucket.

use std::time::Duration;

use crate::fleet::lease::reclaim::SETTLE;

/// What the rest of weir knows of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// Weirs whose beats arrive, this one included.
    pub live: u32,
    /// The place of this one among them, in the order of their ids, from 0 on.
    pub position: u32,
    /// Whether one of the others says that its leases are in force.
    pub others_have_leases: bool,
    /// Whether the fleet's connection is there.
    pub is_connected: bool,
    /// Whether the servers are there for so short a time, or not at all, that others may be heard of soon.
    pub is_early: bool,
}

/// How leases are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// No bucket is used: each weir has its part.
    pub is_split_only: bool,
    /// Whether servers count the connections of accounts.
    pub has_counts: bool,
    /// Whether servers tell how many connections they have.
    pub has_readings: bool,
    /// See [`SETTLE`].
    pub settle: Duration,
    /// Each quota is looked at at least once in so long, also if nothing is known to have happened to it.
    pub round: Duration,
}

/// What only time changes of a quota takes seconds: that nobody uses it any more, that its want is another one.
const ROUND: Duration = Duration::from_secs(2);

impl Default for Settings {
    fn default() -> Self {
        Self { is_split_only: false, has_counts: true, has_readings: true, settle: SETTLE, round: ROUND }
    }
}
