//! Framing: where operations begin and end while a session is relayed. Payloads are skipped by their length and never
//! searched, nothing is copied, and the stream may be cut into chunks at any byte.

mod args;
mod client;
mod fast_path;
mod server;
mod whole;

pub use args::MAX_DIGITS;
pub use client::{ClientFraming, ClientScan, NO_LETTER};
pub use server::{Capture, ServerFraming, ServerScan};
pub use whole::{ClientOperation, ServerOperation};
