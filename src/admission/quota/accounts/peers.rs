//! What the other weirs of the fleet hold of the accounts: told to each account's count, and what weir tells them.
//!
//! The servers' counts, without what all weirs hold, go to the leases from here: once all peers have told what they had
//! when the servers counted, so that no burst through a peer looks like connections past weir.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use dashmap::DashMap;

use super::{Account, Accounts};
use crate::{
    admission::quota::rate::RateUse,
    fleet::{
        Fleet,
        beat::AccountBeat,
        key::{Key, Kind},
        peers::Heard,
    },
    upstream::reconciled_count::UNSURE,
};

/// The accounts in use, by what messages of the fleet know them by.
#[derive(Debug)]
pub(super) struct ByKey {
    fleet: Arc<Fleet>,
    accounts: DashMap<Key, Arc<Account>>,
    /// Accounts that the servers have counted, when those had answered, each once: peers have not told yet what they
    /// had.
    counted: Mutex<VecDeque<(Instant, Arc<Account>)>>,
}

impl ByKey {
    fn counted(&self) -> MutexGuard<'_, VecDeque<(Instant, Arc<Account>)>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An account comes into use.
    pub(super) fn add(&self, account: &Arc<Account>, now: Instant) {
        let key = self.fleet.keys().of(Kind::Account, account.name());
        self.accounts.insert(key, Arc::clone(account));
        // Until weirs have told each other what they want of its rate.
        account.set_rate_part(self.fleet.peers().equal_part(), now);
        // What peers have said of it before nobody has kept for it. A peer that goes meanwhile is told of afterwards.
        let peers = self.fleet.peers();
        peers.reports_of_account(key).iter().for_each(|report| account.connections.peer_says(report));
    }

    /// An account is in use no more.
    pub(super) fn remove(&self, account: &Account) {
        self.accounts.remove(&self.fleet.keys().of(Kind::Account, account.name()));
    }
}

/// What weir tells its peers, and hears of them.
impl Accounts {
    /// Weir is one of a fleet. To be called before the first client comes.
    pub fn join(&self, fleet: Arc<Fleet>) {
        // A second fleet is none: the first one stays.
        let _ = self.by_key.set(ByKey { fleet, accounts: DashMap::new(), counted: Mutex::default() });
    }

    /// What weir tells of its limited accounts in use, at most `most` of them, those first that had a session.
    pub fn told(&self, most: usize) -> Vec<(Key, AccountBeat)> {
        let Some(by_key) = self.by_key.get() else { return Vec::new() };
        let limited = |had_session| {
            let is_it =
                move |account: &Account| account.is_limited() && account.had_session.load(Relaxed) == had_session;
            by_key.accounts.iter().filter(move |one| is_it(one))
        };
        let of = |account: &Account| {
            let own = account.connections.own();
            AccountBeat { held: own.held, open: own.open, taken: own.taken, released: own.released, waiting: 0 }
        };
        limited(true).chain(limited(false)).take(most).map(|one| (*one.key(), of(one.value()))).collect()
    }

    /// At most `most` accounts that have a rate, and how they use it.
    pub fn rates(&self, most: usize) -> Vec<(Key, RateUse)> {
        let Some(by_key) = self.by_key.get() else { return Vec::new() };
        by_key.accounts.iter().filter_map(|one| Some((*one.key(), one.rate_use()?))).take(most).collect()
    }

    /// What the fleet calls the accounts that have a rate.
    pub fn rate_keys(&self) -> Vec<Key> {
        let Some(by_key) = self.by_key.get() else { return Vec::new() };
        by_key.accounts.iter().filter(|one| one.has_rate()).map(|one| *one.key()).collect()
    }

    /// From now on this weir has this part of the rate of an account.
    pub fn set_rate_part(&self, key: Key, part: f64, now: Instant) {
        if let Some(account) = self.by_key.get().and_then(|by_key| by_key.accounts.get(&key)) {
            account.set_rate_part(part, now);
        }
    }

