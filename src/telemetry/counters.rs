//! What is counted while clients pass. `session.rs` writes here once, at the end; `metrics` reads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use prometheus_client::metrics::histogram::Histogram;

use crate::outcome::{Cause, Close, Party, Phase, Refusal};

pub use crate::telemetry::bad_logins::BadLogins;

/// Bytes and messages of one session, or of all of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Bytes from the client to the server.
    pub bytes_up: u64,
    /// Bytes from the server to the client.
    pub bytes_down: u64,
    /// Messages published by the client.
    pub messages_up: u64,
    /// Messages delivered to the client.
    pub messages_down: u64,
}

/// What is counted for each server, by its index.
#[derive(Debug)]
pub struct ServerCounters {
    /// Clients admitted there, with PONG.
    pub admitted: AtomicU64,
    /// From the start of the dial, or from CONNECT where the server was dialled before, to the server's PONG, in seconds.
    pub handshake_seconds: Histogram,
}

impl std::ops::Sub for Totals {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            bytes_up: self.bytes_up - before.bytes_up,
            bytes_down: self.bytes_down - before.bytes_down,
            messages_up: self.messages_up - before.messages_up,
            messages_down: self.messages_down - before.messages_down,
        }
    }
}

/// All counters.
#[derive(Debug)]
pub struct Counters {
    /// By server index.
    pub servers: Vec<ServerCounters>,
    refused: [AtomicU64; Refusal::ALL.len()],
    closed: [[[AtomicU64; Cause::ALL.len()]; Phase::ALL.len()]; Party::ALL.len()],
    /// Logins that servers refused.
    pub bad_logins: BadLogins,
    /// Connections that opened and closed without a word.
    pub probes: AtomicU64,
    /// Clients that had to wait for their turn.
    pub held: AtomicU64,
    /// TLS handshakes with clients in which everything was computed.
    pub tls_full: AtomicU64,
    /// TLS handshakes with clients that had a ticket.
    pub tls_resumed: AtomicU64,
    /// How long clients were held, whatever came of it, in seconds.
    pub hold_seconds: Histogram,
    /// By worker, so that no two workers write to the same cache line.
    relayed: [Relayed; WORKERS],
}

/// Workers that count apart; with more of them some share.
const WORKERS: usize = 64;

#[derive(Debug)]
#[repr(align(128))]
struct Relayed {
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    messages_up: AtomicU64,
    messages_down: AtomicU64,
}

thread_local! {
    /// This worker's place in [`Counters::relayed`].
    static WORKER: usize = NEXT_WORKER.fetch_add(1, Relaxed) % WORKERS;
}
static NEXT_WORKER: AtomicUsize = AtomicUsize::new(0);

/// Upper bounds in seconds, 1 ms to 20 s: the longest patience of any official client.
const BOUNDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];

impl Counters {
    /// Zeros, for so many servers.
    pub fn new(servers: usize) -> Self {
        let server = || ServerCounters { admitted: AtomicU64::new(0), handshake_seconds: Histogram::new(BOUNDS) };
        Self {
            servers: std::iter::repeat_with(server).take(servers).collect(),
            refused: Default::default(),
            closed: Default::default(),
            bad_logins: BadLogins::default(),
            probes: AtomicU64::new(0),
            held: AtomicU64::new(0),
            tls_full: AtomicU64::new(0),
            tls_resumed: AtomicU64::new(0),
            hold_seconds: Histogram::new(BOUNDS),
            relayed: [const { Relayed::new() }; WORKERS],
        }
    }

    /// A client was refused.
    pub fn refuse(&self, reason: Refusal) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    /// How many were, for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// How many were, for any reason.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.iter().map(|n| n.load(Relaxed)).sum()
    }

    /// A connection ended that was not refused.
    pub fn close(&self, close: Close) {
        self.closed[close.party as usize][close.phase as usize][close.cause as usize].fetch_add(1, Relaxed);
    }

    /// How many ended so.
    pub fn closed(&self, close: Close) -> u64 {
        self.closed[close.party as usize][close.phase as usize][close.cause as usize].load(Relaxed)
    }

    /// Adds what was relayed since the last time, on this worker.
    pub fn relayed(&self, since: Totals) {
        let mine = WORKER.with(|&n| &self.relayed[n]);
        let add = |counter: &AtomicU64, n: u64| {
            if n > 0 {
                counter.fetch_add(n, Relaxed);
            }
        };
        add(&mine.bytes_up, since.bytes_up);
        add(&mine.bytes_down, since.bytes_down);
        add(&mine.messages_up, since.messages_up);
        add(&mine.messages_down, since.messages_down);
    }

    /// What was relayed by all sessions.
    pub fn totals(&self) -> Totals {
        let mut all = Totals::default();
        for one in &self.relayed {
            all.bytes_up += one.bytes_up.load(Relaxed);
            all.bytes_down += one.bytes_down.load(Relaxed);
            all.messages_up += one.messages_up.load(Relaxed);
            all.messages_down += one.messages_down.load(Relaxed);
        }
        all
    }
}

impl Relayed {
    const fn new() -> Self {
        Self {
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            messages_up: AtomicU64::new(0),
            messages_down: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let counters = Counters::new(1);
        for (n, reason) in Refusal::ALL.into_iter().enumerate() {
            (0..=n).for_each(|_| counters.refuse(reason));
        }
        for (n, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(counters.refused(reason), n as u64 + 1, "{}", reason.name());
        }
        for party in Party::ALL {
            for phase in Phase::ALL {
                for cause in Cause::ALL {
                    let close = Close { party, phase, cause };
                    assert_eq!(counters.closed(close), 0);
                    counters.close(close);
                    assert_eq!(counters.closed(close), 1);
                }
            }
        }
    }
}
