//! Clients that go to the servers themselves, and clients behind a plain token bucket.

use std::time::Duration;

use crate::{
    admission::Rate,
    client_library::behaviour::Ending,
    storm::plan::{
        Plan,
        calendar::Nanos,
        server::Job,
        world::{Front, State, World},
    },
};

/// Whether an attempt is still the one that a handshake was begun for.
fn waits(world: &World, job: Job) -> bool {
    let client = &world.clients[job.who as usize];
    client.state == State::Trying && client.attempt == job.generation
}

fn begin(world: &mut World, server: usize, client: u32) {
    let attempt = world.clients[client as usize].attempt;
    world.begin(server, client, attempt);
    world.limit(client);
}

fn finished(world: &mut World, server: usize, job: Job) {
    if waits(world, job) { world.comes_in(job.who) } else { world.wasted(server, job.who) }
}

/// Every client knows every server (by `connect_urls`) and goes through them, from one chosen at random.
pub(super) struct Direct {
    servers: usize,
    first: Vec<u8>,
}

impl Direct {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let servers = usize::from(plan.servers);
        Self { servers, first: (0..plan.clients).map(|_| rng.usize(0..servers) as u8).collect() }
    }
}

impl Front for Direct {
    fn pool(&self) -> u16 {
        self.servers as u16
    }

    fn arrive(&mut self, world: &mut World, client: u32) {
        loop {
            let turn = usize::from(self.first[client as usize]) + world.clients[client as usize].attempt as usize;
            let server = turn % self.servers;
            if !world.servers[server].is_full() {
                return begin(world, server, client);
            }
            if !world.goes_on_at_accept(client) {
                return;
            }
        }
    }

    fn finished(&mut self, world: &mut World, server: usize, job: Job) {
        finished(world, server, job);
    }

    fn abandoned(&mut self, _: &mut World, _: u32) {}

    fn happen(&mut self, _: &mut World, _: u32, _: u32, _: u32) {}
}

/// One address: so many a second go to the server with the fewest connections, everybody else is refused at once.
pub(super) struct Bucket {
    interval: Nanos,
    burst: Nanos,
    /// The bucket is full again then (GCRA's theoretical arrival time).
    full_at: Nanos,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = Duration::from_secs(1).as_nanos() as Nanos / Nanos::from(rate.per_second.get());
        Self { interval, burst: interval * Nanos::from(rate.burst.get()), full_at: 0 }
    }

    fn take(&mut self, now: Nanos) -> bool {
        let then = self.full_at.max(now) + self.interval;
        let is_there = then <= now + self.burst;
        if is_there {
            self.full_at = then;
        }
        is_there
    }
}

impl Front for Bucket {
    fn pool(&self) -> u16 {
        1
    }

    fn arrive(&mut self, world: &mut World, client: u32) {
        if !self.take(world.now) {
            return world.fails(client, Ending::Refused(0));
        }
        let least = (0..world.servers.len()).min_by_key(|&n| world.servers[n].connections).unwrap_or(0);
        if world.servers[least].is_full() {
            world.tally.over_limit += 1;
            world.fails(client, Ending::Refused(0));
        } else {
            begin(world, least, client);
        }
    }

    fn finished(&mut self, world: &mut World, server: usize, job: Job) {
        finished(world, server, job);
    }

    fn abandoned(&mut self, _: &mut World, _: u32) {}

    fn happen(&mut self, _: &mut World, _: u32, _: u32, _: u32) {}
}
