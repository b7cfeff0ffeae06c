//! Decisions one by one.

use proptest::prelude::*;

use super::*;
use crate::fleet::key::{Keys, Kind};

const MS: Duration = Duration::from_millis(1);

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn lane(name: &str) -> Lane {
    Keys::of_fleet("edge").of(Kind::Account, name)
}

fn own(limit: u32, under_way: u32, waiting: Waiting) -> Own {
    let beats = OwnBeats { begun: 0, came_back: 1 };
    Own { limit, login: Some(100 * MS), under_way, waiting, is_new: false, beats }
}

fn waits(clients: u32, account: &str, lane_turn: u64) -> Waiting {
    Waiting { clients, lanes: 1, has_priority: false, lane: lane(account), lane_turn }
}

fn uses(places: u32, turn: u64) -> InUse {
    InUse { places, limit: 2, turn, lane: lane("A") }
}

#[test]
fn shares_are_by_demand() {
    assert_eq!(top_share(10.0, &mut [1, 20, 20]), 4.5);
    assert_eq!(top_share(2.0, &mut [9, 9, 9]), 2.0 / 3.0);
    assert_eq!(top_share(10.0, &mut [3, 3]), f64::INFINITY);
}

#[test]
fn the_first_in_the_order_of_turns_begins_and_the_next_one_waits_for_it() {
    let (now, round) = (Instant::now(), Round::default());
    let mut pace = SharedPace::new(id("b"));
    pace.heard(now, &id("a"), (uses(1, 7), waits(5, "A", 9)), 0);
    pace.heard(now, &id("c"), (uses(0, 8), waits(5, "A", 9)), 0);
    // Two of three have had a turn; of the two places one is free.
    let first = pace.allowance(now, &round, own(2, 0, waits(5, "A", 9)));
    assert_eq!(first, Allowance { logins: 1, look_again: None });
    pace.turn = 9;
    let Allowance { logins: 0, look_again: Some(at) } = pace.allowance(now, &round, own(2, 0, waits(5, "A", 9))) else {
        panic!("it has had the last turn")
    };
    assert_eq!(at, now + 2 * STEP, "both others go before it");
    assert_eq!(pace.allowance(at, &round, own(2, 0, waits(5, "A", 9))).logins, 1, "and did not take theirs");
    pace.heard(at, &id("c"), (uses(1, 10), waits(4, "A", 10)), 0);
    assert_eq!(pace.allowance(at, &round, own(2, 0, waits(5, "A", 9))).logins, 0, "one did after all");
}

/// A weir with two others that have nothing.
fn one_of_three(now: Instant) -> SharedPace {
    let mut pace = SharedPace::new(id("a"));
    for other in ["b", "c"] {
        pace.heard(now, &id(other), (uses(0, 0), Waiting::NOBODY), 0);
    }
    pace
}

#[test]
fn a_weir_goes_beyond_an_equal_part_in_steps_once_its_beats_have_come_back() {
    let (start, round) = (Instant::now(), Round::default());
    let mut pace = one_of_three(start);
    let mut may_have = |ms: u32, under_way, beats: (u64, u64)| {
        let beats = OwnBeats { begun: beats.0, came_back: beats.1 };
        pace.allowance(start + MS * ms, &round, Own { beats, ..own(12, under_way, waits(50, "A", 0)) }).logins
    };
    assert_eq!([may_have(0, 0, (4, 4)), may_have(0, 3, (4, 4))], [4, 4], "an equal part of 12");
    assert_eq!([may_have(0, 4, (4, 4)), may_have(50, 4, (9, 4))], [4, 4], "no beat that tells of four is back");
    assert_eq!([may_have(50, 4, (9, 5)), may_have(51, 5, (9, 9))], [5, 5], "one more");
    assert_eq!([may_have(90, 5, (10, 10)), may_have(91, 5, (10, 10))], [5, 6], "two more, after a step");
    assert_eq!([may_have(91, 6, (10, 10)), may_have(340, 6, (10, 10)), may_have(341, 6, (10, 10))], [6, 6, 8], "lost");
    assert_eq!([may_have(342, 8, (10, 10)), may_have(382, 8, (11, 11))], [8, 12], "no more than the limit");
    assert_eq!(may_have(383, 11, (11, 11)), 12, "it keeps what it has reached");
}

