//! Clients that come one by one to servers of which one may be slow, seeded and on virtual time: how long they take to
//! be in, and how even that leaves the servers.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::upstream::{
    Params, Placement, ServerParams, Servers, Slot, Urgency,
    concurrency::{baseline::BaselineLatency, login_speed::ComparedLogin},
};

const TICK: Duration = Duration::from_millis(1);
/// Core seconds of a login by bcrypt with cost 9.
const BCRYPT_9: f64 = 0.025;
/// What the network and weir add.
const WIRE: Duration = Duration::from_micros(500);

/// A client on its way.
struct Arrival {
    at: Instant,
    kind: usize,
}

struct Job {
    slot: Slot,
    of: Arrival,
    began: Instant,
    /// Core seconds of work left.
    left: f64,
    is_overdue: bool,
}

#[derive(Default)]
struct Machine {
    /// Of one core.
    speed: f64,
    jobs: Vec<Job>,
    sessions: Vec<Slot>,
}

struct World {
    seed: u64,
    rng: fastrand::Rng,
    began: Instant,
    now: Instant,
    servers: Servers,
    machines: Vec<Machine>,
    /// Core seconds of a login of each kind, and how often it occurs.
    kinds: Vec<(f64, f64)>,
    baselines: Vec<BaselineLatency>,
    /// How long the last login of each kind took on each server. Each kind is that of an account of its own.
    last: Vec<Vec<Option<(Instant, Duration)>>>,
    waiting: VecDeque<Arrival>,
    /// Which server took a client, when it came, and how long until it was in.
    ins: Vec<(usize, f64, Duration)>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with WEIR_SIM_SEED={} (failed after {:?})", self.seed, self.now - self.began);
        }
    }
}

impl World {
    fn new(seed: u64, sessions: &[usize], max_connections: u32, kinds: &[(f64, f64)]) -> Self {
        let server = |n: usize| ServerParams {
            name: Some(format!("n{n}")),
            max_connections: Some(max_connections),
            ..ServerParams::bare(format!("n{n}:4222"))
        };
        let params = Params::bare((0..sessions.len()).map(server).collect());
        let (now, servers) = (Instant::now(), Servers::new(&params));
        let machines = servers.iter().zip(sessions).map(|(server, &sessions)| {
            let session = |_| {
                let mut slot = Slot::reserve(&server, now).expect("a free slot");
                slot.session_began();
                slot
            };
            Machine { speed: 1.0, jobs: Vec::new(), sessions: (0..sessions).map(session).collect() }
        });
        let machines = machines.collect();
        Self {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            began: now,
            now,
            servers,
            machines,
            kinds: kinds.to_vec(),
            baselines: kinds.iter().map(|_| BaselineLatency::default()).collect(),
            last: vec![vec![None; sessions.len()]; kinds.len()],
            waiting: VecDeque::new(),
            ins: Vec::new(),
        }
    }

    fn arrive(&mut self, per_second: f64) {
        if self.rng.f64() < per_second * TICK.as_secs_f64() {
            let (mut kind, mut left) = (0, self.rng.f64());
            while kind + 1 < self.kinds.len() && left >= self.kinds[kind].1 {
                left -= self.kinds[kind].1;
                kind += 1;
            }
            self.waiting.push_back(Arrival { at: self.now, kind });
        }
        while !self.waiting.is_empty() {
            let urgency = Urgency::CanWait(self.waiting.len());
            // An account has so many logins that are overdue on one server at first.
            let barred = self.servers.iter().filter(|server| server.load().overdue() >= 4).map(|server| server.id());
            let barred: Vec<_> = barred.collect();
            let Placement::Placed(mut slot) = self.servers.place(self.now, &barred, urgency, &mut self.rng) else {
                return;
            };
            let of = self.waiting.pop_front().expect("one waits");
            slot.opened();
            let left = self.kinds[of.kind].0 * (0.9 + 0.2 * self.rng.f64());
            let machine = &mut self.machines[slot.server().id().number()];
            machine.jobs.push(Job { slot, of, began: self.now, left, is_overdue: false });
        }
    }

    fn work(&mut self) {
        self.now += TICK;
        for (n, machine) in self.machines.iter_mut().enumerate() {
            let each = TICK.as_secs_f64() * (machine.speed / machine.jobs.len().max(1) as f64);
            for job in &mut machine.jobs {
                job.left -= each;
                if !job.is_overdue && self.now - job.began > job.slot.server().overdue_after() {
                    job.is_overdue = true;
                    job.slot.overdue();
                }
            }
            while let Some(done) = machine.jobs.iter().position(|job| job.left <= 0.0) {
                let mut job = machine.jobs.swap_remove(done);
                let (server, took) = (Arc::clone(job.slot.server()), self.now - job.began + WIRE);
                let alone = server.is_uncontended();
                let expected = self.baselines[job.of.kind].record(self.now, took, Duration::ZERO, alone);
                let last = &mut self.last[job.of.kind];
                last[n] = Some((self.now, took));
                let lately = |(at, _): &(Instant, Duration)| self.now - *at < Duration::from_secs(60);
                let others = last.iter().enumerate().filter(|(other, _)| *other != n);
                let elsewhere = others.filter_map(|(_, last)| last.filter(lately)).map(|(_, took)| took).min();
                let login = ComparedLogin { took, under_way: job.slot.most_under_way(), elsewhere };
                if job.is_overdue {
                    server.overdue_finished(self.now, login);
                } else {
                    server.handshake_finished(self.now, login, expected);
                }
                job.slot.session_began();
                machine.sessions.push(job.slot);
                let came = (job.of.at - self.began).as_secs_f64();
                self.ins.push((n, came, self.now - job.of.at));
            }
        }
    }

