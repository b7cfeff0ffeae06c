//! A storm in the middle of which another process takes over from weir. The logins that servers work on are finished
//! first, and whoever comes meanwhile waits in the kernel's queue. Whoever comes after that comes to the new process:
//! one that recalls what the old one knew, or one that knows nothing.

use std::num::NonZeroU32;

use super::*;
use crate::{
    admission::Rate,
    client_library::{library::Library, table},
    config::{Config, ServerArg},
    storm::{
        client_mix::ClientMix,
        plan::{Outcome, world::simulate},
    },
};

/// Another process takes over.
const TAKEOVER: u32 = kind::OWN + 8;

/// What the process knows that takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knows {
    All,
    Nothing,
}

/// What becomes of the clients that wait then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// They are refused.
    Refused,
    /// They go along, and wait in the new process.
    GoAlong,
}

/// A weir from which another one takes over.
struct TakenOver<'a> {
    weir: Weir,
    plan: &'a Plan,
    /// When it begins to leave.
    next: Option<Nanos>,
    is_leaving: bool,
    /// Clients that wait in the kernel's queue.
    backlog: Vec<u32>,
    knows: Knows,
    waiting: Waiting,
}

impl TakenOver<'_> {
    /// Takes over once no login is under way any more.
    fn go_on(&mut self, world: &mut World) {
        let is_dialling = |one: &Session| matches!(one.state, SessionState::Dialling(_));
        if self.is_leaving && !self.weir.sessions.iter().any(is_dialling) {
            self.is_leaving = false;
            self.weir.admission.resume();
            self.take_over(world);
            std::mem::take(&mut self.backlog).into_iter().for_each(|client| self.weir.arrive(world, client));
        }
    }

    fn take_over(&mut self, world: &mut World) {
        let now = self.weir.now(world);
        let weir = &mut self.weir;
        let mut along = Vec::new();
        if self.waiting == Waiting::Refused {
            weir.admission.begin_drain(Duration::ZERO);
        }
        for index in 0..weir.sessions.len() as u32 {
            match std::mem::replace(&mut weir.sessions[index as usize].state, SessionState::Free) {
                SessionState::Waits(mut wait) if self.waiting == Waiting::GoAlong => {
                    wait.leave(&weir.admission, now);
                    let Session { client, is_abandoned, .. } = weir.sessions[index as usize];
                    weir.close(index);
                    along.extend((!is_abandoned).then_some(client));
                }
                SessionState::Waits(mut wait) => {
                    let _ = wait.go_on(&weir.admission, now, &mut weir.rng);
                    drop(wait);
                    weir.refuse(world, index);
                }
                SessionState::Busy(_) => weir.refuse(world, index),
                state => weir.sessions[index as usize].state = state,
            }
        }
        let text = serde_json::to_vec(&(weir.admission.remembered(now), weir.servers.remembered(now))).unwrap();
        let Weir { admission, servers, limit, .. } = Weir::new(self.plan, &self.plan.admission, 0);
        (weir.admission, weir.servers, weir.limit) = (admission, servers, limit);
        for (server, real) in weir.servers.iter().zip(&world.servers) {
            server.read(now, server.load().begin_reading(now), reading(real.connections, weir.capacity));
        }
        if self.knows == Knows::All {
            let (admission, servers) = serde_json::from_slice(&text).unwrap();
            weir.servers.recall(&servers, now);
            weir.admission.recall(admission, now);
        }
        along.sort_unstable_by_key(|client| world.accepted(*client));
        along.into_iter().for_each(|client| weir.arrive(world, client));
    }
}

impl Ingress for TakenOver<'_> {
    fn addresses(&self) -> u16 {
        self.weir.addresses()
    }

    fn arrive(&mut self, world: &mut World, client: u32) {
        if let Some(at) = self.next.take() {
            world.schedule(at, TAKEOVER, self.weir.tag(0), 0);
        }
        match self.is_leaving {
            true => self.backlog.push(client),
            false => self.weir.arrive(world, client),
        }
    }

    fn finished(&mut self, world: &mut World, server: usize, job: Job) {
        self.weir.finished(world, server, job);
        self.go_on(world);
    }

    fn abandoned(&mut self, world: &mut World, client: u32) {
        self.backlog.retain(|late| *late != client);
        self.weir.abandoned(world, client);
    }

    fn on_event(&mut self, world: &mut World, kind: u32, who: u32, generation: u32) {
        match kind {
            TAKEOVER => {
                self.weir.admission.pause();
                self.is_leaving = true;
            }
            _ => self.weir.on_event(world, kind, who, generation),
        }
        self.go_on(world);
    }
}

