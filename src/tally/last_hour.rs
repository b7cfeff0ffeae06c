//! Counts of the last hour, minute by minute, in bounded memory: of each client that is told apart (reason, account,
//! user, name and source together), and of each account, user, name and source by itself.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    hash::Hash,
    mem,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    admission::Source,
    tally::{MOST_SHOWN, SpaceSaving, Tally, Who, shown},
};

/// Clients that are told apart in the present minute. The last one that came is always among them.
const MOST_CLIENTS: usize = 512;
/// Clients that are kept of a minute that is over.
const KEPT_CLIENTS: usize = 128;
const MINUTES: u64 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// Stands between the parts of a client's key: no text has it in UTF-8.
const BETWEEN: u8 = 0xff;
/// Stands behind a part that was longer. No text has it either.
const CUT: u8 = 0xfe;

/// Counts of `KINDS` kinds.
#[derive(Debug, Default)]
pub struct LastHour<const KINDS: usize>(Mutex<State<KINDS>>);

/// The largest counts of one kind of name, with the minutes since each was last seen.
pub type Counted<K, const KINDS: usize> = Vec<Summary<K, KINDS>>;

/// What one key has come to in the hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary<K, const KINDS: usize> {
    pub key: K,
    /// At least so often.
    pub counts: [u64; KINDS],
    /// How long ago it was last counted, in whole minutes.
    pub minutes_ago: u64,
}

/// One that is told apart. A part that it has not said is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    pub reason: Box<str>,
    pub account: Box<str>,
    pub user: Box<str>,
    pub name: Box<str>,
    pub source: Box<str>,
}

/// The counts of the hour.
#[derive(Debug, Clone, Default)]
pub struct Clients<const KINDS: usize> {
    /// How long counts have been kept, an hour at most.
    pub covers: Duration,
    pub total: u64,
    /// The most frequent first, as everywhere here.
    pub reasons: Vec<(&'static str, u64)>,
    pub accounts: Counted<Box<str>, KINDS>,
    pub users: Counted<Box<str>, KINDS>,
    pub names: Counted<Box<str>, KINDS>,
    pub sources: Counted<Box<str>, KINDS>,
    pub clients: Counted<Client, KINDS>,
}

#[derive(Debug, Default)]
struct State<const KINDS: usize> {
    began: Option<Instant>,
    present: Minute<KINDS>,
    /// The oldest first.
    past: VecDeque<Arc<Past<KINDS>>>,
    /// In which a client's key is written: its parts as they came, since they are shown seldom and counted often.
    key: Vec<u8>,
}

#[derive(Debug)]
struct Minute<const KINDS: usize> {
    number: u64,
    tally: Tally<KINDS>,
    clients: SpaceSaving<Box<[u8]>, MOST_CLIENTS, KINDS>,
}

impl<const KINDS: usize> Default for Minute<KINDS> {
    fn default() -> Self {
        Self { number: 0, tally: Tally::default(), clients: SpaceSaving::default() }
    }
}

/// A minute that is over: it does not change, so that whoever reads it keeps nobody from counting.
#[derive(Debug)]
struct Past<const KINDS: usize> {
    number: u64,
    total: u64,
    reasons: Vec<(&'static str, u64)>,
    accounts: Rows<str, KINDS>,
    users: Rows<str, KINDS>,
    names: Rows<str, KINDS>,
    sources: Rows<str, KINDS>,
    clients: Rows<[u8], KINDS>,
}

type Rows<K, const KINDS: usize> = Vec<(Box<K>, [u64; KINDS])>;
/// The sums of several minutes, each with the minutes since it was last counted.
type Sums<'a, K, const KINDS: usize> = HashMap<&'a K, ([u64; KINDS], u64)>;

impl<const KINDS: usize> LastHour<KINDS> {
    /// Counting begins.
    pub fn begin(&self, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).turn_to(now);
    }