    /// So many clients a second come, for so many seconds.
    fn run(&mut self, per_second: f64, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.arrive(per_second);
            self.work();
        }
    }

    /// Those who came since: how many each server took, and after how long half and nine tenths of them were in.
    fn since(&self, from: f64) -> (Vec<usize>, Duration, Duration) {
        let mut took = vec![0; self.machines.len()];
        let mut times: Vec<_> = self.ins.iter().filter(|(_, came, _)| *came >= from).collect();
        times.iter().for_each(|(n, ..)| took[*n] += 1);
        times.sort_by_key(|(.., time)| *time);
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).map_or(Duration::ZERO, |(.., time)| *time);
        (took, at(0.5), at(0.9))
    }

    fn sessions(&self) -> Vec<usize> {
        self.machines.iter().map(|machine| machine.sessions.len()).collect()
    }
}

/// One of two or three servers gives a login this part of a core, by bcrypt with cost 9: 0.63 s and 0.25 s instead of
/// 0.025.
const SLOW: [f64; 2] = [0.04, 0.1];

const MS: Duration = Duration::from_millis(1);

fn seeds() -> Vec<u64> {
    match std::env::var("WEIR_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("WEIR_SIM_SEED is a number")],
        Err(_) => (0..2).collect(),
    }
}

#[test]
fn a_slow_server_that_is_behind_gets_few_clients_and_the_rest_once_the_others_are_well_ahead() {
    for (speed, seed) in SLOW.iter().flat_map(|speed| seeds().into_iter().map(move |seed| (*speed, seed))) {
        let mut world = World::new(seed, &[0, 20, 20], 1000, &[(BCRYPT_9, 1.0)]);
        world.machines[0].speed = speed;
        world.run(5.0, 20.0);
        let (took, half, _) = world.since(0.0);
        let all = took.iter().sum::<usize>();
        assert!(took[0] * 3 <= all && half <= 50 * MS, "{speed} of a core: {took:?}, half of them in {half:?}");
        world.run(2.0, 100.0);
        let sessions = world.sessions();
        let behind = sessions[1].min(sessions[2]) - sessions[0];
        assert!((25..=32).contains(&behind), "{speed} of a core: 0.03 of 1000 is 30: {sessions:?}");
    }
}

#[test]
fn a_server_that_becomes_slow_is_found_out_and_fills_up_again_once_it_is_quick() {
    for (speed, seed) in SLOW.iter().flat_map(|speed| seeds().into_iter().map(move |seed| (*speed, seed))) {
        for servers in [2, 3] {
            let mut world = World::new(seed, &vec![100; servers], 100_000, &[(BCRYPT_9, 1.0)]);
            world.run(5.0, 20.0);
            world.machines[0].speed = speed;
            world.run(5.0, 60.0);
            let (took, half, most) = world.since(20.0);
            assert!(took[0] <= 30 && half <= 50 * MS && most <= 60 * MS, "{took:?}: {half:?}, {most:?}");
            world.machines[0].speed = 1.0;
            world.run(5.0, 180.0);
            let sessions = world.sessions();
            assert!(sessions.iter().max().unwrap() - sessions.iter().min().unwrap() <= 3, "{sessions:?}");
        }
    }
}

#[test]
fn nobody_waits_for_a_slow_server_that_has_as_many_as_it_can_take() {
    for (speed, seed) in SLOW.iter().flat_map(|speed| seeds().into_iter().map(move |seed| (*speed, seed))) {
        let mut world = World::new(seed, &[100, 100, 100], 1000, &[(BCRYPT_9, 1.0)]);
        world.run(10.0, 10.0);
        world.machines[0].speed = speed;
        world.run(10.0, 120.0);
        let (took, half, most) = world.since(30.0);
        assert!(half <= 50 * MS && most <= 2000 * MS, "{speed} of a core: {took:?}, {half:?}, {most:?}");
        assert!(took[0] >= 40, "it is given what it can do: {took:?}");
    }
}

#[test]
fn accounts_whose_logins_take_long_make_no_server_slow() {
    let mixes: [&[(f64, f64)]; 4] = [
        &[(0.001, 0.9), (0.2, 0.1)],
        &[(0.001, 0.5), (0.2, 0.5)],
        &[(0.001, 0.1), (0.2, 0.9)],
        &[(BCRYPT_9, 0.5), (4.0 * BCRYPT_9, 0.5)],
    ];
    for (kinds, seed) in mixes.iter().flat_map(|kinds| seeds().into_iter().map(move |seed| (*kinds, seed))) {
        for per_second in [1.0, 5.0, 10.0] {
            let mut world = World::new(seed, &[0, 0, 0], 10_000, kinds);
            for second in 0..60 {
                world.run(per_second, 1.0);
                let sessions = world.sessions();
                let apart = sessions.iter().max().unwrap() - sessions.iter().min().unwrap();
                assert!(apart <= 8, "{kinds:?}, {per_second} a second: {sessions:?} after {second} s");
            }
        }
    }
}
