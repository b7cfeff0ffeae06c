//! What the weirs of a fleet share of an account: how long its logins take, and its rate.

use std::time::{Duration, Instant};

use super::Account;
use crate::upstream::concurrency::baseline::MeasuredFrom;

impl Account {
    /// The least that a login takes, where that was measured without another one beside.
    pub fn measured_alone(&self, since: MeasuredFrom) -> Option<Duration> {
        self.logins().measured_alone(since)
    }

    /// Another weir of the fleet has measured this.
    pub fn hear_baseline(&self, since: MeasuredFrom, least: Duration) {
        self.logins().hear_baseline(since, least);
    }

    /// From now on this weir has this part of the rate, 0.0 to 1.0; the others of its fleet have the rest.
    pub(in crate::admission::quota) fn set_rate_part(&self, part: f64, now: Instant) {
        self.tokens.set_part(part, now);
        self.known_tokens.set_part(part, now);
    }

    /// The rate in tokens per second, what has been taken in all, and whether somebody has been without since this was
    /// last asked. `None` where there is no rate.
    pub(in crate::admission::quota) fn rate_use(&self) -> Option<(f64, u64, bool)> {
        let rate = self.tokens.rate()?;
        let was_empty = self.known_tokens.take_was_empty() | self.tokens.take_was_empty();
        Some((rate.per_second.get().into(), self.connections.own().taken, was_empty))
    }
}
