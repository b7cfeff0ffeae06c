//! The quota of each source address.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::{
    admission::{
        params::Quota,
        quota::{
            by_key::{Exceeded, KeySlot, QuotaByKey, RememberedKey},
            counted_map::CountedMap,
            live::{LiveMost, LiveQuota},
            warned::Warned,
        },
    },
    outcome::Refusal,
};

/// What a source is counted by: its address, of IPv6 the /64, since one customer has at least that much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "IpAddr", into = "IpAddr")]
pub struct Source(IpAddr);

impl From<Source> for IpAddr {
    fn from(source: Source) -> Self {
        source.0
    }
}

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

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

impl Source {
    /// The name of the lane in which its clients wait while nobody but themselves has said who they are. No account has
    /// a name with a blank.
    pub fn lane_name(self) -> Arc<str> {
        format!("source {}", self.0).into()
    }
}

impl Source {
    /// Where simulated clients come from.
    pub const NOWHERE: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

/// A keyed hash of a source, which takes little memory: nobody can choose two that are taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceKey(u32);

impl SourceKey {
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    pub fn of(source: Source, seed: &RandomState) -> Self {
        Self(seed.hash_one(source) as u32)
    }

    #[cfg(test)]
    pub fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

/// Every source in use, where sources are limited.
#[derive(Debug)]
pub struct Sources {
    quota: LiveQuota,
    by_key: Arc<QuotaByKey<Source>>,
    max_leafnodes: LiveMost,
    leafnodes: Arc<QuotaByKey<Source>>,
}

/// What a connection holds of its source, given back on drop. There is no slot where sources are not limited, and so
/// not counted; else it is on the heap, since every session has one.
#[derive(Debug, Default)]
pub struct SourceSlots {
    _connection: Option<Box<KeySlot<Source>>>,
    _leafnode: Option<Box<KeySlot<Source>>>,
}

impl Sources {
    pub fn new(quota: Quota, max_leafnodes: Option<u32>) -> Self {
        let (quota, max_leafnodes) = (LiveQuota::new(quota), LiveMost::new(max_leafnodes));
        Self { quota, by_key: Arc::default(), max_leafnodes, leafnodes: Arc::default() }
    }

    /// The configuration has this quota by now. Connections that were counted stay counted; where sources were not
    /// limited, none was.
    pub fn set_quota(&self, quota: Quota, max_leafnodes: Option<u32>) {
        self.quota.set(quota);
        self.max_leafnodes.set(max_leafnodes);
    }

    /// Takes a connection slot and a token of a source, and a place among its leafnodes for one of these.
    ///
    /// # Errors
    /// [`Refusal::SourceQuota`], [`Refusal::SourceLeafnodeQuota`] or [`Refusal::SourceRate`]; nothing is taken then.
    pub fn enter(
        &self,
        (address, is_leafnode): (IpAddr, bool),
        now: Instant,
        warned: &Warned,
    ) -> Result<SourceSlots, Refusal> {
        // First what takes no token.
        let _leafnode = if is_leafnode { self.enter_leafnode(address, now, warned)? } else { None };
        let _connection = self.enter_connection(address, now, warned)?;
        Ok(SourceSlots { _connection, _leafnode })
    }

    /// Takes a place among the leafnodes of a source for a connection that has its other slot.
    ///
    /// # Errors
    /// [`Refusal::SourceLeafnodeQuota`].
    pub fn becomes_leafnode(
        &self,
        slots: &mut SourceSlots,
        address: IpAddr,
        now: Instant,
        warned: &Warned,
    ) -> Result<(), Refusal> {
        slots._leafnode = self.enter_leafnode(address, now, warned)?;
        Ok(())
    }

    fn leafnode_quota(&self) -> Option<Quota> {
        let max_connections = Some(self.max_leafnodes.get()?);
        Some(Quota { max_connections, rate: None, warn_only: self.quota.warn_only() })
    }

