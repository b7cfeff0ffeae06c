//! The handshake limit: how many handshakes one server is given at a time. It seeks the number that the server finishes
//! without making any of them wait.
//!
//! Nobody tells weir what a login costs: it is a millisecond without a password and 200 ms with bcrypt, on that
//! machine, this minute. But a server that is given more logins than it has room for takes longer for each. So the
//! limit follows the ratio of how long a handshake may take (its expected time, by the baseline of its account, see
//! [`BaselineLatency`](super::baseline::BaselineLatency)) to how long it took. A ratio of 1 or more means no waiting.
//!
//! Ratios are collected in windows of some handshakes. At the end of a window:
//!
//! | the window shows | the limit becomes |
//! |---|---|
//! | waiting: the mean ratio is below 0.9 | `limit × ratio + 0.5`, the ratio at least 0.5 |
//! | no waiting, and at least half of the limit was in use | `limit + √limit / 2` |
//! | the same, and so did 4 windows before it | `limit × 2` (at 50 ms and more only with a margin of 1.3) |
//! | no waiting, less than half of the limit was in use | unchanged: nothing was learnt |
//! | less than half of the limit was in use for 5 s | `limit / 2`, and it may double again at once |
//!
//! A handshake that times out halves the limit at any time. The limit starts at 1, ready to double.
//!
//! A handshake that is [overdue](ConcurrencyLimit::overdue_after) counts no more among those under way: most likely the
//! server waits for somebody else, such as an auth callout, and other logins need not. It counts in a limit of its
//! account then ([`Account`](crate::admission)).
//!
//! In a fleet the limit is that of all weirs together: each takes in what the handshakes of the others have shown
//! ([`ConcurrencyLimit::heard`]) as if they were its own, and all limits drift to their mean, so that they stay one. A
//! window grows the limit that was in force when it began: a limit that has followed the others meanwhile would else
//! grow twice by the same handshakes.
//!
//! The gradient is that of Netflix' concurrency-limits and of Envoy's adaptive concurrency filter, with a baseline of
//! its own for each kind of login, since a slow kind is not a slow server.

mod remembered;

use std::time::{Duration, Instant};

pub use self::remembered::RememberedLimit;

/// The limit that a server starts with, and the lowest one. One handshake at a time shows how long a handshake takes
/// alone. A server that shares cores with others is busy with one, and each further one makes messages and other logins
/// wait.
const MIN_LIMIT: u32 = 1;
/// The highest limit. At 1 ms to 100 ms for a handshake it allows 256,000 to 2,560 logins a second.
pub const MAX_LIMIT: u32 = 256;

/// A window whose mean ratio is below this shows waiting.
const WAITING_BELOW: f64 = 0.9;
/// A window shrinks the limit to no less than this part of it.
const MIN_SHRINK: f64 = 0.5;
/// Added to the limit on every decrease, in handshakes. Without it, ratios slightly below 1 would drive the limit to 1.
const SHRINK_OFFSET: f64 = 0.5;
/// A window ends after this many handshakes (or half the limit, if that is more). While the limit doubles, twice the
/// limit is enough.
const WINDOW_SAMPLES: u32 = 8;
/// A window ends after this time in any case.
const MAX_WINDOW: Duration = Duration::from_millis(500);
/// The limit doubles after this many windows in a row that made it grow.
const WINDOWS_TO_DOUBLE: u32 = 4;
/// With handshakes as long as this, a limit that has doubled too far shows it so late that clients give up meanwhile.
/// So the limit then doubles only if handshakes could take [`DOUBLING_MARGIN`] times as long and still be within
/// expectation.
const SLOW_HANDSHAKE: Duration = Duration::from_millis(50);
const DOUBLING_MARGIN: f64 = 1.3;
/// A server that has finished a handshake within this time, or was idle, is about to finish the next one.
const FREES_UP_SOON_FOR: Duration = Duration::from_millis(50);
/// A server that uses this part of its cores, by its own reading, is saturated for as long as the reading is valid.
const CPU_SATURATED: f64 = 0.9;
const CPU_READING_VALID_FOR: Duration = Duration::from_secs(3);
/// The limit of a saturated server does not grow beyond this many handshakes for each of its cores.
const MAX_PER_SATURATED_CORE: u32 = 2;
/// A handshake is overdue after this at the earliest, and after this many times the server's typical time.
const LEAST_OVERDUE: Duration = Duration::from_millis(250);
const OVERDUE_TIMES_TYPICAL: u32 = 4;
/// The part of the difference by which the typical time falls to a quicker handshake, and rises to a slower one.
const TYPICAL_FALLS: f64 = 0.5;
const TYPICAL_RISES: f64 = 0.02;
/// The longest time of a login that is taken from another weir.
const LONGEST_HEARD: Duration = Duration::from_secs(10);
/// A limit that has not been used for this long is halved: the server may not be able any more to do what it did then.
const UNUSED_BEFORE_HALVING: Duration = Duration::from_secs(5);

