//! Which allowances the ledger is to look at: told from the connect path, without a lock and without an allocation.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::SeqCst},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use crate::fleet::lease::LeaseKey;

/// So many are told between two looks of the ledger; when there are more it looks at all.
const MOST: usize = 4096;

/// What has been told since the last look. Each allowance is in it once at most, since it tells its key only when the
/// ledger has looked at it.
#[derive(Debug)]
pub(super) struct Needs {
    tell: SyncSender<LeaseKey>,
    told: Mutex<Receiver<LeaseKey>>,
    are_more: AtomicBool,
}

impl Default for Needs {
    fn default() -> Self {
        let (tell, told) = sync_channel(MOST);
        Self { tell, told: Mutex::new(told), are_more: AtomicBool::new(false) }
    }
}

impl Needs {
    /// The ledger is to look at this one. The queue is bounded and made once, and nobody waits for what comes in it, so
    /// that this takes no lock.
    pub fn tell(&self, key: LeaseKey) {
        if self.tell.try_send(key).is_err() {
            self.are_more.store(true, SeqCst);
        }
    }

    /// Those that were told, each to be marked as looked at before what it holds is read; `None`: there were more than
    /// the queue holds, and all are to be looked at.
    pub fn take(&self) -> Option<Vec<LeaseKey>> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever comes meanwhile may come again and again.
        let keys = told.try_iter().take(MOST).collect();
        (!self.are_more.swap(false, SeqCst)).then_some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::key::{Keys, Kind};

    #[test]
    fn more_than_the_queue_holds_are_told_as_all() {
        let (needs, keys) = (Needs::default(), Keys::of_fleet("edge"));
        let key = |n: usize| LeaseKey { kind: Kind::Account, key: keys.of(Kind::Account, &n.to_string()) };
        assert_eq!(needs.take(), Some(Vec::new()));
        (0..MOST).for_each(|n| needs.tell(key(n)));
        assert_eq!(needs.take(), Some((0..MOST).map(key).collect()));
        (0..=MOST).for_each(|n| needs.tell(key(n)));
        assert_eq!((needs.take(), needs.take()), (None, Some(Vec::new())));
    }
}
