//! A weir of the model: its clock, its ledger, its clients.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::fleet::{
    beat_key::BeatSigner,
    key::{Keys, Kind},
    lease::{
        Holder,
        allowance::{Allowance, LeasePlace, LeaseWait, Standing},
        book::LeaseBook,
        ledger::Ledger,
        simulation::direct::{Counts, Senses},
        surroundings::Settings,
    },
};

/// Microseconds of the world.
pub type Time = u64;

/// What the fleet's connection of a weir can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    All,
    /// It is connected, and the bucket does not answer.
    NoBucket,
    /// It is cut off from the fleet, and not from the servers.
    Nothing,
}

/// What a process is to its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Member,
    /// It is to take over from a member.
    Prepares,
    /// Another process goes on as the member that it was.
    Given,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Admitted,
    /// The server has accepted it then, and waits for CONNECT.
    Dialled(Time),
    Open,
}

/// A connection as its weir knows it.
#[derive(Debug)]
pub struct Connection {
    pub place: LeasePlace,
    pub stage: Stage,
    /// Admitted by a floor after the weir was cut off.
    pub is_excepted: bool,
    /// The highest quota when it was admitted: it may be lower when the connection arrives.
    pub quota: u32,
}

/// One process.
#[derive(Debug)]
pub struct Weir {
    pub ledger: Ledger,
    pub holder: Holder,
    pub allowance: Arc<Allowance>,
    pub standing: Arc<Standing>,
    base: Instant,
    began: Time,
    rate: f64,
    pub network: Network,
    pub is_alive: bool,
    pub stopped_until: Option<Time>,
    /// So long stopped its connection is closed by the cluster.
    pub stands_stop: Time,
    /// What came while it was stopped.
    pub backlog: Vec<super::event::Event>,
    pub quota: u32,
    pub wants: u32,
    pub connections: BTreeMap<u64, Connection>,
    pub waiting: Vec<LeaseWait>,
    pub needs_look: Arc<AtomicBool>,
    /// It was cut off since its leases were in force last.
    pub was_cut: bool,
    /// The highest quota at any weir since this one could last write to the bucket with its leases in force.
    pub highest_since: u32,
    pub senses: Senses,
    /// It has opened the bucket that there is.
    pub watches: bool,
    pub role: Role,
    /// It lets nobody in.
    pub is_paused: bool,
    /// What it knows has gone to another process.
    pub has_given: bool,
    /// Connections of the process before, which counts them no more for the others.
    pub counted: BTreeMap<u64, LeasePlace>,
    /// The process before may go on until then.
    pub taken_over_until: Time,
    /// What the processes before had taken and given back, as beats tell it.
    pub given_back_before: u64,
}

pub fn key() -> crate::fleet::lease::LeaseKey {
    crate::fleet::lease::LeaseKey { kind: Kind::Account, key: Keys::of_fleet("edge").of(Kind::Account, "A") }
}

impl Weir {
    pub fn new(id: &str, at: Time, quota: u32, base: Instant, rng: &mut fastrand::Rng) -> Self {
        let holder = Holder::parse(&format!("{id}.{:016x}", rng.u64(..))).unwrap();
        let now = base + Duration::from_secs(rng.u64(0..1000));
        Self::with_holder(holder, (at, now), quota, base, rng)
    }

    /// A process that is to take over from this one, on the same machine: its clock is the same.
    pub fn taking_over(before: &Self, at: Time, rng: &mut fastrand::Rng) -> Self {
        let now = before.now(at);
        let mut taker = Self::with_holder(before.holder.clone(), (at, now), before.quota, before.base, rng);
        (taker.base, taker.began, taker.rate) = (before.base, before.began, before.rate);
        taker.network = before.network;
        (taker.role, taker.watches, taker.is_paused) = (Role::Prepares, before.watches, true);
        taker
    }

    /// What the one before wanted; for the others its counts go on as well.
    pub fn goes_on_from(&mut self, before: &Self) {
        (self.quota, self.wants) = (before.quota, before.wants);
        self.allowance.set_quota(Some(self.quota));
        // Either of both may have been cut off since it was made.
        self.was_cut = before.was_cut || self.network == Network::Nothing;
        self.highest_since = before.highest_since;
        let (there, here) = (before.counts(), self.counts());
        self.given_back_before +=
            there.released.saturating_sub(here.released).max(there.taken.saturating_sub(here.taken));
    }

    /// What it holds.
    pub fn counts(&self) -> Counts {
        let used = self.allowance.usage();
        let (held, open, released) = (used.held, used.open, used.released + self.given_back_before);
        Counts { open, held, taken: released + u64::from(held), released }
    }

    fn with_holder(
        holder: Holder,
        (at, now): (Time, Instant),
        quota: u32,
        base: Instant,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let standing = Standing::new(base);
        let book = LeaseBook::new(Keys::of_fleet("edge"), Arc::clone(&standing));
        let needs_look = Arc::new(AtomicBool::new(true));
        let needs = Arc::clone(&needs_look);
        standing.on_need(move || needs.store(true, SeqCst));
        let allowance = book.allowance(Kind::Account, "A", Some(quota));
        // From all quotas at each look to hardly ever one to which nothing has happened.
        let round = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(2), Duration::from_secs(20)];
        let settings = Settings { round: round[rng.usize(..4)], ..Settings::default() };
        let mut ledger = Ledger::new(holder.clone(), book, settings, now, rng.fork());
        // Some are of a version that signs nothing.
        let mut seed = [0; 32];
        seed.iter_mut().zip(holder.to_string().bytes().rev()).for_each(|(of_seed, of_holder)| *of_seed = of_holder);
        if !seed[0].is_multiple_of(3) {
            ledger.shows_key(BeatSigner::of(seed).key());
        }
        Self {
            ledger,
            holder,
            allowance,
            standing,
            base: now,
            began: at,
            rate: [0.8, 1.2, 0.8 + 0.4 * rng.f64()][rng.usize(..3)],
            network: Network::All,
            is_alive: true,
            stopped_until: None,
            stands_stop: rng.u64(20_000_000..120_000_000),
            backlog: Vec::new(),
            quota,
            wants: 0,
            connections: BTreeMap::new(),
            waiting: Vec::new(),
            needs_look,
            was_cut: false,
            highest_since: quota,
            senses: Senses::default(),
            watches: true,
            role: Role::Member,
            is_paused: false,
            has_given: false,
            counted: BTreeMap::new(),
            taken_over_until: 0,
            given_back_before: 0,
        }
    }

    /// What its clock says.
    pub fn now(&self, at: Time) -> Instant {
        self.base + Duration::from_micros(((at - self.began) as f64 * self.rate) as u64)
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped_until.is_some()
    }

    /// Whether the cluster has a subscription of it.
    pub fn is_interested(&self, at: Time, stopped_at: Time) -> bool {
        let dropped = self.is_stopped() && at > stopped_at + self.stands_stop;
        self.is_alive && self.network != Network::Nothing && !dropped
    }
}
