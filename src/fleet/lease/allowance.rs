//! How many connections of one quota this weir may hold: read and counted on the connect path, without a lock.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::fleet::lease::{LeaseKey, needs::Needs};

/// No quota.
const NONE: u32 = u32::MAX;

/// Whether this weir's leases are in force; one for all of them.
pub struct Standing {
    base: Instant,
    /// Nanoseconds since `base` until which leases are in force.
    valid_until: AtomicU64,
    /// The same for floors, for the time in which leases are not.
    floors_until: AtomicU64,
    /// Another process goes on with all leases: nothing is taken here.
    is_given: AtomicBool,
    /// Called when the ledger is to look at a lease.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The allowances that it is to look at.
    needs: Needs,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("valid_until", &self.valid_until).finish_non_exhaustive()
    }
}

impl Standing {
    /// Nothing is in force. No later call may say an earlier time than `base`.
    pub fn new(base: Instant) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            base,
            valid_until: zero(),
            floors_until: zero(),
            is_given: AtomicBool::new(false),
            wake: OnceLock::new(),
            needs: Needs::default(),
        })
    }

    /// `wake` is called from now on when a lease is nearly used up, or is given back to who wants it: it must not
    /// block. Only the first call counts.
    pub fn on_need(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
    }

    fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// The allowances that have something for the ledger to look at; see [`Needs::take`].
    pub(super) fn take_needs(&self) -> Option<Vec<LeaseKey>> {
        self.needs.take()
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether leases are in force.
    pub fn is_valid(&self, now: Instant) -> bool {
        self.nanos(now) < self.valid_until.load(SeqCst)
    }

    /// Whether this weir goes by its floors, or by the split.
    pub fn is_by_floors(&self, now: Instant) -> bool {
        !self.is_valid(now) && self.nanos(now) < self.floors_until.load(SeqCst)
    }

    /// Leases are in force until then. They must be those of this term by now: a reader that sees this sees them.
    pub(super) fn valid_until(&self, at: Instant) {
        self.valid_until.store(self.nanos(at), SeqCst);
    }

    /// Leases are not in force any more.
    pub(super) fn end(&self) {
        self.valid_until.store(0, SeqCst);
    }

    /// Another process goes on with all leases, and counts what is held here.
    pub(super) fn give(&self) {
        self.is_given.store(true, SeqCst);
    }

    /// That process is gone.
    pub(super) fn take_back(&self) {
        self.is_given.store(false, SeqCst);
    }

    fn is_given(&self) -> bool {
        self.is_given.load(SeqCst)
    }

    /// While leases are not in force floors are, until then; `None`: they are not.
    pub(super) fn floors_until(&self, at: Option<Instant>) {
        self.floors_until.store(at.map_or(0, |at| self.nanos(at)), SeqCst);
    }
}

/// What this weir uses of one quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// Connections taken and not given back, those in flight included.
    pub held: u32,
    /// Of those, the ones that the servers count for certain.
    pub open: u32,
    /// Clients that wait for a place.
    pub waiting: u32,
    /// Connections given back in all.
    pub released: u64,
}

/// What this weir may have of one quota, and what it uses of it. Counts change only by [`LeasePlace`]s.
#[derive(Debug)]
pub struct Allowance {
    key: LeaseKey,
    standing: Arc<Standing>,
    /// As this weir's configuration or the cluster has it.
    quota: AtomicU32,
    /// Of this term: what this weir's last acknowledged write says, or less.
    lease: AtomicU32,
    /// What it may have while leases are not in force, a [`Floor`] as one number: both parts change at once.
    floor: AtomicU64,
    /// It takes no more than this while others have less than their share.
    cap: AtomicU32,
    /// The ledger is woken when so many are held.
    wake_at: AtomicU32,
    /// Others want what is given back.
    is_wanted: AtomicBool,
    /// Nanoseconds since the standing's base: who waits since before then waits in vain.
    vain_before: AtomicU64,
    held: AtomicU32,
    open: AtomicU32,
    waiting: AtomicU32,
    released: AtomicU64,
    /// The ledger is told that it is to look at this, and has not looked yet.
    needs_look: AtomicBool,
}

impl Allowance {
    pub(super) fn new(key: LeaseKey, standing: Arc<Standing>) -> Arc<Self> {
        let none = || AtomicU32::new(0);
        Arc::new(Self {
            key,
            standing,
            quota: AtomicU32::new(NONE),
            lease: none(),
            floor: AtomicU64::new(0),
            cap: AtomicU32::new(NONE),
            wake_at: none(),
            is_wanted: AtomicBool::new(false),
            vain_before: AtomicU64::new(0),
            held: none(),
            open: none(),
            waiting: none(),
            released: AtomicU64::new(0),
            needs_look: AtomicBool::new(false),
        })
    }

