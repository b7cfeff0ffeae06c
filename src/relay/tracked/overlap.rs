//! While a session goes from one server to another both deliver to its client: what comes from both is matched, so that
//! the client has each message once.
//!
//! A message that falls to every subscriber comes from the old server and goes on to the client, and comes from the new
//! one, which is kept back until the old one's copy comes, or dropped where that was there first. In the end the old
//! server stops, and what is kept still is what only the new one had: it follows. Messages that look the same are
//! counted, so that a publisher may say the same many times.
//!
//! Copies are a second apart at most, beside what is still to be read and the time for which the new server stands
//! still ([`super::caught_up`]). What the old server delivers is remembered from some time before the new one has the
//! subscriptions ([`REMEMBERS_BEFORE`]), since the new one may deliver the same later. What has no copy is forgotten
//! some time after the old server stops and the new one has answered ([`LEFTOVERS_FOR`]), and matches nothing.
//!
//! A publisher's server may hear of a young subscription at the new server before it hears of it at the old one. What
//! only the new one has of such a subscription, and has had for a second, is dropped: the client has had later messages
//! of that publisher by then, and without the move it would not have had these.
//!
//! Messages that look the same and come all the while are matched to the copy that is nearest in time. Where copies are
//! further apart than half of the time between two such messages, one may be missing or come twice in the end.

use std::{
    collections::VecDeque,
    hash::BuildHasher,
    time::{Duration, Instant},
};

use hashbrown::{DefaultHashBuilder, HashMap};

use crate::protocol::subscriptions::Receives;

/// What the old server delivers is remembered for so long before the new one gets the subscriptions. Where other
/// clients of the new server have the same subscription, messages are on their way to it that the old one has delivered
/// by then.
pub const REMEMBERS_BEFORE: Duration = Duration::from_millis(300);

/// Copies that are no further apart need no second look.
const NEAR: Duration = Duration::from_millis(5);

/// What the old server delivers before the new one has the subscriptions is forgotten after this time. What only the
/// new one has, and has had for so long, comes from the old one no more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);

/// All servers of a cluster know of a subscription that is older than this.
pub const YOUNG_FOR: Duration = Duration::from_millis(1500);

/// Copies of what the old server has delivered still come from the new one for so long after its first answer as the
/// only one.
const LEFTOVERS_FOR: Duration = Duration::from_secs(2);

/// The most messages of the old server that are remembered: 100,000 a second with 24 bytes and an entry of a table.
const MOST_AHEAD: usize = 100_000;

/// With more than so many copies that came late those are dropped that need no second look any more.
const MOST_FAR: usize = 1_000;

/// The most bytes of messages of the new server that are kept, each with [`OF_ENTRY`] besides.
const MOST_KEPT: usize = 4 * 1024 * 1024;
const OF_ENTRY: usize = 88;

/// The most bytes that wait to be written to the new server.
const MOST_TO_NEW: usize = 256 * 1024;

