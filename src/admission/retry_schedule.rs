//! When clients that cannot be served in time are refused: so that they come back spread over the time to come as the servers
//! can take them, neither in step nor while others fill the queue.
//!
//! Most libraries come back a known time after a refusal ([`super::returns`]). So the moment of the refusal is an scheduled_retry:
//! the earliest one that is not taken, among those that the client's own patience allows; when all are, the least taken. It comes back a
//! moment before, so that the servers always have somebody who waits.

use std::time::{Duration, Instant};

/// RetrySchedule are made for spans of this length.
const SPAN: Duration = Duration::from_millis(100);
/// How far ahead: the longest return is 5 s, the longest hold 19 s.
const SPANS: usize = 256;

/// So long before its span a client is back. Were it back in it, servers that are a little quicker than foretold would have nobody, and
/// the last clients would be back later by as much: 5 % of a storm of 6 s.
const EARLY: Duration = Duration::from_millis(300);

/// The span in which a client's turn is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledRetry(u64);

/// Whose turn is expected when.
#[derive(Debug)]
pub struct RetrySchedule {
    began: Option<Instant>,
    /// The span that runs, counted from the beginning.
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

    /// Forgets what is past.
    fn turn_to(&mut self, now: Instant) {
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

    /// Makes an scheduled_retry for a client that comes back `wait` after it is refused, can be kept for `left`, and whose turn does
    /// not come before that; the servers take `pace` clients a second. Returns how long to keep it first.
    pub fn schedule(
        &mut self,
        now: Instant,
        wait: Duration,
        left: Duration,
        pace: f64,
        rng: &mut fastrand::Rng,
    ) -> (Duration, ScheduledRetry) {
        self.turn_to(now);
        let room = (pace * SPAN.as_secs_f64()).max(f64::MIN_POSITIVE);
        let last = self.span(now + wait + left + EARLY).min(self.now + SPANS as u64 - 1);
        // Until then those that are there now keep the servers busy.
        let first = now + wait.max(left);
        let (first, first_early) = (self.span(first).min(last), self.span(first + EARLY).min(last));
        let expected = |span: u64| self.expected[(span % SPANS as u64) as usize];
        let free = (first..=last).find(|&span| f64::from(expected(span)) < room);
        // The latest of the least: the longer it is kept, the fewer tries it needs. Those of the first spans are all back at once.
        let span = free.or_else(|| (first_early..=last).rev().min_by_key(|&span| expected(span))).unwrap_or(last);
        self.expected[(span % SPANS as u64) as usize] += 1;
        let began = self.began.unwrap_or(now);
        let back = began + SPAN.saturating_mul(u32::try_from(span).unwrap_or(u32::MAX)) + SPAN.mul_f64(rng.f64());
        (back.saturating_duration_since(now + wait + EARLY).min(left), ScheduledRetry(span))
    }

    /// A client is not refused after all.
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

    /// How many of `count` clients come back in each half second, if each is refused when it is told to.
    fn back(count: usize, wait: Duration, left: Duration, pace: f64) -> Vec<usize> {
        let (mut book, now, mut rng) = (RetrySchedule::default(), Instant::now(), fastrand::Rng::with_seed(3));
        let mut halves = vec![0; 16];
        for _ in 0..count {
            let (keep, _) = book.schedule(now, wait, left, pace, &mut rng);
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
        let (mut book, now, mut rng) = (RetrySchedule::default(), Instant::now(), fastrand::Rng::with_seed(3));
        for _ in 0..10_000 {
            let (keep, scheduled_retry) = book.schedule(now, 2000 * MS, 1500 * MS, 100.0, &mut rng);
            assert!(keep <= 100 * MS, "{keep:?}");
            book.cancel(scheduled_retry);
        }
    }

    #[test]
    fn what_is_past_is_forgotten() {
        let (mut book, mut now, mut rng) = (RetrySchedule::default(), Instant::now(), fastrand::Rng::with_seed(3));
        for _ in 0..1000 {
            now += Duration::from_millis(77);
            for _ in 0..5 {
                let (keep, _) = book.schedule(now, 2000 * MS, 1500 * MS, 1000.0, &mut rng);
                assert!(keep <= 200 * MS, "all are back as early as can be: {keep:?}");
            }
        }
        now += Duration::from_secs(1000);
        assert!(book.schedule(now, 2000 * MS, 1500 * MS, 1.0, &mut rng).0 <= 200 * MS);
    }
}
