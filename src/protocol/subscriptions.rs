//! The subscriptions of a client as its server knows them, in bounded memory: what it takes to subscribe for the client
//! on another server so that it does not notice.
//!
//! SUB and UNSUB are read as nats-server reads them (`processSub`, `processUnsub` and `deliverMsg` in its client.go,
//! 2.15): a SUB with a `sid` that is in use changes nothing, and a subscription with a maximum ends with the message
//! that reaches it, counted since the SUB.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use memchr::memchr_iter;

use crate::protocol::op::MAX_DIGITS;

/// A new subscription finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// What a SUB has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// There is one subscription more, unless the server has a reason to refuse it that the SUB does not show.
    New,
    /// Nothing: its sid is in use.
    InUse,
    /// Nothing: a server refuses its subject.
    Invalid,
}

/// Why subscriptions are not restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRestored {
    /// There is no room for them.
    NoRoom,
    /// One of them is none, is there twice, or has ended.
    NotOne,
}

/// Which messages a subscription gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receives {
    /// Each message to its subject.
    All,
    /// Those that fall to it in its queue group: each message goes to one member.
    ShareOfQueue,
}

/// The subscriptions of one client.
#[derive(Debug)]
pub struct Subscriptions {
    /// `SID SUBJECT` or `SID SUBJECT QUEUE` of each, one behind another.
    text: Vec<u8>,
    /// Of `text`, the bytes of those that have ended.
    unused: usize,
    /// First those that the server has [confirmed](Self::confirm), in no order, then the others as they came, unless
    /// one has ended meanwhile.
    all: Vec<Subscription>,
    confirmed: usize,
    /// Positions in `all`, by the hash of the sid.
    by_sid: HashTable<u32>,
    /// Seeded. A client that finds sids of one hash slows down its own messages, within the bound of memory.
    hasher: DefaultHashBuilder,
    /// Where the last one was found that was looked for: messages often come in a row.
    last: u32,
    most_bytes: usize,
}

/// Counts go to 2^32 - 1 and no further: what is counted so high counts as without end.
#[derive(Debug, Clone, Copy)]
struct Subscription {
    /// Where its text begins.
    at: u32,
    sid_len: u16,
    text_len: u16,
    /// Messages that its client has had.
    delivered: u32,
    /// It ends with this message; 0 where it does not end by itself.
    max: u32,
}

impl Subscriptions {
    /// None, which may take so many bytes of memory.
    pub fn new(most_bytes: usize) -> Self {
        Self {
            text: Vec::new(),
            unused: 0,
            all: Vec::new(),
            confirmed: 0,
            by_sid: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            last: 0,
            most_bytes,
        }
    }

    /// All of them: arguments of SUB, messages delivered, and the message with which it ends; 0 where it does not end
    /// by itself.
    pub fn all(&self) -> impl Iterator<Item = (Vec<u8>, u32, u32)> {
        self.all.iter().map(|one| {
            let mut arguments = Vec::with_capacity(one.text_len.into());
            self.write_arguments(*one, &mut arguments);
            (arguments, one.delivered, one.max)
        })
    }

