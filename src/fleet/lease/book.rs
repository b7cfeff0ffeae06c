//! The quotas in use that the fleet shares: admission opens them, and the ledger finds them here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::fleet::{
    key::{Keys, Kind},
    lease::{
        LeaseKey,
        allowance::{Allowance, Standing},
    },
};

/// All allowances of this weir.
#[derive(Debug)]
pub struct LeaseBook {
    keys: Keys,
    standing: Arc<Standing>,
    all: Mutex<BTreeMap<LeaseKey, Arc<Allowance>>>,
}

impl LeaseBook {
    /// Without any.
    pub fn new(keys: Keys, standing: Arc<Standing>) -> Arc<Self> {
        Arc::new(Self { keys, standing, all: Mutex::default() })
    }

    /// Makes the keys of this fleet.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, Arc<Allowance>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this weir may have of the quota of what is called so. The same for the same name, as long as anybody uses
    /// it.
    pub fn allowance(&self, kind: Kind, name: &str, quota: Option<u32>) -> Arc<Allowance> {
        self.open(LeaseKey { kind, key: self.keys.of(kind, name) }, quota)
    }

    /// The same of what has this key.
    pub fn open(&self, key: LeaseKey, quota: Option<u32>) -> Arc<Allowance> {
        let mut all = self.all();
        let allowance = all.entry(key).or_insert_with(|| Allowance::new(key, Arc::clone(&self.standing)));
        allowance.set_quota(quota);
        Arc::clone(allowance)
    }

    /// The same; one that is in use keeps its quota.
    pub(super) fn open_unless_in_use(&self, key: LeaseKey, quota: Option<u32>) -> Arc<Allowance> {
        match self.find(key) {
            Some(allowance) => allowance,
            None => self.open(key, quota),
        }
    }

    /// One that is in use.
    pub fn find(&self, key: LeaseKey) -> Option<Arc<Allowance>> {
        self.all().get(&key).cloned()
    }

    /// Those in use that have a quota. Those that nobody uses any more are forgotten.
    pub fn list(&self) -> Vec<Arc<Allowance>> {
        let mut all = self.all();
        // Nobody gets another one while the book is locked.
        all.retain(|_, one| Arc::strong_count(one) > 1 || one.usage().held > 0);
        all.values().filter(|one| one.quota().is_some()).cloned().collect()
    }

    /// The same, of which the ledger looks at each from now on.
    pub(super) fn look_at_all(&self) -> Vec<Arc<Allowance>> {
        self.all().values().for_each(|one| one.is_looked_at());
        self.list()
    }

    /// Forgets one that nobody else has. Returns whether it is forgotten.
    pub(super) fn forget(&self, key: LeaseKey) -> bool {
        let mut all = self.all();
        // Two: the book's and the ledger's. Nobody gets another one while the book is locked.
        let is_unused = all.get(&key).is_none_or(|one| Arc::strong_count(one) <= 2 && one.usage().held == 0);
        if is_unused {
            all.remove(&key);
        }
        is_unused
    }
}

#[cfg(test)]
impl LeaseBook {
    /// For tests of those who go by leases: this one is in force until then.
    pub fn grant(&self, kind: Kind, name: &str, lease: u32, until: std::time::Instant) {
        let key = LeaseKey { kind, key: self.keys.of(kind, name) };
        let allowance = self.find(key).expect("it is in use");
        allowance.set_lease(lease);
        self.standing.valid_until(until);
    }

    /// For the same tests: whether whoever waits does so in vain.
    pub fn in_vain(&self, kind: Kind, name: &str, is_in_vain: bool) {
        use crate::fleet::lease::allowance::{Hints, InVain};
        let key = LeaseKey { kind, key: self.keys.of(kind, name) };
        let in_vain = if is_in_vain { InVain::Everybody } else { InVain::Nobody };
        let hints = Hints { cap: u32::MAX, wake_at: u32::MAX, is_wanted: false, in_vain };
        self.find(key).expect("it is in use").set_hints(hints);
    }
}
