//! For which quotas a look is, and which there are.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{Leaves, Ledger};
use crate::fleet::lease::{Holder, LeaseKey, allowance::Allowance, quota::SharedQuota};

impl Ledger {
    /// After other terms have ended: finds the quotas in which they have leases.
    pub(super) fn find_ended(&mut self) {
        if !self.sights.take_changed() {
            return;
        }
        self.due.all();
        let is_ended = |(_, quota): &(&LeaseKey, &SharedQuota)| self.ended_in(quota).next().is_some();
        self.ended = self.quotas.iter().filter(is_ended).map(|(key, _)| *key).collect();
        for (key, quota) in &mut self.quotas {
            quota.has_ended = self.ended.contains(key);
        }
    }

    /// The record of a quota may be another one.
    pub(super) fn has_changed(&mut self, key: LeaseKey) {
        let Some(quota) = self.quotas.get(&key) else { return };
        let has_ended = self.ended_in(quota).next().is_some();
        if has_ended {
            self.ended.insert(key);
        } else {
            self.ended.remove(&key);
        }
        let Some(quota) = self.quotas.get_mut(&key) else { return };
        quota.has_ended = has_ended;
        if let Some(before) = quota.replaced.take() {
            self.terms.replace(&before, &quota.record);
        }
        self.due.mark(key, quota);
    }

    /// Those in use are here.
    pub(super) fn open_quotas(&mut self, now: Instant) {
        let Some(needs) = self.standing.take_needs() else {
            self.due.all();
            for allowance in self.book.look_at_all() {
                self.open(now, allowance);
            }
            return;
        };
        for key in needs {
            let known = self.quotas.get(&key).and_then(|quota| quota.allowance.clone());
            let Some(allowance) = known.or_else(|| self.book.find(key)) else { continue };
            allowance.is_looked_at();
            if allowance.quota().is_some() {
                self.open(now, allowance);
            } else if let Some(quota) = self.quotas.get_mut(&key) {
                self.due.mark(key, quota);
            }
        }
    }

    fn open(&mut self, now: Instant, allowance: Arc<Allowance>) {
        let key = allowance.key();
        let quota = self.quotas.entry(key).or_insert_with(|| SharedQuota::new(now));
        quota.opened(now, allowance);
        self.due.mark(key, quota);
    }

    /// The term in whose name leases may be written; `None`: none is.
    pub(super) fn writes_in(&self, now: Instant) -> Option<u32> {
        let may_write = !self.settings.is_split_only && self.leaves != Leaves::Left && self.standing.is_valid(now);
        self.own.term().filter(|_| may_write)
    }

    /// The quotas that this look is for.
    pub(super) fn due_now(&mut self, now: Instant) -> VecDeque<LeaseKey> {
        self.find_ended();
        let mut live: Vec<Holder> = self.sights.live().cloned().collect();
        live.sort_unstable();
        let (wrote_in, split_by) = (self.writes_in(now), self.split_by(now));
        let is_other = (wrote_in, split_by) != (self.wrote_in, self.split_by) || live != self.live;
        if is_other || self.leaves != Leaves::No {
            self.due.all();
        }
        (self.live, self.wrote_in, self.split_by) = (live, wrote_in, split_by);
        let was_recovering = std::mem::replace(&mut self.is_recovering, false);
        self.is_recovering = self.is_recovering(now);
        if was_recovering != self.is_recovering {
            self.due.all();
        }
        // What ended terms have left is sampled at each look, and goes as the servers say so.
        for key in self.ended.iter().chain(&self.sampled) {
            if let Some(quota) = self.quotas.get_mut(key) {
                self.due.mark(*key, quota);
            }
        }
        self.due.take(now, self.settings.round, &mut self.quotas)
    }

