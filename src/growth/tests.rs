//! What is a growth, and what is none.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The growth over means, 5 s each.
fn growth(means: &[u32]) -> Option<Growth> {
    Growth::of(Look { means: means.iter().map(|&n| f64::from(n)), every: EVERY })
}

/// A count, `every` so long.
fn sampled(every: Duration, counts: impl IntoIterator<Item = u32>) -> History {
    let (start, mut history) = (Instant::now(), History::default());
    for (n, count) in counts.into_iter().enumerate() {
        history.note(start + every * n as u32, count);
    }
    history
}

/// The growth after a sample in each second.
fn after(counts: impl IntoIterator<Item = u32>) -> Option<Growth> {
    sampled(SECOND, counts).growth()
}

fn confidence(growth: Option<Growth>) -> Option<Confidence> {
    growth?.confidence()
}

#[test]
fn a_steady_growth_is_measured_and_its_end_is_told() {
    let steady: Vec<u32> = (0..=60).map(|n| 100 + 5 * n).collect();
    let growth = growth(&steady).unwrap();
    assert!((growth.per_second - 1.0).abs() < 1e-9 && growth.over == Duration::from_secs(300));
    assert_eq!(growth.confidence(), Some(Confidence::High));
    let full = growth.reaches(1000.0, 400.0).unwrap();
    assert_eq!((full.at.as_secs(), full.confidence), (600, Confidence::High));
    assert!(full.earliest < full.at && full.at < full.latest && full.latest.as_secs() < 610, "{full:?}");
    assert_eq!(growth.reaches(300.0, 400.0).unwrap().at, Duration::ZERO, "it is past it");
    assert_eq!(growth.reaches(1e9, 400.0), None, "in thirty years");
}

#[test]
fn a_leak_of_one_a_second_is_measured_within_a_minute() {
    assert_eq!(after((0..45).map(|n| 100 + n)), None, "44 seconds say nothing");
    let growth = after((0..=60).map(|n| 100 + n)).unwrap();
    assert!((growth.per_second - 1.0).abs() < 1e-9, "{growth:?}");
    assert!(growth.confidence() >= Some(Confidence::Low));
    let full = growth.reaches(400.0, 160.0).unwrap();
    assert_eq!(full.at.as_secs(), 240);
    let longer = after((0..=70).map(|n| 100 + n)).unwrap();
    assert_eq!(longer.confidence(), Some(Confidence::Medium), "{longer:?}");
}

#[test]
fn a_slow_leak_among_noise_is_measured_within_hours() {
    let mut rng = fastrand::Rng::with_seed(7);
    let counts: Vec<u32> = (0..4 * 3600).map(|second| 1000 + second / 20 + rng.u32(0..40)).collect();
    let growth = after(counts).unwrap();
    assert!((growth.per_second - 0.05).abs() < 0.005, "{growth:?}");
    assert_eq!(growth.confidence(), Some(Confidence::High));
}

#[test]
fn a_leak_of_one_a_minute_takes_minutes_to_see_and_is_sure_after_half_an_hour() {
    let counts: Vec<u32> = (0..12 * 60).map(|n| 100 + n.min(12 * 40) / 12).collect();
    let mut seen = Vec::new();
    for minutes in (5..=40).step_by(5) {
        seen.push(confidence(sampled(EVERY, counts[..12 * minutes].iter().copied()).growth()));
    }
    assert!(seen[0] < Some(Confidence::Medium) && seen[6..] == [Some(Confidence::High); 2], "{seen:?}");
    let per_minute = sampled(EVERY, counts[..12 * 40].iter().copied()).growth().unwrap().per_second * 60.0;
    assert!((per_minute - 1.0).abs() < 0.1, "{per_minute}");
    assert_eq!(sampled(EVERY, counts).growth(), None, "it has stopped");
}

#[test]
fn a_leak_that_shows_in_no_two_minutes_is_sure_within_hours() {
    let growth = after((0..3 * 3600).map(|second| 100 + second / 600)).unwrap();
    assert!((growth.per_second * 600.0 - 1.0).abs() < 0.1, "{growth:?}");
    assert_eq!(growth.confidence(), Some(Confidence::High));
}

