//! What weir remembers of clients, sources and operators across their connections. All of it is bounded.

pub mod clients;
pub mod operators;
pub mod sources;