#[test]
fn each_storm_begins_with_an_equal_part() {
    let (now, round) = (Instant::now(), Round::default());
    let mut pace = one_of_three(now);
    let storm = |under_way| own(12, under_way, waits(50, "A", 0));
    assert_eq!(pace.allowance(now, &round, storm(4)).look_again, Some(now + HEARD_WITHIN));
    assert_eq!(pace.allowance(now + HEARD_WITHIN, &round, storm(4)).logins, 5);
    pace.ended(now + 2 * HEARD_WITHIN, &round, &Waiting::NOBODY, 3);
    assert_eq!(pace.allowance(now + 3 * HEARD_WITHIN, &round, storm(4)).logins, 4);
    assert_eq!(pace.allowance(now + 4 * HEARD_WITHIN, &round, storm(4)).logins, 5);
    let calm = own(12, 3, waits(1, "A", 0));
    assert_eq!(pace.allowance(now + 5 * HEARD_WITHIN, &round, calm), Allowance { logins: 12, look_again: None });
    assert_eq!(pace.allowance(now + 5 * HEARD_WITHIN, &round, storm(4)).logins, 4);
}

/// Before 2026-11-28 it took half of the limit here, as if only two had to share.
#[test]
fn the_part_of_a_weir_that_has_not_told_anything_is_left_when_another_has() {
    let (now, round) = (Instant::now(), Round::default());
    let mut pace = one_of_three(now);
    pace.heard(now, &id("b"), (uses(1, 0), waits(50, "A", 0)), 1);
    assert_eq!(pace.allowance(now, &round, own(3, 1, waits(60, "A", 0))).logins, 1);
    pace.heard(now, &id("c"), (uses(0, 0), waits(1, "A", 9)), 1);
    assert_eq!(pace.allowance(now, &round, own(3, 0, waits(60, "A", 0))).logins, 1, "its share");
}

#[test]
fn what_others_have_told_meanwhile_counts_and_quick_logins_take_no_steps() {
    let (now, round) = (Instant::now(), Round::default());
    let mut pace = one_of_three(now);
    assert_eq!(pace.allowance(now, &round, own(12, 4, waits(50, "A", 0))).logins, 4);
    pace.heard(now + MS, &id("b"), (uses(8, 1), waits(50, "A", 0)), 4);
    assert_eq!(pace.allowance(now + STEP, &round, own(12, 4, waits(46, "A", 1))).logins, 4, "the server is full");
    pace.heard(now + MS, &id("b"), (uses(0, 2), waits(1, "A", 9)), 4);
    pace.heard(now + MS, &id("c"), (uses(0, 3), waits(1, "A", 9)), 4);
    let known = pace.allowance(now + MS, &round, own(12, 4, waits(46, "A", 1)));
    assert_eq!(known.logins, 10, "all have told what they want");
    let quick = Own { login: Some(QUICK_LOGIN / 2), ..own(12, 0, waits(50, "A", 0)) };
    assert_eq!(one_of_three(now).allowance(now, &round, quick).logins, 12, "over before anybody hears of them");
}

#[test]
fn a_place_of_its_own_is_left_to_an_account_that_has_had_no_turn() {
    let (now, mut round) = (Instant::now(), Round::default());
    round.heard(lane("A"), 20);
    let mut pace = SharedPace::new(id("a"));
    pace.heard(now, &id("b"), (uses(1, 19), waits(5, "A", 20)), 0);
    let storm = own(2, 0, waits(5, "A", 20));
    assert_eq!(pace.allowance(now, &round, storm).logins, 1, "its share");
    pace.heard(now, &id("b"), (uses(1, 19), waits(1, "B", 0)), 0);
    let left = pace.allowance(now, &round, storm);
    assert_eq!((left.logins, left.look_again), (0, Some(now + STEP)));
    assert_eq!(pace.allowance(now + STEP, &round, storm).logins, 1, "the place is not lost");
}

#[test]
fn an_account_that_has_had_a_turn_one_less_of_late_goes_first() {
    let (now, mut round, mut pace) = (Instant::now(), Round::default(), SharedPace::new(id("a")));
    round.heard(lane("A"), 20);
    let of_b = |lane_turn| (uses(1, 19), waits(1, "B", lane_turn));
    let mut begins = |lane_turn| {
        pace.heard(now, &id("b"), of_b(lane_turn), 0);
        pace.allowance(now, &round, own(2, 0, waits(5, "A", 20))).logins
    };
    assert_eq!((begins(20), begins(19)), (1, 0));
}

#[test]
fn a_weir_whose_account_has_had_a_turn_elsewhere_goes_on_with_another() {
    let (now, mut round) = (Instant::now(), Round::default());
    round.heard(lane("B"), 12);
    round.heard(lane("A"), 20);
    // By its last beat the other weir has `lanes` accounts, and A is next there, whose turn 5 is not its last.
    let begins = |lanes, lane_turn| {
        let mut pace = SharedPace::new(id("a"));
        pace.turn = 15;
        let in_use = InUse { limit: 1, ..uses(0, 7) };
        pace.heard(now, &id("b"), (in_use, Waiting { lanes, ..waits(5, "A", lane_turn) }), 0);
        pace.allowance(now, &round, own(1, 0, waits(5, "B", 12))).logins
    };
    assert_eq!(begins(1, 5), 1, "it has no other account, and A has had a turn since");
    assert_eq!(begins(2, 5), 0, "its next one may be B too, and it has had no turn for longer");
    assert_eq!((begins(2, 13), begins(2, 20)), (1, 1), "its next one has had a turn since B had");
}

