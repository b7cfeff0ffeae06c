//! A hashed timing wheel (Varghese and Lauck, 1987): an entry lies in the slot of the tick in which its time comes, so
//! that putting it in and taking it out cost the same however many there are.
//!
//! The wheel turns once in [`SLOTS`] ticks. An entry that is due later stays in its slot, and is looked at once a turn.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

use crate::worker::TICK;

/// One turn takes 5.12 s; few waits of a session are longer. A power of two.
const SLOTS: u32 = 512;

/// Memory grows to 40 bytes for each entry of the time with most of them, and stays until the wheel is dropped.
#[derive(Debug)]
pub struct Wheel<T> {
    /// Times are numbers counted from here: an [`Instant`] takes twice the room.
    origin: Instant,
    /// The last tick, counted from `origin`, whose slot was looked at.
    looked_at: u64,
    /// First the ends of the list of each slot, then one for each of `entries`.
    links: Vec<Link>,
    entries: Vec<Entry<T>>,
    /// The first of the free entries, which are linked by `next`; [`NOBODY`] where there is none.
    free: u32,
    in_use: usize,
}

/// The neighbours in the list of a slot, which is a ring, by their places in [`Wheel::links`].
#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
}

#[derive(Debug)]
struct Entry<T> {
    /// Nanoseconds from the wheel's origin.
    due: u64,
    number: NonZeroU64,
    /// `None`: this entry is free.
    value: Option<T>,
}

/// An entry. After it was taken out, its key finds nothing: the number differs from that of the next one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    place: u32,
    number: NonZeroU64,
}

/// A free list ends with this.
const NOBODY: u32 = u32::MAX;

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "places come from the wheel itself; a link for each slot and each entry; memory ends long before 2^32"
)]
impl<T> Wheel<T> {
    /// An entry whose time lies before `now` comes at the next look.
    pub fn new(now: Instant) -> Self {
        let links = (0..SLOTS).map(|slot| Link { next: slot, previous: slot }).collect();
        Self { origin: now, looked_at: 0, links, entries: Vec::new(), free: NOBODY, in_use: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.in_use == 0
    }

    pub fn len(&self) -> usize {
        self.in_use
    }

    /// When to look again after a look `now`, so that nobody comes more than a tick late: behind the first tick in
    /// which somebody may be due, and no more than so many `ticks` on.
    pub fn next_look(&self, now: Instant, ticks: u64) -> Instant {
        let may_be_due = |tick: &u64| self.links[slot_of(*tick) as usize].next != slot_of(*tick);
        let last = self.looked_at + ticks.clamp(1, u64::from(SLOTS)) - 1;
        let tick = (self.looked_at..last).find(may_be_due).unwrap_or(last);
        let look = self.origin + Duration::from_nanos((tick + 1) * TICK_NANOS);
        // The clock has gone back since the last look where this is far away.
        look.min(now + TICK * ticks as u32)
    }

    /// `number` must be another one each time.
    pub fn insert(&mut self, until: Instant, number: NonZeroU64, value: T) -> Key {
        let due = self.time(until);
        let entry = Entry { due, number, value: Some(value) };
        let place = self.free;
        let place = if place == NOBODY {
            self.entries.push(entry);
            self.links.push(Link { next: 0, previous: 0 });
            (self.links.len() - 1) as u32
        } else {
            self.free = self.links[place as usize].next;
            self.entries[(place - SLOTS) as usize] = entry;
            place
        };
        // The slot that was looked at last is looked at again, since not all of its entries were due.
        let slot = slot_of((due / TICK_NANOS).max(self.looked_at));
        let previous = self.links[slot as usize].previous;
        self.links[place as usize] = Link { next: slot, previous };
        self.links[previous as usize].next = place;
        self.links[slot as usize].previous = place;
        self.in_use += 1;
        Key { place, number }
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.place.checked_sub(SLOTS)? as usize)?;
        if entry.number == key.number { entry.value.as_mut() } else { None }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        self.take(key.place)
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|entry| entry.value.as_ref())
    }

    /// Moves to `due` whose time has come. Of one slot, who was put in first goes first.
    pub fn take_due(&mut self, now: Instant, due: &mut Vec<T>) {
        let now = self.time(now);
        let tick = (now / TICK_NANOS).max(self.looked_at);
        let from = self.looked_at.max(tick.saturating_sub(u64::from(SLOTS) - 1));
        for slot in (from..=tick).map(slot_of) {
            let mut place = self.links[slot as usize].next;
            while place != slot {
                let next = self.links[place as usize].next;
                if self.entries[(place - SLOTS) as usize].due <= now {
                    due.extend(self.take(place));
                }
                place = next;
            }
        }
        self.looked_at = tick;
    }

    fn take(&mut self, place: u32) -> Option<T> {
        let Link { next, previous } = self.links[place as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        self.links[place as usize].next = self.free;
        self.free = place;
        self.in_use -= 1;
        self.entries[(place - SLOTS) as usize].value.take()
    }

    fn time(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_nanos() as u64
    }
}

