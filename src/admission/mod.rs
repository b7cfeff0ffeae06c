//! Whether and when a client gets in.

mod accept_check;
mod client;
mod connect_check;
mod controller;
mod deadlines;
#[cfg(test)]
mod fairness;
mod params;
mod queue;
mod quota;
mod reputation;
mod retry_schedule;
#[cfg(test)]
mod simulation;
mod throughput;
mod wait;

pub use self::{
    accept_check::AcceptPermit,
    client::{Client, Pass},
    controller::Admission,
    deadlines::Deadlines,
    params::{AccountLimits, Params, PatternQuota, Quota},
    queue::{release::Failover, waiting::Waiter},
    quota::{
        accounts::AccountSlot,
        limit::{Limit, Permit},
        rate::Rate,
        users_and_names::QuotaIdentity,
    },
    wait::{Step, Wait},
};
pub use crate::client_library::returns::Return;
