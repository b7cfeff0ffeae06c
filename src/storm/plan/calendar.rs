//! The queue of future events, in order of time: a calendar queue (R. Brown, 1988). It is a ring of slots of about one
//! millisecond. Adding an event pushes it onto its slot; only the current slot is sorted. Events beyond the ring wait
//! in a heap.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Nanoseconds since the beginning of the storm.
pub(super) type Nanos = u64;

/// 2^20 ns: 1.05 ms.
const SLOT_BITS: u32 = 20;
/// 2^15 slots: 34 s.
const SLOTS: u64 = 1 << 15;

/// An event. Events at the same time are ordered by `who`, then by `what`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) at: Nanos,
    pub(super) who: u32,
    /// The kind of event, and a generation that tells stale events from live ones.
    pub(super) what: u32,
}

#[derive(Debug)]
pub(super) struct Calendar {
    slots: Vec<Vec<Event>>,
    /// The number of the current slot, counted from the beginning.
    current: u64,
    /// The events of the current slot, in descending order.
    due: Vec<Event>,
    /// Events that were added to the current slot after it was sorted.
    added: BinaryHeap<Reverse<Event>>,
    /// Events beyond the ring.
    far: BinaryHeap<Reverse<Event>>,
    len: usize,
}

impl Calendar {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            current: 0,
            due: Vec::new(),
            added: BinaryHeap::new(),
            far: BinaryHeap::new(),
            len: 0,
        }
    }

    /// Adds an event. An event in the past is the next to come.
    pub(super) fn push(&mut self, event: Event) {
        self.len += 1;
        let slot = event.at >> SLOT_BITS;
        if slot <= self.current {
            self.added.push(Reverse(event));
        } else if slot < self.current + SLOTS {
            self.slots[(slot % SLOTS) as usize].push(event);
        } else {
            self.far.push(Reverse(event));
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        if self.len == 0 {
            return None;
        }
        loop {
            let next = match (self.due.last(), self.added.peek()) {
                (Some(due), Some(Reverse(added))) if added < due => self.added.pop().map(|added| added.0),
                (Some(_), _) => self.due.pop(),
                (None, Some(_)) => self.added.pop().map(|added| added.0),
                (None, None) => None,
            };
            if next.is_some() {
                self.len -= 1;
                return next;
            }
            self.advance();
        }
    }

    /// Makes the next slot the current one.
    fn advance(&mut self) {
        self.current += 1;
        while let Some(Reverse(first)) = self.far.peek().filter(|far| far.0.at >> SLOT_BITS < self.current + SLOTS) {
            self.slots[((first.at >> SLOT_BITS) % SLOTS) as usize].push(*first);
            self.far.pop();
        }
        // Taking the vector frees its memory. Otherwise every slot would keep the size of the largest wave it ever
        // held.
        self.due = std::mem::take(&mut self.slots[(self.current % SLOTS) as usize]);
        self.due.sort_unstable_by(|a, b| b.cmp(a));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_near_and_far_early_and_late() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut calendar = Calendar::new();
        let mut expected = BinaryHeap::new();
        let mut now = 0;
        for round in 0..40_000 {
            // In the first half more events are added than taken, in the second half fewer.
            for _ in 0..rng.u32(0..if round < 20_000 { 4 } else { 2 }) {
                let ahead = 1u64 << rng.u32(0..38);
                let event = Event { at: now + rng.u64(0..ahead), who: rng.u32(0..9), what: 0 };
                calendar.push(event);
                expected.push(Reverse(event));
            }
            let next = calendar.pop();
            assert_eq!(next, expected.pop().map(|next| next.0));
            now = next.map_or(now, |next| next.at);
        }
        while let Some(next) = expected.pop() {
            assert_eq!(calendar.pop(), Some(next.0));
        }
        assert_eq!(calendar.pop(), None);
    }
}
