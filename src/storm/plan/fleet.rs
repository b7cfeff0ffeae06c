//! Several weirs in virtual time: each has its part of the clients, and hears of the others by beats that are late. The
//! beats are those of the fleet, and so is what each weir makes of them; leases and the network's losses are left out.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use crate::{
    admission::{Params, Rate},
    fleet::{beat::Beat, key::Keys, member::MemberId, peers::Peers, share},
    storm::plan::{
        Plan,
        calendar::Nanos,
        server::Job,
        weir::Weir,
        world::{Ingress, World, kind},
    },
};

/// A weir publishes its beat.
const BEAT: u32 = kind::OWN + 6;
/// The oldest beat of a weir that is under way has come.
const HEARD: u32 = kind::OWN + 7;

/// How much longer or shorter the time between two beats is than it should be.
const JITTER: f64 = 0.2;

/// The weirs of a fleet.
pub(super) struct Fleet {
    weirs: Vec<Weir>,
    peers: Vec<Peers>,
    /// By weir, those under way.
    beats: Vec<VecDeque<Beat>>,
    sent: Vec<u64>,
    keys: Keys,
    every: Duration,
    delay: Duration,
    is_running: bool,
}

/// What the weir at this position has of the rate and of the limits of accounts, which are those of the fleet: an equal
/// part.
fn part_of(plan: &Plan, position: u32) -> Params {
    let equal = |all: u32| share::equal(all, plan.weirs.into(), position);
    let at_least_one = |all: NonZeroU32| NonZeroU32::new(equal(all.get())).unwrap_or(NonZeroU32::MIN);
    let part_of_rate = |rate: &mut Rate| {
        rate.per_second = at_least_one(rate.per_second);
        rate.burst = at_least_one(rate.burst);
    };
    let mut params = plan.admission.clone();
    params.pace.iter_mut().for_each(part_of_rate);
    for limits in params.accounts.values_mut().chain([&mut params.default_account]) {
        limits.quota.max_connections = limits.quota.max_connections.map(equal);
        limits.quota.rate.iter_mut().for_each(part_of_rate);
    }
    params
}

impl Fleet {
    pub(super) fn new(plan: &Plan) -> Self {
        let all = 0..u32::from(plan.weirs);
        let ids = all.clone().filter_map(|n| MemberId::new(&format!("weir-{n}")).ok());
        Self {
            weirs: all.clone().map(|n| Weir::new(plan, &part_of(plan, n), n)).collect(),
            peers: ids.map(Peers::new).collect(),
            beats: all.clone().map(|_| VecDeque::new()).collect(),
            sent: all.map(|_| 0).collect(),
            keys: Keys::of_fleet("plan"),
            every: plan.beat_interval,
            delay: plan.beat_delay,
            is_running: false,
        }
    }

    /// The weir that a client comes to.
    fn of_client(&mut self, client: u32) -> &mut Weir {
        let n = client as usize % self.weirs.len();
        &mut self.weirs[n]
    }

    fn every_ms(&self) -> u32 {
        u32::try_from(self.every.as_millis()).unwrap_or(u32::MAX)
    }

    fn next_beat(&self, world: &mut World, weir: u32) {
        let wait = self.every.mul_f64(1.0 - JITTER + 2.0 * JITTER * world.rng.f64());
        world.schedule(world.now + wait.as_nanos() as Nanos, BEAT, weir, 0);
    }

    fn beat(&mut self, world: &mut World, n: u32) {
        let at = n as usize;
        self.sent[at] += 1;
        let Some(id) = MemberId::new(&format!("weir-{n}")).ok() else { return };
        let beat = Beat {
            n: self.sent[at],
            up_ms: world.now / 1_000_000,
            every_ms: self.every_ms(),
            servers: self.weirs[at].told(world.now, &self.keys),
            ..Beat::new(id, u64::from(n) + 1)
        };
        self.beats[at].push_back(beat);
        world.schedule(world.now + self.delay.as_nanos() as Nanos, HEARD, n, 0);
        self.next_beat(world, n);
    }

    fn heard(&mut self, world: &World, from: u32) {
        let Some(beat) = self.beats[from as usize].pop_front() else { return };
        for (n, (weir, peers)) in self.weirs.iter_mut().zip(&mut self.peers).enumerate() {
            if n != from as usize {
                weir.hears(world.now, &self.keys, peers, beat.clone());
            }
        }
    }
}

impl Ingress for Fleet {
    fn addresses(&self) -> u16 {
        // Each client knows one address, behind which the weirs are.
        1
    }

    fn close_delay(&mut self, client: u32) -> Duration {
        self.of_client(client).close_delay(client)
    }

    fn arrive(&mut self, world: &mut World, client: u32) {
        if !std::mem::replace(&mut self.is_running, true) {
            (0..self.weirs.len() as u32).for_each(|n| self.next_beat(world, n));
        }
        self.of_client(client).arrive(world, client);
    }

    fn finished(&mut self, world: &mut World, server: usize, job: Job) {
        self.weirs[Weir::of_tag(job.who)].finished(world, server, job);
    }

    fn abandoned(&mut self, world: &mut World, client: u32) {
        self.of_client(client).abandoned(world, client);
    }

    fn on_event(&mut self, world: &mut World, kind: u32, who: u32, generation: u32) {
        match kind {
            BEAT => self.beat(world, who),
            HEARD => self.heard(world, who),
            _ => self.weirs[Weir::of_tag(who)].on_event(world, kind, who, generation),
        }
    }
}
