//! What became of the reloads of the configuration. There is one configuration of the process.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::SystemTime,
};

use strum::{IntoStaticStr, VariantArray};

/// What became of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// What has changed is in force, but for what needs a restart.
    Applied,
    /// Nothing has changed that could be applied.
    Unchanged,
    /// The configuration is wrong, or cannot be put into force: nothing has changed.
    Refused,
}

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// SHA-256 of what `weir check` prints of it, in hexadecimal.
    pub digest: String,
    /// Since when it is in force, or when a reload has last found that nothing has changed.
    pub since: SystemTime,
}

/// The reloads of this process.
#[derive(Debug)]
pub struct Reloads {
    by_outcome: [AtomicU64; Outcome::VARIANTS.len()],
    last_failed: AtomicBool,
    /// Keys whose value in the file needs a restart.
    awaiting_restart: AtomicUsize,
    in_force: Mutex<Option<InForce>>,
}

/// The reloads of this process.
pub static RELOADS: Reloads = Reloads {
    by_outcome: [const { AtomicU64::new(0) }; Outcome::VARIANTS.len()],
    last_failed: AtomicBool::new(false),
    awaiting_restart: AtomicUsize::new(0),
    in_force: Mutex::new(None),
};

impl Reloads {
    /// weir has begun with a configuration.
    pub fn begun(&self, digest: String) {
        self.put(digest);
    }

    /// A reload has found a good configuration. So many keys need a restart.
    pub fn succeeded(&self, outcome: Outcome, digest: String, awaiting_restart: usize) {
        self.by_outcome[outcome as usize].fetch_add(1, Relaxed);
        self.last_failed.store(false, Relaxed);
        self.awaiting_restart.store(awaiting_restart, Relaxed);
        self.put(digest);
    }

    /// A reload has changed nothing, since the configuration cannot be used.
    pub fn refused(&self) {
        self.by_outcome[Outcome::Refused as usize].fetch_add(1, Relaxed);
        self.last_failed.store(true, Relaxed);
    }

    fn put(&self, digest: String) {
        let in_force = InForce { digest, since: SystemTime::now() };
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Some(in_force);
    }

    /// How many reloads ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.by_outcome[outcome as usize].load(Relaxed)
    }

    /// Whether the last reload was refused.
    pub fn last_failed(&self) -> bool {
        self.last_failed.load(Relaxed)
    }

    pub fn awaiting_restart(&self) -> usize {
        self.awaiting_restart.load(Relaxed)
    }

    /// The configuration in force; `None` before weir has begun.
    pub fn in_force(&self) -> Option<InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
