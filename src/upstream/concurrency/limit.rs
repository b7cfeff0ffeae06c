//! How many handshakes one server is given at a time: as many as it finishes without making them wait.
//!
//! Nobody tells weir what a login costs: it is a millisecond without a password and 200 ms with bcrypt, on that machine, this
//! minute. But a server that is given more logins than it has room for makes each take longer. So the limit follows the ratio
//! of what a handshake should take (from its account's floor, see [`BaselineLatency`](super::floor::BaselineLatency)) to what it does take: it shrinks by that
//! ratio where there is waiting, grows by half its root where there is none, and doubles once there has clearly been none for a while, as
//! at the beginning. A timeout halves it.
//! The gradient is that of Netflix' concurrency-limits and Envoy's adaptive concurrency filter, with a floor of its own for each
//! kind of login, since a slow kind is not a slow server.

use std::time::{Duration, Instant};

/// Where every server starts, to find out what a handshake takes alone, and below which no limit falls. Servers that share cores with
/// others are busy with one each, and whatever they have more makes messages and other logins wait.
const LEAST: u32 = 1;
/// No limit rises above this. At 1 ms to 100 ms a handshake it allows 2,560 to 256,000 logins a second.
pub const MOST: u32 = 256;
/// What a limit that shrinks is given back, so that it does not shrink for ever: half a handshake.
const SHY: f64 = 0.5;
/// Samples that make a decision, at least, and the time after which fewer do. While a limit doubles, twice the limit is enough.
const WINDOW: u32 = 8;
const LONGEST_WINDOW: Duration = Duration::from_millis(500);
/// After so many windows without a sign of waiting a limit doubles.
const CALM: u32 = 4;
/// Where handshakes take as long as this, a limit that doubles is wrong for so long that clients give up meanwhile. So there it doubles only
/// where they could take this many times longer and still take what they should.
const LONG: Duration = Duration::from_millis(50);
const CLEARLY: f64 = 1.3;
/// A server that has finished a handshake within this, or was idle, is about to finish the next.
const LIVELY: Duration = Duration::from_millis(50);
/// From this part of its cores a server is at its limit by its own reading, for as long as a reading lasts.
const CORES_BUSY: f64 = 0.9;
const CORES_BUSY_FOR: Duration = Duration::from_secs(3);
/// With so many handshakes for each of its busy cores, a server is not given more at a time.
const HANDSHAKES_PER_CORE: u32 = 2;
/// A limit that has not been used for this long is halved: what the server could do then it need not be able to do now.
const UNUSED: Duration = Duration::from_secs(5);

/// The controller of one server.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    limit: f64,
    /// Windows in a row without a sign of waiting.
    calm: u32,
    samples: u32,
    /// Of the window's samples: what they should have taken over what they took, summed up, each at most 1.
    ratios: f64,
    /// The same, however quick they were.
    slack: f64,
    window_began: Option<Instant>,
    /// Most handshakes in flight since the window began.
    peak: u32,
    used_at: Option<Instant>,
    /// What handshakes have taken lately, smoothed.
    lately: Option<Duration>,
    /// When it last finished a handshake, or was given one while it had none.
    lively_at: Option<Instant>,
    /// All its cores were busy then, and how many it has.
    cores_busy: Option<(Instant, u32)>,
}

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        Self {
            limit: f64::from(LEAST),
            calm: CALM,
            samples: 0,
            ratios: 0.0,
            slack: 0.0,
            window_began: None,
            peak: 0,
            used_at: None,
            lately: None,
            lively_at: None,
            cores_busy: None,
        }
    }
}

impl ConcurrencyLimit {
    /// How many handshakes the server may be given at a time.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Logins a second that the server finishes at least: as if it had never more than two at a time.
    pub fn logins_per_second(&self) -> Option<f64> {
        self.lately.map(|lately| 2.0 / lately.as_secs_f64().max(1e-6))
    }

    /// Until when it counts as one that finishes handshakes quickly one after another; `None` while it has been given none.
    pub fn lively_until(&self) -> Option<Instant> {
        self.lively_at.map(|at| at + LIVELY)
    }

    /// An idle server is given a handshake. Nothing says yet that it is slow: without this the first of a few servers to finish its first
    /// handshake would be given the next ones as well.
    pub fn began(&mut self, now: Instant) {
        self.lively_at = Some(now);
    }

    /// The server says that it uses so much `cpu` (1.0 is one core) of its `cores`. A second signal only: it keeps the limit from
    /// growing, where the floor is not known and handshakes seem to take what they should. It lowers nothing, since the cores
    /// may be busy with messages; and a server that shares its cores with others never says so of itself.
    pub fn cores(&mut self, now: Instant, cpu: f64, cores: u32) {
        self.cores_busy = (cores > 0 && cpu >= CORES_BUSY * f64::from(cores)).then_some((now, cores));
    }

