//! What this weir is in its fleet, for the process that takes over from it: the other weirs see no weir leave or come.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{
    fleet::{
        Fleet,
        beat::{Beat, ServerBeat},
        key::Key,
        lease::ledger::LedgerState,
    },
    lapse::Lapse,
};

/// All of it. Times are as of the moment at which it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetState {
    pub ledger: LedgerState,
    /// What would be the next beat, with all accounts in use: counts go on from there.
    pub beat: Beat,
    /// The other weirs.
    #[serde(default)]
    pub peers: Vec<PeerState>,
}

/// How far a process is that has ended before it could give anything: one that goes on as the same weir begins beyond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMark {
    /// The last term of its membership.
    pub term: u32,
    /// The number of its last beat.
    pub beat: u64,
}

/// What another weir has said, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerState {
    /// The last beat, with all that is known of its accounts.
    pub beat: Beat,
    pub heard: Lapse,
}

impl Fleet {
    /// Gives what this weir is in its fleet to another process, which goes on as the same; see
    /// [`Ledger::give`](crate::fleet::lease::ledger::Ledger::give).
    pub fn give(&self, beat: Beat, now: Instant) -> FleetState {
        FleetState { ledger: self.ledger().give(now), beat, peers: self.peers().states(now) }
    }
}

/// What the processes before have counted: beats tell the sums since the first of them began.
#[derive(Debug, Default)]
pub struct Before {
    admitted: u64,
    servers: Vec<(Key, ServerBeat)>,
    accounts: Vec<(Key, u64)>,
}

/// How much is to be added to two counts of which only one rises at a time, so that neither falls.
fn missing(before: [u64; 2], now: [u64; 2]) -> u64 {
    before[0].saturating_sub(now[0]).max(before[1].saturating_sub(now[1]))
}

impl Before {
    /// What is to be added to a process that counts as `now`, after one that has told `before`.
    pub fn between(before: &Beat, now: &Beat) -> Self {
        let server = |(key, then): (&Key, &ServerBeat)| {
            let own = now.servers.get(key).cloned().unwrap_or_default();
            let taken = missing([then.taken, then.released], [own.taken, own.released]);
            let pace = then.pace.clone().map(|mut pace| {
                let own = own.pace.clone().unwrap_or_default();
                pace.finished = pace.finished.saturating_sub(own.finished);
                pace.ratios_milli = pace.ratios_milli.saturating_sub(own.ratios_milli);
                pace.unbounded_milli = pace.unbounded_milli.saturating_sub(own.unbounded_milli);
                pace.took_ms = pace.took_ms.saturating_sub(own.took_ms);
                pace.timed_out = pace.timed_out.saturating_sub(own.timed_out);
                pace
            });
            (*key, ServerBeat { taken, done: then.done.saturating_sub(own.done), pace, ..Default::default() })
        };
        let accounts = before.accounts.iter().map(|(key, then)| {
            let own = now.accounts.get(key).cloned().unwrap_or_default();
            (*key, missing([then.taken, then.released], [own.taken, own.released]))
        });
        Self {
            admitted: before.admitted.saturating_sub(now.admitted),
            servers: before.servers.iter().map(server).collect(),
            accounts: accounts.collect(),
        }
    }

    /// Adds it.
    pub fn add_to(&self, beat: &mut Beat) {
        beat.admitted = beat.admitted.saturating_add(self.admitted);
        for (key, before) in &self.servers {
            let Some(one) = beat.servers.get_mut(key) else { continue };
            one.taken = one.taken.saturating_add(before.taken);
            one.released = one.released.saturating_add(before.taken);
            one.done = one.done.saturating_add(before.done);
            if let (Some(pace), Some(before)) = (&mut one.pace, &before.pace) {
                pace.finished = pace.finished.saturating_add(before.finished);
                pace.ratios_milli = pace.ratios_milli.saturating_add(before.ratios_milli);
                pace.unbounded_milli = pace.unbounded_milli.saturating_add(before.unbounded_milli);
                pace.took_ms = pace.took_ms.saturating_add(before.took_ms);
                pace.timed_out = pace.timed_out.saturating_add(before.timed_out);
            }
        }
        for (key, before) in &self.accounts {
            let Some(one) = beat.accounts.get_mut(key) else { continue };
            one.taken = one.taken.saturating_add(*before);
            one.released = one.released.saturating_add(*before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{
        beat::AccountBeat,
        key::{Keys, Kind},
        member::MemberId,
    };

    #[test]
    fn counts_go_on_where_the_process_before_ended() {
        let (keys, id) = (Keys::of_fleet("edge"), MemberId::new("weir-1").unwrap());
        let [server, account] = [keys.of(Kind::Server, "n1"), keys.of(Kind::Account, "A")];
        let beat = |held: u32, released: u64| {
            let taken = released + u64::from(held);
            let mut beat = Beat::new(id.clone(), 7);
            beat.servers.insert(server, ServerBeat { held, taken, released, done: taken, ..Default::default() });
            beat.accounts.insert(account, AccountBeat { held, taken, released, ..Default::default() });
            beat.admitted = taken;
            beat
        };
        // 20 were held; one of them has ended by the time at which the new process counts.
        let before = Before::between(&beat(20, 1000), &beat(19, 1));
        let mut next = beat(19, 3);
        before.add_to(&mut next);
        let (of_server, of_account) = (&next.servers[&server], &next.accounts[&account]);
        assert_eq!((of_server.taken, of_server.released, of_server.held), (1022, 1003, 19));
        assert_eq!((of_account.taken, of_account.released), (1022, 1003));
        assert_eq!((of_server.done, next.admitted), (1022, 1022));
    }
}
