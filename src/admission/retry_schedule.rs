//! Decides when a client that cannot be served at once is answered, or looked at again: [`answer_at`], by what is known
//! of its turn and by when its library comes back.
//!
//! Most libraries come back a known time after a refusal ([`Return`]). So the moment of a refusal chooses the moment of
//! the retry. [`RetrySchedule`] gives out these moments so that retries arrive at the rate at which the servers take
//! clients: the earliest moment that is not taken among those that the client's own deadline allows, and the least
//! taken one when all are. A client is back a little before its turn, so that the servers always have a client that
//! waits.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{
    client_library::returns::Return,
    lapse::{self, Lapse},
    outcome::Refusal,
};

/// The schedule counts expected clients by spans of this length.
const SPAN: Duration = Duration::from_millis(100);
/// How many spans ahead it counts: the longest return is 5 s, the longest hold 19 s.
const SPANS: usize = 256;

/// No more are taken to be expected in a span than so many, whatever another process says.
const MOST_EXPECTED: u32 = 1_000_000;

/// A client is to be back so long before the span of its turn. Were it back within the span, servers that are a little
/// quicker than estimated would have no client for a moment, and the last clients of the storm would be in later by as
/// much: 5 % of a storm of 6 s.
const RETURN_LEAD: Duration = Duration::from_millis(300);

/// A client with less time left than this is not looked at again before its time is up, nor kept before it is refused.
const TOO_SHORT: Duration = Duration::from_millis(20);
/// A client whose library comes back a known time after a refusal is looked at within this while the service rate is
/// not known yet: the rate is known by then, or the client is looked at again as soon.
const RATE_UNKNOWN_CHECK: Duration = Duration::from_millis(400);
/// In a pause a client is looked at again after this, and as much again at random: the pause may end before the time of
/// the client does.
const PAUSED_CHECK: Duration = Duration::from_secs(1);
/// A client whose turn comes in time only at the upper bound of the service rate is looked at again within this.
pub(super) const RATE_UNCERTAIN_CHECK: Duration = Duration::from_millis(200);
/// Whether a client waits in vain for a place of a lease is looked at again within this.
const LEASE_CHECK: Duration = Duration::from_millis(300);

/// What is known of a client's turn when it is decided when to answer it.
#[derive(Debug)]
pub enum Situation<'a> {
    /// There is no turn for it: it is refused for this reason.
    Refused(Refusal),
    /// It waited in the queue when a drain emptied that.
    Drained,
    /// Nobody gets a turn now.
    Paused,
    /// It has joined the queue just now, and no server has room.
    QueuedWithoutRoom,
    /// It has joined the queue just now. `rate_is_known` says whether its turn can be estimated already.
    Queued { rate_is_known: bool },
    /// Its turn is expected in time.
    InTime(Estimate),
    /// Its turn is not expected in time, at `rate` clients a second.
    TooLate { schedule: &'a mut RetrySchedule, rate: f64 },
}

/// What an expected turn relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimate {
    /// Nothing: the service rate is unknown.
    Unknown,
    /// The upper bound of the service rate.
    UpperBound,
    /// The service rate.
    Rate,
}

