//! A nats-server as a queue of handshakes of equal size. Handshakes finish in the order in which they began.
//!
//! A server works on short handshakes one after another. Long ones share its cores equally, as goroutines that are
//! preempted before they are done. All of them advance at the same speed, so one number for the server is enough: the
//! work that each handshake has received since the server began.

use std::{collections::VecDeque, time::Duration};

use crate::storm::plan::calendar::Nanos;

const NANOS: f64 = 1e9;

/// How concurrent handshakes share a server: its service discipline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// One after another.
    Fifo,
    /// All at once, each with an equal part of the server's speed.
    ProcessorSharing,
}

/// A handshake under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The handshake is finished when [`SimulatedServer::work`] reaches this.
    finished_at: f64,
    pub(super) who: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
pub(super) struct SimulatedServer {
    discipline: Discipline,
    /// The most handshakes that it finishes per nanosecond.
    speed: f64,
    /// The most of that speed that one handshake gets: alone, it takes the time of a handshake on an idle server.
    share: f64,
    /// Processor sharing: the work that each handshake has received, where 1 is a whole handshake. Fifo: nanoseconds.
    work: f64,
    /// The value of `work` at which the last handshake in the queue is finished.
    last_finished_at: f64,
    worked_until: Nanos,
    jobs: VecDeque<Job>,
    /// Whether the calendar has an event for the next finish.
    pub(super) is_awaited: bool,
    /// Connections that it counts: in handshake, connected, or abandoned by their client.
    pub(super) connections: u32,
    pub(super) max_connections: u32,
    pub(super) most_connections: u32,
}

impl SimulatedServer {
    /// A server that finishes `per_second` handshakes a second, none of them in less time than `alone`.
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

    /// How fast `work` grows, per nanosecond.
    fn speed_of_work(&self) -> f64 {
        match self.discipline {
            Discipline::Fifo => 1.0,
            Discipline::ProcessorSharing => self.share.min(self.speed / self.jobs.len().max(1) as f64),
        }
    }

    fn work_until(&mut self, now: Nanos) {
        self.work += (now - self.worked_until) as f64 * self.speed_of_work();
        self.worked_until = now;
    }

    /// Opens a connection and begins its handshake. The caller has checked [`SimulatedServer::is_full`].
    pub(super) fn begin(&mut self, who: u32, generation: u32, now: Nanos) {
        self.work_until(now);
        self.connections += 1;
        self.most_connections = self.most_connections.max(self.connections);
        self.last_finished_at = match self.discipline {
            Discipline::Fifo => (self.work + 1.0 / self.share).max(self.last_finished_at + 1.0 / self.speed),
            Discipline::ProcessorSharing => self.work + 1.0,
        };
        self.jobs.push_back(Job { finished_at: self.last_finished_at, who, generation });
    }

    /// When the next handshake finishes if no other begins. It can finish later than this, never sooner.
    pub(super) fn next_finish(&self) -> Option<Nanos> {
        let first = self.jobs.front()?;
        let left = (first.finished_at - self.work).max(0.0) / self.speed_of_work();
        Some(self.worked_until + (left.ceil() as Nanos).max(1))
    }

    /// Takes the next handshake that is finished by `now`.
    pub(super) fn finished(&mut self, now: Nanos) -> Option<Job> {
        self.work_until(now);
        // Rounding may leave less than one nanosecond of work.
        let enough = self.work + self.speed_of_work();
        self.jobs.front().filter(|first| first.finished_at <= enough)?;
        self.jobs.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// When each of the handshakes that begin at these times finishes, in seconds.
    fn finishes(mut server: SimulatedServer, begins: &[Nanos]) -> Vec<f64> {
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
    fn handshakes_that_share_a_server_take_as_long_as_their_number_says_and_one_alone_takes_its_own_time() {
        let server = || SimulatedServer::new(Discipline::ProcessorSharing, 10.0, Duration::from_millis(200), 100);
        about(&finishes(server(), &[0]), &[0.2]);
        about(&finishes(server(), &[0, 0]), &[0.2, 0.2]);
        about(&finishes(server(), &[0; 20]), &[2.0; 20]);
        // After 0.5 s the first 10 are half done. Then 20 share the server: the first 10 take 1 s more, the others 1.5
        // s.
        let mut begins = vec![0; 10];
        begins.extend([SECOND / 2; 10]);
        about(&finishes(server(), &begins), &[[1.5; 10], [2.0; 10]].concat());
    }

    #[test]
    fn one_after_another() {
        let server = || SimulatedServer::new(Discipline::Fifo, 10.0, Duration::from_millis(200), 100);
        about(&finishes(server(), &[0]), &[0.2]);
        about(&finishes(server(), &[0, 0, 0]), &[0.2, 0.3, 0.4]);
        about(&finishes(server(), &[0, SECOND]), &[0.2, 1.2]);
    }

    #[test]
    fn many_keep_their_order_and_the_speed() {
        let begins: Vec<Nanos> = (0..300_000).map(|n| n * 100).collect();
        for discipline in [Discipline::ProcessorSharing, Discipline::Fifo] {
            let found =
                finishes(SimulatedServer::new(discipline, 1000.0, Duration::from_millis(1), 1_000_000), &begins);
            assert!(found.is_sorted());
            let last = found.last().copied().unwrap();
            assert!((last - 300.0).abs() < 0.01, "{last}");
        }
    }
}
