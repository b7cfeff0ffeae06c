//! The servers of the cluster: their load, their health, and which one a new client goes to.

use std::time::Duration;

/// Slots of each server that weir never fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reserve {
    /// So many slots.
    Slots(u32),
    /// This part of the capacity, 0.0 to 1.0, rounded up.
    Share(f64),
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
    /// How often each server's `/varz` is read (jittered).
    pub poll_interval: Duration,
    /// Slots that are never filled on each server.
    pub reserve: Reserve,
    /// From this share of `max_connections` (0.0 to 1.0) weir warns in its log.
    pub warn_at: f64,
    /// A server younger than this (by its own uptime) gets its share gradually.
    pub slow_start: Duration,
    /// The servers, at least one.
    pub servers: Vec<ServerParams>,
}