const TICK_NANOS: u64 = nanos(TICK);

#[expect(clippy::cast_possible_truncation, reason = "of a tick")]
const fn nanos(tick: Duration) -> u64 {
    tick.as_nanos() as u64
}

#[expect(clippy::cast_possible_truncation, reason = "what is cut off are whole turns")]
const fn slot_of(tick: u64) -> u32 {
    tick as u32 % SLOTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// Waits so many milliseconds from now.
        Insert(u64),
        /// The entry of this number, if there is one by then.
        Remove(usize),
        /// So many milliseconds pass before the next look.
        Look(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Waits of less than a tick, of some ticks, and of more than a turn; also looks that come late.
        let wait = prop_oneof![0..12_u64, 0..300_u64, 4_000..20_000_u64];
        let late = prop_oneof![4 => 0..25_u64, 1 => 0..12_000_u64];
        prop_oneof![
            3 => wait.prop_map(Step::Insert),
            1 => (0..60_usize).prop_map(Step::Remove),
            3 => late.prop_map(Step::Look),
        ]
    }

    proptest! {
        /// At each look come those whose time has come, all of them and once, and nobody else.
        #[test]
        fn who_is_due_comes_and_nobody_else(steps in prop::collection::vec(step(), 1..200)) {
            let began = Instant::now();
            let ms = |ms| began + Duration::from_millis(ms);
            let (mut wheel, mut model, mut keys) = (Wheel::new(began), Vec::new(), Vec::new());
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Insert(wait) => {
                        let at = keys.len();
                        keys.push(wheel.insert(ms(now + wait), number(at as u64), at));
                        model.push((now + wait, at));
                    }
                    Step::Remove(one) => {
                        let at = model.iter().position(|&(_, at)| at == one);
                        let expected = at.map(|at| model.remove(at).1);
                        let removed = keys.get(one).and_then(|&key| wheel.remove(key));
                        prop_assert_eq!(removed, expected);
                    }
                    Step::Look(passed) => {
                        now += passed;
                        let mut due = Vec::new();
                        wheel.take_due(ms(now), &mut due);
                        due.sort_unstable();
                        let mut expected: Vec<_> = model.extract_if(.., |one| one.0 <= now).map(|one| one.1).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(due, expected);
                        for ticks in [1, 2, 10] {
                            let look = wheel.next_look(ms(now), ticks);
                            let first = model.iter().map(|one| ms(one.0)).min();
                            prop_assert!(ms(now) < look && look <= ms(now) + TICK * ticks as u32);
                            prop_assert!(first.is_none_or(|due| look <= due + TICK), "{:?} {:?}", first, look);
                            let all_left_out = look > ms(now) + TICK * (ticks as u32 - 1);
                            prop_assert!(first.is_some() || all_left_out, "{:?} of {} ticks", look - ms(now), ticks);
                        }
                    }
                }
                let mut left: Vec<_> = wheel.values().copied().collect();
                left.sort_unstable();
                let mut expected: Vec<_> = model.iter().map(|one| one.1).collect();
                expected.sort_unstable();
                prop_assert_eq!((left.is_empty(), left), (wheel.is_empty(), expected));
            }
        }
    }

    fn number(n: u64) -> NonZeroU64 {
        NonZeroU64::MIN.saturating_add(n)
    }

    #[test]
    fn a_key_does_not_find_the_next_entry_in_its_place() {
        let now = Instant::now();
        let mut wheel = Wheel::new(now);
        let first = wheel.insert(now, number(1), "first");
        let mut due = Vec::new();
        wheel.take_due(now, &mut due);
        assert_eq!(due, ["first"]);
        let second = wheel.insert(now, number(2), "second");
        assert_eq!(first.place, second.place);
        assert_eq!(wheel.remove(first), None);
        assert_eq!(wheel.remove(second), Some("second"));
    }

    /// As where a test's clock was ahead and is not any more.
    #[test]
    fn a_clock_that_goes_back_loses_nobody() {
        let began = Instant::now();
        let mut wheel = Wheel::new(began);
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut due = Vec::new();
        wheel.take_due(at(100), &mut due);
        wheel.insert(at(7), number(1), "early");
        wheel.take_due(at(6), &mut due);
        assert!(due.is_empty());
        wheel.take_due(at(7), &mut due);
        assert_eq!(due, ["early"]);
    }
}