/// In a fleet, the part of its difference to the mean of the others by which a limit moves to that mean each time that
/// another weir is heard of.
const DRIFT: f64 = 0.1;

/// What the handshakes of one weir have shown in all; the difference of two of these is what they have shown since.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shown {
    /// Handshakes that ended well in time.
    pub finished: u64,
    /// Sum of expected over actual time, each at most 1.
    pub ratios: f64,
    /// The same without that bound.
    pub unbounded_ratios: f64,
    /// Sum of the times that they took, in seconds.
    pub seconds: f64,
    /// Handshakes that did not end in time.
    pub timed_out: u64,
}

impl Shown {
    /// What was shown since `before`. Counts that are lower than before are those of another process.
    fn since(&self, before: &Self) -> Self {
        Self {
            finished: self.finished.saturating_sub(before.finished),
            ratios: (self.ratios - before.ratios).max(0.0),
            unbounded_ratios: (self.unbounded_ratios - before.unbounded_ratios).max(0.0),
            seconds: (self.seconds - before.seconds).max(0.0),
            timed_out: self.timed_out.saturating_sub(before.timed_out),
        }
    }
}

/// What the handshakes since the last decision have shown.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// The limit when it began.
    limit: f64,
    samples: u32,
    /// Sum of expected over actual time, each at most 1.
    ratios: f64,
    /// The same without that bound: how much longer the handshakes could have taken.
    unbounded_ratios: f64,
    /// The most handshakes in flight, and no more than [`MAX_LIMIT`]: other weirs may make up theirs.
    peak: u32,
}

impl Window {
    fn new(began: Instant, limit: f64) -> Self {
        Self { began, limit, samples: 0, ratios: 0.0, unbounded_ratios: 0.0, peak: 0 }
    }

    fn add(&mut self, took: Duration, expected: Duration, in_flight: u32) {
        let ratio = ratio(took, expected);
        self.ratios += ratio.min(1.0);
        self.unbounded_ratios += ratio;
        self.samples += 1;
        self.peak = self.peak.max(in_flight.min(MAX_LIMIT));
    }

    /// Adds what the handshakes of another weir have shown.
    fn add_shown(&mut self, samples: u32, shown: &Shown, in_flight: u32) {
        let each = f64::from(samples) / shown.finished as f64;
        self.ratios += (shown.ratios * each).min(samples.into());
        self.unbounded_ratios += shown.unbounded_ratios * each;
        self.samples += samples;
        self.peak = self.peak.max(in_flight.min(MAX_LIMIT));
    }

    fn mean_ratio(&self) -> f64 {
        self.ratios / f64::from(self.samples)
    }

    /// Whether handshakes could take [`DOUBLING_MARGIN`] times as long and still be within expectation.
    fn has_margin(&self) -> bool {
        self.unbounded_ratios >= DOUBLING_MARGIN * f64::from(self.samples)
    }
}

fn ratio(took: Duration, expected: Duration) -> f64 {
    expected.as_secs_f64() / took.as_secs_f64().max(1e-6)
}

/// The controller of one server.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    limit: f64,
    /// Windows in a row that made the limit grow.
    growing_windows: u32,
    window: Option<Window>,
    /// When at least half of the limit was last in use.
    used_at: Option<Instant>,
    /// How long handshakes have taken lately (exponentially weighted mean).
    mean_time: Option<Duration>,
    /// How long the quicker kinds of handshakes take: it falls fast and rises slowly, so that a slow kind does not set
    /// it where there is a quicker one.
    typical_time: Option<Duration>,
    /// When the server last finished a handshake, or was given one while it had none.
    active_at: Option<Instant>,
    /// When a reading last showed the server saturated, and how many cores it has.
    saturated: Option<(Instant, u32)>,
    /// What the handshakes of this weir have shown, for the others.
    shown: Shown,
    /// The ratio that those have shown lately (exponentially weighted mean).
    own_ratio: f64,
}

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        Self {
            limit: f64::from(MIN_LIMIT),
            growing_windows: WINDOWS_TO_DOUBLE,
            window: None,
            used_at: None,
            mean_time: None,
            typical_time: None,
            active_at: None,
            saturated: None,
            shown: Shown::default(),
            own_ratio: 1.0,
        }
    }
}

