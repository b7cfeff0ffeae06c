//! What the ledger takes from beats, which whoever may publish can forge: hints, bounded by what the bucket says.

use std::time::{Duration, Instant};

use super::Ledger;
use crate::fleet::{
    beat_key::BeatKey,
    key::Kind,
    lease::{Holder, LeaseKey, quota::Report, record::MOST_ENTRIES},
    peers::Vouch,
};

/// Who has leases again has written within this what it has let in without.
const WRITTEN: Duration = Duration::from_secs(1);

impl Ledger {
    /// What the bucket says of a process that a beat names.
    pub fn vouches(&self, now: Instant, holder: &Holder) -> Vouch {
        match (self.standing.is_valid(now), self.sights.knows(holder)) {
            (false, _) => Vouch::Unknown,
            (true, true) => Vouch::Member,
            (true, false) => Vouch::Stranger,
        }
    }

    /// What the beats of a process are signed with, by the bucket; `None`: it signs none, or nobody knows.
    pub fn beat_key(&self, holder: &Holder) -> Option<BeatKey> {
        self.sights.key(holder)
    }

    /// A beat of another weir has come: what it does not tell anew is as it was.
    pub fn heard(&mut self, now: Instant, holder: &Holder) {
        let has_room = self.heard.len() < MOST_ENTRIES && self.vouches(now, holder) != Vouch::Stranger;
        if (has_room || self.heard.contains_key(holder)) && self.heard.insert(holder.clone(), now).is_none() {
            self.due.all();
        }
    }

    /// What another weir says in a beat to hold of a quota, and whether its leases are in force. What a weir says that
    /// the bucket does not know counts only if it has said so since before this weir had leases.
    pub fn reported(&mut self, now: Instant, holder: &Holder, key: LeaseKey, held: u32, leased: bool) {
        let vouch = self.vouches(now, holder);
        let Some(quota) = self.quotas.get_mut(&key) else { return };
        let has_room = quota.reports.len() < MOST_ENTRIES && vouch != Vouch::Stranger;
        match quota.reports.get_mut(holder) {
            Some(report) => {
                let before = (report.held, report.by_split);
                report.held = held;
                report.leased_since = leased.then(|| report.leased_since.unwrap_or(now));
                let has_written = |since: Instant| now.saturating_duration_since(since) >= WRITTEN;
                report.by_split = match report.leased_since {
                    Some(since) => report.by_split && !has_written(since),
                    None => report.by_split || vouch == Vouch::Unknown,
                };
                if before != (report.held, report.by_split) {
                    self.due.mark(key, quota);
                }
            }
            None if has_room => {
                // A server's slots are taken without a lease while it has room.
                let by_split = !leased && (vouch == Vouch::Unknown || key.kind == Kind::Server);
                let leased_since = leased.then_some(now);
                quota.reports.insert(holder.clone(), Report { held, by_split, leased_since });
                self.due.mark(key, quota);
            }
            None => {}
        }
    }

