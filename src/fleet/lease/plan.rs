//! What a weir should have of a quota, by the record of its leases: how much to take ahead, when to give back, and what
//! is fair while there is not enough.

use crate::fleet::{
    lease::{
        Holder,
        record::{Entry, Record},
    },
    share,
};

/// What a weir knows of its own part in a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// As its own configuration or the cluster has it.
    pub quota: u32,
    /// Its lease of this term.
    pub lease: u32,
    /// Connections, those in flight included.
    pub held: u32,
    /// Clients that wait for a place.
    pub waiting: u32,
    /// Whether anybody used it lately.
    pub is_used: bool,
    /// Weirs that live, this one included.
    pub live: u32,
    /// What weirs without leases hold.
    pub beyond: u32,
}

/// What a weir should do about its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Its lease.
    pub lease: u32,
    /// What of it it may have while it cannot reach the bucket.
    pub floor: u32,
    /// What it could use.
    pub want: u32,
    /// It takes no more than this while others have less than their share.
    pub cap: u32,
    /// It should look again when it holds so many.
    pub wake_at: u32,
    /// Others want what it gives back.
    pub is_wanted: bool,
}

/// Plans the lease of `me`. `is_ended` says which leases are of terms that have ended: nobody uses more of those than
/// what is connected still, and they are taken back elsewhere.
pub fn plan(record: &Record, me: &Holder, own: Own, is_ended: impl Fn(&Holder, &Entry) -> bool) -> Plan {
    let Own { quota, lease, held, waiting, is_used, live, beyond } = own;
    let others = || record.l.iter().filter(|(holder, _)| *holder != me);
    let (ended, live_ones): (Vec<_>, Vec<_>) = others().partition(|(holder, entry)| is_ended(holder, entry));
    let of_ended: u64 = ended.iter().map(|(_, entry)| u64::from(entry.n)).sum();
    let taken = u64::from(record.past) + u64::from(beyond);
    let less = |by: u64| u32::try_from(u64::from(quota).saturating_sub(by)).unwrap_or_default();
    let hard_top = less(u64::from(record.past) + record.of_others(me));
    let is_over = lease > hard_top;
    // What it holds stays its own: also in a new term, and where its own quota is lower than that of others.
    let own_entry = record.l.get(me).map_or(0, |entry| entry.n);
    let keeps = held.min(hard_top.max(own_entry));
    // The most that it may have, whatever is fair. What others only say takes no lease away.
    let top = less(taken + record.of_others(me)).max(if is_over { 0 } else { lease });
    let capacity = less(taken + of_ended);
    let need = held.saturating_add(waiting);
    // In the order of the holders, so that all weirs agree on who has one more where parts cannot be equal.
    let mut demands: Vec<u32> = live_ones.iter().map(|(_, entry)| entry.want).collect();
    let position = live_ones.iter().take_while(|(holder, _)| *holder < me).count();
    demands.insert(position, need);
    let mut shares = share::max_min(capacity, &demands);
    let (own_share, free) = (shares.remove(position), top.saturating_sub(lease));
    // What others lack of their share.
    let lacking = live_ones.iter().zip(&shares).map(|((_, entry), share)| {
        let wants_more = entry.want > entry.n;
        if wants_more { share.saturating_sub(entry.n) } else { 0 }
    });
    let lacking = lacking.fold(0, u32::saturating_add);
    // What everybody may have at rest: nobody is refused in the split who need not be.
    let rest = if is_used { capacity / live.max(1) } else { 0 };
    let (mut cap, mut wake_at) = (u32::MAX, u32::MAX);
    let planned = if is_over {
        // The quota is lower by now, or others have come past weir.
        own_share.min(lease).max(top).max(held.min(lease))
    } else if lacking > 0 {
        let keep = if need <= own_share { need } else { own_share.max(held) };
        if need > own_share {
            cap = own_share;
        }
        match lease.checked_sub(keep) {
            Some(more) if more > 0 => lease - more.min(lacking.saturating_sub(free)),
            _ => need.min(own_share).max(lease).min(top),
        }
    } else {
        // As the quota fills the chunks shrink, so that each weir finds some room until there is none.
        let chunk = (top.saturating_sub(need.max(lease)) / (2 * live.max(1))).max(1);
        let low = chunk / 2 + 1;
        let is_low = is_used && need.saturating_add(low) > lease;
        let planned =
            if is_low || lease < rest { need.saturating_add(chunk).max(rest).max(lease).min(top) } else { lease };
        wake_at = if planned < top { planned.saturating_sub(low) } else { u32::MAX };
        planned
    };
    let planned = if is_used { planned.max(keeps) } else { keeps };
    let floor = planned.min(quota / live.max(1));
    Plan { lease: planned, floor, want: need.min(quota), cap, wake_at, is_wanted: lacking > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(run: u32) -> Holder {
        Holder::parse(&format!("w.{run:016x}")).unwrap()
    }

    fn record(past: u32, entries: &[(u32, u32)]) -> Record {
        let mut record = Record::default();
        record.past = past;
        for (run, (n, want)) in (1..).zip(entries) {
            record.set(&holder(run), (1, *n, 0, *want));
        }
        record
    }

    const OWN: Own = Own { quota: 100, lease: 0, held: 0, waiting: 0, is_used: true, live: 3, beyond: 0 };

    fn planned(record: &Record, own: Own) -> Plan {
        plan(record, &holder(0), own, |_, _| false)
    }

    #[test]
    fn at_rest_everybody_has_an_equal_part_and_more_in_shrinking_chunks() {
        let first = planned(&record(0, &[]), Own { waiting: 1, ..OWN });
        assert_eq!((first.lease, first.floor), (33, 33));
        let more = planned(&record(0, &[]), Own { lease: 33, held: 33, ..OWN });
        assert_eq!((more.lease, more.floor), (33 + 67 / 6, 33));
        let all = planned(&record(0, &[]), Own { lease: 44, held: 44, waiting: 500, ..OWN });
        assert_eq!((all.lease, all.want), (100, 100), "what wait are wanted at once");
        let last = planned(&record(60, &[(33, 3)]), Own { lease: 6, held: 6, ..OWN });
        assert_eq!(last.lease, 7, "one at a time in the end");
    }

    #[test]
    fn who_has_more_than_its_share_gives_back_what_it_does_not_use() {
        let idle = planned(&record(0, &[(33, 80)]), Own { lease: 67, held: 10, ..OWN });
        assert_eq!((idle.lease, idle.is_wanted), (20, true), "as much as is wanted");
        let busy = planned(&record(0, &[(20, 90)]), Own { lease: 80, held: 70, waiting: 50, ..OWN });
        assert_eq!((busy.lease, busy.cap), (70, 50), "no session is ended, and nobody gets in before it is fair");
        let fair = planned(&record(0, &[(50, 90)]), Own { lease: 50, held: 50, waiting: 50, ..OWN });
        assert_eq!((fair.lease, fair.cap), (50, u32::MAX));
        let poor = planned(&record(0, &[(60, 90), (10, 40)]), Own { lease: 10, held: 10, waiting: 90, ..OWN });
        assert_eq!(poor.lease, 30, "free room is taken up to the share");
    }

    #[test]
    fn nobody_takes_what_is_not_free() {
        for (past, entries, beyond) in [(100, &[][..], 0), (0, &[(100, 0)][..], 0), (30, &[(40, 0)][..], 30)] {
            let plan = planned(&record(past, entries), Own { waiting: 7, beyond, ..OWN });
            assert_eq!((plan.lease, plan.want), (0, 7), "{past} {entries:?}");
        }
        let lowered = planned(&record(0, &[(60, 10)]), Own { quota: 50, lease: 40, held: 20, ..OWN });
        assert_eq!(lowered.lease, 20, "the quota is lower");
        let others_came = planned(&record(0, &[(20, 60)]), Own { quota: 50, lease: 40, ..OWN });
        assert_eq!(others_came.lease, 30, "no lower at once than it must be");
        let unused = planned(&record(0, &[]), Own { lease: 40, is_used: false, ..OWN });
        assert_eq!(unused.lease, 0);
        // It holds more than its lease, since sessions whose account was not known were counted there afterwards.
        let over = planned(&record(0, &[(70, 70)]), Own { lease: 40, held: 60, ..OWN });
        assert_eq!(over.lease, 40, "the others have the rest");
    }

    #[test]
    fn all_agree_on_who_has_one_more() {
        let wants = |n: u32| Own { quota: 25, waiting: 20, lease: n, live: 2, ..OWN };
        let first = plan(&record(0, &[(0, 0), (0, 20)]), &holder(1), wants(0), |_, _| false);
        let second = plan(&record(0, &[(0, 20), (0, 0)]), &holder(2), wants(0), |_, _| false);
        assert_eq!(first.lease + second.lease, 25);
    }
}
