//! Moving clients from server to server: how many go from where to where, who goes first, and how many may be on their
//! way at a time; and which connections end for their age. Nothing here ends a session: `server/mover` does, and tells
//! what has become of it.

pub mod age;
pub mod history;
pub mod plan;
pub mod run;
#[cfg(test)]
mod simulation;
pub mod under_way;
