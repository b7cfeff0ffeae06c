//! The leases of the simulated weirs, and a bucket that loses nothing and takes its time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    fleet::{
        key::Keys,
        lease::{
            Answer, Holder, Operation, Place, What,
            allowance::Standing,
            book::LeaseBook,
            ledger::Ledger,
            surroundings::{Settings, Surroundings},
        },
        member::MemberId,
        peers::Peers,
    },
    upstream::{Around, Servers},
};

/// What one weir has of the leases.
pub(super) struct Leases {
    book: Arc<LeaseBook>,
    pub ledger: Ledger,
    is_first: bool,
}

impl Leases {
    pub fn new(id: &str, run: u64, keys: &Keys, now: Instant, rng: fastrand::Rng) -> Self {
        let book = LeaseBook::new(keys.clone(), Standing::new(now));
        let me = Holder::new(&MemberId::new(id).unwrap(), run);
        let ledger = Ledger::new(me, Arc::clone(&book), Settings::default(), now, rng);
        Self { book, ledger, is_first: true }
    }

    /// As `fleet_link` does it: what is to be done in the bucket.
    pub fn look(&mut self, now: Instant, servers: &Servers, peers: &Peers, queued: u32) -> Vec<Operation> {
        let weirs = peers.weirs();
        let ledger = &self.ledger;
        servers.share_slots(now, Around { book: &self.book, weirs }, queued, |key| ledger.others_have(key));
        let heard: HashMap<_, _> =
            peers.iter().map(|peer| (Holder::new(peer.id(), peer.last().run), Arc::clone(peer.last()))).collect();
        servers.slot_counts(&self.ledger.to_count()).tell(now, &mut self.ledger, &heard);
        let is_early = std::mem::take(&mut self.is_first);
        let (live, position) = (weirs, peers.position());
        let others_have_leases = live > 1;
        self.ledger.surroundings(Surroundings { live, position, others_have_leases, is_connected: true, is_early });
        self.ledger.next(now)
    }
}

enum Step {
    Asked(Operation),
    Answered(u64, Answer),
    Watched(Place, u64, Option<Vec<u8>>),
}

/// The bucket, and what is under way to it and from it.
pub(super) struct Bucket {
    last: u64,
    values: HashMap<Place, (u64, Option<Vec<u8>>)>,
    under_way: Vec<(Instant, usize, Step)>,
    rng: fastrand::Rng,
    /// Writes that were stored.
    pub writes: u64,
}

impl Bucket {
    pub fn new(rng: fastrand::Rng) -> Self {
        Self { last: 0, values: HashMap::new(), under_way: Vec::new(), rng, writes: 0 }
    }

    fn later(&mut self, now: Instant, w: usize, step: Step) {
        let late = Duration::from_millis(self.rng.u64(1..=5));
        self.under_way.push((now + late, w, step));
    }

    pub fn ask(&mut self, now: Instant, w: usize, operations: Vec<Operation>) {
        operations.into_iter().for_each(|one| self.later(now, w, Step::Asked(one)));
    }

    /// Lets everything arrive that is due. `is_there` says whether a weir has not been killed.
    pub fn deliver(&mut self, now: Instant, leases: &mut [Option<Leases>], is_there: impl Fn(usize) -> bool) {
        let (due, later): (Vec<_>, _) = std::mem::take(&mut self.under_way).into_iter().partition(|one| one.0 <= now);
        self.under_way = later;
        for (_, w, step) in due {
            match step {
                Step::Asked(operation) => {
                    let answer = self.answer(now, &operation, leases, &is_there);
                    self.later(now, w, Step::Answered(operation.serial, answer));
                }
                Step::Answered(serial, answer) => {
                    if let Some(one) = leases[w].as_mut().filter(|_| is_there(w)) {
                        one.ledger.answered(now, serial, &answer);
                    }
                }
                Step::Watched(place, revision, value) => {
                    if let Some(one) = leases[w].as_mut().filter(|_| is_there(w)) {
                        one.ledger.seen(now, &place, revision, value.as_deref());
                    }
                }
            }
        }
    }

    fn answer(
        &mut self,
        now: Instant,
        operation: &Operation,
        leases: &[Option<Leases>],
        is_there: impl Fn(usize) -> bool,
    ) -> Answer {
        let Operation { place, what, .. } = operation;
        let stored = self.values.get(place).cloned();
        let (value, expected) = match what {
            What::Read => {
                return match stored {
                    None => Answer::Absent { revision: 0 },
                    Some((revision, None)) => Answer::Absent { revision },
                    Some((revision, Some(value))) => Answer::Found { revision, value },
                };
            }
            What::Ask => {
                let is_it = |one: &Option<Leases>| {
                    one.as_ref().is_some_and(|one| *place == Place::Member(one.ledger.me().clone()))
                };
                let lives = leases.iter().position(is_it).is_some_and(is_there);
                return if lives { Answer::Responds } else { Answer::NoResponders };
            }
            What::Write { value, expected } => (Some(value.clone()), *expected),
            What::Delete { expected } => (None, *expected),
        };
        if stored.map_or(0, |(revision, _)| revision) != expected {
            return Answer::Refused;
        }
        self.last += 1;
        self.writes += u64::from(matches!(place, Place::Leases(_)));
        let revision = self.last;
        self.values.insert(place.clone(), (revision, value.clone()));
        for w in 0..leases.len() {
            self.later(now, w, Step::Watched(place.clone(), revision, value.clone()));
        }
        Answer::Stored { revision }
    }
}
