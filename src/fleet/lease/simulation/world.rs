//! The model: weirs, a bucket, two servers, and time.
//!
//! Always: what the servers have of the quota is never more than the quota. Four exceptions are counted apart:
//! what a weir that is cut off from the fleet admits by its floor, what one admits by the split that has never reached
//! the bucket, what was let in before the quota was lowered, and what a weir admits by its floor where the quota was
//! lowered, there or elsewhere, while it could not reach the bucket: nobody tells it what others hold of the higher
//! one, and to admit nothing would be to fail closed. While leases are more than a lower quota they count instead of
//! it. Nobody takes a lease that with all others, and with what is known to have come past weir, is more than the
//! quota.
//!
//! In the end, when nothing goes wrong any more: the quota is filled while there is demand, whoever leaves makes room
//! for others at any weir, also who came past all weirs, each weir comes to its max-min fair part, and everything is
//! given back.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    ops::RangeBounds,
    sync::atomic::Ordering::SeqCst,
    time::Instant,
};

use crate::fleet::lease::{
    Answer, Operation, Place, What,
    ledger::LOOK_EVERY,
    record::Record,
    simulation::{
        bucket::Bucket,
        direct::{Counts, Direct},
        event::{Due, Event},
        weir::{Connection, Network, Role, Stage, Time, Weir, key},
    },
    surroundings::Surroundings,
};

pub(super) const MS: Time = 1000;
pub(super) const SECOND: Time = 1_000_000;

/// nats-server's `auth_timeout`.
const AUTH_TIMEOUT: Time = 2 * SECOND;

