//! Which quotas a look is for: those to which something has happened, and of the rest a few at each look, so that what
//! only time changes is found too.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    time::{Duration, Instant},
};

use crate::fleet::lease::{Holder, LeaseKey, quota::SharedQuota, record::Record};

pub(super) type Quotas = BTreeMap<LeaseKey, SharedQuota>;

/// The quotas that are to be looked at.
#[derive(Debug)]
pub(super) struct Due {
    /// In the order in which they became due: where not all can be written, those that wait longest come first.
    queue: VecDeque<LeaseKey>,
    are_all: bool,
    /// The last one of the round.
    last: Option<LeaseKey>,
    looked_at: Instant,
    /// Of the next one of the round, the part whose time has come.
    part: f64,
}

impl Due {
    /// All are due.
    pub fn new(now: Instant) -> Self {
        Self { queue: VecDeque::new(), are_all: true, last: None, looked_at: now, part: 0.0 }
    }

    /// Something has happened to this one.
    pub fn mark(&mut self, key: LeaseKey, quota: &mut SharedQuota) {
        if !std::mem::replace(&mut quota.is_due, true) {
            self.queue.push_back(key);
        }
    }

    /// Something has happened that may change any of them.
    pub fn all(&mut self) {
        self.are_all = true;
    }

    /// Those that this look is for: each quota is among them at least once in a `round`.
    pub fn take(&mut self, now: Instant, round: Duration, quotas: &mut Quotas) -> VecDeque<LeaseKey> {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.looked_at, now));
        let are_all = std::mem::take(&mut self.are_all) || passed >= round;
        if are_all {
            quotas.iter_mut().for_each(|(key, quota)| self.mark(*key, quota));
        } else {
            let parts = self.part + quotas.len() as f64 * passed.as_secs_f64() / round.as_secs_f64();
            self.part = parts.fract();
            self.walk(parts as usize, quotas);
        }
        let queue = std::mem::take(&mut self.queue);
        for key in &queue {
            if let Some(quota) = quotas.get_mut(key) {
                quota.is_due = false;
            }
        }
        queue
    }

    fn walk(&mut self, many: usize, quotas: &mut Quotas) {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = many;
        for (key, quota) in quotas.range_mut((after, Bound::Unbounded)).take(many) {
            self.mark(*key, quota);
            (self.last, left) = (Some(*key), left - 1);
        }
        if left > 0 {
            self.last = None;
            for (key, quota) in quotas.iter_mut().take(left) {
                self.mark(*key, quota);
                self.last = Some(*key);
            }
        }
    }
}

/// Up to which terms holders have leases, in any record.
#[derive(Debug, Default)]
pub(super) struct Terms(HashMap<Holder, BTreeMap<u32, u32>>);

impl Terms {
    /// The highest term of a holder; 0 where it has no lease.
    pub fn of(&self, holder: &Holder) -> u32 {
        self.0.get(holder).and_then(|terms| terms.keys().next_back().copied()).unwrap_or_default()
    }

    /// A record says `after` that said `before`.
    pub fn replace(&mut self, before: &Record, after: &Record) {
        for (holder, entry) in &after.l {
            *self.0.entry(holder.clone()).or_default().entry(entry.t).or_default() += 1;
        }
        for (holder, entry) in &before.l {
            let Some(terms) = self.0.get_mut(holder) else { continue };
            if let Some(many) = terms.get_mut(&entry.t) {
                *many -= 1;
                if *many == 0 {
                    terms.remove(&entry.t);
                }
            }
            if terms.is_empty() {
                self.0.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::key::{Keys, Kind};

    #[test]
    fn each_is_looked_at_once_in_a_round_however_often_it_is_looked() {
        let (began, keys, round) = (Instant::now(), Keys::of_fleet("edge"), Duration::from_secs(2));
        let key = |n: u32| LeaseKey { kind: Kind::Account, key: keys.of(Kind::Account, &n.to_string()) };
        for (many, step) in [(1000, 100), (1000, 5), (3, 100), (1, 7)] {
            let mut quotas: Quotas = (0..many).map(|n| (key(n), SharedQuota::new(began))).collect();
            let (mut due, mut now) = (Due::new(began), began);
            assert_eq!(due.take(now, round, &mut quotas).len(), many as usize, "the first look is for all");
            let mut seen = HashMap::<LeaseKey, u32>::new();
            for _ in 0..=2000 / step {
                now += Duration::from_millis(step);
                let walked = due.take(now, round, &mut quotas);
                let most = many as usize * step as usize / 2000 + 1;
                assert!(walked.len() <= most, "{} of {many} in {step} ms", walked.len());
                walked.into_iter().for_each(|key| *seen.entry(key).or_default() += 1);
            }
            assert_eq!(seen.len(), many as usize, "each {step} ms");
            assert!(seen.values().all(|times| *times <= 2));
        }
        let mut quotas = Quotas::from([(key(1), SharedQuota::new(began)), (key(2), SharedQuota::new(began))]);
        let (mut due, mut now) = (Due::new(began), began);
        due.take(now, round, &mut quotas);
        now += Duration::from_millis(1);
        let quota = quotas.get_mut(&key(2)).unwrap();
        due.mark(key(2), quota);
        due.mark(key(2), quota);
        assert_eq!(due.take(now, round, &mut quotas), [key(2)]);
        assert_eq!(due.take(now, round, &mut quotas), []);
        assert_eq!(due.take(now + round, round, &mut quotas).len(), 2, "it was stopped");
    }

    #[test]
    fn the_highest_term_of_each_holder_is_known() {
        let holder = |run: u32| Holder::parse(&format!("w.{run:016x}")).unwrap();
        let record = |entries: &[(u32, u32)]| {
            let mut record = Record::default();
            entries.iter().for_each(|(run, term)| record.set(&holder(*run), (*term, 1, 0, 0)));
            record
        };
        let mut terms = Terms::default();
        let none = record(&[]);
        terms.replace(&none, &record(&[(1, 3), (2, 1)]));
        terms.replace(&none, &record(&[(1, 2)]));
        assert_eq!([1, 2, 3].map(|run| terms.of(&holder(run))), [3, 1, 0]);
        terms.replace(&record(&[(1, 3), (2, 1)]), &record(&[(2, 1)]));
        assert_eq!([1, 2].map(|run| terms.of(&holder(run))), [2, 1]);
        terms.replace(&record(&[(1, 2)]), &record(&[(1, 5)]));
        terms.replace(&record(&[(2, 1)]), &none);
        assert_eq!([1, 2].map(|run| terms.of(&holder(run))), [5, 0]);
    }
}
