//! The limit that was found, for a process that takes over: it need not begin at one again.
//!
//! What the handshakes of this weir have shown in all (`Shown`) stays here: it is counted from a process's beginning,
//! and the other weirs of a fleet take a process for what it is. So does a window that is not over, and what a reading
//! has said of the server's cores.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{ConcurrencyLimit, LONGEST_HEARD, MAX_LIMIT, MIN_LIMIT, WINDOWS_TO_DOUBLE};
use crate::lapse::{self, Lapse};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RememberedLimit {
    limit: f64,
    growing_windows: u32,
    used: Option<Lapse>,
    mean_time: Option<Lapse>,
    typical_time: Option<Lapse>,
    own_ratio: f64,
}

impl ConcurrencyLimit {
    /// What was found, if any handshake has ended.
    pub fn remembered(&self, now: Instant) -> Option<RememberedLimit> {
        self.mean_time.map(|mean_time| RememberedLimit {
            limit: self.limit,
            growing_windows: self.growing_windows.min(WINDOWS_TO_DOUBLE),
            used: self.used_at.map(|at| Lapse::since(at, now)),
            mean_time: Some(mean_time.into()),
            typical_time: self.typical_time.map(Lapse::from),
            own_ratio: self.own_ratio,
        })
    }

    /// One that goes on from what another process had found at `then`.
    pub fn recalled(remembered: &RememberedLimit, then: Instant) -> Self {
        // A time that is made up is forgotten after a few logins of weir's own.
        let time =
            |time: Option<Lapse>| time.map(|time| time.duration().clamp(Duration::from_micros(1), LONGEST_HEARD));
        Self {
            limit: lapse::within(remembered.limit, f64::from(MIN_LIMIT), f64::from(MAX_LIMIT)),
            growing_windows: remembered.growing_windows.min(WINDOWS_TO_DOUBLE),
            used_at: remembered.used.map(|ago| ago.before(then)),
            mean_time: time(remembered.mean_time),
            typical_time: time(remembered.typical_time),
            own_ratio: lapse::within(remembered.own_ratio, 0.0, 1.0),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn read(text: &str) -> RememberedLimit {
        serde_json::from_str(text).unwrap()
    }

    proptest! {
        /// The limit and its next decisions are those of the process that has found it, once both begin a window.
        #[test]
        fn the_limit_goes_on_where_it_was(
            before in vec((1..400_u64, 1..400_u64, 1..64_u32), 1..200),
            after in vec((1..400_u64, 1..400_u64, 1..64_u32), 0..100),
        ) {
            let ms = Duration::from_millis;
            let (mut old, mut now) = (ConcurrencyLimit::default(), Instant::now());
            for (took, expected, in_flight) in before {
                now += ms(took);
                old.finished(now, ms(took), ms(expected), in_flight);
            }
            let mut there = now + ms(1_000_000);
            let text = serde_json::to_string(&old.remembered(now)).unwrap();
            let mut new = ConcurrencyLimit::recalled(&read(&text), there);
            // A text has microseconds.
            let micros = |time: Option<Duration>| time.map(|time| Duration::from_micros(time.as_micros() as u64));
            (old.window, old.growing_windows) = (None, old.growing_windows.min(WINDOWS_TO_DOUBLE));
            (old.mean_time, old.typical_time) = (micros(old.mean_time), micros(old.typical_time));
            prop_assert_eq!(new.has_finished_any(), true);
            for (took, expected, in_flight) in after {
                prop_assert_eq!((old.limit(), old.growing_windows), (new.limit(), new.growing_windows));
                prop_assert_eq!(old.overdue_after(), new.overdue_after());
                (now, there) = (now + ms(took), there + ms(took));
                old.finished(now, ms(took), ms(expected), in_flight);
                new.finished(there, ms(took), ms(expected), in_flight);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_cut_to_what_can() {
        let now = Instant::now();
        assert_eq!(ConcurrencyLimit::default().remembered(now), None);
        for (text, limit) in [("{}", 1), (r#"{"limit":1e300,"own_ratio":-5}"#, MAX_LIMIT), (r#"{"limit":-1e9}"#, 1)] {
            assert_eq!(ConcurrencyLimit::recalled(&read(text), now).limit(), limit, "{text}");
        }
        let text = r#"{"limit":8,"growing_windows":4294967295,"mean_time":0,"typical_time":18446744073709551615}"#;
        let mut limit = ConcurrencyLimit::recalled(&read(text), now);
        assert!(limit.overdue_after() <= LONGEST_HEARD * 4 && limit.logins_per_second().unwrap().is_finite());
        for _ in 0..100 {
            limit.finished(now, Duration::from_millis(1), Duration::from_millis(2), 300);
        }
        assert!(limit.limit() <= MAX_LIMIT);
    }
}
