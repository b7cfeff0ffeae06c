//! The clients and servers of a plan in virtual time. What stands between them is an [`Ingress`].

use std::time::Duration;

use crate::{
    client_library::{
        behaviour::{Ending, Memory, Next},
        library::{Deadline, Library},
    },
    storm::plan::{
        Plan, accounts,
        calendar::{Calendar, Event, Nanos},
        outcome::{Outcome, OutcomeBuilder},
        server::{Job, SimulatedServer},
    },
};

/// The kinds of events. Those of the ingress come after these.
pub(super) mod kind {
    /// A client's CONNECT arrives.
    pub(in crate::storm::plan) const ARRIVE: u32 = 0;
    /// A client's own deadline for its attempt has passed.
    pub(in crate::storm::plan) const DEADLINE: u32 = 1;
    /// A server may have finished a handshake.
    pub(in crate::storm::plan) const FINISH: u32 = 2;
    /// A client closes the socket of an attempt that it had given up.
    pub(in crate::storm::plan) const ABANDONED_CLOSED: u32 = 3;
    /// The first kind of the ingress.
    pub(in crate::storm::plan) const OWN: u32 = 4;
    /// The number of bits of a kind.
    pub(super) const BITS: u32 = 4;
}

/// The way into the cluster: what stands between the clients and the servers.
pub(super) trait Ingress {
    /// How many addresses are in the clients' lists.
    fn addresses(&self) -> u16;
    /// How long it keeps the connection of a client whose server died at the beginning.
    fn close_delay(&mut self, _client: u32) -> Duration {
        Duration::ZERO
    }
    /// A client's CONNECT has arrived.
    fn arrive(&mut self, world: &mut World, client: u32);
    /// A server has finished a handshake that this ingress began.
    fn finished(&mut self, world: &mut World, server: usize, job: Job);
    /// A client has given up its attempt, because its deadline has passed.
    fn abandoned(&mut self, world: &mut World, client: u32);
    /// An event of one of the ingress's own kinds has come.
    fn on_event(&mut self, world: &mut World, kind: u32, who: u32, generation: u32);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientState {
    /// It waits before its next attempt.
    Backoff,
    /// Its CONNECT has arrived.
    Connecting,
    Connected,
    /// It has given up for good.
    Closed,
}

/// A client. It is small, because there may be millions.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// When its current or next attempt begins.
    began: Nanos,
    /// Counts attempts. Events of earlier attempts are stale.
    pub(super) attempt: u32,
    /// Its round trip time, in microseconds.
    rtt: u32,
    pub(super) memory: Memory,
    library: u8,
    pub(super) state: ClientState,
}

impl Client {
    /// The number of attempts it has made. In the other two states `attempt` already counts the next one, which has not
    /// begun.
    fn tries(&self) -> u32 {
        match self.state {
            ClientState::Connecting | ClientState::Connected => self.attempt,
            ClientState::Backoff | ClientState::Closed => self.attempt - 1,
        }
    }
}

/// Everything except the ingress.
pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) rng: fastrand::Rng,
    calendar: Calendar,
    pub(super) clients: Vec<Client>,
    libraries: Vec<&'static Library>,
    /// The account of each client, as its position in the plan; empty where it names none.
    accounts: Vec<u16>,
    pub(super) servers: Vec<SimulatedServer>,
    pub(super) outcome: OutcomeBuilder,
    /// How many addresses are in the clients' lists.
    addresses: u16,
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