    /// A peer has said what it holds.
    pub fn hear(&self, heard: &Heard, now: Instant) {
        let Some(by_key) = self.by_key.get() else { return };
        if let Some(gone) = &heard.ends {
            self.peer_lost(gone.run);
        }
        for (key, report) in heard.accounts() {
            if let Some(account) = by_key.accounts.get(&key) {
                account.connections.peer_says(&report);
            }
        }
        for key in &heard.unused {
            if let Some(account) = by_key.accounts.get(key) {
                account.connections.peer_ended(heard.beat.run, now);
            }
        }
    }

    /// An account has been counted by `now`: what that shows is told to the leases once it is known what the peers had.
    pub(super) fn await_peers(&self, account: &Arc<Account>, now: Instant) {
        if let Some(by_key) = self.by_key.get()
            && account.allowance().is_some()
            && account.connections.keep_reading()
        {
            by_key.counted().push_back((now, Arc::clone(account)));
        }
    }

    /// Tells the leases how many connections came past all weirs, by readings of which the peers have told what they
    /// had. To be called when a beat or a count has come.
    pub fn tell_past(&self, now: Instant) {
        let Some(by_key) = self.by_key.get() else { return };
        let told_until = by_key.fleet.peers().told_until();
        let sure: Vec<_> = {
            let mut counted = by_key.counted();
            let is_sure = |answered: Instant| told_until.is_none_or(|until| answered + UNSURE <= until);
            let many = counted.iter().take_while(|(answered, _)| is_sure(*answered)).count();
            counted.drain(..many).collect()
        };
        if sure.is_empty() {
            return;
        }
        // Apart from the ledger, so that no lock is held while another one is waited for.
        let untold: Vec<_> = {
            let peers = by_key.fleet.peers();
            let of = |account: &Account| account.allowance().map(|one| peers.untold(one.key().key)).unwrap_or_default();
            sure.iter().map(|(_, account)| of(account)).collect()
        };
        let mut ledger = by_key.fleet.ledger();
        for ((_, account), untold) in sure.iter().zip(untold) {
            if let (Some(allowance), Some((past, asked))) = (account.allowance(), account.connections.settle_reading())
            {
                ledger.beyond_live_within(now, allowance.key(), past, asked, untold);
            }
        }
    }

    /// A peer's process has ended, and has given back all that it held.
    pub fn peer_ended(&self, run: u64, now: Instant) {
        let Some(by_key) = self.by_key.get() else { return };
        by_key.accounts.iter().for_each(|one| one.connections.peer_ended(run, now));
    }

    /// A peer is silent, or cannot be reached: what the servers counted of it counts until they say otherwise.
    pub fn peer_lost(&self, run: u64) {
        let Some(by_key) = self.by_key.get() else { return };
        by_key.accounts.iter().for_each(|one| one.connections.peer_lost(run));
    }