    fn enter_leafnode(
        &self,
        address: IpAddr,
        now: Instant,
        warned: &Warned,
    ) -> Result<Option<Box<KeySlot<Source>>>, Refusal> {
        let Some(quota) = self.leafnode_quota() else { return Ok(None) };
        let reason = Refusal::SourceLeafnodeQuota;
        let slot = self.leafnodes.enter(Source::from(address), quota, now, |_| warned.note(reason));
        slot.map(|slot| Some(Box::new(slot))).map_err(|_| reason)
    }

    fn enter_connection(
        &self,
        address: IpAddr,
        now: Instant,
        warned: &Warned,
    ) -> Result<Option<Box<KeySlot<Source>>>, Refusal> {
        if self.quota.is_none() {
            return Ok(None);
        }
        let reason = |over| match over {
            Exceeded::Quota => Refusal::SourceQuota,
            Exceeded::Rate => Refusal::SourceRate,
        };
        let slot = self.by_key.enter(Source::from(address), self.quota.get(), now, |over| warned.note(reason(over)));
        slot.map(|slot| Some(Box::new(slot))).map_err(reason)
    }

    /// Takes a connection slot of a source whatever its quota, for a session that another process of weir has had until
    /// now.
    pub fn adopt(&self, (address, is_leafnode): (IpAddr, bool), now: Instant) -> SourceSlots {
        let source = Source::from(address);
        let is_counted = !self.quota.is_none();
        let leafnodes = self.leafnode_quota().filter(|_| is_leafnode);
        SourceSlots {
            _connection: is_counted.then(|| Box::new(self.by_key.adopt(source, self.quota.get(), None, now))),
            _leafnode: leafnodes.map(|quota| Box::new(self.leafnodes.adopt(source, quota, None, now))),
        }
    }

    /// How many tokens each has, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> Vec<RememberedKey<Source>> {
        self.by_key.remembered(now)
    }

