//! Storms through several weirs, seeded and on virtual time: beats are late and get lost, and the logins under way on a
//! server share its cores. Measured are how long a storm takes beside one through a single weir, how many logins the
//! servers have under way, and how long a client of a quiet account waits. `WEIR_SIM_SEED=n` replays one history.

mod figures;
mod second_storm;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    fleet::{
        key::{Keys, Kind},
        link::OwnBeats,
        member::MemberId,
        pace::{InUse, Lane, Own, Round, SharedPace, Waiting},
    },
    upstream::concurrency::{
        baseline::BaselineLatency,
        limit::{ConcurrencyLimit, Shown},
        usual::UsualLatency,
    },
};

const TICK: Duration = Duration::from_micros(250);
const MS: Duration = Duration::from_millis(1);
/// What the network and weir add to a login, in seconds.
const WIRE: f64 = 0.0005;
/// Beats that tell of a change are at least this far apart.
const LEAST_APART: Duration = Duration::from_millis(2);
/// A weir that has not been heard of for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);

/// How places beyond the shares are given.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// As it is built: by the order of turns, the second waits for the first.
    Turns,
    /// Each weir has them for 1/n of the time, by its own clock.
    TimeShare,
    /// Whoever ends a login names the next weir.
    Passing,
    /// Each weir keeps a limit of its own.
    Apart,
}

#[derive(Clone, Copy)]
struct Storm {
    weirs: usize,
    servers: usize,
    cores: f64,
    /// Core seconds of a login: each takes from the first to the second.
    work: (f64, f64),
    clients: usize,
    rule: Rule,
    loss: f64,
    /// Accounts of the storm.
    accounts: usize,
    /// One weir gets this part of the clients beside its equal part.
    uneven: f64,
}

#[derive(Clone)]
struct Message {
    from: usize,
    n: u64,
    in_use: Vec<(InUse, Shown, f64)>,
    /// Baselines of the accounts whose logins ended last.
    baselines: Vec<(Lane, Duration)>,
    waiting: Waiting,
    next: Option<usize>,
}

struct Client {
    lane: Lane,
    came: Instant,
}

struct Weir {
    id: MemberId,
    up: bool,
    limits: Vec<ConcurrencyLimit>,
    paces: Vec<SharedPace>,
    under_way: Vec<u32>,
    round: Round,
    lanes: VecDeque<(Lane, VecDeque<Client>)>,
    waiting: u32,
    baselines: HashMap<Lane, BaselineLatency>,
    heard_baselines: HashMap<Lane, Duration>,
    usual: UsualLatency,
    to_tell: VecDeque<Lane>,
    /// What the others have told last.
    shown: HashMap<(usize, usize), Shown>,
    limits_heard: HashMap<(usize, usize), f64>,
    heard_at: HashMap<usize, Instant>,
    told: Option<(Instant, Vec<InUse>, Waiting)>,
    beats: OwnBeats,
    next_beat: Instant,
    look_at: Option<Instant>,
    may_take: bool,
    clock: f64,
    begun: Vec<Instant>,
}

struct Job {
    weir: usize,
    client: Client,
    began: Instant,
    left: f64,
}

struct Machine {
    cores: f64,
    jobs: Vec<Job>,
    sessions: u32,
}

struct World {
    storm: Storm,
    seed: u64,
    rng: fastrand::Rng,
    began: Instant,
    now: Instant,
    weirs: Vec<Weir>,
    machines: Vec<Machine>,
    net: BTreeMap<(Instant, u64), (usize, Message)>,
    sent: u64,
    quiet: Lane,
    /// How long the clients of the quiet account took, and when they came.
    quiet_took: Vec<Duration>,
    in_by: HashMap<Lane, Vec<Instant>>,
    /// Logins under way in all, each tick.
    under_way: Vec<u32>,
    left_over: usize,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with WEIR_SIM_SEED={} (failed after {:?})", self.seed, self.now - self.began);
        }
    }
}

