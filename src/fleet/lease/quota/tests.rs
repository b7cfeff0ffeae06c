//! Tests of what a weir writes of one quota, and of what answers and watches make of its lease.

use super::*;
use crate::fleet::{
    key::{Keys, Kind},
    lease::{allowance::Standing, book::LeaseBook},
};

#[test]
fn nobody_waits_in_vain_by_what_others_held_before_it_came() {
    let began = Instant::now();
    let at = |milliseconds| began + Duration::from_millis(milliseconds);
    let [me, other] = [1, 2].map(|run| Holder::parse(&format!("w.{run:016x}")).unwrap());
    let book = LeaseBook::new(Keys::of_fleet("edge"), Standing::new(began));
    let allowance = book.allowance(Kind::Account, "A", Some(100));
    let mut quota = SharedQuota::new(began);
    quota.allowance = Some(Arc::clone(&allowance));
    let mut record = Record::default();
    record.set(&me, (1, 40, 0, 41));
    record.set(&other, (1, 60, 0, 60));
    let (early, late) = (allowance.wait(at(1000)).unwrap(), allowance.wait(at(2000)).unwrap());
    let own = Own { quota: 100, lease: 40, held: 40, waiting: 2, is_used: true, live: 2, beyond: 0 };
    let full = Plan { lease: 40, floor: 0, want: 42, cap: u32::MAX, wake_at: u32::MAX, is_wanted: false };
    let mut look = |reported: Option<u32>, heard: u64, now: u64| {
        let report = |held| (other.clone(), Report { held, by_split: false, leased_since: None });
        quota.reports = reported.map(report).into_iter().collect();
        let heard = HashMap::from([(other.clone(), at(heard))]);
        let (me, now) = (&me, at(now));
        let moment = Moment {
            now,
            awake_since: began,
            me,
            heard: &heard,
            term: 1,
            live: 2,
            absent: 0,
            is_first: true,
            silent_since: None,
            is_leaving: false,
            was_lost: false,
            is_after_split: false,
        };
        quota.hint(&moment, &full, own, &record);
        (early.is_in_vain(), late.is_in_vain())
    };
    assert_eq!(look(Some(60), 900, 1800), (false, false), "the beat is from before both");
    assert_eq!(look(Some(60), 1050, 2050), (false, false), "it may have been on its way when one came");
    assert_eq!(look(Some(60), 1200, 2100), (true, false));
    assert_eq!(look(Some(60), 2200, 2200), (true, true));
    assert_eq!(look(Some(59), 2200, 2200), (false, false), "there is a place");
    assert_eq!(look(None, 0, 2400), (false, false), "not everybody tells");
    assert_eq!(look(None, 0, 2600), (true, false), "that is not waited for long");
}

#[test]
fn who_has_had_no_lease_yet_and_may_not_split_waits_for_the_first() {
    use crate::fleet::lease::{
        ledger::Ledger,
        surroundings::{Settings, Surroundings},
    };
    let began = Instant::now();
    let book = LeaseBook::new(Keys::of_fleet("edge"), Standing::new(began));
    let allowance = book.allowance(Kind::Account, "A", Some(90));
    let me = Holder::parse("w.0000000000000001").unwrap();
    let mut ledger = Ledger::new(me, book, Settings::default(), began, fastrand::Rng::with_seed(1));
    // The bucket does not answer, so that floors are in force.
    let mut look = |milliseconds, is_connected, others_have_leases| {
        let around =
            Surroundings { live: 3, position: 0, others_have_leases, is_connected, is_early: milliseconds < 1500 };
        let now = began + Duration::from_millis(milliseconds);
        ledger.surroundings(around);
        ledger.next(now);
        (allowance.most(now), allowance.wait(now).is_some())
    };
    assert_eq!(look(0, true, true), (Some(0), true));
    assert_eq!(look(900, true, true), (Some(0), true));
    assert_eq!(look(1800, true, true), (Some(0), true), "it comes when the bucket answers");
    assert_eq!(look(1900, true, false), (Some(30), true), "nobody has leases: there are places");
    let _held: Vec<_> = (0..30).map(|_| allowance.take_over()).collect();
    assert_eq!(look(1950, true, false), (Some(30), false));
    assert_eq!(look(2000, false, true), (Some(30), false), "it is cut off");
}

/// A quota of 100 as one weir has it, before a bucket in which it writes.
struct OneQuota {
    quota: SharedQuota,
    allowance: Arc<Allowance>,
    began: Instant,
    me: Holder,
    other: Holder,
    heard: HashMap<Holder, Instant>,
}

impl OneQuota {
    fn new() -> Self {
        let began = Instant::now();
        let [me, other] = [1, 2].map(|run| Holder::parse(&format!("w.{run:016x}")).unwrap());
        let standing = Standing::new(began);
        standing.valid_until(began + Duration::from_secs(1000));
        let allowance = LeaseBook::new(Keys::of_fleet("edge"), standing).allowance(Kind::Account, "A", Some(100));
        let mut quota = SharedQuota::new(began);
        quota.opened(began, Arc::clone(&allowance));
        assert!(!quota.is_absent(began, &me, 0));
        Self { quota, allowance, began, me, other, heard: HashMap::new() }
    }

