//! `weir plan`: predicts what a storm does to a described cluster, by discrete-event simulation. The clients behave as
//! [`crate::client_library::table`] says. weir's admission code is the real one. The same seed gives the same storm.
//!
//! The model leaves out the time that weir itself and the kernel's queues take (backlogs, lost SYNs), traffic beside
//! the storm, and differences between one handshake and another.

mod accounts;
mod calendar;
mod chart;
mod direct;
mod fleet;
mod outcome;
mod server;
mod summary;
#[cfg(test)]
mod tests;
mod weir;
mod world;

use std::{thread, time::Duration};

use crate::{
    admission::{Params, Rate},
    storm::{
        client_mix::ClientMix,
        plan::{
            direct::{Direct, TokenBucket},
            fleet::Fleet,
            weir::Weir,
        },
    },
    upstream::Reserve,
};

pub use accounts::AccountClients;
pub use outcome::Outcome;
pub use server::Discipline;
pub use summary::Forecast;

#[cfg(test)]
pub(crate) use weir::reading;

/// `max_connections` of a nats-server that sets none.
const DEFAULT_MAX_CONNECTIONS: u32 = 65_536;
/// The number of cores that a server is assumed to have. The time of a handshake on an idle server follows from it.
const CORES: f64 = 2.0;
/// Go preempts a goroutine that has run this long.
const PREEMPTED_AFTER: Duration = Duration::from_millis(10);

/// Most clients of a plan.
pub const MOST_CLIENTS: u32 = 10_000_000;
/// Most accounts of a plan.
pub const MOST_ACCOUNTS: usize = 1000;
/// Most weirs of a plan.
pub const MOST_WEIRS: u16 = 100;

/// A cluster, and the clients that connect to it.
#[derive(Debug, Clone)]
pub struct Plan {
    pub clients: u32,
    /// Whose they are, together as many as there are; empty: all are of one account, which has no limits of its own.
    pub accounts: Vec<AccountClients>,
    pub mix: ClientMix,
    pub servers: u16,
    /// Handshakes that all servers together finish in one second.
    pub handshakes: f64,
    /// The time of a handshake on an idle server; `None`: as if each server had [`CORES`] cores.
    pub handshake_time: Option<Duration>,
    /// How handshakes share a server; `None`: one after another, unless one takes so long that Go preempts it.
    pub discipline: Option<Discipline>,
    /// The limit of each server; `None`: nats-server's default, or more if the clients would not fit.
    pub max_connections: Option<u32>,
    /// The part of `max_connections` that weir keeps free.
    pub reserve: Reserve,
    /// The mean round trip time between a client and the servers.
    pub round_trip: Duration,
    /// Whether all clients connect for the first time, at once. Otherwise they have lost their connections.
    pub at_once: bool,
    /// Whether the clients lost their connections because the servers died. weir then closes them one after another.
    pub servers_died: bool,
    /// weir closes those clients within this time.
    pub close_spread: Duration,
    /// How many weirs there are, each with an equal part of the clients: at most [`MOST_WEIRS`].
    pub weirs: u16,
    /// A weir tells the others so often what it holds, and what it tells takes so long.
    pub beat_interval: Duration,
    pub beat_delay: Duration,
    /// weir's admission.
    pub admission: Params,
    /// The rate of the plain token bucket that is compared with weir.
    pub bucket: Rate,
    /// The simulation stops at this time at the latest.
    pub time_limit: Duration,
    pub seed: u64,
}

impl Plan {
    /// The time of a handshake on an idle server.
    pub fn handshake_time(&self) -> Duration {
        let on_cores = Duration::from_secs_f64(CORES * f64::from(self.servers) / self.handshakes);
        self.handshake_time.unwrap_or(on_cores)
    }

    pub fn discipline(&self) -> Discipline {
        let is_preempted = self.handshake_time() > PREEMPTED_AFTER;
        self.discipline.unwrap_or(if is_preempted { Discipline::ProcessorSharing } else { Discipline::Fifo })
    }

    /// The limit of each server.
    pub fn max_connections(&self) -> u32 {
        // A quarter more than an even share.
        let fitting = u64::from(self.clients) * 5 / 4 / u64::from(self.servers) + 1;
        self.max_connections.unwrap_or(u32::try_from(fitting).unwrap_or(u32::MAX).max(DEFAULT_MAX_CONNECTIONS))
    }

    /// Simulates the three cases in parallel, each on its own thread.
    pub fn forecast(&self) -> Forecast {
        let bucket = || world::simulate(self, TokenBucket::new(self.bucket));
        let weir = || self.weirs();
        let direct = || world::simulate(self, Direct::new(self));
        let (direct, bucket, weir) = thread::scope(|scope| {
            let (direct, bucket) = (scope.spawn(direct), scope.spawn(bucket));
            let weir = weir();
            // A panic in a thread is a defect of the simulation. It becomes a panic here.
            (direct.join().expect("direct"), bucket.join().expect("bucket"), weir)
        });
        Forecast::new(self, direct, bucket, weir)
    }

    /// Simulates weir, or several.
    fn weirs(&self) -> Outcome {
        match self.weirs {
            0 | 1 => world::simulate(self, Weir::new(self, &self.admission, 0)),
            _ => world::simulate(self, Fleet::new(self)),
        }
    }

    /// Simulates weir alone, or as many weirs as the plan has.
    #[cfg(test)]
    pub fn weir(&self) -> Outcome {
        self.weirs()
    }

    /// Simulates clients that connect to the servers directly.
    #[cfg(test)]
    pub fn direct(&self) -> Outcome {
        world::simulate(self, Direct::new(self))
    }

    /// Simulates the plain token bucket.
    #[cfg(test)]
    pub fn token_bucket(&self) -> Outcome {
        world::simulate(self, TokenBucket::new(self.bucket))
    }
}
