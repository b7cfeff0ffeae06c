//! What placement looks at of a server's state, readable without its lock: for each client that comes, every server is looked at.
//!
//! Whatever depends on the time is kept as the moment at which it changes, so that a look is a few comparisons.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::upstream::placement::Tier;

/// A moment, in nanoseconds since the [`Epoch`]; all before that are one. 2^64 of them are 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Before every other.
    pub const LONG_AGO: Self = Self(0);
    /// After every other.
    pub const NEVER: Self = Self(u64::MAX);

    /// The next one.
    pub fn just_after(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What is asked about first may lie ahead, but not this far.
const LONG: Duration = Duration::from_secs(3600);

/// Where moments are counted from: long before the first that is asked about.
#[derive(Debug, Clone, Default)]
pub struct Epoch(Arc<OnceLock<Instant>>);

impl Epoch {
    pub fn moment(&self, at: Instant) -> Moment {
        let epoch = *self.0.get_or_init(|| at.checked_sub(LONG).unwrap_or(at));
        Moment(at.saturating_duration_since(epoch).as_nanos() as u64)
    }
}

/// What there is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Nobody is sent there before: it is full by its own word, or leaves.
    pub barred_until: Moment,
    /// It is left alone before: it did not answer.
    pub ejected_until: Moment,
    /// Its reading is old from then on.
    pub stale_from: Moment,
    /// If it is busy before, it will not be for long.
    pub lively_until: Moment,
    /// Before, how many handshakes it is given depends on its age.
    pub grown_at: Moment,
    /// From then on it is this.
    pub handshake_limit: u32,
}

impl Shown {
    #[inline]
    pub fn tier(&self, now: Moment) -> Tier {
        if now < self.barred_until {
            Tier::Excluded
        } else if now < self.ejected_until {
            Tier::Ejected
        } else if now >= self.stale_from {
            Tier::Stale
        } else {
            Tier::Eligible
        }
    }
}

/// One server's, written under its lock. A look while it is written may see a part of either: it is about a moment that is over in
/// any case, and the reservation that follows asks anew.
#[derive(Debug, Default)]
pub struct Sight {
    barred_until: AtomicU64,
    ejected_until: AtomicU64,
    stale_from: AtomicU64,
    lively_until: AtomicU64,
    grown_at: AtomicU64,
    handshake_limit: AtomicU32,
}

impl Sight {
    #[inline]
    pub fn look(&self) -> Shown {
        let moment = |at: &AtomicU64| Moment(at.load(Relaxed));
        Shown {
            barred_until: moment(&self.barred_until),
            ejected_until: moment(&self.ejected_until),
            stale_from: moment(&self.stale_from),
            lively_until: moment(&self.lively_until),
            grown_at: moment(&self.grown_at),
            handshake_limit: self.handshake_limit.load(Relaxed),
        }
    }

    /// Mostly nothing has changed, and a write would take the cache line from the other workers.
    pub fn show(&self, shown: Shown) {
        if shown == self.look() {
            return;
        }
        self.barred_until.store(shown.barred_until.0, Relaxed);
        self.ejected_until.store(shown.ejected_until.0, Relaxed);
        self.stale_from.store(shown.stale_from.0, Relaxed);
        self.lively_until.store(shown.lively_until.0, Relaxed);
        self.grown_at.store(shown.grown_at.0, Relaxed);
        self.handshake_limit.store(shown.handshake_limit, Relaxed);
    }
}
