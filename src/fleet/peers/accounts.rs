//! What one peer holds of accounts: no message has all of them, so what it says is put together here.

use std::collections::BTreeMap;

use crate::fleet::{
    beat::{AccountBeat, Beat, Span},
    key::Key,
};

/// Most accounts of one peer that are remembered.
const MOST: usize = 32_768;

/// Most spans that a peer has told all of, apart from each other.
const MOST_SPANS: usize = 256;

/// The sum of what peers hold of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountCounts {
    /// Connections, those in flight included.
    pub held: u32,
    /// Clients that wait.
    pub waiting: u32,
    /// How many peers have any.
    pub peers: u32,
}

impl AccountCounts {
    pub(super) fn add(&mut self, one: &AccountBeat) {
        self.held = self.held.saturating_add(one.held);
        self.waiting = self.waiting.saturating_add(one.waiting);
        self.peers += 1;
    }
}

/// The accounts of one peer that are in use there.
#[derive(Debug, Default)]
pub struct PeerAccounts {
    used: BTreeMap<Key, AccountBeat>,
    /// The spans that it has told all of, in their order, none of which touches another.
    told: Vec<Span>,
    /// It tells not all that it uses.
    leaves_out: bool,
    /// Not all that it has told is remembered.
    is_cut: bool,
}

impl PeerAccounts {
    pub fn get(&self, key: Key) -> Option<&AccountBeat> {
        self.used.get(&key)
    }

    pub fn all(&self) -> &BTreeMap<Key, AccountBeat> {
        &self.used
    }

    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether it is known what the peer has of an account: it has told that, or that it does not use it.
    pub fn has_told(&self, key: Key) -> bool {
        let is_within = || self.told.iter().any(|(first, last)| (*first..=*last).contains(&key));
        self.used.contains_key(&key) || !self.leaves_out && !self.is_cut && is_within()
    }

    /// All keys, where it is known of each of them what the peer has.
    pub fn all_of(&self) -> Option<Span> {
        let all = (Key::LOWEST, Key::HIGHEST);
        (!self.is_cut && self.told == [all]).then_some(all)
    }

    fn has_told_all_of(&mut self, (first, last): Span) {
        if first > last {
            return;
        }
        let begin = self.told.partition_point(|(_, end)| *end < first);
        let end = self.told.partition_point(|(begin, _)| *begin <= last);
        let of = |spans: &[Span]| Some((spans.first()?.0.min(first), spans.last()?.1.max(last)));
        let merged = self.told.get(begin..end).and_then(of).unwrap_or((first, last));
        self.told.splice(begin..end.max(begin), [merged]);
        self.told.truncate(MOST_SPANS);
    }

    /// Takes in what a beat says. Accounts that are not known yet are left out beyond `most`, in the beat too. Returns
    /// those that are in use no more.
    pub fn take(&mut self, beat: &mut Beat, most: usize) -> Vec<Key> {
        let mut unused = Vec::new();
        self.leaves_out = beat.leaves_out;
        if let Some((first, last)) = beat.all_of {
            self.has_told_all_of((first, last));
            let is_gone = |key: &Key| (first..=last).contains(key) && !beat.accounts.contains_key(key);
            unused.extend(self.used.keys().copied().filter(is_gone));
        }
        beat.accounts.retain(|key, one| {
            if one.held == 0 && one.waiting == 0 {
                unused.extend(self.used.contains_key(key).then_some(*key));
                return false;
            }
            let is_remembered = self.used.len() < most.min(MOST) || self.used.contains_key(key);
            if is_remembered {
                self.used.insert(*key, one.clone());
            }
            self.is_cut |= !is_remembered;
            is_remembered
        });
        for key in &unused {
            self.used.remove(key);
        }
        unused
    }
}
