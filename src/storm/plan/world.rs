//! Clients and servers in virtual time, whatever stands between them.

use std::time::Duration;

use crate::{
    client_library::{
        behaviour::{Ending, Memory, Next},
        table::{Deadline, Library},
    },
    storm::plan::{
        Plan,
        calendar::{Calendar, Event, Nanos},
        outcome::{Outcome, Tally},
        server::{Job, Server},
    },
};

/// Kinds of events; the front's own come after these.
pub(super) mod kind {
    /// A client's CONNECT arrives.
    pub(in crate::storm::plan) const ARRIVE: u32 = 0;
    /// A client's own deadline for its attempt has passed.
    pub(in crate::storm::plan) const DEADLINE: u32 = 1;
    /// A server may have finished a handshake.
    pub(in crate::storm::plan) const FINISH: u32 = 2;
    /// A connection that its client had left open is gone: nobody's any more.
    pub(in crate::storm::plan) const GHOST_GONE: u32 = 3;
    /// The first of a front's own.
    pub(in crate::storm::plan) const OWN: u32 = 4;
    /// Bits that a kind takes.
    pub(super) const BITS: u32 = 4;
}

/// What stands between clients and servers.
pub(super) trait Front {
    /// How many addresses the clients know.
    fn pool(&self) -> u16;
    /// How long it keeps a client whose server has died at the beginning.
    fn keeps(&mut self, _client: u32) -> Duration {
        Duration::ZERO
    }
    /// A client's CONNECT has arrived.
    fn arrive(&mut self, world: &mut World, client: u32);
    /// A server has finished a handshake that this front began.
    fn finished(&mut self, world: &mut World, server: usize, job: Job);
    /// A client has given up the attempt that it was making.
    fn abandoned(&mut self, world: &mut World, client: u32);
    /// One of its own events.
    fn happen(&mut self, world: &mut World, kind: u32, who: u32, generation: u32);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Away,
    Trying,
    In,
    Lost,
}

/// A client. Small: there may be millions.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// When its attempt began.
    began: Nanos,
    /// Counts attempts; events of earlier ones are stale.
    pub(super) attempt: u32,
    /// From it to the other side and back, in microseconds.
    rtt: u32,
    pub(super) memory: Memory,
    library: u8,
    pub(super) state: State,
}

impl Client {
    /// Attempts it has made: all that began but one that is still to come, or that was only counted to end the last.
    fn tries(&self) -> u32 {
        match self.state {
            State::Trying | State::In => self.attempt,
            State::Away | State::Lost => self.attempt - 1,
        }
    }
}

/// All there is, but for the front.
pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) rng: fastrand::Rng,
    calendar: Calendar,
    pub(super) clients: Vec<Client>,
    libraries: Vec<&'static Library>,
    pub(super) servers: Vec<Server>,
    pub(super) tally: Tally,
    pool: u16,
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

