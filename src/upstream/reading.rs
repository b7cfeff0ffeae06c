//! A reading: what a server said of itself (`VARZ`).

use std::time::Duration;

/// The part of `VARZ` that weir uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The name that the server gives itself.
    pub server_name: String,
    pub version: String,
    /// Client connections that it counts now.
    pub connections: u32,
    /// Leafnodes that it counts now, those that it has connected to others as included.
    pub leafnodes: u32,
    /// The port at which it takes leafnodes, if it does.
    pub leafnode_port: Option<u16>,
    /// How long it waits there for CONNECT, counted from its accept.
    pub leafnode_auth_timeout: Option<Duration>,
    /// Its own `max_connections`; `None` is no limit.
    pub max_connections: Option<u32>,
    /// Its limit for the argument of one control line, CONNECT's included, in bytes.
    pub max_control_line: Option<usize>,
    /// How long it waits for CONNECT, counted from its accept.
    pub auth_timeout: Option<Duration>,
    /// The same at its WebSocket port, where that is another.
    pub websocket_auth_timeout: Option<Duration>,
    /// Which process it is: each has an id of its own.
    pub server_id: String,
    /// For how long it has been running.
    pub uptime: Duration,
    /// The name of its system account, if it has one.
    pub system_account: Option<String>,
    /// Whether its clients have to use TLS.
    pub requires_tls: bool,
    /// Whether it trusts an operator, so that its users are those of JWTs.
    pub trusts_operator: bool,
    /// What tells its configuration from another one: the digest of the file or, from older servers, when they read it;
    /// empty where it says neither.
    pub config: String,
    /// CPU that its process used in its last second; 1.0 is one core.
    pub cpu: f64,
    /// Cores that it may use; 0 where it does not say.
    pub cores: u32,
}