fn lane(name: &str) -> Lane {
    Keys::of_fleet("edge").of(Kind::Account, name)
}

impl World {
    fn new(storm: Storm, seed: u64) -> Self {
        let (mut rng, now) = (fastrand::Rng::with_seed(seed), Instant::now());
        let weir = |n: usize| {
            let id = MemberId::new(&format!("w{n}")).unwrap();
            Weir {
                up: true,
                limits: (0..storm.servers).map(|_| ConcurrencyLimit::default()).collect(),
                paces: (0..storm.servers).map(|_| SharedPace::new(id.clone())).collect(),
                id,
                under_way: vec![0; storm.servers],
                round: Round::default(),
                lanes: VecDeque::new(),
                waiting: 0,
                baselines: HashMap::new(),
                heard_baselines: HashMap::new(),
                usual: UsualLatency::default(),
                to_tell: VecDeque::new(),
                shown: HashMap::new(),
                limits_heard: HashMap::new(),
                heard_at: HashMap::new(),
                told: None,
                beats: OwnBeats { begun: 0, came_back: 0 },
                next_beat: now + MS * rng.u32(0..250),
                look_at: None,
                may_take: false,
                clock: rng.f64() * 1000.0,
                begun: Vec::new(),
            }
        };
        let weirs = (0..storm.weirs).map(weir).collect();
        let machines =
            (0..storm.servers).map(|_| Machine { cores: storm.cores, jobs: Vec::new(), sessions: 0 }).collect();
        Self {
            storm,
            seed,
            rng,
            began: now,
            now,
            weirs,
            machines,
            net: BTreeMap::new(),
            sent: 0,
            quiet: lane("quiet"),
            quiet_took: Vec::new(),
            in_by: HashMap::new(),
            under_way: Vec::new(),
            left_over: 0,
        }
    }

    /// The clients of the storm come within a tenth of a second.
    fn storm_comes(&mut self) {
        let accounts: Vec<_> = (0..self.storm.accounts).map(|n| lane(&format!("storm{n}"))).collect();
        for n in 0..self.storm.clients {
            let weir = if self.rng.f64() < self.storm.uneven { 0 } else { self.rng.usize(0..self.storm.weirs) };
            self.arrive(weir, accounts[n % accounts.len()]);
        }
    }

    fn arrive(&mut self, weir: usize, lane: Lane) {
        let (now, weir) = (self.now, &mut self.weirs[weir]);
        let client = Client { lane, came: now };
        weir.waiting += 1;
        self.left_over += 1;
        match weir.lanes.iter_mut().find(|(other, _)| *other == lane) {
            Some((_, clients)) => clients.push_back(client),
            None => weir.lanes.push_back((lane, [client].into())),
        }
        weir.look_at = Some(now);
    }

    fn waiting(weir: &Weir) -> Waiting {
        let Some((lane, _)) = weir.lanes.front() else { return Waiting::NOBODY };
        let lanes = weir.lanes.len() as u32;
        Waiting { clients: weir.waiting, lanes, has_priority: false, lane: *lane, lane_turn: weir.round.of_lane(*lane) }
    }

    /// How many logins a weir may have under way on a server.
    fn allowance(&mut self, w: usize, s: usize) -> u32 {
        let (now, rule, live) = (self.now, self.storm.rule, self.weirs.iter().filter(|weir| weir.up).count());
        let weir = &mut self.weirs[w];
        let limit = weir.limits[s].limit();
        if rule == Rule::Apart {
            return limit;
        }
        let own = Own {
            limit,
            login: weir.limits[s].mean_time(),
            under_way: weir.under_way[s],
            waiting: Self::waiting(weir),
            beats: weir.beats,
            is_new: weir.lanes.front().is_some_and(|(lane, _)| {
                !weir.heard_baselines.contains_key(lane) && !weir.baselines.contains_key(lane)
            }),
        };
        let allowance = weir.paces[s].allowance(now, &weir.round, own);
        if let Some(at) = allowance.look_again {
            weir.look_at = Some(weir.look_at.map_or(at, |other| other.min(at)));
        }
        let beyond = allowance.logins == own.under_way + 1 || allowance.look_again.is_some();
        match rule {
            Rule::TimeShare if beyond && weir.paces[s].is_shared() && limit < live as u32 => {
                let seconds = (now - self.began).as_secs_f64() + weir.clock;
                weir.look_at = Some(now + MS);
                let mine = (seconds / (0.2 * live as f64)).fract() < f64::from(limit) / live as f64;
                if mine { 1.max(own.under_way) } else { own.under_way }
            }
            Rule::Passing if allowance.look_again.is_some() && std::mem::take(&mut weir.may_take) => own.under_way + 1,
            _ => allowance.logins,
        }
    }

