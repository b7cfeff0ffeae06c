//! When a refused client comes back, derived from what its library does. Admission uses it to refuse a client at the
//! moment that brings it back when its turn is expected, and no more often than needed.

use std::time::Duration;

use crate::client_library::library::{Library, NoticesRefusal, ReconnectWait};

/// What a client does after a refusal: `-ERR` in place of PONG, not with an authorization error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Return {
    /// Its library is not in the table.
    #[default]
    Unknown,
    /// It comes back this long after the refusal.
    After(Duration),
    /// It comes back after a wait that doubles with each refusal in a row.
    Doubling {
        /// The wait after the first refusal.
        first: Duration,
        /// The longest wait.
        cap: Duration,
    },
    /// The time of its next attempt does not depend on when it is refused.
    Regardless,
}

impl Return {
    /// The schedule for the next refusal of a client that has been refused `refusals` times in a row.
    pub fn after_refusals(self, refusals: u32) -> Self {
        match self {
            Self::Doubling { first, cap } => Self::After(first.saturating_mul(1 << refusals.min(16)).min(cap)),
            other => other,
        }
    }
}

impl Library {
    /// When a refused client of this library comes back, if its list has one address.
    pub const fn returns(&self) -> Return {
        // A library that notices a refusal only at its own deadline cannot be told earlier.
        if !matches!(self.notices_refusal, NoticesRefusal::Immediately) {
            return Return::Regardless;
        }
        match self.reconnect_wait {
            ReconnectWait::BeforeLastServer { wait, .. }
            | ReconnectWait::BetweenRounds { wait, .. }
            | ReconnectWait::SinceAttemptEnded { wait } => Return::After(wait),
            ReconnectWait::SinceAttemptBegan { .. } => Return::Regardless,
            ReconnectWait::Exponential { first, cap, .. } => Return::Doubling { first, cap },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_library::lang::returns;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_double_up_to_their_cap() {
        let waits = |lang, refusals| returns(lang).after_refusals(refusals);
        assert_eq!([0, 3, 99].map(|n| waits("rust", n)), [2, 16, 4000].map(|ms| Return::After(ms * MS)));
        assert_eq!([0, 1, 2, 9].map(|n| waits(".NET", n)), [2, 4, 5, 5].map(|s| Return::After(s * 1000 * MS)));
        assert_eq!(waits("go", 5), Return::After(2000 * MS));
    }

    #[test]
    fn every_library_returns_as_measured() {
        let s = Duration::from_secs;
        for (lang, schedule) in [
            ("go", Return::After(s(2))),
            ("C", Return::After(s(2))),
            ("python3", Return::After(s(2))),
            ("rust", Return::Doubling { first: 2 * MS, cap: s(4) }),
            (".NET", Return::Doubling { first: s(2), cap: s(5) }),
            ("java", Return::Regardless),
            ("nats.js", Return::Regardless),
            ("nats.ws", Return::Regardless),
            ("newlang", Return::Unknown),
            ("", Return::Unknown),
        ] {
            assert_eq!(returns(lang), schedule, "{lang}");
        }
    }
}
