//! weir in virtual time. The checks, the queue, the placement and the state machine of a waiting client are those that
//! sessions use. What is played here is the time that passes, and what the servers answer.

#[cfg(test)]
mod takeover;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::{
        AcceptPermit, AccountSlot, Admission, Client, Failover, Limit, Params, Pass, Proof, Source, Step, Wait, Waiter,
    },
    client_library::{behaviour::Ending, library::Library},
    fleet::{
        beat::{Beat, ServerBeat},
        key::{Key, Keys},
        peers::{Peers, Vouch},
    },
    identity::ClientKey,
    outcome::Refusal,
    storm::plan::{
        Plan,
        calendar::Nanos,
        server::Job,
        world::{ClientState, Ingress, World, kind},
    },
    upstream::{
        self, Reading, ServerParams, Servers,
        concurrency::{baseline::MeasuredFrom, login_speed::ComparedLogin},
        reconciled_count::ReadingEpoch,
    },
};

/// The moment has come that a waiting client's step named.
const MOMENT: u32 = kind::OWN;
/// An admitted client must have its answer by now.
const ANSWER_BY: u32 = kind::OWN + 1;
/// The task that hands out turns wakes.
const DISPATCH: u32 = kind::OWN + 2;
/// The work of once a second.
const SECOND: u32 = kind::OWN + 3;
/// All servers were busy: place again.
const PLACE_AGAIN: u32 = kind::OWN + 4;
/// A client that gave up before it was admitted closes its socket.
const ABANDONED_END: u32 = kind::OWN + 5;

/// The far end of a client in the queue: the index of its session.
struct SessionIndex(u32);

impl Waiter for SessionIndex {
    /// A session that ends leaves the queue at once.
    fn has_left(&self) -> bool {
        false
    }
}

enum SessionState {
    /// The place in the list is free.
    Free,
    /// Waits for its turn, or for the moment of its refusal.
    Waits(Wait<SessionIndex>),
    /// The server of the pass works on the handshake.
    Dialling(Pass),
    /// All servers were busy when another was looked for.
    Busy(AccountSlot),
    In {
        _pass: Pass,
    },
}

/// A downstream connection.
struct Session {
    client: u32,
    /// Whether its client has given up and left the socket open, which weir cannot see.
    is_abandoned: bool,
    /// How often this place in the list was used before; events of earlier sessions are stale.
    generation: u32,
    answer_by: Nanos,
    /// When its handshake began.
    dialled: Nanos,
    state: SessionState,
    entry: Option<AcceptPermit>,
}

/// weir.
pub(super) struct Weir {
    began: Instant,
    rng: fastrand::Rng,
    servers: Arc<Servers>,
    admission: Admission<SessionIndex>,
    limit: Arc<Limit>,
    /// By position in the plan.
    accounts: Vec<Arc<str>>,
    sessions: Vec<Session>,
    free: Vec<u32>,
    /// The session of each client; [`NONE`] where it has none.
    of: Vec<u32>,
    turns: Vec<(SessionIndex, Pass)>,
    /// Whether the task that hands out turns has a moment at which it wakes by itself.
    dispatch_is_due: bool,
    is_running: bool,
    capacity: u32,
    /// Which weir of the plan it is, and how many there are.
    number: u32,
    weirs: u32,
}

/// The bits of an event's `who` that say which session it is of; the others say which weir.
const SESSION_BITS: u32 = 25;

const NONE: u32 = u32::MAX;

/// The reading of a server that has been running for a day and tells nothing of its CPU.
pub(crate) fn reading(connections: u32, max_connections: u32) -> Reading {
    Reading {
        server_name: String::new(),
        version: "2.12.0".into(),
        connections,
        max_connections: Some(max_connections),
        max_control_line: None,
        auth_timeout: None,
        websocket_auth_timeout: None,
        leafnodes: 0,
        leafnode_port: None,
        leafnode_auth_timeout: None,
        server_id: String::new(),
        uptime: Duration::from_secs(24 * 3600),
        system_account: None,
        requires_tls: false,
        trusts_operator: false,
        config: String::new(),
        cpu: 0.0,
        cores: 0,
    }
}

/// The key by which admission knows a client.
fn key(client: u32) -> ClientKey {
    ClientKey::from_raw(u64::from(client))
}

