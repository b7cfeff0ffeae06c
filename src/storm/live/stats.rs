//! Counters of a run, updated by all clients.

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

use crate::storm::live::{attempt::FailureText, self_load::WakeupDelay};

/// How many texts are counted separately. Further texts count as [`OTHER`].
const MOST_TEXTS: usize = 100;
const OTHER: &str = "other";

/// One phase: the first connects, or the return after the drop.
#[derive(Debug)]
pub(super) struct PhaseStats {
    began: Mutex<Option<Instant>>,
    /// When each client connected for the first time in this phase, since its beginning.
    connected_after: Mutex<Vec<Duration>>,
    pub(super) attempts: AtomicU64,
    pub(super) most_tries: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
    errors: Mutex<BTreeMap<String, u64>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PhaseStats {
    pub(super) fn new() -> Self {
        Self {
            began: Mutex::new(None),
            connected_after: Mutex::default(),
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

    /// A client has connected for the first time in this phase, with its `tries`th attempt.
    pub(super) fn connected(&self, tries: u64) {
        let elapsed = self.elapsed();
        locked(&self.connected_after).push(elapsed);
        self.most_tries.fetch_max(tries, Relaxed);
    }

    pub(super) fn failed(&self, text: FailureText) {
        let (map, key) = match text {
            FailureText::Refused(text) => (&self.refused, text),
            FailureText::Error(text) => (&self.errors, text.into_owned()),
        };
        let mut counts = locked(map);
        let key = if counts.len() < MOST_TEXTS || counts.contains_key(&key) { key } else { OTHER.into() };
        *counts.entry(key).or_default() += 1;
    }

    pub(super) fn clients_connected(&self) -> usize {
        locked(&self.connected_after).len()
    }

    /// When each client connected for the first time, in ascending order.
    pub(super) fn connected_after(&self) -> Vec<Duration> {
        let mut times = locked(&self.connected_after).clone();
        times.sort_unstable();
        times
    }

    pub(super) fn refused(&self) -> BTreeMap<String, u64> {
        locked(&self.refused).clone()
    }

    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        locked(&self.errors).clone()
    }

    pub(super) fn refused_total(&self) -> u64 {
        locked(&self.refused).values().sum()
    }

    pub(super) fn errors_total(&self) -> u64 {
        locked(&self.errors).values().sum()
    }
}

/// The clients' part of TLS handshakes.
#[derive(Debug, Default)]
pub(super) struct TlsStats {
    pub(super) full: AtomicU64,
    pub(super) resumed: AtomicU64,
    cpu_nanos: AtomicU64,
}

impl TlsStats {
    /// A handshake is done.
    pub(super) fn done(&self, resumed: bool) {
        if resumed { &self.resumed } else { &self.full }.fetch_add(1, Relaxed);
    }

    /// A step of a handshake took this CPU time.
    pub(super) fn took(&self, cpu: Duration) {
        self.cpu_nanos.fetch_add(u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The CPU time of all steps.
    pub(super) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_nanos.load(Relaxed))
    }
}

#[derive(Debug)]
pub(super) struct Stats {
    pub(super) first: PhaseStats,
    pub(super) again: PhaseStats,
    /// Whether the run has dropped all connections.
    pub(super) dropped: AtomicBool,
    /// Clients that are connected now.
    pub(super) connected: AtomicU64,
    /// Clients that have given up for good.
    pub(super) given_up: AtomicU64,
    /// Sockets that are open although their client has given up the attempt.
    pub(super) abandoned: AtomicU64,
    /// Such sockets that were closed because of the limit of open files.
    pub(super) abandoned_closed: AtomicU64,
    /// Connections that ended, other than those that the run dropped.
    pub(super) lost: AtomicU64,
    pub(super) tls: TlsStats,
    pub(super) delay: WakeupDelay,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            first: PhaseStats::new(),
            again: PhaseStats::new(),
            dropped: AtomicBool::new(false),
            connected: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            abandoned_closed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            tls: TlsStats::default(),
            delay: WakeupDelay::default(),
        }
    }

    /// A client has given up for good.
    pub(super) fn gave_up(&self) {
        self.given_up.fetch_add(1, Release);
    }

    /// The current phase.
    pub(super) fn phase(&self) -> &PhaseStats {
        if self.dropped.load(Relaxed) { &self.again } else { &self.first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_something_else_each_time_fills_no_memory() {
        let phase = PhaseStats::new();
        for n in 0..1000 {
            phase.failed(FailureText::Refused(format!("no {n}")));
        }
        phase.failed(FailureText::Refused("no 7".into()));
        let refused = phase.refused();
        assert_eq!((refused.len(), refused["no 7"], phase.refused_total()), (MOST_TEXTS + 1, 2, 1001));
        assert_eq!(refused[OTHER], 1000 - MOST_TEXTS as u64);
    }
}