    /// The beats of a weir have ended, or it says to hold nothing of what it does not name.
    pub fn silent(&mut self, now: Instant, holder: &Holder) {
        if self.heard.remove(holder).is_some() {
            self.silent_since = Some(now);
            self.due.all();
        }
        for (key, quota) in &mut self.quotas {
            if quota.reports.remove(holder).is_some() {
                self.due.mark(*key, quota);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{
        key::Keys,
        lease::{
            Answer, Operation, Place, What,
            allowance::Standing,
            book::LeaseBook,
            record::Membership,
            surroundings::{Settings, Surroundings},
        },
        member::MemberId,
    };

    const QUOTA: u32 = 100;

    fn holder(id: &str, run: u64) -> Holder {
        Holder::new(&MemberId::new(id).unwrap(), run)
    }

    /// A ledger before a bucket that stores whatever is written, and an account of [`QUOTA`] of which a client waits.
    struct World {
        ledger: Ledger,
        book: std::sync::Arc<LeaseBook>,
        key: LeaseKey,
        revision: u64,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let (now, keys) = (Instant::now(), Keys::of_fleet("edge"));
            let book = LeaseBook::new(keys.clone(), Standing::new(now));
            let rng = fastrand::Rng::with_seed(1);
            let mut ledger = Ledger::new(holder("me", 1), std::sync::Arc::clone(&book), Settings::default(), now, rng);
            ledger.surroundings(Surroundings { live: 2, is_connected: true, ..Surroundings::default() });
            let key = LeaseKey { kind: Kind::Account, key: keys.of(Kind::Account, "A") };
            Self { ledger, book, key, revision: 0, now }
        }

        fn run(&mut self, stores: bool) {
            for _ in 0..20 {
                self.now += Duration::from_millis(100);
                for Operation { serial, what, .. } in self.ledger.next(self.now) {
                    self.revision += 1;
                    let answer = match what {
                        _ if !stores => Answer::Unknown,
                        What::Write { .. } | What::Delete { .. } => Answer::Stored { revision: self.revision },
                        What::Read => Answer::Absent { revision: 0 },
                        What::Ask => Answer::Unknown,
                    };
                    self.ledger.answered(self.now, serial, &answer);
                }
            }
        }

        fn says(&mut self, of: &Holder, held: u32, leased: bool) {
            self.ledger.heard(self.now, of);
            self.ledger.reported(self.now, of, self.key, held, leased);
        }
    }

    #[test]
    fn nobody_keeps_a_weir_from_its_lease_by_what_it_says_to_hold() {
        let (mut world, member) = (World::new(), holder("weir-2", 7));
        let membership = Membership::new(1).encode();
        world.revision += 1;
        world.ledger.seen(world.now, &Place::Member(member.clone()), world.revision, Some(&membership));
        let allowance = world.book.allowance(Kind::Account, "A", Some(QUOTA));
        world.run(true);
        assert!(world.ledger.has_leases(world.now));
        assert_eq!(allowance.lease(), QUOTA / 2, "its part at rest");
        assert_eq!(world.ledger.vouches(world.now, &member), Vouch::Member);
        assert_eq!(world.ledger.vouches(world.now, &holder("weir-2", 8)), Vouch::Stranger);
        for n in 0..2000 {
            world.says(&holder("weir-2", 100 + n), u32::MAX, n % 2 == 0);
        }
        assert_eq!((world.ledger.heard.len(), world.ledger.quotas[&world.key].reports.len()), (0, 0));
        // One that there is, by a forged beat.
        world.says(&member, u32::MAX, false);
        let waits: Vec<_> = (0..QUOTA).map(|_| allowance.wait(world.now).expect("there is hope")).collect();
        world.run(true);
        assert_eq!(allowance.lease(), QUOTA);
        assert!(waits.iter().all(|one| !one.is_in_vain()), "nobody has the lease that it says to use");
    }

    #[test]
    fn a_client_of_an_account_without_a_lease_waits_for_the_bucket_to_answer_again() {
        let mut world = World::new();
        world.book.allowance(Kind::Account, "A", Some(QUOTA));
        world.run(true);
        world.run(false);
        world.run(false);
        assert!(!world.ledger.has_leases(world.now));
        let allowance = world.book.allowance(Kind::Account, "B", Some(QUOTA));
        world.ledger.next(world.now);
        let wait = allowance.wait(world.now).expect("the bucket may answer soon");
        assert!(!wait.is_in_vain() && allowance.take(world.now).is_none());
        world.run(false);
        assert!(wait.is_in_vain(), "it did not");
    }

    #[test]
    fn what_a_weir_has_by_the_split_is_left_to_it() {
        let mut world = World::new();
        let allowance = world.book.allowance(Kind::Account, "A", Some(QUOTA));
        world.run(false);
        assert_eq!(world.ledger.vouches(world.now, &holder("weir-2", 7)), Vouch::Unknown);
        world.says(&holder("weir-2", 7), 30, false);
        world.run(true);
        let _waits: Vec<_> = (0..QUOTA).filter_map(|_| allowance.wait(world.now)).collect();
        world.run(true);
        assert_eq!(allowance.lease(), QUOTA - 30, "no record tells of it");
        world.ledger.silent(world.now, &holder("weir-2", 7));
        world.run(true);
        assert_eq!(allowance.lease(), QUOTA);
    }
}
