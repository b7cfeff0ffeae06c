//! What the clients of a storm have seen so far.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use crate::storm::live::{attempt::What, own::Lateness};

/// Texts that are told apart; those beyond are [`OTHER`].
const MOST_TEXTS: usize = 100;
const OTHER: &str = "other";

/// One phase: the first connects, or the return after a drop.
#[derive(Debug)]
pub(super) struct Phase {
    began: Mutex<Option<Instant>>,
    /// When each client got in for the first time, from the beginning.
    back: Mutex<Vec<Duration>>,
    pub(super) attempts: AtomicU64,
    pub(super) most_tries: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
    errors: Mutex<BTreeMap<String, u64>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Phase {
    pub(super) fn new() -> Self {
        Self {
            began: Mutex::new(None),
            back: Mutex::default(),
            attempts: AtomicU64::new(0),
            most_tries: AtomicU64::new(0),
            refused: Mutex::default(),
            errors: Mutex::default(),
        }
    }

    pub(super) fn begin(&self, now: Instant) {
        *locked(&self.began) = Some(now);
    }

    pub(super) fn elapsed(&self) -> Duration {
        locked(&self.began).map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// A client is in for the first time in this phase, after so many tries.
    pub(super) fn came_in(&self, tries: u64) {
        let elapsed = self.elapsed();
        locked(&self.back).push(elapsed);
        self.most_tries.fetch_max(tries, Relaxed);
    }

    pub(super) fn failed(&self, what: What) {
        let (map, key) = match what {
            What::Refused(text) => (&self.refused, text),
            What::Error(what) => (&self.errors, what.into_owned()),
        };
        let mut counts = locked(map);
        let key = if counts.len() < MOST_TEXTS || counts.contains_key(&key) { key } else { OTHER.into() };
        *counts.entry(key).or_default() += 1;
    }

    pub(super) fn is_in(&self) -> usize {
        locked(&self.back).len()
    }

    /// The times at which clients got in, sorted.
    pub(super) fn back(&self) -> Vec<Duration> {
        let mut back = locked(&self.back).clone();
        back.sort_unstable();
        back
    }

    pub(super) fn refused(&self) -> BTreeMap<String, u64> {
        locked(&self.refused).clone()
    }

    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        locked(&self.errors).clone()
    }

    pub(super) fn refused_in_all(&self) -> u64 {
        locked(&self.refused).values().sum()
    }

    pub(super) fn errors_in_all(&self) -> u64 {
        locked(&self.errors).values().sum()
    }
}

/// TLS handshakes, this side's part of them.
#[derive(Debug, Default)]
pub(super) struct SeenTls {
    pub(super) full: AtomicU64,
    pub(super) resumed: AtomicU64,
    nanos: AtomicU64,
}

impl SeenTls {
    /// One is done.
    pub(super) fn done(&self, resumed: bool) {
        if resumed { &self.resumed } else { &self.full }.fetch_add(1, Relaxed);
    }

    /// A step took this much CPU.
    pub(super) fn took(&self, cpu: Duration) {
        self.nanos.fetch_add(u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// What all steps took.
    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Relaxed))
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) first: Phase,
    pub(super) again: Phase,
    pub(super) dropped: AtomicBool,
    pub(super) connected: AtomicU64,
    /// Closed for good.
    pub(super) given_up: AtomicU64,
    /// Sockets that stay open after their client has given up the attempt.
    pub(super) ghosts: AtomicU64,
    /// Ghosts that were closed for want of files.
    pub(super) ghosts_closed: AtomicU64,
    /// Established connections that ended without having been dropped on purpose.
    pub(super) cut: AtomicU64,
    pub(super) tls: SeenTls,
    /// This process, with all of that.
    pub(super) late: Lateness,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            first: Phase::new(),
            again: Phase::new(),
            dropped: AtomicBool::new(false),
            connected: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            ghosts: AtomicU64::new(0),
            ghosts_closed: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            tls: SeenTls::default(),
            late: Lateness::default(),
        }
    }

    /// A client has given up for good.
    pub(super) fn lost_one(&self) {
        self.given_up.fetch_add(1, Release);
    }

    /// The phase that runs.
    pub(super) fn phase(&self) -> &Phase {
        if self.dropped.load(Relaxed) { &self.again } else { &self.first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_something_else_each_time_fills_no_memory() {
        let phase = Phase::new();
        for n in 0..1000 {
            phase.failed(What::Refused(format!("no {n}")));
        }
        phase.failed(What::Refused("no 7".into()));
        let refused = phase.refused();
        assert_eq!((refused.len(), refused["no 7"], phase.refused_in_all()), (MOST_TEXTS + 1, 2, 1001));
        assert_eq!(refused[OTHER], 1000 - MOST_TEXTS as u64);
    }
}
