//! A nats-server as a queue of handshakes, all of the same size: whoever came first is finished first.
//!
//! Short handshakes are worked off one after another. Long ones share the cores equally, as goroutines do that are preempted
//! before they are done; one number (the work that each has got since the server began) says how far each of them is.

use std::{collections::VecDeque, time::Duration};

use crate::storm::plan::calendar::Nanos;

const NANOS: f64 = 1e9;

/// How handshakes that are under way share a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// One after another.
    Fifo,
    /// All at once, each with an equal part of the server's speed.
    Shared,
}

/// A handshake under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// Finished when [`Server::work`] is this.
    finished_at: f64,
    pub(super) who: u32,
    pub(super) generation: u32,
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    discipline: Discipline,
    /// Handshakes it finishes per nanosecond, at most.
    speed: f64,
    /// What one handshake gets of that at most: it cannot be finished sooner than in its own time.
    share: f64,
    /// Handshakes' worth of work that each handshake has got; one after another: nanoseconds.
    work: f64,
    /// Where the last handshake in the queue is finished.
    last_finished_at: f64,
    worked_until: Nanos,
    jobs: VecDeque<Job>,
    /// Whether an event for the next finish is in the calendar.
    pub(super) is_awaited: bool,
    /// Connections it counts: in handshake, in, or left behind.
    pub(super) connections: u32,
    pub(super) max_connections: u32,
    pub(super) most_connections: u32,
}

impl Server {
    /// A server that finishes `per_second` handshakes a second, none of them in less than `alone`.
    pub(super) fn new(discipline: Discipline, per_second: f64, alone: Duration, max_connections: u32) -> Self {
        let speed = per_second / NANOS;
        Self {
            discipline,
            speed,
            share: 1.0 / alone.as_nanos().max(1) as f64,
            work: 0.0,
            last_finished_at: 0.0,
            worked_until: 0,
            jobs: VecDeque::new(),
            is_awaited: false,
            connections: 0,
            max_connections,
            most_connections: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.connections >= self.max_connections
    }

    fn pace(&self) -> f64 {
        match self.discipline {
            Discipline::Fifo => 1.0,
            Discipline::Shared => self.share.min(self.speed / self.jobs.len().max(1) as f64),
        }
    }

    fn work_until(&mut self, now: Nanos) {
        self.work += (now - self.worked_until) as f64 * self.pace();
        self.worked_until = now;
    }

    /// A connection, and its handshake begins. Who has checked [`Server::is_full`] knows that there is room.
    pub(super) fn begin(&mut self, who: u32, generation: u32, now: Nanos) {
        self.work_until(now);
        self.connections += 1;
        self.most_connections = self.most_connections.max(self.connections);
        self.last_finished_at = match self.discipline {
            Discipline::Fifo => (self.work + 1.0 / self.share).max(self.last_finished_at + 1.0 / self.speed),
            Discipline::Shared => self.work + 1.0,
        };
        self.jobs.push_back(Job { finished_at: self.last_finished_at, who, generation });
    }

    /// When the next handshake is finished if no more begin: not later than it really is.
    pub(super) fn next_finish(&self) -> Option<Nanos> {
        let first = self.jobs.front()?;
        let left = (first.finished_at - self.work).max(0.0) / self.pace();
        Some(self.worked_until + (left.ceil() as Nanos).max(1))
    }

    /// The next handshake that is finished by `now`.
    pub(super) fn finished(&mut self, now: Nanos) -> Option<Job> {
        self.work_until(now);
        // Less than a nanosecond's work is missing: rounding.
        let enough = self.work + self.pace();
        self.jobs.front().filter(|first| first.finished_at <= enough)?;
        self.jobs.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// When each of the handshakes that begin at these times is finished.
    fn finishes(mut server: Server, begins: &[Nanos]) -> Vec<f64> {
        let mut begins = begins.iter().copied().peekable();
        let mut out = Vec::new();
        loop {
            let finish = server.next_finish();
            if let Some(at) = begins.next_if(|&at| finish.is_none_or(|finish| at < finish)) {
                server.begin(0, 0, at);
            } else if let Some(finish) = finish {
                while server.finished(finish).is_some() {
                    out.push(finish as f64 / SECOND as f64);
                }
            } else {
                return out;
            }
        }
    }

    #[track_caller]
    fn about(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, not {expected:?}");
    }

    #[test]
    fn together_they_take_as_long_as_their_number_and_alone_no_less_than_their_own_time() {
        let server = || Server::new(Discipline::Shared, 10.0, Duration::from_millis(200), 100);
        about(&finishes(server(), &[0]), &[0.2]);
        about(&finishes(server(), &[0, 0]), &[0.2, 0.2]);
        about(&finishes(server(), &[0; 20]), &[2.0; 20]);
        // 10 have half of it after 0.5 s; then 20 share, so those take 1 s more, and the others another 0.5 s.
        let mut begins = vec![0; 10];
        begins.extend([SECOND / 2; 10]);
        about(&finishes(server(), &begins), &[[1.5; 10], [2.0; 10]].concat());
    }

    #[test]
    fn one_after_another() {
        let server = || Server::new(Discipline::Fifo, 10.0, Duration::from_millis(200), 100);
        about(&finishes(server(), &[0]), &[0.2]);
        about(&finishes(server(), &[0, 0, 0]), &[0.2, 0.3, 0.4]);
        about(&finishes(server(), &[0, SECOND]), &[0.2, 1.2]);
    }

    #[test]
    fn many_keep_their_order_and_the_speed() {
        let begins: Vec<Nanos> = (0..300_000).map(|n| n * 100).collect();
        for discipline in [Discipline::Shared, Discipline::Fifo] {
            let found = finishes(Server::new(discipline, 1000.0, Duration::from_millis(1), 1_000_000), &begins);
            assert!(found.is_sorted());
            let last = found.last().copied().unwrap();
            assert!((last - 300.0).abs() < 0.01, "{last}");
        }
    }
}
