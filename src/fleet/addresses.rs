//! The addresses by which clients reach the weirs of a fleet: what one weir tells the others, which of them clients are
//! told, and when connected clients hear of a change.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use strum::VariantArray;

/// The most addresses of one kind that are taken from one weir.
pub const MOST_OF_ONE: usize = 8;
/// The longest address: a name of DNS, a colon, a port.
const LONGEST: usize = 253 + 1 + 5;
/// The most addresses that a client is told.
pub const MOST_TOLD: usize = 64;
/// The most weirs whose addresses are kept.
const MOST_WEIRS: usize = 256;

/// A weir that is not seen any more is told to clients for so much longer: it may be stopped, or cut off from the
/// bucket only, and an address that does not answer costs a client one attempt.
pub const FORGET: Duration = Duration::from_secs(10);
/// A change that has not been followed by another for so long is told to connected clients.
pub const SETTLES: Duration = Duration::from_secs(1);
/// Connected clients are told of changes at most this often.
pub const AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// What a client must speak to use an address. Clients go on to further addresses as they came to the first one: those
/// of a TLS listener by TLS, those of a WebSocket listener by WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
pub enum Class {
    Client,
    ClientTls,
    WebSocket,
    WebSocketTls,
}

/// The addresses of one weir, or of several, each `host:port`, by what a client must speak there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_tls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ws: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wss: Vec<String>,
}

impl Addresses {
    /// Those of one class.
    pub fn of(&self, class: Class) -> &[String] {
        match class {
            Class::Client => &self.client,
            Class::ClientTls => &self.client_tls,
            Class::WebSocket => &self.ws,
            Class::WebSocketTls => &self.wss,
        }
    }

    fn of_mut(&mut self, class: Class) -> &mut Vec<String> {
        match class {
            Class::Client => &mut self.client,
            Class::ClientTls => &mut self.client_tls,
            Class::WebSocket => &mut self.ws,
            Class::WebSocketTls => &mut self.wss,
        }
    }

    /// Adds an address, once.
    pub fn add(&mut self, class: Class, address: String) {
        let all = self.of_mut(class);
        if !all.contains(&address) {
            all.push(address);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        Class::VARIANTS.iter().all(|&class| self.of(class).is_empty())
    }

    /// All of them, those for plain clients first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        Class::VARIANTS.iter().flat_map(|&class| self.of(class)).map(String::as_str)
    }

    /// What is taken of another weir's: so many of each class, and none that is no `host:port`.
    #[must_use]
    pub fn checked(mut self) -> Self {
        for class in Class::VARIANTS {
            let all = self.of_mut(*class);
            all.retain(|address| is_address(address));
            all.truncate(MOST_OF_ONE);
        }
        self
    }
}

/// Whether this is a host and a port, of characters that names and IP addresses have.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%');
    address.len() <= LONGEST
        && !host.is_empty()
        && host.bytes().all(is_plain)
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// What has changed of the addresses that clients are told.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Those of the other weirs from now on, where they are others than before.
    pub addresses: Option<Addresses>,
    /// Whether connected clients are to be told now.
    pub tell_connected: bool,
}

/// Follows the addresses of the other weirs of a fleet.
#[derive(Debug)]
pub struct Announcer {
    /// This weir.
    own_id: String,
    weirs: BTreeMap<String, (Addresses, Instant)>,
    /// Signs of life of weirs that have given one only: it may be an old one.
    first: BTreeMap<String, u64>,
    told: Addresses,
    /// What connected clients know, and since when.
    connected: Addresses,
    connected_at: Option<Instant>,
    changed_at: Option<Instant>,
}

impl Announcer {
    /// Nobody else is known yet.
    pub fn new(own_id: &str) -> Self {
        Self {
            own_id: own_id.to_owned(),
            weirs: BTreeMap::new(),
            first: BTreeMap::new(),
            told: Addresses::default(),
            connected: Addresses::default(),
            connected_at: None,
            changed_at: None,
        }
    }

