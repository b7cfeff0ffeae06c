//! Seeded histories of arrivals, departures, deaths of servers and lost readings, in virtual time. The invariants of
//! admission are checked after every step. `WEIR_SIM_SEED=n` replays one history.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    admission::{
        connect_check::Verdict,
        queue::{release::WaitEstimate, waiting::Ticket},
        *,
    },
    identity::ClientKey,
    outcome::Refusal,
    upstream::{
        self, Reading, Reserve, ServerId, ServerParams, Servers, concurrency::baseline::MeasuredFrom,
        reconciled_count::ReadingEpoch,
    },
};

const STEPS: u32 = 1500;
const SEEDS: u64 = 200;
const ACCOUNTS: [&str; 4] = ["A", "B", "C", "default"];
const MAX_HELD: usize = 40;
const MAX_CLIENTS: u32 = 120;
const PER_SOURCE: u32 = 30;
const LEAFNODES_PER_SOURCE: u32 = 4;
const LONGEST_LOGIN: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct Left(Arc<AtomicBool>);

impl Waiter for Left {
    fn has_left(&self) -> bool {
        self.0.load(Relaxed)
    }
}

type TestAdmission = Admission<(u64, Left)>;

impl Waiter for (u64, Left) {
    fn has_left(&self) -> bool {
        self.1.has_left()
    }
}

struct Waiting {
    ticket: Ticket,
    check_at: Instant,
    hold_until: Instant,
    left: Arc<AtomicBool>,
    entry: AcceptPermit,
}

struct Inside {
    pass: Pass,
    tried: Vec<ServerId>,
    counted: bool,
    answered: bool,
    _entry: AcceptPermit,
}

/// A server as it really is.
struct Real {
    up: bool,
    others: u32,
    max: u32,
    start: u32,
    poll: Option<(ReadingEpoch, u32)>,
}

struct World {
    seed: u64,
    step: u32,
    rng: fastrand::Rng,
    began: Instant,
    now: Instant,
    pace: Option<Rate>,
    servers: Arc<Servers>,
    admission: TestAdmission,
    limit: Arc<Limit>,
    real: Vec<Real>,
    waiting: HashMap<u64, Waiting>,
    inside: HashMap<u64, Inside>,
    delays: Vec<(Instant, Option<Permit>)>,
    next: u64,
    admitted: u64,
    turns: Vec<((u64, Left), Pass)>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with WEIR_SIM_SEED={} (failed at step {})", self.seed, self.step);
        }
    }
}

fn limits(max: Option<u32>, rate: Option<u32>, weight: u32) -> AccountLimits {
    let one = |n: u32| NonZeroU32::new(n).unwrap();
    let rate = rate.map(|n| Rate { per_second: one(n), burst: one(n.div_ceil(4)) });
    let quota = Quota { max_connections: max, rate, ..Quota::default() };
    AccountLimits { quota, weight: one(weight), ..AccountLimits::default() }
}

fn cluster(servers: usize) -> upstream::Params {
    let server = |n: usize| ServerParams {
        name: Some(format!("n{n}")),
        monitor: Some("http://n:8222".into()),
        ..ServerParams::bare(format!("n{n}:4222"))
    };
    upstream::Params {
        system: false,
        poll_interval: Duration::from_secs(1),
        reserve: Reserve::Slots(2),
        warn_at: 0.8,
        slow_start: Duration::from_secs(2),
        close_spread: Duration::from_secs(2),
        compatibility: upstream::Compatibility::default(),
        source_addresses: Vec::new(),
        cluster_names: Vec::new(),
        only_websocket: false,
        servers: (0..servers).map(server).collect(),
    }
}

