//! Faults as tests: real nats-servers, a real weir, and clients that are in, that come back, and that a quota keeps
//! out, while something breaks. After each fault all has to be as it was, no quota was exceeded at any moment, whoever
//! had to stay connected did, and when the clients have left nothing is left of them. The recovery time is printed, and
//! asserted nowhere. `scripts/chaos` runs all of it and prints those times as a table.
//!
//! Tests that take long or much of the machine are ignored unless asked for; `scripts/chaos` asks for them.
//!
//! A fault is a function that takes what happens meanwhile, as the middle of the fault is a good moment for more:
//! `nothing`, or an async function that has the [`scene::Scene`]. A test of more stands beside the first one of its
//! fault:
//!
//! ```ignore
//! all_are_killed(async |scene: &mut Scene| { scene.weir.reload().await; }).await;
//! ```
//!
//! What tests/it shows of a fault is not shown here again:
//!
//! | fault | in tests/it | here |
//! |---|---|---|
//! | a server is killed | `failover`, `rehome`, `moves`, `account_quota` | `servers` (each in turn, re-homed) |
//! | every server gone and back | `failover` (at the start), `account_quota` (without load) | `servers` |
//! | a server is stopped (SIGSTOP) | `server_faults`, `rehome`, `tcp_timeouts`, `relay` | - |
//! | all servers are stopped | - | `servers` |
//! | weir is stopped | `fleet_cut` (one of a fleet), `service_manager` (one thread) | `weir_itself` |
//! | weir is killed and started again | `fleet_quota` (one of a fleet, for good) | `weir_itself`, `fleet` |
//! | weir is cut off from a server | `links`, `fleet_cut` (without load) | `network` |
//! | weir is cut off from all servers | `fleet_cut` (one of a fleet) | `network` |
//! | a monitoring port is silent | `server_faults` (an open connection) | `network` (packets are lost) |
//! | clients are cut off from weir | `ghosts` (one client) | `network` |
//! | packets are lost | - | `network` (in bursts) |
//! | a machine vanishes without a FIN | `ghosts` (a client's), `tcp_timeouts` | `network` (all clients', one server) |
//! | the way is slow or half open | `hanging_logins` (INFO and no more), `names` | `delay` (by a relay of TCP) |
//! | a monitor stalls, lies, floods | `server_faults` (one of them) | `monitors` (all, with load and a quota) |
//! | a monitor answers for another | `server_identity` | `monitors` (all, with load and a quota) |
//! | no descriptor is left | `file_limit`, `admin_port` | `descriptors` (a storm of clients that come back) |
//! | memory is limited | `relay` (memory is bounded), `websocket_memory` | `memory` (RLIMIT_AS: a little, none) |
//! | standard error is full or closed | `log` (each way) | `standard_error` (under load, and read again) |
//! | the clock is set | - | `clock` (weir's clock of the day) |
//! | another process takes over meanwhile | `takeover`, `takeover_kinds` | `takeovers` |
//! | several of these at once | `fleet_cut` (a few) | `random` |
//!
//! What cannot be shown here: packets are lost by links that go down for milliseconds, not one by one (kernels without
//! `netem`); the clock of nats-server cannot be set without the machine's; a container's limit of memory needs its
//! cgroup, and ends weir as SIGKILL does.

mod clock;
mod delay;
mod descriptors;
mod fleet;
mod memory;
mod monitors;
mod network;
mod random;
mod relay;
mod scene;
mod servers;
mod standard_error;
mod takeovers;
mod watch;
mod weir_itself;
