//! The baseline: how long a handshake of one kind takes when the server has nothing else to do.
//!
//! The baseline falls at once to a quicker handshake. It rises in two ways only, and only by uncontended handshakes,
//! those with no other under way on their server: to the least of the last period of 60 s, or at once to the least of a
//! streak of slow ones. In a storm that lasts longer than a period, even the quickest contended handshake takes longer
//! than one alone; a baseline that followed would let more and more of them in at a time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{lapse::Lapse, upstream::concurrency::usual::UsualLatency};

/// Where the time that a handshake took is measured from. A handshake on a connection that was dialled before its
/// client came is a round trip quicker, so it is a kind of its own, with its own baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredFrom {
    /// The dial; CONNECT goes with it or behind it.
    Dial,
    /// CONNECT, on a connection that was open before.
    Connect,
    /// The dial of the WebSocket port: two more round trips, with TLS three or four.
    WebSocketDial,
}

impl MeasuredFrom {
    pub const ALL: [Self; 3] = [Self::Dial, Self::Connect, Self::WebSocketDial];
}

/// Uncontended handshakes in a row that took longer than expected.
#[derive(Debug, Clone, Copy)]
struct SlowStreak {
    least: Duration,
    count: u32,
    /// When the first of them ended.
    since: Instant,
}

/// The measurement for one kind of login.
#[derive(Debug, Default, Clone, Copy)]
pub struct BaselineLatency {
    current: Option<Duration>,
    /// The least of the uncontended handshakes in this period; it replaces `current` when the period ends.
    period_least: Option<Duration>,
    period_began: Option<Instant>,
    /// An uncontended handshake has been measured.
    is_of_one_alone: bool,
    /// `None` since the last handshake that took no longer than expected.
    slow: Option<SlowStreak>,
}

/// A baseline as another process recalls it. A streak of slow handshakes is not among it: it begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RememberedBaseline {
    current: Option<Lapse>,
    period_least: Option<Lapse>,
    period_began: Option<Lapse>,
    is_of_one_alone: bool,
}

/// How long a handshake may take before it counts as one that had to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MayTake {
    /// By the handshakes of its account: for a limit of that account's own.
    pub own: Duration,
    /// Also by those of other accounts, while its own has no uncontended one: for the limit of its server.
    pub at_server: Duration,
}

/// A handshake may take this many times its baseline.
const TOLERANCE_FACTOR: f64 = 1.5;
/// A handshake may take at least this much longer than its baseline: a smaller difference is noise, not waiting.
const MIN_TOLERANCE: Duration = Duration::from_millis(2);
/// The tolerance beside the factor does not grow beyond this, however late weir is.
const MAX_TOLERANCE: Duration = Duration::from_millis(20);
/// Steps of a handshake that end only when weir gets to it: dialled, INFO, PONG. When weir's own tasks run late, each
/// step takes longer by that lag, and the tolerance grows by as much.
const STEPS: u32 = 3;
/// A streak of this many slow handshakes is no accident: the server has become slower, so the baseline rises.
const SLOW_STREAK: u32 = 8;
/// A shorter streak is enough when it has lasted for [`SHORT_STREAK_LASTS`]: slow logins vary less from one to the
/// next.
const SHORT_STREAK: u32 = 3;
const SHORT_STREAK_LASTS: Duration = Duration::from_secs(1);

/// A baseline that another weir tells counts for no shorter than this part of the own one.
const MOST_SHORTER: u32 = 4;

/// How long a handshake may take with this baseline, while weir's own tasks run `late` by this.
fn expected(baseline: Duration, late: Duration) -> Duration {
    baseline.mul_f64(TOLERANCE_FACTOR).max(baseline + (MIN_TOLERANCE + STEPS * late).min(MAX_TOLERANCE))
}

impl BaselineLatency {
    const PERIOD: Duration = Duration::from_secs(60);

