//! The rates that the weirs of a fleet share by demand: the pace, and those of accounts, users and patterns of names.
//! The decisions are those of [`rates`](crate::fleet::rates). Of rates that are too many for a message each weir has an
//! equal part.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    admission::{controller::Admission, queue::waiting::Waiter, quota::rate::RateUse},
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
    /// The part at which tokens are promised still, and until when: more than weir has by now.
    promised: Option<(f64, Instant)>,
}

impl OneRate {
    fn new(shared: SharedRate, now: Instant, taken: u64) -> Self {
        Self { shared, measured: (now, taken), taken: 0.0, was_empty: None, promised: None }
    }

    /// Takes weir's part of the rate. Returns it with what the others are to hear: until the tokens are out that are
    /// promised at a larger part, nobody else may have what weir gives up.
    fn look(&mut self, now: Instant, used: RateUse) -> (f64, RatePart) {
        let (before, wants) = (self.shared.own().has, self.wants(now, used));
        let has = self.shared.look(now, wants);
        self.promised = self.promised.filter(|(_, until)| *until > now);
        if has < before && self.promised.is_none_or(|(part, _)| part < before) {
            self.promised = used.promised_until.map(|until| (before, until)).or(self.promised);
        }
        let promised = self.promised.map_or(0.0, |(part, _)| part);
        (has, RatePart { has: has.max(promised), ..self.shared.own() })
    }

    /// What this weir wants of the rate, as a part of it.
    fn wants(&mut self, now: Instant, RateUse { per_second, taken, was_empty, .. }: RateUse) -> f64 {
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
    /// How many weirs there were when rates that no beat tells of were last divided.
    weirs: AtomicU32,
}

const MILLIONTHS: f64 = 1e6;

/// What a beat says of a rate. A weir that does not speak of it wants nothing of it, or has an `equal` part of it
/// where it may have more rates than it tells of.
fn part(beat: &Beat, key: Key, equal: f64) -> RatePart {
    match beat.rates.get(&key) {
        Some(RateBeat { has, wants }) => {
            RatePart { has: f64::from(*has) / MILLIONTHS, wants: f64::from(*wants) / MILLIONTHS }
        }
        None if beat.may_leave_rates_out() => RatePart { has: equal, wants: equal },
        None => RatePart::default(),
    }
}

impl SharedRates {
    fn rates(&self) -> MutexGuard<'_, HashMap<Key, OneRate>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_rate(&self, key: Key, now: Instant, taken: u64) -> OneRate {
        let mut shared = SharedRate::new(self.began);
        let peers = self.fleet.peers();
        let equal = peers.equal_part();
        peers.iter().for_each(|peer| shared.heard(peer.id(), part(peer.last(), key, equal)));
        OneRate::new(shared, now, taken)
    }
}

impl<W: Waiter> Admission<W> {
    /// From now on weir is one of this fleet. To be called before the first client comes; the first caller counts.
    pub fn join(&self, fleet: &Arc<Fleet>, now: Instant) {
        self.servers.join(fleet);
        self.users_and_names.join(fleet);
        let pace = fleet.keys().of(Kind::Name, "admission.rate");
        let rates = SharedRates {
            fleet: Arc::clone(fleet),
            pace,
            began: now,
            rates: Mutex::default(),
            weirs: AtomicU32::new(1),
        };
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
        uses.extend(self.users_and_names.rates(MOST_RATES - 1 - uses.len(), now));
        if let Some(rate) = self.pace.rate() {
            let (taken, was_empty) = (self.finished.load(Relaxed), self.pace.take_was_empty());
            let per_second = rate.per_second.get().into();
            uses.push((shared.pace, RateUse { per_second, taken, was_empty, promised_until: None }));
        }
        let told_of: HashSet<Key> = uses.iter().map(|(key, _)| *key).collect();
        let mut pace = None;
        let mut rates = shared.rates();
        let (weirs, equal) = {
            let peers = shared.fleet.peers();
            (peers.weirs(), peers.equal_part())
        };
        let mut not_told_of: Vec<Key> = rates.extract_if(|key, _| !told_of.contains(key)).map(|(key, _)| key).collect();
        if shared.weirs.swap(weirs, Relaxed) != weirs {
            not_told_of = [self.accounts.rate_keys(), self.users_and_names.rate_keys()].concat();
            not_told_of.retain(|key| !told_of.contains(key));
        }
        not_told_of.into_iter().for_each(|key| self.set_rate_part(key, equal, now));
        let mut told = BTreeMap::new();
        for (key, used) in uses {
            let one = rates.entry(key).or_insert_with(|| shared.new_rate(key, now, used.taken));
            let (has, told_part) = one.look(now, used);
            match key == shared.pace {
                true => pace = Some(has),
                false => self.set_rate_part(key, has, now),
            }
            let millionths = |part: f64| (part * MILLIONTHS) as u32;
            told.insert(key, RateBeat { has: millionths(told_part.has), wants: millionths(told_part.wants) });
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

    /// From now on this weir has this part of the rate of an account, a user or a pattern of names.
    fn set_rate_part(&self, key: Key, part: f64, now: Instant) {
        self.accounts.set_rate_part(key, part, now);
        self.users_and_names.set_rate_part(key, part, now);
    }

    /// Another weir has told what it has.
    pub(super) fn hear_rates(&self, beat: &Beat) {
        if let Some(shared) = self.shared_rates.get() {
            let equal = shared.fleet.peers().equal_part();
            shared.rates().iter_mut().for_each(|(key, one)| one.shared.heard(&beat.id, part(beat, *key, equal)));
        }
    }

    /// Another weir is gone.
    pub(super) fn forget_rates(&self, id: &MemberId) {
        if let Some(shared) = self.shared_rates.get() {
            shared.rates().values_mut().for_each(|one| one.shared.forget(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One weir has promised tokens of the whole rate when another one begins to want some.
    #[test]
    fn what_is_promised_nobody_else_has() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs_f64(seconds);
        let mut rates = [(); 2].map(|()| OneRate::new(SharedRate::new(began), began, 0));
        let ids = ["a", "b"].map(|id| MemberId::new(id).unwrap());
        let idle = RateUse { per_second: 20.0, taken: 0, was_empty: false, promised_until: None };
        let waits = RateUse { was_empty: true, ..idle };
        let promises = RateUse { promised_until: Some(at(6.0)), ..waits };
        let mut look = |now, uses: [RateUse; 2]| {
            let [(a, told_a), (b, told_b)] = [0, 1].map(|n| rates[n].look(now, uses[n]));
            rates[1].shared.heard(&ids[0], told_a);
            rates[0].shared.heard(&ids[1], told_b);
            (a, b)
        };
        (0..40).for_each(|n| _ = look(at(f64::from(n) * 0.1), [promises, idle]));
        let (a, b) = look(at(4.0), [promises, idle]);
        assert!(a > 0.9 && b < 0.1, "{a} and {b}");
        for n in 41..60 {
            let (a, b) = look(at(f64::from(n) * 0.1), [promises, waits]);
            assert!(b < 0.1, "{a} and {b}: all is promised");
        }
        (60..90).for_each(|n| _ = look(at(f64::from(n) * 0.1), [waits, waits]));
        let (a, b) = look(at(9.0), [waits, waits]);
        assert!((a - 0.5).abs() < 0.05 && (b - 0.5).abs() < 0.05, "{a} and {b}");
    }
}
