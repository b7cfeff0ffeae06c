//! The events to come, in order of time. A ring of slots of about a millisecond: adding an event is a push onto its slot, and
//! only the slot that is due is sorted. What lies beyond the ring waits in a heap.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Nanoseconds since the beginning of the storm.
pub(super) type Nanos = u64;

/// 2^20 ns: 1.05 ms.
const SLOT_BITS: u32 = 20;
/// 2^15 slots: 34 s.
const SLOTS: u64 = 1 << 15;

/// Something that is to happen. Events of the same moment come in the order of `who`, then `what`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) at: Nanos,
    pub(super) who: u32,
    /// The kind, and a generation that tells stale events from live ones.
    pub(super) what: u32,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Calendar {
    slots: Vec<Vec<Event>>,
    /// The slot that is due.
    slot: u64,
    /// Its events, the last one first to come.
    due: Vec<Event>,
    /// Events that were added to it meanwhile.
    late: BinaryHeap<Reverse<Event>>,
    far: BinaryHeap<Reverse<Event>>,
    len: usize,
}

impl Calendar {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            slot: 0,
            due: Vec::new(),
            late: BinaryHeap::new(),
            far: BinaryHeap::new(),
            len: 0,
        }
    }

    /// Adds an event; one that lies in the past comes next.
    pub(super) fn push(&mut self, event: Event) {
        self.len += 1;
        let slot = event.at >> SLOT_BITS;
        if slot <= self.slot {
            self.late.push(Reverse(event));
        } else if slot < self.slot + SLOTS {
            self.slots[(slot % SLOTS) as usize].push(event);
        } else {
            self.far.push(Reverse(event));
        }
    }

    /// The next event.
    pub(super) fn pop(&mut self) -> Option<Event> {
        if self.len == 0 {
            return None;
        }
        loop {
            let next = match (self.due.last(), self.late.peek()) {
                (Some(due), Some(Reverse(late))) if late < due => self.late.pop().map(|late| late.0),
                (Some(_), _) => self.due.pop(),
                (None, Some(_)) => self.late.pop().map(|late| late.0),
                (None, None) => None,
            };
            if next.is_some() {
                self.len -= 1;
                return next;
            }
            self.turn();
        }
    }

    /// Goes on to the next slot.
    fn turn(&mut self) {
        self.slot += 1;
        while let Some(Reverse(first)) = self.far.peek().filter(|far| far.0.at >> SLOT_BITS < self.slot + SLOTS) {
            self.slots[((first.at >> SLOT_BITS) % SLOTS) as usize].push(*first);
            self.far.pop();
        }
        // The slot's memory goes with it: waves would otherwise leave their size in every slot they touch.
        self.due = std::mem::take(&mut self.slots[(self.slot % SLOTS) as usize]);
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
            // As many as are taken, at first more, then fewer.
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
