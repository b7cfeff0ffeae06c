//! Limits of connections and of new connections per second: by account, source address, user and client name.

pub mod account;
pub mod accounts;
pub mod by_key;
pub mod counted_map;
pub mod leafnodes;
pub mod lease;
pub mod limit;
pub mod live;
pub mod logins;
pub mod rate;
pub mod sources;
pub mod unproven;
pub mod users_and_names;
pub mod warned;
