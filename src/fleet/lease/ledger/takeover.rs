//! The ledger goes to the process that takes over: it goes on as the same holder in the same term, where this one
//! stopped writing.
//!
//! What the bucket says goes not along. The other process watches the bucket, as any weir does, and knows what is there
//! before it has this. What nothing else tells are the membership with its term, what is certain of each lease, the
//! floors, and what the other weirs have said to hold.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Kind, Ledger};
use crate::{
    fleet::{
        beat_key::BeatKey,
        lease::{
            Answer, Holder, LeaseKey,
            membership::OwnState,
            quota::{QuotaState, SharedQuota},
            record::MOST_ENTRIES,
        },
    },
    lapse::Lapse,
};

/// What goes to the other process. Times are as of the moment at which it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerState {
    pub me: Holder,
    own: OwnState,
    quotas: Vec<QuotaState>,
    /// Terms of others that have ended: who does not know it takes 4 s to prove it again.
    #[serde(default)]
    ended: Vec<(Holder, u32, Lapse)>,
    /// When each other weir has told last what it holds.
    #[serde(default)]
    heard: Vec<(Holder, Lapse)>,
    /// What others sign their beats with: they are heard before their memberships are seen here.
    #[serde(default)]
    keys: Vec<(Holder, BeatKey)>,
}

impl Ledger {
    /// Begins no operation from now on; what is under way may still be answered.
    pub fn stop_writing(&mut self) {
        self.is_given = true;
    }

    /// Whether it has stopped writing.
    pub fn is_given(&self) -> bool {
        self.is_given
    }

    /// Whether a write is under way whose answer decides what is certain.
    pub fn awaits_answers(&self) -> bool {
        self.under_way.values().any(|one| one.kind == Kind::Write)
    }

    /// Gives all that this process knows to another one, which goes on as this holder. From now on nothing is taken
    /// here, and connections that have been taken may still go to servers: the other process counts them.
    pub fn give(&mut self, now: Instant) -> LedgerState {
        self.stop_writing();
        // Of what is still under way nobody knows whether it happens.
        let serials: Vec<u64> = self.under_way.keys().copied().collect();
        serials.into_iter().for_each(|serial| self.answered(now, serial, &Answer::Unknown));
        self.standing.give();
        let quotas = self.quotas.iter().filter_map(|(key, quota)| quota.state(*key, now)).collect();
        let heard = self.heard.iter().map(|(holder, at)| (holder.clone(), Lapse::since(*at, now))).collect();
        let (own, ended) = (self.own.state(now), self.sights.ended(now));
        LedgerState { me: self.me.clone(), own, quotas, ended, heard, keys: self.sights.keys() }
    }

    /// The other process is gone after it had everything: this one goes on. What that one has written is not known, so
    /// that nothing is in force until another term is.
    pub fn take_back(&mut self, now: Instant) {
        self.is_given = false;
        self.standing.take_back();
        let change = self.own.take_back(now);
        self.change(change);
        self.quotas.values_mut().for_each(SharedQuota::take_back);
        self.due.all();
    }

    /// The last term that this process has tried.
    pub fn last_term(&self) -> u32 {
        self.own.last_term()
    }

    /// Another process of this holder has ended without giving anything, a few terms after `term`: this one goes on, as
    /// after [`Self::take_back`]. To be called before this one has begun any operation.
    pub fn begin_after(&mut self, term: u32, now: Instant) {
        self.own.have_tried(term);
        self.take_back(now);
    }

    /// Goes on with what another process gave at `then`, before this one has begun any operation.
    pub fn adopt(&mut self, state: &LedgerState, then: Instant, now: Instant) {
        for one in &state.quotas {
            let Some(key) = LeaseKey::parse(&one.key) else { continue };
            let allowance = self.book.open_unless_in_use(key, one.quota);
            let quota = self.quotas.entry(key).or_insert_with(|| SharedQuota::new(now));
            quota.adopt(one, &self.me, allowance, then, now);
            self.due.mark(key, quota);
        }
        self.sights.have_ended(&state.ended, then, now);
        self.sights.have_keys(&state.keys, now);
        let heard = state.heard.iter().take(MOST_ENTRIES);
        self.heard.extend(heard.map(|(holder, lapse)| (holder.clone(), lapse.before(then))));
        let change = self.own.adopt(&state.own, then, now);
        // The leases of this term are there by now.
        self.change(change);
        self.due.all();
    }
}
