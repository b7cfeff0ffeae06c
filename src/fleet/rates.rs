//! How the weirs of a fleet share a rate (new clients per second): by demand, so that all together keep to it.
//!
//! Each weir has a part of the rate, and tells it with what it wants. It lowers its part at once where another one
//! wants more and has less, and raises it only by what nobody has by the last beats, divided by the weirs that live: if
//! all raise theirs in the same moment, the sum of the parts is still one. So a rate is exceeded only by what the weirs
//! do not know of each other: one that has just begun, or that has lost its connection.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::fleet::member::MemberId;

/// Of its equal part, what each weir keeps that wants nothing, so that its first client need not wait for a beat.
const KEPT: f64 = 0.1;
/// What a weir has before it can have heard of others.
const AT_FIRST: f64 = 0.1;
/// How long that lasts: beats come at least once in a second.
const LISTENS_FOR: Duration = Duration::from_millis(1300);
/// A part is raised no more often than this: others have heard of it by then.
const RAISED_EVERY: Duration = Duration::from_millis(50);

/// What a weir has of a rate, and wants: parts of the whole rate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RatePart {
    pub has: f64,
    pub wants: f64,
}

/// One rate, as one weir shares it.
#[derive(Debug)]
pub struct SharedRate {
    began: Instant,
    own: RatePart,
    raised_at: Option<Instant>,
    peers: BTreeMap<MemberId, RatePart>,
}

impl SharedRate {
    /// Weir has been running since it `began`.
    pub fn new(began: Instant) -> Self {
        Self { began, own: RatePart { has: AT_FIRST, wants: 0.0 }, raised_at: None, peers: BTreeMap::new() }
    }

    /// What this weir has and wants.
    pub fn own(&self) -> RatePart {
        self.own
    }

    /// Another weir has told what it has and wants.
    pub fn heard(&mut self, id: &MemberId, part: RatePart) {
        let part = RatePart { has: part.has.clamp(0.0, 1.0), wants: part.wants.clamp(0.0, 1.0) };
        self.peers.insert(id.clone(), part);
    }

    /// Another weir has gone.
    pub fn forget(&mut self, id: &MemberId) {
        self.peers.remove(id);
    }

    /// This weir wants so much by now. Returns the part that it has from now on. To be called before each beat.
    pub fn look(&mut self, now: Instant, wants: f64) -> f64 {
        self.own.wants = wants.clamp(0.0, 1.0);
        let weirs = self.peers.len() as f64 + 1.0;
        let fair = self.fair_part(weirs);
        let taken: f64 = self.peers.values().map(|part| part.has).sum();
        if fair <= self.own.has {
            self.own.has = fair;
        } else if now.saturating_duration_since(self.began) < LISTENS_FOR {
            // There are others, perhaps, that it has not heard of.
        } else if self.raised_at.is_none_or(|at| now.saturating_duration_since(at) >= RAISED_EVERY) {
            self.raised_at = Some(now);
            let free = (1.0 - taken - self.own.has).max(0.0);
            self.own.has = fair.min(self.own.has + free / weirs);
        }
        // Parts that come to more than the whole, since weirs have not known of each other.
        let sum = taken + self.own.has;
        if sum > 1.0 + 1e-9 && self.own.has > 1.0 / weirs {
            self.own.has = (self.own.has - (sum - 1.0)).max(1.0 / weirs).min(self.own.has);
        }
        self.own.has
    }