fn params(rng: &mut fastrand::Rng) -> Params {
    let pace = rng.bool().then(|| Rate { per_second: 50.try_into().unwrap(), burst: 5.try_into().unwrap() });
    Params {
        mode: Mode::default(),
        patterns: Default::default(),
        pace,
        max_held: MAX_HELD,
        max_hold: Duration::from_millis(1500),
        max_hold_by_lang: HashMap::new(),
        refusal_spread: Duration::from_millis(1500),
        max_clients: MAX_CLIENTS,
        per_source: Quota { max_connections: Some(PER_SOURCE), ..Quota::default() },
        max_leafnodes_per_source: Some(LEAFNODES_PER_SOURCE),
        default_account: limits(None, None, 1),
        accounts: HashMap::from([
            ("A".to_owned(), limits(Some(10), None, 1)),
            ("B".to_owned(), AccountLimits { max_leafnodes: Some(3), ..limits(Some(25), Some(20), 2) }),
            ("C".to_owned(), AccountLimits { priority: rng.bool(), ..limits(None, Some(30), 3) }),
        ]),
        rules: Vec::new(),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let real: Vec<_> = (0..rng.usize(1..5))
            .map(|_| Real { up: true, others: rng.u32(0..10), max: rng.u32(12..60), start: 0, poll: None })
            .collect();
        let (cluster, params) = (cluster(real.len()), params(&mut rng));
        let servers = Arc::new(Servers::new(&cluster));
        let admission = TestAdmission::new(&params, Arc::clone(&servers));
        let began = Instant::now();
        let mut world = Self {
            seed,
            step: 0,
            rng,
            began,
            now: began,
            pace: params.pace,
            servers,
            admission,
            limit: Limit::new(MAX_CLIENTS),
            real,
            waiting: HashMap::new(),
            inside: HashMap::new(),
            delays: Vec::new(),
            next: 0,
            admitted: 0,
            turns: Vec::new(),
        };
        for n in 0..world.real.len() {
            world.poll_sent(n);
            world.poll_answered(n);
        }
        world
    }

    fn act(&mut self) {
        let server = self.rng.usize(0..self.real.len());
        let (moment, seconds) = (self.rng.u64(0..60), self.rng.u64(0..10));
        match self.rng.u32(0..100) {
            0..35 => self.arrive(),
            35..55 => self.pass_time(Duration::from_millis(moment)),
            55..70 => self.progress(),
            70..79 => self.end_one(),
            79..80 => {
                // Most pauses are short, and most of the time there is none.
                if self.rng.bool() {
                    self.admission.pause()
                } else {
                    self.admission.resume()
                };
            }
            80..84 => self.leave_queue(),
            84..89 => self.poll_sent(server),
            89..94 => self.poll_answered(server),
            94..96 => {
                let real = &mut self.real[server];
                real.others = self.rng.u32(0..real.max.min(10));
            }
            96..97 => self.die(server),
            97..98 => {
                self.real[server].up = true;
                self.real[server].start += 1;
            }
            98..99 => self.servers.iter().nth(server).unwrap().said_full(self.now),
            _ => self.pass_time(Duration::from_secs(seconds)),
        }
    }

    fn arrive(&mut self) {
        let source = IpAddr::from([192, 0, 2, self.rng.u8(0..6)]);
        let is_leafnode = self.rng.u8(0..5) == 0;
        let entry = match self.admission.at_accept(None, &self.limit, (source, is_leafnode), self.now) {
            Ok(entry) => entry,
            Err(reason) => {
                assert!(matches!(reason, Refusal::SourceQuota | Refusal::SourceLeafnodeQuota | Refusal::ListenerFull));
                assert!(is_leafnode || reason != Refusal::SourceLeafnodeQuota);
                return;
            }
        };
        self.next += 1;
        let id = self.next;
        let hold_until = self.now + Duration::from_millis(self.rng.u64(0..2000));
        let account: Arc<str> = ACCOUNTS[self.rng.usize(0..ACCOUNTS.len())].into();
        let client = ClientKey::from_raw(self.rng.u64(0..50));
        let left = Arc::<AtomicBool>::default();
        let answer_by = hold_until + Duration::from_millis(400);
        let returns = crate::client_library::lang::returns(["go", "rust", "java", "", ".NET"][id as usize % 5]);
        let client = Client {
            account,
            key: client,
            names_its_account: false,
            is_leafnode,
            source: Source::NOWHERE,
            proof: Proof::Known,
            may_use_reserve: false,
            would_refuse: None,
            quota_identity: Default::default(),
            hold_until,
            answer_by,
            returns,
        };
        let waiter = || (id, Left(Arc::clone(&left)));
        let headroom = self.servers.has_headroom(self.now);
        let verdict = self.admission.at_connect(client, self.now, &mut self.rng, waiter);
        match verdict {
            Verdict::Admit(pass) => {
                assert!(!self.admission.is_paused(), "admitted in a pause");
                self.admit(id, pass, entry);
            }
            Verdict::Hold { ticket, check_at, .. } => {
                assert!(check_at <= hold_until, "nobody waits past the deadline");
                self.waiting.insert(id, Waiting { ticket, check_at, hold_until, left, entry });
            }
            Verdict::Refuse { reason, at, permit } => {
                assert!(at <= hold_until.max(self.now), "a refusal arrives in time");
                assert!(reason != Refusal::ServerCapacity || !headroom, "refused while a server has headroom");
                assert!(reason != Refusal::Paused || self.admission.is_paused(), "there is no pause");
                if permit.is_some() {
                    self.delays.push((at, permit));
                }
            }
            Verdict::Reserve(_) => panic!("there are no rates by user or name"),
        }
    }

    fn admit(&mut self, id: u64, pass: Pass, entry: AcceptPermit) {
        self.admitted += 1;
        let load = pass.server.server().load();
        assert!(load.projected() <= load.ceiling(), "the reserve is never filled");
        if let Some(pace) = self.pace {
            let most = f64::from(pace.burst.get())
                + f64::from(pace.per_second.get()) * self.now.duration_since(self.began).as_secs_f64();
            assert!(self.admitted as f64 <= most + 1.0, "faster than the pace: {} > {most}", self.admitted);
        }
        let inside = Inside { pass, tried: Vec::new(), counted: false, answered: false, _entry: entry };
        self.inside.insert(id, inside);
    }

    fn pass_time(&mut self, by: Duration) {
        self.now += by;
        let now = self.now;
        let mut turns = std::mem::take(&mut self.turns);
        let again = self.admission.next_turns(now, &mut self.rng, &mut turns);
        assert!(again.is_none_or(|at| at > now), "release asks to be called in the past");
        assert!(turns.is_empty() || !self.admission.is_paused(), "a turn in a pause");
        for ((id, _), pass) in turns.drain(..) {
            let waiting = self.waiting.remove(&id).expect("a turn for a client that waits");
            assert!(now < waiting.hold_until, "a turn after the deadline");
            assert!(!waiting.left.load(Relaxed), "a turn for one who left");
            self.admit(id, pass, waiting.entry);
        }
        self.turns = turns;
        let mut looking: Vec<u64> = self.waiting.iter().filter(|(_, w)| w.check_at <= now).map(|(&id, _)| id).collect();
        looking.sort_unstable();
        for id in looking {
            let headroom = self.servers.has_headroom(now);
            let waiting = self.waiting.get_mut(&id).unwrap();
            match self.admission.estimate_turn(&waiting.ticket, now, &mut self.rng) {
                WaitEstimate::CheckAt(until) => {
                    assert!(until <= waiting.hold_until && now < waiting.hold_until, "a check past the deadline");
                    waiting.check_at = until;
                    continue;
                }
                WaitEstimate::TooLate(reason) => {
                    assert!(reason != Refusal::ServerCapacity || !headroom, "refused while a server has headroom");
                    assert_eq!(reason == Refusal::Paused, self.admission.is_paused());
                    let left = waiting.hold_until.saturating_duration_since(now);
                    assert!(!self.admission.is_paused() || left <= LONGEST_LOGIN, "refused in a pause, {left:?} early");
                }
                WaitEstimate::Gone => {}
            }
            self.waiting.remove(&id);
        }
        self.delays.retain(|(at, _)| *at > now);
        if self.rng.u8(0..10) == 0 {
            self.admission.sweep(now);
        }
    }

    fn some_inside(&mut self) -> Option<u64> {
        let mut ids: Vec<u64> = self.inside.keys().copied().collect();
        ids.sort_unstable();
        self.rng.choice(ids)
    }

    /// One handshake goes a step on, or fails.
    fn progress(&mut self) {
        let Some(id) = self.some_inside() else { return };
        let mut inside = self.inside.remove(&id).unwrap();
        let server = Arc::clone(inside.pass.server.server());
        if self.real[server.id().number()].up {
            if inside.counted {
                inside.answered = true;
                let took = LONGEST_LOGIN.mul_f64(self.rng.f64());
                self.admission.handshake_finished(
                    &mut inside.pass,
                    took,
                    (MeasuredFrom::Dial, Duration::ZERO),
                    None,
                    self.now,
                );
            } else {
                inside.counted = true;
                inside.pass.server.opened();
                server.dial_answered();
            }
        } else if !inside.answered {
            server.dial_failed(upstream::Port::Client, self.now, &mut self.rng);
            inside.tried.push(server.id());
            let Pass { server, account } = inside.pass;
            drop(server);
            let answer_by = self.now + Duration::from_millis(self.rng.u64(0..400));
            match self.admission.place_again(Some(account.login()), &inside.tried, answer_by, self.now, &mut self.rng) {
                Failover::Placed(server) => {
                    assert!(!inside.tried.contains(&server.server().id()), "the same server again");
                    inside.pass = Pass::new(server, account);
                    inside.counted = false;
                }
                Failover::Busy(_) | Failover::Refuse(_) => return,
            }
        }
        self.inside.insert(id, inside);
    }

    fn end_one(&mut self) {
        if let Some(id) = self.some_inside() {
            self.inside.remove(&id);
            self.admission.session_ended(ClientKey::from_raw(id % 50), Duration::from_secs(id % 10), self.now);
        }
    }

    fn leave_queue(&mut self) {
        let mut ids: Vec<u64> = self.waiting.keys().copied().collect();
        ids.sort_unstable();
        let Some(id) = self.rng.choice(ids) else { return };
        let waiting = self.waiting.remove(&id).unwrap();
        waiting.left.store(true, Relaxed);
        // The session says so at once, or the queue finds out by itself.
        if self.rng.bool() {
            let _ = self.admission.leave_queue(&waiting.ticket, self.now);
        }
    }

    fn die(&mut self, server: usize) {
        self.real[server].up = false;
        self.real[server].others = 0;
        self.real[server].poll = None;
        self.inside.retain(|_, inside| !(inside.answered && inside.pass.server.server().id().number() == server));
    }

    fn really_on(&self, server: usize) -> u32 {
        let own = |i: &&Inside| i.counted && i.pass.server.server().id().number() == server;
        self.inside.values().filter(own).count() as u32 + self.real[server].others
    }

    fn poll_sent(&mut self, server: usize) {
        let mark = self.servers.iter().nth(server).unwrap().load().begin_reading(self.now);
        self.real[server].poll = Some((mark, self.really_on(server)));
    }

    fn poll_answered(&mut self, server: usize) {
        let now_on = self.really_on(server);
        let real = &mut self.real[server];
        let Some((mark, then_on)) = real.poll.take().filter(|_| real.up) else { return };
        // The server counted at some moment between the question and the answer.
        let connections = if self.rng.bool() { now_on } else { then_on };
        let reading = Reading {
            server_name: String::new(),
            version: "2.15.1".into(),
            connections,
            max_connections: Some(real.max),
            max_control_line: None,
            auth_timeout: None,
            websocket_auth_timeout: None,
            leafnodes: 0,
            leafnode_port: None,
            leafnode_auth_timeout: None,
            server_id: real.start.to_string(),
            uptime: Duration::from_secs(100),
            system_account: None,
            requires_tls: false,
            trusts_operator: false,
            config: String::new(),
            cpu: 0.0,
            cores: 0,
        };
        self.servers.iter().nth(server).unwrap().read(self.now, mark, reading);
    }

    fn check(&self) {
        for (n, server) in self.servers.iter().enumerate() {
            let held = self.inside.values().filter(|i| i.pass.server.server().id().number() == n).count() as u32;
            let sessions =
                self.inside.values().filter(|i| i.answered && i.pass.server.server().id().number() == n).count() as u32;
            assert_eq!(server.load().held(), held, "slots of a server");
            assert_eq!(server.load().sessions(), sessions, "sessions of a server");
            assert_eq!(server.load().handshakes(), held - sessions, "handshakes of a server");
            assert!(held <= self.real[n].max, "more from weir alone than the server takes");
        }
        let queued = self.admission.queue_state().queue.len();
        assert_eq!(queued, self.admission.queued());
        assert!(queued + self.admission.waiting().answered_later <= MAX_HELD, "the queue is bounded");
        let alive = self.waiting.len();
        assert!(queued >= alive, "a client waits that is not in the queue: {queued} < {alive}");
        assert_eq!(self.admission.waiting().answered_later, self.delays.len());
        let in_account = |name: &str| {
            self.admission.accounts().connections().iter().find(|(n, _)| **n == *name).map_or(0, |(_, n)| *n)
        };
        for (name, quota) in [("A", 10), ("B", 25)] {
            assert!(in_account(name) <= quota, "{name} is over its quota");
        }
        let leafnodes = self.inside.values().filter(|one| one.pass.account.is_of_leafnode());
        let of_b = leafnodes.filter(|one| **one.pass.account.account().name() == *"B").count();
        assert!(of_b <= 3, "{of_b} leafnodes of B");
        let counted: u32 = ACCOUNTS.iter().map(|name| in_account(name)).sum();
        assert_eq!(counted as usize, self.inside.len() + queued, "slots of accounts");
        assert_eq!(self.limit.in_use() as usize, self.inside.len() + alive, "clients of the listener");
    }
}

/// Once all clients are gone, everything has been given back and is forgotten in time.
fn ends_clean(mut world: World) {
    world.inside.clear();
    for (_, waiting) in world.waiting.drain() {
        let _ = world.admission.leave_queue(&waiting.ticket, world.now);
    }
    world.delays.clear();
    world.admission.resume();
    world.pass_time(Duration::from_secs(100));
    world.admission.sweep(world.now);
    world.check();
    assert_eq!(world.admission.waiting().all(), 0);
    assert!(world.admission.sources.is_empty());
    assert!(world.admission.accounts().connections().is_empty());
    assert!(world.admission.leafnodes().is_empty());
}

#[test]
fn histories() {
    let seeds = match std::env::var("WEIR_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("WEIR_SIM_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    let mut admitted = 0;
    for seed in seeds {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.step = step;
            world.act();
            world.check();
        }
        admitted += world.admitted;
        ends_clean(world);
    }
    assert!(admitted > 1000, "the histories admitted hardly anybody: {admitted}");
}
