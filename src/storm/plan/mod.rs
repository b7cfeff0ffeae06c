//! `weir plan`: what a storm will do to a described cluster, by discrete-event simulation. The clients are those of
//! [`crate::client_library::table`]; weir's doors are the real ones; the same seed gives the same storm.
//!
//! What is left out: the time that weir itself and the network's queues take (kernel backlogs, lost SYNs), traffic beside
//! the storm, and the differences between one handshake and another.

mod calendar;
mod chart;
mod direct;
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
    client_library::table::Like,
    storm::plan::{
        direct::{Bucket, Direct},
        weir::Weir,
    },
    upstream::Reserve,
};

pub use outcome::Outcome;
pub use server::Discipline;
pub use summary::{Case, Forecast};

#[cfg(test)]
pub(crate) use weir::reading;

/// What a nats-server takes unless told otherwise.
const DEFAULT_MAX_CONNECTIONS: u32 = 65_536;
/// Cores that a server is thought to have: what a handshake takes when it is alone follows from it.
const CORES: f64 = 2.0;
/// Go preempts a goroutine that has run for so long.
const PREEMPTED_AFTER: Duration = Duration::from_millis(10);

/// A cluster, and the clients that come back to it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many clients.
    pub clients: u32,
    /// Of which libraries.
    pub like: Like,
    /// How many servers.
    pub servers: u16,
    /// Handshakes that they finish in a second, all together.
    pub handshakes: f64,
    /// What a handshake takes on a server that has no other; `None`: as if each server had two cores.
    pub handshake_time: Option<Duration>,
    /// How handshakes share a server; `None`: one after another unless one takes so long that Go preempts it.
    pub discipline: Option<Discipline>,
    /// Of each server; `None`: nats-server's default, or more if the clients would not fit.
    pub max_connections: Option<u32>,
    /// What weir keeps free of that.
    pub reserve: Reserve,
    /// From a client to the servers and back, on average.
    pub round_trip: Duration,
    /// Whether the clients connect for the first time, all at once, instead of having lost their connections.
    pub at_once: bool,
    /// Whether they have lost them since their servers died; weir then lets them go one after another.
    pub servers_died: bool,
    /// Over this, at most.
    pub close_spread: Duration,
    /// weir's doors.
    pub admission: Params,
    /// The plain token bucket beside it.
    pub bucket: Rate,
    /// The end, whatever happens.
    pub time_limit: Duration,
    /// For everything that is random.
    pub seed: u64,
}

impl Plan {
    /// What a handshake takes at least.
    pub fn handshake_time(&self) -> Duration {
        let cores = Duration::from_secs_f64(CORES * f64::from(self.servers) / self.handshakes);
        self.handshake_time.unwrap_or(cores)
    }

    /// How handshakes share a server.
    pub fn discipline(&self) -> Discipline {
        let long = self.handshake_time() > PREEMPTED_AFTER;
        self.discipline.unwrap_or(if long { Discipline::Shared } else { Discipline::Fifo })
    }

    /// Of each server.
    pub fn max_connections(&self) -> u32 {
        // A quarter more than an even share.
        let fitting = u64::from(self.clients) * 5 / 4 / u64::from(self.servers) + 1;
        self.max_connections.unwrap_or(u32::try_from(fitting).unwrap_or(u32::MAX).max(DEFAULT_MAX_CONNECTIONS))
    }

    /// Plays all three cases, side by side on as many threads.
    pub fn forecast(&self) -> Forecast {
        let bucket = || world::play(self, Bucket::new(self.bucket));
        let weir = || world::play(self, Weir::new(self, &self.admission));
        let direct = || world::play(self, Direct::new(self));
        let (direct, bucket, weir) = thread::scope(|scope| {
            let (direct, bucket) = (scope.spawn(direct), scope.spawn(bucket));
            let weir = weir();
            // A panic there is a defect, and is told like one here.
            (direct.join().expect("direct"), bucket.join().expect("bucket"), weir)
        });
        Forecast::new(self, direct, bucket, weir)
    }

    /// Plays weir alone.
    #[cfg(test)]
    pub fn weir(&self) -> Outcome {
        world::play(self, Weir::new(self, &self.admission))
    }

    /// Plays clients that go to the servers themselves.
    #[cfg(test)]
    pub fn direct(&self) -> Outcome {
        world::play(self, Direct::new(self))
    }

    /// Plays the plain token bucket.
    #[cfg(test)]
    pub fn token_bucket(&self) -> Outcome {
        world::play(self, Bucket::new(self.bucket))
    }
}