#[test]
fn what_stands_still_falls_or_has_few_samples_does_not_grow() {
    let falls: Vec<u32> = (0..=60).map(|n| 1000 - 5 * n).collect();
    assert_eq!(growth(&falls).unwrap().confidence(), None);
    assert_eq!(growth(&falls).unwrap().reaches(2000.0, 700.0), None);
    assert_eq!(growth(&[7; 61]).unwrap().confidence(), None);
    assert_eq!(growth(&[1, 2, 3, 4, 5, 6, 7, 8]), None);
    assert_eq!((after([70; 100]), after([70; 5000]), after([])), (None, None, None));
}

#[test]
fn a_crowd_that_comes_at_once_is_no_growth() {
    for at in [10, 30, 100, 1000] {
        let (start, mut history) = (Instant::now(), History::default());
        for second in 0..30_000 {
            history.note(start + SECOND * second, if second < at { 100 } else { 900 });
            // Only now and then, since each look takes all the samples.
            if second % 97 == 0 {
                assert_eq!(history.growth(), None, "step at {at}, seen at {second}");
            }
        }
    }
}

#[test]
fn a_crowd_that_comes_in_half_a_minute_is_no_sure_growth() {
    let (start, mut history) = (Instant::now(), History::default());
    for second in 0..3000_u32 {
        history.note(start + SECOND * second, 100 + 30 * second.saturating_sub(100).min(30));
        let seen = confidence(history.growth());
        assert!(seen < Some(Confidence::Medium), "seen at {second}: {seen:?}");
    }
    assert_eq!(history.growth(), None);
}

/// Its steps are alike, one to the next, which makes them say less: their spread alone would make this medium.
#[test]
fn a_crowd_that_came_for_a_minute_and_a_quarter_is_no_sure_growth() {
    let crowd = sampled(SECOND, (0..=305_u32).map(|second| 100 + 4 * second.saturating_sub(150).min(75)));
    let seen = confidence(crowd.growth());
    assert!(seen < Some(Confidence::Medium), "{seen:?}");
}

#[test]
fn the_last_minutes_end_a_growth_and_show_a_faster_one() {
    let rate = |per_second: f64, error: f64, over: u64| Some(Growth { per_second, error, over: SECOND * over as u32 });
    let hour = rate(1.0, 0.1, 3600);
    assert_eq!(Growth::present(rate(0.0, 0.1, 300), hour), None, "it has stopped");
    assert_eq!(Growth::present(rate(0.9, 0.6, 300), hour), hour, "the short look is not sure");
    assert_eq!(Growth::present(rate(9.0, 1.0, 300), hour), rate(9.0, 1.0, 300));
    assert_eq!(Growth::present(rate(1.1, 0.1, 300), hour), hour);
    assert_eq!(Growth::present(rate(1.1, 0.1, 300), rate(0.0, 0.1, 3600)), rate(1.1, 0.1, 300));
    assert_eq!(Growth::present(rate(1.1, 0.1, 300), None), rate(1.1, 0.1, 300));
    assert_eq!(Growth::present(None, None), None);
}

#[test]
fn who_comes_and_goes_is_no_growth() {
    let mut rng = fastrand::Rng::with_seed(7);
    let growth = after((0..600).map(|_| 500 + rng.u32(0..100)));
    assert_eq!(growth, None);
}

/// A count that wanders: each client leaves with the same chance, and as many come.
fn wandering(rng: &mut fastrand::Rng, sessions: u32, samples: usize, chance: f64) -> Vec<u32> {
    let mut now = sessions;
    let steps = (0..samples).map(|_| {
        let leave = (0..now).filter(|_| rng.f64() < chance).count() as u32;
        let come = (0..sessions).filter(|_| rng.f64() < chance).count() as u32;
        now = now - leave + come;
        now
    });
    steps.collect()
}

#[test]
fn what_only_wanders_is_seldom_taken_for_growth() {
    let mut rng = fastrand::Rng::with_seed(7);
    for (every, sessions, samples, chance) in [(EVERY, 200, 62, 0.02), (SECOND, 100, 310, 0.004)] {
        let mut look = |_| confidence(sampled(every, wandering(&mut rng, sessions, samples, chance)).growth());
        let looks: Vec<_> = (0..400).map(&mut look).collect();
        let any = looks.iter().flatten().count();
        let more = looks.iter().flatten().filter(|one| **one > Confidence::Low).count();
        // 2.3 and 0.13 of a hundred by chance alone.
        assert!(any <= 20 && more <= 3, "{any} and {more} of 400");
    }
}

