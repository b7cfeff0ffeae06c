//! The connections that ended last, and why: sessions, and clients that never became one.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    outcome::{Close, Refusal},
    relay::registry::SessionHandle,
    telemetry::moment::Moment,
};

/// How many ended connections are remembered by default: nats-server's `DEFAULT_MAX_CLOSED_CLIENTS` (const.go).
pub const DEFAULT_MAX_CLOSED: usize = 10_000;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Refused(Refusal),
    Closed(Close),
}

impl Ending {
    /// The reason by the name that the log and the metrics have for it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.name(),
            Self::Closed(close) => close.cause.name(),
        }
    }
}

/// A connection that has ended.
#[derive(Debug, Clone)]
pub struct ClosedSession {
    pub session: Arc<SessionHandle>,
    pub stop: Moment,
    pub ending: Ending,
}

/// The connections that ended last.
#[derive(Debug)]
pub struct ClosedSessions {
    most: AtomicUsize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The oldest first.
    entries: VecDeque<ClosedSession>,
    /// The number of the oldest; all are numbered in the order in which they ended.
    first: u64,
}

impl Default for ClosedSessions {
    fn default() -> Self {
        Self { most: AtomicUsize::new(DEFAULT_MAX_CLOSED), ring: Mutex::default() }
    }
}

impl ClosedSessions {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers no more than so many. 0 remembers none.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Relaxed);
        let mut ring = self.ring();
        let surplus = ring.entries.len().saturating_sub(most);
        let dropped: Vec<_> = ring.entries.drain(..surplus).collect();
        ring.first = ring.first.saturating_add(dropped.len() as u64);
        ring.entries.shrink_to_fit();
        drop(ring);
    }

    /// Remembers a connection that has ended just now.
    pub fn note(&self, session: Arc<SessionHandle>, ending: Ending) {
        let most = self.most.load(Relaxed);
        if most == 0 {
            return;
        }
        let closed = ClosedSession { session, stop: Moment::now(), ending };
        let mut ring = self.ring();
        // Dropped behind the lock.
        let _forgotten = if ring.entries.len() >= most {
            ring.first = ring.first.saturating_add(1);
            ring.entries.pop_front()
        } else {
            None
        };
        ring.entries.push_back(closed);
        drop(ring);
    }

    /// Some of them, the newest first: those numbered below `before`, with their numbers. Begin with [`u64::MAX`], go
    /// on with the last number; empty at the end.
    pub fn before(&self, before: u64, most: usize) -> Vec<(u64, ClosedSession)> {
        let ring = self.ring();
        let end = usize::try_from(before.saturating_sub(ring.first)).unwrap_or(usize::MAX).min(ring.entries.len());
        let newest_first = ring.entries.range(..end).enumerate().rev().take(most);
        newest_first.map(|(at, closed)| (ring.first.saturating_add(at as u64), closed.clone())).collect()
    }

    pub fn len(&self) -> usize {
        self.ring().entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(closed: &ClosedSessions, id: u64) {
        closed.note(Arc::new(SessionHandle::of_id(id)), Ending::Refused(Refusal::Draining));
    }

    fn ids(closed: &ClosedSessions, at_a_time: usize) -> Vec<u64> {
        let (mut before, mut ids) = (u64::MAX, Vec::new());
        loop {
            let some = closed.before(before, at_a_time);
            let Some((last, _)) = some.last() else { return ids };
            before = *last;
            ids.extend(some.iter().map(|(_, one)| one.session.facts().id));
        }
    }

    #[test]
    fn the_last_ones_are_remembered_the_newest_first() {
        let closed = ClosedSessions::default();
        closed.set_most(5);
        for id in 1..=3 {
            note(&closed, id);
        }
        assert_eq!(ids(&closed, 2), [3, 2, 1]);
        for id in 4..=9 {
            note(&closed, id);
        }
        for at_a_time in 1..=6 {
            assert_eq!(ids(&closed, at_a_time), [9, 8, 7, 6, 5]);
        }
        closed.set_most(2);
        assert_eq!((ids(&closed, 9), closed.len()), (vec![9, 8], 2));
        closed.set_most(0);
        note(&closed, 10);
        assert!(ids(&closed, 9).is_empty());
    }

    #[test]
    fn a_walk_goes_on_where_it_was_while_others_end() {
        let closed = ClosedSessions::default();
        closed.set_most(4);
        (1..=4).for_each(|id| note(&closed, id));
        let some = closed.before(u64::MAX, 2);
        note(&closed, 5);
        let rest = closed.before(some.last().unwrap().0, 9);
        assert_eq!(rest.iter().map(|(_, one)| one.session.facts().id).collect::<Vec<_>>(), [2], "1 is forgotten");
    }
}
