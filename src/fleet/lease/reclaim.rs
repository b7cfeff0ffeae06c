//! What may be taken back of the leases of terms that have ended.
//!
//! A term that has ended says that its weir cannot reach the bucket. The weir may be dead, stopped, or cut off, with
//! sessions that go on. So its lease is lowered only to what the servers still count: all connections of the account,
//! without those that live weirs had open all the while and those that came past weir. The servers are read
//! [`SETTLE`] after the end of the term or later: what was on its way to them has arrived by then.
//!
//! A weir whose connection to the cluster is there, stopped or cut off from the bucket only, keeps its floor besides.
//! Once that is gone, too, the servers are read anew. That somebody subscribes where it is asked does not show that it
//! is the weir: whoever looks at all messages does. So one that never answers counts as gone after [`SILENT_FOR`]. If
//! it was stopped for so long it uses no floor when it wakes, before it has tried to reach the bucket.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::fleet::lease::{Answer, Holder, record::Entry};

/// So long after the end of a term the servers are read at the earliest: a connection that was dialled in its term has
/// been let in, or closed for its time to log in (`auth_timeout` of nats-server, 2 s by default), by then. Where
/// servers give more time it is that and a second.
pub const SETTLE: Duration = Duration::from_secs(3);

/// The same of a server's slots: a server counts a connection from its first moment on, and what was dialled shortly
/// before is on its way for this long at most.
pub const SETTLE_OF_SERVERS: Duration = Duration::from_millis(500);

/// Where no server counts connections, what a weir holds whose connection is gone is taken for lost after this.
pub const WITHOUT_COUNTS: Duration = Duration::from_secs(10);

/// A weir that has been asked for so long, and as many times at least, and never answered while somebody subscribes, is
/// not there.
pub const SILENT_FOR: Duration = Duration::from_secs(10);
const SILENT_TIMES: u32 = 8;

/// How often a weir whose term has ended is asked whether its connection is there.
const ASK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Asked {
    /// When it was asked last.
    at: Option<Instant>,
    is_busy: bool,
    /// Answers without a subscriber, one after the other; the first of them.
    none: u32,
    none_since: Option<Instant>,
    /// Times that it did not answer although somebody subscribes, one after the other, and the first of them.
    silent: u32,
    silent_since: Option<Instant>,
    /// Since when it is known that its connection is gone.
    gone_since: Option<Instant>,
    is_there: bool,
}

/// Whether the connections are there of those whose terms have ended.
#[derive(Debug, Default)]
pub(super) struct Connections(HashMap<Holder, Asked>);

impl Connections {
    /// Whether to ask this one now.
    pub fn is_due(&mut self, now: Instant, holder: &Holder) -> bool {
        let asked = self.0.entry(holder.clone()).or_default();
        let is_due = !asked.is_busy && asked.at.is_none_or(|at| now.saturating_duration_since(at) >= ASK_EVERY);
        if is_due {
            (asked.is_busy, asked.at) = (true, Some(now));
        }
        is_due
    }

    pub fn answered(&mut self, now: Instant, holder: &Holder, answer: &Answer) {
        let Some(asked) = self.0.get_mut(holder) else { return };
        asked.is_busy = false;
        match answer {
            Answer::NoResponders => {
                asked.none += 1;
                let since = *asked.none_since.get_or_insert(now);
                if asked.none >= 2 {
                    asked.gone_since.get_or_insert(since);
                }
                asked.is_there = false;
            }
            Answer::Silent => {
                asked.silent += 1;
                let since = *asked.silent_since.get_or_insert(now);
                asked.is_there = asked.gone_since.is_none();
                if asked.silent >= SILENT_TIMES && now.saturating_duration_since(since) >= SILENT_FOR {
                    asked.gone_since.get_or_insert(now);
                }
            }
            Answer::Responds => {
                *asked = Asked { at: asked.at, is_there: true, ..Asked::default() };
            }
            // Nobody has heard whether it answers.
            _ => (asked.silent, asked.silent_since) = (0, None),
        }
    }

    /// Since when its connection is gone: two answers have said that nobody subscribes, or it has not answered
    /// for long.
    pub fn gone_since(&self, holder: &Holder) -> Option<Instant> {
        self.0.get(holder)?.gone_since
    }

    /// Whether its connection is there, as far as anybody can tell.
    pub fn is_there(&self, holder: &Holder) -> bool {
        self.0.get(holder).is_some_and(|asked| asked.is_there)
    }

    /// Forgets all but those.
    pub fn keep(&mut self, is_ended: impl Fn(&Holder) -> bool) {
        self.0.retain(|holder, _| is_ended(holder));
    }
}

/// What is known of the weir of a lease whose term has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It has said that it left nothing.
    Left,
    /// Its connection is gone for so long.
    Gone(Duration),
    /// Its connection is there.
    Connected,
    Unknown,
}