    /// Counts a client under `kind`, for a reason where there is one.
    pub fn note(&self, reason: Option<&'static str>, who: &Who<'_>, kind: usize, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.turn_to(now);
        let mut key = mem::take(&mut state.key);
        write_key(reason, who, &mut key);
        state.present.tally.note(reason, who, kind);
        state.present.clients.note(&*key, kind, |key| key.into());
        state.key = key;
    }

    /// What has been counted in the hour before `now`.
    pub fn summary(&self, now: Instant) -> Clients<KINDS> {
        self.summary_of(MINUTES, now)
    }

    /// What has been counted in the present minute and the last ones before it, `minutes` in all.
    pub fn summary_of(&self, minutes: u64, now: Instant) -> Clients<KINDS> {
        let (began, present, past) = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.turn_to(now);
            (state.began, state.present.rows(MOST_CLIENTS), state.past.clone())
        };
        let mut sums = Clients::default();
        let is_asked = |past: &&Past<KINDS>| past.number + minutes > present.number;
        let asked = past.iter().map(|minute| &**minute).filter(is_asked).chain([&present]);
        let mut texts: [Sums<'_, str, KINDS>; 4] = std::array::from_fn(|_| HashMap::new());
        let mut clients = Sums::<[u8], KINDS>::new();
        let mut reasons = HashMap::new();
        for minute in asked {
            sums.total += minute.total;
            for &(reason, count) in &minute.reasons {
                *reasons.entry(reason).or_insert(0) += count;
            }
            let (lists, minutes_ago) =
                ([&minute.accounts, &minute.users, &minute.names, &minute.sources], present.number - minute.number);
            for (sums, rows) in texts.iter_mut().zip(lists) {
                add(sums, rows, minutes_ago);
            }
            add(&mut clients, &minute.clients, minutes_ago);
        }
        let [accounts, users, names, sources] = texts.map(|sums| largest_first(sums, |text: &str| Box::from(text)));
        let full = MINUTE * u32::try_from(minutes).unwrap_or(u32::MAX);
        sums.covers = began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began)).min(full);
        sums.reasons = reasons.into_iter().collect();
        sums.reasons.sort_unstable_by_key(|&(name, count)| (Reverse(count), name));
        (sums.accounts, sums.users, sums.names, sums.sources) = (accounts, users, names, sources);
        sums.clients = largest_first(clients, Client::of);
        sums
    }
}

