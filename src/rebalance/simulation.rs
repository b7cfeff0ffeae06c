//! A rebalance in virtual time, seeded: clients that come back, come back elsewhere, come late, leave, or are busy; and
//! new ones that come meanwhile. `WEIR_SIMULATION_SEED=n` plays one history again.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    identity::ClientKey,
    rebalance::{
        history::History,
        plan::{Plan, Role, ServerNow, plan},
        run::{Candidate, Landing, Manner, Run, Step, Turn},
    },
};

const LATE_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Session {
    client: ClientKey,
    server: usize,
    idle: Duration,
    /// It is busy whenever it is looked at.
    always_busy: bool,
}

#[derive(Debug)]
struct OnItsWay {
    client: ClientKey,
    flow: usize,
    to: usize,
    ends_at: Instant,
    lands: Landing,
}

struct World {
    rng: fastrand::Rng,
    now: Instant,
    sessions: BTreeMap<u64, Session>,
    next_id: u64,
    promised: Vec<u32>,
    ceilings: Vec<u32>,
    history: History,
    moved_to: BTreeMap<u64, Vec<(usize, usize)>>,
    /// How many of 100 clients come back late, and elsewhere.
    unruly: (u32, u32),
    /// The server that gets no clients any more.
    leaves: Option<usize>,
}

