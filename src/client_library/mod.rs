//! What is known of the official client libraries: how long they wait, when they try again, what a text makes them do.
//! [`table`] is the only place with the figures. The deadlines of admission, the retry schedule and the storm tools
//! derive from it.

pub mod behaviour;
pub mod library;
pub mod returns;
pub mod table;
