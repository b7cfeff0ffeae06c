//! Many weirs in front of a few servers, seeded and on virtual time: beats that are late or lost, readings that are old
//! when they come, and how even the servers are filled. `WEIR_SIM_SEED=n` replays one history;
//! `cargo test --lib peers::simulation::measured -- --ignored --nocapture` prints what the rules were chosen by.

mod leases;

use std::time::{Duration, Instant};

use self::leases::{Bucket, Leases};

use crate::{
    fleet::{
        beat::Beat,
        key::Keys,
        lease::Holder,
        member::MemberId,
        peers::{Peers, Vouch},
    },
    upstream::{
        Params, Placement, Reading, ServerId, ServerParams, Servers, Slot, Urgency,
        concurrency::login_speed::ComparedLogin, reconciled_count::ReadingEpoch,
    },
};

const TICK: Duration = Duration::from_millis(1);

/// How weirs choose a server where they have peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// That with the lowest share, by the last beats.
    Lowest,
    /// The lower one of two that are drawn by their headroom.
    TwoChoices,
    /// That with the lowest share once peers have done as weir itself does.
    AsPeersDo,
}

#[derive(Debug, Clone, Copy)]
struct Scenario {
    rule: Rule,
    weirs: usize,
    servers: usize,
    ceiling: u32,
    /// What each server has at first that came through no weir; the last server has none.
    direct: u32,
    clients: u32,
    /// The clients come within so many milliseconds.
    within_ms: u64,
    /// The first weir gets this part of them, and the others get equal parts of the rest. 0.0: all get equal parts.
    first_gets: f64,
    /// A beat is under way for up to so many milliseconds.
    delay_ms: u64,
    /// This part of the beats is lost.
    loss: f64,
    /// A reading is so old when it comes.
    reading_ms: u64,
    /// What has jumped is told at once, if the last beat is so old.
    gap_ms: u64,
    /// Whether there is a bucket for leases.
    has_bucket: bool,
    /// The first weir is killed after so many milliseconds, and its clients are gone.
    killed_at: Option<u64>,
    /// So long it goes on at most.
    lasts_ms: u64,
}

const EVEN: Scenario = Scenario {
    rule: Rule::AsPeersDo,
    weirs: 3,
    servers: 3,
    ceiling: 65_000,
    direct: 0,
    clients: 3000,
    within_ms: 1000,
    first_gets: 0.0,
    delay_ms: 5,
    loss: 0.0,
    reading_ms: 5,
    gap_ms: 10,
    has_bucket: false,
    killed_at: None,
    lasts_ms: 4000,
};

struct Login {
    slot: Slot,
    began: Instant,
    opens: Instant,
    ends: Instant,
}

struct Weir {
    servers: Servers,
    peers: Peers,
    beats: u64,
    next_beat: Instant,
    told: Vec<(u32, u32)>,
    waiting: u32,
    logins: Vec<Login>,
    sessions: Vec<Slot>,
    /// By server: the reading under way, and what it will say.
    readings: Vec<Option<(ReadingEpoch, u32)>>,
}

struct World {
    seed: u64,
    scenario: Scenario,
    keys: Keys,
    rng: fastrand::Rng,
    start: Instant,
    now: Instant,
    weirs: Vec<Weir>,
    direct: Vec<u32>,
    /// Beats under way: when they arrive, at whom.
    under_way: Vec<(Instant, usize, Beat)>,
    /// Beats sent.
    sent: u64,
    /// The most connections of a server above its ceiling.
    over: u32,
    bucket: Bucket,
    /// By weir.
    leases: Vec<Option<Leases>>,
    /// The first weir has been killed.
    is_killed: bool,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with WEIR_SIM_SEED={} ({:?})", self.seed, self.scenario);
        }
    }
}

fn jumped(then: u32, now: u32) -> bool {
    f64::from(then.abs_diff(now)) > (0.1 * f64::from(then)).max(0.5)
}