    pub fn key(&self) -> LeaseKey {
        self.key
    }

    /// The ledger looks at this when it looks next.
    fn needs_look(&self) {
        // What has changed was written before this: the ledger resets it before it reads.
        if !self.needs_look.load(SeqCst) && !self.needs_look.swap(true, SeqCst) {
            self.standing.needs.tell(self.key);
        }
    }

    /// The ledger looks at this as soon as it can.
    fn calls_ledger(&self) {
        self.needs_look();
        self.standing.wake();
    }

    /// The ledger looks at this from now on: what changes afterwards it is told of again.
    pub(super) fn is_looked_at(&self) {
        self.needs_look.store(false, SeqCst);
    }

    /// The whole fleet's quota; `None` where there is none, and nothing is limited.
    pub fn quota(&self) -> Option<u32> {
        Some(self.quota.load(SeqCst)).filter(|quota| *quota != NONE)
    }

    /// The quota is this from now on. What is held stays.
    pub fn set_quota(&self, quota: Option<u32>) {
        let quota = quota.unwrap_or(NONE);
        if self.quota.swap(quota, SeqCst) != quota {
            self.calls_ledger();
        }
    }

    /// The most connections that this weir may hold now; `None`: as many as it likes.
    pub fn most(&self, now: Instant) -> Option<u32> {
        Some(self.in_force(now)?.min(self.cap.load(SeqCst)))
    }

    /// The same, whatever others want.
    fn in_force(&self, now: Instant) -> Option<u32> {
        let quota = self.quota()?;
        // In this order: a lease of an earlier term is gone before another term is in force.
        let in_force = if self.standing.is_given() {
            0
        } else if self.standing.is_valid(now) {
            self.lease.load(SeqCst)
        } else if self.standing.is_by_floors(now) {
            self.floor_of(quota)
        } else {
            0
        };
        Some(in_force.min(quota))
    }

    /// Whether it goes by its floor or by the split at this moment.
    pub fn is_by_floor(&self, now: Instant) -> bool {
        self.standing.is_by_floors(now)
    }

    /// Whether there is a place. Where there is none the ledger looks whether there may be more.
    pub fn has_room(&self, now: Instant) -> bool {
        let has_room = self.most(now).is_none_or(|most| self.held.load(SeqCst) < most);
        if !has_room {
            self.calls_ledger();
        }
        has_room
    }

    /// Whether clients wait for a place.
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Takes a place for a connection, if there is one.
    pub fn take(self: &Arc<Self>, now: Instant) -> Option<LeasePlace> {
        let has_room = |held: u32| self.most(now).is_none_or(|most| held < most);
        if !has_room(self.held.load(SeqCst)) {
            self.calls_ledger();
            return None;
        }
        let before = self.held.fetch_add(1, SeqCst);
        // The ledger lowers the lease first and reads afterwards what is held: either it sees this place or this sees
        // the lower lease.
        if !has_room(before) {
            self.held.fetch_sub(1, SeqCst);
            self.calls_ledger();
            return None;
        }
        if before + 1 >= self.wake_at.load(SeqCst) && self.quota().is_some() {
            self.calls_ledger();
        }
        Some(LeasePlace { of: Arc::clone(self), is_open: false, is_over: false })
    }

    /// Takes a place whether there is one or not.
    pub fn take_over(self: &Arc<Self>) -> LeasePlace {
        self.held.fetch_add(1, SeqCst);
        self.needs_look();
        LeasePlace { of: Arc::clone(self), is_open: false, is_over: true }
    }

    /// Whether leases are in force.
    pub fn is_in_force(&self, now: Instant) -> bool {
        self.standing.is_valid(now)
    }

    /// Connections taken and not given back.
    pub fn held(&self) -> u32 {
        self.held.load(SeqCst)
    }

    /// So many clients wait for a place, where they do not [`wait`](Self::wait) for one each.
    pub fn wants(&self, waiting: u32) {
        if self.waiting.swap(waiting, SeqCst) != waiting {
            self.needs_look();
        }
    }

