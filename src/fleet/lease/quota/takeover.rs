//! What this weir has of one quota goes to the process that takes over.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use super::{Report, SharedQuota};
use crate::{
    fleet::lease::{
        Holder, LeaseKey,
        allowance::{Allowance, Floor},
        past::Past,
        record::MOST_ENTRIES,
    },
    lapse::Lapse,
};

/// What is certain of a lease, and what no record tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::fleet::lease) struct QuotaState {
    /// A [`LeaseKey`].
    pub key: String,
    pub quota: Option<u32>,
    certain: u32,
    term: u32,
    floor: Floor,
    has_floor: bool,
    /// The last revision that was seen: of what is later the other process has to make up its mind by itself.
    newest: u64,
    unused_for: Lapse,
    /// What the others say to hold, and whether they go by the split.
    #[serde(default)]
    reports: Vec<(Holder, u32, bool)>,
}

impl SharedQuota {
    /// `None`: this weir does not use it.
    pub fn state(&self, key: LeaseKey, now: Instant) -> Option<QuotaState> {
        let allowance = self.allowance.as_ref()?;
        Some(QuotaState {
            key: key.to_string(),
            quota: allowance.quota(),
            certain: self.certain,
            term: self.term,
            floor: allowance.floor_as_set(),
            has_floor: self.has_floor,
            newest: self.newest,
            unused_for: Lapse::since(self.used_at, now),
            reports: self.reports.iter().map(|(holder, one)| (holder.clone(), one.held, one.by_split)).collect(),
        })
    }

    /// Goes on with what another process of `me` had `then`. What has been seen here of the record stays.
    pub fn adopt(&mut self, state: &QuotaState, me: &Holder, allowance: Arc<Allowance>, then: Instant, now: Instant) {
        self.released = allowance.usage().released;
        // Readings from before are judged without the other weirs.
        (self.past, self.reading) = (Past::new(now), None);
        self.opened(now, allowance);
        (self.certain, self.term, self.has_floor) = (state.certain, state.term, state.has_floor);
        self.used_at = state.unused_for.before(then);
        for (holder, held, by_split) in state.reports.iter().take(MOST_ENTRIES) {
            self.reports.insert(holder.clone(), Report { held: *held, by_split: *by_split, leased_since: None });
        }
        if self.newest > state.newest {
            // Others may have taken it back since.
            let own = self.record.l.get(me).filter(|entry| entry.t == self.term).map_or(0, |entry| entry.n);
            self.certain = self.certain.min(own);
        } else if self.newest < state.newest {
            // What is known here is older than what that process has written.
            self.revision = None;
        }
        if let Some(allowance) = &self.allowance {
            allowance.set_lease(self.certain);
            allowance.set_floor(state.floor);
        }
    }

    /// Another process may have written it, and is gone: neither the lease nor the floor is certain.
    pub fn take_back(&mut self) {
        self.term_ended();
        self.not_done();
        // It is not split either: others have what that process has left of it.
        self.has_floor = true;
        if let Some(allowance) = &self.allowance {
            allowance.set_floor(Floor { most: 0, of: 0 });
        }
    }
}
