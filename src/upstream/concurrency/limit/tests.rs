//! The limit against servers of every speed: it finds what they can do, and follows when that changes.

use super::*;
use crate::upstream::concurrency::baseline::BaselineLatency;

/// A server whose `cores` share the work of all handshakes in flight. Each handshake takes `work` on a core of its
/// own, and `wire` for everything else.
struct SharedCores {
    work: Duration,
    wire: Duration,
    cores: f64,
}

impl SharedCores {
    fn takes(&self, in_flight: u32) -> Duration {
        self.wire + self.work.mul_f64((f64::from(in_flight) / self.cores).max(1.0))
    }

    /// Handshakes in flight below which a core would idle between one handshake and the next.
    fn needs(&self) -> u32 {
        (self.cores * (self.wire + self.work).as_secs_f64() / self.work.as_secs_f64()).ceil() as u32
    }
}

/// Keeps the server as busy as the limit allows for `seconds`; returns the lowest and the highest limit of the
/// second half.
fn run(
    limit: &mut ConcurrencyLimit,
    baseline: &mut BaselineLatency,
    server: &SharedCores,
    late: Duration,
    now: &mut Instant,
    seconds: f64,
) -> (u32, u32) {
    let (start, mut seen) = (*now, Vec::new());
    while now.duration_since(start).as_secs_f64() < seconds {
        let in_flight = limit.limit();
        let took = server.takes(in_flight) + late;
        *now += took / in_flight;
        let expected = baseline.record(*now, took, late, in_flight == 1);
        limit.finished(*now, took, expected, in_flight);
        if now.duration_since(start).as_secs_f64() > seconds / 2.0 {
            seen.push(limit.limit());
        }
    }
    (*seen.iter().min().unwrap(), *seen.iter().max().unwrap())
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn every_server_is_given_what_it_needs_and_little_more() {
    for (work, cores) in [(200, 2.0), (200, 16.0), (50, 1.0), (4, 0.7), (4, 1.0), (4, 2.0), (4, 8.0), (2, 64.0)] {
        let (mut limit, mut baseline, mut now) =
            (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
        let server = SharedCores { work: work * MS, wire: Duration::from_micros(300), cores };
        let (least, most) = run(&mut limit, &mut baseline, &server, Duration::ZERO, &mut now, 30.0);
        let needs = server.needs();
        assert!((needs..=2 * needs + 1).contains(&least) && most <= 2 * needs + 2, "{least} to {most} of {needs}");
    }
}

#[test]
fn slow_logins_never_take_so_long_that_clients_give_up() {
    for (work, cores) in [(110, 2.0), (220, 2.0), (333, 2.0), (333, 1.0), (333, 8.0), (500, 4.0)] {
        let (mut limit, mut baseline, mut now) =
            (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
        let server = SharedCores { work: work * MS, wire: Duration::from_micros(300), cores };
        limit.timed_out();
        for _ in 0..600 {
            let most = run(&mut limit, &mut baseline, &server, Duration::ZERO, &mut now, 0.1).1;
            let takes = server.takes(most);
            assert!(takes <= 2 * server.takes(1) + MS, "{takes:?} of {work} ms with {most} on {cores} cores");
        }
    }
}

#[test]
fn cheap_logins_are_not_held_up() {
    for late in [0, 5] {
        let (mut limit, mut baseline, mut now) =
            (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
        let server = SharedCores { work: MS / 4, wire: MS, cores: 2.0 };
        let (least, _) = run(&mut limit, &mut baseline, &server, late * MS, &mut now, 2.0);
        // That weir is late is no waiting at the server, but the server must not idle meanwhile.
        let needs = SharedCores { wire: MS + late * MS, ..server }.needs();
        assert!(least >= needs, "{least} of {needs}");
    }
}

#[test]
fn it_follows_a_server_that_slows_down_and_recovers() {
    let (mut limit, mut baseline, mut now) = (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
    for work in [2, 40, 2] {
        let server = SharedCores { work: work * MS, wire: MS / 2, cores: 2.0 };
        let (least, most) = run(&mut limit, &mut baseline, &server, Duration::ZERO, &mut now, 10.0);
        assert!(least >= 2, "{least} where a login takes {work} ms");
        assert!(server.takes(most) <= 4 * server.takes(1), "{most} where a login takes {work} ms");
    }
}

#[test]
fn a_slow_kind_is_not_a_slow_server() {
    let (mut limit, mut now) = (ConcurrencyLimit::default(), Instant::now());
    let (mut plain, mut callout) = (BaselineLatency::default(), BaselineLatency::default());
    for n in 0..2000u32 {
        let (baseline, took) = if n % 2 == 0 { (&mut plain, 1) } else { (&mut callout, 100) };
        let took = Duration::from_millis(took);
        now += took / limit.limit();
        let expected = baseline.record(now, took, Duration::ZERO, true);
        limit.finished(now, took, expected, limit.limit());
    }
    assert_eq!(limit.limit(), MAX_LIMIT);
}

#[test]
fn what_is_not_used_is_not_kept() {
    let (mut limit, mut now) = (ConcurrencyLimit::default(), Instant::now());
    let quick = Duration::from_millis(1);
    for _ in 0..2000 {
        now += quick;
        limit.finished(now, quick, quick, limit.limit());
    }
    assert_eq!(limit.limit(), MAX_LIMIT);
    for _ in 0..600 {
        now += Duration::from_millis(100);
        limit.finished(now, quick, quick, 1);
    }
    assert!(limit.limit() <= MIN_LIMIT * 4, "{}", limit.limit());
}

#[test]
fn timeouts_halve_it() {
    let mut limit = ConcurrencyLimit { limit: 64.0, ..ConcurrencyLimit::default() };
    limit.timed_out();
    assert_eq!(limit.limit(), 32);
}

/// Handshakes that take what they expected, whatever the limit: says where it ends.
fn grows_to(cpu: f64, cores: u32, read_every: Duration) -> u32 {
    let (mut limit, mut now, mut read_at) = (ConcurrencyLimit::default(), Instant::now(), None::<Instant>);
    let took = Duration::from_millis(10);
    for _ in 0..4000 {
        if read_at.is_none_or(|at| now.duration_since(at) >= read_every) {
            limit.read_cpu(now, cpu, cores);
            read_at = Some(now);
        }
        now += took;
        limit.finished(now, took, took, limit.limit());
    }
    limit.limit()
}

#[test]
fn busy_cores_only_end_growth_and_only_while_they_are_known_to_be() {
    let second = Duration::from_secs(1);
    assert_eq!(grows_to(3.9, 4, second), 8);
    assert_eq!(grows_to(3.0, 4, second), MAX_LIMIT);
    assert_eq!(grows_to(3.9, 0, second), MAX_LIMIT, "it does not say how many it has");
    assert_eq!(grows_to(3.9, 4, 30 * second), MAX_LIMIT, "an old reading says nothing");
    let mut grown = ConcurrencyLimit { limit: 100.0, growing_windows: 0, ..ConcurrencyLimit::default() };
    let (now, took) = (Instant::now(), Duration::from_millis(10));
    grown.read_cpu(now, 4.0, 4);
    for _ in 0..1000 {
        grown.finished(now, took, took, 100);
    }
    assert_eq!(grown.limit(), 100, "they may be busy with something else");
}

#[test]
fn what_others_make_up_does_no_lasting_harm() {
    let (mut limit, mut now) = (ConcurrencyLimit::default(), Instant::now());
    let (took, most) = (10 * MS, u64::MAX as f64 / 1000.0);
    let all = [0.0, 1.0, most];
    let mut before = Shown::default();
    for seconds in all {
        for ratios in all {
            for (finished, timed_out) in [(0, 0), (1, u64::MAX), (u64::MAX, 0)] {
                let shown = Shown { finished, ratios, unbounded_ratios: ratios, seconds, timed_out };
                limit.heard(now, &shown, &before, u32::MAX, most);
                limit.finished(now, took, took, u32::MAX);
                (before, now) = (shown, now + MS);
                assert!((1..=MAX_LIMIT).contains(&limit.limit()));
            }
        }
    }
    assert!(limit.mean_time().is_none_or(|mean| mean <= LONGEST_HEARD));
    for _ in 0..100 {
        now += took;
        limit.finished(now, took, took, limit.limit());
    }
    assert!(limit.mean_time().unwrap() < 11 * MS && limit.limit() > 50, "{:?}, {}", limit.mean_time(), limit.limit());
}

#[test]
fn a_limit_that_has_followed_those_of_others_does_not_grow_again_by_the_same_handshakes() {
    let (now, mut limit) = (Instant::now(), ConcurrencyLimit::default());
    let finish = |limit: &mut ConcurrencyLimit| limit.finished(now, 10 * MS, 20 * MS, 4);
    finish(&mut limit);
    let shown = limit.shown();
    (0..50).for_each(|_| limit.heard(now, &shown, &shown, 4, 4.0));
    let followed = limit.exact();
    assert!((3.5..4.0).contains(&followed), "{followed}");
    (0..7).for_each(|_| finish(&mut limit));
    assert_eq!(limit.exact(), followed, "the window began with a limit of 1");
    (0..8).for_each(|_| finish(&mut limit));
    assert_eq!(limit.exact(), followed * 2.0, "the next one began with it");
}

#[test]
fn what_is_overdue_follows_the_quicker_logins() {
    let (mut limit, now) = (ConcurrencyLimit::default(), Instant::now());
    assert_eq!(limit.overdue_after(), LEAST_OVERDUE);
    limit.finished_overdue(Duration::from_secs(3));
    assert_eq!(limit.overdue_after(), Duration::from_secs(12), "it may be what a login takes there");
    for _ in 0..6 {
        limit.finished(now, MS, MS, 1);
    }
    assert_eq!(limit.overdue_after(), LEAST_OVERDUE, "there are quicker ones");
    limit.finished_overdue(Duration::from_secs(3));
    assert!(limit.overdue_after() < Duration::from_millis(500), "{:?}", limit.overdue_after());
    for _ in 0..200 {
        limit.finished(now, 300 * MS, 300 * MS, 1);
    }
    assert!(limit.overdue_after() > Duration::from_secs(1), "the server has become slower");
}
