//! What a login says of its server, compared with the same login elsewhere: counted, and told in the log.
//!
//! A server's no is passed on to the client when every server that may be asked says no. A login that some server lets
//! in is tried elsewhere, unseen by the client; one that cannot be, since its client signed the server's nonce, is sent
//! away to come back, for two authorization errors in a row end Go, Java and JavaScript clients for good.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tracing::{debug, info, warn};

use crate::{
    admission::{Login, RefusedLogin},
    identity::has_signed,
    net::timer::now,
    outcome::Refusal,
    protocol::{connect::Connect, info::Info, refusal::may_differ_elsewhere},
    session::shared::Shared,
    upstream::{LoginFailure, Server},
    worker::with_rng,
};

/// Why no server took a client.
pub(super) enum NotAnswered {
    Refused(Refusal),
    /// `-ERR`, as this server wrote it.
    ServerError(Arc<Server>, Vec<u8>),
    /// With weir's own signature CONNECT is longer than the servers take.
    TooLong,
}

/// Where a login can be tried that a server has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Movable {
    Anywhere,
    /// Its client has signed the nonce of this server, with its own key or another one.
    Bound {
        has_signed: bool,
    },
}

impl Movable {
    /// Of a client with this CONNECT, which has signed the nonce of the server with this INFO, if any.
    pub fn of(connect: &Connect, signed_for: Option<&Info>) -> Self {
        let Some(info) = signed_for else { return Self::Anywhere };
        Self::Bound { has_signed: info.nonce().is_some_and(|nonce| has_signed(connect, nonce)) }
    }
}

/// The login of one client, and the servers that have refused it.
pub(super) struct LoginAttempt<'a> {
    shared: &'a Shared,
    login: Login,
    source: IpAddr,
    refused_by: Vec<Arc<Server>>,
    /// What the first of them said.
    line: Vec<u8>,
}

impl<'a> LoginAttempt<'a> {
    pub fn new(shared: &'a Shared, login: Login, source: IpAddr) -> Self {
        Self { shared, login, source, refused_by: Vec::new(), line: Vec::new() }
    }

    pub fn shared(&self) -> &'a Shared {
        self.shared
    }

    /// `server` has refused the login, with this line.
    ///
    /// # Errors
    /// The login is not to be tried at another server.
    pub fn refused(&mut self, server: &Arc<Server>, line: Vec<u8>, movable: Movable) -> Result<(), NotAnswered> {
        if !may_differ_elsewhere(&line) {
            return Err(NotAnswered::ServerError(Arc::clone(server), line));
        }
        debug!(server = server.name(), line = %line.escape_ascii(), "login refused");
        self.refused_by.push(Arc::clone(server));
        if self.line.is_empty() {
            self.line = line;
        }
        match movable {
            Movable::Bound { has_signed: true } => Err(self.is_sent_away_or_told(server)),
            // Whoever it is, it is not the one whose key it names.
            Movable::Bound { has_signed: false } => Err(self.says(server)),
            Movable::Anywhere => {
                let admission = &self.shared.admission;
                let refused = RefusedLogin {
                    servers: self.refused_by.len(),
                    server_fails_logins: server.logins_fail(),
                    source_fails: admission.source_reputation().fails(self.source, now()),
                };
                match admission.login_history().may_try_elsewhere(self.login.key, refused, now()) {
                    true => Ok(()),
                    false => Err(self.is_told(server)),
                }
            }
        }
    }

    /// No other server can be asked now, for this reason.
    pub fn nowhere_else(&mut self, reason: Refusal) -> NotAnswered {
        match &self.refused_by[..] {
            [] => NotAnswered::Refused(reason),
            [only] => self.is_sent_away_or_told(&Arc::clone(only)),
            [first, ..] => self.is_told(&Arc::clone(first)),
        }
    }

    fn is_sent_away_or_told(&mut self, server: &Arc<Server>) -> NotAnswered {
        let history = self.shared.admission.login_history();
        let (id, fails) = (server.id(), server.logins_fail());
        let there_are_others = self.shared.servers.len() > 1;
        match there_are_others && history.is_to_come_back(self.login, self.source, id, fails, now()) {
            true => NotAnswered::Refused(Refusal::ServerRefusesLogin),
            false => self.says(server),
        }
    }

    /// The client reads what the first server said, which may be this one.
    fn is_told(&mut self, server: &Arc<Server>) -> NotAnswered {
        let first = self.refused_by.first().unwrap_or(server);
        let others_too = self.refused_by.len() > 1;
        self.shared.admission.login_history().refused(self.login, first.id(), others_too, now());
        self.says(&Arc::clone(first))
    }

    fn says(&mut self, server: &Arc<Server>) -> NotAnswered {
        NotAnswered::ServerError(Arc::clone(server), std::mem::take(&mut self.line))
    }

    /// `server` has let the client in: whoever has refused it shortly before is alone with that.
    pub fn let_in(self, server: &Server) {
        let history = self.shared.admission.login_history();
        let before = history.succeeded(self.login, server.id(), !self.refused_by.is_empty(), now());
        let before = before.and_then(|id| self.shared.servers.get(id));
        for bad in self.refused_by.iter().chain(&before) {
            failed_here_only(bad, LoginFailure::Refused);
        }
    }
}

/// A login failed at `server`, and the same login, or one of the same account, succeeded at another server.
pub(super) fn failed_here_only(server: &Server, how: LoginFailure) {
    server.counters().login_failures[how as usize].fetch_add(1, Relaxed);
    if let Some(first_trial) = with_rng(|rng| server.login_failed(now(), rng)) {
        let (server, reason) = (server.name(), how.name());
        match how {
            LoginFailure::Refused => warn!(
                server,
                reason,
                ?first_trial,
                "a server refuses a login that another server lets in: other servers go first"
            ),
            LoginFailure::TimedOut => {
                warn!(
                    server,
                    reason,
                    ?first_trial,
                    "a server does not answer logins, and others do: other servers go first"
                )
            }
        }
    }
}

/// `server` has let a client in.
pub(super) fn succeeded(server: &Server) {
    if server.login_succeeded() {
        info!(server = server.name(), "a server lets clients in again: it gets its share of them");
    }
}
