//! A count with a limit: the clients of a listener, the refusals under way, the clients that wait outside the queue.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// A number of permits that may be taken at once.
#[derive(Debug)]
pub struct Limit {
    /// The most permits at once.
    most: u32,
    in_use: AtomicU32,
}

/// One permit of a [`Limit`], given back on drop.
#[derive(Debug)]
pub struct Permit {
    limit: Arc<Limit>,
}

impl Limit {
    /// With no permit taken.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, in_use: AtomicU32::new(0) })
    }

    /// A count without a limit.
    pub fn none() -> Arc<Self> {
        Self::new(u32::MAX)
    }

    /// Takes a permit, if there is one.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let below = |n: u32| (n < self.most).then(|| n + 1);
        self.in_use.fetch_update(Relaxed, Relaxed, below).ok()?;
        Some(Permit { limit: Arc::clone(self) })
    }

    /// Takes a permit whether there is one or not.
    pub fn acquire_over(self: &Arc<Self>) -> Permit {
        self.in_use.fetch_add(1, Relaxed);
        Permit { limit: Arc::clone(self) }
    }

    /// The most permits at once.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// How many permits are taken.
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.in_use.fetch_sub(1, Relaxed);
    }
}
