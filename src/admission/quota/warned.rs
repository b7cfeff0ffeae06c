//! Counts the clients that quotas and policies which only warn would have refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::outcome::Refusal;

/// How many clients, by reason.
#[derive(Debug, Default)]
pub struct Warned {
    by_reason: [AtomicU64; Refusal::ALL.len()],
}

impl Warned {
    /// A client was let in that would have been refused for this reason.
    pub fn note(&self, reason: Refusal) {
        self.by_reason[reason as usize].fetch_add(1, Relaxed);
    }

    /// How many clients would have been refused for this reason.
    pub fn of(&self, reason: Refusal) -> u64 {
        self.by_reason[reason as usize].load(Relaxed)
    }
}
