//! Storms on servers of every speed, seeded and on virtual time: how many logins [`Servers`] gives them, compared with
//! how many they can do. Somebody always waits, so the logins given are the pace that weir has found. `WEIR_SIM_SEED=n`
//! replays one history.

mod trickle;

use std::time::{Duration, Instant};

use crate::upstream::{
    Params, Placement, Reading, ServerParams, Servers, Slot, Urgency,
    concurrency::{baseline::BaselineLatency, login_speed::ComparedLogin, usual::UsualLatency},
};

/// The step of the virtual time.
const TICK: Duration = Duration::from_micros(500);
/// What the network and weir itself add to a handshake, in seconds.
const WIRE: f64 = 0.0005;

/// A login under way.
struct Job {
    slot: Slot,
    began: Instant,
    /// Core seconds of work left.
    left: f64,
}

/// A server as it really is: all logins under way share its cores, each on at most one core.
struct Real {
    up: bool,
    start: u32,
    started: Instant,
    cores: f64,
    /// Core seconds of a login.
    work: f64,
    jobs: Vec<Job>,
    /// Logins under way that do not come through weir.
    crowd: usize,
    sessions: Vec<Slot>,
    /// Core seconds used since the last reading.
    used: f64,
    read_at: Instant,
}

impl Real {
    fn capacity(&self) -> f64 {
        if self.up { self.cores / self.work } else { 0.0 }
    }
}

struct World {
    seed: u64,
    rng: fastrand::Rng,
    began: Instant,
    now: Instant,
    servers: Servers,
    /// Of all clients, which are of one account, unless each is of one that nobody has logged in before.
    baseline: BaselineLatency,
    accounts_are_new: bool,
    usual: UsualLatency,
    real: Vec<Real>,
    readings_come: bool,
    says_cores: bool,
    /// For each tick: logins given, logins' worth of work done, and logins' worth that could have been done.
    ticks: Vec<(u32, f64, f64)>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with WEIR_SIM_SEED={} (failed after {:?})", self.seed, self.now - self.began);
        }
    }
}

impl World {
    fn new(seed: u64, servers: usize, cores: f64, work: f64) -> Self {
        let server = |n: usize| ServerParams {
            name: Some(format!("n{n}")),
            monitor: Some("http://n:8222".into()),
            ..ServerParams::bare(format!("n{n}:4222"))
        };
        let params = Params { slow_start: Duration::from_secs(10), ..Params::bare((0..servers).map(server).collect()) };
        let now = Instant::now();
        let real = |_| Real {
            up: true,
            start: 0,
            started: now,
            cores,
            work,
            jobs: Vec::new(),
            crowd: 0,
            sessions: Vec::new(),
            used: 0.0,
            read_at: now,
        };
        let mut world = Self {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            began: now,
            now,
            servers: Servers::new(&params),
            baseline: BaselineLatency::default(),
            accounts_are_new: false,
            usual: UsualLatency::default(),
            real: (0..servers).map(real).collect(),
            readings_come: true,
            says_cores: true,
            ticks: Vec::new(),
        };
        for real in &mut world.real {
            // It has been running for an hour.
            real.started = now.checked_sub(Duration::from_secs(3600)).unwrap_or(now);
        }
        (0..servers).for_each(|n| world.read(n));
        world
    }

    fn read(&mut self, n: usize) {
        let (server, real) = (&self.servers.list()[n], &mut self.real[n]);
        let since = self.now.saturating_duration_since(real.read_at).as_secs_f64();
        let epoch = server.load().begin_reading(self.now);
        let reading = Reading {
            server_name: String::new(),
            version: "2.15.1".into(),
            connections: (real.jobs.len() + real.sessions.len()) as u32,
            max_connections: Some(1_000_000),
            max_control_line: None,
            auth_timeout: None,
            websocket_auth_timeout: None,
            leafnodes: 0,
            leafnode_port: None,
            leafnode_auth_timeout: None,
            server_id: real.start.to_string(),
            uptime: self.now.saturating_duration_since(real.started),
            system_account: None,
            requires_tls: false,
            trusts_operator: false,
            config: String::new(),
            cpu: if since > 0.0 { real.used / since } else { 0.0 },
            cores: if self.says_cores { real.cores as u32 } else { 0 },
        };
        (real.used, real.read_at) = (0.0, self.now);
        server.read(self.now, epoch, reading);
    }