impl World {
    fn new(seed: u64, counts: &[u32], ceiling: u32) -> Self {
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            now: Instant::now(),
            sessions: BTreeMap::new(),
            next_id: 0,
            promised: vec![0; counts.len()],
            ceilings: vec![ceiling; counts.len()],
            history: History::default(),
            moved_to: BTreeMap::new(),
            unruly: (0, 0),
            leaves: None,
        };
        for (server, &count) in counts.iter().enumerate() {
            for _ in 0..count {
                let client = ClientKey::from_raw(world.rng.u64(..));
                world.enter(client, server);
            }
        }
        world
    }

    fn enter(&mut self, client: ClientKey, server: usize) {
        let (idle, id) = (Duration::from_millis(self.rng.u64(0..100_000)), self.next_id);
        self.next_id += 1;
        self.sessions.insert(id, Session { client, server, idle, always_busy: false });
    }

    fn counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.ceilings.len()];
        self.sessions.values().for_each(|session| counts[session.server] += 1);
        counts
    }

    fn may_move(&self, session: &Session) -> bool {
        self.history.may_move(session.client, 1, self.now)
    }

    fn plan(&self) -> Plan {
        let counts = self.counts();
        let servers: Vec<_> = (0..counts.len())
            .map(|at| {
                let leaves = self.leaves == Some(at);
                let of = || self.sessions.values().filter(move |session| session.server == at);
                let movable = of().filter(|session| leaves || self.may_move(session)).count() as u32;
                let role = if leaves { Role::Leaves } else { Role::Shares };
                ServerNow { role, sessions: counts[at], movable, others: 0, ceiling: self.ceilings[at] }
            })
            .collect();
        // Of an evacuation only the server that leaves gives.
        plan(&servers, if self.leaves.is_some() { f64::INFINITY } else { 1.1 })
    }

    /// Carries a plan out, and returns how long that took.
    fn carry_out(&mut self, plan: &Plan, rate: f64, manner: Manner) -> (Run, Duration) {
        let began = self.now;
        let candidates = self.sessions.iter().filter(|(_, one)| manner == Manner::Evacuation || self.may_move(one));
        let candidates: Vec<_> =
            candidates.map(|(id, one)| Candidate::new(*id, one.client, one.server, one.idle)).collect();
        let mut run = Run::new(plan, candidates, rate, manner, self.now);
        let (mut on_their_way, mut last, mut steps) = (Vec::<OnItsWay>::new(), None::<Instant>, 0);
        loop {
            steps += 1;
            assert!(steps < 1_000_000, "it does not terminate: {:?}", run.progress());
            on_their_way.retain(|one| {
                let is_over = one.ends_at <= self.now;
                if is_over {
                    run.ended(one.flow, self.land(one));
                }
                !is_over
            });
            self.check(&on_their_way);
            let (sessions, rng) = (&self.sessions, &mut self.rng);
            let step = run.next(self.now, |candidate| match sessions.get(&candidate.session) {
                None => Turn::Gone,
                Some(session) if session.always_busy || rng.u8(..) < 40 => Turn::Busy,
                Some(_) => Turn::Quiet,
            });
            match step {
                Step::Done => return (run, self.now - began),
                Step::Wait(until) => {
                    let lands = on_their_way.iter().map(|one| one.ends_at).min();
                    self.now = lands.map_or(until, |at| at.min(until)).max(self.now + Duration::from_millis(1));
                }
                Step::Move { candidate, flow, to } => {
                    let spacing = last.map_or(Duration::MAX, |last| self.now - last);
                    assert!(spacing.as_secs_f64() > 0.999 / rate, "faster than the rate: {spacing:?}");
                    last = Some(self.now);
                    if self.counts()[to] + self.promised[to] >= self.ceilings[to] {
                        run.not_begun(flow);
                        continue;
                    }
                    self.begin(&candidate, flow, to, manner, &mut on_their_way);
                }
            }
        }
    }

    /// Gives the slot back that was kept for a client, which comes back to it, or to another server with room, or not.
    fn land(&mut self, one: &OnItsWay) -> Landing {
        self.promised[one.to] -= 1;
        let counts = self.counts();
        let has_room = |at: &usize| counts[*at] + self.promised[*at] < self.ceilings[*at] && Some(*at) != self.leaves;
        let elsewhere = (0..counts.len()).filter(has_room).find(|at| *at != one.to);
        let (server, landing) = match (one.lands, elsewhere) {
            (Landing::Late, _) => return Landing::Late,
            (Landing::Elsewhere, Some(other)) => (other, Landing::Elsewhere),
            _ => (one.to, Landing::There),
        };
        let session = Session { client: one.client, server, idle: Duration::ZERO, always_busy: false };
        self.sessions.insert(self.next_id, session);
        self.next_id += 1;
        landing
    }

    fn begin(&mut self, one: &Candidate, flow: usize, to: usize, manner: Manner, on_their_way: &mut Vec<OnItsWay>) {
        let session = self.sessions.remove(&one.session).expect("it was there when it was looked at");
        assert!(manner == Manner::Evacuation || self.may_move(&session), "twice within an hour");
        if manner == Manner::ForBalance {
            self.history.moved(session.client, self.now);
        }
        self.promised[to] += 1;
        self.moved_to.entry(session.client.raw()).or_default().push((session.server, to));
        let (late, elsewhere) = self.unruly;
        let (took, lands) = match self.rng.u32(0..100) {
            n if n < late => (LATE_AFTER, Landing::Late),
            n if n < late + elsewhere => (Duration::from_secs(1), Landing::Elsewhere),
            _ => (Duration::from_millis(self.rng.u64(1..2500)), Landing::There),
        };
        on_their_way.push(OnItsWay { client: session.client, flow, to, ends_at: self.now + took, lands });
    }

    fn check(&self, on_their_way: &[OnItsWay]) {
        for (at, count) in self.counts().into_iter().enumerate() {
            assert!(count + self.promised[at] <= self.ceilings[at], "over the limit of {at}");
        }
        let clients: HashSet<_> = on_their_way.iter().map(|one| one.client).collect();
        assert_eq!(clients.len(), on_their_way.len(), "two moves of one client at once");
        assert!(self.sessions.values().all(|one| !clients.contains(&one.client)));
    }
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let one = std::env::var("WEIR_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let (from, to) = one.map_or((0, count), |seed| (seed, seed + 1));
    (from..to).inspect(|seed| eprintln!("WEIR_SIMULATION_SEED={seed}"))
}

#[test]
fn clients_that_come_back_end_within_a_hundredth_of_even() {
    for seed in seeds(5) {
        let mut world = World::new(seed, &[900, 50, 50], 2000);
        let plan = world.plan();
        let (run, took) = world.carry_out(&plan, 100.0, Manner::ForBalance);
        assert_eq!(world.counts(), [334, 333, 333], "as the plan said: {:?}", run.progress());
        assert!(took > Duration::from_millis(5600), "no faster than the rate: {took:?}");
        assert!(world.promised.iter().all(|promised| *promised == 0), "all slots are given back");
        // Nothing is left to be done, however often it is asked.
        for _ in 0..10 {
            assert_eq!(world.plan().clients(), 0);
        }
        assert!(world.moved_to.values().all(|moves| moves.len() == 1));
    }
}

