//! Counters of the whole process: they are counted where no session's state is at hand, such as in a panic hook.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

/// A counter of the process.
#[derive(Debug)]
pub struct ProcessCounter(AtomicU64);

impl ProcessCounter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Panics in any thread or task.
pub static PANICS: ProcessCounter = ProcessCounter::new();
/// Log lines that did not fit into the queue, since standard error takes them more slowly than they come.
pub static LOG_LINES_UNQUEUED: ProcessCounter = ProcessCounter::new();
/// Log lines that standard error refused: a full disk, or a pipe whose reader is gone.
pub static LOG_LINES_UNWRITTEN: ProcessCounter = ProcessCounter::new();

/// When the process began, or more precisely when this was first looked at.
pub static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// The machine's name; in a container the container's. `weir` where the kernel tells none.
pub static HOST_NAME: LazyLock<String> = LazyLock::new(|| {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = told.trim();
    if name.is_empty() { "weir".to_owned() } else { name.to_owned() }
});
