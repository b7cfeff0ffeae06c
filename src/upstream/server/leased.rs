//! The slots of a server that is nearly full, which the weirs of a fleet share by leases.
//!
//! What others have taken since their last beats no weir knows. While a server has plenty of room that does not matter:
//! each weir takes no more of the room between two looks than all together may take. Where a server is nearly full, or
//! fills too fast for that, weir takes its slots from its lease, as long as leases are in force. Else the counts alone
//! decide, as without a fleet: no server is closed for want of a lease.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use crate::{
    fleet::{
        key::{Key, Kind},
        lease::{
            LeaseKey,
            allowance::{Allowance, LeasePlace},
            book::LeaseBook,
        },
    },
    upstream::{load::Load, server::Server},
};

/// A server with fewer free slots than this, or than [`NEAR_PART`] of its capacity, is nearly full. It is so until it
/// has twice as many.
const NEAR: u32 = 64;
const NEAR_PART: u32 = 10;

/// Between two looks a weir takes at most its part of half the room without a lease: by then it has heard what the
/// others have taken.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A server that has filled faster than that, or that others lease, is leased for so long at least.
const LEASED_FOR: Duration = Duration::from_secs(2);

/// The lease of this weir has no slot left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

/// What a look is told of the fleet.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    pub book: &'a LeaseBook,
    /// Weirs that live, this one included.
    pub weirs: u32,
}

/// What this weir may have of one server's slots.
#[derive(Debug)]
pub(super) struct SlotLease {
    /// Slots beyond so many come from the lease; [`u32::MAX`]: none does.
    leased_beyond: AtomicU32,
    /// Once it holds so many, weir asks for a lease.
    ask_at: AtomicU32,
    /// Whether there is an allowance, which takes one relaxed load to know.
    is_counted: AtomicBool,
    allowance: ArcSwapOption<Allowance>,
    look: Mutex<Look>,
}

/// What the last look has seen.
#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    key: Option<LeaseKey>,
    held: u32,
    /// The part of the room that this weir might take until the next look.
    part: u32,
    is_near: bool,
    others_lease: bool,
    leased_until: Option<Instant>,
    /// For slots that were taken before there was an allowance, or under another key.
    stand_ins: Vec<LeasePlace>,
}

impl Default for SlotLease {
    fn default() -> Self {
        Self {
            leased_beyond: AtomicU32::new(u32::MAX),
            ask_at: AtomicU32::new(u32::MAX),
            is_counted: AtomicBool::new(false),
            allowance: ArcSwapOption::empty(),
            look: Mutex::default(),
        }
    }
}

impl SlotLease {
    fn allowance(&self) -> Option<Arc<Allowance>> {
        if self.is_counted.load(Relaxed) { self.allowance.load_full() } else { None }
    }

    /// Takes a place for a slot; `Ok(None)` where weir is in no fleet.
    fn take(&self, now: Instant, load: &Load) -> Result<Option<LeasePlace>, NoPlace> {
        if !self.is_counted.load(Relaxed) {
            return Ok(None);
        }
        let allowance = self.allowance.load();
        let Some(allowance) = &*allowance else { return Ok(None) };
        let held = allowance.held();
        if held >= self.ask_at.load(Relaxed) && allowance.quota().is_none() {
            allowance.set_quota(Some(load.ceiling()));
        }
        if held < self.leased_beyond.load(Relaxed) || !allowance.is_in_force(now) {
            return Ok(Some(allowance.take_over()));
        }
        allowance.take(now).map(Some).ok_or(NoPlace)
    }

    /// Whether weir has to wait for a larger lease before it may take a slot.
    #[inline]
    pub fn is_used_up(&self, now: Instant) -> bool {
        let leased_beyond = self.leased_beyond.load(Relaxed);
        leased_beyond != u32::MAX && self.has_no_place(leased_beyond, now)
    }

    #[cold]
    fn has_no_place(&self, leased_beyond: u32, now: Instant) -> bool {
        let allowance = self.allowance.load();
        let Some(allowance) = &*allowance else { return false };
        let held = allowance.held();
        held >= leased_beyond && allowance.is_in_force(now) && allowance.most(now).is_some_and(|most| held >= most)
    }