/// What two servers have delivered of one session.
#[derive(Debug)]
pub(super) struct Overlap {
    hasher: DefaultHashBuilder,
    /// Of the old server, when each was delivered; the new one has not delivered its copy.
    ahead: Bag<Ahead>,
    /// The same once the old server delivers no more: copies of these are on their way from the present one.
    leftovers: Bag<Ahead>,
    /// Of the new server; the old one has not delivered its copy.
    kept: Bag<Kept>,
    kept_bytes: usize,
    /// The last copies that came from the new server long after the old one's message: when, and how long after.
    far: HashMap<u64, (Instant, Duration)>,
    /// When the client had subscribed last before two servers were listened to.
    last_before: Option<Instant>,
    /// When each subscription since then was made, by the hash of its sid.
    made: HashMap<u64, Instant>,
    /// Messages that the new server has delivered, by the hash of their sid.
    from_new: HashMap<u64, u32>,
    /// What the new server is to be sent next.
    pub to_new: Vec<u8>,
    /// When the new server was sent the last SUB; `None` before the first.
    pub last_sub: Option<Instant>,
    /// A message was too long to be matched.
    is_too_long: bool,
    /// The old server delivers no more.
    is_switched: bool,
    /// When the present server has answered a PING that it was sent as the only one.
    answered: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Ahead {
    sid: u64,
    at: Instant,
}

#[derive(Debug)]
struct Kept {
    message: Box<[u8]>,
    at: Instant,
    /// Its subscription was so young that the publisher's server may not have known of it at the old server.
    is_young: bool,
}

impl Overlap {
    /// `last_sub` says when the client has subscribed last.
    pub fn new(last_sub: Option<Instant>) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            ahead: Bag::default(),
            leftovers: Bag::default(),
            kept: Bag::default(),
            kept_bytes: 0,
            far: HashMap::new(),
            last_before: last_sub,
            made: HashMap::new(),
            from_new: HashMap::new(),
            to_new: Vec::new(),
            last_sub: None,
            is_too_long: false,
            is_switched: false,
            answered: None,
        }
    }

    /// The session is to go to yet another server. Copies may still come of what the one before delivered.
    pub fn again(self, last_sub: Option<Instant>) -> Self {
        let Self { leftovers, answered, hasher, .. } = self;
        Self { leftovers, answered, hasher, ..Self::new(last_sub) }
    }

    /// Whether the old server delivers no more.
    pub fn is_switched(&self) -> bool {
        self.is_switched
    }

    /// The present server has answered a PING of weir's.
    pub fn present_answers(&mut self, now: Instant) {
        self.answered.get_or_insert(now);
    }

    /// The old server has delivered this message to all subscribers, which goes on to the client. `None` where it is
    /// too long to be looked at.
    pub fn old_delivers(&mut self, sid: &[u8], message: Option<&[u8]>, now: Instant) {
        let Some(message) = message else {
            self.is_too_long = true;
            return;
        };
        let hash = self.hasher.hash_one(message);
        if let Some(copy) = self.kept.take_first(hash) {
            self.kept_bytes = self.kept_bytes.saturating_sub(copy.message.len().saturating_add(OF_ENTRY));
            return;
        }
        // A copy that was taken for one of a message from long before is this one's, if that is nearer.
        if let Some((came, after)) = self.far.remove(&hash)
            && now.saturating_duration_since(came) < after
        {
            return;
        }
        if self.last_sub.is_none() {
            self.ahead.drop_first_while(|one| now.saturating_duration_since(one.at) > FORGOTTEN_AFTER);
        }
        if self.ahead.len() <= MOST_AHEAD {
            self.ahead.push(hash, Ahead { sid: self.hasher.hash_one(sid), at: now });
        }
    }

    /// The new server gets the subscriptions.
    pub fn subscribes(&mut self, now: Instant) {
        self.last_sub = Some(now);
        self.to_new.clear();
        self.is_too_long = false;
    }

    /// The client subscribes.
    pub fn subscribe(&mut self, sid: &[u8], now: Instant) {
        self.last_sub = Some(now);
        if self.made.len() > MOST_FAR {
            self.made.retain(|_, at| now.saturating_duration_since(*at) < YOUNG_FOR);
        }
        if self.made.len() <= MOST_AHEAD {
            self.made.insert(self.hasher.hash_one(sid), now);
        }
    }

    /// Whether a publisher's server may not know of the subscription at the old server.
    fn is_young(&self, sid: &[u8], now: Instant) -> bool {
        let made = self.made.get(&self.hasher.hash_one(sid)).copied().or(self.last_before);
        made.is_some_and(|at| now.saturating_duration_since(at) < YOUNG_FOR)
    }

    /// The new server has delivered this message. Returns whether it goes on to the client at once.
    pub fn new_delivers(&mut self, sid: &[u8], message: &[u8], receives: Option<Receives>, now: Instant) -> bool {
        let count = self.from_new.entry(self.hasher.hash_one(sid)).or_default();
        *count = count.saturating_add(1);
        match receives {
            // The client does not want it any more.
            None => false,
            Some(Receives::ShareOfQueue) => true,
            Some(Receives::All) => {
                let hash = self.hasher.hash_one(message);
                // The newest of those that look the same: older ones may be from before the new server's time.
                match self.ahead.take_last(hash) {
                    Some(Ahead { at, .. }) => {
                        let after = now.saturating_duration_since(at);
                        if after > NEAR && self.far.len() <= MOST_AHEAD {
                            self.far.insert(hash, (now, after));
                        }
                    }
                    None => {
                        self.kept_bytes = self.kept_bytes.saturating_add(message.len().saturating_add(OF_ENTRY));
                        let is_young = self.is_young(sid, now);
                        self.kept.push(hash, Kept { message: message.into(), at: now, is_young });
                    }
                }
                false
            }
        }
    }

    /// The new server has delivered all that the old one had before `until`, and all that it has sent so far is read.
    pub fn is_even(&mut self, until: Option<Instant>, now: Instant) {
        self.ahead.drop_first_while(|one| until.is_some_and(|until| one.at < until));
        if self.far.len() > MOST_FAR {
            self.far.retain(|_, (came, after)| now.saturating_duration_since(*came) < *after);
        }
    }

    /// Why the session cannot be watched any longer, if so.
    pub fn too_much(&self) -> Option<&'static str> {
        if self.is_too_long {
            Some("a message is too long to be matched")
        } else if self.ahead.len() > MOST_AHEAD || self.kept_bytes > MOST_KEPT {
            Some("its servers deliver too much that has no copy")
        } else if self.to_new.len() > MOST_TO_NEW {
            Some("it subscribes faster than the other server takes it")
        } else {
            None
        }
    }

    /// The old server delivers no more. Returns what only the new one has delivered, in its order.
    pub fn switch(&mut self, now: Instant) -> impl Iterator<Item = Box<[u8]>> + use<> {
        (self.is_switched, self.answered) = (true, None);
        self.leftovers = std::mem::take(&mut self.ahead);
        self.kept_bytes = 0;
        let is_late = move |one: &Kept| one.is_young && now.saturating_duration_since(one.at) > FORGOTTEN_AFTER;
        std::mem::take(&mut self.kept).into_items().filter(move |one| !is_late(one)).map(|one| one.message)
    }

    /// How many messages of the new server under this sid do not count for its client: so many have come, or are
    /// copies of what the client has had.
    pub fn not_counted(&self, sid: &[u8]) -> u32 {
        let sid = self.hasher.hash_one(sid);
        let copies = self.leftovers.items().filter(|one| one.sid == sid).count();
        let copies = u32::try_from(copies).unwrap_or(u32::MAX);
        self.from_new.get(&sid).copied().unwrap_or(0).saturating_add(copies)
    }

    /// Whether this message of the present server is the copy of one that the server before it had delivered.
    pub fn is_leftover(&mut self, message: &[u8], now: Instant) -> bool {
        if self.leftovers_are_late(now) {
            self.leftovers = Bag::default();
        }
        self.leftovers.len() > 0 && self.leftovers.take_last(self.hasher.hash_one(message)).is_some()
    }

    /// Whether nothing is left to be matched.
    pub fn is_over(&self, now: Instant) -> bool {
        self.is_switched && (self.leftovers.len() == 0 || self.leftovers_are_late(now))
    }

    fn leftovers_are_late(&self, now: Instant) -> bool {
        self.answered.is_some_and(|at| now.saturating_duration_since(at) > LEFTOVERS_FOR)
    }
}