impl World {
    fn new(plan: &Plan, front: &mut impl Front) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let libraries = plan.like.libraries();
        let rtt = plan.round_trip.as_micros() as f64;
        let client = |n: usize| Client {
            began: 0,
            attempt: 0,
            rtt: (rtt * (0.5 + rng.f64())) as u32,
            memory: Memory::default(),
            library: (n % libraries.len()) as u8,
            state: State::Away,
        };
        let clients: Vec<_> = (0..plan.clients as usize).map(client).collect();
        let each = plan.handshakes / plan.servers as f64;
        let (discipline, alone, most) = (plan.discipline(), plan.handshake_time(), plan.max_connections());
        let servers = (0..plan.servers).map(|_| Server::new(discipline, each, alone, most));
        let mut world = Self {
            now: 0,
            calendar: Calendar::new(),
            clients,
            libraries,
            servers: servers.collect(),
            tally: Tally::new(),
            pool: front.pool(),
            rng,
        };
        // Every connection is lost at the same moment, long after it was made; or has never been.
        for client in 0..plan.clients {
            let wait = match plan.at_once {
                true => Duration::ZERO,
                false if plan.servers_died => front.keeps(client) + world.dropped(client),
                false => world.dropped(client),
            };
            world.tally.first_try = world.tally.first_try.min(nanos(wait));
            world.try_after(client, nanos(wait));
        }
        world
    }

    fn dropped(&mut self, client: u32) -> Duration {
        const LONG: Duration = Duration::from_secs(24 * 3600);
        let one = &mut self.clients[client as usize];
        self.libraries[usize::from(one.library)].dropped(&mut one.memory, self.pool, LONG, &mut self.rng)
    }

    pub(super) fn library(&self, client: u32) -> &'static Library {
        self.libraries[usize::from(self.clients[client as usize].library)]
    }

    pub(super) fn schedule(&mut self, at: Nanos, kind: u32, who: u32, generation: u32) {
        self.calendar.push(Event { at, who, what: kind | generation << kind::BITS });
    }

    /// From a client to the other side and back.
    fn round_trip(&self, client: u32) -> Nanos {
        Nanos::from(self.clients[client as usize].rtt) * 1000
    }

    /// When the attempt of a client was accepted, which it has been before its CONNECT arrived.
    pub(super) fn accepted(&self, client: u32) -> Nanos {
        self.clients[client as usize].began
    }

    fn try_after(&mut self, client: u32, wait: Nanos) {
        let one = &mut self.clients[client as usize];
        one.state = State::Away;
        one.attempt += 1;
        one.began = self.now.saturating_add(wait);
        let (arrives, attempt) = (one.began + Nanos::from(one.rtt) * 1000, one.attempt);
        self.schedule(arrives, kind::ARRIVE, client, attempt);
    }

    /// Until when a client waits that has sent its CONNECT now.
    pub(super) fn patience(&self, client: u32) -> Nanos {
        match self.library(client).deadline {
            Deadline::Total(time) => self.accepted(client) + nanos(time),
            Deadline::PerStep(time) => self.now + nanos(time),
        }
    }

    /// Lets a client give up its attempt when its own deadline passes.
    pub(super) fn limit(&mut self, client: u32) {
        let (at, attempt) = (self.patience(client), self.clients[client as usize].attempt);
        self.schedule(at, kind::DEADLINE, client, attempt);
    }

    /// A handshake begins on a server; [`Front::finished`] is called when it is over.
    pub(super) fn begin(&mut self, server: usize, who: u32, generation: u32) {
        let now = self.now;
        self.servers[server].begin(who, generation, now);
        self.await_finish(server);
    }

    fn await_finish(&mut self, server: usize) {
        let one = &mut self.servers[server];
        // More handshakes only put off the next finish: an event that comes too early looks again.
        if one.is_awaited {
            return;
        }
        if let Some(at) = one.next_finish() {
            one.is_awaited = true;
            self.schedule(at, kind::FINISH, server as u32, 0);
        }
    }

    /// PONG reaches a client.
    pub(super) fn comes_in(&mut self, client: u32) {
        let library = self.library(client);
        let one = &mut self.clients[client as usize];
        one.state = State::In;
        library.connected(&mut one.memory);
        self.tally.comes_in(self.now, one.attempt);
    }

    /// The attempt of a client ends in this way, now.
    pub(super) fn fails(&mut self, client: u32, ending: Ending) {
        if let Some(wait) = self.next_try(client, ending) {
            self.try_after(client, wait);
        }
    }

    /// How long a client waits whose attempt ends in this way, now; `None` when it gives up for good.
    fn next_try(&mut self, client: u32, ending: Ending) -> Option<Nanos> {
        // The word takes half a round trip; the client's own decision none.
        let told = if ending == Ending::TimedOut { 0 } else { self.round_trip(client) / 2 };
        let library = self.library(client);
        let one = &mut self.clients[client as usize];
        let took = Duration::from_nanos(self.now + told - one.began);
        self.tally.failed(ending);
        match library.failed(&mut one.memory, self.pool, ending, took, &mut self.rng) {
            Next::TryAfter(wait) => Some(told + nanos(wait)),
            Next::GivesUpAfter(wait) => {
                one.state = State::Lost;
                one.attempt += 1;
                self.tally.lost(self.now + told + nanos(wait));
                None
            }
        }
    }

    /// A server refuses at accept: INFO and `-ERR` at once. Returns whether the client has gone on to the next server of its
    /// list in the same moment; else it comes back by itself, or not.
    pub(super) fn goes_on_at_accept(&mut self, client: u32) -> bool {
        self.tally.over_limit += 1;
        let ending = if self.library(client).info_alone { Ending::Broken } else { Ending::Refused(0) };
        let Some(wait) = self.next_try(client, ending) else { return false };
        if wait > self.round_trip(client) {
            self.try_after(client, wait);
            return false;
        }
        // What the calendar would do in a millisecond, without its cost: in a storm on full servers this is most of all.
        let one = &mut self.clients[client as usize];
        one.began = self.now;
        one.attempt += 1;
        self.tally.tries += 1;
        true
    }

    /// A server has finished the handshake of a client that does not wait for it any more. If the library leaves its socket
    /// open, the connection stays until it closes it after all.
    pub(super) fn wasted(&mut self, server: usize, client: u32) {
        self.tally.wasted += 1;
        match nanos(self.library(client).ghost) {
            0 => self.servers[server].connections -= 1,
            time => self.schedule(self.now + time, kind::GHOST_GONE, server as u32, 0),
        }
    }

    /// Goes on until everybody is in or lost, or until `end`.
    fn run(mut self, front: &mut impl Front, end: Nanos) -> Outcome {
        while let Some(event) = self.calendar.pop().filter(|event| event.at <= end) {
            self.now = event.at;
            let (kind, generation) = (event.what & ((1 << kind::BITS) - 1), event.what >> kind::BITS);
            match kind {
                kind::ARRIVE => {
                    self.clients[event.who as usize].state = State::Trying;
                    self.tally.tries += 1;
                    front.arrive(&mut self, event.who);
                }
                kind::DEADLINE => {
                    let client = &self.clients[event.who as usize];
                    if client.attempt == generation && client.state == State::Trying {
                        front.abandoned(&mut self, event.who);
                        self.fails(event.who, Ending::TimedOut);
                    }
                }
                kind::FINISH => {
                    let server = event.who as usize;
                    self.servers[server].is_awaited = false;
                    while let Some(job) = self.servers[server].finished(self.now) {
                        front.finished(&mut self, server, job);
                    }
                    self.await_finish(server);
                }
                kind::GHOST_GONE => self.servers[event.who as usize].connections -= 1,
                _ => front.happen(&mut self, kind, event.who, generation),
            }
            if self.tally.decided() == self.clients.len() {
                break;
            }
        }
        let most_tries = self.clients.iter().map(Client::tries).max().unwrap_or(0);
        let most_connections = self.servers.iter().map(|server| server.most_connections).max().unwrap_or(0);
        self.tally.outcome(self.clients.len(), end, most_tries, most_connections)
    }
}

/// Plays a plan with a front.
pub(super) fn play(plan: &Plan, mut front: impl Front) -> Outcome {
    World::new(plan, &mut front).run(&mut front, nanos(plan.time_limit))
}