    fn dispatch(&mut self, w: usize) {
        self.weirs[w].look_at = None;
        while self.weirs[w].waiting > 0 {
            let mut servers: Vec<usize> = (0..self.storm.servers).collect();
            self.rng.shuffle(&mut servers);
            servers.sort_by_key(|&s| self.machines[s].sessions + self.machines[s].jobs.len() as u32);
            let Some(s) = servers.into_iter().find(|&s| self.weirs[w].under_way[s] < self.allowance(w, s)) else {
                return;
            };
            let (now, weir) = (self.now, &mut self.weirs[w]);
            let (lane, mut clients) = weir.lanes.pop_front().expect("one waits");
            let client = clients.pop_front().expect("no lane is empty");
            if !clients.is_empty() {
                weir.lanes.push_back((lane, clients));
            }
            weir.waiting -= 1;
            if weir.under_way[s] == 0 {
                weir.limits[s].began_on_idle(now);
            }
            weir.under_way[s] += 1;
            weir.begun.push(now);
            weir.paces[s].began(now, &mut weir.round, lane, weir.under_way[s]);
            let work = self.storm.work.0 + (self.storm.work.1 - self.storm.work.0) * self.rng.f64();
            self.machines[s].jobs.push(Job { weir: w, client, began: now, left: work });
        }
    }

    fn ended(&mut self, s: usize, job: Job) {
        let now = self.now;
        self.left_over -= 1;
        let weir = &mut self.weirs[job.weir];
        let took = now - job.began + Duration::from_secs_f64(WIRE);
        if job.client.lane == self.quiet {
            self.quiet_took.push(now - job.client.came);
        }
        self.in_by.entry(job.client.lane).or_default().push(now);
        let others = if self.storm.rule == Rule::Apart { 0 } else { weir.paces[s].others_under_way() };
        let in_flight = weir.under_way[s] + others;
        let baseline = weir.baselines.entry(job.client.lane).or_default();
        let alone = if self.storm.weirs == 1 { in_flight <= 1 } else { weir.paces[s].most_since(job.began) <= 1 };
        let expected = baseline.record_beside(&weir.usual, now, (took, Duration::ZERO), alone).at_server;
        if let Some(least) = weir.heard_baselines.get(&job.client.lane) {
            baseline.heard(*least);
        }
        if !weir.to_tell.contains(&job.client.lane) {
            weir.to_tell.push_back(job.client.lane);
            weir.to_tell.truncate(8);
        }
        weir.limits[s].finished(now, took, expected, in_flight);
        weir.under_way[s] -= 1;
        let waiting = Self::waiting(weir);
        weir.paces[s].ended(now, &weir.round, &waiting, weir.under_way[s]);
        weir.look_at = Some(now);
        self.dispatch(job.weir);
    }