/// Items in the order in which they came, found by a hash that several may have.
#[derive(Debug)]
struct Bag<T> {
    /// `None` where it has been taken.
    items: VecDeque<Option<(u64, T)>>,
    /// The position of the first one since the beginning.
    first: u64,
    /// The positions of those that are there, in their order.
    by_hash: HashMap<u64, VecDeque<u64>>,
    len: usize,
}

impl<T> Default for Bag<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), first: 0, by_hash: HashMap::new(), len: 0 }
    }
}

impl<T> Bag<T> {
    fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, hash: u64, item: T) {
        let position = self.first.saturating_add(self.items.len() as u64);
        self.items.push_back(Some((hash, item)));
        self.by_hash.entry(hash).or_default().push_back(position);
        self.len = self.len.saturating_add(1);
    }

    fn take_first(&mut self, hash: u64) -> Option<T> {
        self.take(hash, VecDeque::pop_front)
    }

    fn take_last(&mut self, hash: u64) -> Option<T> {
        self.take(hash, VecDeque::pop_back)
    }

    fn take(&mut self, hash: u64, which: impl FnOnce(&mut VecDeque<u64>) -> Option<u64>) -> Option<T> {
        let positions = self.by_hash.get_mut(&hash)?;
        let position = which(positions)?;
        if positions.is_empty() {
            self.by_hash.remove(&hash);
        }
        let at = usize::try_from(position.saturating_sub(self.first)).ok()?;
        let (_, item) = self.items.get_mut(at)?.take()?;
        self.len = self.len.saturating_sub(1);
        while let Some(None) = self.items.front() {
            self.items.pop_front();
            self.first = self.first.saturating_add(1);
        }
        Some(item)
    }

    fn drop_first_while(&mut self, is_dropped: impl Fn(&T) -> bool) {
        while let Some(Some((hash, item))) = self.items.front() {
            if !is_dropped(item) {
                break;
            }
            // It is the first of all, so the first of its hash.
            let hash = *hash;
            self.take_first(hash);
        }
    }

    fn items(&self) -> impl Iterator<Item = &T> {
        self.items.iter().flatten().map(|(_, item)| item)
    }

    fn into_items(self) -> impl Iterator<Item = T> {
        self.items.into_iter().flatten().map(|(_, item)| item)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "small numbers of the test's own")]