    /// A weir shows that it lives, by a sign with this number, and tells its addresses. It must be one that nobody can
    /// forge: clients show their credentials where they are led. One that tells no address (it drains) is dropped at
    /// once. The first sign says nothing: it may be all that is left of a weir that ended long ago.
    pub fn saw(&mut self, now: Instant, id: &str, number: u64, addresses: Addresses) {
        if self.first.len() >= MOST_WEIRS {
            self.first.clear();
        }
        if addresses.is_empty() {
            self.weirs.remove(id);
        } else if !self.weirs.contains_key(id) && *self.first.entry(id.to_owned()).or_insert(number) == number {
            // Another sign is to follow.
        } else if id != self.own_id && (self.weirs.len() < MOST_WEIRS || self.weirs.contains_key(id)) {
            self.first.remove(id);
            self.weirs.insert(id.to_owned(), (addresses.checked(), now));
        }
    }

    /// The addresses of one of the others, as it tells them.
    pub fn addresses_of(&self, id: &str) -> Option<&Addresses> {
        self.weirs.get(id).map(|(addresses, _)| addresses)
    }

    /// What has changed by `now`. A weir that has not been seen for [`FORGET`] is forgotten, but none while this weir
    /// is not connected to the fleet (`is_linked`).
    pub fn look(&mut self, now: Instant, is_linked: bool) -> Change {
        if is_linked {
            self.weirs.retain(|_, (_, seen_at)| now.saturating_duration_since(*seen_at) < FORGET);
        } else {
            // They have the time again once this weir is back.
            self.weirs.values_mut().for_each(|(_, seen_at)| *seen_at = now);
        }
        let all = self.all();
        let is_new = all != self.told;
        if is_new {
            self.told = all;
            self.changed_at = Some(now);
        }
        let has_settled = self.changed_at.is_some_and(|at| now.saturating_duration_since(at) >= SETTLES);
        let is_time = self.connected_at.is_none_or(|at| now.saturating_duration_since(at) >= AT_MOST_EVERY);
        let tell_connected = self.told != self.connected && has_settled && is_time;
        if tell_connected {
            self.connected = self.told.clone();
            self.connected_at = Some(now);
        }
        Change { addresses: is_new.then(|| self.told.clone()), tell_connected }
    }

