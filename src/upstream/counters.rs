//! What weir counts of one server. The counts live as long as the server does, so nothing is left of one that has gone.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use strum::EnumCount;

use crate::upstream::login_health::LoginFailure;

/// Upper bounds of the histograms, in seconds. The longest, 20 s, is the longest time that any official client waits
/// for its login.
pub const BOUNDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];

/// Times, counted by how long they are.
#[derive(Debug, Default)]
pub struct Times {
    /// By [`BOUNDS`], and last those above all of them.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Times {
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many there are up to each of [`BOUNDS`] and above the one before, and last those above all of them.
    pub fn buckets(&self) -> [u64; BOUNDS.len() + 1] {
        self.buckets.each_ref().map(|bucket| bucket.load(Relaxed))
    }

    /// The sum of all, in seconds.
    pub fn sum(&self) -> f64 {
        Duration::from_nanos(self.sum_ns.load(Relaxed)).as_secs_f64()
    }
}

/// The counters of one server.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Clients that got their PONG.
    pub admitted: AtomicU64,
    /// Of these, leafnodes.
    pub admitted_leafnodes: AtomicU64,
    /// Logins that failed here while the same client, or one of the same account, was let in elsewhere.
    pub login_failures: [AtomicU64; LoginFailure::COUNT],
    /// From the start of the dial, or from CONNECT where the server was dialled before, to the server's PONG.
    pub handshakes: Times,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_the_first_bucket_that_holds_it() {
        let times = Times::default();
        for ms in [0, 1, 2, 3, 20_000, 20_001] {
            times.observe(Duration::from_millis(ms));
        }
        let buckets = times.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[2]), (2, 1, 1));
        assert_eq!((buckets[13], buckets[14]), (1, 1));
        assert!((times.sum() - 40.007).abs() < 1e-9);
    }
}
