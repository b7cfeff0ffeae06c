//! The rates that the weirs of a fleet share by demand: the pace, and those of accounts. The decisions are those of
//! [`rates`](crate::fleet::rates).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    admission::{controller::Admission, queue::waiting::Waiter},
    fleet::{
        Fleet,
        beat::{Beat, MOST_RATES, RateBeat},
        key::{Key, Kind},
        member::MemberId,
        rates::{RatePart, SharedRate},
    },
};

/// What is wanted is measured over this time at least.
const MEASURED_OVER: Duration = Duration::from_millis(200);
/// A weir wants this much more than it has used, so that clients that come more often need not wait for a beat.
const HEADROOM: f64 = 1.25;
/// A weir that was without a token wants as much as it can get for so long.
const WANTS_FOR: Duration = Duration::from_secs(2);

/// What is known of one rate.
#[derive(Debug)]
struct OneRate {
    shared: SharedRate,
    /// When it was last measured, and what had been taken then.
    measured: (Instant, u64),
    /// Tokens a second.
    taken: f64,
    was_empty: Option<Instant>,
}

impl OneRate {
    /// What this weir wants of the rate, as a part of it.
    fn wants(&mut self, now: Instant, (per_second, taken, was_empty): (f64, u64, bool)) -> f64 {
        let (at, before) = self.measured;
        let since = now.saturating_duration_since(at);
        if since >= MEASURED_OVER {
            let lately = taken.saturating_sub(before) as f64 / since.as_secs_f64();
            (self.taken, self.measured) = ((self.taken + lately) / 2.0, (now, taken));
        }
        if was_empty {
            self.was_empty = Some(now);
        }
        let is_short = self.was_empty.is_some_and(|at| now.saturating_duration_since(at) < WANTS_FOR);
        if is_short { 1.0 } else { HEADROOM * self.taken / per_second }
    }
}

/// The rates of a weir that is one of a fleet.
#[derive(Debug)]
pub(super) struct SharedRates {
    fleet: Arc<Fleet>,
    /// What the pace is called in beats.
    pace: Key,
    began: Instant,
    rates: Mutex<HashMap<Key, OneRate>>,
}

const MILLIONTHS: f64 = 1e6;

/// What a beat says of a rate. A weir that does not speak of it wants nothing of it.
fn part(beat: &Beat, key: Key) -> RatePart {
    let RateBeat { has, wants } = beat.rates.get(&key).copied().unwrap_or_default();
    RatePart { has: f64::from(has) / MILLIONTHS, wants: f64::from(wants) / MILLIONTHS }
}

impl SharedRates {
    fn rates(&self) -> MutexGuard<'_, HashMap<Key, OneRate>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_rate(&self, key: Key, now: Instant, taken: u64) -> OneRate {
        let mut shared = SharedRate::new(self.began);
        self.fleet.peers().iter().for_each(|peer| shared.heard(peer.id(), part(peer.last(), key)));
        OneRate { shared, measured: (now, taken), taken: 0.0, was_empty: None }
    }
}

impl<W: Waiter> Admission<W> {
    /// From now on weir is one of this fleet. To be called before the first client comes; the first caller counts.
    pub fn join(&self, fleet: &Arc<Fleet>, now: Instant) {
        self.servers.join(fleet);
        let pace = fleet.keys().of(Kind::Name, "admission.rate");
        let rates = SharedRates { fleet: Arc::clone(fleet), pace, began: now, rates: Mutex::default() };
        let first = rates.new_rate(pace, now, 0).shared.own().has;
        if self.shared_rates.set(rates).is_ok() {
            self.pace.set_part(first, now);
        }
    }

    /// Takes this weir's part of each rate by what all want, and returns what the others are to hear of it. To be
    /// called before each beat.
    pub fn share_rates(&self, now: Instant) -> BTreeMap<Key, RateBeat> {
        let Some(shared) = self.shared_rates.get() else { return BTreeMap::new() };
        let mut uses = self.accounts.rates(MOST_RATES - 1);
        if let Some(rate) = self.pace.rate() {
            let taken = self.finished.load(Relaxed);
            uses.push((shared.pace, (rate.per_second.get().into(), taken, self.pace.take_was_empty())));
        }
        let mut pace = None;
        let mut rates = shared.rates();
        rates.retain(|key, _| uses.iter().any(|(used, _)| used == key));
        let mut told = BTreeMap::new();
        for (key, used) in uses {
            let one = rates.entry(key).or_insert_with(|| shared.new_rate(key, now, used.1));
            let wants = one.wants(now, used);
            let has = one.shared.look(now, wants);
            match key == shared.pace {
                true => pace = Some(has),
                false => self.accounts.set_rate_part(key, has, now),
            }
            let millionths = |part: f64| (part * MILLIONTHS) as u32;
            told.insert(key, RateBeat { has: millionths(has), wants: millionths(one.shared.own().wants) });
        }
        drop(rates);
        if let Some(part) = pace
            && self.pace.set_part(part, now)
        {
            // The next token was expected at the old part.
            self.queue_state().pace_ready_at = None;
        }
        told
    }

    /// Another weir has told what it has.
    pub(super) fn hear_rates(&self, beat: &Beat) {
        if let Some(shared) = self.shared_rates.get() {
            shared.rates().iter_mut().for_each(|(key, one)| one.shared.heard(&beat.id, part(beat, *key)));
        }
    }

    /// Another weir is gone.
    pub(super) fn forget_rates(&self, id: &MemberId) {
        if let Some(shared) = self.shared_rates.get() {
            shared.rates().values_mut().for_each(|one| one.shared.forget(id));
        }
    }
}