    /// The baseline, where it is that of an uncontended handshake.
    pub fn measured_alone(&self) -> Option<Duration> {
        self.current.filter(|_| self.is_of_one_alone)
    }

    /// What was measured, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> RememberedBaseline {
        RememberedBaseline {
            current: self.current.map(Lapse::from),
            period_least: self.period_least.map(Lapse::from),
            period_began: self.period_began.map(|at| Lapse::since(at, now)),
            is_of_one_alone: self.is_of_one_alone,
        }
    }

    /// Goes on from what another process had measured at `then`, where nothing has been measured here.
    pub fn recall(&mut self, remembered: RememberedBaseline, then: Instant) {
        if self.current.is_none() {
            *self = Self {
                current: remembered.current.map(Lapse::duration),
                period_least: remembered.period_least.map(Lapse::duration),
                period_began: remembered.period_began.map(|ago| ago.before(then)),
                is_of_one_alone: remembered.is_of_one_alone,
                slow: None,
            };
        }
    }

    /// Another weir of the fleet has measured this. It counts where this weir has measured no uncontended handshake: in
    /// a storm through several weirs most have none for long, and the least of contended ones is too long. It counts
    /// for no less than a part of what this weir has measured, since nothing that others say is trusted further.
    pub fn heard(&mut self, least: Duration) {
        if !self.is_of_one_alone {
            self.current = self.current.map(|own| own.min(least.max(own / MOST_SHORTER)));
        }
    }

    /// As [`BaselineLatency::record`], for an account among others: while none of its handshakes has been uncontended,
    /// one counts as waiting at its server where it takes longer than is `usual`.
    pub fn record_beside(
        &mut self,
        usual: &UsualLatency,
        now: Instant,
        (took, late): (Duration, Duration),
        uncontended: bool,
    ) -> MayTake {
        let was_of_one_alone = self.is_of_one_alone;
        let own = self.record(now, took, late, uncontended);
        let at_server = match self.measured_alone() {
            // Where no account has been measured, what this one took shows no waiting, and no room for more either.
            None => own.min(usual.get().map_or(took, |usual| expected(usual, late))),
            Some(least) => {
                if !was_of_one_alone {
                    usual.measured(least);
                }
                own
            }
        };
        MayTake { own, at_server }
    }

    /// Records that a handshake `took` this long while weir's own tasks ran `late` by this much, and returns how long
    /// it may take before it counts as one that had to wait. `uncontended` says that no other handshake was under way
    /// on its server.
    pub fn record(&mut self, now: Instant, took: Duration, late: Duration, uncontended: bool) -> Duration {
        let period_began = *self.period_began.get_or_insert(now);
        if now.saturating_duration_since(period_began) >= Self::PERIOD {
            self.current = self.period_least.take().or(self.current);
            self.period_began = Some(now);
        }
        if uncontended {
            self.is_of_one_alone = true;
            self.period_least = Some(self.period_least.map_or(took, |least| least.min(took)));
        }
        if took <= self.current.map_or(took, |baseline| expected(baseline, late)) {
            self.slow = None;
        } else if uncontended {
            let slow = self.slow.get_or_insert(SlowStreak { least: took, count: 0, since: now });
            (slow.least, slow.count) = (slow.least.min(took), slow.count + 1);
            let lasted = now.saturating_duration_since(slow.since);
            if slow.count == SLOW_STREAK || slow.count >= SHORT_STREAK && lasted >= SHORT_STREAK_LASTS {
                let current = Some(slow.least);
                *self = Self { current, period_began: Some(now), is_of_one_alone: true, ..Self::default() };
            }
        }
        let baseline = self.current.map_or(took, |least| least.min(took));
        self.current = Some(baseline);
        expected(baseline, late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The baseline after one more handshake, while weir is not late.
    fn after(baseline: &mut BaselineLatency, now: Instant, took: Duration, uncontended: bool) -> Duration {
        baseline.record(now, took, Duration::ZERO, uncontended);
        baseline.current.unwrap()
    }

    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let (mut baseline, now) = (BaselineLatency::default(), Instant::now());
        assert_eq!(after(&mut baseline, now, 9 * MS, true), 9 * MS);
        assert_eq!(after(&mut baseline, now, MS, true), MS);
        for second in 1..200 {
            after(&mut baseline, now + Duration::from_secs(second), 15 * MS, true);
        }
        assert_eq!(after(&mut baseline, now + Duration::from_secs(200), 16 * MS, true), 15 * MS);
    }

    #[test]
    fn a_server_that_has_become_slower_is_found_out_soon() {
        let (mut baseline, now) = (BaselineLatency::default(), Instant::now());
        after(&mut baseline, now, 10 * MS, true);
        for _ in 1..SLOW_STREAK {
            assert_eq!(after(&mut baseline, now, 100 * MS, true), 10 * MS);
        }
        after(&mut baseline, now, 12 * MS, true);
        for n in 1..SLOW_STREAK {
            // Contended handshakes in between say nothing.
            after(&mut baseline, now, 900 * MS, false);
            assert_eq!(after(&mut baseline, now, (90 + n) * MS, true), 10 * MS);
        }
        assert_eq!(after(&mut baseline, now, 300 * MS, true), 91 * MS);
    }

    #[test]
    fn what_weir_is_late_is_not_the_servers_doing() {
        let may_take =
            |least: u32, late: u32| BaselineLatency::default().record(Instant::now(), least * MS, late * MS, true);
        assert_eq!([0, 1, 4, 6, 99].map(|late| may_take(1, late)), [3, 6, 15, 21, 21].map(|ms| ms * MS));
        assert_eq!([0, 1, 99].map(|late| may_take(100, late)), [150 * MS; 3]);
        let (mut baseline, now) = (BaselineLatency::default(), Instant::now());
        for n in 0..100 {
            assert_eq!(
                baseline.record(now, if n == 0 { MS } else { 20 * MS }, 7 * MS, true),
                21 * MS,
                "nor does it raise a baseline"
            );
        }
    }

    #[test]
    fn a_long_storm_does_not_raise_it() {
        let (mut baseline, now) = (BaselineLatency::default(), Instant::now());
        after(&mut baseline, now, MS, true);
        for second in 1..1000 {
            assert_eq!(after(&mut baseline, now + Duration::from_secs(second), 50 * MS, false), MS);
        }
    }

    #[test]
    fn another_process_expects_as_much() {
        let (mut now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(5));
        for handshakes in [0, 1, 10, 1000] {
            let (mut old, mut new) = (BaselineLatency::default(), BaselineLatency::default());
            let one = |rng: &mut fastrand::Rng| (rng.u32(1..60) * MS, rng.bool());
            for _ in 0..handshakes {
                now += rng.u32(0..400) * MS;
                let (took, alone) = one(&mut rng);
                old.record(now, took, Duration::ZERO, alone);
            }
            let mut there = now + Duration::from_secs(100_000);
            let text = serde_json::to_string(&old.remembered(now)).unwrap();
            new.recall(serde_json::from_str(&text).unwrap(), there);
            assert_eq!(old.measured_alone(), new.measured_alone());
            old.slow = None;
            for _ in 0..1000 {
                let (after, (took, alone)) = (rng.u32(0..400) * MS, one(&mut rng));
                (now, there) = (now + after, there + after);
                let expected = old.record(now, took, MS, alone);
                assert_eq!(expected, new.record(there, took, MS, alone));
            }
        }
        let mut baseline = BaselineLatency::default();
        baseline.recall(serde_json::from_str(r#"{"current":18446744073709551615}"#).unwrap(), now);
        assert!(baseline.record(now, MS, Duration::ZERO, false) < 10 * MS, "it falls at once");
    }
}