impl ConcurrencyLimit {
    /// One that starts with this many instead.
    pub fn starting_at(limit: u32) -> Self {
        Self { limit: f64::from(limit.clamp(MIN_LIMIT, MAX_LIMIT)), ..Self::default() }
    }

    /// How long a handshake may be under way before it is overdue.
    pub fn overdue_after(&self) -> Duration {
        LEAST_OVERDUE.max(self.typical_time.unwrap_or_default() * OVERDUE_TIMES_TYPICAL)
    }

    /// Whether a handshake has ended well.
    pub fn has_finished_any(&self) -> bool {
        self.typical_time.is_some()
    }

    /// An overdue handshake ended well after it `took` so long. It was not one of those that the limit is about.
    pub fn finished_overdue(&mut self, took: Duration) {
        self.note_time(took);
    }

    fn note_time(&mut self, took: Duration) {
        self.typical_time = Some(self.typical_time.map_or(took, |typical| {
            let weight = if took < typical { TYPICAL_FALLS } else { TYPICAL_RISES };
            typical.mul_f64(1.0 - weight) + took.mul_f64(weight)
        }));
    }

    /// What the handshakes of this weir have shown.
    pub fn shown(&self) -> Shown {
        self.shown
    }

    /// The limit with its fraction.
    pub fn exact(&self) -> f64 {
        self.limit
    }

    /// How long handshakes have taken lately; `None` before the first.
    pub fn mean_time(&self) -> Option<Duration> {
        self.mean_time
    }

    /// Another weir's handshakes have shown this by now; the last time that it told, they had shown `before`.
    /// `in_flight` handshakes were under way on the server meanwhile, all weirs together. The limits of the others are
    /// `mean` on average; a weir that has seen no handshake end takes that for its own.
    ///
    /// While this weir's own handshakes show waiting, nothing that others say makes the limit higher: what they say is
    /// not to be trusted that far.
    pub fn heard(&mut self, now: Instant, shown: &Shown, before: &Shown, in_flight: u32, mean: f64) {
        let (new, limit) = (shown.since(before), self.limit);
        // More would be no beat of a weir that follows the limit.
        for _ in 0..new.timed_out.min(u64::from(MAX_LIMIT)) {
            self.halve();
        }
        let mut window = self.window.take().unwrap_or_else(|| Window::new(now, self.limit));
        // Decisions stay as frequent as with handshakes of its own; what is left over begins the next window.
        let samples = u32::try_from(new.finished).unwrap_or(u32::MAX).min(MAX_LIMIT);
        if samples > 0 {
            let took = Duration::try_from_secs_f64(new.seconds / new.finished as f64).unwrap_or_default();
            // A time that is made up is forgotten after a few logins of weir's own.
            let took = took.min(self.mean_time.map_or(LONGEST_HEARD, |mean| 10 * mean)).min(LONGEST_HEARD);
            let mean_time = self.mean_time.map_or(took, |mean| mean.mul_f64(0.9) + took.mul_f64(0.1));
            self.mean_time = Some(mean_time);
            window.add_shown(samples, &new, in_flight);
        }
        match self.mean_time {
            Some(mean_time) if window.samples > 0 && self.is_over(now, &window) => self.decide(now, &window, mean_time),
            _ => self.window = Some(window).filter(|window| window.samples > 0),
        }
        let part = if self.has_finished_any() { DRIFT } else { 1.0 };
        self.set(self.limit + (mean - self.limit) * part);
        if self.own_ratio < WAITING_BELOW {
            self.limit = self.limit.min(limit);
        }
    }

    /// How many handshakes the server may be given at a time.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// A lower bound of the logins that the server finishes in a second: two at a time, each in the recent mean time.
    pub fn logins_per_second(&self) -> Option<f64> {
        self.mean_time.map(|mean| 2.0 / mean.as_secs_f64().max(1e-6))
    }

    /// Until when the server, if it is busy, counts as one that will not be busy for long. `None` before its first
    /// handshake.
    pub fn frees_up_soon_until(&self) -> Option<Instant> {
        self.active_at.map(|at| at + FREES_UP_SOON_FOR)
    }

