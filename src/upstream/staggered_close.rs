//! What becomes of the clients of a server that dies: they are not all let go in the same moment, since most of them come back
//! at once. One close costs nothing and is never put off.

use std::time::{Duration, Instant};

/// So many closes may come at once, whatever the pace.
const AT_ONCE: f64 = 8.0;

/// The closes of clients whose server has ended their session.
#[derive(Debug)]
pub struct StaggeredClose {
    /// No close is put off longer.
    spread: Duration,
    /// When the next close would be due if none came before it (as a token bucket counts, GCRA).
    due: Option<Instant>,
}

impl StaggeredClose {
    /// Closes are put off by `spread` at most.
    pub fn new(spread: Duration) -> Self {
        Self { spread, due: None }
    }

    /// A server has ended a session: how long its client may be kept, where the cluster takes `pace` clients a second. The
    /// closes follow each other at that pace; those that would take longer than the spread come at random within it.
    pub fn lost(&mut self, now: Instant, pace: f64, rng: &mut fastrand::Rng) -> Duration {
        let each = Duration::from_secs_f64(1.0 / pace.clamp(1.0, 1e6));
        let due = self.due.map_or(now, |due| due.max(now)) + each;
        let wait = due.saturating_duration_since(now).saturating_sub(each.mul_f64(AT_ONCE));
        if wait <= self.spread {
            self.due = Some(due);
            wait
        } else {
            self.spread.mul_f64(rng.f64())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPREAD: Duration = Duration::from_secs(2);

    fn waits(count: u32, apart: Duration, pace: f64) -> Vec<Duration> {
        let (mut staggered_close, mut now, mut rng) =
            (StaggeredClose::new(SPREAD), Instant::now(), fastrand::Rng::with_seed(1));
        (0..count)
            .map(|_| {
                now += apart;
                staggered_close.lost(now, pace, &mut rng)
            })
            .collect()
    }

    #[test]
    fn one_close_is_never_put_off_nor_are_a_few() {
        for pace in [0.1, 9.0, 1000.0, f64::INFINITY] {
            assert!(waits(8, Duration::ZERO, pace).iter().all(Duration::is_zero), "{pace}");
            assert!(waits(100, Duration::from_secs(2), pace).iter().all(Duration::is_zero), "{pace}");
        }
    }

    #[test]
    fn a_server_that_lets_its_clients_go_slowly_is_followed_at_once() {
        let waits = waits(10_000, Duration::from_millis(12), 100.0);
        assert!(waits.iter().all(Duration::is_zero));
    }

    #[test]
    fn the_closes_of_a_death_follow_the_pace_as_far_as_the_spread_goes() {
        let all_in_time = waits(1008, Duration::ZERO, 1000.0);
        assert!(all_in_time.is_sorted());
        assert_eq!(all_in_time.last().unwrap().as_millis(), 1000);
        let more = waits(20_000, Duration::ZERO, 1000.0);
        assert!(more.iter().all(|wait| *wait <= SPREAD));
        for half_second in 0..4 {
            let from = Duration::from_millis(500) * half_second;
            let within = more.iter().filter(|wait| (from..from + Duration::from_millis(500)).contains(*wait)).count();
            assert!((4700..5300).contains(&within), "{within} in the half second from {from:?}");
        }
    }

    #[test]
    fn no_spread_puts_nothing_off() {
        let mut staggered_close = StaggeredClose::new(Duration::ZERO);
        let now = Instant::now();
        assert!((0..1000).all(|_| staggered_close.lost(now, 9.0, &mut fastrand::Rng::with_seed(1)).is_zero()));
    }
}