#[test]
fn means_are_kept_of_each_length_and_no_more() {
    let history = sampled(SECOND, 0..200_000);
    let [minutes, hour, hours] = history.looks();
    let lengths = [minutes.means.len(), hour.means.len(), hours.means.len()];
    assert_eq!((lengths, minutes.every, hour.every, hours.every), ([61; 3], EVERY, SECOND * 60, SECOND * 360));
    // 199,999 s are over: 39,999 spans, 3333 minutes, 555 times six of them.
    assert_eq!(minutes.means.last(), Some(199_992.0));
    assert_eq!(hour.means.last(), Some(3332.0 * 60.0 + 29.5));
    assert_eq!(hours.means.last(), Some(554.0 * 360.0 + 179.5));
}

#[test]
fn samples_at_other_times_make_the_same_means() {
    // One in a second, in five, and late now and then.
    let of = |every_ms: u64, late_ms: u64| {
        let (start, mut history, mut now) = (Instant::now(), History::default(), Duration::ZERO);
        while now < Duration::from_secs(400) {
            history.note(start + now, (now.as_secs_f64() * 4.0).round() as u32);
            now += Duration::from_millis(every_ms + if now.as_secs().is_multiple_of(3) { late_ms } else { 0 });
        }
        history.growth().unwrap()
    };
    for growth in [of(1000, 0), of(5000, 0), of(5000, 40), of(1000, 300), of(300, 0)] {
        assert!((growth.per_second - 4.0).abs() < 0.05, "{growth:?}");
        assert_eq!(growth.confidence(), Some(Confidence::High));
    }
}

#[test]
fn after_a_long_gap_all_begins_anew() {
    let (start, mut history) = (Instant::now(), History::default());
    for second in 0..100 {
        history.note(start + SECOND * second, second);
    }
    assert!(history.growth().is_some());
    assert!(history.note(start + SECOND * 100 + LONG * 2, 5000));
    assert_eq!((history.growth(), history.looks()[0].means.len()), (None, 0));
}

proptest! {
    /// Poisson-like arrivals at a rate are found, and the forecast holds the true time in most cases.
    #[test]
    fn a_noisy_growth_is_found(seed in any::<u64>(), per_step in 3.0f64..30.0) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = 50u32;
        let samples: Vec<u32> = (0..61).map(|_| {
            now += (0..100).filter(|_| rng.f64() < per_step / 100.0).count() as u32;
            now
        }).collect();
        let growth = growth(&samples).unwrap();
        prop_assert!(growth.confidence() >= Some(Confidence::Medium), "{growth:?}");
        prop_assert!((growth.per_second - per_step / 5.0).abs() <= 6.0 * growth.error, "{growth:?}");
        let forecast = growth.reaches(10_000.0, now.into()).unwrap();
        prop_assert!(forecast.earliest <= forecast.at && forecast.at <= forecast.latest);
    }

    /// Any straight line that rises is found, at any distances between the samples and from any height.
    #[test]
    fn a_line_is_found(per_second in -20.0..20.0_f64, from in 0.0..1e6_f64, ms in 200..5000_u64) {
        let (start, mut history) = (Instant::now(), History::default());
        let from = from + 40_000.0;
        let mut passed = Duration::ZERO;
        while passed < Duration::from_secs(320) {
            history.note(start + passed, (from + per_second * passed.as_secs_f64()) as u32);
            passed += Duration::from_millis(ms);
        }
        let found = history.growth().map_or(0.0, |growth| growth.per_second);
        // Counts are whole numbers, and what falls is not told.
        prop_assert!((found - per_second.max(0.0)).abs() < 0.1, "{found} instead of {per_second}");
    }

    /// Whatever the samples, the numbers are numbers.
    #[test]
    fn any_samples_give_numbers(samples in prop::collection::vec((0..10_000_u64, any::<u32>()), 0..300)) {
        let (mut now, mut history) = (Instant::now(), History::default());
        for (ms, n) in samples {
            now += Duration::from_millis(ms);
            history.note(now, n);
            for growth in history.looks().into_iter().filter_map(Growth::of).chain(history.growth()) {
                prop_assert!(growth.per_second.is_finite() && growth.error > 0.0 && growth.error.is_finite());
                if let Some(forecast) = growth.reaches(f64::from(u32::MAX), n.into()) {
                    prop_assert!(forecast.earliest <= forecast.at && forecast.at <= forecast.latest);
                }
            }
        }
    }
}