    /// An idle server is given a handshake. Nothing says yet that the server is slow: without this call, the first of a
    /// few servers to finish its first handshake would be given the next ones as well.
    pub fn began_on_idle(&mut self, now: Instant) {
        self.active_at = Some(now);
    }

    /// Takes in a reading: the server uses `cpu` (1.0 is one core) of its `cores` (0 where it does not say). This
    /// signal only keeps the limit from growing, for the case that weir has taken too long a time for the baseline and
    /// so sees no waiting. It lowers nothing, since the cores may be busy with messages; and a server that shares its
    /// cores with other processes never shows as saturated by its own reading.
    pub fn read_cpu(&mut self, now: Instant, cpu: f64, cores: u32) {
        self.saturated = (cores > 0 && cpu >= CPU_SATURATED * f64::from(cores)).then_some((now, cores));
    }

    /// The limit does not grow beyond this.
    fn max_limit(&self, now: Instant) -> f64 {
        match self.saturated {
            Some((at, cores)) if now.saturating_duration_since(at) < CPU_READING_VALID_FOR => {
                self.limit.max(f64::from(cores.saturating_mul(MAX_PER_SATURATED_CORE)))
            }
            _ => f64::from(MAX_LIMIT),
        }
    }

    /// A handshake ended well. It `took` this long, and was `expected` to take no longer than that; `in_flight`
    /// handshakes were under way on the server, this one included.
    pub fn finished(&mut self, now: Instant, took: Duration, expected: Duration, in_flight: u32) {
        let mean_time = self.mean_time.map_or(took, |mean| mean.mul_f64(0.9) + took.mul_f64(0.1));
        self.mean_time = Some(mean_time);
        self.note_time(took);
        self.active_at = Some(now);
        let mut window = self.window.take().unwrap_or_else(|| Window::new(now, self.limit));
        window.add(took, expected, in_flight);
        let ratio = ratio(took, expected);
        self.own_ratio = self.own_ratio * 0.75 + ratio.min(1.0) * 0.25;
        self.shown.finished += 1;
        self.shown.ratios += ratio.min(1.0);
        self.shown.unbounded_ratios += ratio;
        self.shown.seconds += took.as_secs_f64();
        if self.is_over(now, &window) {
            self.decide(now, &window, mean_time);
        } else {
            self.window = Some(window);
        }
    }

    fn is_over(&self, now: Instant, window: &Window) -> bool {
        window.samples >= self.window_samples() || now.saturating_duration_since(window.began) >= MAX_WINDOW
    }

    /// After how many handshakes a window ends.
    fn window_samples(&self) -> u32 {
        let may_double = self.growing_windows >= WINDOWS_TO_DOUBLE;
        let least = if may_double { WINDOW_SAMPLES.min(2 * self.limit()) } else { WINDOW_SAMPLES };
        least.max(self.limit() / 2)
    }

    /// Sets the limit by what a window has shown, as in the table at the head of this file.
    fn decide(&mut self, now: Instant, window: &Window, mean_time: Duration) {
        let ratio = window.mean_ratio();
        let is_used = window.peak * 2 >= self.limit();
        if ratio < WAITING_BELOW {
            self.growing_windows = 0;
            self.set(self.limit * ratio.max(MIN_SHRINK) + SHRINK_OFFSET);
        } else if is_used {
            let may_double = self.growing_windows >= WINDOWS_TO_DOUBLE;
            let doubles = may_double && (mean_time < SLOW_HANDSHAKE || window.has_margin());
            // In a fleet the limit may have followed others that have grown by the same handshakes.
            let limit = window.limit.min(self.limit);
            let grown = if doubles { limit * 2.0 } else { limit + limit.sqrt() / 2.0 };
            self.growing_windows += 1;
            self.set(grown.max(self.limit).min(self.max_limit(now)));
        }
        if is_used {
            self.used_at = Some(now);
        } else if now.saturating_duration_since(*self.used_at.get_or_insert(now)) >= UNUSED_BEFORE_HALVING {
            self.used_at = Some(now);
            self.set(self.limit / 2.0);
            self.growing_windows = WINDOWS_TO_DOUBLE;
        }
    }

    /// A handshake did not end in time.
    pub fn timed_out(&mut self) {
        self.shown.timed_out += 1;
        self.halve();
    }

    fn halve(&mut self) {
        self.growing_windows = 0;
        self.set(self.limit / 2.0);
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(f64::from(MIN_LIMIT), f64::from(MAX_LIMIT));
    }
}

#[cfg(test)]
mod tests;