    /// The limit may not grow beyond this.
    fn most(&self, now: Instant) -> f64 {
        match self.cores_busy {
            Some((at, cores)) if now.saturating_duration_since(at) < CORES_BUSY_FOR => {
                self.limit.max(f64::from(cores.saturating_mul(HANDSHAKES_PER_CORE)))
            }
            _ => f64::from(MOST),
        }
    }

    /// A handshake is over that `should` not take longer than that. `in_flight` is how many there were, itself included.
    pub fn finished(&mut self, now: Instant, took: Duration, should: Duration, in_flight: u32) {
        let lately = self.lately.map_or(took, |lately| lately.mul_f64(0.9) + took.mul_f64(0.1));
        self.lately = Some(lately);
        self.lively_at = Some(now);
        let ratio = should.as_secs_f64() / took.as_secs_f64().max(1e-6);
        self.ratios += ratio.min(1.0);
        self.slack += ratio;
        self.samples += 1;
        self.peak = self.peak.max(in_flight);
        let began = *self.window_began.get_or_insert(now);
        let window = if self.calm >= CALM { WINDOW.min(2 * self.limit()) } else { WINDOW };
        let enough = self.samples >= window.max(self.limit() / 2);
        if !enough && now.saturating_duration_since(began) < LONGEST_WINDOW {
            return;
        }
        let ratio = self.ratios / f64::from(self.samples);
        let saturated = self.peak * 2 >= self.limit();
        if ratio < 0.9 {
            self.calm = 0;
            self.set(self.limit * ratio.max(0.5) + SHY);
        } else if saturated {
            // A limit that nobody reaches says nothing about what the server can do.
            let is_clear = lately < LONG || self.slack >= CLEARLY * f64::from(self.samples);
            let doubles = self.calm >= CALM && is_clear;
            let grown = if doubles { self.limit * 2.0 } else { self.limit + self.limit.sqrt() / 2.0 };
            self.calm += 1;
            self.set(grown.min(self.most(now)));
        }
        if saturated {
            self.used_at = Some(now);
        } else if now.saturating_duration_since(*self.used_at.get_or_insert(now)) >= UNUSED {
            self.used_at = Some(now);
            self.set(self.limit / 2.0);
            self.calm = CALM;
        }
        self.window_began = None;
        self.samples = 0;
        (self.ratios, self.slack) = (0.0, 0.0);
        self.peak = 0;
    }