    /// Max-min fair by what is wanted, each at least what is kept; what nobody wants is spread evenly.
    fn fair_part(&self, weirs: f64) -> f64 {
        let least = KEPT / weirs;
        let mut wants: Vec<f64> = self.peers.values().map(|part| part.wants.max(least)).collect();
        let own = self.own.wants.max(least);
        wants.push(own);
        wants.sort_by(f64::total_cmp);
        let (mut left, mut sharers) = (1.0, weirs);
        for want in wants {
            let each = left / sharers;
            if want >= each {
                return own.min(each);
            }
            left -= want;
            sharers -= 1.0;
        }
        own + left / weirs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn id(n: usize) -> MemberId {
        MemberId::new(&format!("w{n}")).unwrap()
    }

    #[test]
    fn one_weir_alone_has_all_once_it_has_listened() {
        let began = Instant::now();
        let mut rate = SharedRate::new(began);
        assert_eq!(rate.look(began, 1.0), AT_FIRST);
        assert_eq!(rate.look(began + LISTENS_FOR, 0.0), 1.0);
    }

    /// Weirs that want this tell each other every 0.2 to 0.3 s, with beats that are up to 5 ms late and of which a part
    /// is lost. Returns the sum of the parts in every tenth of a second, and what each has at the end.
    fn shared(wants: &[(f64, f64, f64)], loss: f64, seconds: u32, seed: u64) -> (Vec<f64>, Vec<f64>) {
        let (mut rng, began) = (fastrand::Rng::with_seed(seed), Instant::now());
        let mut weirs: Vec<_> = (0..wants.len()).map(|_| SharedRate::new(began)).collect();
        let mut next: Vec<_> = wants.iter().map(|_| began + MS * rng.u32(0..250)).collect();
        let mut net: Vec<(Instant, usize, usize, RatePart)> = Vec::new();
        let mut sums = Vec::new();
        for ms in 0..seconds * 1000 {
            let now = began + MS * ms;
            net.sort_by_key(|(at, ..)| *at);
            while net.first().is_some_and(|(at, ..)| *at <= now) {
                let (_, to, from, part) = net.remove(0);
                weirs[to].heard(&id(from), part);
            }
            for n in 0..weirs.len() {
                if next[n] > now {
                    continue;
                }
                next[n] = now + MS * rng.u32(200..300);
                let (from, to, want) = wants[n];
                let second = f64::from(ms) / 1000.0;
                weirs[n].look(now, if (from..to).contains(&second) { want } else { 0.0 });
                for to in (0..weirs.len()).filter(|to| *to != n) {
                    if rng.f64() >= loss {
                        net.push((now + MS * rng.u32(0..6), to, n, weirs[n].own()));
                    }
                }
            }
            if ms % 100 == 0 {
                sums.push(weirs.iter().map(|weir| weir.own().has).sum());
            }
        }
        (sums, weirs.iter().map(|weir| weir.own().has).collect())
    }

    #[test]
    fn who_wants_little_has_it_and_the_others_share_the_rest() {
        let (sums, has) = shared(&[(0.0, 60.0, 0.1), (0.0, 60.0, 1.0), (0.0, 60.0, 1.0)], 0.0, 20, 1);
        assert!((has[0] - 0.1).abs() < 0.01 && (has[1] - 0.45).abs() < 0.01 && (has[2] - 0.45).abs() < 0.01, "{has:?}");
        assert!(sums.iter().all(|sum| *sum <= 1.001), "{sums:?}");
        let (_, has) = shared(&[(0.0, 60.0, 0.0), (0.0, 60.0, 1.0)], 0.0, 20, 1);
        assert!(has[1] > 0.94 && has[0] > 0.0, "{has:?}");
    }

    #[test]
    fn a_demand_that_begins_is_met_within_seconds() {
        let (_, has) = shared(&[(0.0, 60.0, 1.0), (8.0, 60.0, 1.0), (0.0, 60.0, 1.0)], 0.05, 14, 3);
        assert!(has.iter().all(|has| (0.25..0.4).contains(has)), "{has:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn in_every_two_seconds_the_parts_come_to_no_more_than_the_rate(
            wants in prop::collection::vec((0.0f64..12.0, 0.0f64..12.0, 0.0f64..1.2), 1..10), loss in 0.0f64..0.05,
            seed: u64,
        ) {
            let (sums, _) = shared(&wants, loss, 12, seed);
            for window in sums.windows(20) {
                let mean = window.iter().sum::<f64>() / window.len() as f64;
                prop_assert!(mean <= 1.03, "{mean} of the rate in two seconds: {sums:?}");
            }
        }
    }
}