    fn hear(&mut self, w: usize, message: Message) {
        if message.from == w {
            let came_back = &mut self.weirs[w].beats.came_back;
            *came_back = message.n.max(*came_back);
            return self.dispatch(w);
        }
        let (now, from) = (self.now, self.weirs[message.from].id.clone());
        let weir = &mut self.weirs[w];
        weir.heard_at.insert(message.from, now);
        for (lane, least) in &message.baselines {
            weir.heard_baselines.insert(*lane, *least);
            weir.usual.heard(*least);
            if let Some(baseline) = weir.baselines.get_mut(lane) {
                baseline.heard(*least);
            }
        }
        for (s, (in_use, shown, limit)) in message.in_use.iter().enumerate() {
            let in_flight = weir.under_way[s] + weir.paces[s].others_under_way();
            weir.limits_heard.insert((message.from, s), *limit);
            let of_server = |((_, server), limit): (&(usize, usize), &f64)| (*server == s).then_some(*limit);
            let limits: Vec<_> = weir.limits_heard.iter().filter_map(of_server).collect();
            let mean = limits.iter().sum::<f64>() / limits.len() as f64;
            let before = weir.shown.insert((message.from, s), *shown).unwrap_or(*shown);
            weir.limits[s].heard(now, shown, &before, in_flight, mean);
            let is_turn = weir.paces[s].heard(now, &from, (*in_use, message.waiting), weir.under_way[s]);
            if is_turn
                && in_use.turn > 0
                && weir.round.heard(in_use.lane, in_use.turn)
                && let Some(at) = weir.lanes.iter().position(|(lane, _)| *lane == in_use.lane)
                && let Some(lane) = weir.lanes.remove(at)
            {
                weir.lanes.push_back(lane);
            }
        }
        weir.may_take |= message.next == Some(w);
        self.dispatch(w);
    }

    fn tell(&mut self, w: usize) {
        let (now, storm) = (self.now, self.storm);
        let weir = &self.weirs[w];
        let in_use: Vec<_> =
            (0..storm.servers).map(|s| weir.paces[s].in_use(now, weir.under_way[s], weir.limits[s].limit())).collect();
        let waiting = Self::waiting(weir);
        let is_news = weir.told.as_ref().is_none_or(|(at, told, waited)| {
            let news = |s: usize| {
                let login = weir.limits[s].mean_time();
                weir.paces[s].is_news((told[s], *waited), (in_use[s], waiting), login)
            };
            now >= *at + LEAST_APART && (0..storm.servers).any(news)
        });
        if !is_news && now < weir.next_beat {
            return;
        }
        let shown = (0..storm.servers).map(|s| (in_use[s], weir.limits[s].shown(), weir.limits[s].exact())).collect();
        // With turns that are passed on, the one that is next by what this weir knows.
        let next = (storm.rule == Rule::Passing).then(|| {
            let others = (0..storm.weirs).filter(|&n| n != w && self.weirs[n].up && self.weirs[n].waiting > 0);
            others.min_by_key(|&n| self.weirs[n].begun.last().copied())
        });
        let baselines =
            weir.to_tell.iter().filter_map(|lane| Some((*lane, weir.baselines[lane].measured_alone()?))).collect();
        let weir = &mut self.weirs[w];
        weir.beats.begun += 1;
        let message = Message { from: w, n: weir.beats.begun, in_use: shown, baselines, waiting, next: next.flatten() };
        weir.told = Some((now, in_use, waiting));
        weir.to_tell.clear();
        weir.next_beat = now + Duration::from_millis(250).mul_f64(0.8 + 0.4 * self.rng.f64());
        self.sent += 1;
        for to in 0..storm.weirs {
            if self.weirs[to].up && self.rng.f64() >= storm.loss {
                // Most are quick.
                let late = Duration::from_micros(200) + 5 * MS.mul_f64(self.rng.f64().powi(3));
                self.net.insert((now + late, self.rng.u64(..)), (to, message.clone()));
            }
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let now = self.now;
        let mut all = 0;
        for s in 0..self.storm.servers {
            let machine = &mut self.machines[s];
            all += machine.jobs.len() as u32;
            let each = TICK.as_secs_f64() * (machine.cores / machine.jobs.len().max(1) as f64).min(1.0);
            machine.jobs.iter_mut().for_each(|job| job.left -= each);
            while let Some(done) = self.machines[s].jobs.iter().position(|job| job.left <= 0.0) {
                let job = self.machines[s].jobs.swap_remove(done);
                self.machines[s].sessions += 1;
                self.ended(s, job);
            }
        }
        self.under_way.push(all);
        while let Some(first) = self.net.first_entry()
            && first.key().0 <= now
        {
            let (to, message) = first.remove();
            if self.weirs[to].up {
                self.hear(to, message);
            }
        }
        for w in 0..self.storm.weirs {
            if !self.weirs[w].up {
                continue;
            }
            let silent = |(_, at): &(&usize, &Instant)| now - **at > FORGOTTEN_AFTER;
            let forgotten: Vec<usize> = self.weirs[w].heard_at.iter().filter(silent).map(|(from, _)| *from).collect();
            for from in forgotten {
                let id = self.weirs[from].id.clone();
                let weir = &mut self.weirs[w];
                weir.heard_at.remove(&from);
                weir.limits_heard.retain(|(of, _), _| *of != from);
                weir.paces.iter_mut().for_each(|pace| pace.forget(&id));
                weir.look_at = Some(now);
            }
            if self.weirs[w].look_at.is_some_and(|at| at <= now) {
                self.dispatch(w);
            }
            if self.storm.weirs > 1 && self.storm.rule != Rule::Apart {
                self.tell(w);
            }
        }
    }

    /// A weir ends, and what it has under way with it.
    fn kill(&mut self, w: usize) {
        self.weirs[w].up = false;
        self.left_over -= self.weirs[w].waiting as usize;
        for machine in &mut self.machines {
            let before = machine.jobs.len();
            machine.jobs.retain(|job| job.weir != w);
            self.left_over -= before - machine.jobs.len();
        }
    }

    fn run(&mut self, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.tick();
        }
    }

