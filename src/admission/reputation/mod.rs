//! What weir remembers of clients, sources and operators across their connections.

pub mod clients;
pub mod operators;
pub mod sources;
