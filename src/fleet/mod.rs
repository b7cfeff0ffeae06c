//! A fleet: the weirs of one `[fleet] name` in front of one cluster, and what each of them knows of the others.
//!
//! Each weir publishes a [`beat`], signed with its [`beat_key`]: what it holds, in counts under hashed [`key`]s.
//! [`peers`] is what has come of the others'. What all weirs want of one thing is divided by [`share`]. Nothing here
//! has a socket or a clock: `now` goes in.

pub mod addresses;
pub mod beat;
pub mod beat_key;
pub mod key;
pub mod lease;
pub mod link;
pub mod member;
pub mod missing;
pub mod pace;
pub mod peers;
pub mod rates;
pub mod rebalancing;
pub mod share;
pub mod takeover;
pub mod view;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;

use crate::fleet::{
    addresses::Announcer,
    beat_key::{BeatSigner, Seed},
    key::Keys,
    lease::{Holder, allowance::Standing, book::LeaseBook, ledger::Ledger, surroundings::Settings},
    link::LinkState,
    member::MemberId,
    missing::Missing,
    peers::Peers,
    rebalancing::{Stage, goes_first},
};

/// A process of a weir, for one that goes on as it. What it signs with is secret, so that this has no `Debug`.
pub struct Process {
    pub id: MemberId,
    /// See [`Fleet::run`].
    pub run: u64,
    /// What it signs its beats with; `None`: it has none.
    pub seed: Option<Seed>,
}

/// What this weir is in its fleet.
#[derive(Debug)]
pub struct Fleet {
    name: Box<str>,
    id: MemberId,
    run: u64,
    signer: BeatSigner,
    keys: Keys,
    peers: Mutex<Peers>,
    link: LinkState,
    announcer: Mutex<Announcer>,
    missing: Mutex<Missing>,
    quotas: ArcSwap<Vec<view::Quota>>,
    /// How far the rebalance of this weir is, where there is one.
    rebalancing: Mutex<Option<Stage>>,
    leases: Arc<LeaseBook>,
    ledger: Mutex<Ledger>,
}

impl Fleet {
    /// The fleet of this `name`, in which this weir is `id`. `rng` gives the process the number by which peers tell it
    /// from the one before it with the same id.
    pub fn new(name: &str, id: MemberId, now: Instant, rng: &mut fastrand::Rng) -> Self {
        let process = Process { id, run: rng.u64(1..), seed: None };
        Self::goes_on(name, process, now, rng)
    }

    /// The same in a process that goes on as another one.
    pub fn goes_on(name: &str, process: Process, now: Instant, rng: &mut fastrand::Rng) -> Self {
        let Process { id, run, seed } = process;
        let signer = seed.map_or_else(BeatSigner::generate, BeatSigner::of);
        let keys = Keys::of_fleet(name);
        let leases = LeaseBook::new(keys.clone(), Standing::new(now));
        let (me, settings) = (Holder::new(&id, run), Settings::default());
        let mut ledger = Ledger::new(me, Arc::clone(&leases), settings, now, rng.fork());
        ledger.shows_key(signer.key());
        Self {
            name: name.into(),
            run,
            signer,
            keys,
            peers: Mutex::new(Peers::new(id.clone())),
            link: LinkState::default(),
            announcer: Mutex::new(Announcer::new(id.as_str())),
            missing: Mutex::default(),
            quotas: ArcSwap::default(),
            rebalancing: Mutex::default(),
            leases,
            ledger: Mutex::new(ledger),
            id,
        }
    }

    /// `[fleet] name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What this weir is called in its fleet.
    pub fn id(&self) -> &MemberId {
        &self.id
    }

    /// The number of this process; see [`beat::Beat::run`].
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Signs what this process says.
    pub fn signer(&self) -> &BeatSigner {
        &self.signer
    }

    /// The addresses of the other weirs, as clients are told them.
    pub fn announcer(&self) -> MutexGuard<'_, Announcer> {
        self.announcer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weirs that have gone without a word.
    pub fn missing(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The quotas that weirs share by leases, as they were last seen, without their names.
    pub fn quotas(&self) -> Arc<Vec<view::Quota>> {
        self.quotas.load_full()
    }

    /// The quotas have been seen like this.
    pub fn set_quotas(&self, quotas: Vec<view::Quota>) {
        self.quotas.store(Arc::new(quotas));
    }

    /// How far the rebalance of this weir is, where there is one.
    pub fn rebalancing(&self) -> Option<Stage> {
        *self.rebalancing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is so far by now: the others hear of it.
    pub fn set_rebalancing(&self, stage: Option<Stage>) {
        *self.rebalancing.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.link.beats().wake();
    }

    /// The weir whose rebalance goes before one of this weir.
    pub fn rebalances_first(&self) -> Option<MemberId> {
        let (own, peers) = (self.rebalancing(), self.peers());
        let others = peers.iter().filter_map(|peer| Some((peer.id(), peer.last().rebalancing?)));
        goes_first(&self.id, own, others).cloned()
    }

    /// Makes the keys of this fleet.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What this weir may hold of what the fleet shares, as the connect path reads it.
    pub fn leases(&self) -> &Arc<LeaseBook> {
        &self.leases
    }

    /// The leases themselves. Whoever holds this asks for no lock but that of the [`LeaseBook`].
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the connection to the fleet is like.
    pub fn link(&self) -> &LinkState {
        &self.link
    }

    /// The other weirs. Whoever holds this asks for no other lock but that of a count.
    pub fn peers(&self) -> MutexGuard<'_, Peers> {
        // What is known is valid between any two statements.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