fn add<'a, K: Hash + Eq + ?Sized, const KINDS: usize>(
    sums: &mut Sums<'a, K, KINDS>,
    rows: &'a Rows<K, KINDS>,
    minutes_ago: u64,
) {
    for (key, counts) in rows {
        // The youngest minute comes last.
        let sum = sums.entry(&**key).or_insert(([0; KINDS], minutes_ago));
        sum.1 = minutes_ago;
        sum.0.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

fn largest_first<Q: ?Sized, K: Ord, const KINDS: usize>(
    sums: Sums<'_, Q, KINDS>,
    shown: impl Fn(&Q) -> K,
) -> Counted<K, KINDS> {
    let summary = |(key, (counts, minutes_ago))| Summary { key: shown(key), counts, minutes_ago };
    let mut all: Vec<_> = sums.into_iter().map(summary).collect();
    let sum = |one: &Summary<K, KINDS>| Reverse(one.counts.iter().sum::<u64>());
    all.sort_unstable_by(|a, b| sum(a).cmp(&sum(b)).then_with(|| a.key.cmp(&b.key)));
    all
}

impl<const KINDS: usize> State<KINDS> {
    /// Closes the present minute when another one has begun, and forgets what is older than an hour.
    fn turn_to(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let number = now.saturating_duration_since(began).as_secs() / MINUTE.as_secs();
        if number > self.present.number {
            let over = mem::replace(&mut self.present, Minute { number, ..Minute::default() });
            if over.tally.total > 0 {
                self.past.push_back(Arc::new(over.rows(KEPT_CLIENTS)));
            }
        }
        while self.past.front().is_some_and(|oldest| oldest.number + MINUTES <= number) {
            self.past.pop_front();
        }
    }
}

impl<const KINDS: usize> Minute<KINDS> {
    fn rows(&self, most_clients: usize) -> Past<KINDS> {
        let Self { number, tally, clients } = self;
        let rows = |counts: &SpaceSaving<Box<str>, _, KINDS>| {
            counts.counts().map(|(key, counts)| (key.clone(), counts)).collect::<Rows<str, KINDS>>()
        };
        Past {
            number: *number,
            total: tally.total,
            reasons: tally.reasons.clone(),
            accounts: rows(&tally.accounts),
            users: rows(&tally.users),
            names: rows(&tally.names),
            sources: tally.sources.counts().map(|(key, counts)| (key.to_string().into(), counts)).collect(),
            clients: clients.largest(most_clients).into_iter().map(|(key, counts)| (key.clone(), counts)).collect(),
        }
    }
}

fn write_key(reason: Option<&'static str>, who: &Who<'_>, key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(reason.unwrap_or_default().as_bytes());
    for text in [who.account, who.user, who.name].map(Option::unwrap_or_default) {
        key.push(BETWEEN);
        // A text has no more characters than bytes.
        let cut = if text.len() > MOST_SHOWN { text.char_indices().nth(MOST_SHOWN) } else { None };
        match cut {
            None => key.extend_from_slice(text.as_bytes()),
            Some((end, _)) => {
                key.extend_from_slice(&text.as_bytes()[..end]);
                key.push(CUT);
            }
        }
    }
    key.push(BETWEEN);
    match IpAddr::from(who.source) {
        IpAddr::V4(v4) => key.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => key.extend_from_slice(&v6.octets()),
    }
}

impl Client {
    fn of(key: &[u8]) -> Self {
        // The source comes last: its bytes may be any.
        let mut parts = key.splitn(5, |&byte| byte == BETWEEN);
        let text = |part: Option<&[u8]>| {
            let part = part.unwrap_or_default();
            match part.strip_suffix(&[CUT]) {
                None => shown(&text_of(part)).into(),
                Some(beginning) => format!("{}…", shown(&text_of(beginning))).into(),
            }
        };
        let [reason, account, user, name] = [(); 4].map(|()| text(parts.next()));
        Self { reason, account, user, name, source: source_of(parts.next().unwrap_or_default()).into() }
    }
}

fn text_of(part: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(part)
}

fn source_of(octets: &[u8]) -> String {
    let source = match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6),
        // There is no such key.
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    Source::from(source).to_string()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn who<'a>(name: &'a str, last_byte: u8) -> Who<'a> {
        let source = IpAddr::from([192, 0, 2, last_byte]).into();
        Who { account: Some("ORDERS"), user: Some("app"), name: Some(name), source }
    }

    fn at(minutes: u64) -> impl Fn(Instant) -> Instant {
        move |began| began + MINUTE * minutes as u32
    }

    #[test]
    fn a_client_is_found_by_name_at_once_and_for_an_hour() {
        let (hour, began) = (LastHour::<1>::default(), Instant::now());
        hour.note(Some("account_quota"), &who("one", 1), 0, began);
        (0..5).for_each(|_| hour.note(Some("account_quota"), &who("many", 2), 0, at(30)(began)));
        hour.note(Some("no_server"), &who("many", 2), 0, at(30)(began));
        let all = hour.summary(at(59)(began));
        assert_eq!((all.total, all.reasons), (7, vec![("account_quota", 6), ("no_server", 1)]));
        assert_eq!(all.covers, Duration::from_secs(59 * 60));
        let shown: Vec<_> =
            all.clients.iter().map(|one| (&*one.key.reason, &*one.key.name, one.counts[0], one.minutes_ago)).collect();
        assert_eq!(
            shown,
            [("account_quota", "many", 5, 29), ("account_quota", "one", 1, 59), ("no_server", "many", 1, 29)]
        );
        let one = &all.clients[1].key;
        assert_eq!((&*one.account, &*one.user, &*one.source), ("ORDERS", "app", "192.0.2.1"));
        let names: Vec<_> = all.names.iter().map(|one| (&*one.key, one.counts[0])).collect();
        assert_eq!((names, all.accounts[0].counts), (vec![("many", 6), ("one", 1)], [7]));
        let last = hour.summary_of(30, at(59)(began));
        assert_eq!((last.total, last.clients.len(), last.covers), (6, 2, MINUTE * 30));
        assert_eq!(hour.summary_of(29, at(59)(began)).total, 0);
        assert_eq!(hour.summary(at(60)(began)).total, 6);
        let empty = hour.summary(at(200)(began));
        assert_eq!((empty.total, empty.clients.len(), empty.covers), (0, 0, MINUTE * 60));
    }

    #[test]
    fn clients_without_end_take_bounded_memory_and_the_largest_and_the_last_are_there() {
        let (hour, began) = (LastHour::<1>::default(), Instant::now());
        for n in 0..200_000_u32 {
            let now = began + Duration::from_millis(50) * n;
            hour.note(Some("source_rate"), &who(&format!("made up {n}"), 1), 0, now);
            if n % 20 == 0 {
                hour.note(Some("account_quota"), &who("the culprit", 2), 0, now);
            }
        }
        let now = began + Duration::from_millis(50) * 199_999;
        let all = hour.summary(now);
        assert!(all.clients.len() <= 60 * KEPT_CLIENTS + MOST_CLIENTS, "{}", all.clients.len());
        assert_eq!((&*all.clients[0].key.name, &*all.names[0].key), ("the culprit", "the culprit"));
        // 59 minutes and a part of one, with 60 each.
        assert!((59 * 60..=60 * 60).contains(&all.clients[0].counts[0]), "{:?}", all.clients[0]);
        assert!(all.clients.iter().any(|one| &*one.key.name == "made up 199999"));
        let state = hour.0.lock().unwrap();
        assert!(state.past.len() < 60 && state.past.iter().all(|minute| minute.clients.len() <= KEPT_CLIENTS));
    }

    #[test]
    fn long_texts_with_the_same_beginning_are_one_and_sources_are_any() {
        let (hour, began) = (LastHour::<1>::default(), Instant::now());
        let sources = ["255.254.255.255", "2001:db8:feff:fffe::7"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for source in sources {
            for end in ["", "a", "b"] {
                let name = format!("{}{end}", "é".repeat(MOST_SHOWN));
                let source = source.into();
                hour.note(
                    Some("no_server"),
                    &Who { account: None, user: Some("u"), name: Some(&name), source },
                    0,
                    began,
                );
            }
        }
        let all = hour.summary(began).clients;
        let whole = "é".repeat(MOST_SHOWN);
        let shown: Vec<_> = all.iter().map(|one| (&*one.key.name, &*one.key.source, one.counts[0])).collect();
        let cut = format!("{whole}…");
        let (v4, v6) = ("255.254.255.255", "2001:db8:feff:fffe::/64");
        assert_eq!(shown, [(&*cut, v6, 2), (&*cut, v4, 2), (&*whole, v6, 1), (&*whole, v4, 1)]);
        assert!(all.iter().all(|one| (&*one.key.reason, &*one.key.account, &*one.key.user) == ("no_server", "", "u")));
    }

    #[test]
    fn what_clients_say_makes_no_part_of_its_own() {
        let (hour, began) = (LastHour::<1>::default(), Instant::now());
        hour.note(None, &Who { account: Some("A\0B"), user: None, ..who("x\0y\n", 1) }, 0, began);
        let all = hour.summary(began);
        let Client { reason, account, user, name, .. } = &all.clients[0].key;
        assert_eq!([reason, account, user, name].map(|part| &**part), ["", "A\\0B", "", "x\\0y\\n"]);
    }
}