mod tests {
    use super::*;

    const ALL: Option<Receives> = Some(Receives::All);

    /// A client that gets what two servers deliver, at virtual times.
    struct Client {
        overlap: Overlap,
        began: Instant,
        had: Vec<String>,
    }

    impl Client {
        fn new() -> Self {
            let began = Instant::now();
            let mut overlap = Overlap::new(None);
            overlap.subscribes(began);
            Self { overlap, began, had: Vec::new() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.began + Duration::from_millis(ms)
        }

        /// The new server has answered what it was asked a moment ago, and takes no longer than a second for copies.
        fn before(&self, ms: u64) -> Instant {
            self.at(ms).checked_sub(Duration::from_secs(1)).unwrap()
        }

        fn old(&mut self, ms: u64, message: &str) {
            let now = self.at(ms);
            self.overlap.old_delivers(b"1", Some(message.as_bytes()), now);
            self.had.push(message.to_owned());
        }

        fn new_server(&mut self, ms: u64, message: &str) {
            let now = self.at(ms);
            match self.overlap.is_switched() {
                true if self.overlap.is_over(now) || !self.overlap.is_leftover(message.as_bytes(), now) => {
                    self.had.push(message.to_owned());
                }
                true => {}
                false => {
                    assert!(!self.overlap.new_delivers(b"1", message.as_bytes(), ALL, now));
                    self.overlap.is_even(Some(self.before(ms)), now);
                }
            }
        }

        fn switch(&mut self, ms: u64) {
            let now = self.at(ms);
            self.overlap.is_even(Some(self.before(ms)), now);
            let kept = self.overlap.switch(now);
            self.had.extend(kept.map(|message| String::from_utf8(message.into()).unwrap()));
        }
    }

    #[test]
    fn each_message_comes_once_whichever_server_is_faster() {
        let mut client = Client::new();
        client.old(0, "before");
        client.old(100, "a");
        client.new_server(110, "a");
        client.new_server(200, "b");
        client.new_server(210, "c");
        client.old(220, "b");
        client.old(1300, "d");
        client.switch(1400);
        assert_eq!(client.had, ["before", "a", "b", "d", "c"], "what only the new one had follows");
        client.new_server(1410, "d");
        client.new_server(1420, "e");
        client.new_server(1430, "d");
        assert_eq!(client.had[5..], ["e", "d"], "the copy of what the old one had is dropped once");
    }