impl World {
    fn new(seed: u64, scenario: Scenario) -> Self {
        let start = Instant::now() + Duration::from_secs(1000);
        let server = |n: usize| ServerParams {
            monitor: Some("http://n:8222".into()),
            ..ServerParams::bare(format!("n{n}:4222"))
        };
        let params = Params::bare((0..scenario.servers).map(server).collect());
        let weir = |n: usize| Weir {
            servers: Servers::new(&params),
            peers: Peers::new(MemberId::new(&format!("w{n}")).unwrap()),
            beats: 0,
            next_beat: start,
            told: Vec::new(),
            waiting: 0,
            logins: Vec::new(),
            sessions: Vec::new(),
            readings: (0..scenario.servers).map(|_| None).collect(),
        };
        let keys = Keys::of_fleet("edge");
        let mut rng = fastrand::Rng::with_seed(seed);
        let leases = |n: usize| Leases::new(&format!("w{n}"), n as u64 + 1, &keys, start, rng.fork());
        let leases = (0..scenario.weirs).map(leases).map(|one| scenario.has_bucket.then_some(one)).collect();
        let direct = (0..scenario.servers).map(|n| if n + 1 == scenario.servers { 0 } else { scenario.direct });
        Self {
            seed,
            scenario,
            bucket: Bucket::new(fastrand::Rng::with_seed(seed)),
            leases,
            is_killed: false,
            keys,
            rng: fastrand::Rng::with_seed(seed),
            start,
            now: start,
            weirs: (0..scenario.weirs).map(weir).collect(),
            direct: direct.collect(),
            under_way: Vec::new(),
            sent: 0,
            over: 0,
        }
    }

    /// The connections of every server.
    fn counts(&self) -> Vec<u32> {
        let mut counts = self.direct.clone();
        for weir in &self.weirs[usize::from(self.is_killed)..] {
            for (n, server) in weir.servers.list().iter().enumerate() {
                counts[n] += server.load().connections().own().open;
            }
        }
        counts
    }

    fn reading(&self, counted: u32) -> Reading {
        Reading {
            server_name: String::new(),
            version: "2.15.1".into(),
            connections: counted,
            max_connections: Some(self.scenario.ceiling),
            max_control_line: None,
            auth_timeout: None,
            websocket_auth_timeout: None,
            leafnodes: 0,
            leafnode_port: None,
            leafnode_auth_timeout: None,
            server_id: "N".into(),
            uptime: Duration::from_secs(3600),
            system_account: None,
            requires_tls: false,
            trusts_operator: false,
            config: String::new(),
            cpu: 0.0,
            cores: 0,
        }
    }

    /// Each server is read each second by each weir, at another moment by each.
    fn read(&mut self, tick: u64) {
        let phase = |w: usize| (tick + 37 * w as u64) % 1000;
        let is_moment = |w| tick == 0 || phase(w) == 0 || phase(w) == self.scenario.reading_ms;
        if !(0..self.weirs.len()).any(is_moment) {
            return;
        }
        let counts = self.counts();
        for w in (0..self.weirs.len()).filter(|w| is_moment(*w)) {
            let phase = phase(w);
            for (n, &count) in counts.iter().enumerate() {
                let server = std::sync::Arc::clone(&self.weirs[w].servers.list()[n]);
                if phase == 0 || tick == 0 {
                    self.weirs[w].readings[n] = Some((server.load().begin_reading(self.now), count));
                }
                if (phase == self.scenario.reading_ms || tick == 0)
                    && let Some((epoch, counted)) = self.weirs[w].readings[n].take()
                {
                    server.read(self.now, epoch, self.reading(counted));
                }
            }
        }
    }

