//! Counts the clients that waited or were refused, by account and by client language. A client that is admitted at once
//! is not counted here. Both names are what the client claims, so both tables are bounded.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

/// The most accounts that are counted apart. The rest is `other`.
const MOST_ACCOUNTS: usize = 1000;
/// The most languages that are counted apart. Eight are official.
const MOST_LANGUAGES: usize = 24;
/// No client library has a longer language name, in bytes.
const LONGEST_LANGUAGE: usize = 32;
/// The groups that are shown. The rest is `other`.
const SHOWN: usize = 10;
const OTHER: &str = "other";

/// What became of a client that had to wait, or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Admitted,
    Refused,
    /// It left while it waited.
    Left,
}

/// The clients of one account, or of one client language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The account or the language.
    pub name: String,
    /// Clients that waited and were admitted.
    pub admitted: u64,
    /// Clients that were refused.
    pub refused: u64,
    /// Clients that left while they waited.
    pub left: u64,
}

/// Clients that have used up most or all of the tries of their library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Danger {
    pub lost: u64,
    pub in_danger: u64,
}

/// Counts by name, in the order of [`Fate`].
#[derive(Debug, Default)]
struct ByName {
    counts: Mutex<HashMap<String, [u64; 3]>>,
}

impl ByName {
    fn note(&self, name: &str, most: usize, fate: Fate) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let name = if counts.len() < most || counts.contains_key(name) { name } else { OTHER };
        match counts.get_mut(name) {
            Some(known) => known[fate as usize] += 1,
            None => counts.entry(name.to_owned()).or_default()[fate as usize] += 1,
        }
    }

    fn forget(&self) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The largest [`SHOWN`] groups first, then the sum of all others.
    fn largest(&self) -> Vec<Group> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let group = |(name, [admitted, refused, left]): (String, [u64; 3])| Group { name, admitted, refused, left };
        let (mut rest, mut all): (Vec<_>, Vec<_>) =
            counts.into_iter().map(group).partition(|group| group.name == OTHER);
        all.sort_by_key(|one| (std::cmp::Reverse(one.admitted + one.refused + one.left), one.name.clone()));
        rest.extend(all.split_off(all.len().min(SHOWN)));
        let other = rest.into_iter().reduce(|sum, one| Group {
            name: OTHER.into(),
            admitted: sum.admitted + one.admitted,
            refused: sum.refused + one.refused,
            left: sum.left + one.left,
        });
        all.extend(other.map(|other| Group { name: OTHER.into(), ..other }));
        all
    }
}

/// All counts of one storm.
#[derive(Debug, Default)]
pub struct Groups {
    accounts: ByName,
    languages: ByName,
    lost: AtomicU64,
    in_danger: AtomicU64,
}

impl Groups {
    /// Counts a client that waited or was refused.
    pub fn note(&self, account: &str, language: &str, fate: Fate) {
        let language = if language.len() <= LONGEST_LANGUAGE { language } else { OTHER };
        self.accounts.note(account, MOST_ACCOUNTS, fate);
        self.languages.note(language, MOST_LANGUAGES, fate);
    }

    /// Records a client's `tries`-th refusal in a row. Its library gives up for good after `most`.
    pub fn used_up(&self, tries: u32, most: u32) {
        if tries == most {
            self.lost.fetch_add(1, Relaxed);
        }
        if tries == most - most / 5 {
            self.in_danger.fetch_add(1, Relaxed);
        }
    }

    /// The ten accounts with the most clients, and `other`.
    pub fn accounts(&self) -> Vec<Group> {
        self.accounts.largest()
    }

    /// The ten languages with the most clients, and `other`.
    pub fn languages(&self) -> Vec<Group> {
        self.languages.largest()
    }

    pub fn danger(&self) -> Danger {
        Danger { lost: self.lost.load(Relaxed), in_danger: self.in_danger.load(Relaxed) }
    }

    pub fn forget(&self) {
        self.accounts.forget();
        self.languages.forget();
        self.lost.store(0, Relaxed);
        self.in_danger.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_shown_and_the_rest_is_other() {
        let groups = Groups::default();
        for n in 0..5000u32 {
            let fate = [Fate::Admitted, Fate::Refused, Fate::Left][n as usize % 3];
            groups.note(&format!("A{n}"), &"x".repeat(n as usize), fate);
        }
        for _ in 0..100 {
            groups.note("A7", "go", Fate::Refused);
        }
        let (accounts, languages) = (groups.accounts(), groups.languages());
        assert_eq!((accounts.len(), languages.len()), (SHOWN + 1, SHOWN + 1));
        assert_eq!((&*accounts[0].name, accounts[0].refused), ("A7", 101));
        assert!(&*accounts[SHOWN].name == OTHER && &*languages[SHOWN].name == OTHER);
        for all in [accounts, languages] {
            assert_eq!(all.iter().map(|one| one.admitted + one.refused + one.left).sum::<u64>(), 5100);
        }
        groups.forget();
        assert!(groups.accounts().is_empty() && groups.languages().is_empty());
    }

    #[test]
    fn a_client_is_counted_once_on_each_step_to_its_end() {
        let groups = Groups::default();
        for tries in 1..=12 {
            groups.used_up(tries, 10);
        }
        for tries in 1..=50 {
            groups.used_up(tries, 60);
        }
        assert_eq!(groups.danger(), Danger { lost: 1, in_danger: 2 });
    }
}
