//! Lock-free copy of the server state that placement needs. Placement reads it once per server and client; the server
//! writes it under its state lock.
//!
//! Whatever depends on the time is kept as the time at which it changes, so that a placement costs a few comparisons.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::upstream::{concurrency::login_speed::LoginSpeed, placement::Tier};

/// Nanoseconds since a [`TimeOrigin`]; all times before the origin are one. 2^64 nanoseconds are 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Before every other.
    pub const LONG_AGO: Self = Self(0);
    /// After every other.
    pub const NEVER: Self = Self(u64::MAX);

    /// As long as nobody undrains a server.
    pub const UNTIL_UNDRAINED: Self = Self(u64::MAX - 1);

    /// The next nanosecond.
    pub fn just_after(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// How far before the first time that it is asked for the origin lies. Later questions may be about somewhat earlier
/// times.
const ORIGIN_BEFORE_FIRST_USE: Duration = Duration::from_secs(3600);

/// What timestamps count from, shared by all servers. It is fixed at its first use.
#[derive(Debug, Clone, Default)]
pub struct TimeOrigin(Arc<OnceLock<Instant>>);

impl TimeOrigin {
    pub fn timestamp(&self, at: Instant) -> Timestamp {
        let origin = *self.0.get_or_init(|| at.checked_sub(ORIGIN_BEFORE_FIRST_USE).unwrap_or(at));
        Timestamp(at.saturating_duration_since(origin).as_nanos() as u64)
    }
}

/// The state of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Before this no client is sent there: the server has said that it is full, or that it shuts down.
    pub excluded_until: Timestamp,
    /// Before this the server is left alone, since it did not answer.
    pub ejected_until: Timestamp,
    /// Before this others go first, since its logins fail.
    pub logins_failing_until: Timestamp,
    /// From this on the last reading is old.
    pub stale_from: Timestamp,
    /// Before this, a busy server counts as one that will not be busy for long.
    pub frees_up_soon_until: Timestamp,
    /// Before this, the handshake limit depends on the age of the server.
    pub slow_start_until: Timestamp,
    /// Before this it takes no handshake, by its own word.
    pub throttled_until: Timestamp,
    /// The handshake limit from then on.
    pub handshake_limit: u32,
    /// How long a login takes beside other servers.
    pub login_speed: LoginSpeed,
    /// Before this, that is known.
    pub login_speed_until: Timestamp,
}

impl Snapshot {
    #[inline]
    pub fn tier(&self, now: Timestamp) -> Tier {
        if now < self.excluded_until {
            Tier::Excluded
        } else if now < self.ejected_until {
            Tier::Ejected
        } else if now < self.logins_failing_until {
            Tier::LoginsFailing
        } else if now >= self.stale_from {
            Tier::Stale
        } else {
            Tier::Eligible
        }
    }

    /// Whether one client may try a server that has failed, whatever its handshake limit.
    #[inline]
    pub fn is_trial_due(&self, now: Timestamp) -> bool {
        // Of a server that has not failed both are long ago.
        let last = self.ejected_until.max(self.logins_failing_until);
        last > Timestamp::LONG_AGO && now >= last
    }
}

/// A [`Snapshot`] that is written under the server's lock and read without it. A read during a write may mix the two
/// states. That is harmless: one of them is about to be over, and the reservation that follows asks again under the
/// lock.
#[derive(Debug, Default)]
pub struct AtomicSnapshot {
    excluded_until: AtomicU64,
    ejected_until: AtomicU64,
    logins_failing_until: AtomicU64,
    stale_from: AtomicU64,
    frees_up_soon_until: AtomicU64,
    slow_start_until: AtomicU64,
    throttled_until: AtomicU64,
    handshake_limit: AtomicU32,
    /// Its place in [`LoginSpeed::ALL`].
    login_speed: AtomicU8,
    login_speed_until: AtomicU64,
}

impl AtomicSnapshot {
    #[inline]
    pub fn load(&self) -> Snapshot {
        let timestamp = |at: &AtomicU64| Timestamp(at.load(Relaxed));
        Snapshot {
            excluded_until: timestamp(&self.excluded_until),
            ejected_until: timestamp(&self.ejected_until),
            logins_failing_until: timestamp(&self.logins_failing_until),
            stale_from: timestamp(&self.stale_from),
            frees_up_soon_until: timestamp(&self.frees_up_soon_until),
            slow_start_until: timestamp(&self.slow_start_until),
            throttled_until: timestamp(&self.throttled_until),
            handshake_limit: self.handshake_limit.load(Relaxed),
            login_speed: LoginSpeed::ALL[usize::from(self.login_speed.load(Relaxed)) % LoginSpeed::ALL.len()],
            login_speed_until: timestamp(&self.login_speed_until),
        }
    }

    /// Writes only a change: mostly there is none, and a write takes the cache line from the other workers.
    pub fn store(&self, snapshot: Snapshot) {
        if snapshot == self.load() {
            return;
        }
        self.excluded_until.store(snapshot.excluded_until.0, Relaxed);
        self.ejected_until.store(snapshot.ejected_until.0, Relaxed);
        self.logins_failing_until.store(snapshot.logins_failing_until.0, Relaxed);
        self.stale_from.store(snapshot.stale_from.0, Relaxed);
        self.frees_up_soon_until.store(snapshot.frees_up_soon_until.0, Relaxed);
        self.slow_start_until.store(snapshot.slow_start_until.0, Relaxed);
        self.throttled_until.store(snapshot.throttled_until.0, Relaxed);
        self.handshake_limit.store(snapshot.handshake_limit, Relaxed);
        self.login_speed.store(snapshot.login_speed as u8, Relaxed);
        self.login_speed_until.store(snapshot.login_speed_until.0, Relaxed);
    }
}
