//! Estimates a connection count that weir shares with others, of a server or of an account: `total = others + held`.
//!
//! `held` is exact: everything that weir has taken and not given back. `others` is what did not come through weir. A
//! reading bounds it from both sides, since nobody knows which of weir's own connections in flight the server had
//! counted when it answered. The estimate moves only as far as those bounds force it, so a burst through weir never
//! looks like a burst of others (docs/contract.md, towards servers 2).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What weir itself had when it asked for a reading. [`ReconciledCount::reconcile`] compares the answer with it.
#[derive(Debug, Clone, Copy)]
pub struct ReadingEpoch {
    held: u32,
    open: u32,
    reserved_total: u64,
    released_total: u64,
}

/// The counts of one server or account, shared by all workers.
#[derive(Debug, Default)]
pub struct ReconciledCount {
    /// Taken by weir and not given back.
    held: AtomicU32,
    /// Of those held, the ones that the next reading will count for certain.
    open: AtomicU32,
    reserved_total: AtomicU64,
    released_total: AtomicU64,
    /// The estimate of connections that are not weir's.
    others: AtomicU32,
}

impl ReconciledCount {
    /// Takes one, if the total is below `ceiling`.
    pub fn reserve(&self, ceiling: u32) -> bool {
        let room = ceiling.saturating_sub(self.others.load(Relaxed));
        if self.held.fetch_update(Relaxed, Relaxed, |n| (n < room).then(|| n + 1)).is_err() {
            return false;
        }
        self.reserved_total.fetch_add(1, Relaxed);
        true
    }

    /// From now on, readings count one of those taken for certain.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// Gives one back; `was_open` says whether [`ReconciledCount::opened`] was called for it.
    pub fn release(&self, was_open: bool) {
        if was_open {
            self.open.fetch_sub(1, Relaxed);
        }
        self.held.fetch_sub(1, Relaxed);
        self.released_total.fetch_add(1, Relaxed);
    }

    /// To be called before a reading is asked for.
    pub fn begin_reading(&self) -> ReadingEpoch {
        ReadingEpoch {
            open: self.open.load(Relaxed),
            held: self.held.load(Relaxed),
            reserved_total: self.reserved_total.load(Relaxed),
            released_total: self.released_total.load(Relaxed),
        }
    }

    /// Takes in a reading: there were `counted` connections at some time since `epoch`.
    pub fn reconcile(&self, epoch: ReadingEpoch, counted: u32) {
        let opened = self.reserved_total.load(Relaxed).wrapping_sub(epoch.reserved_total) as u32;
        let closed = self.released_total.load(Relaxed).wrapping_sub(epoch.released_total) as u32;
        let least_own = epoch.open.saturating_sub(closed);
        let most_own = epoch.held.saturating_add(opened);
        let most_others = counted.saturating_sub(least_own);
        let least_others = counted.saturating_sub(most_own).min(most_others);
        let others = self.others.load(Relaxed).clamp(least_others, most_others);
        self.others.store(others, Relaxed);
    }

    /// Readings have ended, so nothing is known of others any more.
    pub fn forget_others(&self) {
        self.others.store(0, Relaxed);
    }

    /// All connections, weir's own in flight included.
    #[inline]
    pub fn total(&self) -> u32 {
        self.others.load(Relaxed).saturating_add(self.held.load(Relaxed))
    }

    /// Those that weir holds.
    pub fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }
}
