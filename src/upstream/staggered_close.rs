//! Staggered close: when a server dies, its clients are closed one after another and not all at once, since most of
//! them come back as soon as they are closed. A single close does no harm and is never delayed.

use std::time::{Duration, Instant};

use crate::{lapse::Lapse, upstream::leaky_bucket::LeakyBucket};

/// This many closes may come at once, however slow the cluster is.
const BURST: f64 = 8.0;

/// Spaces the closes of clients whose server has ended their session, for the whole cluster.
#[derive(Debug)]
pub struct StaggeredClose {
    /// The longest delay of a close.
    spread: Duration,
    /// Closes whose clients the cluster, at its pace, has not taken back yet.
    recent: LeakyBucket,
}

impl StaggeredClose {
    pub fn new(spread: Duration) -> Self {
        Self { spread, recent: LeakyBucket::default() }
    }

    /// How long to wait before the client of a session that its server has ended is closed. `pace` is how many clients
    /// the cluster takes in a second: the closes follow each other at that pace. A close that would be delayed beyond
    /// the spread comes at a random time within it.
    pub fn delay(&mut self, now: Instant, pace: f64, rng: &mut fastrand::Rng) -> Duration {
        let each = Duration::from_secs_f64(1.0 / pace.clamp(1.0, 1e6));
        let recent = self.recent.add(now, each);
        let delay = recent.level(now).saturating_sub(each.mul_f64(BURST));
        if delay <= self.spread {
            self.recent = recent;
            delay
        } else {
            self.spread.mul_f64(rng.f64())
        }
    }

    /// How long the cluster takes until it has taken the clients back that were closed, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> Lapse {
        self.recent.level(now).into()
    }

    /// The closes of another process, as of `then`.
    pub fn recall(&mut self, remembered: Lapse, then: Instant) {
        // No close is counted that comes after the spread, and those of a burst have a second each at most.
        let most = self.spread + Duration::from_secs_f64(BURST);
        let until = then + remembered.duration().min(most);
        self.recent = LeakyBucket::until(self.recent.empty_at(then).map_or(until, |at| at.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPREAD: Duration = Duration::from_secs(2);

    fn delays(count: u32, apart: Duration, pace: f64) -> Vec<Duration> {
        let (mut staggered_close, mut now, mut rng) =
            (StaggeredClose::new(SPREAD), Instant::now(), fastrand::Rng::with_seed(1));
        (0..count)
            .map(|_| {
                now += apart;
                staggered_close.delay(now, pace, &mut rng)
            })
            .collect()
    }

    #[test]
    fn one_close_is_never_delayed_nor_are_a_few() {
        for pace in [0.1, 9.0, 1000.0, f64::INFINITY] {
            assert!(delays(8, Duration::ZERO, pace).iter().all(Duration::is_zero), "{pace}");
            assert!(delays(100, Duration::from_secs(2), pace).iter().all(Duration::is_zero), "{pace}");
        }
    }

    #[test]
    fn a_server_that_lets_its_clients_go_slowly_is_followed_at_once() {
        let delays = delays(10_000, Duration::from_millis(12), 100.0);
        assert!(delays.iter().all(Duration::is_zero));
    }

    #[test]
    fn the_closes_of_a_death_follow_the_pace_as_far_as_the_spread_goes() {
        let all_in_time = delays(1008, Duration::ZERO, 1000.0);
        assert!(all_in_time.is_sorted());
        assert_eq!(all_in_time.last().unwrap().as_millis(), 1000);
        let more = delays(20_000, Duration::ZERO, 1000.0);
        assert!(more.iter().all(|delay| *delay <= SPREAD));
        for half_second in 0..4 {
            let from = Duration::from_millis(500) * half_second;
            let within = more.iter().filter(|delay| (from..from + Duration::from_millis(500)).contains(*delay)).count();
            assert!((4700..5300).contains(&within), "{within} in the half second from {from:?}");
        }
    }

    #[test]
    fn no_spread_delays_nothing() {
        let mut staggered_close = StaggeredClose::new(Duration::ZERO);
        let now = Instant::now();
        assert!((0..1000).all(|_| staggered_close.delay(now, 9.0, &mut fastrand::Rng::with_seed(1)).is_zero()));
    }

    #[test]
    fn another_process_goes_on_where_the_closes_were() {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let spread = Duration::from_secs(2);
        let (mut old, mut new) = (StaggeredClose::new(spread), StaggeredClose::new(spread));
        for _ in 0..100 {
            let _ = old.delay(now, 100.0, &mut rng);
        }
        let there = now + Duration::from_secs(1000);
        let text = serde_json::to_string(&old.remembered(now)).unwrap();
        new.recall(serde_json::from_str(&text).unwrap(), there);
        assert_eq!(old.delay(now, 100.0, &mut rng), new.delay(there, 100.0, &mut rng));
        new.recall(Duration::MAX.into(), there);
        assert!(new.delay(there, 100.0, &mut rng) <= spread);
        let later = there + spread + Duration::from_secs(9);
        assert_eq!(new.delay(later, 100.0, &mut rng), Duration::ZERO, "what is made up is over soon");
    }
}
