//! How late a worker notices what it waits for, because it is busy or waits for a core itself.

use std::{cell::Cell, time::Duration};

/// How often the timer of a worker ticks while anybody waits; less often where few do.
pub const TICK: Duration = Duration::from_millis(10);

/// The lag of a worker whose timer has just begun to tick: one tick. A storm begins on an idle worker, and its first
/// handshakes are measured before a tick has been.
const INITIAL: Duration = TICK;
/// The weight of one tick in the average is one over this.
const SMOOTHING: u32 = 8;
/// Of more ticks than this nothing is left in the average.
const MOST_COUNTED: u128 = 30;
/// tokio's timers round up to whole milliseconds: this much is not the worker's doing.
const ROUNDING: Duration = Duration::from_millis(1);

/// The average delay of the timer's last ticks, weighted exponentially. The longer it is, the more time logins get
/// before they count as slow, so that a busy worker does not look like a slow server.
#[derive(Debug)]
pub struct Lag(Cell<Duration>);

impl Default for Lag {
    fn default() -> Self {
        Self(Cell::new(INITIAL))
    }
}

impl Lag {
    pub fn get(&self) -> Duration {
        self.0.get()
    }

    /// Forgets what was measured: the timer begins to tick after a pause.
    pub fn reset(&self) {
        self.0.set(INITIAL);
    }

    /// A tick came `late`, and this long after the one before it: it counts for those that were left out between, too.
    pub fn note(&self, late: Duration, since: Duration) {
        for _ in 0..(since.as_millis() / TICK.as_millis()).clamp(1, MOST_COUNTED) {
            self.0.set((self.0.get() * (SMOOTHING - 1) + late.saturating_sub(ROUNDING)) / SMOOTHING);
        }
    }
}
