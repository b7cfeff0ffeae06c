//! The two ways into the cluster that weir is compared with: no proxy at all, and a plain token bucket.

use std::time::Duration;

use crate::{
    admission::Rate,
    client_library::behaviour::Ending,
    storm::plan::{
        Plan,
        calendar::Nanos,
        server::Job,
        world::{ClientState, Ingress, World},
    },
};

/// Whether the client still waits for this handshake.
fn waits(world: &World, job: Job) -> bool {
    let client = &world.clients[job.who as usize];
    client.state == ClientState::Connecting && client.attempt == job.generation
}

fn begin(world: &mut World, server: usize, client: u32) {
    let attempt = world.clients[client as usize].attempt;
    world.begin_handshake(server, client, attempt);
    world.schedule_deadline(client);
}

fn finished(world: &mut World, server: usize, job: Job) {
    if waits(world, job) { world.connected(job.who) } else { world.wasted(server, job.who) }
}

/// Every client knows every server, from `connect_urls`. It tries them in order, beginning with a random one.
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

impl Ingress for Direct {
    fn addresses(&self) -> u16 {
        self.servers as u16
    }

    fn arrive(&mut self, world: &mut World, client: u32) {
        loop {
            let position = usize::from(self.first[client as usize]) + world.clients[client as usize].attempt as usize;
            let server = position % self.servers;
            if !world.servers[server].is_full() {
                return begin(world, server, client);
            }
            if !world.tries_next_server(client) {
                return;
            }
        }
    }

    fn finished(&mut self, world: &mut World, server: usize, job: Job) {
        finished(world, server, job);
    }

    fn abandoned(&mut self, _: &mut World, _: u32) {}

    fn on_event(&mut self, _: &mut World, _: u32, _: u32, _: u32) {}
}

/// One address. It lets a fixed number of clients per second through to the server with the fewest connections, and
/// refuses all others at once.
pub(super) struct TokenBucket {
    interval: Nanos,
    burst: Nanos,
    /// When the bucket is full again (the theoretical arrival time of GCRA).
    full_at: Nanos,
}

impl TokenBucket {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = Duration::from_secs(1).as_nanos() as Nanos / Nanos::from(rate.per_second.get());
        Self { interval, burst: interval * Nanos::from(rate.burst.get()), full_at: 0 }
    }

    fn take(&mut self, now: Nanos) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let has_token = full_at <= now + self.burst;
        if has_token {
            self.full_at = full_at;
        }
        has_token
    }
}

impl Ingress for TokenBucket {
    fn addresses(&self) -> u16 {
        1
    }

    fn arrive(&mut self, world: &mut World, client: u32) {
        if !self.take(world.now) {
            return world.failed(client, Ending::Refused);
        }
        let least = (0..world.servers.len()).min_by_key(|&n| world.servers[n].connections).unwrap_or(0);
        if world.servers[least].is_full() {
            world.outcome.over_limit += 1;
            world.failed(client, Ending::Refused);
        } else {
            begin(world, least, client);
        }
    }

    fn finished(&mut self, world: &mut World, server: usize, job: Job) {
        finished(world, server, job);
    }

    fn abandoned(&mut self, _: &mut World, _: u32) {}

    fn on_event(&mut self, _: &mut World, _: u32, _: u32, _: u32) {}
}
