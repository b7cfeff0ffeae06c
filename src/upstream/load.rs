//! How many connections a server has now: its own last count, corrected by what weir has opened and closed since (see
//! [`ReconciledCount`]).

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Instant,
};

use crate::upstream::reconciled_count::{ReadingEpoch, ReconciledCount};

/// Handshakes at a time with slots of the reserve.
const MAX_FROM_RESERVE: u32 = 4;

/// The capacity of a server without a limit. Counts do not reach it.
pub const UNLIMITED: u32 = u32::MAX;

/// The counters of one server, shared by all workers.
#[derive(Debug, Default)]
pub struct Load {
    /// Connections: weir's slots (being dialled, in handshake, relaying, or closing), weir's own, and those of others.
    /// The server counts a connection of weir's for certain once it has sent INFO on it.
    connections: ReconciledCount,
    /// Of those that weir holds, the ones that are for no client.
    own_connections: AtomicU32,
    /// Slots between reservation and the server's PONG, except those that wait for the client's CONNECT or are overdue.
    handshakes: AtomicU32,
    /// Slots whose handshake takes longer than others do.
    overdue: AtomicU32,
    /// Slots taken from the reserve whose client has not logged in yet.
    from_reserve: AtomicU32,
    /// Slots whose client has its PONG.
    sessions: AtomicU32,
    /// The server's capacity: the lower of its own and the configured `max_connections`.
    capacity: AtomicU32,
    /// Capacity less the reserve: what may be filled.
    ceiling: AtomicU32,
    /// Nobody has said what the capacity is.
    is_assumed: AtomicBool,
}

impl Load {
    /// A server of which only the configuration is known.
    pub fn new(capacity: u32, ceiling: u32) -> Self {
        let load = Self::default();
        load.set_capacity(capacity, ceiling);
        load
    }

    /// Sets a new capacity, and what of it may be filled.
    pub fn set_capacity(&self, capacity: u32, ceiling: u32) {
        self.capacity.store(capacity, Relaxed);
        self.ceiling.store(ceiling, Relaxed);
        self.is_assumed.store(false, Relaxed);
    }

    /// The same while the capacity is unknown.
    pub fn assume_capacity(&self, capacity: u32, ceiling: u32) {
        self.set_capacity(capacity, ceiling);
        self.is_assumed.store(true, Relaxed);
    }

    /// The capacity and the free part of what may be filled, as they are shown: `None` while the capacity is assumed,
    /// infinite for a server without a limit.
    pub fn shown_capacity(&self) -> Option<(f64, f64)> {
        if self.is_assumed.load(Relaxed) {
            return None;
        }
        Some(match self.capacity() {
            UNLIMITED => (f64::INFINITY, f64::INFINITY),
            capacity => (capacity.into(), self.ceiling().saturating_sub(self.projected()).into()),
        })
    }

    /// What may be filled, where anybody has said that, and there is a limit.
    pub fn known_ceiling(&self) -> Option<u32> {
        let is_known = !self.is_assumed.load(Relaxed) && self.capacity() != UNLIMITED;
        is_known.then(|| self.ceiling())
    }

    /// Takes a slot if one is free and fewer than `handshake_limit` handshakes are under way.
    pub fn reserve(&self, handshake_limit: u32) -> bool {
        let below = |limit: u32| move |n: u32| (n < limit).then(|| n + 1);
        if self.handshakes.fetch_update(Relaxed, Relaxed, below(handshake_limit)).is_err() {
            return false;
        }
        if !self.connections.reserve(self.ceiling.load(Relaxed)) {
            self.handshakes.fetch_sub(1, Relaxed);
            return false;
        }
        true
    }

    /// Takes a slot, if one is free, for a client that is not there yet: no handshake begins.
    pub fn promise(&self) -> bool {
        self.connections.reserve(self.ceiling.load(Relaxed))
    }

    /// Takes a slot whether one is free or not.
    pub fn reserve_over(&self) {
        self.handshakes.fetch_add(1, Relaxed);
        self.connections.reserve(u32::MAX);
    }

