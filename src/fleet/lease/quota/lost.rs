//! The leases of a bucket that is gone, or has gone back, with the sessions that weirs have by them.

use std::collections::HashMap;

use super::{Report, SharedQuota};
use crate::fleet::lease::{
    Holder,
    record::{Entry, Record},
};

/// What was known of one quota when the bucket was lost.
#[derive(Debug)]
pub(super) struct Lost {
    /// Until the new bucket has shown one.
    record: Option<Record>,
    /// What that one does not have of the leases of others, and the terms in which they had it.
    missing: HashMap<Holder, (u32, u32)>,
    /// The lease that this weir had, and may have used.
    had: u32,
}

impl Lost {
    /// The bucket has this record. What it loses later has been taken back.
    pub fn is_found(&mut self, record: &Record) {
        let Some(before) = self.record.take() else { return };
        let lacks = |(holder, entry): (&Holder, &Entry)| {
            let has = record.l.get(holder).map_or(0, |entry| entry.n);
            (entry.n > has).then(|| (holder.clone(), (entry.t, entry.n - has)))
        };
        self.missing = before.l.iter().filter_map(lacks).collect();
    }

    /// What other weirs may hold of which the record does not tell: what they had, until they have written what they
    /// have, and what they say to hold beyond it.
    fn beyond(&self, record: &Record, me: &Holder, reports: &HashMap<Holder, Report>) -> u32 {
        let beyond = |holder: &Holder| {
            let (term, lease) = record.l.get(holder).map_or((0, 0), |entry| (entry.t, entry.n));
            let missing = self.missing.get(holder).filter(|(before, _)| term <= *before).map_or(0, |(_, lease)| *lease);
            let held = reports.get(holder).map_or(0, |report| report.held);
            missing.max(held.saturating_sub(lease))
        };
        let others = self.missing.keys().chain(reports.keys().filter(|holder| !self.missing.contains_key(*holder)));
        others.filter(|holder| *holder != me).map(beyond).fold(0, u32::saturating_add)
    }
}

impl SharedQuota {
    /// The bucket is another one, or what was written last is gone: revisions begin anew. What the record said stays
    /// until the bucket says otherwise, and is written there by the first who writes. So the leases of weirs that are
    /// cut off or gone last as long as they would have.
    pub fn forget_bucket(&mut self) {
        self.not_done();
        (self.newest, self.read_since, self.is_foreign, self.has_ended) = (0, 0, false, false);
        let had = self.certain.max(self.had);
        // One that is lost again before weirs have written what they have tells no more than the one before.
        let lost = self.lost.get_or_insert(Lost { record: None, missing: HashMap::new(), had });
        lost.record.get_or_insert_with(|| self.record.clone());
    }

    /// Weirs have had the time to write what they have.
    pub fn has_settled(&mut self) {
        self.lost = None;
    }

    /// See [`Lost::beyond`].
    pub(super) fn beyond_lost(&self, record: &Record, me: &Holder) -> u32 {
        self.lost.as_ref().map_or(0, |lost| lost.beyond(record, me, &self.reports))
    }

    /// The most that this weir's lease may be while others may not have written yet what they had: as much as it had,
    /// or holds.
    pub(super) fn most_unsettled(&self, held: u32) -> u32 {
        self.lost.as_ref().map_or(u32::MAX, |lost| lost.had.max(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_had_counts_until_they_have_written_what_they_have() {
        let [me, other, third] = [1, 2, 3].map(|run| Holder::parse(&format!("w.{run:016x}")).unwrap());
        let record = |entries: &[(&Holder, u32, u32)]| {
            let mut record = Record::default();
            entries.iter().for_each(|(holder, term, lease)| record.set(holder, (*term, *lease, 0, 0)));
            record
        };
        let known = record(&[(&me, 4, 10), (&other, 7, 10)]);
        let lost = |found: &[_]| {
            let mut lost = Lost { record: Some(known.clone()), missing: HashMap::new(), had: 10 };
            lost.is_found(&record(found));
            lost
        };
        let says = |held| HashMap::from([(other.clone(), Report { held, by_split: false, leased_since: None })]);
        let beyond = |lost: &Lost, entries: &[_], held| lost.beyond(&record(entries), &me, &says(held));
        let older = lost(&[(&me, 4, 10), (&other, 7, 4)]);
        assert_eq!(beyond(&older, &[(&me, 5, 10), (&other, 7, 4)], 3), 6, "it may use all that it had");
        assert_eq!(beyond(&older, &[(&other, 8, 4)], 3), 0, "it has written what it has");
        assert_eq!(beyond(&older, &[(&other, 8, 4)], 6), 2, "there was no room for all that it holds");
        let same = lost(&[(&me, 4, 10), (&other, 7, 10)]);
        assert_eq!(beyond(&same, &[(&other, 7, 10)], 3), 0);
        assert_eq!(beyond(&same, &[], 0), 0, "what it had has been taken back");
        let says = HashMap::from([(third.clone(), Report { held: 2, by_split: false, leased_since: None })]);
        assert_eq!(same.beyond(&record(&[(&other, 8, 1)]), &me, &says), 2, "no record knows of it");
    }
}
