//! Connections that have reached `max_connection_age`: at which age each ends, who goes first, and how many go at a
//! time.

use std::{cmp::Reverse, time::Duration};

use crate::rebalance::run::QUIET;

/// The age at which a session ends is the configured one, more or less by up to this part of it.
const SPREAD: f64 = 0.1;

/// A session that has been due for this part of the configured age ends although it is busy.
const OVERDUE: f64 = 0.1;

/// The most that end: all sessions within this part of the configured age. Sessions that came at once become due within
/// twice [`SPREAD`], half as fast. Many are due at once where nobody could go for a time, and where the key is new:
/// they make no storm.
const ALL_WITHIN: f64 = 0.1;

/// Sessions are looked at so many times in the configured age, unless that is more than once in [`SHORTEST`] or less
/// than once in [`LONGEST`].
const LOOKS: u32 = 1000;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// How long after a look the next one is.
pub fn between_looks(max_age: Duration) -> Duration {
    (max_age / LOOKS).clamp(SHORTEST, LONGEST)
}

/// The age at which this session ends. It needs no memory: the same session always has the same one.
pub fn age_of(session: u64, max_age: Duration) -> Duration {
    // 2^64 divided by the golden ratio. Those who come together have ids in a row, and what is behind the point in
    // multiples of the golden ratio is spread evenly for any number of them in a row.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let part = (session.wrapping_mul(GOLDEN) >> 11) as f64 / (1_u64 << 53) as f64;
    max_age.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * part)
}

/// A session that has reached its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub session: u64,
    /// Since its last activity.
    pub idle: Duration,
    /// It has been due for so long that it ends although it is busy.
    pub is_overdue: bool,
}

impl Due {
    /// `None` where the session is younger than its age. `idle` tells the time since its last activity.
    pub fn of(session: u64, lived: Duration, idle: impl FnOnce() -> Duration, max_age: Duration) -> Option<Self> {
        // Most are younger than any of them may be, which costs a comparison.
        if lived < max_age.mul_f64(1.0 - SPREAD) {
            return None;
        }
        let since = lived.checked_sub(age_of(session, max_age))?;
        Some(Self { session, idle: idle(), is_overdue: since >= max_age.mul_f64(OVERDUE) })
    }

    /// Whether it may go now that it is its turn. `idle` is the time since its last activity by now.
    pub fn may_go(&self, idle: Duration) -> bool {
        self.is_overdue || idle >= QUIET
    }
}

/// How clients have fared since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    pub let_in: u64,
    /// Refused, gone while they waited, or with a login that failed.
    pub kept_out: u64,
    /// Closed for their age.
    pub closed: u64,
}

impl Arrivals {
    /// Whether those who are closed seem not to get in again, as where an auth callout is down. That some are kept out
    /// says little, such as clients over a quota; and they may have come back elsewhere, where nobody is kept out here.
    fn do_not_return(self) -> bool {
        self.kept_out > self.let_in && self.let_in < self.closed.max(1)
    }
}

/// What one look has found.
#[derive(Debug)]
pub struct Look {
    /// All sessions there are.
    pub sessions: u32,
    pub due: Vec<Due>,
    pub arrivals: Arrivals,
    /// How many clients the cluster takes in a second.
    pub pace: f64,
}

impl Look {
    /// Who goes until the next look, in this order, and how long after one the next.
    pub fn plan(self, max_age: Duration) -> (Vec<Due>, Duration) {
        let (mut due, until_next) = (self.due, between_looks(max_age));
        let rate = self.pace.min(f64::from(self.sessions) / (ALL_WITHIN * max_age.as_secs_f64()));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast to a whole number saturates"
        )]
        let most = match self.arrivals.do_not_return() {
            // It shows whether that is over.
            true => 1,
            false => (rate * until_next.as_secs_f64()).ceil().max(1.0) as usize,
        };
        due.sort_by_key(|one| (Reverse(one.is_overdue), Reverse(one.idle)));
        due.truncate(most);
        let each = until_next / u32::try_from(due.len().max(1)).unwrap_or(u32::MAX);
        (due, each)
    }
}