    /// Takes a slot over from another process of weir, with a session that the server counts already.
    pub fn adopt_session(&self) {
        self.connections.adopt();
        self.session_began();
    }

    /// Takes a slot of the reserve, whatever the handshake limit. Only a few may be taken at a time, since a client
    /// that claims the system account may not belong to it (docs/contract.md, claims 1).
    pub fn take_from_reserve(&self) -> bool {
        if self.from_reserve.fetch_update(Relaxed, Relaxed, |n| (n < MAX_FROM_RESERVE).then(|| n + 1)).is_err() {
            return false;
        }
        if !self.connections.reserve(self.capacity.load(Relaxed)) {
            self.from_reserve.fetch_sub(1, Relaxed);
            return false;
        }
        self.handshakes.fetch_add(1, Relaxed);
        true
    }

    /// The client of a slot of the reserve has logged in, or has gone.
    pub fn left_reserve(&self) {
        self.from_reserve.fetch_sub(1, Relaxed);
    }

    /// Takes a connection of weir's own, whether one is free or not: [`Load::opened`] once the server has let weir in.
    pub fn own_connection_begins(&self) {
        self.connections.reserve(u32::MAX);
        self.own_connections.fetch_add(1, Relaxed);
    }

    /// Gives it back; `was_open` says whether [`Load::opened`] was called for it.
    pub fn own_connection_ended(&self, was_open: bool) {
        self.own_connections.fetch_sub(1, Relaxed);
        self.connections.release(was_open);
    }

    /// The server has sent its INFO: it counts this connection.
    pub fn opened(&self) {
        self.connections.opened();
    }

    /// The handshake is over, well or not.
    pub fn handshake_over(&self) {
        self.handshakes.fetch_sub(1, Relaxed);
    }

    /// A handshake takes longer than others do.
    pub fn handshake_overdue(&self) {
        self.overdue.fetch_add(1, Relaxed);
        self.handshake_over();
    }

    /// An overdue handshake is over, well or not.
    pub fn overdue_ended(&self) {
        self.overdue.fetch_sub(1, Relaxed);
    }

    /// A handshake that counted as over, since it waited for its client, goes on.
    pub fn handshake_resumed(&self) {
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

    /// Gives a slot back; `was_open` says whether [`Load::opened`] was called for it.
    pub fn release(&self, was_open: bool) {
        self.connections.release(was_open);
    }

    /// To be called before a reading is asked for.
    pub fn begin_reading(&self, now: Instant) -> ReadingEpoch {
        self.connections.begin_reading(now)
    }

    /// Takes in a reading: the server counted `connections` at some time between `epoch` and `now`.
    pub fn reconcile(&self, epoch: ReadingEpoch, now: Instant, connections: u32) {
        self.connections.reconcile(epoch, now, connections);
    }

    /// Nothing is known any more of connections that are not weir's.
    pub fn forget_others(&self) {
        self.connections.forget_others();
    }

    /// Connections that the server has now, weir's own in flight included.
    #[inline]
    pub fn projected(&self) -> u32 {
        self.connections.total()
    }

    /// The connections themselves: weir's own, those of peers, and the others.
    pub fn connections(&self) -> &ReconciledCount {
        &self.connections
    }

    /// Slots that weir holds for clients.
    pub fn held(&self) -> u32 {
        self.connections.held().saturating_sub(self.own_connections.load(Relaxed))
    }

    /// Handshakes under way.
    #[inline]
    pub fn handshakes(&self) -> u32 {
        self.handshakes.load(Relaxed)
    }

    /// Handshakes that take longer than others do.
    pub fn overdue(&self) -> u32 {
        self.overdue.load(Relaxed)
    }

    /// Handshakes under way, overdue or not.
    #[inline]
    pub fn under_way(&self) -> u32 {
        self.handshakes().saturating_add(self.overdue())
    }

    /// Sessions that have their PONG.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Relaxed)
    }

    pub fn capacity(&self) -> u32 {
        self.capacity.load(Relaxed)
    }

