//! What is known of client libraries: how long they wait, when they try again, what a text makes them do. [`table`] is
//! the only place with the figures of the official ones, [`others`] has what little is known of more, and [`lang`] asks
//! both. The deadlines of admission, the retry schedule and the storm tools derive from them.

pub mod behaviour;
pub mod lang;
pub mod library;
pub mod others;
pub mod returns;
pub mod table;