#[test]
fn the_first_of_all_accounts_has_the_place_of_a_login_beyond_the_limit() {
    let (now, mut round, mut pace) = (Instant::now(), Round::default(), SharedPace::new(id("a")));
    round.heard(lane("A"), 20);
    // Three weirs and a limit of two: none has a place of its own.
    pace.heard(now, &id("c"), (uses(0, 18), waits(5, "A", 20)), 0);
    let mut begins = |others, account, turn| {
        pace.heard(now, &id("b"), (uses(others, 19), waits(5, "A", 20)), 0);
        pace.allowance(now, &round, own(2, 0, waits(1, account, turn))).logins
    };
    assert_eq!((begins(4, "B", 0), begins(3, "B", 0)), (0, 0), "more than the limit is in use");
    assert_eq!(begins(2, "B", 0), 1, "two logins have ended since it became the first");
    assert_eq!((begins(4, "A", 20), begins(2, "A", 20)), (0, 0), "its account is not the first");
    assert_eq!((begins(2, "B", 0), begins(2, "B", 0)), (0, 0), "none has ended since");
}

#[test]
fn turns_of_one_number_are_turns_of_several_weirs() {
    let (now, mut round, mut pace) = (Instant::now(), Round::default(), SharedPace::new(id("a")));
    assert_eq!((round.take(lane("A")), round.heard(lane("A"), 1)), (1, true), "at the same moment");
    assert_eq!((round.take(lane("B")), round.heard(lane("A"), 1)), (2, false), "another lane has had one since");
    let mut is_turn = |name, turn| pace.heard(now, &id(name), (uses(1, turn), waits(1, "A", 0)), 0);
    assert_eq!([is_turn("b", 1), is_turn("b", 1), is_turn("c", 1), is_turn("b", 2)], [true, false, true, true]);
    assert!(!is_turn("d", 0), "it has had none");
}

#[test]
fn a_place_beyond_the_limit_is_not_kept_and_a_lower_limit_is_told() {
    let (now, mut round, mut pace) = (Instant::now(), Round::default(), SharedPace::new(id("a")));
    let waiting = waits(5, "A", 0);
    let mut kept = |others: u32, limit| {
        pace.heard(now, &id("b"), (InUse { limit, ..uses(others, 9) }, waiting), 1);
        pace.began(now, &mut round, lane("A"), 2);
        pace.ended(now + MS, &round, &waiting, 1);
        pace.allowance(now + MS, &round, own(limit, 1, waiting)).logins
    };
    assert_eq!((kept(1, 3), kept(2, 3)), (2, 1));
    let told = |limit| (InUse { limit, ..uses(1, 9) }, waiting);
    let is_news = |limit| pace.is_news(told(3), told(limit), Some(100 * MS));
    assert_eq!((is_news(3), is_news(2), is_news(4)), (false, true, true));
}

#[test]
fn beats_that_lie_end_no_turns() {
    let (mut now, mut round) = (Instant::now(), Round::default());
    let mut pace = SharedPace::new(id("m"));
    let lie = InUse { places: u32::MAX, limit: u32::MAX, turn: u64::MAX, lane: lane("A") };
    let waiting = Waiting { clients: u32::MAX, has_priority: true, ..waits(1, "A", 0) };
    for n in 0..256 {
        pace.heard(now, &id(&format!("liar-{n}")), (lie, waiting), 0);
    }
    round.heard(lane("A"), u64::MAX);
    let mut begun = 0;
    for _ in 0..6000 {
        now += 10 * MS;
        let mine = own(2, 0, waits(5, "A", 0));
        let allowance = pace.allowance(now, &round, mine);
        assert!(allowance.logins <= 3, "never more than one above the own limit");
        if allowance.logins > 0 {
            pace.began(now, &mut round, lane("A"), 1);
            pace.ended(now, &round, &mine.waiting, 0);
            begun += 1;
        }
    }
    assert!(begun >= 11, "{begun} logins in a minute");
}

proptest! {
    #[test]
    fn one_weir_alone_has_all_of_the_limit(
        limit in 0u32..300, under_way in 0u32..300, clients in 0u32..9, is_new: bool, heard: bool,
    ) {
        let now = Instant::now();
        let mut pace = SharedPace::new(id("a"));
        if heard {
            // One that was there and has gone.
            pace.heard(now, &id("b"), (uses(9, 9), waits(9, "A", 9)), under_way);
            pace.forget(&id("b"));
        }
        let own = Own { is_new, ..own(limit, under_way, waits(clients, "A", 0)) };
        let all = Allowance { logins: limit, look_again: None };
        prop_assert_eq!(pace.allowance(now, &Round::default(), own), all);
    }
}