    /// What may be filled of the capacity.
    #[inline]
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
        let epoch = load.begin_reading(Instant::now());
        load.reconcile(epoch, Instant::now(), 30);
        assert_eq!(load.projected(), 30);
    }

    #[test]
    fn a_session_of_another_process_is_counted_once() {
        let load = Load::new(100, 95);
        load.reconcile(load.begin_reading(Instant::now()), Instant::now(), 30);
        let epoch = load.begin_reading(Instant::now());
        (0..20).for_each(|_| load.adopt_session());
        assert_eq!((load.projected(), load.held(), load.sessions()), (30, 20, 20));
        // A reading that was under way, and the next one.
        load.reconcile(epoch, Instant::now(), 30);
        assert_eq!(load.projected(), 30);
        load.reconcile(load.begin_reading(Instant::now()), Instant::now(), 30);
        assert_eq!(load.projected(), 30);
        (0..20).for_each(|_| load.release(true));
        assert_eq!((load.projected(), load.held()), (10, 0));
        // Before the first reading.
        let load = Load::new(100, 95);
        (0..20).for_each(|_| load.adopt_session());
        assert_eq!(load.projected(), 20);
        load.reconcile(load.begin_reading(Instant::now()), Instant::now(), 30);
        assert_eq!(load.projected(), 30);
    }

    #[test]
    fn own_connections_in_flight_during_the_poll_are_not_others() {
        let load = with_open(10);
        load.reconcile(load.begin_reading(Instant::now()), Instant::now(), 10);
        for _ in 0..5 {
            assert!(load.reserve(1000));
        }
        let epoch = load.begin_reading(Instant::now());
        for _ in 0..5 {
            assert!(load.reserve(1000));
        }
        // The server may have counted any number of them from 10 to 20.
        for counted in 10..=20 {
            load.reconcile(epoch, Instant::now(), counted);
            assert_eq!(load.projected(), 20, "counted {counted}");
        }
        // More than 20 cannot all be weir's.
        load.reconcile(epoch, Instant::now(), 23);
        assert_eq!(load.projected(), 23);
    }

    #[test]
    fn own_connections_closed_during_the_poll_are_not_missing_others() {
        let load = with_open(10);
        load.reconcile(load.begin_reading(Instant::now()), Instant::now(), 15);
        let epoch = load.begin_reading(Instant::now());
        for _ in 0..4 {
            load.release(true);
        }
        for counted in 11..=15 {
            load.reconcile(epoch, Instant::now(), counted);
            assert_eq!(load.projected(), 11, "counted {counted}");
        }
    }

    #[test]
    fn the_ceiling_is_never_passed() {
        let load = with_open(10);
        load.reconcile(load.begin_reading(Instant::now()), Instant::now(), 60);
        let taken = (0..200).filter(|_| load.reserve(1000)).count();
        assert_eq!(taken, 95 - 60);
        assert_eq!(load.projected(), 95);
    }

    #[test]
    fn the_reserve_ends_at_the_capacity_and_few_are_taken_from_it_at_a_time() {
        let load = with_open(95);
        assert!(!load.reserve(1000));
        let taken = (0..10).filter(|_| load.take_from_reserve()).count();
        assert_eq!(taken, MAX_FROM_RESERVE as usize);
        (0..taken).for_each(|_| load.left_reserve());
        assert!(load.take_from_reserve() && !load.take_from_reserve(), "100 is the capacity");
        assert_eq!(load.projected(), 100);
    }

    #[test]
    fn no_limit_is_shown_as_infinity_and_an_unknown_one_not_at_all() {
        let load = with_open(10);
        assert_eq!(load.shown_capacity(), Some((100.0, 85.0)));
        load.set_capacity(UNLIMITED, UNLIMITED - 20);
        assert_eq!(load.shown_capacity(), Some((f64::INFINITY, f64::INFINITY)));
        load.assume_capacity(65_536, 65_531);
        assert_eq!(load.shown_capacity(), None);
        assert!(load.reserve(1000), "it is used all the same");
    }

    #[test]
    fn a_failed_reservation_keeps_no_handshake() {
        let load = Load::new(1, 0);
        assert!(!load.reserve(10));
        assert_eq!(load.handshakes(), 0);
    }
}