    fn give_logins(&mut self) -> u32 {
        let mut given = 0;
        while let Placement::Placed(mut slot) =
            self.servers.place(self.now, &[], Urgency::CanWait(100_000), &mut self.rng)
        {
            let server = std::sync::Arc::clone(slot.server());
            let real = &mut self.real[server.id().number()];
            if !real.up {
                server.dial_failed(crate::upstream::Port::Client, self.now, &mut self.rng);
                continue;
            }
            server.dial_answered();
            slot.opened();
            given += 1;
            real.jobs.push(Job { slot, began: self.now, left: real.work * (0.8 + 0.4 * self.rng.f64()) });
        }
        given
    }

    fn tick(&mut self) {
        let given = self.give_logins();
        let (tick, mut done) = (TICK.as_secs_f64(), 0.0);
        self.now += TICK;
        let could: f64 = self.real.iter().map(Real::capacity).sum::<f64>() * tick;
        for n in 0..self.real.len() {
            let real = &mut self.real[n];
            let logins = real.jobs.len() + real.crowd;
            let share = (real.cores / logins.max(1) as f64).min(1.0);
            real.used += tick * share * real.crowd as f64;
            let mut i = 0;
            while i < real.jobs.len() {
                let job = &mut real.jobs[i];
                let worked = (tick * share).min(job.left);
                real.used += worked;
                done += worked / real.work;
                job.left -= tick * share;
                if job.left > 0.0 {
                    i += 1;
                    continue;
                }
                let mut job = real.jobs.swap_remove(i);
                let took = self.now - job.began + Duration::from_secs_f64(WIRE);
                let server = &self.servers.list()[n];
                let mut new_account = BaselineLatency::default();
                let baseline = if self.accounts_are_new { &mut new_account } else { &mut self.baseline };
                let took_late = (took, Duration::ZERO);
                let may_take = baseline.record_beside(&self.usual, self.now, took_late, server.is_uncontended());
                server.handshake_finished(self.now, ComparedLogin::uncompared(took), may_take.at_server);
                job.slot.session_began();
                real.sessions.push(job.slot);
            }
            if real.up && self.readings_come && self.now - real.read_at >= Duration::from_secs(1) {
                self.read(n);
            }
        }
        self.ticks.push((given, done, could));
    }

    fn run(&mut self, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.tick();
        }
    }

    fn die(&mut self, n: usize) {
        let real = &mut self.real[n];
        real.up = false;
        for _ in real.jobs.drain(..) {
            self.servers.list()[n].dial_failed(crate::upstream::Port::Client, self.now, &mut self.rng);
        }
        real.sessions.clear();
    }

    fn rise(&mut self, n: usize) {
        let real = &mut self.real[n];
        (real.up, real.start, real.started, real.used, real.read_at) = (true, real.start + 1, self.now, 0.0, self.now);
        self.read(n);
    }

    /// The sums over every span of `seconds`; a span begins every tenth of a second.
    fn spans(&self, from: f64, to: f64, seconds: f64) -> impl Iterator<Item = (f64, u32, f64, f64)> {
        let at = |second: f64| ((second / TICK.as_secs_f64()) as usize).min(self.ticks.len());
        let spans = (0..).map(move |n| from + f64::from(n) * 0.1).take_while(move |begin| begin + seconds <= to);
        spans.map(move |begin| {
            let ticks = &self.ticks[at(begin)..at(begin + seconds)];
            let sum = |(a, b, c): (u32, f64, f64), tick: &(u32, f64, f64)| (a + tick.0, b + tick.1, c + tick.2);
            let (given, done, could) = ticks.iter().fold((0, 0.0, 0.0), sum);
            (begin, given, done, could)
        })
    }

    /// In no span of more than 2 s do the servers get more than 1.3 times the logins that they can do in it.
    fn is_never_too_fast(&self) {
        let end = self.ticks.len() as f64 * TICK.as_secs_f64();
        for seconds in [2.1, 4.0] {
            for (begin, given, _, could) in self.spans(0.0, end, seconds) {
                assert!(
                    f64::from(given) <= 1.3 * could + 1.0,
                    "{given} logins given of {could:.1} in {seconds} s from {begin:.1} s on; limits {:?}",
                    self.limits()
                );
            }
        }
    }

    /// From 3 s after `from` on, the servers do at least 0.9 of what they can, in every span of 4 s.
    fn is_busy(&self, from: f64, to: f64) {
        for (begin, _, done, could) in self.spans(from + 3.0, to, 4.0) {
            assert!(
                done >= 0.9 * could,
                "{done:.1} logins of {could:.1} in 4 s from {begin:.1} s on; limits {:?}",
                self.limits()
            );
        }
    }

    fn limits(&self) -> Vec<u32> {
        self.servers.iter().map(|server| server.view(self.now).handshake_limit).collect()
    }
}