impl Weir {
    /// The weir with this `number` of those of the plan.
    pub(super) fn new(plan: &Plan, params: &Params, number: u32) -> Self {
        let server = |n: u16| ServerParams {
            name: Some(format!("n{}", n + 1)),
            address: format!("n{}:4222", n + 1),
            websocket: None,
            leafnode: None,
            monitor: Some(format!("http://n{}:8222", n + 1)),
            max_connections: None,
        };
        let cluster = upstream::Params {
            system: false,
            poll_interval: Duration::from_secs(1),
            reserve: plan.reserve,
            warn_at: 0.8,
            slow_start: Duration::ZERO,
            close_spread: plan.close_spread,
            compatibility: upstream::Compatibility::default(),
            source_addresses: Vec::new(),
            cluster_names: Vec::new(),
            only_websocket: false,
            servers: (0..plan.servers).map(server).collect(),
        };
        let servers = Arc::new(Servers::new(&cluster));
        if plan.servers_died {
            // The clients were in: what a login takes is known.
            let (now, took) = (Instant::now(), plan.handshake_time());
            servers.iter().for_each(|server| server.handshake_finished(now, ComparedLogin::uncompared(took), took));
        }
        let most = params.max_clients.max(plan.clients.saturating_mul(2));
        let weirs = u32::from(plan.weirs.max(1));
        let accounts = match &plan.accounts[..] {
            [] => vec!["plan".into()],
            several => several.iter().map(|account| Arc::clone(&account.name)).collect(),
        };
        Self {
            admission: Admission::new(params, Arc::clone(&servers)),
            began: Instant::now(),
            rng: fastrand::Rng::with_seed(plan.seed.wrapping_add(u64::from(number))),
            servers,
            limit: Limit::new(most),
            accounts,
            sessions: Vec::new(),
            free: Vec::new(),
            of: vec![NONE; plan.clients.div_ceil(weirs) as usize],
            turns: Vec::new(),
            dispatch_is_due: false,
            is_running: false,
            capacity: plan.max_connections(),
            number,
            weirs,
        }
    }

    /// What the world knows one of its sessions by.
    fn tag(&self, index: u32) -> u32 {
        self.number << SESSION_BITS | index
    }

    /// Which weir's session the world knows by this.
    pub(super) fn of_tag(tag: u32) -> usize {
        (tag >> SESSION_BITS) as usize
    }

    /// The session that the world knows by this.
    fn session_of(tag: u32) -> u32 {
        tag & ((1 << SESSION_BITS) - 1)
    }

    /// The position of a client among those of this weir: every so many of all come here.
    fn position(&self, client: u32) -> usize {
        (client / self.weirs) as usize
    }

    /// What it tells its peers.
    pub(super) fn told(&self, now: Nanos, keys: &Keys) -> BTreeMap<Key, ServerBeat> {
        let now = self.at(now);
        self.servers.iter().map(|server| (server.fleet_key(keys), server.beat(now, 0))).collect()
    }

    /// A peer's beat has come.
    pub(super) fn hears(&self, now: Nanos, keys: &Keys, peers: &mut Peers, beat: Beat) {
        let now = self.at(now);
        if let Ok(heard) = peers.heard(now, beat, Vouch::Unknown) {
            self.servers.hear(keys, &heard, now);
        }
    }

    fn at(&self, time: Nanos) -> Instant {
        self.began + Duration::from_nanos(time)
    }

    fn nanos(&self, at: Instant) -> Nanos {
        at.saturating_duration_since(self.began).as_nanos() as Nanos
    }

    fn now(&self, world: &World) -> Instant {
        self.at(world.now)
    }

    fn open(&mut self, client: u32, entry: Option<AcceptPermit>, answer_by: Nanos) -> u32 {
        let session = |generation| Session {
            client,
            is_abandoned: false,
            generation,
            answer_by,
            dialled: 0,
            state: SessionState::Free,
            entry,
        };
        let index = match self.free.pop() {
            Some(index) => {
                let one = &mut self.sessions[index as usize];
                *one = session(one.generation);
                index
            }
            None => {
                self.sessions.push(session(0));
                self.sessions.len() as u32 - 1
            }
        };
        let position = self.position(client);
        self.of[position] = index;
        index
    }

    /// Ends a session and gives back all that it holds.
    fn close(&mut self, index: u32) {
        let position = self.position(self.sessions[index as usize].client);
        let one = &mut self.sessions[index as usize];
        one.state = SessionState::Free;
        one.entry = None;
        one.generation += 1;
        if !one.is_abandoned {
            self.of[position] = NONE;
        }
        self.free.push(index);
    }

    fn later(&self, world: &mut World, at: Nanos, kind: u32, index: u32) {
        world.schedule(at, kind, self.tag(index), self.sessions[index as usize].generation);
    }

    /// Tells a client that it is refused.
    fn refuse(&mut self, world: &mut World, index: u32) {
        let Session { client, is_abandoned, .. } = self.sessions[index as usize];
        self.close(index);
        if !is_abandoned {
            world.failed(client, Ending::Refused);
        }
    }

