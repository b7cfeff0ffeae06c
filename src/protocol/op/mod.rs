//! Where operations begin and end while a session is relayed: payloads are skipped by their length and never searched, nothing
//! is copied, and a chunk may be cut at any byte.

mod args;
mod client;
mod fast_path;
mod server;

pub use client::{ClientFraming, ClientScan};
pub use server::{Capture, ServerFraming, ServerScan};