    /// Whether the connections that have been taken may still go to servers: asked again after the dial, before a
    /// server is told whose connection it is. A process that was stopped meanwhile may hold leases that others have by
    /// now.
    pub fn may_go_on(&self, now: Instant) -> bool {
        self.standing.is_given() || self.in_force(now).is_none_or(|most| self.held.load(SeqCst) <= most)
    }

    /// A client waits for a place from now on; `None` where none will come.
    pub fn wait(self: &Arc<Self>, now: Instant) -> Option<LeaseWait> {
        let since = self.standing.nanos(now);
        if since < self.vain_before.load(SeqCst) {
            return None;
        }
        self.waiting.fetch_add(1, SeqCst);
        self.calls_ledger();
        Some(LeaseWait { of: Arc::clone(self), since })
    }

    /// What is used of it.
    pub fn usage(&self) -> Use {
        // First what has been given back: a connection that goes meanwhile is counted as gone twice, and not never.
        let released = self.released.load(SeqCst);
        let open = self.open.load(SeqCst);
        Use { held: self.held.load(SeqCst), open, waiting: self.waiting.load(SeqCst), released }
    }

    /// The lease of this term, as far as it is certain.
    pub fn lease(&self) -> u32 {
        self.lease.load(SeqCst)
    }

    /// What it may have while leases are not in force.
    pub fn floor(&self) -> u32 {
        self.floor_of(self.quota.load(SeqCst))
    }

    fn floor_of(&self, quota: u32) -> u32 {
        Floor::unpack(self.floor.load(SeqCst)).at(quota)
    }

    pub(super) fn floor_as_set(&self) -> Floor {
        Floor::unpack(self.floor.load(SeqCst))
    }

    pub(super) fn set_lease(&self, lease: u32) {
        self.lease.store(lease, SeqCst);
    }

    pub(super) fn lower_lease(&self, to: u32) {
        self.lease.fetch_min(to, SeqCst);
    }

    pub(super) fn set_floor(&self, floor: Floor) {
        self.floor.store(floor.pack(), SeqCst);
    }

    /// At no quota is it more than before, nor more than `to`. Only the ledger changes floors.
    pub(super) fn lower_floor(&self, to: Floor) {
        let before = Floor::unpack(self.floor.load(SeqCst));
        self.set_floor(Floor { most: before.most.min(to.most), of: before.of.max(to.of) });
    }

    pub(super) fn set_hints(&self, hints: Hints) {
        self.cap.store(hints.cap, SeqCst);
        self.wake_at.store(hints.wake_at, SeqCst);
        self.is_wanted.store(hints.is_wanted, SeqCst);
        let vain_before = match hints.in_vain {
            InVain::Nobody => 0,
            InVain::Since(before) => self.standing.nanos(before),
            InVain::Everybody => u64::MAX,
        };
        self.vain_before.store(vain_before, SeqCst);
    }
}

/// What a weir may have while its leases are not in force, and the quota of which that is a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Floor {
    pub most: u32,
    pub of: u32,
}

impl Floor {
    /// What is left of it at this quota. Weirs that are cut off cannot agree on a lower quota: each takes less in
    /// proportion, so that floors which were together within the old quota are within the lower one.
    fn at(self, quota: u32) -> u32 {
        if quota >= self.of {
            return self.most;
        }
        let part = u64::from(self.most) * u64::from(quota) / u64::from(self.of);
        u32::try_from(part).unwrap_or(u32::MAX)
    }

    fn pack(self) -> u64 {
        u64::from(self.of) << 32 | u64::from(self.most)
    }

    fn unpack(packed: u64) -> Self {
        Self { most: packed as u32, of: (packed >> 32) as u32 }
    }
}

/// What does not make a lease larger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hints {
    pub cap: u32,
    pub wake_at: u32,
    pub is_wanted: bool,
    pub in_vain: InVain,
}

/// Which clients wait for a place that will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InVain {
    Nobody,
    /// Those that wait since before then: what is known is of that time, and later something may have come free.
    Since(Instant),
    Everybody,
}

/// One connection that counts in an allowance, given back on drop.
#[derive(Debug)]
pub struct LeasePlace {
    of: Arc<Allowance>,
    is_open: bool,
    is_over: bool,
}

impl LeasePlace {
    /// The server has let its client in: servers count it from now on.
    pub fn opened(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.of.open.fetch_add(1, SeqCst);
        }
    }

    /// Whether it was taken whatever this weir may have.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Of what it is a place.
    pub fn allowance(&self) -> &Arc<Allowance> {
        &self.of
    }

    /// See [`Allowance::may_go_on`].
    pub fn may_go_on(&self, now: Instant) -> bool {
        self.of.may_go_on(now)
    }
}