    fn dial(&mut self, world: &mut World, index: u32, mut pass: Pass) {
        let server = pass.server.server().id().number();
        if world.servers[server].is_full() {
            // Weirs are alone with the servers: they still hold connections of abandoned sockets, or another weir has
            // taken what looked free.
            let Pass { server, account } = pass;
            server.server().said_full(self.at(world.now));
            world.outcome.over_limit += 1;
            drop(server);
            return self.place_again(world, index, account);
        }
        pass.server.opened();
        pass.server.server().dial_answered();
        world.begin_handshake(server, self.tag(index), self.sessions[index as usize].generation);
        self.sessions[index as usize].state = SessionState::Dialling(pass);
    }

    fn place_again(&mut self, world: &mut World, index: u32, account: AccountSlot) {
        let now = self.now(world);
        let answer_by = self.at(self.sessions[index as usize].answer_by);
        // The server that failed need not be passed over: it has said itself that it has no room.
        match self.admission.place_again(Some(account.login()), &[], answer_by, now, &mut self.rng) {
            Failover::Placed(server) => self.dial(world, index, Pass::new(server, account)),
            Failover::Busy(until) => {
                self.sessions[index as usize].state = SessionState::Busy(account);
                self.later(world, self.nanos(until), PLACE_AGAIN, index);
            }
            Failover::Refuse(_) => self.refuse(world, index),
        }
    }

    fn admit(&mut self, world: &mut World, index: u32, pass: Pass) {
        self.sessions[index as usize].dialled = world.now;
        self.later(world, self.sessions[index as usize].answer_by, ANSWER_BY, index);
        self.dial(world, index, pass);
    }

    /// Takes the next step of a waiting client.
    fn step(&mut self, world: &mut World, index: u32, mut wait: Wait<SessionIndex>, step: Step) {
        match step {
            Step::Dial(pass) => self.admit(world, index, pass),
            Step::Refuse(_) => self.refuse(world, index),
            // A turn ends the wait at once; so the queue has dropped the client.
            Step::Gone => {
                let now = self.now(world);
                let step = wait.dropped(&self.admission, now, &mut self.rng);
                self.step(world, index, wait, step);
            }
            Step::Wait(until) => {
                if wait.is_queued() && !self.dispatch_is_due {
                    self.dispatch_at(world, world.now);
                }
                self.sessions[index as usize].state = SessionState::Waits(wait);
                self.later(world, self.nanos(until), MOMENT, index);
            }
        }
    }

    /// Hands out the turns that there are now; returns when to call again.
    fn dispatch_now(&mut self, world: &mut World) -> Option<Instant> {
        let now = self.now(world);
        let mut turns = std::mem::take(&mut self.turns);
        let again = self.admission.next_turns(now, &mut self.rng, &mut turns);
        for (SessionIndex(index), pass) in turns.drain(..) {
            self.admit(world, index, pass);
        }
        self.turns = turns;
        again
    }

    /// The task that hands out turns wakes.
    fn dispatch(&mut self, world: &mut World) {
        self.dispatch_is_due = false;
        if let Some(at) = self.dispatch_now(world) {
            self.dispatch_at(world, self.nanos(at));
        }
    }

    fn dispatch_at(&mut self, world: &mut World, at: Nanos) {
        self.dispatch_is_due = true;
        world.schedule(at, DISPATCH, self.tag(0), 0);
    }

    /// Sweeps, and takes a reading from each server.
    fn every_second(&mut self, world: &mut World) {
        let now = self.now(world);
        self.admission.sweep(now);
        for (server, real) in self.servers.iter().zip(&world.servers) {
            let mark: ReadingEpoch = server.load().begin_reading(now);
            server.read(now, mark, reading(real.connections, self.capacity));
        }
        world.schedule(world.now + Duration::from_secs(1).as_nanos() as Nanos, SECOND, self.tag(0), 0);
    }

    fn live(&self, index: u32, generation: u32) -> bool {
        self.sessions[index as usize].generation == generation
    }

    /// The connect check.
    fn ask(&mut self, world: &mut World, client: u32, entry: AcceptPermit, library: &Library) {
        let now = self.now(world);
        let accepted = self.at(world.accepted(client));
        let deadlines = self.admission.deadline_policy().deadlines(Some(library.lang), accepted, now);
        let index = self.open(client, Some(entry), self.nanos(deadlines.answer_by));
        if self.nanos(deadlines.answer_by) >= world.deadline(client) {
            world.schedule_deadline(client);
        }
        let client = Client {
            names_its_account: false,
            is_leafnode: false,
            source: Source::NOWHERE,
            proof: Proof::Known,
            may_use_reserve: false,
            would_refuse: None,
            quota_identity: Default::default(),
            account: Arc::clone(&self.accounts[world.account(client)]),
            key: key(client),
            hold_until: deadlines.hold_until,
            answer_by: deadlines.answer_by,
            returns: deadlines.returns,
        };
        let (wait, step) = Wait::at_connect(&self.admission, client, now, &mut self.rng, || SessionIndex(index));
        self.step(world, index, wait, step);
    }

