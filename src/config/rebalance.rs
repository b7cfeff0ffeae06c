//! Reads `[rebalance]`: when weir moves clients without being asked.

use std::time::Duration;

use crate::config::{
    leaf::{Any, within},
    section::Section,
};

/// Sessions are looked at once a second at most.
const YOUNGEST: Duration = Duration::from_secs(1);
const OLDEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// When weir moves clients without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebalanceConfig {
    /// Uneven servers are made even.
    pub auto: bool,
    /// Connections of clients end at about this age.
    pub max_connection_age: Option<Duration>,
}

pub(super) fn rebalance(s: &mut Section<'_>) -> RebalanceConfig {
    RebalanceConfig {
        // Off: a move is a disconnect, and whoever runs the cluster chooses when.
        auto: s.value("auto", false, Any),
        // None: a disconnect for nothing, where no balancer stands in front of weir.
        max_connection_age: s.optional(
            "max_connection_age",
            "none, connections of any age stay",
            within(YOUNGEST..=OLDEST),
        ),
    }
}