    /// Those that [`Self::all`] has told, in the same order. They may take so many bytes of memory.
    ///
    /// # Errors
    /// It is not what that tells, or takes more memory.
    pub fn restore<'a>(
        most_bytes: usize,
        all: impl Iterator<Item = (&'a [u8], u32, u32)> + Clone,
    ) -> Result<Self, NotRestored> {
        let mut restored = Self::new(most_bytes);
        // At once, so that they take no more memory than they have taken.
        let text = all.clone().fold(0_usize, |sum, (arguments, ..)| sum.saturating_add(arguments.len()));
        if text > most_bytes {
            return Err(NotRestored::NoRoom);
        }
        restored.text.reserve_exact(text);
        restored.all.reserve_exact(all.clone().count());
        for (arguments, delivered, max) in all {
            let before = restored.all.len();
            let subscribed = restored.subscribe(arguments).map_err(|NoRoom| NotRestored::NoRoom)?;
            // Another weir may not have known that.
            if subscribed == Some(Subscribed::Invalid) {
                continue;
            }
            let is_new = restored.all.len() > before;
            let one = restored.all.last_mut().filter(|_| is_new && (max == 0 || delivered < max));
            let one = one.ok_or(NotRestored::NotOne)?;
            (one.delivered, one.max) = (delivered, max);
        }
        restored.confirm();
        Ok(restored)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The bytes of memory that they take.
    pub fn bytes(&self) -> usize {
        let of_all = self.all.capacity().saturating_mul(size_of::<Subscription>());
        self.text.capacity().saturating_add(of_all).saturating_add(self.by_sid.allocation_size())
    }

    /// Takes in a SUB with these arguments: subject, queue if any, sid. `None` where they are none of a SUB.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn subscribe(&mut self, arguments: &[u8]) -> Result<Option<Subscribed>, NoRoom> {
        let mut words = words(arguments);
        let (subject, second, third) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(subject), Some(second), third, None) => (subject, second, third),
            _ => return Ok(None),
        };
        let (queue, sid) = third.map_or((None, second), |sid| (Some(second), sid));
        if self.find(sid).is_some() {
            return Ok(Some(Subscribed::InUse));
        }
        if !is_valid(subject) {
            return Ok(Some(Subscribed::Invalid));
        }
        let queue_len = queue.map_or(0, |queue| queue.len().saturating_add(1));
        let text_len = sid.len().saturating_add(1).saturating_add(subject.len()).saturating_add(queue_len);
        let (Ok(sid_len), Ok(text_len)) = (u16::try_from(sid.len()), u16::try_from(text_len)) else {
            return Err(NoRoom);
        };
        self.make_room(text_len.into())?;
        let (Ok(at), Ok(position)) = (u32::try_from(self.text.len()), u32::try_from(self.all.len())) else {
            return Err(NoRoom);
        };
        self.text.extend_from_slice(sid);
        self.text.push(b' ');
        self.text.extend_from_slice(subject);
        if let Some(queue) = queue {
            self.text.push(b' ');
            self.text.extend_from_slice(queue);
        }
        self.all.push(Subscription { at, sid_len, text_len, delivered: 0, max: 0 });
        let (hash, Self { text, all, by_sid, hasher, .. }) = (self.hasher.hash_one(sid), self);
        by_sid.insert_unique(hash, position, |at| hasher.hash_one(sid_at(text, all, *at)));
        Ok(Some(Subscribed::New))
    }

    /// Makes room for one more with so long a text.
    fn make_room(&mut self, text_len: usize) -> Result<(), NoRoom> {
        if self.text.capacity().saturating_sub(self.text.len()) < text_len {
            self.drop_unused();
            let more = text_len.max(self.text.len() / 4);
            self.text.reserve_exact(more);
        }
        if self.all.len() == self.all.capacity() {
            self.all.reserve_exact((self.all.len() / 4).max(1));
        }
        let Self { text, all, by_sid, hasher, .. } = self;
        by_sid.reserve(1, |at| hasher.hash_one(sid_at(text, all, *at)));
        if self.bytes() > self.most_bytes { Err(NoRoom) } else { Ok(()) }
    }

    /// Takes in an UNSUB with these arguments: sid, and a maximum where there is one. Returns whether one has ended.
    pub fn unsubscribe(&mut self, arguments: &[u8]) -> bool {
        let mut words = words(arguments);
        let (sid, max) = match (words.next(), words.next(), words.next()) {
            (Some(sid), max, None) => (sid, max),
            _ => return false,
        };
        let Some(position) = self.find(sid) else { return false };
        // A maximum that is no number ends it at once, as none does.
        let max = max.and_then(size).unwrap_or(0);
        match self.all.get_mut(position as usize) {
            Some(one) if max > one.delivered => {
                one.max = max;
                false
            }
            _ => {
                self.end(position);
                true
            }
        }
    }

    /// Counts messages that its client has had of the subscription with this sid. Returns whether it has ended by that.
    pub fn delivered(&mut self, sid: &[u8], messages: u32) -> bool {
        let Some(position) = self.find(sid) else { return false };
        let Some(one) = self.all.get_mut(position as usize) else { return false };
        one.delivered = one.delivered.saturating_add(messages);
        let ends = one.max > 0 && one.delivered >= one.max;
        if ends {
            self.end(position);
        }
        ends
    }

    /// Whose messages the subscription with this sid gets. `None` where there is none.
    pub fn receives(&mut self, sid: &[u8]) -> Option<Receives> {
        let position = self.find(sid)?;
        let one = self.all.get(position as usize)?;
        Some(self.received_by(*one))
    }

    fn received_by(&self, one: Subscription) -> Receives {
        let blanks = memchr_iter(b' ', text_of(&self.text, one)).count();
        if blanks > 1 { Receives::ShareOfQueue } else { Receives::All }
    }

    /// Whether any is a member of a queue group.
    pub fn has_queue(&self) -> bool {
        self.all.iter().any(|one| self.received_by(*one) == Receives::ShareOfQueue)
    }

    /// Whether a member of a queue group ends with a number of messages.
    pub fn has_queue_with_max(&self) -> bool {
        self.all.iter().any(|one| one.max > 0 && self.received_by(*one) == Receives::ShareOfQueue)
    }

    /// A server has refused all subscriptions to this subject, of this queue where it names one. Returns whether there
    /// were any.
    pub fn refused(&mut self, subject: &[u8], queue: Option<&[u8]>) -> bool {
        let (mut position, before) = (0, self.all.len());
        while let Some(one) = self.all.get(position as usize) {
            let mut words = text_of(&self.text, *one).split(|byte| *byte == b' ').skip(1);
            match words.next() == Some(subject) && words.next() == queue {
                true => self.end(position),
                false => position = position.saturating_add(1),
            }
        }
        self.all.len() < before
    }

    /// Appends what a server without them is to be sent: SUB of each, and UNSUB of those with a maximum, for what is
    /// left of it.
    pub fn write(&self, out: &mut Vec<u8>) {
        for one in &self.all {
            self.sub(*one, out);
            if one.max > 0 {
                unsub(self.sid(*one), Some(one.max.saturating_sub(one.delivered)), out);
            }
        }
    }

    /// Appends SUB of each, without a maximum.
    pub fn write_without_max(&self, out: &mut Vec<u8>) {
        self.all.iter().for_each(|one| self.sub(*one, out));
    }

    /// Appends UNSUB of those with a maximum, for a server that has delivered or will deliver so many messages of each
    /// sid that do not count.
    pub fn write_max(&self, not_counted: impl Fn(&[u8]) -> u32, out: &mut Vec<u8>) {
        for one in self.all.iter().filter(|one| one.max > 0) {
            let sid = self.sid(*one);
            let left = one.max.saturating_sub(one.delivered);
            unsub(sid, Some(left.saturating_add(not_counted(sid))), out);
        }
    }

    /// Appends UNSUB of each, at once.
    pub fn write_ends(&self, out: &mut Vec<u8>) {
        self.all.iter().for_each(|one| unsub(self.sid(*one), None, out));
    }

    fn sub(&self, one: Subscription, out: &mut Vec<u8>) {
        out.extend_from_slice(b"SUB ");
        self.write_arguments(one, out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_arguments(&self, one: Subscription, out: &mut Vec<u8>) {
        let sid = self.sid(one);
        let rest = text_of(&self.text, one).get(sid.len().saturating_add(1)..).unwrap_or_default();
        for part in [rest, b" ", sid] {
            out.extend_from_slice(part);
        }
    }

    fn sid(&self, one: Subscription) -> &[u8] {
        text_of(&self.text, one).get(..one.sid_len.into()).unwrap_or_default()
    }

    /// The position of the one with this sid.
    fn find(&mut self, sid: &[u8]) -> Option<u32> {
        let Self { text, all, by_sid, hasher, .. } = &*self;
        let is_it = |at: u32| sid_at(text, all, at) == sid;
        if all.get(self.last as usize).is_some() && is_it(self.last) {
            return Some(self.last);
        }
        self.last = *by_sid.find(hasher.hash_one(sid), |at| is_it(*at))?;
        Some(self.last)
    }

    /// The server has answered all of them: it has refused none of those that are left.
    pub fn confirm(&mut self) {
        self.confirmed = self.all.len();
    }

    /// The one that came last is refused, if the server has not confirmed it.
    pub fn end_newest_unconfirmed(&mut self) {
        let last = self.all.len().saturating_sub(1);
        if let (true, Ok(last)) = (self.all.len() > self.confirmed, u32::try_from(last)) {
            self.end(last);
        }
    }

    /// All are refused that the server has not confirmed.
    pub fn end_unconfirmed(&mut self) {
        while self.all.len() > self.confirmed {
            self.end_newest_unconfirmed();
        }
    }

    fn end(&mut self, position: u32) {
        let mut position = position;
        if let Some(last) = self.confirmed.checked_sub(1).filter(|last| position as usize <= *last) {
            // The confirmed ones stay together.
            self.exchange(position, last);
            (position, self.confirmed) = (u32::try_from(last).unwrap_or(position), last);
        }
        self.exchange(position, self.all.len().saturating_sub(1));
        let Self { text, all, by_sid, hasher, unused, .. } = self;
        let last = u32::try_from(all.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if let Ok(found) = by_sid.find_entry(hasher.hash_one(sid_at(text, all, last)), |at| *at == last) {
            found.remove();
        }
        let Some(ended) = all.pop() else { return };
        let end = (ended.at as usize).saturating_add(ended.text_len.into());
        match end == text.len() {
            true => text.truncate(ended.at as usize),
            false => *unused = unused.saturating_add(ended.text_len.into()),
        }
        if all.is_empty() {
            self.text = Vec::new();
            self.unused = 0;
            self.all = Vec::new();
            self.by_sid = HashTable::new();
        } else if self.unused > self.text.len() / 2 {
            self.drop_unused();
        }
    }

    /// Two change places.
    fn exchange(&mut self, one: u32, other: usize) {
        let Self { text, all, by_sid, hasher, .. } = self;
        let Ok(other) = u32::try_from(other) else { return };
        if one == other || all.len() <= one.max(other) as usize {
            return;
        }
        let [first, second] = [one, other].map(|at| hasher.hash_one(sid_at(text, all, at)));
        // Both are found before either has its new position.
        let mut positions = by_sid.get_disjoint_mut([first, second], |n, at| [one, other].get(n) == Some(at));
        for (found, to) in positions.iter_mut().zip([other, one]) {
            if let Some(found) = found {
                **found = to;
            }
        }
        all.swap(one as usize, other as usize);
    }

    /// Drops the text of those that have ended.
    fn drop_unused(&mut self) {
        if self.unused == 0 {
            return;
        }
        let mut kept = Vec::with_capacity(self.text.len().saturating_sub(self.unused));
        for one in &mut self.all {
            let text = text_of(&self.text, *one);
            one.at = u32::try_from(kept.len()).unwrap_or(u32::MAX);
            kept.extend_from_slice(text);
        }
        (self.text, self.unused) = (kept, 0);
    }
}

fn text_of(text: &[u8], one: Subscription) -> &[u8] {
    let at = one.at as usize;
    text.get(at..at.saturating_add(one.text_len.into())).unwrap_or_default()
}

fn sid_at<'a>(text: &'a [u8], all: &[Subscription], position: u32) -> &'a [u8] {
    let Some(one) = all.get(position as usize) else { return &[] };
    let at = one.at as usize;
    text.get(at..at.saturating_add(one.sid_len.into())).unwrap_or_default()
}

/// Splits arguments as `splitArg` of nats-server does.
fn words(arguments: &[u8]) -> impl Iterator<Item = &[u8]> {
    arguments.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).filter(|word| !word.is_empty())
}

/// Whether a server takes a subscription to it (`Insert` in its sublist.go): no token is empty, and none is behind `>`.
fn is_valid(subject: &[u8]) -> bool {
    let mut tokens = subject.split(|byte| *byte == b'.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() || token == b">" && tokens.peek().is_some() {
            return false;
        }
    }
    true
}

/// A maximum as `parseSize` of nats-server reads it.
fn size(word: &[u8]) -> Option<u32> {
    let is_size = word.len() <= MAX_DIGITS && word.iter().all(u8::is_ascii_digit);
    str::from_utf8(word).ok().filter(|_| is_size)?.parse().ok()
}

/// Appends UNSUB, at once or behind so many messages in all.
pub fn unsub(sid: &[u8], max: Option<u32>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"UNSUB ");
    out.extend_from_slice(sid);
    if let Some(max) = max {
        out.push(b' ');
        out.extend_from_slice(itoa::Buffer::new().format(max).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