    /// The addresses of all other weirs, in an order that each weir has for itself: where there are more than clients
    /// are told, the weirs tell different ones.
    fn all(&self) -> Addresses {
        let place = |id: &str| {
            let mut hasher = DefaultHasher::new();
            (&self.own_id, id).hash(&mut hasher);
            hasher.finish()
        };
        let mut weirs: Vec<_> = self.weirs.iter().map(|(id, (addresses, _))| (place(id), id, addresses)).collect();
        weirs.sort_unstable_by_key(|(place, id, _)| (*place, *id));
        let mut all = Addresses::default();
        for (_, _, addresses) in weirs {
            for &class in Class::VARIANTS {
                for address in addresses.of(class) {
                    if all.of(class).len() < MOST_TOLD {
                        all.add(class, address.clone());
                    }
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Addresses {
        Addresses { client: vec![address.to_owned()], ..Addresses::default() }
    }

    fn seen(all: &[(&str, &str)]) -> Vec<(String, Addresses)> {
        all.iter().map(|(id, address)| ((*id).to_owned(), at(address))).collect()
    }

    /// Sees these, and looks.
    fn look(
        announcer: &mut Announcer,
        now: Instant,
        is_linked: bool,
        seen: impl IntoIterator<Item = (String, Addresses)>,
    ) -> Change {
        for (id, addresses) in seen {
            announcer.saw(now, &id, 1, addresses.clone());
            announcer.saw(now, &id, 2, addresses);
        }
        announcer.look(now, is_linked)
    }

    fn told(change: &Change) -> Vec<&str> {
        let mut all: Vec<_> = change.addresses.as_ref().expect("a change").iter().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_change_reaches_new_clients_at_once_and_connected_ones_when_it_has_settled() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut announcer = Announcer::new("a");
        assert_eq!(look(&mut announcer, start, true, seen(&[])), Change { addresses: None, tell_connected: false });
        let change = look(&mut announcer, after(100), true, seen(&[("b", "b:1")]));
        assert_eq!((told(&change), change.tell_connected), (vec!["b:1"], false));
        let change = look(&mut announcer, after(600), true, seen(&[("b", "b:1"), ("c", "c:1")]));
        assert_eq!((told(&change), change.tell_connected), (vec!["b:1", "c:1"], false));
        let both = || seen(&[("b", "b:1"), ("c", "c:1")]);
        assert!(!look(&mut announcer, after(1500), true, both()).tell_connected, "it has not settled");
        assert_eq!(look(&mut announcer, after(1600), true, both()), Change { addresses: None, tell_connected: true });
        assert!(!look(&mut announcer, after(3000), true, both()).tell_connected, "they know it");
        // One drains: it tells no address.
        let drains = || [("b".to_owned(), at("b:1")), ("c".to_owned(), Addresses::default())];
        let change = look(&mut announcer, after(3100), true, drains());
        assert_eq!((told(&change), change.tell_connected), (vec!["b:1"], false));
        assert!(!look(&mut announcer, after(6500), true, drains()).tell_connected, "they were told 4.9 s ago");
        assert!(look(&mut announcer, after(6600), true, drains()).tell_connected);
    }

    #[test]
    fn one_that_comes_and_goes_is_not_told_to_connected_clients() {
        let start = Instant::now();
        let mut announcer = Announcer::new("a");
        for n in 0..100_u32 {
            let drains = [("b".to_owned(), Addresses::default())];
            let now = start + Duration::from_millis(500) * n;
            let change = if n % 2 == 0 {
                look(&mut announcer, now, true, seen(&[("b", "b:1")]))
            } else {
                look(&mut announcer, now, true, drains)
            };
            assert!(!change.tell_connected, "look {n}");
        }
    }

    #[test]
    fn one_that_is_not_seen_stays_for_a_while_and_all_stay_while_this_weir_is_cut_off() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut announcer = Announcer::new("a");
        look(&mut announcer, start, true, seen(&[("b", "b:1"), ("c", "c:1")]));
        assert_eq!(look(&mut announcer, after(9), true, seen(&[("b", "b:1")])).addresses, None);
        assert_eq!(told(&look(&mut announcer, after(10), true, seen(&[("b", "b:1")]))), ["b:1"]);
        for s in 11..60 {
            assert_eq!(look(&mut announcer, after(s), false, seen(&[])).addresses, None, "cut off for {s} s");
        }
        assert_eq!(look(&mut announcer, after(68), true, seen(&[])).addresses, None, "it has the time to show itself");
        assert_eq!(look(&mut announcer, after(69), true, seen(&[])).addresses, Some(Addresses::default()));
    }

    #[test]
    fn one_sign_of_life_may_be_an_old_one() {
        let (mut announcer, now) = (Announcer::new("a"), Instant::now());
        for _ in 0..3 {
            announcer.saw(now, "b", 7, at("b:1"));
            assert_eq!(announcer.look(now, true).addresses, None);
        }
        announcer.saw(now, "b", 8, at("b:1"));
        assert_eq!(told(&announcer.look(now, true)), ["b:1"]);
        // Whoever fills the bucket with ids takes bounded memory.
        (0..10_000).for_each(|n| announcer.saw(now, &format!("{n}"), 1, at("x:1")));
        assert!(announcer.first.len() <= MOST_WEIRS);
    }

    #[test]
    fn what_others_tell_is_bounded_and_well_formed() {
        for (address, is_good) in [
            ("n1.example.com:4222", true),
            ("10.0.0.1:1", true),
            ("[2001:db8::1]:4222", true),
            ("n1", false),
            (":4222", false),
            ("n1:0", false),
            ("n1:65536", false),
            ("nats://n1:4222", false),
            ("user@n1:4222", false),
            ("n1\r\n-ERR 'x':4222", false),
        ] {
            assert_eq!(is_address(address), is_good, "{address:?}");
        }
        let many = |weir: usize| (0..100).map(|n| format!("w{weir}-{n}:1")).collect();
        let now = Instant::now();
        let all = |own: &str| {
            let weirs = (0..1000).map(|n| (format!("{n}"), Addresses { client: many(n), ..Addresses::default() }));
            look(&mut Announcer::new(own), now, true, weirs).addresses.unwrap()
        };
        let (a, b) = (all("a"), all("b"));
        assert_eq!((a.client.len(), b.client.len()), (MOST_TOLD, MOST_TOLD));
        assert_ne!(a, b, "each weir tells others");
        assert_eq!(
            a.client.iter().filter(|one| a.client[0].split('-').next() == one.split('-').next()).count(),
            MOST_OF_ONE
        );
    }

    #[test]
    fn the_form_keeps_to_what_is_there() {
        assert_eq!(serde_json::to_string(&at("a:1")).unwrap(), r#"{"client":["a:1"]}"#);
        assert_eq!(serde_json::from_str::<Addresses>(r#"{"wss":["a:1"],"new":7}"#).unwrap().wss, ["a:1"]);
    }
}
