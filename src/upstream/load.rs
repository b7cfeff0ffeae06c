//! How many connections a server has now: its own last count, corrected by what weir opened and closed since.
//!
//! `projected = others + held`. `held` is exact: every slot weir reserved and has not given back. `others` is what the
//! server's clients that did not come through weir amount to; a reading bounds it from both sides, since it is unknown
//! which of weir's own in-flight connections the server had counted when it answered. The estimate moves only as far
//! as those bounds force it, so a burst through weir never looks like a burst of others.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What weir itself had on a server when it sent a poll; compared with the answer by [`Load::reading`].
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    held: u32,
    open: u32,
    reserved_total: u64,
    released_total: u64,
}

/// The counters of one server, shared by all workers.
#[derive(Debug, Default)]
pub struct Load {
    /// Slots taken by weir: being dialled, in handshake, relaying, or closing.
    held: AtomicU32,
    /// Of those, the ones the server has surely counted: it has sent its INFO.
    open: AtomicU32,
    /// Of those held, the ones between reservation and the server's PONG.
    handshakes: AtomicU32,
    /// Of those held, the ones whose client has its PONG.
    sessions: AtomicU32,
    reserved_total: AtomicU64,
    released_total: AtomicU64,
    /// Connections of the server that are not weir's.
    others: AtomicU32,
    /// The server's capacity: the lower of its own and the configured `max_connections`.
    capacity: AtomicU32,
    /// Capacity less the reserve: what may be filled.
    ceiling: AtomicU32,
}

impl Load {
    /// A server of which only the configuration is known.
    pub fn new(capacity: u32, ceiling: u32) -> Self {
        let load = Self::default();
        load.set_capacity(capacity, ceiling);
        load
    }

    /// Takes over a new capacity and what of it may be filled.
    pub fn set_capacity(&self, capacity: u32, ceiling: u32) {
        self.capacity.store(capacity, Relaxed);
        self.ceiling.store(ceiling, Relaxed);
    }

    /// Takes a slot if one is free and fewer than `handshake_limit` handshakes are under way.
    pub fn reserve(&self, handshake_limit: u32) -> bool {
        let below = |limit: u32| move |n: u32| (n < limit).then(|| n + 1);
        if self.handshakes.fetch_update(Relaxed, Relaxed, below(handshake_limit)).is_err() {
            return false;
        }
        let room = self.ceiling.load(Relaxed).saturating_sub(self.others.load(Relaxed));
        if self.held.fetch_update(Relaxed, Relaxed, below(room)).is_err() {
            self.handshakes.fetch_sub(1, Relaxed);
            return false;
        }
        self.reserved_total.fetch_add(1, Relaxed);
        true
    }

    /// The server has sent its INFO: it counts this connection.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// The handshake is over, well or not.
    pub fn handshake_over(&self) {
        self.handshakes.fetch_sub(1, Relaxed);
    }

    /// A handshake that was taken for over goes on.
    pub fn handshake_goes_on(&self) {
        self.handshakes.fetch_add(1, Relaxed);
    }

    /// The client has its PONG.
    pub fn session_began(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    /// The session of a slot is over (the slot itself is given back by [`Load::release`]).
    pub fn session_ended(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    /// Gives a slot back; `was_open` says whether [`Load::opened`] had been called for it.
    pub fn release(&self, was_open: bool) {
        if was_open {
            self.open.fetch_sub(1, Relaxed);
        }
        self.held.fetch_sub(1, Relaxed);
        self.released_total.fetch_add(1, Relaxed);
    }

    /// To be taken before a poll is sent.
    pub fn mark(&self) -> Mark {
        Mark {
            open: self.open.load(Relaxed),
            held: self.held.load(Relaxed),
            reserved_total: self.reserved_total.load(Relaxed),
            released_total: self.released_total.load(Relaxed),
        }
    }

    /// The server counted `connections` at some moment since `mark`.
    pub fn reading(&self, mark: Mark, connections: u32) {
        let opened = self.reserved_total.load(Relaxed).wrapping_sub(mark.reserved_total) as u32;
        let closed = self.released_total.load(Relaxed).wrapping_sub(mark.released_total) as u32;
        let least_own = mark.open.saturating_sub(closed);
        let most_own = mark.held.saturating_add(opened);
        let most_others = connections.saturating_sub(least_own);
        let least_others = connections.saturating_sub(most_own).min(most_others);
        let others = self.others.load(Relaxed).clamp(least_others, most_others);
        self.others.store(others, Relaxed);
    }

    /// Connections the server has now, weir's in-flight ones included.
    pub fn projected(&self) -> u32 {
        self.others.load(Relaxed).saturating_add(self.held.load(Relaxed))
    }

    /// Slots weir holds.
    pub fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }

    /// Handshakes under way.
    pub fn handshakes(&self) -> u32 {
        self.handshakes.load(Relaxed)
    }

    /// Sessions that have their PONG.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    /// The server's capacity.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Relaxed)
    }

    /// What may be filled of it.
    pub fn ceiling(&self) -> u32 {
        self.ceiling.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_open(n: u32) -> Load {
        let load = Load::new(100, 95);
        for _ in 0..n {
            assert!(load.reserve(1000));
            load.opened();
            load.handshake_over();
        }
        load
    }

    #[test]
    fn quiet_reading_is_exact() {
        let load = with_open(10);
        let mark = load.mark();
        load.reading(mark, 30);
        assert_eq!(load.projected(), 30);
    }

    #[test]
    fn own_connections_in_flight_during_the_poll_are_not_others() {
        let load = with_open(10);
        load.reading(load.mark(), 10);
        for _ in 0..5 {
            assert!(load.reserve(1000));
        }
        let mark = load.mark();
        for _ in 0..5 {
            assert!(load.reserve(1000));
        }
        // The server may have counted anything from 10 to 20 of them.
        for counted in 10..=20 {
            load.reading(mark, counted);
            assert_eq!(load.projected(), 20, "counted {counted}");
        }
        // More than 20 cannot all be weir's.
        load.reading(mark, 23);
        assert_eq!(load.projected(), 23);
    }

    #[test]
    fn own_connections_closed_during_the_poll_are_not_missing_others() {
        let load = with_open(10);
        load.reading(load.mark(), 15);
        let mark = load.mark();
        for _ in 0..4 {
            load.release(true);
        }
        for counted in 11..=15 {
            load.reading(mark, counted);
            assert_eq!(load.projected(), 11, "counted {counted}");
        }
    }

    #[test]
    fn the_ceiling_is_never_passed() {
        let load = with_open(10);
        load.reading(load.mark(), 60);
        let taken = (0..200).filter(|_| load.reserve(1000)).count();
        assert_eq!(taken, 95 - 60);
        assert_eq!(load.projected(), 95);
    }

    #[test]
    fn a_failed_reservation_keeps_no_handshake() {
        let load = Load::new(1, 0);
        assert!(!load.reserve(10));
        assert_eq!(load.handshakes(), 0);
    }
}
