//! weir: one address in front of a NATS cluster that keeps it alive.
//!
//! The path of a client, top to bottom, is [`session`]: accept → door → preface → door → dial → relay → close.
//! The floors below it, lowest first; a file imports any lower floor and never a higher one (`tests/floors.rs` checks it):
//!
//! - F0 words: [`protocol`], [`close`]. Bytes in, values out; no clock, socket, log or lock.
//! - F1 decisions: [`identity`], [`admission`], [`upstream`]. `now` goes in, a verdict comes out.
//! - F2 verbs: one file, one thing done with sockets; [`session`] strings them together.
//! - F3 assembly: [`config`], [`metrics`], [`http`], [`server`], [`cli`], and the tools in [`storm`].

pub mod close;
pub mod protocol;

pub mod admission;
pub mod identity;
pub mod upstream;

pub mod clock;
pub mod dial;
pub mod drain;
pub mod farewell;
pub mod flight;
pub mod greeting;
pub mod listener;
pub mod monitor;
pub mod preface;
pub mod proxied;
pub mod proxy_key;
pub mod relay;
pub mod session;
pub mod sessions;
pub mod socket;
pub mod stream;
pub mod tally;
pub mod tls;
pub mod turn;
pub mod websocket;

pub mod cli;
pub mod config;
pub mod http;
pub mod kernel;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod server;
pub mod storm;
