//! How full something is, in three levels: each is told once when it is reached and once when it is left, and not again
//! and again while the count goes up and down around it.

use std::time::{Duration, Instant};

/// A level is left once the count is below it by this part of the limit, at least by one.
const BAND: f64 = 0.02;
/// And only once it has stayed there for this long: a server that restarts its clients one after another is not empty.
const LEFT_AFTER: Duration = Duration::from_secs(10);
/// The second level, as a part of the limit.
const NINETY: f64 = 0.9;

/// How full it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, strum::IntoStaticStr, strum::VariantArray,
)]
pub enum Level {
    /// `warn_at` of the limit.
    #[serde(rename = "warn_at")]
    #[strum(serialize = "warn_at")]
    WarnAt,
    /// 90 % of the limit.
    #[serde(rename = "90%")]
    #[strum(serialize = "90%")]
    Ninety,
    /// It takes no more.
    #[serde(rename = "full")]
    #[strum(serialize = "full")]
    Full,
}

impl Level {
    /// 1 to 3.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// From which count on each level holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    warn_at: u32,
    ninety: u32,
    full: u32,
    band: u32,
}

impl Thresholds {
    /// Of something that may have `most` connections, of which `fillable` may be filled: the rest is a reserve. Where
    /// the reserve begins below a level, the levels are parts of what may be filled, so that they come before it is
    /// full.
    pub fn new(most: u32, fillable: u32, warn_at: f64) -> Self {
        let part = |of: u32, share: f64| (f64::from(of) * share).ceil() as u32;
        let of = if part(most, NINETY.max(warn_at)) < fillable { most } else { fillable };
        let band = (f64::from(most) * BAND) as u32;
        Self { warn_at: part(of, warn_at), ninety: part(of, NINETY), full: fillable, band: band.max(1) }
    }

    fn level(&self, n: u32) -> Option<Level> {
        // With a `warn_at` above 90 % that is the only level before it is full.
        let ninety = self.ninety.max(self.warn_at.saturating_add(1));
        let levels = [(Level::Full, self.full), (Level::Ninety, ninety), (Level::WarnAt, self.warn_at)];
        levels.into_iter().find(|&(_, from)| n >= from).map(|(level, _)| level)
    }
}

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has reached this level, or another one above it was told before.
    Rose(Level),
    /// It has left a level; `None` is below all of them.
    Fell(Option<Level>),
}

/// How full one thing is, as told so far.
#[derive(Debug, Clone, Default)]
pub struct Fullness {
    told: Option<Level>,
    /// Since when it has been at a level.
    since: Option<Instant>,
    /// Since when it has been below the level that was told, and the highest that it was since then.
    below: Option<(Instant, Option<Level>)>,
}

impl Fullness {
    /// The level that was told last.
    pub fn level(&self) -> Option<Level> {
        self.told
    }

    /// Since when it has been at a level, however high.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Takes in how many there are now. Returns what is to be told.
    pub fn look(&mut self, now: Instant, n: u32, thresholds: &Thresholds) -> Option<Change> {
        let reached = thresholds.level(n);
        if reached > self.told {
            self.told = reached;
            self.since.get_or_insert(now);
            self.below = None;
            return reached.map(Change::Rose);
        }
        let kept = thresholds.level(n.saturating_add(thresholds.band)).min(self.told);
        if kept == self.told {
            self.below = None;
            return None;
        }
        let (since, highest) = self.below.get_or_insert((now, kept));
        *highest = kept.max(*highest);
        if now.saturating_duration_since(*since) < LEFT_AFTER {
            return None;
        }
        self.told = *highest;
        self.below = None;
        if self.told.is_none() {
            self.since = None;
        }
        Some(Change::Fell(self.told))
    }
}

/// Something that is in order or not, told only once it has been so for a while.
#[derive(Debug, Clone, Default)]
pub struct Outage {
    /// Since when it is out of order, where that was told.
    told: Option<Instant>,
    /// Since when it is otherwise than told.
    otherwise: Option<Instant>,
}

/// What is to be told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageChange {
    Began,
    /// It lasted for so long.
    Over(Duration),
}

impl Outage {
    /// A change is told once it has lasted for this long.
    const LASTS: Duration = Duration::from_secs(2);

    /// Whether it is out of order, as told.
    pub fn is_on(&self) -> bool {
        self.told.is_some()
    }

