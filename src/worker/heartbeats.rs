//! Whether the threads of weir make progress. Each beats once a second, from a task of its own runtime: a thread that
//! is stuck in a computation, a lock or a system call does not.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// From one beat of a thread to the next.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);

/// A thread that has not beaten for so long is stuck. It is far more than a busy thread is late by, since what follows
/// is mostly that an orchestrator kills weir with all its sessions.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The last beat of each worker and of the control thread.
#[derive(Debug)]
pub struct Heartbeats {
    /// What 0 ms stands for.
    began: Instant,
    workers: Box<[AtomicU64]>,
    control: AtomicU64,
    has_started: AtomicBool,
}

/// A thread that makes no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// The number of the worker; `None` for the control thread.
    pub worker: Option<usize>,
    /// How long ago it beat last.
    pub since: Duration,
}

impl Heartbeats {
    /// All have beaten just now.
    pub fn new(workers: usize, now: Instant) -> Self {
        let workers = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self { began: now, workers, control: AtomicU64::new(0), has_started: AtomicBool::new(false) }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Worker `n` makes progress.
    pub fn beat_of_worker(&self, n: usize, now: Instant) {
        if let Some(beat) = self.workers.get(n) {
            beat.store(self.millis(now), Relaxed);
        }
    }

    /// The control thread makes progress.
    pub fn beat_of_control(&self, now: Instant) {
        self.control.store(self.millis(now), Relaxed);
    }

    /// All listeners accept clients from now on.
    pub fn started(&self, now: Instant) {
        // The workers have begun only now.
        (0..self.workers.len()).for_each(|n| self.beat_of_worker(n, now));
        self.has_started.store(true, Relaxed);
    }

    /// Whether [`Heartbeats::started`] was called.
    pub fn has_started(&self) -> bool {
        self.has_started.load(Relaxed)
    }

    /// The thread that has been stuck for longest, if any is. Before the start no worker is expected to beat.
    pub fn stuck(&self, now: Instant) -> Option<Stuck> {
        let millis = self.millis(now);
        let since = |beat: &AtomicU64| Duration::from_millis(millis.saturating_sub(beat.load(Relaxed)));
        let workers = self.workers.iter().enumerate().filter(|_| self.has_started());
        let workers = workers.map(|(n, beat)| Stuck { worker: Some(n), since: since(beat) });
        let all = workers.chain([Stuck { worker: None, since: since(&self.control) }]);
        all.filter(|one| one.since >= STUCK_AFTER).max_by_key(|one| one.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_beat_is_stuck_until_it_beats_again() {
        let began = Instant::now();
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        let beats = Heartbeats::new(2, began);
        beats.beat_of_control(after(30));
        assert_eq!((beats.stuck(after(30)), beats.has_started()), (None, false), "the workers have not begun");
        beats.started(after(30));
        assert_eq!((beats.stuck(after(39)), beats.has_started()), (None, true));
        beats.beat_of_control(after(39));
        beats.beat_of_worker(0, after(39));
        let stuck = Some(Stuck { worker: Some(1), since: Duration::from_secs(10) });
        assert_eq!(beats.stuck(after(40)), stuck);
        beats.beat_of_worker(1, after(41));
        assert_eq!(beats.stuck(after(41)), None);
        let stuck = Some(Stuck { worker: None, since: Duration::from_secs(20) });
        [0, 1].iter().for_each(|n| beats.beat_of_worker(*n, after(58)));
        assert_eq!(beats.stuck(after(59)), stuck);
        beats.beat_of_worker(7, after(59));
    }
}