/// Cores, and core seconds of a login: from almost none over bcrypt 6 and 8 to bcrypt 11.
const SPEEDS: [(f64, f64); 5] = [(2.0, 0.002), (2.0, 0.004), (8.0, 0.004), (4.0, 0.025), (2.0, 0.2)];

fn histories(mut each: impl FnMut(u64, f64, f64)) {
    let seeds = match std::env::var("WEIR_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("WEIR_SIM_SEED is a number")],
        Err(_) => (0..SPEEDS.len() as u64).collect(),
    };
    for seed in seeds {
        let (cores, work) = SPEEDS[seed as usize % SPEEDS.len()];
        each(seed, cores, work);
    }
}

#[test]
fn it_finds_what_the_servers_can_do_and_follows_when_one_slows_down_and_recovers() {
    histories(|seed, cores, work| {
        let mut world = World::new(seed, 1, cores, work);
        world.run(10.0);
        world.is_busy(0.0, 10.0);
        world.real[0].work = work * 3.0;
        world.run(15.0);
        world.is_busy(10.0, 25.0);
        world.real[0].work = work;
        world.run(15.0);
        world.is_busy(25.0, 40.0);
        world.is_never_too_fast();
    });
}

/// As where weir is new in front of a cluster with many accounts: each login is the first of its account.
#[test]
fn accounts_that_nobody_has_logged_in_before_get_what_the_servers_can_do_and_no_more() {
    histories(|seed, cores, work| {
        let mut world = World::new(seed, 2, cores, work);
        (world.accounts_are_new, world.says_cores) = (true, false);
        world.run(20.0);
        world.is_busy(0.0, 20.0);
        world.is_never_too_fast();
    });
}

#[test]
fn it_follows_when_a_server_joins_and_when_one_dies_and_comes_back() {
    histories(|seed, cores, work| {
        let mut world = World::new(seed, 2, cores, work);
        world.die(1);
        world.run(10.0);
        world.is_busy(0.0, 10.0);
        world.rise(1);
        world.run(15.0);
        world.die(0);
        world.run(10.0);
        world.rise(0);
        world.run(15.0);
        world.is_never_too_fast();
        world.is_busy(10.0, 50.0);
    });
}

#[test]
fn readings_that_stop_change_nothing() {
    histories(|seed, cores, work| {
        let mut world = World::new(seed, 2, cores, work);
        world.run(10.0);
        world.readings_come = false;
        world.run(10.0);
        world.readings_come = true;
        world.run(10.0);
        world.is_busy(0.0, 30.0);
        world.is_never_too_fast();
    });
}

/// weir starts while a crowd logs in past it, so the first time that it takes for the baseline is many times the true
/// one, and handshakes seem to take no longer than expected until half as many again are let in. Returns the limits at
/// the end of the crowd.
fn beside_a_crowd(cores: f64, work: f64, says_cores: bool) -> Vec<u32> {
    let mut world = World::new(1, 1, cores, work);
    world.real[0].crowd = 20 * cores as usize;
    world.says_cores = says_cores;
    world.run(20.0);
    let limits = world.limits();
    world.real[0].crowd = 0;
    world.run(15.0);
    world.is_busy(20.0, 35.0);
    limits
}

#[test]
fn busy_cores_end_growth_where_the_baseline_is_not_known() {
    for (cores, work) in [(4.0, 0.025), (2.0, 0.2)] {
        let most = 2 * cores as u32;
        let (told, untold) = (beside_a_crowd(cores, work, true)[0], beside_a_crowd(cores, work, false)[0]);
        assert!(told <= most && untold > most, "{told}, and {untold} where nobody says that the cores are busy");
    }
}
