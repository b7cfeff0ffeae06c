//! What each source address holds and may hold.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use governor::clock::Clock;

use super::{Quota, counted::Counted, rate::Tokens};
use crate::close::Refusal;

/// Sources that are remembered at most. An attacker with more addresses than this (IPv6: networks) is refused by `source_rate`
/// until a sweep; sources already known go on.
const MOST_SOURCES: usize = 262_144;

/// The key a source is counted by: the address, of IPv6 the /64, since one customer has at least that much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            v4 => Self(v4),
        }
    }
}

impl Source {
    /// The lane in which its clients wait while they have not said who they are. No account has a name with a blank.
    pub(super) fn lane(self) -> Arc<str> {
        format!("source {}", self.0).into()
    }
}

#[derive(Debug)]
struct Entry<C: Clock> {
    connections: u32,
    tokens: Option<Tokens<C>>,
    full_again_at: Option<Instant>,
}

/// Every source with a connection or a bucket that is not full.
#[derive(Debug)]
pub struct Sources<C: Clock> {
    clock: C,
    quota: Quota,
    map: Counted<Source, Entry<C>>,
}

/// One connection of a source, given back on drop.
#[derive(Debug)]
pub struct SourceSlot<C: Clock> {
    /// `None` where sources are not limited and so not counted.
    of: Option<(Arc<Sources<C>>, Source)>,
}

impl<C: Clock> Drop for SourceSlot<C> {
    fn drop(&mut self) {
        if let Some((sources, source)) = self.of.take()
            && let Some(mut entry) = sources.map.get_mut(&source)
        {
            entry.connections -= 1;
        }
    }
}

impl<C: Clock + Clone> Sources<C> {
    /// No source known.
    pub fn new(quota: Quota, clock: C) -> Self {
        Self { clock, quota, map: Counted::default() }
    }

    /// Takes a connection slot, and a token, of a source.
    ///
    /// # Errors
    /// [`Refusal::SourceQuota`] or [`Refusal::SourceRate`]; nothing is taken then.
    pub fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<SourceSlot<C>, Refusal> {
        if self.quota == Quota::default() {
            return Ok(SourceSlot { of: None });
        }
        let source = Source::from(address);
        if self.map.len() >= MOST_SOURCES && !self.map.contains_key(&source) {
            return Err(Refusal::SourceRate);
        }
        let mut entry = self.map.get_or_insert_with(source, || Entry {
            connections: 0,
            tokens: self.quota.rate.map(|rate| Tokens::new(rate, &self.clock)),
            full_again_at: None,
        });
        if self.quota.max_connections.is_some_and(|most| entry.connections >= most) {
            return Err(Refusal::SourceQuota);
        }
        if let Some(tokens) = &entry.tokens {
            tokens.take().map_err(|_| Refusal::SourceRate)?;
            // An upper bound: a bucket that was empty is full again after burst / rate.
            entry.full_again_at = self.quota.rate.map(|rate| {
                now + std::time::Duration::from_secs_f64(f64::from(rate.burst.get()) / f64::from(rate.per_second.get()))
            });
        }
        entry.connections += 1;
        Ok(SourceSlot { of: Some((Arc::clone(self), source)) })
    }

    /// Forgets the sources without a connection whose bucket is full again.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, entry| entry.connections > 0 || entry.full_again_at.is_some_and(|at| now < at));
    }

    /// How many sources are remembered.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::admission::Rate;

    fn sources(max: Option<u32>, rate: Option<(u32, u32)>) -> (Arc<Sources<FakeRelativeClock>>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let rate = rate.map(|(r, b)| Rate { per_second: r.try_into().unwrap(), burst: b.try_into().unwrap() });
        (Arc::new(Sources::new(Quota { max_connections: max, rate }, clock.clone())), clock)
    }

    #[test]
    fn ipv6_counts_by_network_and_mapped_ipv4_as_ipv4() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn quota_is_given_back() {
        let (sources, _) = sources(Some(2), None);
        let (ip, now) = ("192.0.2.1".parse().unwrap(), Instant::now());
        let one = sources.enter(ip, now).unwrap();
        let _two = sources.enter(ip, now).unwrap();
        assert_eq!(sources.enter(ip, now).unwrap_err(), Refusal::SourceQuota);
        assert!(sources.enter("192.0.2.2".parse().unwrap(), now).is_ok());
        drop(one);
        assert!(sources.enter(ip, now).is_ok());
    }

    #[test]
    fn a_refusal_by_quota_takes_no_token() {
        let (sources, _) = sources(Some(1), Some((1, 2)));
        let (ip, now) = ("192.0.2.1".parse().unwrap(), Instant::now());
        let one = sources.enter(ip, now).unwrap();
        for _ in 0..9 {
            assert_eq!(sources.enter(ip, now).unwrap_err(), Refusal::SourceQuota);
        }
        drop(one);
        assert!(sources.enter(ip, now).is_ok());
        assert_eq!(sources.enter(ip, now).unwrap_err(), Refusal::SourceRate);
    }

    #[test]
    fn idle_sources_are_forgotten_once_their_bucket_is_full() {
        let (sources, _) = sources(None, Some((10, 10)));
        let now = Instant::now();
        drop(sources.enter("192.0.2.1".parse().unwrap(), now).unwrap());
        sources.sweep(now);
        assert_eq!(sources.len(), 1);
        sources.sweep(now + std::time::Duration::from_secs(2));
        assert!(sources.is_empty());
    }
}
