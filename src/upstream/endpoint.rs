//! Where a server is, and which of weir's own addresses connect to it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

/// The ports of a server to which weir connects for clients. A server judges its clients by the port that they use
/// (`allowed_connection_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Client,
    WebSocket,
    Leafnode,
}

impl Port {
    pub(super) const COUNT: usize = 3;
}

/// The address of one port of a server.
#[derive(Debug)]
pub struct Endpoint {
    /// `host:port`.
    address: String,
    /// What the address last resolved to. The first is tried first: the one that answered last.
    resolved: ArcSwap<Vec<SocketAddr>>,
    /// A dial has failed since the last look-up.
    wants_lookup: AtomicBool,
    /// Addresses of this machine to connect from, in turn.
    sources: Vec<IpAddr>,
    next_source: AtomicUsize,
}

impl Endpoint {
    pub fn new(address: String, sources: Vec<IpAddr>) -> Self {
        let resolved = ArcSwap::from_pointee(address.parse().into_iter().collect());
        Self { address, resolved, wants_lookup: AtomicBool::new(false), sources, next_source: AtomicUsize::new(0) }
    }

    /// The port that an `http://` or `https://` URL names.
    pub fn of_url(url: &str) -> Self {
        Self::new(authority_and_path(url).0.to_owned(), Vec::new())
    }

    /// `host:port`, as configured.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the address last resolved to, in the order to try; empty before the first look-up.
    pub fn resolved(&self) -> Arc<Vec<SocketAddr>> {
        self.resolved.load_full()
    }

    /// Stores what the address resolves to now. Returns whether these are other addresses than before, in whatever
    /// order.
    pub fn set_resolved(&self, addresses: Vec<SocketAddr>) -> bool {
        let (known, mut found) = (self.resolved(), by_turns(addresses));
        if found.len() == known.len() && found.iter().all(|address| known.contains(address)) {
            return false;
        }
        if let Some(last) = known.first() {
            to_front(&mut found, |address| address == last);
        }
        self.resolved.store(Arc::new(found));
        true
    }

    /// This address has answered: it is tried first from now on.
    pub fn prefer(&self, address: SocketAddr) {
        self.prefer_where(|known| *known == address);
    }

    /// An address of this machine is tried first, if there is one.
    pub fn prefer_ip(&self, ip: IpAddr) {
        self.prefer_where(|known| known.ip() == ip);
    }

    fn prefer_where(&self, is_it: impl Fn(&SocketAddr) -> bool) {
        let known = self.resolved.load();
        if known.first().is_none_or(&is_it) || !known.iter().any(&is_it) {
            return;
        }
        let mut addresses = (**known).clone();
        to_front(&mut addresses, is_it);
        self.resolved.store(Arc::new(addresses));
    }

    /// This address takes connections and then fails: the others are tried first from now on.
    pub fn avoid(&self, address: SocketAddr) {
        let known = self.resolved.load();
        if known.len() > 1 && known.first() == Some(&address) {
            let mut addresses = (**known).clone();
            addresses.rotate_left(1);
            self.resolved.store(Arc::new(addresses));
        }
    }

    /// A dial has failed: the name may lead elsewhere by now.
    pub fn want_lookup(&self) {
        self.wants_lookup.store(true, Relaxed);
    }

    /// Whether [`Endpoint::want_lookup`] was called since the last call.
    pub fn takes_lookup(&self) -> bool {
        self.wants_lookup.swap(false, Relaxed)
    }

    /// How many addresses of one family there are, of the family with more.
    pub fn most_of_a_family(&self) -> usize {
        let known = self.resolved.load();
        let v4 = known.iter().filter(|address| address.is_ipv4()).count();
        v4.max(known.len() - v4)
    }

    /// The addresses of this machine from which `to` may be connected, another one first at each call; none if the
    /// kernel is to choose.
    pub fn sources(&self, to: SocketAddr) -> impl Iterator<Item = IpAddr> + use<'_> {
        let first =
            if self.sources.is_empty() { 0 } else { self.next_source.fetch_add(1, Relaxed) % self.sources.len() };
        let (later, sooner) = self.sources.split_at(first);
        sooner.iter().chain(later).copied().filter(move |from| from.is_ipv4() == to.is_ipv4())
    }
}

