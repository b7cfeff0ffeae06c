//! Servers for `benches/admission.rs` and `examples/bench_instructions.rs` to choose from.

use std::{sync::Arc, time::Duration};

use weir::internals::upstream::{
    self, LoginSpeed, Reserve, ServerParams, Servers,
    placement::{Tier, View},
};

/// `servers` eligible servers with different loads.
pub(crate) fn views(servers: u32) -> Vec<View> {
    let view = |n: u32| View {
        tier: Tier::Eligible,
        projected: (n * 7919) % 1000,
        ceiling: 10_000,
        handshakes: n % 5,
        handshake_limit: 256,
        frees_up_soon: false,
        login_speed: LoginSpeed::Fair,
    };
    (0..servers).map(view).collect()
}

/// `count` servers that take `max_connections` clients each. Without a monitor they need no reading.
pub(crate) fn servers(count: usize, max_connections: u32) -> Arc<Servers> {
    let one = |n| ServerParams {
        name: Some(format!("n{n}")),
        address: format!("192.0.2.{n}:4222"),
        websocket: None,
        leafnode: None,
        monitor: None,
        max_connections: Some(max_connections),
    };
    Arc::new(Servers::new(&upstream::Params {
        system: false,
        poll_interval: Duration::from_secs(1),
        reserve: Reserve::Slots(0),
        warn_at: 0.8,
        slow_start: Duration::ZERO,
        close_spread: Duration::from_secs(2),
        compatibility: upstream::Compatibility::default(),
        source_addresses: Vec::new(),
        cluster_names: Vec::new(),
        only_websocket: false,
        servers: (0..count).map(one).collect(),
    }))
}