    /// What is written next, by the first of two weirs, in this term.
    fn next(&mut self, term: u32, seconds: u64) -> Option<What> {
        let moment = Moment {
            now: self.began + Duration::from_secs(seconds),
            awake_since: self.began,
            me: &self.me,
            heard: &self.heard,
            term,
            live: 2,
            absent: 0,
            is_first: true,
            silent_since: None,
            is_leaving: false,
            was_lost: false,
            is_after_split: false,
        };
        self.quota.next(&moment, |_, _| false, |_, _| false)
    }

    fn stored(&mut self, term: Option<u32>, revision: u64) {
        self.quota.stored(self.began, &self.me, term, revision);
    }

    /// The record has these leases by now, of this weir in term 1 and of the other one.
    fn seen(&mut self, revision: u64, own: Option<u32>, other: (u32, u32)) {
        let mut record = Record::default();
        record.q = 100;
        own.into_iter().for_each(|n| record.set(&self.me, (1, n, n, n)));
        record.set(&self.other, (1, other.0, 0, other.1));
        self.quota.seen(self.began, &self.me, revision, record.encode().as_deref());
    }
}

#[test]
fn a_lease_is_what_a_write_of_this_term_says_that_nobody_has_overtaken() {
    let mut one = OneQuota::new();
    one.next(1, 0).unwrap();
    assert_eq!(one.allowance.lease(), 0, "it is asked for, and not had");
    one.stored(Some(1), 1);
    assert_eq!((one.allowance.lease(), one.allowance.floor()), (50, 50));
    // A write that is stored in an earlier term gives nothing in this one.
    one.quota.term_ended();
    one.next(1, 1).unwrap();
    one.stored(Some(2), 2);
    assert_eq!(one.allowance.lease(), 0);
    // In the new term each lease is written anew before it is used.
    one.next(2, 1).unwrap();
    assert_eq!(one.allowance.lease(), 0);
    one.stored(Some(2), 3);
    assert_eq!(one.allowance.lease(), 50);
}

#[test]
fn an_answer_that_was_overtaken_gives_no_more_than_the_later_record() {
    let mut one = OneQuota::new();
    one.next(1, 0).unwrap();
    // Before the answer comes, a later record is seen in which others have taken some of it back.
    one.seen(7, Some(20), (80, 80));
    one.stored(Some(1), 1);
    assert_eq!(one.allowance.lease(), 20);
    // A record from before is none.
    one.seen(3, Some(50), (50, 50));
    assert_eq!(one.quota.record.l[&one.me].n, 20);
    // What is missing in one that is seen is not this weir's any more, and what is more there is not its own either.
    one.seen(8, Some(90), (10, 10));
    assert_eq!(one.allowance.lease(), 20);
    one.seen(9, None, (80, 80));
    assert_eq!(one.allowance.lease(), 0);
}

#[test]
fn while_a_lower_lease_is_written_the_lower_one_holds_and_what_is_held_stays() {
    let mut one = OneQuota::new();
    one.next(1, 0).unwrap();
    one.stored(Some(1), 1);
    let held: Vec<_> = (0..10).map_while(|_| one.allowance.take(one.began)).collect();
    one.seen(2, Some(50), (50, 90));
    assert!(one.next(1, 1).is_some(), "another wants more");
    assert_eq!(one.allowance.lease(), 10, "from before the answer on");
    one.quota.not_done();
    assert_eq!((one.allowance.lease(), held.len()), (10, 10), "also if it never comes");
}

#[test]
fn a_floor_falls_when_more_weirs_share_the_quota() {
    let mut one = OneQuota::new();
    one.next(1, 0).unwrap();
    one.stored(Some(1), 1);
    let _held = one.allowance.take(one.began);
    assert_eq!(one.next(1, 1), None, "nothing has changed");
    one.quota.record.l.get_mut(&one.me).unwrap().f = 60;
    let Some(What::Write { value, .. }) = one.next(1, 1) else { panic!("the floor is more than its part") };
    assert_eq!(Record::decode(&value).unwrap().l[&one.me].f, 50);
}

#[test]
fn who_uses_more_than_it_has_said_says_so_while_another_lacks_a_place() {
    let mut one = OneQuota::new();
    one.next(1, 0).unwrap();
    one.stored(Some(1), 1);
    let held: Vec<_> = (0..30).map_while(|_| one.allowance.take(one.began)).collect();
    let mut seen = |revision, other| {
        one.seen(revision, Some(30), other);
        one.quota.record.l.get_mut(&one.me).unwrap().want = 0;
        one.next(1, 5)
    };
    assert_eq!((seen(2, (70, 70)), held.len()), (None, 30), "everybody has enough");
    let Some(What::Write { value, .. }) = seen(3, (60, 90)) else { panic!("it seems to have all of it to give") };
    assert_eq!(Record::decode(&value).unwrap().l[&one.me].want, 30);
}