/// What is left of a lease whose term has ended. `counted` is how many connections of it, and of others whose terms
/// have ended, the servers may still have; `None`: that is not known yet. `has_counts` says whether it will be.
pub(super) fn left(entry: &Entry, whereabouts: Whereabouts, counted: Option<u32>, has_counts: bool) -> u32 {
    match (whereabouts, counted) {
        (Whereabouts::Left, _) => 0,
        (Whereabouts::Gone(_), Some(counted)) => entry.n.min(counted),
        (Whereabouts::Gone(since), None) if !has_counts && since >= WITHOUT_COUNTS => 0,
        (Whereabouts::Connected, Some(counted)) => entry.n.min(entry.f.max(counted)),
        _ => entry.n,
    }
}

/// A reading of the servers: so many connections they all had together at some time since `began`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub began: Instant,
    pub ended: Instant,
    pub connections: u32,
    /// The revision of a write of the own membership that was sent after it.
    pub after: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::lease::record::Record;

    #[test]
    fn what_the_servers_count_is_left_and_the_floor_of_one_that_is_connected() {
        let mut record = Record::default();
        let holder = Holder::parse("w.0000000000000001").unwrap();
        record.set(&holder, (1, 50, 33, 0));
        let entry = &record.l[&holder];
        let second = Duration::from_secs(1);
        assert_eq!(left(entry, Whereabouts::Left, None, true), 0);
        assert_eq!(left(entry, Whereabouts::Gone(second), None, true), 50);
        assert_eq!(left(entry, Whereabouts::Gone(second), Some(7), true), 7);
        assert_eq!(left(entry, Whereabouts::Gone(second), Some(70), true), 50);
        assert_eq!(left(entry, Whereabouts::Gone(9 * second), None, false), 50);
        assert_eq!(left(entry, Whereabouts::Gone(10 * second), None, false), 0);
        assert_eq!(left(entry, Whereabouts::Gone(99 * second), None, true), 50, "the count will come");
        assert_eq!(left(entry, Whereabouts::Connected, Some(7), true), 33);
        assert_eq!(left(entry, Whereabouts::Connected, Some(40), true), 40);
        assert_eq!(left(entry, Whereabouts::Connected, None, false), 50);
        assert_eq!(left(entry, Whereabouts::Unknown, Some(0), true), 50);
    }

    #[test]
    fn one_answer_is_not_enough() {
        let (mut connections, began) = (Connections::default(), Instant::now());
        let holder = Holder::parse("w.0000000000000001").unwrap();
        assert!(connections.is_due(began, &holder) && !connections.is_due(began + ASK_EVERY, &holder), "one at a time");
        connections.answered(began, &holder, &Answer::NoResponders);
        assert!(!connections.is_due(began, &holder) && connections.is_due(began + ASK_EVERY, &holder));
        assert_eq!(connections.gone_since(&holder), None);
        connections.answered(began + ASK_EVERY, &holder, &Answer::NoResponders);
        assert_eq!(connections.gone_since(&holder), Some(began));
        assert!(connections.is_due(began + 2 * ASK_EVERY, &holder), "it may come back");
        connections.answered(began + 2 * ASK_EVERY, &holder, &Answer::Responds);
        assert_eq!((connections.gone_since(&holder), connections.is_there(&holder)), (None, true));
    }

    #[test]
    fn who_subscribes_in_place_of_a_weir_keeps_it_there_for_some_seconds_only() {
        let (mut connections, began) = (Connections::default(), Instant::now());
        let holder = Holder::parse("w.0000000000000001").unwrap();
        let mut ask = |ms: u64, answer: &Answer| {
            let now = began + Duration::from_millis(ms);
            assert!(connections.is_due(now, &holder));
            connections.answered(now, &holder, answer);
            (connections.gone_since(&holder), connections.is_there(&holder))
        };
        for ms in (0..10_000).step_by(1000) {
            assert_eq!(ask(ms, &Answer::Silent), (None, true), "after {ms} ms it may stand still");
        }
        let gone = Some(began + SILENT_FOR);
        assert_eq!(ask(10_000, &Answer::Silent), (gone, true));
        assert_eq!(ask(11_000, &Answer::Silent), (gone, false));
        assert_eq!(ask(12_000, &Answer::NoResponders).0, gone);
        assert_eq!(ask(13_000, &Answer::Responds), (None, true), "it stood still");
        // Nobody was asked for a while: few questions prove nothing.
        ask(14_000, &Answer::Silent);
        assert_eq!(ask(90_000, &Answer::Silent), (None, true));
        ask(91_000, &Answer::Unknown);
        for ms in (92_000..102_000).step_by(1000) {
            assert_eq!(ask(ms, &Answer::Silent).0, None, "the servers did not answer in between");
        }
    }
}