pub struct World {
    pub(super) seed: u64,
    pub(super) rng: fastrand::Rng,
    pub(super) base: Instant,
    pub(super) at: Time,
    pub(super) due: BinaryHeap<Reverse<Due>>,
    pub(super) serial: u64,
    pub(super) bucket: Bucket,
    pub(super) has_quorum: bool,
    /// When the bucket was lost last, and the record that it had.
    pub(super) lost: Option<(Time, Record)>,
    pub(super) weirs: Vec<Weir>,
    /// When each weir was stopped last.
    pub(super) stopped_at: Vec<Time>,
    /// Connections at the servers: the weir, its number, whether it is excepted.
    pub(super) servers: BTreeMap<(usize, u64), bool>,
    pub(super) direct: Direct,
    /// The sum of the leases and what came past weir, as the record has had them in the last seconds.
    pub(super) sums: VecDeque<(Time, u32, u32)>,
    /// How much goes wrong: of requests, answers and watches.
    pub(super) loss: f64,
    pub(super) late: f64,
    /// Quotas that were in force at some weir in the last seconds.
    pub(super) quotas: VecDeque<(Time, u32)>,
    pub(super) is_healed: bool,
    /// Whether the bucket is another one when the first part ends.
    pub(super) is_other_bucket: bool,
    /// Whether weirs are taken over.
    pub(super) has_takeovers: bool,
    /// Somebody subscribes to all subjects.
    pub(super) has_eavesdropper: bool,
    /// Weirs have more accounts than go into one beat.
    pub(super) has_many_accounts: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let quota = [1, 3, 7, 20, 60][rng.usize(..5)];
        let (loss, late) = ([0.0, 0.02, 0.2][rng.usize(..3)], [0.0, 0.05, 0.3][rng.usize(..3)]);
        let mut world = Self {
            seed,
            base: Instant::now(),
            at: 0,
            due: BinaryHeap::new(),
            serial: 0,
            bucket: Bucket::default(),
            has_quorum: true,
            lost: None,
            weirs: Vec::new(),
            stopped_at: Vec::new(),
            servers: BTreeMap::new(),
            direct: Direct::default(),
            sums: VecDeque::new(),
            loss,
            late,
            quotas: VecDeque::new(),
            is_healed: false,
            is_other_bucket: false,
            has_takeovers: false,
            has_eavesdropper: false,
            has_many_accounts: false,
            rng,
        };
        world.direct.come = world.rng.bool();
        world.later(0, Event::Direct);
        let many = world.rng.usize(2..=6);
        for number in 0..many {
            world.begins(&format!("weir-{number}"), quota);
        }
        world
    }

    pub(super) fn begins(&mut self, id: &str, quota: u32) {
        let number = self.weirs.len();
        self.weirs.push(Weir::new(id, self.at, quota, self.base, &mut self.rng));
        self.stopped_at.push(0);
        self.in_force(quota);
        self.starts(number);
    }

    pub(super) fn starts(&mut self, number: usize) {
        self.later(0, Event::Look(number));
        self.later(0, Event::Clients(number));
        self.within(0..SECOND, Event::Reads(number, self.base, None));
        self.within(0..SECOND, Event::Beats(number));
        for (place, revision, value) in self.bucket.all() {
            self.within(0..50 * MS, Event::Watched(number, place, revision, value));
        }
    }

    pub(super) fn in_force(&mut self, quota: u32) {
        self.quotas.push_back((self.at, quota));
        self.weirs.iter_mut().for_each(|weir| weir.highest_since = weir.highest_since.max(quota));
    }

    pub(super) fn later(&mut self, after: Time, event: Event) {
        self.serial += 1;
        self.due.push(Reverse(Due(self.at + after, self.serial, event)));
    }

    pub(super) fn within(&mut self, range: impl RangeBounds<Time>, event: Event) {
        let after = self.rng.u64(range);
        self.later(after, event);
    }

    /// How long something is on its way; `None`: it is lost.
    pub(super) fn way(&mut self) -> Option<Time> {
        if !self.is_healed && self.rng.f64() < self.loss {
            return None;
        }
        let is_late = !self.is_healed && self.rng.f64() < self.late;
        Some(if is_late { self.rng.u64(0..6 * SECOND) } else { self.rng.u64(MS / 5..30 * MS) })
    }

    pub(super) fn until(&mut self, end: Time, mut is_done: impl FnMut(&Self) -> bool) -> bool {
        while let Some(Reverse(Due(at, ..))) = self.due.peek()
            && *at <= end
        {
            let Some(Reverse(Due(at, _, event))) = self.due.pop() else { break };
            self.at = at;
            self.happens(event);
            if is_done(self) {
                return true;
            }
        }
        self.at = end;
        false
    }

    pub(super) fn happens(&mut self, event: Event) {
        if let Some(weir) = event.process() {
            if !self.weirs[weir].is_alive {
                return;
            }
            if self.weirs[weir].is_stopped() {
                return self.weirs[weir].backlog.push(event);
            }
        }
        match event {
            Event::Look(weir) => self.look(weir),
            Event::Clients(weir) => self.clients(weir),
            Event::Dial(weir, id) => {
                let Some(connection) = self.weirs[weir].connections.get_mut(&id) else { return };
                connection.stage = Stage::Dialled(self.at);
                let after = self.quick_or(60 * MS);
                self.later(after, Event::Check(weir, id));
            }
            Event::Check(weir, id) => {
                let highest_quota = self.highest_quota();
                let one = &mut self.weirs[weir];
                let now = one.now(self.at);
                let (goes_on, is_by_floors) = (one.allowance.may_go_on(now), one.standing.is_by_floors(now));
                let Some(connection) = one.connections.get_mut(&id) else { return };
                let is_lowered = highest_quota < one.highest_since;
                connection.is_excepted = is_by_floors && (one.was_cut || is_lowered || !one.ledger.goes_by_leases());
                if goes_on {
                    self.within(..MS, Event::Send(weir, id));
                } else {
                    one.connections.remove(&id);
                }
            }
            Event::Send(weir, id) => {
                let Some(connection) = self.weirs[weir].connections.get(&id) else { return };
                let Stage::Dialled(accepted) = connection.stage else { return };
                // The server's timer began with its own accept, which was before the weir knew of the connection.
                let is_slow = self.rng.u32(..8) == 0 && !self.is_healed;
                let latest = if is_slow { AUTH_TIMEOUT } else { 500 * MS };
                self.within(MS / 5..latest, Event::Arrives(weir, id, accepted));
            }
            Event::Arrives(weir, id, accepted) => self.arrives(weir, id, accepted),
            Event::Opened(weir, id) => {
                if let Some(connection) = self.weirs[weir].connections.get_mut(&id) {
                    connection.place.opened();
                    connection.stage = Stage::Open;
                }
            }
            Event::Answered(weir, serial, answer) => {
                let one = &mut self.weirs[weir];
                one.ledger.answered(one.now(self.at), serial, &answer);
                self.look_soon(weir);
            }
            Event::Watched(weir, place, revision, value) => {
                let one = &mut self.weirs[weir];
                one.ledger.seen(one.now(self.at), &place, revision, value.as_deref());
                self.look_soon(weir);
            }
            Event::Requested(weir, operation) => self.requested(weir, &operation),
            Event::Reads(weir, began, counts) => self.reads(weir, began, counts),
            Event::Read(weir, began, connections, before) => {
                let one = &mut self.weirs[weir];
                one.ledger.counted(one.now(self.at), key(), began, connections);
                self.has_read(weir, began, connections, before);
            }
            Event::IsPast(weir, began, many, untold) => {
                let one = &mut self.weirs[weir];
                one.ledger.beyond_live_within(one.now(self.at), key(), many, began, untold);
            }
            Event::Reopens(weir) => self.reopens(weir),
            Event::Beats(weir) => self.beats(weir),
            Event::Hears(weir, of, sent, told) => self.hears(weir, of, sent, told),
            Event::Direct => self.direct_clients(),
            Event::Gone(weir) => self.servers.retain(|(of, _), _| *of != weir),
            Event::Wakes(weir) => self.wakes(weir),
            Event::Wrong => self.wrong(),
            Event::TakesOver => self.someone_takes_over(),
            Event::BreaksOff(old, new) => self.breaks_off(old, new),
            Event::Stops(old, new) => self.stops(old, new),
            Event::Gives(old, new, until) => self.gives(old, new, until),
            Event::IsAloneAgain(old, new) => self.is_alone_again(old, new),
            Event::Adopts(new, old, then, state) => self.adopts(new, old, then, &state),
            Event::Ends(before, id, member) => self.ends(before, id, member),
            Event::IsTold(member, id) => self.is_told(member, id),
            Event::IsGone(member, before) => self.is_gone(member, before),
            Event::TakesBack(before, member) => self.takes_back(before, member),
        }
        for weir in 0..self.weirs.len() {
            if !self.weirs[weir].is_stopped() && self.weirs[weir].needs_look.swap(false, SeqCst) {
                self.look_soon(weir);
            }
        }
    }

    /// How long something takes: next to nothing, or so long at most.
    fn quick_or(&mut self, most: Time) -> Time {
        let quick = self.rng.u32(..4) == 0;
        self.rng.u64(..if quick { MS / 10 } else { most })
    }

    fn look_soon(&mut self, weir: usize) {
        let after = self.rng.u64(MS / 10..2 * MS);
        self.later(after, Event::Clients(weir));
    }

    fn look(&mut self, weir: usize) {
        self.within(LOOK_EVERY.as_micros() as u64 / 2..LOOK_EVERY.as_micros() as u64, Event::Look(weir));
        self.step(weir);
        self.clients_step(weir);
    }

    fn clients(&mut self, weir: usize) {
        self.clients_step(weir);
        self.step(weir);
        self.clients_step(weir);
        self.weirs[weir].needs_look.store(false, SeqCst);
    }

    /// The ledger's turn.
    fn step(&mut self, weir: usize) {
        if self.weirs[weir].role == Role::Prepares {
            return;
        }
        if !self.weirs[weir].has_given {
            self.forget_silent(weir);
        }
        let is_live = |other: &usize| {
            let one = &self.weirs[*other];
            one.role == Role::Member && one.is_interested(self.at, self.stopped_at[*other])
        };
        let live: Vec<usize> = (0..self.weirs.len()).filter(|other| *other == weir || is_live(other)).collect();
        let has_leases = |other: &Weir| other.standing.is_valid(other.now(self.at));
        let others_have_leases = live.iter().any(|other| *other != weir && has_leases(&self.weirs[*other]));
        let is_connected = self.weirs[weir].network != Network::Nothing;
        let live = if is_connected { live } else { vec![weir] };
        let position = live.iter().position(|other| *other == weir).unwrap_or(0) as u32;
        let live = live.len() as u32;
        let highest_quota = self.highest_quota();
        let one = &mut self.weirs[weir];
        let now = one.now(self.at);
        if one.network != Network::Nothing && one.standing.is_valid(now) {
            one.was_cut = false;
        }
        if one.network == Network::All && self.has_quorum && one.watches && one.standing.is_valid(now) {
            one.highest_since = highest_quota;
        }
        one.ledger.surroundings(Surroundings { live, position, others_have_leases, is_connected, is_early: false });
        if one.ledger.has_gone_back() {
            one.ledger.forget_bucket(now);
            self.watches_anew(weir);
        }
        let one = &mut self.weirs[weir];
        for operation in one.ledger.next(now) {
            if let Some(after) = self.way() {
                self.later(after, Event::Requested(weir, operation.clone()));
                if !self.is_healed && self.rng.f64() < self.late / 3.0 {
                    self.within(after..after + 3 * SECOND, Event::Requested(weir, operation));
                }
            }
        }
    }

    fn requested(&mut self, weir: usize, operation: &Operation) {
        let is_ask = operation.what == What::Ask;
        let network = self.weirs[weir].network;
        let has_bucket = network == Network::All && self.has_quorum && self.weirs[weir].watches;
        if network == Network::Nothing || !is_ask && !has_bucket {
            return;
        }
        let answer = match (&operation.place, is_ask) {
            (Place::Member(holder), true) => {
                let mut of = (0..self.weirs.len()).filter(|of| self.weirs[*of].holder == *holder);
                let is_there = of.any(|of| self.weirs[of].is_interested(self.at, self.stopped_at[of]));
                let stands_still = || self.weirs.iter().any(|of| of.holder == *holder && of.is_stopped());
                match (is_there, self.has_eavesdropper) {
                    (true, _) if stands_still() => Answer::Silent,
                    (true, _) => Answer::Responds,
                    (false, true) => Answer::Silent,
                    (false, false) => Answer::NoResponders,
                }
            }
            (place, _) => {
                let before = self.bucket.get(place).map(<[u8]>::to_vec);
                let (answer, stored) = self.bucket.apply(place, &operation.what);
                if let Some((revision, value)) = stored {
                    if matches!(place, Place::Leases(_)) {
                        self.check_write(before.as_deref(), value.as_deref());
                    }
                    if matches!(place, Place::Leases(_)) || value.is_none() {
                        let value = value.as_deref().map(String::from_utf8_lossy);
                        self.tells(&format!("{weir} stores {place} {revision}: {value:?}"));
                    }
                    for watcher in 0..self.weirs.len() {
                        if self.weirs[watcher].network == Network::All
                            && self.weirs[watcher].is_alive
                            && self.weirs[watcher].watches
                            && let Some(after) = self.way()
                        {
                            self.later(after, Event::Watched(watcher, place.clone(), revision, value.clone()));
                        }
                    }
                }
                answer
            }
        };
        if let Some(after) = self.way() {
            self.later(after, Event::Answered(weir, operation.serial, answer));
        }
    }

    /// The bucket is deleted, and there is another one: nothing of the one before arrives any more, and each weir opens
    /// this one soon. Until then its requests get no answer: one that came to the new bucket, with a revision of the
    /// one before that the new one happens to have too, would write what held there.
    pub(super) fn other_bucket(&mut self) {
        self.lost = Some((self.at, self.record()));
        self.bucket = Bucket::default();
        self.sums.clear();
        self.due.retain(|Reverse(Due(.., event))| match event {
            Event::Watched(..) => false,
            Event::Requested(_, operation) => operation.what == What::Ask,
            _ => true,
        });
        for weir in 0..self.weirs.len() {
            self.weirs[weir].watches = false;
            self.weirs[weir].backlog.retain(|event| !matches!(event, Event::Watched(..)));
            self.within(0..3 * SECOND, Event::Reopens(weir));
        }
    }

    /// The server that keeps the bucket comes back with what it had a while before. The weirs find out.
    pub(super) fn goes_back_to(&mut self, bucket: Bucket) {
        self.has_quorum = false;
        let long = self.rng.u64(3 * SECOND..10 * SECOND);
        self.until(self.at + long, |_| false);
        self.lost = Some((self.at, self.record()));
        (self.bucket, self.has_quorum) = (bucket, true);
        self.sums.clear();
    }

    fn reopens(&mut self, weir: usize) {
        let one = &mut self.weirs[weir];
        one.ledger.forget_bucket(one.now(self.at));
        self.watches_anew(weir);
    }

    fn watches_anew(&mut self, weir: usize) {
        self.weirs[weir].watches = true;
        for (place, revision, value) in self.bucket.all() {
            self.within(0..50 * MS, Event::Watched(weir, place, revision, value));
        }
    }

    /// Clients come until there are as many as want to, and go when there are more.
    fn clients_step(&mut self, weir: usize) {
        let quota = self.highest_quota();
        let one = &mut self.weirs[weir];
        if one.role != Role::Member {
            return;
        }
        let now = one.now(self.at);
        while (one.connections.len() + one.waiting.len()) as u32 > one.wants {
            if one.waiting.pop().is_some() {
                continue;
            }
            let open: Vec<u64> =
                one.connections.iter().filter(|(_, one)| one.stage == Stage::Open).map(|(id, _)| *id).collect();
            let Some(id) = (!open.is_empty()).then(|| open[self.rng.usize(..open.len())]) else { break };
            // First it is closed towards the server.
            self.servers.remove(&(weir, id));
            one.connections.remove(&id);
        }
        if one.is_paused {
            return;
        }
        while one.connections.len() as u32 + (one.waiting.len() as u32) < one.wants {
            let Some(wait) = one.allowance.wait(now) else { break };
            one.waiting.push(wait);
        }
        while !one.waiting.is_empty()
            && let Some(place) = one.allowance.take(now)
        {
            one.waiting.pop();
            self.serial += 1;
            one.connections
                .insert(self.serial, Connection { place, stage: Stage::Admitted, is_excepted: false, quota });
            let quick = self.rng.u32(..4) == 0;
            let after = self.rng.u64(..if quick { MS / 10 } else { 20 * MS });
            let dial = Due(self.at + after, self.serial, Event::Dial(weir, self.serial));
            self.due.push(Reverse(dial));
        }
    }

    /// A client of any weir leaves, and another one comes there.
    pub(super) fn one_leaves(&mut self) {
        let open: Vec<(usize, u64)> = self.servers.keys().copied().collect();
        if open.is_empty() {
            return;
        }
        let (weir, id) = open[self.rng.usize(..open.len())];
        self.servers.remove(&(weir, id));
        self.weirs[weir].connections.remove(&id);
        self.look_soon(weir);
    }

    fn arrives(&mut self, weir: usize, id: u64, accepted: Time) {
        let one = &self.weirs[weir];
        if !one.is_alive || !one.connections.contains_key(&id) {
            return;
        }
        if self.at > accepted + AUTH_TIMEOUT {
            // The weir sees the end of the connection when it runs again.
            self.weirs[weir].connections.remove(&id);
            return;
        }
        let is_excepted = one.connections[&id].is_excepted;
        self.tells(&format!("{weir} has one more{}", if is_excepted { ", excepted" } else { "" }));
        self.servers.insert((weir, id), is_excepted);
        self.within(MS / 5..30 * MS, Event::Opened(weir, id));
        if is_excepted {
            return;
        }
        // Where the quota was lowered nobody gets a larger lease before the leases are within it again, but each may
        // use the one that it has until it knows: one that has just come back to the bucket, for example.
        // Beside that there is what others had while they were cut off, when their leases were taken back.
        let record = self.record();
        let leased = record.l.values().map(|entry| entry.n).sum();
        let by_leases = if leased > record.q { leased + self.uncovered(&record) } else { leased };
        let quota = self.weirs[weir].connections[&id].quota.max(self.highest_quota()).max(by_leases);
        let many = self.servers.values().filter(|is_excepted| !**is_excepted).count() as u32;
        if many > quota {
            self.fails(&format!("{many} connections of a quota of {quota}, the last one through {weir}"));
        }
        self.check_sum(quota, many);
    }

    /// The highest quota in force at any weir, now or in the last seconds.
    pub(super) fn highest_quota(&mut self) -> u32 {
        let alive = self.alive().map(|weir| weir.quota).max().unwrap_or(0);
        while self.quotas.len() > 1 && self.quotas[0].0 + 3 * SECOND < self.at {
            self.quotas.pop_front();
        }
        self.quotas.iter().map(|(_, quota)| *quota).max().unwrap_or(0).max(alive)
    }

    fn reads(&mut self, weir: usize, began: Instant, first: Option<(u32, Vec<Counts>)>) {
        if !self.weirs[weir].is_alive {
            return;
        }
        let count = |world: &Self, server: usize| {
            let through_weirs = world.servers.keys().filter(|(_, id)| id % 2 == server as u64).count() as u32;
            through_weirs + world.direct.now[server]
        };
        let step = self.rng.u64(..100 * MS);
        match first {
            None => {
                if !self.weirs[weir].is_stopped() {
                    let began = self.weirs[weir].now(self.at);
                    let first = (count(self, 0), self.counts());
                    self.later(step, Event::Reads(weir, began, Some(first)));
                }
                let next = self.rng.u64(300 * MS..1500 * MS);
                self.later(next, Event::Reads(weir, began, None));
            }
            Some((first, before)) => {
                let all = first + count(self, 1);
                self.later(step, Event::Read(weir, began, all, before));
            }
        }
    }

    fn wakes(&mut self, weir: usize) {
        if self.weirs[weir].stopped_until.take_if(|until| *until <= self.at).is_none() {
            return;
        }
        let mut backlog = std::mem::take(&mut self.weirs[weir].backlog);
        self.rng.shuffle(&mut backlog);
        for event in backlog {
            self.within(..MS, event);
        }
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &Weir> {
        self.weirs.iter().filter(|weir| weir.is_alive && weir.role == Role::Member)
    }

    pub(super) fn open(&self) -> u32 {
        self.servers.len() as u32
    }

    /// With `WEIR_TRACE` set it tells what happens.
    pub(super) fn tells(&self, what: &str) {
        if std::env::var_os("WEIR_TRACE").is_some() {
            println!("{:9.4} {what}", self.at as f64 / 1e6);
        }
    }

    pub(super) fn fails(&self, why: &str) -> ! {
        let weirs = self.weirs.iter().map(|weir| {
            let now = weir.now(self.at);
            let (most, used) = (weir.allowance.most(now), weir.allowance.usage());
            let is_valid = weir.standing.is_valid(now);
            format!(
                "{} alive {} stopped {} {:?} quota {} wants {} most {most:?} valid {is_valid} {used:?}",
                weir.holder,
                weir.is_alive,
                weir.is_stopped(),
                weir.network,
                weir.quota,
                weir.wants
            )
        });
        let record = self.bucket.get(&Place::Leases(key())).map(|value| String::from_utf8_lossy(value).into_owned());
        panic!(
            "seed {}, at {} s: {why}\n{}\n{record:?}",
            self.seed,
            self.at as f64 / 1e6,
            weirs.collect::<Vec<_>>().join("\n")
        );
    }
}
