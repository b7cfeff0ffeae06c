//! What has passed in a session, for others to read while it goes on.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::telemetry::{counters::Totals, moment::Moment};

/// What has passed in a session, as one process of weir tells another. Moments are in nanoseconds, counted from where
/// both processes count.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficState {
    pub totals: Totals,
    pub last_activity: u64,
    pub last_heard: u64,
    /// In microseconds; 0 while unknown.
    pub rtt: u32,
}

/// The totals of a session and its last activity. Only the worker of the session writes them, so a write is a plain
/// store; a reader sees each number on its own.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    messages_up: AtomicU64,
    messages_down: AtomicU64,
    payload_up: AtomicU64,
    payload_down: AtomicU64,
    last_activity: AtomicU64,
    last_heard: AtomicU64,
    /// In microseconds; 0 while unknown.
    rtt: AtomicU32,
}

impl Traffic {
    pub fn totals(&self) -> Totals {
        Totals {
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
            messages_up: self.messages_up.load(Relaxed),
            messages_down: self.messages_down.load(Relaxed),
            payload_up: self.payload_up.load(Relaxed),
            payload_down: self.payload_down.load(Relaxed),
        }
    }

    /// Sets the totals. By the worker of the session only.
    pub fn set(&self, totals: Totals) {
        self.bytes_up.store(totals.bytes_up, Relaxed);
        self.bytes_down.store(totals.bytes_down, Relaxed);
        self.messages_up.store(totals.messages_up, Relaxed);
        self.messages_down.store(totals.messages_down, Relaxed);
        self.payload_up.store(totals.payload_up, Relaxed);
        self.payload_down.store(totals.payload_down, Relaxed);
    }

    /// All of it, for another process.
    pub fn state(&self) -> TrafficState {
        TrafficState {
            totals: self.totals(),
            last_activity: self.last_activity.load(Relaxed),
            last_heard: self.last_heard.load(Relaxed),
            rtt: self.rtt.load(Relaxed),
        }
    }

    /// Goes on from what another process has seen. By the worker of the session only.
    pub fn resume(&self, state: TrafficState) {
        self.set(state.totals);
        self.last_activity.store(state.last_activity, Relaxed);
        self.last_heard.store(state.last_heard, Relaxed);
        self.rtt.store(state.rtt, Relaxed);
    }

    /// When the last message passed or the interest of the client changed, as nats-server counts it: a PING is none.
    /// When the session began, where nothing has.
    pub fn last_activity(&self) -> Moment {
        Moment::from_raw(self.last_activity.load(Relaxed))
    }

    pub fn set_last_activity(&self, at: Moment) {
        self.last_activity.store(at.raw(), Relaxed);
    }

    /// When weir last read anything that the client had sent. When the session began, where it has read nothing since.
    pub fn last_heard(&self) -> Moment {
        Moment::from_raw(self.last_heard.load(Relaxed))
    }

    pub fn set_last_heard(&self, at: Moment) {
        self.last_heard.store(at.raw(), Relaxed);
    }

    /// How long the client took for its last PONG; `None` while it has answered none.
    pub fn rtt(&self) -> Option<Duration> {
        let micros = self.rtt.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    pub fn set_rtt(&self, rtt: Duration) {
        self.rtt.store(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1), Relaxed);
    }
}
