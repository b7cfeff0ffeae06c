//! `weir run --takeover`: a new process takes over from the one that runs, without a client's or a server's noticing.
//!
//! ```text
//! new process                          old process                     clients
//!   Hello ──────────────────────────►
//!         ◄────────────────────────── Offer, listening sockets
//!   reads servers, starts workers        serves as before
//!   Ready ──────────────────────────►
//!                                        accepts nobody; logins end      wait in the kernel's queues
//!         ◄────────────────────────── Sessions, Batch                    of the batch: stand still
//!   counts them
//!   Counted ────────────────────────►
//!         ◄────────────────────────── Go                                 of the batch: go on
//!         ◄────────────────────────── Stay, Serve                        to come: the new process's
//!   Serving ────────────────────────►                                    are accepted
//!         ◄────────────────────────── Fleet                              get what the fleet shares again
//!   removes who has ended ◄────────── Ended                              of those that stay: drained
//! ```
//!
//! Until `Go` a session is the old process's, and after it the new one's. What `Go` is for a batch, `Serve` is for all
//! clients to come. Until the old process sends it, it goes on with all that it still has when the new one ends, stands
//! still or says that it cannot. From then on the old process accepts nobody as long as the new one is there, however
//! late that is, and goes on only where it has ended. The new process accepts clients once it has read `Serve`, or has
//! seen that the old one has ended. A process is there as long as its end of the connection is open, and neither closes
//! it while it serves. So there is no moment at which both serve.
//!
//! What no process of its own can be given stays: sessions in which weir ends TLS or WebSocket. The old process drains
//! those and ends.

mod giving;
mod message;
#[cfg(test)]
mod simulation;
mod successor;
mod taking;

pub use self::{
    giving::Giving,
    message::FleetName,
    taking::{Home, Made, TakenSockets, TakeoverError, Taking, taken_back},
};

/// What the request over the admin socket asks for, as HTTP names it.
pub const PROTOCOL: &str = "weir-takeover";
