//! What the sessions of each account that have ended had moved, so that the sums of an account never become less.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::telemetry::counters::Totals;

/// The most accounts that are remembered. Only a server puts a session into an account, so these are accounts that
/// exist; those beyond are not summed up.
const MOST_ACCOUNTS: usize = 65_536;

/// Sums by account.
#[derive(Debug, Default)]
pub struct EndedTraffic(Mutex<HashMap<Arc<str>, Sums>>);

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    ended: Totals,
    /// The largest sums that were shown of the account, of all its sessions.
    shown: Totals,
}

impl EndedTraffic {
    fn all(&self) -> MutexGuard<'_, HashMap<Arc<str>, Sums>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a session of this account has moved.
    pub fn add(&self, account: &Arc<str>, totals: Totals) {
        let mut all = self.all();
        if let Some(sums) = all.get_mut(account) {
            sums.ended = sums.ended.plus(totals);
        } else if all.len() < MOST_ACCOUNTS {
            all.insert(Arc::clone(account), Sums { ended: totals, shown: Totals::default() });
        }
    }

    /// The sums of ended sessions.
    pub fn totals(&self) -> Vec<(Arc<str>, Totals)> {
        self.all().iter().map(|(account, sums)| (Arc::clone(account), sums.ended)).collect()
    }

    /// Raises the sums of all sessions of an account, which are to be shown, to what was shown before.
    pub fn show<'a>(&self, sums: impl Iterator<Item = (&'a Arc<str>, &'a mut Totals)>) {
        let mut all = self.all();
        for (account, totals) in sums {
            if let Some(known) = all.get_mut(account) {
                known.shown = known.shown.max(*totals);
                *totals = known.shown;
            } else if all.len() < MOST_ACCOUNTS {
                all.insert(Arc::clone(account), Sums { ended: Totals::default(), shown: *totals });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_never_becomes_less() {
        let (ended, account) = (EndedTraffic::default(), Arc::<str>::from("A"));
        let of = |messages_up| Totals { messages_up, ..Totals::default() };
        let show = |mut totals| {
            ended.show([(&account, &mut totals)].into_iter());
            totals
        };
        assert_eq!(show(of(7)), of(7));
        assert_eq!(show(of(3)), of(7), "a session ended and is not in the sums yet");
        ended.add(&account, of(4));
        ended.add(&account, of(2));
        assert_eq!(ended.totals(), [(Arc::clone(&account), of(6))]);
        assert_eq!(show(of(9)), of(9));
    }
}