    /// Until all are in; how long that took, in seconds.
    fn run_to_the_end(&mut self) -> f64 {
        let began = self.now;
        while self.left_over > 0 && self.now < began + Duration::from_secs(300) {
            self.tick();
        }
        (self.now - began).as_secs_f64()
    }

    /// The mean of the logins under way on all servers between two moments (in seconds), and of the time the part in
    /// which they were over `many`.
    fn mean_under_way(&self, from: f64, to: f64, many: u32) -> (f64, f64) {
        let at = |second: f64| ((second / TICK.as_secs_f64()) as usize).min(self.under_way.len());
        let ticks = &self.under_way[at(from)..at(to).max(at(from) + 1)];
        let mean = ticks.iter().map(|n| f64::from(*n)).sum::<f64>() / ticks.len() as f64;
        (mean, ticks.iter().filter(|n| **n > many).count() as f64 / ticks.len() as f64)
    }
}

const BCRYPT: Storm = Storm {
    weirs: 1,
    servers: 1,
    cores: 2.0,
    work: (0.09, 0.11),
    clients: 200,
    rule: Rule::Turns,
    loss: 0.01,
    accounts: 1,
    uneven: 0.0,
};

fn percentile(times: &[Duration], part: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[((times.len() as f64 * part) as usize).min(times.len() - 1)]
}

/// How long a storm takes, the logins under way on average, and the most after its first second.
fn storm(storm: Storm, seed: u64) -> (f64, f64, u32) {
    let mut world = World::new(storm, seed);
    world.run(1.5);
    world.storm_comes();
    let seconds = world.run_to_the_end();
    let (mean, _) = world.mean_under_way(1.5, 1.5 + seconds * 0.9, 0);
    let from = (2.5 / TICK.as_secs_f64()) as usize;
    (seconds, mean, world.under_way[from..].iter().copied().max().unwrap_or(0))
}

fn seeds() -> Vec<u64> {
    match std::env::var("WEIR_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("WEIR_SIM_SEED is a number")],
        Err(_) => (0..2).collect(),
    }
}

