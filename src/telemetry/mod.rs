//! What weir counts and records about itself.

pub mod bad_logins;
pub mod counters;
pub mod moment;
pub mod process;
pub mod process_use;
pub mod refused_accounts;
pub mod reloads;
pub mod storms;
mod top;
