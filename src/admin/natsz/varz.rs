//! `/varz`: this weir as nats-server would show itself.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering::Relaxed,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{
    admin::natsz::{Natsz, go_text, usage},
    admission::Limit,
    outcome::Refusal,
    session::Shared,
    telemetry::{process::STARTED, reloads::RELOADS},
};

/// `/varz`.
#[derive(Debug, Serialize)]
pub struct Varz {
    server_id: String,
    server_name: String,
    version: &'static str,
    proto: u8,
    host: String,
    port: u16,
    max_connections: u32,
    http_host: String,
    http_port: u16,
    http_base_path: String,
    start: String,
    now: String,
    uptime: String,
    mem: u64,
    cores: usize,
    gomaxprocs: usize,
    cpu: f64,
    connections: usize,
    total_connections: u64,
    routes: u32,
    remotes: u32,
    leafnodes: usize,
    in_msgs: u64,
    in_bytes: u64,
    in_client_msgs: u64,
    in_client_bytes: u64,
    out_msgs: u64,
    out_bytes: u64,
    out_client_msgs: u64,
    out_client_bytes: u64,
    slow_consumers: u64,
    stale_connections: u64,
    subscriptions: u32,
    http_req_stats: BTreeMap<&'static str, u64>,
    config_load_time: String,
    slow_consumer_stats: BTreeMap<&'static str, u64>,
    /// Clients that wait for their turn.
    held: usize,
    /// Clients that have been refused.
    refused: u64,
}

/// The address that the first listener is bound to.
pub fn host(shared: &Shared) -> String {
    shared.listeners.load().first().map_or_else(String::new, |(address, _)| address.ip().to_string())
}

/// The connections that weir has accepted.
pub fn accepted(shared: &Shared) -> u64 {
    shared.next_id.load(Relaxed).saturating_sub(1)
}

/// What `/varz` shows now.
pub fn of(natsz: &Natsz) -> Varz {
    let shared = &natsz.shared;
    let (now, totals) = (SystemTime::now(), shared.counters.totals());
    let listeners = shared.listeners.load();
    let most = listeners.iter().map(|(_, limit)| Limit::most(limit)).fold(0, u32::saturating_add);
    let started = (*STARTED).max(UNIX_EPOCH);
    let cores = usage::cores();
    // nats-server counts them apart from its clients.
    let leafnodes = shared.sessions.leafnodes();
    Varz {
        server_id: shared.advertised_info.own_server_id().to_owned(),
        server_name: shared.advertised_info.own_name().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        proto: 1,
        host: host(shared),
        port: listeners.first().map_or(0, |(address, _)| address.port()),
        // All listeners share what the limit of open files leaves.
        max_connections: most.min(shared.descriptors.clients.most()),
        http_host: natsz.monitor.map_or_else(String::new, |address| address.ip().to_string()),
        http_port: natsz.monitor.map_or(0, |address| address.port()),
        http_base_path: natsz.base_path.clone(),
        start: go_text::time(started),
        now: go_text::time(now),
        uptime: go_text::uptime(now.duration_since(started).unwrap_or_default()),
        mem: usage::resident_memory(),
        cores,
        gomaxprocs: cores,
        cpu: natsz.usage.cpu_percent(),
        connections: shared.sessions.len().saturating_sub(leafnodes),
        total_connections: accepted(shared),
        routes: 0,
        remotes: 0,
        leafnodes,
        in_msgs: totals.messages_up,
        in_bytes: totals.payload_up,
        in_client_msgs: totals.messages_up,
        in_client_bytes: totals.payload_up,
        out_msgs: totals.messages_down,
        out_bytes: totals.payload_down,
        out_client_msgs: totals.messages_down,
        out_client_bytes: totals.payload_down,
        slow_consumers: 0,
        stale_connections: 0,
        subscriptions: 0,
        http_req_stats: natsz.requests.all(),
        // As nats-server's: the start, then each reload that found a good configuration.
        config_load_time: go_text::time(RELOADS.in_force().map_or(started, |in_force| in_force.since)),
        slow_consumer_stats: ["clients", "routes", "gateways", "leafs"].map(|kind| (kind, 0)).into(),
        held: shared.admission.waiting().held(),
        refused: Refusal::ALL.into_iter().map(|reason| shared.counters.refused(reason)).sum(),
    }
}
