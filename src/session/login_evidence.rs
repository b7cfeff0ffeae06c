//! What a login says of its server, compared with the same login elsewhere: counted, and told in the log.

use std::sync::atomic::Ordering::Relaxed;

use tracing::{info, warn};

use crate::{
    net::timer::now,
    session::shared::Shared,
    upstream::{LoginFailure, Server},
    worker::with_rng,
};

/// A login failed at `server`, and the same login, or one of the same account, succeeded at another server.
pub(super) fn failed_here_only(shared: &Shared, server: &Server, how: LoginFailure) {
    shared.counters.servers[server.index()].login_failures[how as usize].fetch_add(1, Relaxed);
    if let Some(first_trial) = with_rng(|rng| server.login_failed(now(), rng)) {
        let what = match how {
            LoginFailure::Refused => "a server refuses a login that another server lets in: other servers go first",
            LoginFailure::TimedOut => "a server does not answer logins, and others do: other servers go first",
        };
        warn!(server = server.name(), reason = how.name(), ?first_trial, "{what}");
    }
}

/// `server` has let a client in.
pub(super) fn succeeded(server: &Server) {
    if server.login_succeeded() {
        info!(server = server.name(), "a server lets clients in again: it gets its share of them");
    }
}
