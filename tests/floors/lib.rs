//! Compiles the lower floors of `src/` without what stands above them, so that the compiler checks which floor uses
//! which (ARCHITECTURE.md). Each feature adds a floor, with the dependencies that it may have:
//!
//! - none: words. No clock, socket, task, log or lock (`words/clippy.toml`).
//! - `decisions`: no socket, task or log, and time is an argument (`decisions/clippy.toml`).
//! - `verbs`: no configuration, no endpoints, no command line.
//!
//! Nothing runs this crate. `scripts/floors` has it checked.

#![allow(dead_code, unused_imports, reason = "what only the floors above use is unused here")]

#[path = "../../src/client_library/mod.rs"]
mod client_library;
#[path = "../../src/outcome.rs"]
mod outcome;
#[path = "../../src/protocol/mod.rs"]
mod protocol;

#[cfg(feature = "decisions")]
#[path = "../../src/admission/mod.rs"]
mod admission;
#[cfg(feature = "decisions")]
#[path = "../../src/events/mod.rs"]
mod events;
#[cfg(feature = "decisions")]
#[path = "../../src/fleet/mod.rs"]
mod fleet;
#[cfg(feature = "decisions")]
#[path = "../../src/growth/mod.rs"]
mod growth;
#[cfg(feature = "decisions")]
#[path = "../../src/identity/mod.rs"]
mod identity;
#[cfg(feature = "decisions")]
#[path = "../../src/lapse.rs"]
mod lapse;
#[cfg(feature = "decisions")]
#[path = "../../src/rebalance/mod.rs"]
mod rebalance;
#[cfg(feature = "decisions")]
#[path = "../../src/reports/mod.rs"]
mod reports;
#[cfg(feature = "decisions")]
#[path = "../../src/tally/mod.rs"]
mod tally;
#[cfg(feature = "decisions")]
#[path = "../../src/upstream/mod.rs"]
mod upstream;

#[cfg(feature = "verbs")]
#[path = "../../src/advertised_info.rs"]
mod advertised_info;
#[cfg(feature = "verbs")]
#[path = "../../src/cluster/mod.rs"]
mod cluster;
#[cfg(feature = "verbs")]
#[path = "../../src/dial/mod.rs"]
mod dial;
#[cfg(feature = "verbs")]
#[path = "../../src/dispatch.rs"]
mod dispatch;
#[cfg(feature = "verbs")]
#[path = "../../src/fleet_link/mod.rs"]
mod fleet_link;
#[cfg(feature = "verbs")]
#[path = "../../src/net/mod.rs"]
mod net;
#[cfg(feature = "verbs")]
#[path = "../../src/notify/mod.rs"]
mod notify;
#[cfg(feature = "verbs")]
#[path = "../../src/operator_file.rs"]
mod operator_file;
#[cfg(feature = "verbs")]
#[path = "../../src/relay/mod.rs"]
mod relay;
#[cfg(feature = "verbs")]
#[path = "../../src/session/mod.rs"]
mod session;
#[cfg(feature = "verbs")]
#[path = "../../src/telemetry/mod.rs"]
mod telemetry;
#[cfg(feature = "verbs")]
#[path = "../../src/tls/mod.rs"]
mod tls;
#[cfg(feature = "verbs")]
#[path = "../../src/worker/mod.rs"]
mod worker;