    /// What peers hold of an account in use, by their last beats, and the estimate of what came through no weir.
    pub fn not_own(&self, name: &str) -> Option<(u32, u32)> {
        self.map.get(name).map(|one| (one.account.connections.peers(), one.account.connections.direct()))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::*;
    use crate::{
        admission::{AccountLimits, Proof, Quota},
        fleet::{beat::Beat, lease::Holder, member::MemberId, peers::Vouch},
    };

    fn fleet() -> Arc<Fleet> {
        Arc::new(Fleet::new("edge", MemberId::new("own").unwrap(), Instant::now(), &mut fastrand::Rng::with_seed(1)))
    }

    fn beat(run: u64, n: u64, accounts: &[(Key, u32)]) -> Beat {
        let of = |held: u32| AccountBeat { held, open: held, taken: held.into(), ..Default::default() };
        Beat {
            n,
            up_ms: 1000 * n,
            accounts: accounts.iter().map(|(key, held)| (*key, of(*held))).collect(),
            all_of: Some((Key::LOWEST, Key::HIGHEST)),
            ..Beat::new(MemberId::new("peer").unwrap(), run)
        }
    }

    #[test]
    fn an_account_has_what_peers_hold_of_it_whenever_it_comes_into_use() {
        let ten =
            AccountLimits { quota: Quota { max_connections: Some(10), ..Quota::default() }, ..Default::default() };
        let (accounts, fleet) = (Accounts::new(ten, HashMap::new(), Arc::default()), fleet());
        accounts.join(Arc::clone(&fleet));
        let (now, second) = (Instant::now() + Duration::from_secs(9), Duration::from_secs(1));
        let hear = |beat, now| {
            let heard = fleet.peers().heard(now, beat, Vouch::Unknown).unwrap();
            accounts.hear(&heard, now);
        };
        let [a, b] = ["A", "B"].map(|name| fleet.keys().of(Kind::Account, name));
        hear(beat(1, 1, &[(a, 6)]), now);
        let mut held: Vec<_> = (0..4).map(|_| accounts.enter(&"A".into(), Proof::Known, now).unwrap()).collect();
        assert!(accounts.enter(&"A".into(), Proof::Known, now).is_err(), "a peer holds six of ten");
        held[0].session_began();
        let told = AccountBeat { held: 4, open: 1, taken: 4, ..Default::default() };
        assert_eq!(accounts.told(10), [(a, told)]);
        assert!(accounts.told(0).is_empty());
        hear(beat(1, 2, &[(a, 2), (b, 9)]), now + second);
        held.extend((0..4).map(|_| accounts.enter(&"A".into(), Proof::Known, now).unwrap()));
        assert!(accounts.enter(&"A".into(), Proof::Known, now).is_err());
        let _b = accounts.enter(&"B".into(), Proof::Known, now).unwrap();
        assert!(accounts.enter(&"B".into(), Proof::Known, now).is_err(), "it had been told before it was in use");
        // A beat that does not have them any more, another process, and the end of that.
        hear(beat(1, 3, &[(b, 9)]), now + second);
        assert_eq!((accounts.not_own("A"), accounts.not_own("B")), (Some((0, 0)), Some((9, 0))));
        hear(beat(2, 1, &[(a, 1)]), now + second);
        assert_eq!((accounts.not_own("A"), accounts.not_own("B")), (Some((1, 0)), Some((0, 0))));
        accounts.peer_ended(2, now + second);
        assert_eq!(accounts.not_own("A"), Some((0, 0)));
        drop((held, _b));
        accounts.sweep(now + 100 * second);
        assert!(accounts.told(10).is_empty() && accounts.by_key.get().unwrap().accounts.is_empty());
    }

    #[test]
    fn it_is_known_of_which_accounts_a_peer_has_not_told() {
        let fleet = fleet();
        let key = fleet.keys().of(Kind::Account, "A");
        let mut run = 0;
        let mut untold = |beats: &[Beat]| {
            run += 1;
            for (n, beat) in (1..).zip(beats) {
                let beat = Beat { run, n, ..beat.clone() };
                fleet.peers().heard(Instant::now(), beat, Vouch::Unknown).unwrap();
            }
            let untold = fleet.peers().untold(key);
            untold == [Holder::new(&MemberId::new("peer").unwrap(), run)]
        };
        let changed = Beat { all_of: None, ..beat(1, 1, &[]) };
        let (uses, uses_none) = (beat(1, 1, &[(key, 6)]), beat(1, 1, &[]));
        let span = |first, last| Beat { all_of: Some((first, last)), ..changed.clone() };
        let (below, above) = (span(Key::LOWEST, key), span(key, Key::HIGHEST));
        assert!(untold(std::slice::from_ref(&changed)), "it has told only what has changed");
        assert!(untold(&[span(Key::LOWEST, Key::LOWEST), span(Key::HIGHEST, Key::HIGHEST)]));
        assert!(!untold(&[uses_none.clone(), changed.clone()]), "it does not use it");
        assert!(!untold(std::slice::from_ref(&below)) && !untold(&[above, changed.clone()]));
        assert!(!untold(&[Beat { accounts: uses.accounts.clone(), ..changed.clone() }]));
        let leaves_out = |of: &Beat| Beat { leaves_out: true, ..of.clone() };
        assert!(untold(&[leaves_out(&uses_none)]), "it uses more than it tells");
        assert!(!untold(&[leaves_out(&uses)]));
        assert!(untold(&[leaves_out(&uses), leaves_out(&uses_none)]), "it may use it still");
    }
}
