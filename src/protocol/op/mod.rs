//! Framing: where operations begin and end while a session is relayed. Payloads are skipped by their length and never
//! searched, nothing is copied, and the stream may be cut into chunks at any byte.

mod args;
mod client;
mod fast_path;
mod leafnode;
#[cfg(test)]
#[path = "tests/reference.rs"]
mod reference;
mod server;
mod whole;

pub use args::MAX_DIGITS;
pub use client::{ClientFraming, ClientScan, NO_LETTER};
pub use leafnode::{LeafnodeFraming, LeafnodeScan};
pub use server::{Capture, ServerFraming, ServerScan};
pub use whole::{ClientOperation, ServerOperation};

/// No stream gets so far: one that is said to have passed more messages or bytes is none.
const MOST_COUNTED: u64 = 1 << 62;

/// The longest payload: its size has [`MAX_DIGITS`] digits.
const LONGEST_PAYLOAD: u32 = 999_999_999;

/// For fields that are left out where they say nothing.
fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