    /// Looks whether slots are to be leased from now on. `key` is what the fleet knows the server by; `others_lease`
    /// says whether another weir has a lease of it.
    fn look(
        &self,
        now: Instant,
        load: &Load,
        around: Around<'_>,
        key: impl FnOnce() -> Key,
        others_lease: impl FnOnce(LeaseKey) -> bool,
    ) {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = look.at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY);
        let others_lease = look.key.is_some_and(others_lease);
        let is_new = others_lease && !look.others_lease;
        look.others_lease = others_lease;
        if is_new {
            look.leased_until = Some(now + LEASED_FOR);
        }
        if !is_due {
            // Who leases it has to know what this weir holds.
            if is_new && let (Some(allowance), Some(ceiling)) = (self.allowance(), load.known_ceiling()) {
                allowance.set_quota(Some(ceiling));
            }
            return;
        }
        let allowance = self.counts(&mut look, load, around.book, key());
        look.at = Some(now);
        let was_leased = allowance.quota().is_some();
        let held = load.connections().held();
        let is_shared = around.weirs > 1 || others_lease;
        let Some(ceiling) = load.known_ceiling().filter(|_| is_shared) else {
            self.leased_beyond.store(u32::MAX, Relaxed);
            self.ask_at.store(u32::MAX, Relaxed);
            allowance.set_quota(None);
            look.leased_until = None;
            return;
        };
        let free = ceiling.saturating_sub(load.projected());
        let near = NEAR.max(load.capacity() / NEAR_PART);
        look.is_near = free < near || look.is_near && free < near.saturating_mul(2);
        let is_fast = look.part > 0 && held.saturating_sub(look.held) >= look.part / 2;
        if is_fast && was_leased {
            look.leased_until = Some(now + LEASED_FOR);
        }
        let part = free / (2 * around.weirs.max(2));
        (look.held, look.part) = (held, part);
        let is_leased = look.is_near || look.leased_until.is_some_and(|until| now < until);
        // The lease that this look asks for comes before the next look. Until then slots are taken without it, so that
        // no client waits for it.
        let alone = if is_leased && was_leased { 0 } else { held.saturating_add(part) };
        self.leased_beyond.store(alone, Relaxed);
        self.ask_at.store(held.saturating_add(part / 2), Relaxed);
        allowance.set_quota(is_leased.then_some(ceiling));
    }

    /// The allowance of the server with this key, which counts every slot of weir's.
    fn counts(&self, look: &mut Look, load: &Load, book: &LeaseBook, key: Key) -> Arc<Allowance> {
        let key = LeaseKey { kind: Kind::Server, key };
        let allowance = match self.allowance().filter(|_| look.key == Some(key)) {
            Some(allowance) => allowance,
            None => {
                let allowance = book.open(key, None);
                (look.key, look.others_lease) = (Some(key), false);
                look.stand_ins.clear();
                self.allowance.store(Some(Arc::clone(&allowance)));
                self.is_counted.store(true, Relaxed);
                allowance
            }
        };
        // A slot takes its place before it counts in the load, and gives it back after that.
        let with_place = allowance.held().saturating_sub(look.stand_ins.len() as u32);
        let without = load.connections().held().saturating_sub(with_place) as usize;
        look.stand_ins.truncate(without);
        while look.stand_ins.len() < without {
            look.stand_ins.push(allowance.take_over());
        }
        allowance
    }
}

/// Slots that the weirs of a fleet share.
impl Server {
    /// Takes what a slot needs of this weir's lease; `Ok(None)` where weir is in no fleet.
    ///
    /// # Errors
    /// The lease is used up: others may give back what they do not need.
    pub fn take_place(&self, now: Instant) -> Result<Option<LeasePlace>, NoPlace> {
        self.slots.take(now, &self.load)
    }

    /// The same, whatever the lease is.
    pub fn take_place_over(&self) -> Option<LeasePlace> {
        self.slots.allowance().map(|allowance| allowance.take_over())
    }

    /// What this weir may have of its slots, while they are leased.
    pub fn leased_slots(&self) -> Option<Arc<Allowance>> {
        self.slots.allowance().filter(|allowance| allowance.quota().is_some())
    }

    /// What the leases of its slots are known by, and whether they are leased; `None` where weir is in no fleet.
    pub fn slots_key(&self) -> Option<(LeaseKey, bool)> {
        self.slots.allowance().map(|allowance| (allowance.key(), allowance.quota().is_some()))
    }

    /// Looks whether its slots are to be leased. To be called several times a second, where weir is in a fleet.
    pub fn look_at_slots(&self, now: Instant, around: Around<'_>, others_lease: impl FnOnce(LeaseKey) -> bool) {
        let key = || self.fleet_key(around.book.keys());
        self.slots.look(now, &self.load, around, key, others_lease);
    }
}

#[cfg(test)]
mod tests;