#[test]
fn a_storm_through_several_weirs_takes_as_long_as_through_one() {
    for seed in seeds() {
        for (work, cores, clients) in [((0.09, 0.11), 2.0, 80), ((0.055, 0.065), 1.0, 60), ((0.02, 0.03), 2.0, 200)] {
            let one = Storm { work, cores, clients, accounts: 1 + (seed % 2) as usize, loss: 0.05, ..BCRYPT };
            let alone = storm(one, seed);
            for (weirs, times, uneven) in [(2, 1.1, 0.0), (3, 1.1, 0.5), (10, 1.2, 0.0)] {
                let (seconds, mean, _) = storm(Storm { weirs, uneven, ..one }, seed);
                assert!(seconds <= times * alone.0, "{weirs} weirs, {work:?}: {seconds} s, one takes {} s", alone.0);
                assert!(mean <= alone.1 + 1.5, "{weirs} weirs, {work:?}: {mean} under way, with one {}", alone.1);
            }
        }
    }
}

#[test]
fn weirs_that_know_nothing_of_each_other_give_a_server_many_times_as_much() {
    let apart = |weirs| storm(Storm { weirs, rule: Rule::Apart, clients: 80, ..BCRYPT }, 1).1;
    assert!(apart(10) > 2.0 * apart(1), "what the other tests say they prevent");
}

#[test]
fn a_weir_that_joins_has_its_share_within_a_second_and_one_that_is_killed_gives_it_back_as_fast() {
    for seed in seeds() {
        let mut world = World::new(Storm { weirs: 3, clients: 0, ..BCRYPT }, seed);
        world.weirs[2].up = false;
        let account = lane("storm0");
        world.run(0.5);
        for n in 0..900 {
            world.arrive(n % 3, account);
        }
        world.run(4.0);
        world.weirs[2].up = true;
        let joined = world.now;
        world.run(5.0);
        let begun = |world: &World, weir: usize, from: f64, to: f64| {
            let at = |seconds| joined + Duration::from_secs_f64(seconds);
            world.weirs[weir].begun.iter().filter(|began| (at(from)..at(to)).contains(*began)).count()
        };
        let all = |world: &World, from, to| (0..3).map(|weir| begun(world, weir, from, to)).sum::<usize>();
        let (its, share) = (begun(&world, 2, 1.0, 5.0), all(&world, 1.0, 5.0) / 3);
        assert!(its * 10 >= share * 7, "{its} of a share of {share}");
        world.kill(2);
        world.run(6.0);
        let (before, after) = (all(&world, 1.0, 5.0), begun(&world, 0, 6.0, 10.0) + begun(&world, 1, 6.0, 10.0));
        assert!(after * 10 >= before * 9, "{after} logins in 4 s after the kill, {before} before it");
    }
}

/// A client of another account, through a weir of the storm, every 0.2 to 0.5 s.
fn quiet(storm: Storm, seed: u64) -> Vec<Duration> {
    let mut world = World::new(storm, seed);
    world.run(1.0);
    world.storm_comes();
    for _ in 0..20 {
        let (wait, weir) = (0.2 + 0.3 * world.rng.f64(), world.rng.usize(0..storm.weirs));
        world.run(wait);
        let quiet = world.quiet;
        world.arrive(weir, quiet);
    }
    world.run(3.0);
    std::mem::take(&mut world.quiet_took)
}

#[test]
fn a_quiet_account_does_not_wait_for_the_storm_of_another() {
    for weirs in [3, 10] {
        let took = |weirs| {
            let all = seeds().into_iter().flat_map(|seed| quiet(Storm { weirs, clients: 600, ..BCRYPT }, seed));
            let all: Vec<_> = all.collect();
            (percentile(&all, 0.5), percentile(&all, 0.9))
        };
        let (one, many) = (took(1), took(weirs));
        assert!(many.0 < one.0.mul_f64(1.5) && many.1 < one.1 * 2, "{weirs} weirs: {many:?}, one: {one:?}");
    }
}
