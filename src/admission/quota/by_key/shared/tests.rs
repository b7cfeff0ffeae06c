//! Rates that weirs share, before and after they have told each other what they want.

use std::time::Duration;

use super::*;
use crate::{
    admission::{Proof, Quota, Rate, quota::lease::Share},
    fleet::{beat::Beat, key::Kind, member::MemberId, peers::Vouch},
};

const USERS: u64 = 300;

fn rate(per_second: u32, burst: u32) -> Quota {
    let rate = Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() };
    Quota { rate: Some(rate), ..Quota::default() }
}

/// Before weirs have told each other what they want, each has an equal part; after that, what it is given. A rate
/// that is gone, by the configuration or since nobody uses it, is not told of.
#[test]
fn each_weir_has_its_part_of_a_rate() {
    let now = Instant::now();
    let id = |id: &str| MemberId::new(id).unwrap();
    let fleet = Arc::new(Fleet::new("edge", id("own"), now, &mut fastrand::Rng::with_seed(1)));
    for (n, peer) in [(1, "a"), (2, "b")] {
        let beat = Beat { n: 1, every_ms: 250, ..Beat::new(id(peer), n) };
        fleet.peers().heard(now, beat, Vouch::Unknown).unwrap();
    }
    let by_key = Arc::new(QuotaByKey::<u64>::default());
    by_key.join(&fleet);
    let book = Arc::clone(fleet.leases());
    let enter = |user: u64, quota, now| {
        let share = Share { book: &book, kind: Kind::User, name: &user.to_string(), may_wait: false };
        by_key.enter_by(user, quota, Proof::Known, (now, now), Some(share), |_| ())
    };
    let in_all = |user, quota, now| (0..100).take_while(|_| enter(user, quota, now).is_ok()).count();
    for user in 0..USERS {
        assert_eq!(in_all(user, rate(30, 6), now), 2, "a third of the burst");
    }
    let user = fleet.keys().of(Kind::User, "7");
    let used = RateUse { per_second: 30.0, taken: 2, was_empty: true, promised_until: None };
    assert_eq!(by_key.rates(USERS as usize, now).into_iter().find(|(key, _)| *key == user), Some((user, used)));
    assert_eq!((by_key.rates(255, now).len(), by_key.rate_keys().len() as u64), (255, USERS));

    let soon = now + Duration::from_secs(1);
    by_key.set_rate_part(user, 1.0, now);
    by_key.set_rate_part(fleet.keys().of(Kind::User, "nobody"), 1.0, now);
    let second = Duration::from_secs(1);
    assert_eq!(in_all(7, rate(30, 6), soon), 6, "the whole of it");
    assert_eq!(in_all(8, rate(30, 6), soon), 2, "a third");

    enter(8, Quota::default(), soon).unwrap();
    assert_eq!(by_key.rate_keys().len() as u64, USERS - 1, "the configuration has no rate for it any more");
    assert_eq!(in_all(8, rate(30, 6), soon + second), 2, "and has again");
    by_key.sweep(soon + 9 * second);
    assert!(by_key.rate_keys().is_empty() && by_key.is_empty());
}
