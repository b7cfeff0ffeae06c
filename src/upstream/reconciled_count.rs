//! How many there are at a place where weir is not the only one who comes and goes: a server's connections, an account's.
//!
//! `total = others + held`. `held` is exact: everything weir took and has not given back. `others` is what did not come
//! through weir; a reading bounds it from both sides, since it is unknown which of weir's own in-flight connections had been
//! counted when it was taken. The estimate moves only as far as those bounds force it, so a burst through weir never looks
//! like a burst of others.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What weir itself had when it asked for a reading; compared with the answer by [`ReconciledCount::reading`].
#[derive(Debug, Clone, Copy)]
pub struct ReadingEpoch {
    held: u32,
    open: u32,
    reserved_total: u64,
    released_total: u64,
}

/// The counts of one place, shared by all workers.
#[derive(Debug, Default)]
pub struct ReconciledCount {
    /// Taken by weir.
    held: AtomicU32,
    /// Of those, the ones that are surely in a reading.
    open: AtomicU32,
    reserved_total: AtomicU64,
    released_total: AtomicU64,
    /// Those that are not weir's.
    others: AtomicU32,
}

impl ReconciledCount {
    /// Takes one, if there are fewer than `ceiling` in all.
    pub fn reserve(&self, ceiling: u32) -> bool {
        let room = ceiling.saturating_sub(self.others.load(Relaxed));
        if self.held.fetch_update(Relaxed, Relaxed, |n| (n < room).then(|| n + 1)).is_err() {
            return false;
        }
        self.reserved_total.fetch_add(1, Relaxed);
        true
    }

    /// One of those taken is surely counted from now on.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// Gives one back; `was_open` says whether [`ReconciledCount::opened`] had been called for it.
    pub fn release(&self, was_open: bool) {
        if was_open {
            self.open.fetch_sub(1, Relaxed);
        }
        self.held.fetch_sub(1, Relaxed);
        self.released_total.fetch_add(1, Relaxed);
    }

    /// To be taken before a reading is asked for.
    pub fn begin_reading(&self) -> ReadingEpoch {
        ReadingEpoch {
            open: self.open.load(Relaxed),
            held: self.held.load(Relaxed),
            reserved_total: self.reserved_total.load(Relaxed),
            released_total: self.released_total.load(Relaxed),
        }
    }

    /// There were `counted` at some moment since `mark`.
    pub fn reconcile(&self, mark: ReadingEpoch, counted: u32) {
        let opened = self.reserved_total.load(Relaxed).wrapping_sub(mark.reserved_total) as u32;
        let closed = self.released_total.load(Relaxed).wrapping_sub(mark.released_total) as u32;
        let least_own = mark.open.saturating_sub(closed);
        let most_own = mark.held.saturating_add(opened);
        let most_others = counted.saturating_sub(least_own);
        let least_others = counted.saturating_sub(most_own).min(most_others);
        let others = self.others.load(Relaxed).clamp(least_others, most_others);
        self.others.store(others, Relaxed);
    }

    /// Readings have ended: nothing is known of others any more.
    pub fn forget_others(&self) {
        self.others.store(0, Relaxed);
    }

    /// All there are, weir's in-flight ones included.
    #[inline]
    pub fn total(&self) -> u32 {
        self.others.load(Relaxed).saturating_add(self.held.load(Relaxed))
    }

    /// Those that weir holds.
    pub fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }
}