    /// Takes in whether it is out of order now. Returns what is to be told.
    pub fn look(&mut self, now: Instant, is_out: bool) -> Option<OutageChange> {
        if is_out == self.told.is_some() {
            self.otherwise = None;
            return None;
        }
        let since = *self.otherwise.get_or_insert(now);
        if now.saturating_duration_since(since) < Self::LASTS {
            return None;
        }
        self.otherwise = None;
        match self.told.take() {
            Some(began) => Some(OutageChange::Over(since.saturating_duration_since(began))),
            None => {
                self.told = Some(since);
                Some(OutageChange::Began)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is told of these counts, one a second.
    fn told(thresholds: &Thresholds, counts: impl IntoIterator<Item = u32>) -> Vec<Change> {
        let (start, mut fullness) = (Instant::now(), Fullness::default());
        let looks = counts.into_iter().enumerate();
        looks.filter_map(|(n, count)| fullness.look(start + SECOND * n as u32, count, thresholds)).collect()
    }

    fn constant(n: u32) -> impl Iterator<Item = u32> {
        std::iter::repeat_n(n, 30)
    }

    #[test]
    fn each_level_is_told_once_per_rise_and_again_after_a_fall() {
        let hundred = Thresholds::new(100, 98, 0.8);
        let filling = || (0..=100).chain(constant(100));
        let rises = [Level::WarnAt, Level::Ninety, Level::Full].map(Change::Rose);
        assert_eq!(told(&hundred, filling()), rises);
        let again = told(&hundred, filling().chain(constant(10)).chain(filling()));
        assert_eq!(again, [&rises[..], &[Change::Fell(None)], &rises].concat());
        let slowly = told(&hundred, filling().chain(constant(92)).chain(constant(80)).chain(constant(77)));
        let falls = [Some(Level::Ninety), Some(Level::WarnAt), None].map(Change::Fell);
        assert_eq!(slowly, [rises, falls].concat());
        assert_eq!(told(&hundred, [0, 98]), [Change::Rose(Level::Full)], "what it has passed is not told");
    }

    #[test]
    fn a_large_reserve_hides_no_level() {
        let half = Thresholds::new(100, 50, 0.8);
        let rises = [Level::WarnAt, Level::Ninety, Level::Full].map(Change::Rose);
        assert_eq!(told(&half, 0..=50), rises);
        assert_eq!((half.warn_at, half.ninety, half.full), (40, 45, 50));
        let late = Thresholds::new(100, 100, 1.0);
        assert_eq!(told(&late, 0..=100), [Change::Rose(Level::Full)]);
        let one = Thresholds::new(1, 1, 0.8);
        assert_eq!(told(&one, [0, 1, 0, 1, 0, 1]), [Change::Rose(Level::Full)]);
    }

    fn any_thresholds() -> impl Strategy<Value = Thresholds> {
        (1..5000_u32, 0.01..=1.0_f64, 0.01..=1.0_f64)
            .prop_map(|(most, part, warn_at)| Thresholds::new(most, ((f64::from(most) * part) as u32).max(1), warn_at))
    }

    proptest! {
        /// Levels are told in turn: after a rise to a level the same level is told only once it has been left, and from
        /// being left to being told again it was below for `LEFT_AFTER`.
        #[test]
        fn no_level_flaps(thresholds in any_thresholds(), steps in prop::collection::vec((0..6000_u32, 1..20_000_u64), 1..400)) {
            let (mut now, mut fullness) = (Instant::now(), Fullness::default());
            let mut rose_at: [Option<Instant>; 3] = [None; 3];
            let mut level = None;
            for (n, ms) in steps {
                now += Duration::from_millis(ms);
                match fullness.look(now, n, &thresholds) {
                    Some(Change::Rose(to)) => {
                        prop_assert!(Some(to) > level && n >= thresholds.warn_at.min(thresholds.full));
                        let before = rose_at[to as usize].replace(now);
                        prop_assert!(before.is_none_or(|before| now - before >= LEFT_AFTER));
                        level = Some(to);
                    }
                    Some(Change::Fell(to)) => {
                        prop_assert!(to < level);
                        level = to;
                    }
                    None => {}
                }
                prop_assert_eq!(fullness.level(), level);
                prop_assert!(thresholds.level(n) <= level, "what is reached is told at once");
                prop_assert_eq!(fullness.since().is_some(), level.is_some());
            }
        }

        /// A count that stays within the band around a boundary is told at most once.
        #[test]
        fn nothing_flaps_at_a_boundary(thresholds in any_thresholds(), offsets in prop::collection::vec(any::<bool>(), 1..300)) {
            for at in [thresholds.warn_at, thresholds.ninety, thresholds.full] {
                let counts = offsets.iter().map(|&is_over| if is_over { at } else { at.saturating_sub(1) });
                let all = told(&thresholds, counts);
                prop_assert!(all.len() <= 2, "{:?}: one level may be at the count, and one just below: {:?}", thresholds, all);
                prop_assert!(all.iter().all(|change| matches!(change, Change::Rose(_))));
            }
        }

        /// Whatever it was before, a count that lasts is told in the end.
        #[test]
        fn what_lasts_is_told(thresholds in any_thresholds(), before in prop::collection::vec(0..6000_u32, 0..50), last in 0..6000_u32) {
            let (start, mut fullness) = (Instant::now(), Fullness::default());
            let counts = before.into_iter().chain(constant(last));
            for (n, count) in counts.enumerate() {
                fullness.look(start + SECOND * n as u32, count, &thresholds);
            }
            let level = fullness.level();
            prop_assert!(level >= thresholds.level(last));
            prop_assert!(level <= thresholds.level(last + thresholds.band));
        }

        /// Beginning and end are told in turn, each at most every two seconds.
        #[test]
        fn outages_begin_and_end_in_turn(looks in prop::collection::vec((any::<bool>(), 1..5000_u64), 1..300)) {
            let (mut now, mut outage, mut told_at) = (Instant::now(), Outage::default(), None::<Instant>);
            let mut is_on = false;
            for (is_out, ms) in looks {
                now += Duration::from_millis(ms);
                if let Some(change) = outage.look(now, is_out) {
                    prop_assert_eq!(matches!(change, OutageChange::Began), !is_on);
                    prop_assert!(told_at.is_none_or(|at| now - at >= Outage::LASTS));
                    (is_on, told_at) = (!is_on, Some(now));
                }
                prop_assert_eq!(outage.is_on(), is_on);
            }
        }
    }

    #[test]
    fn a_server_that_is_away_for_a_moment_is_no_outage() {
        let (start, mut outage) = (Instant::now(), Outage::default());
        let mut look = |second: u32, is_out| outage.look(start + SECOND * second, is_out);
        assert_eq!((look(0, true), look(1, true), look(2, false)), (None, None, None));
        assert_eq!((look(3, true), look(4, true), look(5, true)), (None, None, Some(OutageChange::Began)));
        assert_eq!((look(60, false), look(61, true), look(62, true)), (None, None, None));
        assert_eq!((look(63, false), look(65, false)), (None, Some(OutageChange::Over(SECOND * 60))));
    }
}