    #[test]
    fn what_looks_the_same_is_counted_and_what_came_before_matches_nothing() {
        let mut client = Client::new();
        (0..5).for_each(|n| client.old(n, "tick"));
        client.old(100, "tick");
        client.new_server(101, "tick");
        client.new_server(1500, "other");
        client.old(1501, "other");
        client.switch(1600);
        assert_eq!(client.had.len(), 7);
        // It is none of the first five.
        client.new_server(1700, "tick");
        assert_eq!((client.had.len(), client.had.last().unwrap().as_str()), (8, "tick"));
        assert!(client.overlap.is_over(client.at(1700)));
    }

    #[test]
    fn copies_of_a_server_that_stood_still_are_no_messages() {
        let mut client = Client::new();
        client.old(100, "a");
        client.overlap.is_even(None, client.at(4000));
        assert_eq!(client.overlap.switch(client.at(4000)).count(), 0);
        client.new_server(9000, "a");
        assert_eq!(client.had, ["a"], "it has answered nothing since the switch");
        client.old(9000, "b");
        client.overlap = Overlap::new(None);
        client.overlap.old_delivers(b"1", Some(b"b"), client.at(9000));
        assert_eq!(client.overlap.switch(client.at(9010)).count(), 0);
        client.overlap.present_answers(client.at(12_000));
        assert!(!client.overlap.is_over(client.at(14_000)) && client.overlap.is_over(client.at(14_001)));
        client.new_server(14_001, "b");
        assert_eq!(client.had, ["a", "b", "b"], "a message that looks the same");
    }

    #[test]
    fn a_copy_that_comes_while_the_session_goes_on_to_a_third_server_is_one() {
        let (mut overlap, now) = (Overlap::new(None), Instant::now());
        overlap.subscribes(now);
        overlap.old_delivers(b"1", Some(b"a"), now);
        assert_eq!(overlap.switch(now).count(), 0);
        let mut overlap = overlap.again(None);
        assert!(!overlap.is_switched() && !overlap.is_over(now));
        assert!(overlap.is_leftover(b"a", now) && !overlap.is_leftover(b"a", now));
    }

    #[test]
    fn members_of_a_queue_get_theirs_at_once_and_who_has_left_nothing() {
        let (mut overlap, now) = (Overlap::new(None), Instant::now());
        assert!(overlap.new_delivers(b"2", b"job", Some(Receives::ShareOfQueue), now));
        assert!(!overlap.new_delivers(b"3", b"late", None, now));
        assert_eq!(overlap.switch(Instant::now()).count(), 0);
        assert_eq!((overlap.not_counted(b"2"), overlap.not_counted(b"3"), overlap.not_counted(b"4")), (1, 1, 0));
    }

    #[test]
    fn what_is_too_much_ends_it() {
        let now = Instant::now();
        let mut long = Overlap::new(None);
        long.old_delivers(b"1", None, now);
        assert!(long.too_much().is_some());
        let mut kept = Overlap::new(None);
        for n in 0..4 {
            assert_eq!(kept.too_much(), None);
            kept.new_delivers(b"1", &[n; 1024 * 1024], ALL, now);
        }
        assert!(kept.too_much().is_some());
        kept.old_delivers(b"1", Some(&[1; 1024 * 1024]), now);
        assert_eq!(kept.too_much(), None, "what is matched takes no memory");
        let mut ahead = Overlap::new(None);
        ahead.subscribes(now);
        (0..=MOST_AHEAD).for_each(|n| ahead.old_delivers(b"1", Some(&n.to_le_bytes()), now));
        assert!(ahead.too_much().is_some());
        ahead.is_even(Some(now + Duration::from_nanos(1)), now);
        assert_eq!(ahead.too_much(), None);
    }