    /// Recalls how many tokens each had at `then`.
    pub fn recall(&self, remembered: Vec<RememberedKey<Source>>, then: Instant) {
        if !self.quota.is_none() {
            self.by_key.recall(remembered, then);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty() && self.leafnodes.is_empty()
    }

    /// Forgets the sources that are as good as new.
    pub fn sweep(&self, now: Instant) {
        self.by_key.sweep(now);
        self.leafnodes.sweep(now);
    }
}

/// A count for each source that has any; the limit comes with the call.
#[derive(Debug, Default)]
pub struct BySource {
    counts: CountedMap<Source, u32>,
}

/// One of a source, given back on drop.
#[derive(Debug)]
pub struct SourcePermit {
    of: Arc<BySource>,
    source: Source,
}

impl BySource {
    /// Counts one more of a source that has less than `most` says, which is told what the source has. One it may always
    /// have.
    pub fn try_acquire(self: &Arc<Self>, source: Source, most: impl FnOnce(u32) -> u32) -> Option<SourcePermit> {
        let mut count = self.counts.get_or_insert_with(source, || 0);
        if *count >= most(*count).max(1) {
            return None;
        }
        *count += 1;
        Some(SourcePermit { of: Arc::clone(self), source })
    }
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        self.of.counts.remove_if(&self.source, |count| {
            *count -= 1;
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::admission::Rate;

    fn sources(max: Option<u32>, rate: Option<(u32, u32)>) -> Sources {
        let rate = rate.map(|(r, b)| Rate { per_second: r.try_into().unwrap(), burst: b.try_into().unwrap() });
        Sources::new(Quota { max_connections: max, rate, warn_only: false }, None)
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
    fn each_source_is_counted_by_itself_and_forgotten_with_its_last() {
        let by_source = Arc::<BySource>::default();
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|text| Source::from(text.parse::<IpAddr>().unwrap()));
        let [first, second] = [(); 2].map(|()| by_source.try_acquire(a, |_| 2).unwrap());
        assert!(by_source.try_acquire(a, |_| 2).is_none());
        let other = by_source.try_acquire(b, |_| 2).unwrap();
        assert_eq!(by_source.counts.len(), 2);
        drop(first);
        let again = by_source.try_acquire(a, |_| 2).unwrap();
        drop((second, again, other));
        assert!(by_source.counts.is_empty());
    }

    #[test]
    fn quota_is_given_back() {
        let sources = sources(Some(2), None);
        let (ip, now) = ("192.0.2.1".parse().unwrap(), Instant::now());
        let one = sources.enter((ip, false), now, &Warned::default()).unwrap();
        let _two = sources.enter((ip, false), now, &Warned::default()).unwrap();
        assert_eq!(sources.enter((ip, false), now, &Warned::default()).unwrap_err(), Refusal::SourceQuota);
        assert!(sources.enter(("192.0.2.2".parse().unwrap(), false), now, &Warned::default()).is_ok());
        drop(one);
        assert!(sources.enter((ip, false), now, &Warned::default()).is_ok());
    }

    #[test]
    fn a_refusal_by_quota_takes_no_token() {
        let sources = sources(Some(1), Some((1, 2)));
        let (ip, now) = ("192.0.2.1".parse().unwrap(), Instant::now());
        let one = sources.enter((ip, false), now, &Warned::default()).unwrap();
        for _ in 0..9 {
            assert_eq!(sources.enter((ip, false), now, &Warned::default()).unwrap_err(), Refusal::SourceQuota);
        }
        drop(one);
        assert!(sources.enter((ip, false), now, &Warned::default()).is_ok());
        assert_eq!(sources.enter((ip, false), now, &Warned::default()).unwrap_err(), Refusal::SourceRate);
    }

    #[test]
    fn leafnodes_of_a_source_have_a_limit_of_their_own() {
        let quota = Quota { max_connections: Some(3), rate: None, warn_only: false };
        let (sources, now) = (Sources::new(quota, Some(1)), Instant::now());
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let enter = |is_leafnode| sources.enter((ip, is_leafnode), now, &Warned::default());
        let leafnode = enter(true).unwrap();
        assert_eq!(enter(true).unwrap_err(), Refusal::SourceLeafnodeQuota);
        let clients = [(); 2].map(|()| enter(false).unwrap());
        assert_eq!(enter(false).unwrap_err(), Refusal::SourceQuota, "a leafnode counts as a connection too");
        drop(leafnode);
        let adopted = sources.adopt((ip, true), now);
        assert_eq!(enter(true).unwrap_err(), Refusal::SourceLeafnodeQuota);
        drop((adopted, clients));
        sources.sweep(now);
        assert!(sources.is_empty());
        sources.set_quota(Quota::default(), Some(0));
        assert_eq!(enter(true).unwrap_err(), Refusal::SourceLeafnodeQuota);
        sources.set_quota(Quota::default(), None);
        assert!(enter(true).is_ok());
    }

    #[test]
    fn idle_sources_are_forgotten_once_their_bucket_is_full() {
        let sources = sources(None, Some((10, 10)));
        let now = Instant::now();
        drop(sources.enter(("192.0.2.1".parse().unwrap(), false), now, &Warned::default()).unwrap());
        sources.sweep(now);
        assert_eq!(sources.by_key.len(), 1);
        sources.sweep(now + std::time::Duration::from_secs(2));
        assert!(sources.by_key.is_empty());
    }

    #[test]
    fn what_only_warns_refuses_nobody_and_counts_all() {
        let rate = Rate { per_second: 1.try_into().unwrap(), burst: 3.try_into().unwrap() };
        let quota = Quota { max_connections: Some(1), rate: Some(rate), warn_only: true };
        let (sources, warned) = (Sources::new(quota, None), Warned::default());
        let (ip, now) = ("192.0.2.1".parse().unwrap(), Instant::now());
        let _slots: Vec<_> = (0..5).map(|_| sources.enter((ip, false), now, &warned).unwrap()).collect();
        assert_eq!((warned.of(Refusal::SourceQuota), warned.of(Refusal::SourceRate)), (4, 2));
    }
}