    /// Refuses a client of the accept check, after CONNECT and at a random moment as well.
    fn refuse_at_accept(&mut self, world: &mut World, client: u32, reason: Refusal, library: &Library) {
        let (now, accepted) = (self.at(world.now), self.at(world.accepted(client)));
        let hold_until = self.admission.deadline_policy().deadlines(Some(library.lang), accepted, now).hold_until;
        let (wait, step) = Wait::refused_at_accept(&self.admission, reason, hold_until, now, &mut self.rng);
        let index = self.open(client, None, 0);
        self.step(world, index, wait, step);
    }
}

impl Ingress for Weir {
    fn addresses(&self) -> u16 {
        1
    }

    fn close_delay(&mut self, _client: u32) -> Duration {
        self.admission.session_lost(self.began, &mut self.rng)
    }

    fn arrive(&mut self, world: &mut World, client: u32) {
        if !self.is_running {
            self.is_running = true;
            self.every_second(world);
        }
        let now = self.now(world);
        let library = world.library(client);
        // An address for each: 10.0.0.0/8 has enough.
        let source = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + client));
        match self.admission.at_accept(None, &self.limit, (source, false), now) {
            Ok(entry) => self.ask(world, client, entry, library),
            Err(reason) => self.refuse_at_accept(world, client, reason, library),
        }
    }

    fn finished(&mut self, world: &mut World, server: usize, job: Job) {
        let index = Self::session_of(job.who);
        let stale = !self.live(index, job.generation);
        let one = &mut self.sessions[index as usize];
        match std::mem::replace(&mut one.state, SessionState::Free) {
            SessionState::Dialling(mut pass) if !stale => {
                let took = Duration::from_nanos(world.now - one.dialled);
                self.admission.handshake_finished(
                    &mut pass,
                    took,
                    (MeasuredFrom::Dial, Duration::ZERO),
                    None,
                    self.began + Duration::from_nanos(world.now),
                );
                pass.account.session_began();
                one.state = SessionState::In { _pass: pass };
                match one.is_abandoned {
                    // It relays for no client, until the socket is closed.
                    true => {
                        world.outcome.wasted += 1;
                        let open_for = world.library(one.client).keeps_abandoned_socket.as_nanos() as Nanos;
                        self.later(world, world.now + open_for, ABANDONED_END, index);
                    }
                    false if world.clients[one.client as usize].state == ClientState::Connecting => {
                        world.connected(one.client)
                    }
                    false => {}
                }
            }
            state => {
                // weir has closed this connection; the server notices now.
                one.state = state;
                world.servers[server].connections -= 1;
                world.outcome.wasted += 1;
            }
        }
        self.dispatch_now(world);
    }

    fn abandoned(&mut self, world: &mut World, client: u32) {
        let position = self.position(client);
        let index = self.of[position];
        if index == NONE {
            return;
        }
        if world.library(client).keeps_abandoned_socket > Duration::ZERO {
            self.sessions[index as usize].is_abandoned = true;
            self.of[position] = NONE;
            return;
        }
        if let SessionState::Waits(mut wait) =
            std::mem::replace(&mut self.sessions[index as usize].state, SessionState::Free)
        {
            let now = self.now(world);
            wait.leave(&self.admission, now);
        }
        self.close(index);
    }

    fn on_event(&mut self, world: &mut World, kind: u32, who: u32, generation: u32) {
        match kind {
            DISPATCH => return self.dispatch(world),
            SECOND => return self.every_second(world),
            _ => {}
        }
        let who = Self::session_of(who);
        if !self.live(who, generation) {
            return;
        }
        match (kind, std::mem::replace(&mut self.sessions[who as usize].state, SessionState::Free)) {
            (MOMENT, SessionState::Waits(mut wait)) => {
                let now = self.now(world);
                let step = wait.go_on(&self.admission, now, &mut self.rng);
                self.step(world, who, wait, step);
            }
            (ANSWER_BY, SessionState::Busy(_)) => self.refuse(world, who),
            (PLACE_AGAIN, SessionState::Busy(account)) => self.place_again(world, who, account),
            (ANSWER_BY, SessionState::Dialling(pass)) => {
                let began = self.at(self.sessions[who as usize].dialled);
                let (account, server) = (pass.account.account(), pass.server.server());
                self.admission.login_unanswered(account, server, (began, false), None, self.now(world));
                drop(pass);
                self.refuse(world, who);
                self.dispatch_now(world);
            }
            (ABANDONED_END, SessionState::In { _pass: pass }) => {
                world.servers[pass.server.server().id().number()].connections -= 1;
                let (client, now) = (self.sessions[who as usize].client, self.now(world));
                self.admission.session_ended(key(client), world.library(client).keeps_abandoned_socket, now);
                self.close(who);
            }
            (_, state) => self.sessions[who as usize].state = state,
        }
    }
}