impl World {
    fn new(plan: &Plan, ingress: &mut impl Ingress) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let libraries = plan.mix.libraries();
        let rtt = plan.round_trip.as_micros() as f64;
        let client = |n: usize| Client {
            began: 0,
            attempt: 0,
            rtt: (rtt * (0.5 + rng.f64())) as u32,
            memory: Memory::default(),
            library: (n % libraries.len()) as u8,
            state: ClientState::Backoff,
        };
        let clients: Vec<_> = (0..plan.clients as usize).map(client).collect();
        let each = plan.handshakes / plan.servers as f64;
        let (discipline, alone, most) = (plan.discipline(), plan.handshake_time(), plan.max_connections());
        let servers = (0..plan.servers).map(|_| SimulatedServer::new(discipline, each, alone, most));
        let mut world = Self {
            now: 0,
            calendar: Calendar::new(),
            clients,
            libraries,
            accounts: accounts::by_client(plan),
            servers: servers.collect(),
            outcome: OutcomeBuilder::new(plan),
            addresses: ingress.addresses(),
            rng,
        };
        // All connections are lost at the same moment, long after they were made; or all clients connect for the first
        // time.
        for client in 0..plan.clients {
            let wait = match plan.at_once {
                true => Duration::ZERO,
                false if plan.servers_died => ingress.close_delay(client) + world.dropped(client),
                false => world.dropped(client),
            };
            world.outcome.first_try = world.outcome.first_try.min(nanos(wait));
            world.try_after(client, nanos(wait));
        }
        world
    }

    /// A client has lost its connection. Returns the time until its next attempt.
    fn dropped(&mut self, client: u32) -> Duration {
        const LONG: Duration = Duration::from_secs(24 * 3600);
        let one = &mut self.clients[client as usize];
        self.libraries[usize::from(one.library)].dropped(&mut one.memory, self.addresses, LONG, &mut self.rng)
    }

    pub(super) fn library(&self, client: u32) -> &'static Library {
        self.libraries[usize::from(self.clients[client as usize].library)]
    }

    /// A client's account, as its position in the plan.
    pub(super) fn account(&self, client: u32) -> usize {
        self.accounts.get(client as usize).copied().map_or(0, usize::from)
    }

    pub(super) fn schedule(&mut self, at: Nanos, kind: u32, who: u32, generation: u32) {
        self.calendar.push(Event { at, who, what: kind | generation << kind::BITS });
    }

    /// A client's round trip time.
    fn round_trip(&self, client: u32) -> Nanos {
        Nanos::from(self.clients[client as usize].rtt) * 1000
    }

    /// When the connection of a client's current attempt was accepted. This is before its CONNECT arrives.
    pub(super) fn accepted(&self, client: u32) -> Nanos {
        self.clients[client as usize].began
    }

    fn try_after(&mut self, client: u32, wait: Nanos) {
        let one = &mut self.clients[client as usize];
        one.state = ClientState::Backoff;
        one.attempt += 1;
        one.began = self.now.saturating_add(wait);
        let (arrives, attempt) = (one.began + Nanos::from(one.rtt) * 1000, one.attempt);
        self.schedule(arrives, kind::ARRIVE, client, attempt);
    }

    /// The deadline of a client whose CONNECT has arrived now.
    pub(super) fn deadline(&self, client: u32) -> Nanos {
        match self.library(client).deadline {
            Deadline::Total(time) => self.accepted(client) + nanos(time),
            Deadline::PerStep(time) => self.now + nanos(time),
        }
    }

    /// Makes a client give up its attempt when its own deadline passes.
    pub(super) fn schedule_deadline(&mut self, client: u32) {
        let (at, attempt) = (self.deadline(client), self.clients[client as usize].attempt);
        self.schedule(at, kind::DEADLINE, client, attempt);
    }

    /// Begins a handshake on a server. [`Ingress::finished`] is called when it is finished.
    pub(super) fn begin_handshake(&mut self, server: usize, who: u32, generation: u32) {
        let now = self.now;
        self.servers[server].begin(who, generation, now);
        self.await_finish(server);
    }

    fn await_finish(&mut self, server: usize) {
        let one = &mut self.servers[server];
        // Handshakes that begin later only delay the next finish. An event that comes too early schedules another.
        if one.is_awaited {
            return;
        }
        if let Some(at) = one.next_finish() {
            one.is_awaited = true;
            self.schedule(at, kind::FINISH, server as u32, 0);
        }
    }

    /// PONG reaches a client.
    pub(super) fn connected(&mut self, client: u32) {
        let (library, account) = (self.library(client), self.account(client));
        let one = &mut self.clients[client as usize];
        one.state = ClientState::Connected;
        library.connected(&mut one.memory);
        self.outcome.connected(account, self.now, one.attempt);
    }

    /// A client's attempt ends now, in this way.
    pub(super) fn failed(&mut self, client: u32, ending: Ending) {
        if let Some(wait) = self.next_try(client, ending) {
            self.try_after(client, wait);
        }
    }

    /// A client's attempt ends now, in this way. Returns the time until its next attempt; `None`: it gives up for good.
    fn next_try(&mut self, client: u32, ending: Ending) -> Option<Nanos> {
        // A refusal takes half a round trip to the client. The passing of its own deadline takes none.
        let delay = if ending == Ending::TimedOut { 0 } else { self.round_trip(client) / 2 };
        let (library, account) = (self.library(client), self.account(client));
        let one = &mut self.clients[client as usize];
        let took = Duration::from_nanos(self.now + delay - one.began);
        self.outcome.failed(account, ending);
        match library.failed(&mut one.memory, self.addresses, ending, took, &mut self.rng) {
            Next::TryAfter(wait) => Some(delay + nanos(wait)),
            Next::GivesUpAfter(wait) => {
                one.state = ClientState::Closed;
                one.attempt += 1;
                self.outcome.lost(account, self.now + delay + nanos(wait));
                None
            }
        }
    }

    /// A full server refuses a client at accept: it sends INFO and `-ERR` at once. Returns whether the client tries the
    /// next server of its list in the same moment. Otherwise its next attempt is scheduled, or it has given up for
    /// good.
    pub(super) fn tries_next_server(&mut self, client: u32) -> bool {
        self.outcome.over_limit += 1;
        let ending = if self.library(client).needs_info_alone { Ending::Malformed } else { Ending::Refused };
        let Some(wait) = self.next_try(client, ending) else { return false };
        if wait > self.round_trip(client) {
            self.try_after(client, wait);
            return false;
        }
        // The calendar would do the same a moment later. Doing it here saves its cost: on full servers most attempts
        // end so.
        let one = &mut self.clients[client as usize];
        one.began = self.now;
        one.attempt += 1;
        self.outcome.tries += 1;
        true
    }

    /// A server has finished a handshake of a client that has given up the attempt. If the library keeps abandoned
    /// sockets open, the connection counts until the library closes it.
    pub(super) fn wasted(&mut self, server: usize, client: u32) {
        self.outcome.wasted += 1;
        match nanos(self.library(client).keeps_abandoned_socket) {
            0 => self.servers[server].connections -= 1,
            time => self.schedule(self.now + time, kind::ABANDONED_CLOSED, server as u32, 0),
        }
    }

    /// Runs until every client has connected or given up, or until the time limit of the plan.
    fn run(mut self, plan: &Plan, ingress: &mut impl Ingress) -> Outcome {
        let end = nanos(plan.time_limit);
        while let Some(event) = self.calendar.pop().filter(|event| event.at <= end) {
            self.now = event.at;
            let (kind, generation) = (event.what & ((1 << kind::BITS) - 1), event.what >> kind::BITS);
            match kind {
                kind::ARRIVE => {
                    self.clients[event.who as usize].state = ClientState::Connecting;
                    self.outcome.tries += 1;
                    ingress.arrive(&mut self, event.who);
                }
                kind::DEADLINE => {
                    let client = &self.clients[event.who as usize];
                    if client.attempt == generation && client.state == ClientState::Connecting {
                        ingress.abandoned(&mut self, event.who);
                        self.failed(event.who, Ending::TimedOut);
                    }
                }
                kind::FINISH => {
                    let server = event.who as usize;
                    self.servers[server].is_awaited = false;
                    while let Some(job) = self.servers[server].finished(self.now) {
                        ingress.finished(&mut self, server, job);
                    }
                    self.await_finish(server);
                }
                kind::ABANDONED_CLOSED => self.servers[event.who as usize].connections -= 1,
                _ => ingress.on_event(&mut self, kind, event.who, generation),
            }
            if self.outcome.decided() == self.clients.len() {
                break;
            }
        }
        let most_tries = self.clients.iter().map(Client::tries).max().unwrap_or(0);
        let most_connections = self.servers.iter().map(|server| server.most_connections).max().unwrap_or(0);
        self.outcome.build(plan, end, most_tries, most_connections)
    }
}

/// Simulates a plan with this ingress.
pub(super) fn simulate(plan: &Plan, mut ingress: impl Ingress) -> Outcome {
    World::new(plan, &mut ingress).run(plan, &mut ingress)
}
