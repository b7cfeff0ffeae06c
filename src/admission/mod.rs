//! Whether and when a client gets in.
//!
//! ```text
//! accept ──► accept check ──► [INFO, CONNECT] ──► connect check ──► turn ──► dial ──► PONG
//!            at_accept                            Wait::at_connect     next_turns      handshake_finished
//!
//!   accept check, by the source            counted in               a client beyond it is told
//!     max_clients of the listener          quota::limit             listener_full
//!     max_connections, rate of the source  quota::sources           source_quota, source_rate
//!     max_leafnodes of the source          quota::sources           source_leafnode_quota
//!
//!   connect check, by who asks             counted in               a client beyond it
//!     kicked by an operator for a time     reputation::kicked        is refused: kicked
//!     max_connections of the account       quota::account           is refused: account_quota
//!     max_leafnodes of the account         quota::leafnodes         is refused: account_leafnode_quota
//!     quotas by user and by client name    quota::users_and_names   is refused: user_quota, name_quota
//!     rates by user and by client name     quota::users_and_names   waits for its token, or user_rate, name_rate
//!     rate of the account                  quota::account           waits in the queue, or account_rate
//!     max_handshakes of the account        quota::account           waits in the queue, or hold_expired
//!     headroom of the servers              upstream::load           waits in the queue, or server_capacity
//!     handshakes under way on a server     upstream::concurrency    waits in the queue, or hold_expired
//!     pace: rate, burst                    quota::rate              waits in the queue, or hold_expired
//!     a pause of all turns                 controller               waits in the queue, or paused
//!     places to wait: max_held             controller               is refused: queue_full
//!
//!   in the queue                           decided by
//!     who is next                          queue::fair_lanes: priority, the accounts' weights, seniority
//!     who goes now                         queue::release: the first client within the limits above
//!     how long it may wait                 deadlines: its library, its account's login time
//!     how long it has to wait              queue::position and throughput: clients ahead ÷ service rate or pace
//!     when it is told that it is too long  retry_schedule: by when its library comes back
//! ```
//!
//! docs/explanation/admission.md tells the same to operators.
//!
//! In front of servers that send a nonce the server is dialled before CONNECT. The client waits for its turn by its
//! source then ([`Wait::before_connect`]), and the limits of its account apply once it has said who it is
//! ([`Admission::enter_account`]).
//!
//! # What is public
//!
//! - [`Admission::at_accept`], the accept check.
//! - [`Wait`], the only way to the connect check, the queue and the moment of a refusal. Sessions and `weir plan` both
//!   go through it.
//! - [`Admission::next_turns`], called by the task that hands out turns (`dispatch`), and [`Admission::place_again`],
//!   for a client whose server has failed it.
//! - Reports: `handshake_finished`, `passthrough_handshake_finished`, `login_unanswered`, `session_lost`,
//!   `session_ended`, and [`Admission::source_reputation`], [`Admission::login_history`], [`Admission::operators`] and
//!   [`Admission::accounts`] for what servers say of logins and accounts.
//! - [`Admission::moving`], the clients that weir moves to another server.
//! - [`Admission::kicked`], the clients that an operator keeps away.
//! - `pause`, `resume`, `is_paused`: nobody gets a turn, and whoever comes waits as long as it may.
//! - `begin_lame_duck`, `is_lame_duck`, `begin_drain`, `is_draining`, `sweep`; and what is only shown: `queued`,
//!   `waiting`, `pace`, `refusals`, `warned`.
//!
//! # Observe mode
//!
//! In [`Mode::Observe`] the same checks are made, and nobody is held or refused for what they say (`observe`): what
//! they would have done is counted.
//!
//! # What is counted, and by what
//!
//! Everything counted is a guard that gives back what it holds on drop. [`Permit`] counts where there is nothing but
//! a number: clients of a listener, refusals under way, clients that wait outside the queue. A slot knows more than
//! that: the slot of a source, user or name (`KeySlot`) finds its entry in a table again and redeems promised tokens;
//! an [`AccountSlot`] also counts handshakes, tells sessions from connections that no server counts yet, and can move
//! to another account; a server's `Slot` does the same for a server's load.

mod accept_check;
mod client;
mod connect_check;
mod controller;
mod deadlines;
#[cfg(test)]
mod fairness;
mod fleet_pace;
mod fleet_rates;
pub mod ghosts;
pub mod moving;
mod observe;
#[cfg(test)]
mod observe_simulation;
mod params;
pub mod policies;
mod queue;
mod quota;
mod remembered;
mod reputation;
mod retry_schedule;
#[cfg(test)]
mod simulation;
mod throughput;
mod wait;

pub use self::{
    accept_check::AcceptPermit,
    client::{Claim, Client, Pass, Proof, SilentClient},
    controller::Admission,
    deadlines::{Deadlines, FAIR_TIME, usual_hold},
    observe::{Mode, Would, WouldHold},
    params::{AccountLimits, Params, PatternQuota, Quota, RehomeLimits},
    queue::{release::Failover, waiting::Waiter},
    quota::{
        account::{Account, AccountSlot, LearnsAnew, LoginOf},
        accounts::Accounts,
        limit::{Limit, Permit},
        rate::Rate,
        sources::{BySource, Source, SourcePermit},
        users_and_names::QuotaIdentity,
    },
    remembered::RememberedAdmission,
    reputation::{
        logins::{Login, RefusedLogin},
        operators::OperatorPermit,
        sources::{BeforeConnect, LoginTry},
    },
    wait::{Step, Wait},
};
pub use crate::client_library::returns::Return;
