//! The servers of the cluster: their load, their health, and which one a new client goes to.

mod compatibility;
pub mod concurrency;
pub mod health;
pub mod load;
pub mod placement;
pub mod reconciled_count;
mod server;
#[cfg(test)]
mod simulation;
mod slot;
mod snapshot;
pub mod staggered_close;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    protocol::MAX_CONTROL_LINE,
    upstream::{
        placement::{Choice, Tier, View},
        snapshot::Epoch,
        staggered_close::StaggeredClose,
    },
};

pub use self::{
    server::{Reading, Server},
    slot::Slot,
};
pub use crate::upstream::compatibility::Compatibility;
pub use placement::Urgency;
/// Clients a second that a cluster takes of which nothing is known.
const UNKNOWN_PACE: f64 = 1000.0;

/// Slots of each server that weir never fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reserve {
    /// So many slots.
    Slots(u32),
    /// This part of the capacity, 0.0 to 1.0, rounded up.
    Share(f64),
}

impl Reserve {
    /// What may be filled of `capacity`.
    pub fn ceiling(self, capacity: u32) -> u32 {
        let kept = match self {
            Self::Slots(n) => n,
            Self::Share(share) => (f64::from(capacity) * share).ceil() as u32,
        };
        capacity.saturating_sub(kept)
    }
}

/// One server as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerParams {
    /// Name in logs and metrics; `None` takes the name the server gives itself.
    pub name: Option<String>,
    /// `host:port` of the client port.
    pub address: String,
    /// `http://host:port` of the monitoring port; `None` means weir counts only what it opened itself.
    pub monitor: Option<String>,
    /// A lower cap than the server's own `max_connections`.
    pub max_connections: Option<u32>,
}

/// The cluster as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// How often each server is read (jittered).
    pub poll_interval: Duration,
    /// Whether servers are read over the system account, with or without a monitoring port.
    pub system: bool,
    /// Slots that are never filled on each server.
    pub reserve: Reserve,
    /// From this share of `max_connections` (0.0 to 1.0) weir warns in its log.
    pub warn_at: f64,
    /// A server younger than this (by its own uptime) gets its share gradually.
    pub slow_start: Duration,
    /// The closes of a dead server's clients are spread over this at most.
    pub close_spread: Duration,
    /// What the servers are asked to do beyond the usual.
    pub compatibility: Compatibility,
    /// Addresses of this machine to connect from, in turns; none leaves the choice to the kernel.
    pub source_addresses: Vec<IpAddr>,
    /// The servers, at least one.
    pub servers: Vec<ServerParams>,
}

/// The outcome of a placement.
#[derive(Debug)]
pub enum Placement {
    /// A slot, reserved.
    Placed(Slot),
    /// There is room, but not this moment: handshakes are at their limit where the client should go.
    Busy,
    /// No server has room.
    Full,
}

/// All servers of the cluster.
#[derive(Debug)]
pub struct Servers {
    list: Vec<Arc<Server>>,
    epoch: Epoch,
    staggered_close: Mutex<StaggeredClose>,
}

impl Servers {
    /// The cluster as configured, nothing known about it yet.
    pub fn new(params: &Params) -> Self {
        let epoch = Epoch::default();
        let server = |(i, one): (usize, &ServerParams)| Arc::new(Server::new(i, one.clone(), params, epoch.clone()));
        let list = params.servers.iter().enumerate().map(server).collect();
        Self { list, epoch, staggered_close: Mutex::new(StaggeredClose::new(params.close_spread)) }
    }

    /// Every server, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Every server as placement sees it.
    fn views(&self, now: Instant) -> impl Iterator<Item = View> + Clone {
        let moment = self.epoch.moment(now);
        self.list.iter().map(move |server| server.view_at(moment, now))
    }

    /// Reserves a slot on the least loaded server that the client has not `tried`.
    pub fn place(&self, now: Instant, tried: &[usize], urgency: Urgency, rng: &mut fastrand::Rng) -> Placement {
        let views = self.views(now).enumerate().map(|(index, mut view)| {
            if tried.contains(&index) {
                view.tier = Tier::Excluded;
            }
            view
        });
        // Another worker may take the last slot between the choice and the reservation; each such loss is another's gain.
        for _ in 0..8 {
            match placement::choose(views.clone(), urgency, rng) {
                Choice::Busy => return Placement::Busy,
                Choice::Full => return Placement::Full,
                Choice::Server(index) => {
                    if let Some(slot) = Server::reserve(&self.list[index], now) {
                        return Placement::Placed(slot);
                    }
                }
            }
        }
        Placement::Busy
    }

    /// A server has ended a session: how long its client may be kept before it is let go. `pace` is what the cluster takes, in
    /// clients a second, where that is known.
    pub fn close_delay(&self, now: Instant, pace: Option<f64>, rng: &mut fastrand::Rng) -> Duration {
        let pace = pace.or_else(|| self.logins_per_second(now)).unwrap_or(UNKNOWN_PACE);
        self.staggered_close.lock().unwrap_or_else(PoisonError::into_inner).lost(now, pace, rng)
    }

    /// What the usable servers can take at least, by what a login has taken lately; `None` while there was none.
    fn logins_per_second(&self, now: Instant) -> Option<f64> {
        let usable = self.list.iter().filter(|server| server.is_up(now));
        usable.filter_map(|server| server.logins_per_second()).reduce(|sum, one| sum + one)
    }

    /// Reserves one of the slots that are kept free, for a client of the system account.
    pub fn place_in_reserve(&self, now: Instant, rng: &mut fastrand::Rng) -> Option<Slot> {
        let views = self.list.iter().zip(self.views(now));
        let views = views.map(|(server, view)| View { ceiling: server.load().capacity(), ..view });
        match placement::choose(views, Urgency::Urgent, rng) {
            Choice::Server(index) => Server::take_from_reserve(&self.list[index]),
            Choice::Busy | Choice::Full => None,
        }
    }

    /// Whether this is the system account's name.
    pub fn is_system_account(&self, account: &str) -> bool {
        self.list.iter().any(|server| server.is_system_account(account))
    }

    /// The longest argument of a control line that every server takes, in bytes: a client may be placed on any of them.
    pub fn max_control_line(&self) -> usize {
        let known = self.list.iter().map(|server| server.max_control_line()).filter(|&n| n != usize::MAX);
        known.min().unwrap_or(MAX_CONTROL_LINE)
    }

    /// How many clients the servers that may be used could take now, busy or not.
    pub fn headroom(&self, now: Instant) -> u32 {
        placement::headroom(self.views(now))
    }

    /// Whether any server could take a client now, busy or not.
    pub fn has_headroom(&self, now: Instant) -> bool {
        self.headroom(now) > 0
    }

    /// Whether any server is up: it answered last time it was dialled, and its reading is fresh.
    pub fn any_usable(&self, now: Instant) -> bool {
        self.views(now).any(|view| view.tier == Tier::Eligible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_rounds_up() {
        assert_eq!(Reserve::Share(0.02).ceiling(100), 98);
        assert_eq!(Reserve::Share(0.02).ceiling(10), 9);
        assert_eq!(Reserve::Slots(5).ceiling(100), 95);
        assert_eq!(Reserve::Slots(5).ceiling(3), 0);
    }
}
