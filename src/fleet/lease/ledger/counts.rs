//! Tests of what is left of ended leases by the servers' counts: each connection is taken off once.

use std::time::{Duration, Instant};

use super::Ledger;
use crate::fleet::{
    key::{Keys, Kind},
    lease::{
        Answer, Holder, LeaseKey, Place, What,
        allowance::{Standing, Use},
        book::LeaseBook,
        reclaim::Reading,
        record::{Membership, Record},
        samples::Samples,
        surroundings::Settings,
    },
};

fn holder(run: u32) -> Holder {
    Holder::parse(&format!("w.{run:016x}")).unwrap()
}

/// That of the first holder, and the key of an account's leases.
fn ledger(began: Instant) -> (Ledger, LeaseKey) {
    let keys = Keys::of_fleet("edge");
    let key = LeaseKey { kind: Kind::Account, key: keys.of(Kind::Account, "A") };
    let book = LeaseBook::new(keys, Standing::new(began));
    (Ledger::new(holder(1), book, Settings::default(), began, fastrand::Rng::with_seed(1)), key)
}

#[test]
fn servers_are_read_anew_once_the_connection_of_a_weir_is_gone_that_had_its_floor_until_then() {
    let began = Instant::now();
    let at = |milliseconds| began + Duration::from_millis(milliseconds);
    let (mut ledger, key) = ledger(began);
    let mut record = Record::default();
    record.set(&holder(2), (1, 7, 7, 0));
    ledger.seen(began, &Place::Leases(key), 1, record.encode().as_deref());
    // Its term has ended.
    ledger.seen(began, &Place::Member(holder(2)), 2, Some(&Membership::new(2).encode()));
    for (asked, answer) in [(8000, Answer::Responds), (10_000, Answer::NoResponders), (10_500, Answer::NoResponders)] {
        assert!(ledger.connections.is_due(at(asked), &holder(2)));
        ledger.connections.answered(at(asked), &holder(2), &answer);
    }
    // Of its 7 places it used 3 when the servers were read.
    let left = |ledger: &mut Ledger, read: u64| {
        let (reading, mut left) = (at(read), record.clone());
        let reading = Some(Reading { began: reading, ended: reading, connections: 3, after: None });
        ledger.quotas.get_mut(&key).unwrap().reading = reading;
        ledger.reclaim(at(14_000), key, &ledger.quotas[&key], Some(3), &mut left);
        left.l[&holder(2)].n
    };
    assert_eq!([9000, 10_500, 12_999, 13_000].map(|read| left(&mut ledger, read)), [7, 7, 7, 3]);
}

#[test]
fn what_live_weirs_have_and_what_is_past_weir_is_taken_off_once() {
    let began = Instant::now();
    let at = |seconds| began + Duration::from_secs(seconds);
    let (mut ledger, key) = ledger(began);
    // This weir has 7 open, and the third one 9: more than their leases, as far as both know by what is past weir.
    let mut record = Record::default();
    record.past = 4;
    [(1, 2), (2, 50), (3, 3)].iter().for_each(|(run, lease)| record.set(&holder(*run), (1, *lease, 0, 0)));
    ledger.seen(began, &Place::Leases(key), 1, record.encode().as_deref());
    ledger.seen(began, &Place::Member(holder(2)), 2, Some(&Membership::new(2).encode()));
    let mut third = Membership::new(1);
    third.tell(key, vec![(9, 60_000)]);
    for revision in [10, 11] {
        ledger.seen(at(12), &Place::Member(holder(3)), revision, Some(&third.encode()));
    }
    // What was on its way when the term ended has arrived 3 s later.
    ledger.counted(at(3), key, at(2), 30);
    assert!(ledger.quotas[&key].reading.is_none(), "too early");
    ledger.counted(at(11), key, at(10), 30);
    let mut samples = Samples::default();
    (8..14).for_each(|second| samples.note(at(second), Use { held: 7, open: 7, waiting: 0, released: 0 }));
    let quota = ledger.quotas.get_mut(&key).unwrap();
    (quota.samples, quota.reading) = (Some(samples), quota.reading.map(|one| Reading { after: Some(5), ..one }));
    let left = |ledger: &Ledger| ledger.left_of(at(12), key, &ledger.quotas[&key]);
    assert_eq!(left(&ledger), Some(30 - (2 + 3) - 4));
    ledger.quotas.get_mut(&key).unwrap().past_changed_at = at(10);
    assert_eq!(left(&ledger), None, "what is past weir may have been others' when the servers counted");
}

/// What others tell of the time before a reading is told for sure once their revisions are above one that was written
/// after it.
#[test]
fn what_this_weir_wrote_before_a_reading_ended_says_nothing_of_what_others_told_since() {
    let began = Instant::now();
    let (mut ledger, key) = ledger(began);
    let look = |ledger: &mut Ledger, after: u64, revision: u64| {
        let now = began + Duration::from_millis(after);
        for one in ledger.next(now) {
            let answer =
                if one.what == What::Read { Answer::Absent { revision: 0 } } else { Answer::Stored { revision } };
            ledger.answered(now, one.serial, &answer);
        }
    };
    let mut record = Record::default();
    record.set(&holder(2), (1, 7, 0, 0));
    ledger.seen(began, &Place::Leases(key), 1, record.encode().as_deref());
    ledger.seen(began, &Place::Member(holder(2)), 2, Some(&Membership::new(1).encode()));
    look(&mut ledger, 0, 3);
    assert_eq!(ledger.own.stored().map(|(revision, _)| revision), Some(3));
    let ended = began + Duration::from_millis(100);
    let reading = Some(Reading { began, ended, connections: 7, after: None });
    ledger.quotas.get_mut(&key).unwrap().reading = reading;
    let after = |ledger: &mut Ledger| {
        ledger.has_changed(key);
        ledger.quotas[&key].reading.unwrap().after
    };
    after(&mut ledger);
    look(&mut ledger, 200, 4);
    assert_eq!(after(&mut ledger), None, "revision 3 was sent before the reading ended");
    // The next writing of its own membership.
    look(&mut ledger, 10_000, 5);
    look(&mut ledger, 10_100, 6);
    assert_eq!(after(&mut ledger), Some(5));
}