/// When to answer a client, or to look at its turn again. It can be kept until `until`, a refusal is put off by
/// `spread` at most, and its library does `returns` after a refusal. A client that is [too late](Situation::TooLate) is
/// to be refused at that moment; its retry is returned too, where it is scheduled.
///
/// | | a known time after a refusal (Go, C, Python, Rust, .NET) | whatever it is told (Java, JavaScript) | unknown |
/// |---|---|---|---|
/// | refused | random within `spread` | the same | the same |
/// | refused by a drain when it comes | now | now | now |
/// | in the queue when a drain begins | random within `spread` | the same | the same |
/// | nobody gets a turn | random from 1 to 2 s, by `until` | the same | the same |
/// | queued, no room | random within `spread` | the same | the same |
/// | queued, rate known | now | at `until` | random until then |
/// | queued, rate unknown | random within 0.4 s | at `until` | random until then |
/// | in time | random until then | the same | the same |
/// | in time, rate unknown | random within 0.4 s | the same | the same |
/// | in time at the upper bound of the rate | random within 0.2 s | the same | the same |
/// | too late | so that it is back at its turn | at `until` | now |
pub fn answer_at(
    situation: Situation<'_>,
    returns: Return,
    until: Instant,
    spread: Duration,
    now: Instant,
    rng: &mut fastrand::Rng,
) -> (Instant, Option<ScheduledRetry>) {
    let left = until.saturating_duration_since(now);
    let at = match (situation, returns) {
        (Situation::Refused(Refusal::Draining), _) => now,
        (Situation::Refused(_) | Situation::Drained, _) => now + left.min(spread).mul_f64(rng.f64()),
        (Situation::Paused, _) => until.min(now + PAUSED_CHECK + PAUSED_CHECK.mul_f64(rng.f64())),
        (Situation::QueuedWithoutRoom, _) => random_within(until.min(now + spread), now, rng),
        // It gains nothing from being told early.
        (Situation::Queued { .. }, Return::Regardless) => until,
        // The sooner it is told that its turn comes only after it could be back, the sooner it is back.
        (Situation::Queued { rate_is_known: true }, Return::After(_) | Return::Doubling { .. }) => now,
        (Situation::Queued { rate_is_known: false }, Return::After(_) | Return::Doubling { .. }) => {
            random_within(until.min(now + RATE_UNKNOWN_CHECK), now, rng)
        }
        (Situation::Queued { .. }, Return::Unknown) => random_within(until, now, rng),
        (Situation::InTime(estimate), _) => {
            let latest = match estimate {
                Estimate::Unknown => until.min(now + RATE_UNKNOWN_CHECK),
                Estimate::UpperBound => until.min(now + RATE_UNCERTAIN_CHECK),
                Estimate::Rate => until,
            };
            random_within(latest, now, rng)
        }
        (Situation::TooLate { schedule, rate }, Return::After(wait)) => {
            let (keep, retry) = schedule.schedule(now, wait, left, rate, rng);
            return (now + if keep > TOO_SHORT { keep } else { Duration::ZERO }, Some(retry));
        }
        (Situation::TooLate { .. }, Return::Regardless) if left > TOO_SHORT => until,
        (Situation::TooLate { .. }, _) => now,
    };
    (at, None)
}

/// When to look again whether a client waits in vain for a place of a lease: sooner than its turn may be looked at.
pub(super) fn lease_check(now: Instant, rng: &mut fastrand::Rng) -> Instant {
    random_within(now + LEASE_CHECK, now, rng)
}

/// A random moment before `until`. So clients that cannot be served are told at different times and come back spread
/// out instead of in step, and each is judged by what is known of the storm at that time, not when it began.
fn random_within(until: Instant, now: Instant, rng: &mut fastrand::Rng) -> Instant {
    let left = until.saturating_duration_since(now);
    if left <= TOO_SHORT { until } else { now + left.mul_f64(rng.f64()) }
}

/// The span in which the turn of a refused client is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledRetry(u64);

/// The schedule as another process recalls it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedSchedule {
    /// How much of the current span is over.
    #[serde(default, deserialize_with = "lapse::or_default")]
    into_span: Lapse,
    /// How many are expected in this span, in the next one, and so on.
    #[serde(default, deserialize_with = "lapse::or_default")]
    expected: Vec<u32>,
}

/// How many clients are expected back for each span of the time to come.
#[derive(Debug)]
pub struct RetrySchedule {
    began: Option<Instant>,
    /// The current span, counted from the beginning.
    now: u64,
    /// By span, a ring.
    expected: [u32; SPANS],
}

impl Default for RetrySchedule {
    fn default() -> Self {
        Self { began: None, now: 0, expected: [0; SPANS] }
    }
}

impl RetrySchedule {
    fn span(&self, at: Instant) -> u64 {
        let since = self.began.map_or(Duration::ZERO, |began| at.saturating_duration_since(began));
        (since.as_millis() / SPAN.as_millis()) as u64
    }

