//! A bounded count: how many clients a listener serves, how many refusals are on their way.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// At most so many at once.
#[derive(Debug)]
pub struct Limit {
    most: u32,
    inside: AtomicU32,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Limit>,
}

impl Limit {
    /// Nobody inside.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, inside: AtomicU32::new(0) })
    }

    /// Goes in, if there is room.
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        let below = |n: u32| (n < self.most).then(|| n + 1);
        self.inside.fetch_update(Relaxed, Relaxed, below).ok()?;
        Some(Permit { gate: Arc::clone(self) })
    }

    /// How many are inside.
    pub fn inside(&self) -> u32 {
        self.inside.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.inside.fetch_sub(1, Relaxed);
    }
}
