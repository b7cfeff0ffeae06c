//! Who waited and who was refused, by account and by client language. Touched only for those, never for a client that goes
//! straight in; bounded, whatever names clients give.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;

/// Accounts that are counted apart; with more of them the rest is `other`.
const MOST_ACCOUNTS: usize = 1000;
/// The same for languages: eight are official.
const MOST_LANGUAGES: usize = 24;
/// A longer name is no language of a client library.
const LONGEST_LANGUAGE: usize = 32;
/// Parties that are told; the rest is `other`.
const TOLD: usize = 10;
const OTHER: &str = "other";

/// What became of a client that had to wait, or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waited and got in.
    Admitted,
    /// It was refused.
    Refused,
    /// It left while it waited.
    Left,
}

/// An account, or a client language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Which.
    pub name: String,
    /// Waited and got in.
    pub admitted: u64,
    /// Were refused.
    pub refused: u64,
    /// Left while they waited.
    pub left: u64,
}

/// Clients near the end of their library's tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Danger {
    pub lost: u64,
    pub in_danger: u64,
}

/// Fates by name.
#[derive(Debug, Default)]
struct Book {
    counts: Mutex<HashMap<String, [u64; 3]>>,
}

impl Book {
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

    /// The largest first; what is beyond [`TOLD`] is one.
    fn tell(&self) -> Vec<Party> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let party = |(name, [admitted, refused, left]): (String, [u64; 3])| Party { name, admitted, refused, left };
        let (mut rest, mut all): (Vec<_>, Vec<_>) =
            counts.into_iter().map(party).partition(|party| party.name == OTHER);
        all.sort_by_key(|one| (std::cmp::Reverse(one.admitted + one.refused + one.left), one.name.clone()));
        rest.extend(all.split_off(all.len().min(TOLD)));
        let other = rest.into_iter().reduce(|sum, one| Party {
            name: OTHER.into(),
            admitted: sum.admitted + one.admitted,
            refused: sum.refused + one.refused,
            left: sum.left + one.left,
        });
        all.extend(other.map(|other| Party { name: OTHER.into(), ..other }));
        all
    }
}

/// All of them, since the last time they were forgotten.
#[derive(Debug, Default)]
pub struct Parties {
    accounts: Book,
    languages: Book,
    lost: AtomicU64,
    in_danger: AtomicU64,
}

impl Parties {
    /// Counts a client that waited or was refused.
    pub fn note(&self, account: &str, language: &str, fate: Fate) {
        let language = if language.len() <= LONGEST_LANGUAGE { language } else { OTHER };
        self.accounts.note(account, MOST_ACCOUNTS, fate);
        self.languages.note(language, MOST_LANGUAGES, fate);
    }

    /// A client was refused, for the so-manieth time in a row; its library tries `most` times and then gives up for good.
    pub fn used_up(&self, tries: u32, most: u32) {
        if tries == most {
            self.lost.fetch_add(1, Relaxed);
        }
        if tries == most - most / 5 {
            self.in_danger.fetch_add(1, Relaxed);
        }
    }

    /// The ten accounts with the most of them, and `other`.
    pub fn accounts(&self) -> Vec<Party> {
        self.accounts.tell()
    }

    /// The same for languages.
    pub fn languages(&self) -> Vec<Party> {
        self.languages.tell()
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
    fn the_largest_are_told_and_the_rest_is_other() {
        let parties = Parties::default();
        for n in 0..5000u32 {
            let fate = [Fate::Admitted, Fate::Refused, Fate::Left][n as usize % 3];
            parties.note(&format!("A{n}"), &"x".repeat(n as usize), fate);
        }
        for _ in 0..100 {
            parties.note("A7", "go", Fate::Refused);
        }
        let (accounts, languages) = (parties.accounts(), parties.languages());
        assert_eq!((accounts.len(), languages.len()), (TOLD + 1, TOLD + 1));
        assert_eq!((&*accounts[0].name, accounts[0].refused), ("A7", 101));
        assert!(&*accounts[TOLD].name == OTHER && &*languages[TOLD].name == OTHER);
        for all in [accounts, languages] {
            assert_eq!(all.iter().map(|one| one.admitted + one.refused + one.left).sum::<u64>(), 5100);
        }
        parties.forget();
        assert!(parties.accounts().is_empty() && parties.languages().is_empty());
    }

    #[test]
    fn a_client_is_counted_once_on_each_step_to_its_end() {
        let parties = Parties::default();
        for tries in 1..=12 {
            parties.used_up(tries, 10);
        }
        for tries in 1..=50 {
            parties.used_up(tries, 60);
        }
        assert_eq!(parties.danger(), Danger { lost: 1, in_danger: 2 });
    }
}