/// A monitoring URL, and where it leads.
#[derive(Debug)]
pub struct Monitor {
    pub url: String,
    pub endpoint: Endpoint,
}

impl Monitor {
    pub fn new(url: String) -> Self {
        Self { endpoint: Endpoint::of_url(&url), url }
    }

    /// What stands in front of the paths at the port: the server's `http_base_path`, mostly empty.
    pub fn base_path(&self) -> &str {
        authority_and_path(&self.url).1
    }
}

/// The most addresses of one name that are kept.
const MOST_ADDRESSES: usize = 64;

/// The addresses without repetitions, the two families by turns, beginning with that of the first (RFC 8305, section
/// 4).
pub fn by_turns(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if distinct.len() < MOST_ADDRESSES && !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    let first_is_v4 = distinct.first().is_some_and(SocketAddr::is_ipv4);
    let (mut one, mut other): (Vec<_>, Vec<_>) = distinct.into_iter().partition(|at| at.is_ipv4() == first_is_v4);
    (one, other) = (one.into_iter().rev().collect(), other.into_iter().rev().collect());
    let mut all = Vec::with_capacity(one.len() + other.len());
    while !one.is_empty() || !other.is_empty() {
        all.extend(one.pop());
        all.extend(other.pop());
    }
    all
}

/// Moves the first address that fits to the front; the others keep their order.
fn to_front(addresses: &mut [SocketAddr], is_it: impl Fn(&SocketAddr) -> bool) {
    if let Some(at) = addresses.iter().position(is_it)
        && let Some(up_to_it) = addresses.get_mut(..=at)
    {
        up_to_it.rotate_right(1);
    }
}

/// What stands in a URL of HTTP behind its scheme: `host:port`, and the path from its slash on, without one at the end.
pub(super) fn authority_and_path(url: &str) -> (&str, &str) {
    let rest =
        url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url).trim_end_matches('/');
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let found = addresses(&["[::1]:1", "[::2]:1", "[::1]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]);
        let expected = addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]);
        assert_eq!(by_turns(found), expected);
        assert!(by_turns([]).is_empty());
        let many = (0..1000).map(|n| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4222)));
        assert_eq!(by_turns(many).len(), MOST_ADDRESSES);
    }

    #[test]
    fn the_one_that_answered_stays_first_while_the_name_leads_there() {
        let endpoint = Endpoint::new("n1:1".into(), Vec::new());
        let (a, b, c) = ("1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1");
        assert!(endpoint.set_resolved(addresses(&[a, b, c])));
        endpoint.prefer(c.parse().unwrap());
        assert_eq!(*endpoint.resolved(), addresses(&[c, a, b]));
        assert!(!endpoint.set_resolved(addresses(&[b, a, c])), "round-robin DNS");
        assert_eq!(*endpoint.resolved(), addresses(&[c, a, b]));
        assert_eq!(endpoint.most_of_a_family(), 3);
        assert!(endpoint.set_resolved(addresses(&[b, c])));
        assert_eq!(*endpoint.resolved(), addresses(&[c, b]));
        endpoint.prefer_ip("1.0.0.2".parse().unwrap());
        endpoint.prefer_ip("1.0.0.9".parse().unwrap());
        assert_eq!(*endpoint.resolved(), addresses(&[b, c]));
        endpoint.avoid(c.parse().unwrap());
        assert_eq!(*endpoint.resolved(), addresses(&[b, c]), "it is not the first any more");
        assert!(endpoint.set_resolved(addresses(&[a])));
        assert_eq!(*endpoint.resolved(), addresses(&[a]));
    }

    #[test]
    fn ports_of_urls() {
        assert_eq!(Endpoint::of_url("http://10.0.0.1:8222").address(), "10.0.0.1:8222");
        assert_eq!(Endpoint::of_url("https://10.0.0.1:8222").address(), "10.0.0.1:8222");
        assert_eq!(Endpoint::of_url("http://nats.example.com:8222/").address(), "nats.example.com:8222");
        assert_eq!(Endpoint::of_url("http://nats.example.com:8222/nats/n1").address(), "nats.example.com:8222");
        assert_eq!(authority_and_path("https://n1:8222/nats/n1").1, "/nats/n1");
        assert_eq!(authority_and_path("https://n1:8222").1, "");
    }
}
