//! All counters. A session counts its end here once, and its bytes while they pass; `admin/prometheus.rs` reads the
//! counters at each scrape.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    outcome::{Cause, Close, MoveCause, MoveResult, Party, Phase, Refusal},
    upstream::BOUNDS,
    worker,
};
use prometheus_client::metrics::histogram::Histogram;
use serde::{Deserialize, Serialize};

pub use crate::telemetry::{bad_logins::BadLogins, refused_accounts::RefusedAccounts};

/// Bytes and messages of one session, or of all of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Bytes from the client to the server.
    pub bytes_up: u64,
    /// Bytes from the server to the client.
    pub bytes_down: u64,
    /// Messages published by the client.
    pub messages_up: u64,
    /// Messages delivered to the client.
    pub messages_down: u64,
    /// Bytes of these messages, headers included, as nats-server counts them in `in_bytes`.
    pub payload_up: u64,
    /// The same of the messages delivered to the client: `out_bytes`.
    pub payload_down: u64,
}

impl Totals {
    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// The larger one of each number.
    pub fn max(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    fn with(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            bytes_up: of(self.bytes_up, other.bytes_up),
            bytes_down: of(self.bytes_down, other.bytes_down),
            messages_up: of(self.messages_up, other.messages_up),
            messages_down: of(self.messages_down, other.messages_down),
            payload_up: of(self.payload_up, other.payload_up),
            payload_down: of(self.payload_down, other.payload_down),
        }
    }

    /// What has come on top of `earlier` totals of the same session.
    pub fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }
}

/// All counters, but for those of each server, which go with it (`Server::counters`).
#[derive(Debug)]
pub struct Counters {
    /// Clients that got their PONG, of all servers that there are or were.
    pub admitted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    closed: [[[AtomicU64; Cause::ALL.len()]; Phase::ALL.len()]; Party::ALL.len()],
    moves: [[AtomicU64; MoveResult::ALL.len()]; MoveCause::ALL.len()],
    pub bad_logins: BadLogins,
    pub refused_by_account: RefusedAccounts,
    /// Sessions that the policy for idle ones would have ended if it did not only warn.
    pub would_end_idle: AtomicU64,
    /// Connections that opened and closed without sending anything.
    pub probes: AtomicU64,
    /// Clients that had to wait for their turn.
    pub held: AtomicU64,
    /// Full TLS handshakes with clients.
    pub tls_full: AtomicU64,
    /// TLS handshakes with clients that were resumed with a ticket.
    pub tls_resumed: AtomicU64,
    /// Seconds that clients were held, whether they were admitted in the end or not.
    pub hold_seconds: Histogram,
    /// One per worker, so that no two workers write to the same cache line.
    relayed: [Relayed; WORKERS],
}

/// Workers that have counters of their own. With more workers than this, some share.
const WORKERS: usize = 64;

#[derive(Debug)]
#[repr(align(128))]
struct Relayed {
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    messages_up: AtomicU64,
    messages_down: AtomicU64,
    payload_up: AtomicU64,
    payload_down: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            admitted: AtomicU64::new(0),
            refused: Default::default(),
            closed: Default::default(),
            moves: Default::default(),
            bad_logins: BadLogins::default(),
            refused_by_account: RefusedAccounts::default(),
            would_end_idle: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            held: AtomicU64::new(0),
            tls_full: AtomicU64::new(0),
            tls_resumed: AtomicU64::new(0),
            hold_seconds: Histogram::new(BOUNDS),
            relayed: [const { Relayed::new() }; WORKERS],
        }
    }
}

impl Counters {
    pub fn refuse(&self, reason: Refusal) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// Counts the end of a connection that was not refused.
    pub fn close(&self, close: Close) {
        self.closed[close.party as usize][close.phase as usize][close.cause as usize].fetch_add(1, Relaxed);
    }

    pub fn closed(&self, close: Close) -> u64 {
        self.closed[close.party as usize][close.phase as usize][close.cause as usize].load(Relaxed)
    }

    /// Counts a client that weir has moved.
    pub fn moved(&self, cause: MoveCause, result: MoveResult) {
        self.moves[cause as usize][result as usize].fetch_add(1, Relaxed);
    }

    pub fn moves(&self, cause: MoveCause, result: MoveResult) -> u64 {
        self.moves[cause as usize][result as usize].load(Relaxed)
    }

    /// Adds what a session of this worker relayed since its last call.
    pub fn relayed(&self, since: Totals) {
        let mine = &self.relayed[worker::number() % WORKERS];
        let add = |counter: &AtomicU64, n: u64| {
            if n > 0 {
                counter.fetch_add(n, Relaxed);
            }
        };
        add(&mine.bytes_up, since.bytes_up);
        add(&mine.bytes_down, since.bytes_down);
        add(&mine.messages_up, since.messages_up);
        add(&mine.messages_down, since.messages_down);
        add(&mine.payload_up, since.payload_up);
        add(&mine.payload_down, since.payload_down);
    }

    /// What all sessions have relayed, present and past.
    pub fn totals(&self) -> Totals {
        let mut all = Totals::default();
        for one in &self.relayed {
            all.bytes_up += one.bytes_up.load(Relaxed);
            all.bytes_down += one.bytes_down.load(Relaxed);
            all.messages_up += one.messages_up.load(Relaxed);
            all.messages_down += one.messages_down.load(Relaxed);
            all.payload_up += one.payload_up.load(Relaxed);
            all.payload_down += one.payload_down.load(Relaxed);
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
            payload_up: AtomicU64::new(0),
            payload_down: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let counters = Counters::default();
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
