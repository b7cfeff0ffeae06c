//! How many logins a server is given at a time.

pub mod baseline;
pub mod limit;
pub mod login_speed;
pub mod usual;
