//! What weir remembers of clients, logins, sources and operators across their connections. All of it is bounded.

pub mod clients;
mod damping;
pub mod kicked;
pub mod logins;
pub mod operators;
pub mod sources;