    /// Forgets the spans that are over.
    fn advance_to(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let span = self.span(now);
        if span >= self.now + SPANS as u64 {
            *self = Self { began: Some(began), now: span, expected: [0; SPANS] };
        }
        while self.now < span {
            self.expected[(self.now % SPANS as u64) as usize] = 0;
            self.now += 1;
        }
    }

    /// Schedules the retry of a client that comes back `wait` after it is refused, that can be kept for `left`, and
    /// whose turn does not come before that; the servers take `rate` clients a second. Returns how long to keep the
    /// client before it is refused.
    fn schedule(
        &mut self,
        now: Instant,
        wait: Duration,
        left: Duration,
        rate: f64,
        rng: &mut fastrand::Rng,
    ) -> (Duration, ScheduledRetry) {
        self.advance_to(now);
        let room = (rate * SPAN.as_secs_f64()).max(f64::MIN_POSITIVE);
        let last = self.span(now + wait + left + RETURN_LEAD).min(self.now + SPANS as u64 - 1);
        // Until then the clients that wait now keep the servers busy.
        let first = now + wait.max(left);
        let (first, first_with_lead) = (self.span(first).min(last), self.span(first + RETURN_LEAD).min(last));
        let expected = |span: u64| self.expected[(span % SPANS as u64) as usize];
        let free = (first..=last).find(|&span| f64::from(expected(span)) < room);
        // The latest of the least taken: a client that is kept for longer needs fewer tries. Clients of the spans
        // before the lead would all be back at once.
        let least_taken = || (first_with_lead..=last).rev().min_by_key(|&span| expected(span));
        let span = free.or_else(least_taken).unwrap_or(last);
        self.expected[(span % SPANS as u64) as usize] += 1;
        let began = self.began.unwrap_or(now);
        let back = began + SPAN.saturating_mul(u32::try_from(span).unwrap_or(u32::MAX)) + SPAN.mul_f64(rng.f64());
        (back.saturating_duration_since(now + wait + RETURN_LEAD).min(left), ScheduledRetry(span))
    }

    /// Who is expected back, for a process that takes over.
    pub fn remembered(&mut self, now: Instant) -> RememberedSchedule {
        self.advance_to(now);
        let since = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let ahead = (self.now..self.now + SPANS as u64).map(|span| self.expected[(span % SPANS as u64) as usize]);
        let mut expected: Vec<_> = ahead.collect();
        expected.truncate(expected.iter().rposition(|clients| *clients > 0).map_or(0, |last| last + 1));
        let into_span = since.saturating_sub(SPAN.saturating_mul(u32::try_from(self.now).unwrap_or(u32::MAX)));
        RememberedSchedule { into_span: into_span.into(), expected }
    }

    /// Those whom another process expected at `then`. Nobody is scheduled here yet.
    pub fn recalled(remembered: RememberedSchedule, then: Instant) -> Self {
        let into_span = remembered.into_span.duration().min(SPAN);
        let mut schedule = Self { began: Some(then.checked_sub(into_span).unwrap_or(then)), ..Self::default() };
        for (expected, remembered) in schedule.expected.iter_mut().zip(remembered.expected) {
            *expected = remembered.min(MOST_EXPECTED);
        }
        schedule
    }