const CLIENTS: u32 = 3000;

fn plan(library: &'static Library, handshakes: f64, seed: u64) -> Plan {
    let config = Config::from_servers(&[ServerArg("n1:4222".into())]).unwrap();
    let one = |n: u32| NonZeroU32::new(n).unwrap();
    Plan {
        clients: CLIENTS,
        accounts: Vec::new(),
        mix: ClientMix::One(library),
        servers: 3,
        handshakes,
        handshake_time: None,
        discipline: None,
        max_connections: None,
        reserve: config.upstream.reserve,
        round_trip: Duration::from_millis(1),
        at_once: true,
        servers_died: false,
        close_spread: config.upstream.close_spread,
        weirs: 1,
        beat_interval: Duration::from_millis(250),
        beat_delay: Duration::from_millis(1),
        admission: config.admission,
        bucket: Rate { per_second: one(100), burst: one(10) },
        time_limit: Duration::from_secs(600),
        seed,
    }
}

/// The outcome of a storm; with a takeover after so many seconds, if any.
fn storm(plan: &Plan, at: Option<f64>, knows: Knows, waiting: Waiting) -> Outcome {
    let next = at.map(|seconds| Duration::from_secs_f64(seconds).as_nanos() as Nanos);
    simulate(
        plan,
        TakenOver {
            weir: Weir::new(plan, &plan.admission, 0),
            plan,
            next,
            is_leaving: false,
            backlog: Vec::new(),
            knows,
            waiting,
        },
    )
}

/// The mean seconds until all are in, over some seeds: without a takeover; with one when half of them are in; and with
/// one that knows nothing.
fn means(waiting: Waiting, make: impl Fn(u64) -> Plan) -> [f64; 3] {
    const SEEDS: u64 = 4;
    let mut seconds = [0.0; 3];
    for seed in 0..SEEDS {
        let plan = make(seed);
        let alone = storm(&plan, None, Knows::All, waiting);
        let half = alone.count.seconds_to_50;
        let all = [alone, storm(&plan, half, Knows::All, waiting), storm(&plan, half, Knows::Nothing, waiting)];
        for (seconds, outcome) in seconds.iter_mut().zip(all) {
            assert_eq!((outcome.count.back, outcome.count.lost), (CLIENTS as usize, 0), "{seed}: {outcome:?}");
            *seconds += outcome.count.seconds_to_100.unwrap() / SEEDS as f64;
        }
    }
    seconds
}

/// Logins that take a quarter of a second, as with bcrypt on a busy machine: a process that knows nothing begins with
/// one at a time, and takes what logins take in the storm for what they take alone.
#[test]
fn a_takeover_in_the_middle_does_not_begin_the_storm_anew() {
    let mut sums = [0.0; 3];
    for (library, handshakes) in [(&table::GO, 300.0), (&table::JAVA, 300.0), (&table::RUST, 300.0)] {
        let seconds = means(Waiting::GoAlong, |seed| Plan {
            handshake_time: Some(Duration::from_millis(250)),
            ..plan(library, handshakes, seed)
        });
        println!("{}: {seconds:.1?} s", library.lang);
        sums.iter_mut().zip(seconds).for_each(|(sum, seconds)| *sum += seconds);
    }
    let [alone, all, nothing] = sums;
    println!("all: {sums:.1?} s");
    assert!(all <= 1.1 * alone, "{all} s, and {alone} s without a takeover");
    assert!(nothing > all, "{nothing} s where nothing is recalled, and {all} s with that");
}

/// Clients that wait are better taken along: a library that comes back after many seconds is away for as long.
#[test]
fn clients_that_are_refused_at_a_takeover_are_away_for_as_long_as_their_library_waits() {
    for (library, least, most) in [(&table::GO, 0.0, 3.0), (&table::JS, 10.0, 25.0)] {
        let [alone, along, _] = means(Waiting::GoAlong, |seed| plan(library, 400.0, seed));
        let [_, refused, _] = means(Waiting::Refused, |seed| plan(library, 400.0, seed));
        println!("{}: {alone:.1} s, {along:.1} s, {refused:.1} s", library.lang);
        assert!(along <= 1.1 * alone, "{}: {along} s", library.lang);
        assert!((least..most).contains(&(refused - alone)), "{}: {refused} s, and {alone} s", library.lang);
    }
}