/// Whether there are too few free slots for somebody to be closed: less than one for a hundred sessions, or none. A
/// client that is closed leaves a slot, which somebody else may take.
pub fn is_short_of_room(headroom: u32, sessions: u32) -> bool {
    headroom < (sessions / 100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn look(sessions: u32, due: Vec<Due>) -> Look {
        Look { sessions, due, arrivals: Arrivals::default(), pace: 1000.0 }
    }

    #[test]
    fn the_ages_of_those_who_came_together_are_spread_evenly() {
        for (first, step) in [(1, 1), (1_000_000, 1), (77, 2), (5, 3), (u64::MAX - 5_000, 1)] {
            let (mut of, n) = ([0_u32; 20], 10_000);
            for k in 0..n {
                let session = u64::wrapping_add(first, k * step);
                let age = age_of(session, HOUR);
                assert!((HOUR.mul_f64(0.9)..=HOUR.mul_f64(1.1)).contains(&age), "{session}: {age:?}");
                assert_eq!(age, age_of(session, HOUR), "the same session always has the same one");
                let at = (age.as_secs_f64() / HOUR.as_secs_f64() - 0.9) / 0.2 * 20.0;
                of[(at as usize).min(19)] += 1;
            }
            // Chance would be off by 22 on average.
            assert!(of.iter().all(|&n| n.abs_diff(500) <= 10), "from {first} by {step}: {of:?}");
        }
        // So are the few of a small storm.
        let mut ages: Vec<_> = (100..120).map(|session| age_of(session, HOUR)).collect();
        ages.sort_unstable();
        let gaps = ages.windows(2).map(|two| two[1] - two[0]);
        assert!(gaps.clone().min() > Some(Duration::from_secs(10)) && gaps.max() < Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_session_is_due_at_its_age_and_overdue_a_tenth_later() {
        for session in 1..1000 {
            let (age, idle) = (age_of(session, HOUR), Duration::from_secs(5));
            let of = |lived| Due::of(session, lived, || idle, HOUR);
            let (moment, tenth) = (Duration::from_millis(1), HOUR / 10);
            assert_eq!(of(age - moment), None);
            assert_eq!(of(age), Some(Due { session, idle, is_overdue: false }));
            assert!(!of(age + tenth - moment).unwrap().is_overdue && of(age + tenth + moment).unwrap().is_overdue);
        }
        assert_eq!(Due::of(7, HOUR / 2, || panic!("nobody looks at one that is young"), HOUR), None);
    }

    #[test]
    fn busy_ones_stay_until_they_are_overdue() {
        let of = |is_overdue| Due { session: 1, idle: HOUR, is_overdue };
        let busy = QUIET - Duration::from_millis(1);
        assert_eq!(
            [of(false), of(true)].map(|one| (one.may_go(busy), one.may_go(QUIET))),
            [(false, true), (true, true)]
        );
    }

    #[test]
    fn overdue_ones_go_first_and_then_idle_before_busy() {
        let of = |session, idle, is_overdue| Due { session, idle: Duration::from_secs(idle), is_overdue };
        let due = vec![of(1, 0, false), of(2, 9, false), of(3, 0, true), of(4, 5, false), of(5, 1, true)];
        let (order, each) = look(100_000, due).plan(HOUR);
        assert_eq!(order.iter().map(|one| one.session).collect::<Vec<_>>(), [5, 3, 2, 4, 1]);
        assert_eq!(each, between_looks(HOUR) / 5, "spread over the time until the next look");
    }

    /// How many go at one look of so many that are due, and how long after another each.
    fn go(due: u64, change: impl Fn(&mut Look), max_age: Duration) -> (usize, Duration) {
        let due = (0..due).map(|session| Due { session, idle: HOUR, is_overdue: false }).collect();
        let mut look = look(60_000, due);
        change(&mut look);
        let (order, each) = look.plan(max_age);
        (order.len(), each)
    }

    #[test]
    fn all_at_once_go_no_faster_than_in_a_tenth_of_the_age_or_than_the_cluster_takes_them() {
        // 60,000 in 1.2 h are 13.9 a second.
        let (n, each) = go(60_000, |_| {}, 12 * HOUR);
        assert_eq!((n, between_looks(12 * HOUR)), (600, Duration::from_millis(43_200)));
        assert!(each.abs_diff(Duration::from_millis(72)) < Duration::from_micros(1), "{each:?}");
        assert_eq!(go(60_000, |look| look.pace = 2.0, 12 * HOUR).0, 87, "2 a second");
        assert_eq!(go(60_000, |look| look.pace = 2.0, 10 * SHORTEST), (2, SHORTEST / 2));
        assert_eq!(go(60_000, |look| look.sessions = 3, 12 * HOUR).0, 1, "a few go one by one");
        assert_eq!(go(0, |_| {}, 12 * HOUR).0, 0);
    }

    #[test]
    fn one_goes_at_a_time_while_those_who_are_closed_do_not_get_in_again() {
        let with = |let_in, kept_out, closed| {
            go(60_000, |look| look.arrivals = Arrivals { let_in, kept_out, closed }, 12 * HOUR).0
        };
        assert_eq!([with(0, 0, 0), with(600, 0, 600), with(0, 0, 600)], [600; 3], "they are back, or elsewhere");
        assert_eq!([with(0, 600, 600), with(100, 500, 600), with(0, 1, 1), with(0, 1, 0)], [1; 4]);
        assert_eq!([with(600, 5_000, 600), with(1, 5_000, 1)], [600; 2], "those who are kept out are others");
    }

    /// 5,000 sessions that came at once, and come back 2 s after each close.
    #[test]
    fn a_storm_is_spread_by_each_age_and_nobody_is_forgotten() {
        const SLICE: u64 = 40;
        let max_age = Duration::from_secs(2000);
        let (second, n) = (Duration::from_secs(1), 5000_u32);
        let mut sessions: Vec<(u64, Duration)> = (0..u64::from(n)).map(|id| (id, Duration::ZERO)).collect();
        let (mut next, mut next_look, mut gone) = (u64::from(n), Duration::ZERO, vec![0_u32; 8800 / SLICE as usize]);
        for now in (1..8800).map(|k| second * k).filter(|now| now.as_secs() % 2 == 0) {
            assert!(now >= next_look, "a look every two seconds");
            next_look = now + between_looks(max_age);
            let lived = |since: Duration| now.saturating_sub(since);
            let due = sessions.iter().filter_map(|(id, since)| Due::of(*id, lived(*since), || HOUR, max_age));
            let (order, _) = look(n, due.collect()).plan(max_age);
            for one in &order {
                assert!(!one.is_overdue, "{one:?} at {now:?}");
                let at = sessions.iter().position(|(id, _)| *id == one.session).unwrap();
                sessions[at] = (next, now + 2 * second);
                next += 1;
                gone[(now.as_secs() / SLICE) as usize] += 1;
            }
        }
        let most =
            |from: u64, to: u64| gone[(from / SLICE) as usize..(to / SLICE) as usize].iter().max().copied().unwrap();
        // The first time they have 400 s: 500 in 40 s. The second time 800 s, and most go in the middle of these; and
        // so on, until clients go and come all the time.
        let most = [most(1600, 2800), most(2800, 4960), most(4960, 7200), most(7200, 8800)];
        assert!(most.iter().zip([510, 500, 400, 350]).all(|(most, at_most)| *most <= at_most), "{most:?}");
        assert!(sessions.iter().all(|(_, since)| since.as_secs() >= 6000), "each has gone three times at least");
    }

    #[test]
    fn nobody_goes_where_slots_are_short() {
        let short = [(0, 0), (0, 50), (1, 50), (99, 10_000), (100, 10_000)].map(|(room, n)| is_short_of_room(room, n));
        assert_eq!(short, [true, true, false, true, false]);
    }
}
