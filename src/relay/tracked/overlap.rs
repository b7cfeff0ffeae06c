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

use crate::protocol::subscriptions::{Receives, unsub};

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
    /// The session stays on the old server, and only its own share of queue groups is wanted of the new one.
    leaves_new: bool,
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
            leaves_new: false,
            answered: None,
        }
    }

    /// The session is to go to yet another server. Copies may still come of what the one before delivered.
    pub fn again(self, last_sub: Option<Instant>) -> Self {
        let Self { leftovers, answered, hasher, .. } = self;
        Self { leftovers, answered, hasher, ..Self::new(last_sub) }
    }

    /// The session stays on the old server: nothing is matched any more.
    pub fn leaves_new(&mut self) {
        self.leaves_new = true;
        (self.ahead, self.kept, self.kept_bytes) = (Bag::default(), Bag::default(), 0);
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
        if self.leaves_new {
            return;
        }
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
        self.is_too_long = false;
    }

    /// The client subscribes, with these arguments of SUB.
    pub fn subscribe(&mut self, arguments: &[u8], now: Instant) {
        if self.leaves_new {
            return;
        }
        let arguments = arguments.trim_ascii_end();
        // Before that it gets this one with all others.
        if let Some(last_sub) = &mut self.last_sub {
            *last_sub = now;
            self.to_new.extend_from_slice(b"SUB ");
            self.to_new.extend_from_slice(arguments);
            self.to_new.extend_from_slice(b"\r\n");
        }
        // The sid is the last word.
        let sid = arguments.rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
        if self.made.len() > MOST_FAR {
            self.made.retain(|_, at| now.saturating_duration_since(*at) < YOUNG_FOR);
        }
        if self.made.len() <= MOST_AHEAD {
            self.made.insert(self.hasher.hash_one(sid), now);
        }
    }

    /// The subscription with this sid has ended.
    pub fn unsubscribe(&mut self, sid: &[u8]) {
        // One that is left has been told to end all of them.
        if self.last_sub.is_some() && !self.leaves_new {
            unsub(sid, None, &mut self.to_new);
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
            Some(Receives::All) if self.leaves_new => false,
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
mod tests;
