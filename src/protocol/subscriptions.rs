//! The subscriptions of a client as its server knows them, in bounded memory: what it takes to subscribe for the client
//! on another server so that it does not notice.
//!
//! SUB and UNSUB are read as nats-server reads them (`processSub`, `processUnsub` and `deliverMsg` in its client.go,
//! 2.15): a SUB with a `sid` that is in use changes nothing, and a subscription with a maximum ends with the message
//! that reaches it, counted since the SUB.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use memchr::memchr_iter;

use crate::protocol::op::MAX_DIGITS;

/// A new subscription finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

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
    all: Vec<Subscription>,
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
            restored.subscribe(arguments).map_err(|NoRoom| NotRestored::NoRoom)?;
            let is_new = restored.all.len() > before;
            let one = restored.all.last_mut().filter(|_| is_new && (max == 0 || delivered < max));
            let one = one.ok_or(NotRestored::NotOne)?;
            (one.delivered, one.max) = (delivered, max);
        }
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

    /// Takes in a SUB with these arguments: subject, queue if any, sid. Arguments that a server refuses change nothing.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn subscribe(&mut self, arguments: &[u8]) -> Result<(), NoRoom> {
        let mut words = words(arguments);
        let (subject, second, third) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(subject), Some(second), third, None) => (subject, second, third),
            _ => return Ok(()),
        };
        let (queue, sid) = third.map_or((None, second), |sid| (Some(second), sid));
        if self.find(sid).is_some() {
            return Ok(());
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
        Ok(())
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

    /// Takes in an UNSUB with these arguments: sid, and a maximum where there is one.
    pub fn unsubscribe(&mut self, arguments: &[u8]) {
        let mut words = words(arguments);
        let (sid, max) = match (words.next(), words.next(), words.next()) {
            (Some(sid), max, None) => (sid, max),
            _ => return,
        };
        let Some(position) = self.find(sid) else { return };
        // A maximum that is no number ends it at once, as none does.
        let max = max.and_then(size).unwrap_or(0);
        match self.all.get_mut(position as usize) {
            Some(one) if max > one.delivered => one.max = max,
            _ => self.end(position),
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

    /// A server has refused all subscriptions to this subject, of this queue where it names one.
    pub fn refused(&mut self, subject: &[u8], queue: Option<&[u8]>) {
        let mut position = 0;
        while let Some(one) = self.all.get(position as usize) {
            let mut words = text_of(&self.text, *one).split(|byte| *byte == b' ').skip(1);
            match words.next() == Some(subject) && words.next() == queue {
                true => self.end(position),
                false => position = position.saturating_add(1),
            }
        }
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

    fn end(&mut self, position: u32) {
        let Self { text, all, by_sid, hasher, unused, .. } = self;
        let hash_at = |all: &[Subscription], at| hasher.hash_one(sid_at(text, all, at));
        let hash = hash_at(all, position);
        if let Ok(found) = by_sid.find_entry(hash, |at| *at == position) {
            found.remove();
        }
        // The last one takes its place.
        let last = u32::try_from(all.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if last != position {
            let hash = hash_at(all, last);
            if let Entry::Occupied(mut moved) =
                by_sid.entry(hash, |at| *at == last, |at| hasher.hash_one(sid_at(text, all, *at)))
            {
                *moved.get_mut() = position;
            }
        }
        let ended = all.swap_remove(position as usize);
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
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What a table says of each: subject and queue, messages delivered, maximum.
    type Reference = BTreeMap<Vec<u8>, (Vec<u8>, u32, u32)>;

    #[derive(Debug, Clone)]
    enum Step {
        Sub { sid: u8, subject: u8, queue: bool },
        Unsub { sid: u8, max: Option<u8> },
        Delivered { sid: u8, messages: u8 },
        Refused { subject: u8, queue: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40u8, 0..5u8, any::<bool>()).prop_map(|(sid, subject, queue)| Step::Sub { sid, subject, queue }),
            2 => (0..40u8, proptest::option::of(0..6u8)).prop_map(|(sid, max)| Step::Unsub { sid, max }),
            4 => (0..40u8, 1..4u8).prop_map(|(sid, messages)| Step::Delivered { sid, messages }),
            1 => (0..5u8, any::<bool>()).prop_map(|(subject, queue)| Step::Refused { subject, queue }),
        ]
    }

    fn texts(sid: u8, subject: u8, queue: bool) -> (String, String, Option<&'static str>) {
        // Of different lengths, so that texts move within the table.
        (format!("{sid}"), format!("s.{}", "x".repeat(subject.into())), queue.then_some("workers"))
    }

    fn apply(subs: &mut Subscriptions, reference: &mut Reference, step: &Step) {
        match *step {
            Step::Sub { sid, subject, queue } => {
                let (sid, subject, queue) = texts(sid, subject, queue);
                let rest = queue.map_or(subject.clone(), |queue| format!("{subject} {queue}"));
                subs.subscribe(format!("{rest} {sid}").as_bytes()).unwrap();
                reference.entry(sid.into()).or_insert((rest.into(), 0, 0));
            }
            Step::Unsub { sid, max } => {
                let max_text = max.map_or(String::new(), |max| format!(" {max}"));
                subs.unsubscribe(format!("{sid}{max_text}").as_bytes());
                let (key, max) = (sid.to_string().into_bytes(), u32::from(max.unwrap_or(0)));
                if let Some(one) = reference.get_mut(&key) {
                    one.2 = max;
                    if max <= one.1 {
                        reference.remove(&key);
                    }
                }
            }
            Step::Delivered { sid, messages } => {
                let key = sid.to_string().into_bytes();
                subs.delivered(&key, messages.into());
                if let Some(one) = reference.get_mut(&key) {
                    one.1 += u32::from(messages);
                    if one.2 > 0 && one.1 >= one.2 {
                        reference.remove(&key);
                    }
                }
            }
            Step::Refused { subject, queue } => {
                let (_, subject, queue) = texts(0, subject, queue);
                subs.refused(subject.as_bytes(), queue.map(str::as_bytes));
                let rest = queue.map_or(subject.clone(), |queue| format!("{subject} {queue}"));
                reference.retain(|_, one| one.0 != rest.as_bytes());
            }
        }
    }

    fn lines(subs: &Subscriptions) -> Vec<String> {
        let mut out = Vec::new();
        subs.write(&mut out);
        let mut lines: Vec<_> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn lines_of(reference: &Reference) -> Vec<String> {
        let mut lines = Vec::new();
        for (sid, (rest, delivered, max)) in reference {
            let (sid, rest) = (str::from_utf8(sid).unwrap(), str::from_utf8(rest).unwrap());
            lines.push(format!("SUB {rest} {sid}"));
            if *max > 0 {
                lines.push(format!("UNSUB {sid} {}", max - delivered));
            }
        }
        lines.sort();
        lines
    }

    proptest! {
        #[test]
        fn a_table_says_what_a_plain_map_says(steps in proptest::collection::vec(step(), 0..300)) {
            let (mut subs, mut reference) = (Subscriptions::new(usize::MAX), Reference::new());
            for step in &steps {
                apply(&mut subs, &mut reference, step);
                prop_assert_eq!(subs.len(), reference.len());
            }
            prop_assert_eq!(lines(&subs), lines_of(&reference));
            let all: Vec<_> = subs.all().collect();
            let told = || all.iter().map(|(arguments, delivered, max)| (arguments.as_slice(), *delivered, *max));
            let restored = Subscriptions::restore(subs.bytes(), told()).unwrap();
            prop_assert_eq!(restored.all().collect::<Vec<_>>(), all.clone());
            prop_assert_eq!(lines(&restored), lines_of(&reference));
            if !all.is_empty() {
                prop_assert_eq!(Subscriptions::restore(10, told()).map(drop), Err(NotRestored::NoRoom));
                prop_assert_eq!(Subscriptions::restore(1 << 20, told().chain(told())).map(drop), Err(NotRestored::NotOne));
            }
            for sid in reference.keys() {
                subs.unsubscribe(sid);
            }
            prop_assert!(subs.is_empty());
            prop_assert_eq!(subs.bytes(), 0);
        }
    }

    #[test]
    fn arguments_are_read_as_a_server_does() {
        let mut subs = Subscriptions::new(usize::MAX);
        for bad in ["", "foo", "foo q 1 more"] {
            subs.subscribe(bad.as_bytes()).unwrap();
        }
        assert!(subs.is_empty());
        subs.subscribe(b"foo\t 1\r\n").unwrap();
        subs.subscribe(b"bar  workers   2 ").unwrap();
        subs.subscribe(b"other 1").unwrap();
        assert_eq!(lines(&subs), ["SUB bar workers 2", "SUB foo 1"], "a sid that is in use stays what it is");
        subs.delivered(b"2", 3);
        subs.unsubscribe(b"2 5\r\n");
        assert_eq!(lines(&subs), ["SUB bar workers 2", "SUB foo 1", "UNSUB 2 2"]);
        subs.unsubscribe(b"2 3");
        subs.unsubscribe(b"1 x");
        assert!(subs.is_empty(), "it has had so many, and what is no number is no maximum");
    }

    #[test]
    fn no_more_memory_is_used_than_allowed() {
        for most in [0, 200, 4 * 1024, 64 * 1024] {
            let mut subs = Subscriptions::new(most);
            let subscribe = |n: &u32| subs.subscribe(format!("orders.eu.{n:05}.created {n}").as_bytes()).is_ok();
            let fit = (0..10_000).take_while(subscribe).count();
            assert!(fit < 10_000 && (most < 64 * 1024 || fit >= 1000), "{fit} in {most} bytes");
        }
    }

    #[test]
    fn who_subscribes_for_each_request_needs_no_more_memory_with_time() {
        let mut subs = Subscriptions::new(1024);
        subs.subscribe(b"_INBOX.all.> 0").unwrap();
        for n in 1..10_000 {
            subs.subscribe(format!("_INBOX.{n} {n}").as_bytes()).unwrap();
            if n > 4 {
                subs.unsubscribe((n - 4).to_string().as_bytes());
            }
        }
        assert_eq!(subs.len(), 5);
    }
}