    fn beat(&mut self, w: usize, tick: u64) {
        let weir = &mut self.weirs[w];
        let list = weir.servers.list();
        let told: Vec<_> = list.iter().map(|one| (one.load().held(), one.load().under_way())).collect();
        let has_jumped = tick.is_multiple_of(self.scenario.gap_ms)
            && (weir.told.is_empty()
                || weir.told.iter().zip(&told).any(|(then, now)| jumped(then.0, now.0) || jumped(then.1, now.1)));
        if self.now < weir.next_beat && !has_jumped {
            return;
        }
        let every_ms = if weir.told == told { 1000 } else { 250 };
        weir.next_beat = self.now + Duration::from_millis(every_ms).mul_f64(0.8 + 0.4 * self.rng.f64());
        weir.told = told;
        weir.beats += 1;
        let beat = Beat {
            n: weir.beats,
            up_ms: self.now.saturating_duration_since(self.start).as_millis() as u64,
            every_ms: every_ms as u32,
            waiting: weir.waiting,
            servers: list.iter().map(|one| (one.fleet_key(&self.keys), one.beat(self.now, weir.waiting))).collect(),
            ..Beat::new(MemberId::new(&format!("w{w}")).unwrap(), w as u64 + 1)
        };
        drop(list);
        self.sent += 1;
        for other in (0..self.weirs.len()).filter(|other| *other != w) {
            if self.rng.f64() >= self.scenario.loss {
                let late = Duration::from_millis(self.rng.u64(1..=self.scenario.delay_ms));
                self.under_way.push((self.now + late, other, beat.clone()));
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        if !self.under_way.iter().any(|one| one.0 <= now) {
            return;
        }
        let (due, later): (Vec<_>, _) = std::mem::take(&mut self.under_way).into_iter().partition(|one| one.0 <= now);
        self.under_way = later;
        for (_, to, beat) in due {
            if to == 0 && self.is_killed {
                continue;
            }
            let weir = &mut self.weirs[to];
            let Ok(heard) = weir.peers.heard(now, beat, Vouch::Unknown) else { continue };
            match self.scenario.rule {
                Rule::AsPeersDo => weir.servers.hear(&self.keys, &heard, now),
                Rule::Lowest | Rule::TwoChoices => {
                    for server in weir.servers.iter() {
                        server.load().connections().peer_says(&heard.of_server(server.fleet_key(&self.keys)));
                    }
                }
            }
        }
        for (weir, leases) in self.weirs.iter_mut().zip(&mut self.leases) {
            for gone in weir.peers.forget(now) {
                weir.servers.peer_lost(gone.run);
                if let Some(leases) = leases {
                    leases.ledger.silent(now, &Holder::new(&gone.id, gone.run));
                }
            }
        }
    }

    /// All but two, which are drawn by their headroom.
    fn left_out(&mut self, w: usize) -> Vec<ServerId> {
        let list = self.weirs[w].servers.list();
        let mut all: Vec<_> = list.iter().map(|one| (one.id(), one.view(self.now))).collect();
        for _ in 0..2.min(all.len()) {
            let room = |view: &crate::upstream::placement::View| f64::from(view.ceiling.saturating_sub(view.projected));
            let mut at = self.rng.f64() * all.iter().map(|(_, view)| room(view)).sum::<f64>();
            let drawn = all.iter().position(|(_, view)| {
                at -= room(view);
                at < 0.0
            });
            all.remove(drawn.unwrap_or(0));
        }
        all.into_iter().map(|(id, _)| id).collect()
    }

    fn place(&mut self, w: usize) {
        while self.weirs[w].waiting > 0 {
            let left_out = if self.scenario.rule == Rule::TwoChoices { self.left_out(w) } else { Vec::new() };
            let weir = &mut self.weirs[w];
            let urgency = Urgency::CanWait(weir.waiting as usize);
            let Placement::Placed(slot) = weir.servers.place(self.now, &left_out, urgency, &mut self.rng) else {
                break;
            };
            weir.waiting -= 1;
            let opens = self.now + Duration::from_millis(self.rng.u64(1..=2));
            let ends = opens + Duration::from_millis(self.rng.u64(10..=100));
            weir.logins.push(Login { slot, began: self.now, opens, ends });
        }
    }

    fn work(&mut self) {
        for weir in &mut self.weirs {
            for mut login in std::mem::take(&mut weir.logins) {
                if login.opens <= self.now {
                    login.slot.opened();
                }
                if login.ends <= self.now {
                    let took = self.now.saturating_duration_since(login.began);
                    let uncompared = ComparedLogin::uncompared(took);
                    login.slot.server().handshake_finished(self.now, uncompared, Duration::from_millis(110));
                    login.slot.session_began();
                    weir.sessions.push(login.slot);
                } else {
                    weir.logins.push(login);
                }
            }
        }
    }

    fn share_slots(&mut self, w: usize, tick: u64) {
        let Some(leases) = self.leases[w].as_mut().filter(|_| tick % 5 == w as u64 % 5) else { return };
        let weir = &self.weirs[w];
        let operations = leases.look(self.now, &weir.servers, &weir.peers, weir.waiting);
        self.bucket.ask(self.now, w, operations);
    }

    /// Clients come, after `past` milliseconds. Returns how many have come by now.
    fn arrive(&mut self, arrived: u32, past: u64) -> u32 {
        let Scenario { clients, within_ms, first_gets, .. } = self.scenario;
        let due =
            (u64::from(clients) * past).checked_div(within_ms).map_or(clients, |due| due.min(clients.into()) as u32);
        for n in arrived..due {
            let w = match first_gets {
                0.0 => n as usize % self.weirs.len(),
                part if self.rng.f64() < part => 0,
                _ => self.rng.usize(1..self.weirs.len()),
            };
            self.weirs[w].waiting += 1;
        }
        due
    }

    /// Returns the least and the most connections of a server at the end.
    fn run(&mut self) -> (u32, u32) {
        let (mut arrived, mut tick) = (0, 0);
        loop {
            self.read(tick);
            // The weirs have known each other for a second when the clients come.
            if tick >= 1000 {
                arrived = self.arrive(arrived, tick - 1000);
            }
            self.work();
            self.is_killed |= self.scenario.killed_at.is_some_and(|at| tick >= at);
            for w in usize::from(self.is_killed)..self.weirs.len() {
                self.place(w);
                self.beat(w, tick);
                self.share_slots(w, tick);
            }
            self.deliver();
            let is_killed = self.is_killed;
            self.bucket.deliver(self.now, &mut self.leases, |w| w > 0 || !is_killed);
            if tick.is_multiple_of(5) {
                let most = self.counts().into_iter().max().unwrap_or(0);
                self.over = self.over.max(most.saturating_sub(self.scenario.ceiling));
            }
            self.now += TICK;
            tick += 1;
            let is_done = self.weirs.iter().all(|weir| weir.logins.is_empty() && weir.waiting == 0);
            let is_full = tick > self.scenario.lasts_ms + self.scenario.within_ms;
            if arrived == self.scenario.clients && is_done || is_full {
                break;
            }
        }
        let counts = self.counts();
        (counts.iter().copied().min().unwrap_or(0), counts.into_iter().max().unwrap_or(0))
    }
}

/// So many histories, or the one that is to be replayed.
fn seeds(many: u64) -> std::ops::Range<u64> {
    let replayed = std::env::var("WEIR_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    replayed.map_or(0..many, |seed: u64| seed..seed + 1)
}

/// The worst of some histories: most by least connections of a server, and connections above a ceiling.
fn worst(scenario: Scenario, seeds: u64) -> (f64, u32) {
    let one = |seed| {
        let mut world = World::new(seed, scenario);
        let (least, most) = world.run();
        (f64::from(most) / f64::from(least.max(1)), world.over)
    };
    self::seeds(seeds).map(one).fold((0.0, 0), |worst, one| (f64::max(worst.0, one.0), worst.1.max(one.1)))
}

const AT_ONCE: Scenario = Scenario { within_ms: 0, ..EVEN };
const TRICKLE: Scenario = Scenario { within_ms: 6_000, ..EVEN };
/// What jumps is told no sooner than other changes are.
const SELDOM: Scenario = Scenario { gap_ms: 250, ..EVEN };
const UNEVEN: Scenario = Scenario { first_gets: 0.8, ..EVEN };
const ROUGH: Scenario = Scenario { delay_ms: 100, loss: 0.1, reading_ms: 300, ..EVEN };
/// A server has come back empty beside others that have what it should have in the end.
const REFILL: Scenario = Scenario { direct: 1000, clients: 1000, within_ms: 2000, ..EVEN };

fn cases() -> [(&'static str, Scenario); 14] {
    let ten = |scenario| Scenario { weirs: 10, ..scenario };
    [
        ("3 weirs, at once", AT_ONCE),
        ("3 weirs, in 1 s", EVEN),
        ("3 weirs, in 6 s", TRICKLE),
        ("3 weirs, one has 80 %", UNEVEN),
        ("3 weirs, 100 ms, 10 % lost", ROUGH),
        ("3 weirs, refill", REFILL),
        ("3 weirs, beats each 250 ms", SELDOM),
        ("3 weirs, beats each 250 ms, refill", Scenario { gap_ms: 250, ..REFILL }),
        ("10 weirs, at once", ten(AT_ONCE)),
        ("10 weirs, in 1 s", ten(EVEN)),
        ("10 weirs, 100 ms, 10 % lost", ten(ROUGH)),
        ("10 weirs, refill", ten(REFILL)),
        ("10 weirs, beats each 250 ms", ten(SELDOM)),
        ("10 weirs, beats each 250 ms, refill", ten(Scenario { gap_ms: 250, ..REFILL })),
    ]
}

#[test]
fn weirs_that_place_at_the_same_time_fill_the_servers_evenly() {
    for (name, scenario) in cases() {
        let (ratio, _) = worst(scenario, 1);
        // Clients that all come at once are placed within a few beats, and what is unseen then is a larger part of all.
        let most = if scenario.within_ms == 0 { 1.1 } else { 1.05 };
        assert!(ratio <= most, "{name}: {ratio:.3}");
    }
}

#[test]
fn peers_that_do_nothing_change_nothing() {
    // One weir gets all clients: it fills the servers as one alone does.
    let alone = Scenario { weirs: 1, ..EVEN };
    let beside = Scenario { first_gets: 1.0, ..EVEN };
    let fill = |scenario| {
        let mut world = World::new(7, scenario);
        let (least, most) = world.run();
        assert!(world.weirs.iter().all(|weir| weir.servers.unseen.factors().is_none() || scenario.weirs > 1));
        most - least
    };
    assert!(fill(alone) <= 1 && fill(beside) <= 1);
}

/// More clients than there is room come to servers with readings and beats of all kinds.
const CROWDED: Scenario = Scenario { ceiling: 200, within_ms: 0, has_bucket: true, lasts_ms: 8000, ..EVEN };

fn crowds() -> [(&'static str, Scenario); 8] {
    let rough = Scenario { delay_ms: 100, loss: 0.1, reading_ms: 300, ..CROWDED };
    [
        ("at once", CROWDED),
        ("in 3 s", Scenario { within_ms: 3000, ..CROWDED }),
        ("rough", rough),
        ("10 weirs, rough", Scenario { weirs: 10, ..rough }),
        ("beats each 250 ms", Scenario { gap_ms: 250, delay_ms: 20, ..CROWDED }),
        ("one has 80 %", Scenario { first_gets: 0.8, ..rough }),
        ("others are there", Scenario { direct: 150, ..rough }),
        ("2000 each", Scenario { ceiling: 2000, clients: 9000, ..rough }),
    ]
}

#[test]
fn servers_are_filled_by_leases_and_none_beyond_its_limit() {
    for (name, scenario) in crowds() {
        for seed in seeds(1) {
            let mut world = World::new(seed, scenario);
            let (least, most) = world.run();
            assert_eq!((least, most, world.over), (scenario.ceiling, scenario.ceiling, 0), "{name}");
        }
    }
}

#[test]
fn what_a_weir_had_that_is_killed_others_fill_again() {
    for seed in seeds(2) {
        let scenario = Scenario { killed_at: Some(5000), lasts_ms: 20_000, ..CROWDED };
        let mut world = World::new(seed, scenario);
        let (least, most) = world.run();
        assert_eq!((least, most, world.over), (200, 200, 0));
    }
}

#[test]
#[ignore = "prints figures; nothing is asserted"]
fn measured() {
    for (name, scenario) in
        cases().into_iter().chain([("100 weirs, beats each 250 ms", Scenario { weirs: 100, gap_ms: 250, ..EVEN })])
    {
        let seeds = if scenario.weirs > 10 { 1 } else { 3 };
        let of =
            [Rule::Lowest, Rule::TwoChoices, Rule::AsPeersDo].map(|rule| worst(Scenario { rule, ..scenario }, seeds).0);
        println!("| {name} | {:.3} | {:.3} | {:.3} |", of[0], of[1], of[2]);
    }
    for weirs in [2, 3, 10] {
        for delay_ms in [5, 100] {
            let full = Scenario { weirs, delay_ms, ceiling: 200, within_ms: 0, ..EVEN };
            println!("{weirs} weirs, beats up to {delay_ms} ms late: {} of 200 above a ceiling", worst(full, 3).1);
        }
    }
    for (name, scenario) in crowds() {
        let mut world = World::new(1, scenario);
        let ends = world.run();
        let without = worst(Scenario { has_bucket: false, ..scenario }, 3).1;
        let writes = world.bucket.writes;
        println!("{name}: {without} above without leases, {} with; {writes} writes, {ends:?}", world.over);
    }
}