#[test]
fn repeated_runs_over_unruly_clients_neither_loop_nor_swap() {
    for seed in seeds(40) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let counts: Vec<_> = (0..rng.usize(2..6)).map(|_| rng.u32(0..400)).collect();
        let ceiling = rng.u32(400..900);
        let mut world = World::new(seed, &counts, ceiling);
        world.unruly = (rng.u32(0..10), rng.u32(0..10));
        for session in world.sessions.values_mut() {
            session.always_busy = rng.u8(..) < 10;
        }
        for _ in 0..10 {
            let plan = world.plan();
            let (run, _) = world.carry_out(&plan, rng.f64() * 500.0 + 1.0, Manner::ForBalance);
            let progress = run.progress();
            let ended = progress.landed + progress.elsewhere + progress.late;
            assert!(ended <= progress.planned, "{progress:?}");
            let stay = rng.u64(1..600);
            world.now += Duration::from_secs(stay);
        }
        assert!(world.promised.iter().all(|promised| *promised == 0));
    }
}

#[test]
fn a_server_that_leaves_is_empty_in_the_end_and_others_keep_their_limits() {
    for seed in seeds(40) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let counts: Vec<_> = (0..3).map(|_| rng.u32(100..400)).collect();
        let mut world = World::new(seed, &counts, 700);
        for session in world.sessions.values_mut() {
            session.always_busy = rng.u8(..) < 60;
        }
        world.leaves = Some(0);
        let plan = world.plan();
        let (run, _) = world.carry_out(&plan, 500.0, Manner::Evacuation);
        let after = world.counts();
        assert_eq!((after[0], after.iter().sum::<u32>()), (0, counts.iter().sum()), "{:?}", run.progress());
        assert_eq!(after, plan.after);
    }
}

/// It is planned again for those who are still there, as long as there are any.
#[test]
fn a_drain_over_unruly_clients_ends_with_an_empty_server_wherever_they_come_back() {
    for seed in seeds(40) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let counts: Vec<_> = (0..rng.usize(2..6)).map(|_| rng.u32(1..100)).collect();
        // There may not be room for all.
        let ceiling = counts.iter().max().unwrap() + rng.u32(0..200);
        let mut world = World::new(seed, &counts, ceiling);
        world.leaves = Some(0);
        world.unruly = (rng.u32(0..30), rng.u32(0..30));
        for session in world.sessions.values_mut() {
            session.always_busy = rng.u8(..) < 40;
        }
        let (mut late, all) = (0, counts.iter().sum::<u32>());
        let room = |world: &World| world.counts()[1..].iter().any(|count| *count < ceiling);
        for round in 0.. {
            assert!(round < 100, "it does not end: {:?}", world.counts());
            let plan = world.plan();
            if plan.clients() == 0 {
                break;
            }
            let (run, _) = world.carry_out(&plan, 500.0, Manner::Evacuation);
            late += run.progress().late;
        }
        let after = world.counts();
        assert!(after[0] == 0 || !room(&world), "there was room: {after:?} of {ceiling}");
        assert_eq!(after.iter().sum::<u32>() + late, all, "everybody is somewhere: {after:?}");
        assert!(world.promised.iter().all(|promised| *promised == 0), "all slots are given back");
        assert!(world.moved_to.values().flatten().all(|(from, _)| *from == 0), "nobody else is moved");
    }
}

#[test]
fn a_run_that_is_paused_or_stopped_moves_nobody() {
    let world = World::new(1, &[100, 0], 200);
    let plan = world.plan();
    let all = world.sessions.iter().map(|(id, one)| Candidate::new(*id, one.client, one.server, one.idle)).collect();
    let (mut run, now) = (Run::new(&plan, all, 10.0, Manner::ForBalance, world.now), world.now);
    let Step::Move { flow, .. } = run.next(now, |_| Turn::Quiet) else { panic!("nothing") };
    let later = now + Duration::from_secs(60);
    assert!(matches!(run.next(later, |_| Turn::Quiet), Step::Wait(_)), "the first is not seen to land");
    run.ended(flow, Landing::There);
    run.pause(true);
    assert!(matches!(run.next(later, |_| Turn::Quiet), Step::Wait(_)));
    run.pause(false);
    let moved = (0..100).filter(|_| matches!(run.next(later, |_| Turn::Quiet), Step::Move { .. })).count();
    assert_eq!(moved, 1, "no faster than the rate, however late");
    run.stop();
    assert!(matches!(run.next(later + QUITE_LATER, |_| Turn::Quiet), Step::Wait(_)), "one is on its way");
    run.ended(flow, Landing::Late);
    assert_eq!(run.next(later + QUITE_LATER, |_| Turn::Quiet), Step::Done);
    assert_eq!((run.progress().landed, run.progress().late), (1, 1));
}

const QUITE_LATER: Duration = Duration::from_secs(60);
