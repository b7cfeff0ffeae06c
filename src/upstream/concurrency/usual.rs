//! What a login usually takes, for accounts of which none has been measured with nothing else under way.
//!
//! In a storm the first login of an account has others beside it. By its own time alone it would take no longer than
//! expected, however long it took; and where each client is of another account, all logins would, and the handshake
//! limit would grow without end. So such a login may take no longer than those of most other accounts.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// So many accounts count, those that were measured last.
const KEPT: usize = 32;

/// The quickest of those that take at least half of what three of four do. Where some have passwords and others do not,
/// it is the slow ones that keep a server busy; but one that waits for an auth callout for seconds is no measure. Among
/// accounts of one kind it is the least, as the baseline of one account is.
fn usual(of: &VecDeque<u64>) -> Option<u64> {
    let mut sorted: Vec<_> = of.iter().copied().collect();
    sorted.sort_unstable();
    let third_quartile = sorted.get((sorted.len() * 3).saturating_sub(1) / 4)?;
    sorted.iter().copied().find(|one| *one >= third_quartile / 2)
}

/// Of one kind of login, as a baseline is.
#[derive(Debug, Default)]
pub struct UsualLatency {
    accounts: Mutex<Accounts>,
    /// In nanoseconds; 0 before any was measured.
    usual: AtomicU64,
}

/// What logins take with nothing else under way, one for each account.
#[derive(Debug, Default)]
struct Accounts {
    measured: VecDeque<u64>,
    /// Measured by other weirs of the fleet. They count where this weir has measured none, since nothing that others
    /// say is trusted further than needed.
    heard: VecDeque<u64>,
}

impl UsualLatency {
    pub fn get(&self) -> Option<Duration> {
        Some(self.usual.load(Relaxed)).filter(|usual| *usual > 0).map(Duration::from_nanos)
    }

    /// A login of an account took so long, the first that had none beside it.
    pub fn measured(&self, least: Duration) {
        self.note(least, |accounts| &mut accounts.measured);
    }

    /// The same at another weir of the fleet.
    pub fn heard(&self, least: Duration) {
        self.note(least, |accounts| &mut accounts.heard);
    }

    fn note(&self, least: Duration, of: impl FnOnce(&mut Accounts) -> &mut VecDeque<u64>) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let last = of(&mut accounts);
        if last.len() >= KEPT {
            last.pop_front();
        }
        last.push_back(u64::try_from(least.as_nanos()).unwrap_or(u64::MAX));
        let usual = usual(&accounts.measured).or_else(|| usual(&accounts.heard));
        self.usual.store(usual.unwrap_or_default(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_is_the_least_of_the_slow_kind() {
        let usual = UsualLatency::default();
        assert_eq!(usual.get(), None);
        let mut after = |ms: u32| {
            usual.measured(ms * MS);
            usual.get().unwrap()
        };
        assert_eq!([200, 190, 240].map(&mut after), [200, 190, 190].map(|ms| ms * MS));
        assert_eq!([1, 2, 2000].map(&mut after), [190; 3].map(|ms| ms * MS));
        (0..KEPT).for_each(|_| _ = after(1));
        // Those that are slower count once they are more than a fourth.
        for n in 1..=KEPT / 4 {
            assert_eq!(after(200), MS, "{n}");
        }
        assert_eq!(after(200), 200 * MS);
    }

    #[test]
    fn what_others_say_counts_until_this_weir_has_measured_one() {
        let usual = UsualLatency::default();
        usual.heard(100 * MS);
        assert_eq!(usual.get(), Some(100 * MS));
        usual.measured(40 * MS);
        (0..100).for_each(|_| usual.heard(MS));
        assert_eq!(usual.get(), Some(40 * MS));
    }
}
