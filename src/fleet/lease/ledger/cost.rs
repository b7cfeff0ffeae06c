//! What a look of the ledger costs, by the number of quotas in use. To be run by hand, built with optimization:
//! `cargo test --release --lib ledger::cost -- --ignored --nocapture`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{LOOK_EVERY, Ledger};
use crate::fleet::{
    key::{Keys, Kind},
    lease::{
        Answer, Holder, LeaseKey, Place, What,
        allowance::{Allowance, Standing},
        book::LeaseBook,
        record::{Membership, Record},
        surroundings::{Settings, Surroundings},
    },
};

/// One of four weirs, each of which has a lease of every account.
struct World {
    ledger: Ledger,
    others: Vec<Holder>,
    accounts: Vec<Arc<Allowance>>,
    now: Instant,
    revision: u64,
}

impl World {
    fn new(many: usize) -> Self {
        let (keys, now) = (Keys::of_fleet("edge"), Instant::now());
        let book = LeaseBook::new(keys.clone(), Standing::new(now));
        let holder = |n: u32| Holder::parse(&format!("weir-{n}.{n:016x}")).unwrap();
        let rng = fastrand::Rng::with_seed(1);
        let mut ledger = Ledger::new(holder(1), Arc::clone(&book), Settings::default(), now, rng);
        let around = Surroundings { live: 4, is_connected: true, ..Surroundings::default() };
        ledger.surroundings(around);
        let others: Vec<_> = (2..5).map(holder).collect();
        let mut record = Record::default();
        record.q = 100;
        others.iter().for_each(|other| record.set(other, (1, 20, 20, 3)));
        let value = record.encode().unwrap();
        let mut accounts = Vec::new();
        for n in 0..many {
            let name = format!("A{n}");
            let key = LeaseKey { kind: Kind::Account, key: keys.of(Kind::Account, &name) };
            ledger.seen(now, &Place::Leases(key), 1 + n as u64, Some(&value));
            accounts.push(book.allowance(Kind::Account, &name, Some(100)));
        }
        Self { ledger, others, accounts, now, revision: 1 + many as u64 }
    }

    /// Returns how long the look was on a processor, and how many leases it writes.
    fn look(&mut self, after: Duration) -> (Duration, usize) {
        self.now += after;
        for other in &self.others {
            self.revision += 1;
            let value = Membership::new(1).encode();
            self.ledger.seen(self.now, &Place::Member(other.clone()), self.revision, Some(&value));
        }
        let began = on_processor();
        let operations = self.ledger.next(self.now);
        let spent = on_processor() - began;
        let mut written = 0;
        for one in operations {
            written += usize::from(matches!(one.place, Place::Leases(_)));
            self.revision += 1;
            let answer = match one.what {
                What::Write { .. } | What::Delete { .. } => Answer::Stored { revision: self.revision },
                What::Read => Answer::Absent { revision: 0 },
                What::Ask => Answer::Responds,
            };
            self.ledger.answered(self.now, one.serial, &answer);
        }
        (spent, written)
    }

    fn looks(&mut self, changes: usize) -> Duration {
        let mut spent = Duration::ZERO;
        for n in 0..40 {
            let changed = self.accounts.iter().cycle().skip(n * 97 % self.accounts.len()).take(changes);
            let waits: Vec<_> = changed.filter_map(|one| one.wait(self.now)).collect();
            spent += self.look(LOOK_EVERY).0;
            drop(waits);
        }
        spent / 40
    }
}

/// How long this thread was on a processor.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "it prints what it measures"]
fn of_a_look() {
    for many in [1000, 10_000, 100_000] {
        let mut world = World::new(many);
        let mut places = Vec::new();
        // Each account has its lease, and a connection.
        for _ in 0..2 {
            let mut looks = 0;
            while world.look(Duration::from_millis(5)).1 > 0 || looks < 3 {
                looks += 1;
            }
            places.extend(world.accounts.iter().filter_map(|one| one.take(world.now)));
        }
        assert_eq!(places.len(), 2 * many);
        let (idle, busy) = (world.looks(0), world.looks(10));
        println!("{many} accounts: {idle:?} for a look, {busy:?} when 10 of them change");
    }
}
