//! Counts refused clients by account and reason. Clients claim accounts, so the table is bounded.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{outcome::Refusal, telemetry::top::Top};

#[derive(Debug, Default)]
pub struct RefusedAccounts(Mutex<Top<Arc<str>, { Refusal::ALL.len() }>>);

impl RefusedAccounts {
    /// Counts a refusal of a client that belongs to this account, or claims to.
    pub fn note(&self, account: &Arc<str>, reason: Refusal, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.note(account, reason as usize, now);
    }

    /// The counts by account and reason; `None` is all other accounts.
    pub fn counts(&self) -> Vec<(Option<Arc<str>>, Refusal, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (named, others) = all.counts();
        let rows = named.map(|(name, counts)| (Some(Arc::clone(name)), counts)).chain([(None, others)]);
        let each = |(name, counts): (Option<Arc<str>>, [u64; _])| {
            let counts = Refusal::ALL.into_iter().zip(counts).filter(|(_, n)| *n > 0);
            counts.map(move |(reason, n)| (name.clone(), reason, n))
        };
        rows.flat_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::top::{MOST_NAMED, RENAMED_AFTER};

    #[test]
    fn nothing_is_lost_of_accounts_without_a_name() {
        let (refused, now) = (RefusedAccounts::default(), Instant::now());
        for n in 0..200u32 {
            let at = now + RENAMED_AFTER * n;
            refused.note(&"ORDERS".into(), Refusal::AccountQuota, at);
            refused.note(&format!("claimed {n}").into(), Refusal::ALL[n as usize % 3], at);
        }
        let counts = refused.counts();
        assert!(counts.contains(&(Some("ORDERS".into()), Refusal::AccountQuota, 200)));
        assert_eq!(counts.iter().map(|(_, _, n)| n).sum::<u64>(), 400);
        let names: std::collections::HashSet<_> = counts.iter().map(|(name, ..)| name.clone()).collect();
        assert!(names.len() <= MOST_NAMED + 1 && names.contains(&None), "{}", names.len());
    }
}
