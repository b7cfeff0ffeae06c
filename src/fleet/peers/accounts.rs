//! What one peer holds of accounts: no message has all of them, so what it says is put together here.

use std::collections::BTreeMap;

use crate::fleet::{
    beat::{AccountBeat, Beat},
    key::Key,
};

/// Most accounts of one peer that are remembered.
const MOST: usize = 32_768;

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
pub struct PeerAccounts(BTreeMap<Key, AccountBeat>);

impl PeerAccounts {
    pub fn get(&self, key: Key) -> Option<&AccountBeat> {
        self.0.get(&key)
    }

    pub fn all(&self) -> &BTreeMap<Key, AccountBeat> {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes in what a beat says. Accounts that are not known yet are left out beyond `most`, in the beat too. Returns
    /// those that are in use no more.
    pub fn take(&mut self, beat: &mut Beat, most: usize) -> Vec<Key> {
        let mut unused = Vec::new();
        if let Some((first, last)) = beat.all_of {
            let is_gone = |key: &Key| (first..=last).contains(key) && !beat.accounts.contains_key(key);
            unused.extend(self.0.keys().copied().filter(is_gone));
        }
        beat.accounts.retain(|key, one| {
            if one.held == 0 && one.waiting == 0 {
                unused.extend(self.0.contains_key(key).then_some(*key));
                return false;
            }
            let is_remembered = self.0.len() < most.min(MOST) || self.0.contains_key(key);
            if is_remembered {
                self.0.insert(*key, one.clone());
            }
            is_remembered
        });
        for key in &unused {
            self.0.remove(key);
        }
        unused
    }
}
