//! Counts the clients that waited or were refused, by account and by client language. A client that is admitted at once
//! is not counted here. Both names are what the client claims, so both tables are bounded.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use crate::outcome::Refusal;

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

/// Counts by name, in the order of [`Fate`].
type ByName = HashMap<String, [u64; 3]>;

/// The counts of one storm. All of one moment: the accounts, the languages, the reasons and the sums agree.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    accounts: ByName,
    languages: ByName,
    /// Of all, in the order of [`Fate`].
    sums: [u64; 3],
    /// In the order of [`Refusal::ALL`].
    refused: [u64; Refusal::ALL.len()],
}

fn note(counts: &mut ByName, name: &str, most: usize, fate: Fate) {
    let name = if counts.len() < most || counts.contains_key(name) { name } else { OTHER };
    match counts.get_mut(name) {
        Some(known) => known[fate as usize] += 1,
        None => counts.entry(name.to_owned()).or_default()[fate as usize] += 1,
    }
}

/// The largest [`SHOWN`] groups first, then the sum of all others.
fn largest(counts: &ByName) -> Vec<Group> {
    let group = |(name, &[admitted, refused, left]): (&String, &[u64; 3])| Group {
        name: name.clone(),
        admitted,
        refused,
        left,
    };
    let (mut rest, mut all): (Vec<_>, Vec<_>) = counts.iter().map(group).partition(|group| group.name == OTHER);
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

impl Counts {
    /// Clients that ended so.
    pub fn sum(&self, fate: Fate) -> u64 {
        self.sums[fate as usize]
    }

    /// Clients that were refused for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    /// The ten accounts with the most clients, and `other`.
    pub fn accounts(&self) -> Vec<Group> {
        largest(&self.accounts)
    }

    /// The ten languages with the most clients, and `other`.
    pub fn languages(&self) -> Vec<Group> {
        largest(&self.languages)
    }
}

/// The counts of the storm that goes on, or of the second that may begin one.
#[derive(Debug, Default)]
pub struct Groups {
    counts: Mutex<Counts>,
}

impl Groups {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a client that waited and was admitted, or left.
    pub fn note(&self, account: &str, language: &str, fate: Fate) {
        self.note_as(account, language, fate, None);
    }

    /// Counts a client that was refused.
    pub fn refused(&self, account: &str, language: &str, reason: Refusal) {
        self.note_as(account, language, Fate::Refused, Some(reason));
    }

    fn note_as(&self, account: &str, language: &str, fate: Fate, reason: Option<Refusal>) {
        let language = if language.len() <= LONGEST_LANGUAGE { language } else { OTHER };
        let mut counts = self.counts();
        note(&mut counts.accounts, account, MOST_ACCOUNTS, fate);
        note(&mut counts.languages, language, MOST_LANGUAGES, fate);
        counts.sums[fate as usize] += 1;
        if let Some(reason) = reason {
            counts.refused[reason as usize] += 1;
        }
    }

    /// What has been counted so far.
    pub fn so_far(&self) -> Counts {
        self.counts().clone()
    }

    pub fn forget(&self) {
        *self.counts() = Counts::default();
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
            groups.refused("A7", "go", Refusal::HoldExpired);
        }
        let counts = groups.so_far();
        let (accounts, languages) = (counts.accounts(), counts.languages());
        assert_eq!((accounts.len(), languages.len()), (SHOWN + 1, SHOWN + 1));
        assert_eq!((&*accounts[0].name, accounts[0].refused), ("A7", 101));
        assert!(&*accounts[SHOWN].name == OTHER && &*languages[SHOWN].name == OTHER);
        for all in [accounts, languages] {
            assert_eq!(all.iter().map(|one| one.admitted + one.refused + one.left).sum::<u64>(), 5100);
        }
        let sums = [Fate::Admitted, Fate::Refused, Fate::Left].map(|fate| counts.sum(fate));
        assert_eq!(sums.iter().sum::<u64>(), 5100);
        groups.forget();
        assert!(groups.so_far().accounts().is_empty() && groups.so_far().languages().is_empty());
    }
}
