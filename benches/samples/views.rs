//! Servers to choose from, as `benches/doors.rs` and `examples/bench_instructions.rs` measure it.

use weir::upstream::placement::{Rank, View};

/// So many eligible servers, each with another load.
pub(crate) fn views(servers: u32) -> Vec<View> {
    let view = |n: u32| View {
        rank: Rank::Eligible,
        projected: (n * 7919) % 1000,
        ceiling: 10_000,
        handshakes: n % 5,
        handshake_limit: 256,
        is_lively: false,
    };
    (0..servers).map(view).collect()
}
