//! Free ports for servers that must come back at the same address.
//!
//! The ports are below the range that the kernel takes client ports from, so that no outgoing connection of a test can
//! take the port of a server that is down.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that is free now and that this function has not returned before in this process.
pub fn free() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = range.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or(32768_u16);
    let span = if low > 12_000 { 10_000..low } else { 40_000..65_000 };
    for _ in 0..10_000 {
        let port = fastrand::u16(span.clone());
        let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free && GIVEN.lock().expect("ports").insert(port) {
            return port;
        }
    }
    panic!("no free port in {span:?}");
}
