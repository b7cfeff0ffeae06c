//! Which groups of connections look like a leak: they only grow. A group is all connections of a name, a user or a
//! source.

use std::time::Duration;

use crate::growth::{Confidence, Growth, History, Look};

/// Fewer connections more than at the beginning are no leak yet.
const LEAST: f64 = 10.0;
/// A leak is seen to grow so many times its error.
const LEAST_CERTAINTY: f64 = 3.0;

/// A group that only grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leak {
    /// Connections more than at the beginning.
    pub grown: u32,
    /// The time that was looked at.
    pub over: Duration,
    pub per_minute: f64,
    pub confidence: Confidence,
}

/// The leak that a group's connections look like, over the longest time that shows one.
///
/// The group hardly ever falls, and it grows in the beginning, in the middle and at the end of that time: a rollout or
/// a storm brings many connections and is over then, and what comes and goes is no leak however much of it there is.
pub fn leak(history: &History) -> Option<Leak> {
    let [minutes, hour, hours] = history.looks();
    let [in_minutes, in_hour] = [minutes.clone(), hour.clone()].map(Growth::of);
    // Hours are no proof that it goes on.
    let goes_on = |longer: &(Leak, Growth), shorter: &[Option<Growth>]| {
        shorter.iter().flatten().all(|growth| growth.agrees_with(&longer.1))
    };
    let in_hours = look(hours).filter(|found| goes_on(found, &[in_hour, in_minutes]));
    let in_hour = look(hour).filter(|found| goes_on(found, &[in_minutes]));
    let longest = [in_hour, in_hours].into_iter().flatten().max_by_key(|(leak, _)| leak.over);
    Some(longest.or_else(|| look(minutes))?.0)
}

fn look(look: Look<impl ExactSizeIterator<Item = f64> + Clone>) -> Option<(Leak, Growth)> {
    let growth = Growth::of(look.clone()).filter(|growth| growth.certainty() >= LEAST_CERTAINTY)?;
    let confidence = growth.confidence()?;
    let means = look.means;
    let (mut rises, mut falls) = (0.0, 0.0);
    for (before, after) in means.clone().zip(means.clone().skip(1)) {
        rises += (after - before).max(0.0);
        falls += (before - after).max(0.0);
    }
    let grown = rises - falls;
    if grown < LEAST || falls > rises / 10.0 {
        return None;
    }
    let third = means.len() / 3;
    let at = |n: usize| means.clone().nth(n).unwrap_or(0.0);
    let ends = [0, third, 2 * third, means.len() - 1].map(at);
    let in_each = ends.windows(2).all(|pair| (pair[1] - pair[0]) * 6.0 >= grown);
    let Growth { per_second, over, .. } = growth;
    let leak = Leak { grown: grown.round() as u32, over, per_minute: per_second * 60.0, confidence };
    in_each.then_some((leak, growth))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::growth::EVERY;

    fn history(samples: impl IntoIterator<Item = u32>) -> History {
        let (start, mut history) = (std::time::Instant::now(), History::default());
        for (n, count) in samples.into_iter().enumerate() {
            history.note(start + EVERY * n as u32, count);
        }
        history
    }

    fn samples_in(time: Duration) -> u32 {
        (time.as_secs() / EVERY.as_secs()) as u32
    }

    #[test]
    fn one_connection_a_second_is_a_leak_within_fifty_seconds() {
        let all = history((0..=10).map(|n| 3 + 5 * n));
        let leak = leak(&all).unwrap();
        let Leak { grown, over, per_minute, confidence } = leak;
        assert_eq!((grown, over.as_secs(), per_minute.round(), confidence), (45, 45, 60.0, Confidence::Low));
        assert_eq!(super::leak(&history((0..8).map(|n| 5 * n))), None, "35 seconds are not enough");
        let longer = super::leak(&history((0..200).map(|n| 5 * n))).unwrap();
        assert_eq!((longer.confidence, longer.over.as_secs()), (Confidence::High, 15 * 60));
    }

    #[test]
    fn a_slow_leak_is_found_in_the_hour() {
        // One in two minutes.
        let leak = leak(&history((0..=samples_in(Duration::from_secs(3660))).map(|n| 100 + n / 24))).unwrap();
        assert_eq!((leak.grown, leak.over.as_secs(), leak.confidence), (30, 3600, Confidence::High));
        assert!((leak.per_minute - 0.5).abs() < 0.05, "{leak:?}");
        // One in ten minutes.
        let slower = super::leak(&history((0..=samples_in(Duration::from_secs(6 * 3600))).map(|n| 100 + n / 120)));
        let slower = slower.unwrap();
        assert!(slower.over > Duration::from_secs(5 * 3600) && slower.grown >= 30, "{slower:?}");
        assert!((slower.per_minute - 0.1).abs() < 0.01, "{slower:?}");
    }

    #[test]
    fn a_rollout_that_is_over_and_clients_that_come_and_go_are_no_leak() {
        let rollout = |at: u32| (100 + 10 * at).min(400);
        assert!(leak(&history((0..=29).map(rollout))).is_some(), "while it goes on it looks like one");
        assert_eq!(leak(&history((0..=60).map(rollout))), None, "and no more two minutes later");
        let storm = (0..40).map(|n| if n == 0 { 0 } else { 5000 });
        assert_eq!(leak(&history(storm)), None);
        let busy = (0..40).map(|n| 5 * n + if n % 2 == 0 { 30 } else { 0 });
        assert_eq!(leak(&history(busy)), None, "a third of them leave again");
        let stopped = (0..=720u32).map(|n| n.min(600));
        assert_eq!(leak(&history(stopped)), None, "it has not grown for ten minutes");
        assert_eq!(leak(&history([5; 300])), None);
        assert_eq!(leak(&history((0..300).map(|n| n / 60))), None, "five in 25 minutes");
    }

    proptest! {
        #[test]
        fn what_a_leak_says_is_true(samples in prop::collection::vec(0u32..2000, 0..900)) {
            let mut sorted = samples.clone();
            sorted.sort_unstable();
            for samples in [samples, sorted] {
                let history = history(samples.clone());
                if let Some(leak) = leak(&history) {
                    let first = samples.len() - 1 - samples_in(leak.over) as usize;
                    prop_assert!(f64::from(leak.grown) >= LEAST && leak.per_minute > 0.0);
                    prop_assert!(first < samples.len());
                }
            }
        }

        /// Clients that live for a while and are replaced: no leak, however many there are.
        #[test]
        fn a_turnover_is_no_leak(seed in any::<u64>(), level in 20u32..300) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut now = level;
            let samples: Vec<u32> = (0..200).map(|_| {
                let left = (0..now).filter(|_| rng.f64() < 0.05).count() as u32;
                let came = (0..level).filter(|_| rng.f64() < 0.05).count() as u32;
                now = now - left + came;
                now
            }).collect();
            prop_assert_eq!(leak(&history(samples)), None);
        }

        /// A leak of any rate beside a turnover of a few is found within ten minutes.
        #[test]
        fn a_leak_is_found(seed in any::<u64>(), per_step in 1.0f64..20.0) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (start, mut history) = (std::time::Instant::now(), History::default());
            let mut now = 50u32;
            let found = (0..120).any(|n| {
                now += per_step as u32 + u32::from(rng.f64() < per_step.fract());
                history.note(start + EVERY * n, now);
                leak(&history).is_some()
            });
            prop_assert!(found);
        }
    }
}