    /// A handshake did not end in time.
    pub fn timed_out(&mut self) {
        self.calm = 0;
        self.set(self.limit / 2.0);
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(f64::from(LEAST), f64::from(MOST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::concurrency::baseline::BaselineLatency;

    /// A server with `cores` that share the work of all handshakes in flight, each of which takes `work` alone on a core, and `wire`
    /// beside it.
    struct Shared {
        work: Duration,
        wire: Duration,
        cores: f64,
    }

    impl Shared {
        fn takes(&self, in_flight: u32) -> Duration {
            self.wire + self.work.mul_f64((f64::from(in_flight) / self.cores).max(1.0))
        }

        /// With fewer in flight a core would idle between one handshake and the next.
        fn needs(&self) -> u32 {
            (self.cores * (self.wire + self.work).as_secs_f64() / self.work.as_secs_f64()).ceil() as u32
        }
    }

    /// Keeps the server as busy as the limit allows for so long; returns the limits seen in the second half.
    fn run(
        concurrency_limit: &mut ConcurrencyLimit,
        floor: &mut BaselineLatency,
        server: &Shared,
        late: Duration,
        now: &mut Instant,
        seconds: f64,
    ) -> (u32, u32) {
        let (start, mut seen) = (*now, Vec::new());
        while now.duration_since(start).as_secs_f64() < seconds {
            let in_flight = concurrency_limit.limit();
            let took = server.takes(in_flight) + late;
            *now += took / in_flight;
            let should = floor.record(*now, took, late, in_flight == 1);
            concurrency_limit.finished(*now, took, should, in_flight);
            if now.duration_since(start).as_secs_f64() > seconds / 2.0 {
                seen.push(concurrency_limit.limit());
            }
        }
        (*seen.iter().min().unwrap(), *seen.iter().max().unwrap())
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn every_server_is_given_what_it_needs_and_little_more() {
        for (work, cores) in [(200, 2.0), (200, 16.0), (50, 1.0), (4, 0.7), (4, 1.0), (4, 2.0), (4, 8.0), (2, 64.0)] {
            let (mut concurrency_limit, mut floor, mut now) =
                (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
            let server = Shared { work: work * MS, wire: Duration::from_micros(300), cores };
            let (least, most) = run(&mut concurrency_limit, &mut floor, &server, Duration::ZERO, &mut now, 30.0);
            let needs = server.needs();
            assert!((needs..=2 * needs + 1).contains(&least) && most <= 2 * needs + 2, "{least} to {most} of {needs}");
        }
    }

    #[test]
    fn slow_logins_never_take_so_long_that_clients_give_up() {
        for (work, cores) in [(110, 2.0), (220, 2.0), (333, 2.0), (333, 1.0), (333, 8.0), (500, 4.0)] {
            let (mut concurrency_limit, mut floor, mut now) =
                (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
            let server = Shared { work: work * MS, wire: Duration::from_micros(300), cores };
            concurrency_limit.timed_out();
            for _ in 0..600 {
                let most = run(&mut concurrency_limit, &mut floor, &server, Duration::ZERO, &mut now, 0.1).1;
                let takes = server.takes(most);
                assert!(takes <= 2 * server.takes(1) + MS, "{takes:?} of {work} ms with {most} on {cores} cores");
            }
        }
    }

    #[test]
    fn cheap_logins_are_not_held_up() {
        for late in [0, 5] {
            let (mut concurrency_limit, mut floor, mut now) =
                (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
            let server = Shared { work: MS / 4, wire: MS, cores: 2.0 };
            let (least, _) = run(&mut concurrency_limit, &mut floor, &server, late * MS, &mut now, 2.0);
            // What weir is late is no waiting of theirs, but the server must not idle meanwhile.
            let needs = Shared { wire: MS + late * MS, ..server }.needs();
            assert!(least >= needs, "{least} of {needs}");
        }
    }

    #[test]
    fn it_follows_a_server_that_slows_down_and_recovers() {
        let (mut concurrency_limit, mut floor, mut now) =
            (ConcurrencyLimit::default(), BaselineLatency::default(), Instant::now());
        for work in [2, 40, 2] {
            let server = Shared { work: work * MS, wire: MS / 2, cores: 2.0 };
            let (least, most) = run(&mut concurrency_limit, &mut floor, &server, Duration::ZERO, &mut now, 10.0);
            assert!(least >= 2, "{least} where a login takes {work} ms");
            assert!(server.takes(most) <= 4 * server.takes(1), "{most} where a login takes {work} ms");
        }
    }

    #[test]
    fn a_slow_kind_is_not_a_slow_server() {
        let (mut concurrency_limit, mut now) = (ConcurrencyLimit::default(), Instant::now());
        let (mut plain, mut callout) = (BaselineLatency::default(), BaselineLatency::default());
        for n in 0..2000u32 {
            let (floor, took) = if n % 2 == 0 { (&mut plain, 1) } else { (&mut callout, 100) };
            let took = Duration::from_millis(took);
            now += took / concurrency_limit.limit();
            let should = floor.record(now, took, Duration::ZERO, true);
            concurrency_limit.finished(now, took, should, concurrency_limit.limit());
        }
        assert_eq!(concurrency_limit.limit(), MOST);
    }

    #[test]
    fn what_is_not_used_is_not_kept() {
        let (mut concurrency_limit, mut now) = (ConcurrencyLimit::default(), Instant::now());
        let quick = Duration::from_millis(1);
        for _ in 0..2000 {
            now += quick;
            concurrency_limit.finished(now, quick, quick, concurrency_limit.limit());
        }
        assert_eq!(concurrency_limit.limit(), MOST);
        for _ in 0..600 {
            now += Duration::from_millis(100);
            concurrency_limit.finished(now, quick, quick, 1);
        }
        assert!(concurrency_limit.limit() <= LEAST * 4, "{}", concurrency_limit.limit());
    }

    #[test]
    fn timeouts_halve_it() {
        let mut concurrency_limit = ConcurrencyLimit { limit: 64.0, ..ConcurrencyLimit::default() };
        concurrency_limit.timed_out();
        assert_eq!(concurrency_limit.limit(), 32);
    }

    /// Handshakes that take what they should, whatever the limit: says where it ends.
    fn grows_to(cpu: f64, cores: u32, read_every: Duration) -> u32 {
        let (mut concurrency_limit, mut now, mut read_at) =
            (ConcurrencyLimit::default(), Instant::now(), None::<Instant>);
        let took = Duration::from_millis(10);
        for _ in 0..4000 {
            if read_at.is_none_or(|at| now.duration_since(at) >= read_every) {
                concurrency_limit.cores(now, cpu, cores);
                read_at = Some(now);
            }
            now += took;
            concurrency_limit.finished(now, took, took, concurrency_limit.limit());
        }
        concurrency_limit.limit()
    }

    #[test]
    fn busy_cores_only_end_growth_and_only_while_they_are_known_to_be() {
        let second = Duration::from_secs(1);
        assert_eq!(grows_to(3.9, 4, second), 8);
        assert_eq!(grows_to(3.0, 4, second), MOST);
        assert_eq!(grows_to(3.9, 0, second), MOST, "it does not say how many it has");
        assert_eq!(grows_to(3.9, 4, 30 * second), MOST, "an old reading says nothing");
        let mut grown = ConcurrencyLimit { limit: 100.0, calm: 0, ..ConcurrencyLimit::default() };
        let (now, took) = (Instant::now(), Duration::from_millis(10));
        grown.cores(now, 4.0, 4);
        for _ in 0..1000 {
            grown.finished(now, took, took, 100);
        }
        assert_eq!(grown.limit(), 100, "they may be busy with something else");
    }
}
