//! What the weirs of a fleet share of an account: how long its logins take, and its rate.

use std::time::{Duration, Instant};

use super::Account;
use crate::{admission::quota::rate::RateUse, upstream::concurrency::baseline::MeasuredFrom};

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

    /// How it uses its rate; `None` where there is none.
    pub(in crate::admission::quota) fn rate_use(&self) -> Option<RateUse> {
        let rate = self.tokens.rate()?;
        let was_empty = self.known_tokens.take_was_empty() | self.tokens.take_was_empty();
        let taken = self.connections.own().taken;
        Some(RateUse { per_second: rate.per_second.get().into(), taken, was_empty, promised_until: None })
    }
}