    /// Those that are not in use any more go.
    pub(super) fn close_quotas(&mut self, to_look_at: &VecDeque<LeaseKey>) {
        for key in to_look_at {
            let Some(quota) = self.quotas.get_mut(key) else { continue };
            let has_none = !quota.record.l.contains_key(&self.me);
            if quota.allowance.is_some() && has_none && !quota.is_busy() && self.book.forget(*key) {
                quota.allowance = None;
            }
            if quota.allowance.is_none() && !quota.is_busy() && quota.record.is_empty() {
                self.quotas.remove(key);
                self.sampled.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::{
        key::{Keys, Kind},
        lease::{
            Answer, Place, What,
            allowance::Standing,
            book::LeaseBook,
            record::{Membership, Record},
            surroundings::{Settings, Surroundings},
        },
    };

    /// Leases that this look writes, each of which is stored.
    fn written(ledger: &mut Ledger, now: Instant, revision: &mut u64) -> Vec<LeaseKey> {
        let mut written = Vec::new();
        for one in ledger.next(now) {
            *revision += 1;
            let answer = match one.what {
                What::Read => Answer::Absent { revision: 0 },
                _ => Answer::Stored { revision: *revision },
            };
            if let (Place::Leases(key), What::Write { .. }) = (&one.place, &one.what) {
                written.push(*key);
            }
            ledger.answered(now, one.serial, &answer);
        }
        written
    }

    #[test]
    fn a_look_is_for_those_to_which_something_has_happened_and_nothing_is_missed() {
        const MANY: usize = 600;
        let mut now = Instant::now();
        let (keys, tick) = (Keys::of_fleet("edge"), Duration::from_millis(100));
        let book = LeaseBook::new(keys.clone(), Standing::new(now));
        let holder = |run: u32| Holder::parse(&format!("w.{run:016x}")).unwrap();
        let settings = Settings { round: Duration::from_secs(3600), ..Settings::default() };
        let rng = fastrand::Rng::with_seed(1);
        let mut ledger = Ledger::new(holder(1), Arc::clone(&book), settings, now, rng);
        ledger.surroundings(Surroundings { live: 2, is_connected: true, is_early: true, ..Surroundings::default() });
        let accounts: Vec<_> = (0..MANY).map(|n| book.allowance(Kind::Account, &format!("A{n}"), Some(100))).collect();
        let (mut revision, mut places) = (1, Vec::new());
        ledger.seen(now, &Place::Member(holder(2)), revision, Some(&Membership::new(1).encode()));
        let mut settle = |ledger: &mut Ledger, now: &mut Instant, revision: &mut u64| {
            for _ in 0..10 {
                *now += tick;
                written(ledger, *now, revision);
                places.extend(accounts.iter().filter(|one| one.held() == 0).filter_map(|one| one.take(*now)));
            }
            places.len()
        };
        assert_eq!(settle(&mut ledger, &mut now, &mut revision), MANY, "each has a lease, 256 at a time");
        now += tick;
        assert_eq!(ledger.due_now(now).len(), 0, "nothing has happened");
        // Clients wait for more than there is.
        let waits: Vec<_> = (0..100).filter_map(|_| accounts[7].wait(now)).collect();
        now += tick;
        assert_eq!(written(&mut ledger, now, &mut revision), [accounts[7].key()]);
        drop(waits);
        // Another one gets the quota lowered.
        accounts[8].set_quota(Some(10));
        now += tick;
        assert!(written(&mut ledger, now, &mut revision).contains(&accounts[8].key()));
        // Another weir wants all of a third one: it gets what is not used here.
        let key = accounts[9].key();
        let mut record = ledger.quotas[&key].record.clone();
        record.set(&holder(2), (1, 0, 0, 100));
        revision += 1;
        ledger.seen(now, &Place::Leases(key), revision, record.encode().as_deref());
        now += tick;
        assert!(written(&mut ledger, now, &mut revision).contains(&key) && accounts[9].lease() < 50);
        // More need something than are told one by one.
        let many: Vec<_> = (0..5000).map(|n| book.allowance(Kind::Account, &format!("B{n}"), Some(100))).collect();
        now += tick;
        ledger.next(now);
        assert!(many.iter().all(|one| ledger.quotas.contains_key(&one.key())), "none is overlooked");
    }

    #[test]
    fn quotas_are_known_by_whose_terms_have_ended_in_them() {
        let now = Instant::now();
        let (keys, holder) = (Keys::of_fleet("edge"), |run: u32| Holder::parse(&format!("w.{run:016x}")).unwrap());
        let book = LeaseBook::new(keys.clone(), Standing::new(now));
        let mut ledger = Ledger::new(holder(1), book, Settings::default(), now, fastrand::Rng::with_seed(1));
        let key = |name: &str| LeaseKey { kind: Kind::Account, key: keys.of(Kind::Account, name) };
        for (revision, name, run) in [(1, "A", 2), (2, "B", 3)] {
            let mut record = Record::default();
            record.set(&holder(run), (1, 10, 5, 0));
            ledger.seen(now, &Place::Leases(key(name)), revision, record.encode().as_deref());
        }
        assert_eq!(ledger.to_count(), []);
        ledger.seen(now, &Place::Member(holder(2)), 3, None);
        assert_eq!(ledger.to_count(), [], "no term of it was seen");
        let membership = Membership::new(2).encode();
        ledger.seen(now, &Place::Member(holder(2)), 4, Some(&membership));
        assert_eq!(ledger.to_count(), [key("A")]);
        assert_eq!((ledger.terms.of(&holder(2)), ledger.terms.of(&holder(3))), (1, 1));
        ledger.seen(now, &Place::Leases(key("A")), 5, None);
        assert_eq!((ledger.to_count(), ledger.terms.of(&holder(2))), (Vec::new(), 0));
        ledger.forget_bucket(now);
        assert_eq!(ledger.terms.of(&holder(3)), 1, "what was known is written anew");
    }
}
