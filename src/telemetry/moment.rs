//! A moment in eight bytes: sessions keep several, and endpoints show them as the time of day.

use std::{
    sync::{LazyLock, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::telemetry::process::STARTED;

/// A moment since the process began, in nanoseconds of the monotonic clock. A process that has taken over from another
/// one counts from where that one did, so that moments mean the same in both.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// One moment on all clocks.
struct Origin {
    instant: Instant,
    monotonic: Duration,
    time_of_day: SystemTime,
}

static ORIGIN: LazyLock<Origin> = LazyLock::new(|| {
    let (instant, monotonic) = (Instant::now(), duration(clock_gettime(ClockId::Monotonic)));
    let own = Origin { time_of_day: *STARTED, instant, monotonic };
    let earlier = EARLIER.get().map(|&earlier| monotonic.saturating_sub(earlier));
    let moved = earlier.and_then(|age| {
        let time_of_day = own.time_of_day.checked_sub(age)?;
        Some(Origin { time_of_day, instant: instant.checked_sub(age)?, monotonic: monotonic.saturating_sub(age) })
    });
    moved.unwrap_or(own)
});

/// The origin of another process, by the monotonic clock.
static EARLIER: OnceLock<Duration> = OnceLock::new();

fn duration(time: Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// From where moments count, by the monotonic clock of the machine.
pub fn origin() -> Duration {
    ORIGIN.monotonic
}

/// Moments count from there, where another process began. To be called before anybody asks for a moment.
pub fn count_from(origin: Duration) {
    let _ = EARLIER.set(origin);
}

impl Moment {
    pub fn now() -> Self {
        Instant::now().into()
    }

    /// Now by a clock that ticks every few milliseconds, and costs less to read than the precise one.
    pub fn now_coarse() -> Self {
        let now = duration(clock_gettime(ClockId::MonotonicCoarse));
        Self::after(now.saturating_sub(ORIGIN.monotonic))
    }

    fn after(since_origin: Duration) -> Self {
        Self(u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX))
    }

    /// From its value; see [`Moment::raw`].
    pub fn from_raw(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the process began.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// How much later it is than `earlier`; zero where it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time of day. A clock that was set since weir began does not move it.
    pub fn time_of_day(self) -> SystemTime {
        ORIGIN.time_of_day.checked_add(Duration::from_nanos(self.0)).unwrap_or(ORIGIN.time_of_day)
    }
}

impl From<Moment> for Instant {
    fn from(moment: Moment) -> Self {
        ORIGIN.instant.checked_add(Duration::from_nanos(moment.0)).unwrap_or(ORIGIN.instant)
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        Self::after(instant.saturating_duration_since(ORIGIN.instant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_tell_the_same_time() {
        let before = Moment::now();
        let coarse = Moment::now_coarse();
        // The coarse clock is behind by a tick of the kernel at most: 10 ms where it ticks 100 times a second.
        assert!(coarse.since(before) < Duration::from_secs(60));
        assert!(before.since(coarse) <= Duration::from_millis(10), "{before:?} {coarse:?}");
    }

    #[test]
    fn the_time_of_day_follows_the_moment() {
        let (now, day) = (Moment::now(), SystemTime::now());
        let apart = day.duration_since(now.time_of_day()).unwrap_or_else(|err| err.duration());
        assert!(apart < Duration::from_secs(60), "{apart:?}");
        let later = Moment::from_raw(now.raw() + 1_500_000_000);
        assert_eq!(later.since(now), Duration::from_millis(1500));
        assert_eq!(now.since(later), Duration::ZERO);
        assert_eq!(later.time_of_day().duration_since(now.time_of_day()).unwrap(), Duration::from_millis(1500));
    }
}
