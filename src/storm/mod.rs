//! The storm tools: clients that reconnect as the official client libraries do, against a real address ([`live`],
//! `weir storm`) or against the admission code in virtual time ([`plan`], `weir plan`).

pub mod client_mix;
pub mod live;
pub mod plan;
mod text;