impl Drop for LeasePlace {
    fn drop(&mut self) {
        // In this order: see `Allowance::usage`.
        if self.is_open {
            self.of.open.fetch_sub(1, SeqCst);
        }
        self.of.released.fetch_add(1, SeqCst);
        self.of.held.fetch_sub(1, SeqCst);
        if self.of.is_wanted.load(SeqCst) {
            self.of.calls_ledger();
        }
    }
}

/// A client that waits for a place.
#[derive(Debug)]
pub struct LeaseWait {
    of: Arc<Allowance>,
    /// Nanoseconds since the standing's base.
    since: u64,
}

impl LeaseWait {
    /// What it waits for.
    pub fn allowance(&self) -> &Arc<Allowance> {
        &self.of
    }

    /// Whether it waits for a place that will not come.
    pub fn is_in_vain(&self) -> bool {
        self.since < self.of.vain_before.load(SeqCst)
    }
}

impl Drop for LeaseWait {
    fn drop(&mut self) {
        self.of.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::key::{Key, Kind};

    #[test]
    fn a_lower_quota_makes_floors_less_in_proportion() {
        let began = Instant::now();
        let standings = [1, 2, 3].map(|_| Standing::new(began));
        let key = LeaseKey { kind: Kind::Account, key: Key::parse(&"0".repeat(32)).unwrap() };
        let weirs = standings.map(|standing| {
            standing.floors_until(Some(began + Duration::from_secs(1)));
            let allowance = Allowance::new(key, standing);
            allowance.set_quota(Some(60));
            allowance.set_floor(Floor { most: 20, of: 60 });
            allowance
        });
        let most = |quota| {
            weirs.each_ref().map(|one| {
                one.set_quota(Some(quota));
                (one.most(began), one.floor())
            })
        };
        assert_eq!(most(60), [(Some(20), 20); 3]);
        assert_eq!(most(3), [(Some(1), 1); 3], "together within the quota");
        assert_eq!(most(2), [(Some(0), 0); 3]);
        // What was let in by the higher quota stays, and others that are cut off do not know of it.
        most(60);
        let held: Vec<_> = (0..20).filter_map(|_| weirs[0].take(began)).collect();
        most(3);
        assert!(held.len() == 20 && weirs[0].take(began).is_none());
        assert!(weirs[1].take(began).is_some(), "one of 3, and 20 are there");
        drop(held);
        assert_eq!(most(90), [(Some(20), 20); 3], "it is no part of what it did not know");
        weirs[0].lower_floor(Floor { most: 30, of: 90 });
        assert_eq!(weirs[0].floor(), 20);
        assert_eq!(most(60)[0].1, 13, "of the higher quota that it may be of");
    }

    #[test]
    fn nothing_is_taken_beyond_what_is_in_force_and_everything_is_given_back() {
        let began = Instant::now();
        let standing = Standing::new(began);
        let allowance = Allowance::new(LeaseKey { kind: Kind::Account, key: Key::LOWEST }, Arc::clone(&standing));
        let second = Duration::from_secs(1);
        let free = allowance.take(began).expect("there is no quota");
        allowance.set_quota(Some(9));
        assert!(allowance.take(began).is_none() && !allowance.may_go_on(began), "nothing is in force");
        allowance.set_lease(3);
        allowance.set_floor(Floor { most: 2, of: 9 });
        standing.valid_until(began + second);
        let mut held = vec![free, allowance.take(began).unwrap(), allowance.take(began).unwrap()];
        assert!(allowance.take(began).is_none());
        held[0].opened();
        held[0].opened();
        assert_eq!(allowance.usage(), Use { held: 3, open: 1, waiting: 0, released: 0 });
        let late = began + second;
        assert_eq!((allowance.most(late), allowance.may_go_on(late)), (Some(0), false));
        standing.floors_until(Some(late + second));
        assert_eq!((allowance.most(late), allowance.may_go_on(late)), (Some(2), false));
        held.pop();
        assert!(allowance.may_go_on(late) && allowance.take(late).is_none());
        allowance.set_hints(Hints { cap: 1, wake_at: 0, is_wanted: true, in_vain: InVain::Everybody });
        assert_eq!((allowance.most(began), allowance.may_go_on(began)), (Some(1), true), "who is in goes on");
        drop(held);
        assert_eq!(allowance.usage(), Use { held: 0, open: 0, waiting: 0, released: 3 });
    }
}