    /// Publishers, each of whose messages take some time to each of the servers, in order. The old one has the
    /// subscription from the beginning to its end, or since the publisher's server knows of it; the new one has what
    /// comes to it behind the subscription, or, where nobody else there has subscribed, what was published since the
    /// publisher's server knows of it.
    #[test]
    fn no_message_is_lost_doubled_or_out_of_its_publishers_order() {
        for seed in 0..3000 {
            play(seed);
        }
    }

    fn play(seed: u64) {
        const SUBSCRIBED: u64 = 700;
        let rng = &mut fastrand::Rng::with_seed(seed);
        // The old server stops at least 1.5 s after the new one has the subscription.
        let end = SUBSCRIBED + 1500 + rng.u64(..500);
        let (mut sent, mut events) = (vec![Vec::new(); 3], Vec::new());
        // When the client has subscribed, where that is not long ago.
        let made = rng.bool().then(|| rng.u64(..SUBSCRIBED));
        let mut first_of_old = [usize::MAX; 3];
        for (publisher, sent) in sent.iter_mut().enumerate() {
            let is_first_there = rng.bool();
            let knows_new = SUBSCRIBED + rng.u64(..400);
            let knows_old = made.map_or(0, |made| made + rng.u64(..400));
            // What looks the same comes at times that are further apart than copies are.
            let repeats = rng.bool();
            let longest = rng.u64(1..if repeats { 20 } else { 300 });
            let (mut at, mut last) = (rng.u64(..100), [0, 0]);
            while at < end + 1500 {
                let message = match repeats {
                    true => format!("{publisher} the same"),
                    false => format!("{publisher} {at}"),
                };
                sent.push(message.clone());
                for server in [0, 1] {
                    last[server] = last[server].max(at + rng.u64(..longest));
                    let has_it = match server {
                        0 => at < end && at >= knows_old,
                        _ if is_first_there => at >= knows_new,
                        _ => last[server] >= SUBSCRIBED,
                    };
                    if has_it && server == 0 {
                        first_of_old[publisher] = first_of_old[publisher].min(sent.len() - 1);
                    }
                    if has_it {
                        events.push((last[server], server, message.clone()));
                    }
                }
                at += if repeats { rng.u64(2 * longest + 1..100) } else { rng.u64(1..80) };
            }
        }
        // The end of the old server's deliveries is known once all of them are there.
        let switch = events.iter().filter(|one| one.1 == 0).map(|one| one.0).max().unwrap_or(end).max(end);
        events.sort_by_key(|one| one.0);
        assert_eq!(Duration::from_millis(300), REMEMBERS_BEFORE);
        let remembers_from = SUBSCRIBED - 300;
        let mut client = Client::new();
        client.overlap = Overlap::new(made.map(|made| client.at(made)));
        let mut is_switched = false;
        for (at, server, message) in events {
            if at >= SUBSCRIBED && client.overlap.last_sub.is_none() {
                let now = client.at(SUBSCRIBED);
                client.overlap.subscribes(now);
            }
            if !is_switched && at > switch {
                client.switch(switch);
                is_switched = true;
            }
            match server {
                0 if at < remembers_from => client.had.push(message),
                0 => client.old(at, &message),
                _ => client.new_server(at, &message),
            }
        }
        if !is_switched {
            client.switch(switch);
        }
        for (publisher, (sent, first)) in sent.iter().zip(first_of_old).enumerate() {
            let mine = |one: &&String| one.starts_with(&format!("{publisher} "));
            let had: Vec<_> = client.had.iter().filter(mine).cloned().collect();
            // What only the new server may have had before may come too, but in order.
            let about = format!("seed {seed}, publisher {publisher}: {} from {first}", sent[0]);
            assert!(
                sent.ends_with(&had) && had.len() >= sent.len() - first,
                "{about}: {} of {}",
                had.len(),
                sent.len()
            );
        }
    }
}