    /// Takes a retry out of the schedule: its client is not refused after all.
    pub fn cancel(&mut self, ScheduledRetry(span): ScheduledRetry) {
        if span >= self.now {
            let expected = &mut self.expected[(span % SPANS as u64) as usize];
            *expected = expected.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    type Situate = fn(&mut RetrySchedule) -> Situation<'_>;

    /// The earliest and the latest answer in 2,000 draws, in milliseconds from now, to a client of this library that
    /// can be kept for `left` ms. A refusal is put off by 700 ms at most.
    fn answers(situate: Situate, lang: &str, left: u32) -> [u128; 2] {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(5));
        let answers = (0..2000).map(|_| {
            let mut schedule = RetrySchedule::default();
            let situation = situate(&mut schedule);
            let is_refused = matches!(situation, Situation::TooLate { .. });
            let returns = if is_refused {
                crate::client_library::lang::returns(lang).after_refusals(0)
            } else {
                crate::client_library::lang::returns(lang)
            };
            (answer_at(situation, returns, now + left * MS, 700 * MS, now, &mut rng).0 - now).as_millis()
        });
        answers.fold([u128::MAX, 0], |[earliest, latest], at| [earliest.min(at), latest.max(at)])
    }

    /// By situation and library, with 1.5 s left: the earliest and the latest answer in milliseconds.
    #[test]
    fn the_answer_comes_when_it_is_of_most_use_to_the_library() {
        const LANGS: [&str; 8] = ["go", "C", "python3", "rust", ".NET", "java", "nats.js", "other"];
        let of_known = |known: [u128; 2], regardless: [u128; 2], unknown: [u128; 2]| {
            [known, known, known, known, known, regardless, regardless, unknown]
        };
        let all = |one: [u128; 2]| [one; 8];
        let (now, within, at_end) = ([0, 0], [0, 1500], [1500, 1500]);
        let mut too_late = of_known(now, at_end, now);
        // Rust is back 2 ms after a refusal: it is kept until 0.3 s before its turn, which comes after 1.5 s.
        too_late[3] = [1198, 1298];
        let table: [(&str, Situate, [[u128; 2]; 8]); 12] = [
            ("quota", |_| Situation::Refused(Refusal::AccountQuota), all([0, 700])),
            ("full listener", |_| Situation::Refused(Refusal::ListenerFull), all([0, 700])),
            ("drain", |_| Situation::Refused(Refusal::Draining), all(now)),
            ("drain, in the queue", |_| Situation::Drained, all([0, 700])),
            ("pause", |_| Situation::Paused, all([1000, 1500])),
            ("queued, no room", |_| Situation::QueuedWithoutRoom, all([0, 700])),
            ("queued, rate known", |_| Situation::Queued { rate_is_known: true }, of_known(now, at_end, within)),
            ("queued", |_| Situation::Queued { rate_is_known: false }, of_known([0, 400], at_end, within)),
            ("in time?", |_| Situation::InTime(Estimate::Unknown), all([0, 400])),
            ("in time at best", |_| Situation::InTime(Estimate::UpperBound), all([0, 200])),
            ("in time", |_| Situation::InTime(Estimate::Rate), all(within)),
            ("too late", |schedule| Situation::TooLate { schedule, rate: 1000.0 }, too_late),
        ];
        for (name, situate, expected) in table {
            for (lang, [earliest, latest]) in LANGS.into_iter().zip(expected) {
                let [from, to] = answers(situate, lang, 1500);
                let is_right = (earliest..=earliest + 10).contains(&from) && to <= latest && to + 10 >= latest;
                assert!(is_right, "{name}, {lang}: from {from} to {to} ms, not {earliest} to {latest}");
            }
        }
    }

    #[test]
    fn what_little_time_is_left_is_not_divided() {
        let queued: Situate = |_| Situation::Queued { rate_is_known: false };
        let too_late: Situate = |schedule| Situation::TooLate { schedule, rate: 1000.0 };
        for lang in ["go", "rust", ".NET", "java", "other"] {
            assert_eq!(answers(queued, lang, 20), [20, 20], "{lang}");
            assert_eq!(answers(too_late, lang, 20), [0, 0], "{lang}");
        }
    }

    /// How many of `count` clients come back in each half second, if each is refused when it is told to.
    fn back(count: usize, wait: Duration, left: Duration, rate: f64) -> Vec<usize> {
        let (mut schedule, now, mut rng) = (RetrySchedule::default(), Instant::now(), fastrand::Rng::with_seed(3));
        let mut halves = vec![0; 16];
        for _ in 0..count {
            let (keep, _) = schedule.schedule(now, wait, left, rate, &mut rng);
            assert!(keep <= left);
            halves[((keep + wait).as_millis() / 500) as usize] += 1;
        }
        halves
    }

    #[test]
    fn they_come_back_as_fast_as_they_can_be_served_and_no_faster() {
        let halves = back(1500, 2000 * MS, 1500 * MS, 1000.0);
        assert_eq!(halves[..4], [0; 4], "nobody is back before 2 s");
        let expected = [800, 500, 200];
        assert!(halves[4..7].iter().zip(expected).all(|(&n, m)| n.abs_diff(m) < 20), "{halves:?}");
    }

    #[test]
    fn too_many_are_spread_evenly() {
        let halves = back(30_000, 2000 * MS, 1500 * MS, 1000.0);
        assert!(halves[4..7].iter().all(|n| (8_500..11_500).contains(n)), "{halves:?}");
    }

    #[test]
    fn who_is_back_at_once_is_kept_while_others_fill_the_queue() {
        let halves = back(100, 2 * MS, 4000 * MS, 1000.0);
        assert_eq!(halves[7] + halves[8], 100, "{halves:?}");
    }

    #[test]
    fn what_is_cancelled_is_free_again() {
        let (mut schedule, now, mut rng) = (RetrySchedule::default(), Instant::now(), fastrand::Rng::with_seed(3));
        for _ in 0..10_000 {
            let (keep, scheduled_retry) = schedule.schedule(now, 2000 * MS, 1500 * MS, 100.0, &mut rng);
            assert!(keep <= 100 * MS, "{keep:?}");
            schedule.cancel(scheduled_retry);
        }
    }

    /// Another process, on another clock, chooses the same moments.
    #[test]
    fn another_process_goes_on_with_the_schedule() {
        for (scheduled, ms) in [(0, 0), (1, 50), (500, 1), (30_000, 1234), (30_000, 99), (3000, 9_999)] {
            let (mut old, began, mut rng) = (RetrySchedule::default(), Instant::now(), fastrand::Rng::with_seed(3));
            for _ in 0..scheduled {
                old.schedule(began, 2000 * MS, 1500 * MS, 1000.0, &mut rng);
            }
            let (now, there) = (began + ms * MS, began + 1_000_000 * MS);
            let text = serde_json::to_string(&old.remembered(now)).unwrap();
            let mut new = RetrySchedule::recalled(serde_json::from_str(&text).unwrap(), there);
            for n in 0..2000 {
                let later = n * MS / 2;
                let (mut rng, mut same_rng) = (fastrand::Rng::with_seed(n.into()), fastrand::Rng::with_seed(n.into()));
                let (was, _) = old.schedule(now + later, 2000 * MS, 1500 * MS, 1000.0, &mut rng);
                let (is, _) = new.schedule(there + later, 2000 * MS, 1500 * MS, 1000.0, &mut same_rng);
                assert!(was.abs_diff(is) <= Duration::from_micros(1), "{scheduled}, {ms} ms, {n}: {was:?} and {is:?}");
            }
        }
    }

    #[test]
    fn a_schedule_that_is_made_up_does_no_harm() {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(3));
        let made_up = RememberedSchedule { into_span: Duration::MAX.into(), expected: vec![u32::MAX; 100_000] };
        let mut schedule = RetrySchedule::recalled(made_up, now);
        for n in 0..10_000 {
            let (keep, retry) = schedule.schedule(now + n * MS, 2000 * MS, 1500 * MS, 1000.0, &mut rng);
            assert!(keep <= 1500 * MS);
            schedule.cancel(retry);
        }
    }

    #[test]
    fn what_is_past_is_forgotten() {
        let (mut schedule, mut now, mut rng) = (RetrySchedule::default(), Instant::now(), fastrand::Rng::with_seed(3));
        for _ in 0..1000 {
            now += Duration::from_millis(77);
            for _ in 0..5 {
                let (keep, _) = schedule.schedule(now, 2000 * MS, 1500 * MS, 1000.0, &mut rng);
                assert!(keep <= 200 * MS, "all are back as early as can be: {keep:?}");
            }
        }
        now += Duration::from_secs(1000);
        assert!(schedule.schedule(now, 2000 * MS, 1500 * MS, 1.0, &mut rng).0 <= 200 * MS);
    }
}
