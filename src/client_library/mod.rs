//! Facts about client libraries: their deadlines, retries and reactions. Deadlines of admission and the storm tools derive from them.

pub mod behaviour;
pub mod returns;
pub mod table;
