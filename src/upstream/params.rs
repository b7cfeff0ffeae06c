//! The cluster as configured.

use std::{net::IpAddr, time::Duration};

use crate::upstream::compatibility::Compatibility;

/// Slots of each server that weir does not fill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reserve {
    /// This many slots.
    Slots(u32),
    /// This part of the capacity, 0.0 to 1.0, rounded up to whole slots.
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

/// The address of a server's WebSocket port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketAddress {
    /// `host:port`.
    pub address: String,
    /// Whether it speaks TLS (`wss://`).
    pub secure: bool,
}

/// One server as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerParams {
    /// Name in logs and metrics. `None` takes the name that the server gives itself.
    pub name: Option<String>,
    /// `host:port` of the client port.
    pub address: String,
    /// The WebSocket port, to which the clients of WebSocket listeners are connected. Either all servers have one, or
    /// none.
    pub websocket: Option<WebSocketAddress>,
    /// `host:port` of the leafnode port; `None` is the one that the server's readings name.
    pub leafnode: Option<String>,
    /// `http://host:port` of the monitoring port. Without it, and without the system account, weir counts only what it
    /// opened itself.
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
    /// Slots of each server that weir does not fill.
    pub reserve: Reserve,
    /// From this share of `max_connections` (0.0 to 1.0) on, weir warns in its log.
    pub warn_at: f64,
    /// A server whose own uptime is below this gets its share gradually.
    pub slow_start: Duration,
    /// The closes of a dead server's clients are spread over this time at most.
    pub close_spread: Duration,
    /// What weir needs of the servers beyond what every nats-server does.
    pub compatibility: Compatibility,
    /// Addresses of this machine to connect from, in turn. If there are none, the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// The names of the clusters that the servers belong to. If there are none, the servers' first INFOs tell.
    pub cluster_names: Vec<Box<str>>,
    /// Whether all clients of weir use the servers' WebSocket ports, so that nothing is known of the client ports.
    pub only_websocket: bool,
    /// The servers, at least one.
    pub servers: Vec<ServerParams>,
}

#[cfg(test)]
impl ServerParams {
    /// A server for tests, of which only the address of its client port is configured.
    pub fn bare(address: impl Into<String>) -> Self {
        let address = address.into();
        Self { name: None, address, websocket: None, leafnode: None, monitor: None, max_connections: None }
    }
}

#[cfg(test)]
impl Params {
    /// A cluster for tests: no key of its configuration is given, no slots are kept, and no server starts slowly.
    pub fn bare(servers: Vec<ServerParams>) -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            system: false,
            reserve: Reserve::Slots(0),
            warn_at: 1.0,
            slow_start: Duration::ZERO,
            close_spread: Duration::ZERO,
            compatibility: Compatibility::default(),
            source_addresses: Vec::new(),
            cluster_names: Vec::new(),
            only_websocket: false,
            servers,
        }
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
