//! Quotas and limits that a reload of the configuration may change while others read them, without a lock: whoever
//! reads in the moment of a change may see one value of before and one of after.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::admission::{
    params::{AccountLimits, Quota, RehomeLimits},
    quota::rate::LiveRate,
};

/// The most of something, if there is a limit. `u64::MAX` stands for none.
#[derive(Debug)]
pub struct LiveMost(AtomicU64);

impl LiveMost {
    pub fn new(most: Option<u32>) -> Self {
        let new = Self(AtomicU64::new(u64::MAX));
        new.set(most);
        new
    }

    pub fn set(&self, most: Option<u32>) {
        self.0.store(most.map_or(u64::MAX, u64::from), Relaxed);
    }

    pub fn get(&self) -> Option<u32> {
        u32::try_from(self.0.load(Relaxed)).ok()
    }
}

/// A [`Quota`].
#[derive(Debug)]
pub struct LiveQuota {
    max_connections: LiveMost,
    rate: LiveRate,
    warn_only: AtomicBool,
}

impl LiveQuota {
    pub fn new(quota: Quota) -> Self {
        let new =
            Self { max_connections: LiveMost::new(None), rate: LiveRate::new(None), warn_only: AtomicBool::new(false) };
        new.set(quota);
        new
    }

    pub fn set(&self, quota: Quota) {
        self.max_connections.set(quota.max_connections);
        self.rate.set(quota.rate);
        self.warn_only.store(quota.warn_only, Relaxed);
    }

    pub fn get(&self) -> Quota {
        Quota { max_connections: self.max_connections(), rate: self.rate.get(), warn_only: self.warn_only() }
    }

    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        self.max_connections().is_none() && self.rate.get().is_none()
    }

    pub fn max_connections(&self) -> Option<u32> {
        self.max_connections.get()
    }

    pub fn warn_only(&self) -> bool {
        self.warn_only.load(Relaxed)
    }
}

/// The [`AccountLimits`] of an account that is in use, without the token buckets of its rate.
#[derive(Debug)]
pub struct LiveLimits {
    pub quota: LiveQuota,
    max_leafnodes: LiveMost,
    weight: AtomicU32,
    priority: AtomicBool,
    /// 0 stands for no limit.
    max_handshakes: AtomicU32,
    /// 0 where sessions are not re-homed.
    rehome_memory: AtomicU32,
    rehome_within_ms: AtomicU32,
}

impl LiveLimits {
    pub fn new(limits: AccountLimits) -> Self {
        let new = Self {
            quota: LiveQuota::new(limits.quota),
            max_leafnodes: LiveMost::new(limits.max_leafnodes),
            weight: AtomicU32::new(1),
            priority: AtomicBool::new(false),
            max_handshakes: AtomicU32::new(0),
            rehome_memory: AtomicU32::new(0),
            rehome_within_ms: AtomicU32::new(0),
        };
        new.set(limits);
        new
    }

    pub fn set(&self, limits: AccountLimits) {
        self.quota.set(limits.quota);
        self.max_leafnodes.set(limits.max_leafnodes);
        self.weight.store(limits.weight.get(), Relaxed);
        self.priority.store(limits.priority, Relaxed);
        self.max_handshakes.store(limits.max_handshakes.map_or(0, NonZeroU32::get), Relaxed);
        let within = limits.rehome.map_or(0, |rehome| u32::try_from(rehome.within.as_millis()).unwrap_or(u32::MAX));
        self.rehome_within_ms.store(within, Relaxed);
        self.rehome_memory.store(limits.rehome.map_or(0, |rehome| rehome.memory.get()), Relaxed);
    }

    pub fn max_leafnodes(&self) -> Option<u32> {
        self.max_leafnodes.get()
    }

    pub fn weight(&self) -> NonZeroU32 {
        NonZeroU32::new(self.weight.load(Relaxed)).unwrap_or(NonZeroU32::MIN)
    }

    pub fn priority(&self) -> bool {
        self.priority.load(Relaxed)
    }

    pub fn max_handshakes(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.max_handshakes.load(Relaxed))
    }

    pub fn rehome(&self) -> Option<RehomeLimits> {
        let memory = NonZeroU32::new(self.rehome_memory.load(Relaxed))?;
        Some(RehomeLimits { memory, within: Duration::from_millis(self.rehome_within_ms.load(Relaxed).into()) })
    }
}
