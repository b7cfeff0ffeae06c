//! Re-homing: the server of a session is lost, and the session goes on with another one without its client's noticing.
//! Where an account asks for it (`rehome`), and only for logins that weir can repeat: one that signs a server's nonce
//! needs the client.

use std::{fmt, future::poll_fn, net::IpAddr, pin::pin, sync::Arc, task::Poll, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;

use crate::{
    admission::{Account, Claim, Client, Login, Pass, Proof, QuotaIdentity, RehomeLimits, Wait},
    client_library::returns::Return,
    dial::{self, DialError, LoggedIn},
    dispatch::{SessionWait, TurnSender},
    identity::{ClientKey, CredentialKey},
    net::timer::now,
    outcome::{Cause, MoveCause, MoveResult, Party},
    protocol::{connect::Connect, info::Info},
    relay::{
        Base64, Ended, HomelessEnd, Known, NewServer, TrackedClient, TrackedServer,
        registry::{AtServer, SessionHandle},
    },
    session::{
        await_turn::{Waited, follow},
        connect_upstream::connect_with_failover,
        context::Context,
        established::Established,
        failover::DialPort,
        login_evidence::{LoginAttempt, NotAnswered},
        move_orders::MoveOrder,
        shared::Shared,
        takeover,
    },
    upstream::{Port, Server},
    worker::with_rng,
};

/// How long a server may take to answer a PING when weir asks for a sign of life, since it does not answer otherwise.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// How long a session whose client is slow waits for what its lost server has sent, once another one has let it in.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);

/// How soon at the latest a login is tried again for which no server had room.
const AGAIN: Duration = Duration::from_millis(250);

/// How long the server may take to answer whether it has closed only this connection.
const IS_LOST_WITHIN: Duration = Duration::from_secs(1);

/// What a session needs to log its client in at another server.
pub(super) struct RehomeTerms {
    /// As weir has sent it, without a signature of weir's own.
    connect: Box<[u8]>,
    pub credential: CredentialKey,
    pub claim: Claim,
    pub client: ClientKey,
    pub source: IpAddr,
    pub port: DialPort,
    pub proxy_header: Box<[u8]>,
    /// Which server process the session is on.
    server_id: Box<str>,
    /// Its client gets what it publishes itself.
    echo: bool,
}

impl RehomeTerms {
    /// Those of a client that has just been let in by the server with this INFO; `None` where its session ends with its
    /// server.
    pub fn of(
        cx: &Context,
        connect: &Connect,
        (credential, claim): (CredentialKey, Claim),
        (pass, info): (&Pass, &Info),
        proxy_header: Vec<u8>,
    ) -> Option<(Self, Known)> {
        let limits = pass.account.account().rehome()?;
        // A verbose client expects an answer to each operation, and would get some twice.
        if connect.signs() || connect.verbose() {
            return None;
        }
        let mut words = Vec::with_capacity(512);
        connect.write(&mut words);
        let terms = Self {
            connect: words.into(),
            credential,
            claim,
            client: cx.log.client?,
            source: cx.source(),
            port: DialPort::of(cx),
            proxy_header: proxy_header.into(),
            server_id: info.server_id().into(),
            echo: connect.echo(),
        };
        let most_bytes = limits.memory.get() as usize;
        Some((terms, Known::new(most_bytes)))
    }
}

/// A session that goes on with another server when its own is lost.
pub(super) struct Rehomable {
    pub session: Box<Established<TrackedClient, TrackedServer>>,
    pub terms: RehomeTerms,
}

/// Until when a session is relayed.
enum Until {
    Ended(Ended),
    /// It is to find out whether its server answers.
    Asked,
    /// It has an order to go to another server.
    Ordered,
    /// It is to stop, so that it can go to another process.
    Stopped,
    /// The answer is due.
    Due,
}

/// Why a session is relayed no more.
enum Left {
    Ended(Ended),
    /// Its server does not answer.
    Silent,
    Ordered(MoveOrder),
    Stopped,
}

/// Why no other server has the session.
enum NoHome {
    /// The client has left, or the session is to end.
    Over(Ended),
    /// Its server is there, and has closed this connection only.
    Meant,
    /// A server has refused the login, with this line.
    Refused(Vec<u8>),
    /// Nobody had room in time, or the session cannot be moved.
    Not(&'static str),
}

impl NoHome {
    fn after(end: HomelessEnd) -> Self {
        match end {
            HomelessEnd::Ended(ended) => Self::Over(ended),
            HomelessEnd::Bound(bound) => Self::Not(bound.text()),
            HomelessEnd::ServerRead => Self::Not("its server has gone"),
        }
    }
}

impl Rehomable {
    pub fn new(session: Box<Established<TrackedClient, TrackedServer>>, terms: RehomeTerms) -> Self {
        session.registered.handle().set_rehomable();
        Self { session, terms }
    }

    /// The session began then. Relays until the client leaves, no server has its session, or another process has it.
    pub async fn relay(mut self: Box<Self>, began: Instant) {
        let ended = loop {
            let (ended, is_silent) = match self.relay_on_this_server().await {
                Left::Ended(ended) => (ended, false),
                Left::Silent => (Ended { party: Party::Upstream, cause: Cause::SocketError }, true),
                Left::Ordered(order) => match Box::pin(self.carry_out(order)).await {
                    Some(left) => left,
                    None => continue,
                },
                Left::Stopped => match Box::pin(takeover::stop(&self.session, began, Some(&self.terms))).await {
                    true => return,
                    false => continue,
                },
            };
            if !ended.by_server() {
                break ended;
            }
            match Box::pin(self.rehome(ended, is_silent)).await {
                Ok(()) => {}
                Err(ended) => break ended,
            }
        };
        // One that came while it ended is answered by that.
        drop(self.session.shared.move_orders.take(self.session.registered.handle().facts().id));
        self.session.over(began, ended).await;
    }

    /// Relays until one side ends, the server does not answer any more, or the session is to go elsewhere.
    async fn relay_on_this_server(&mut self) -> Left {
        let mut answers_by = None;
        loop {
            match self.relay_until_probe(answers_by).await {
                Until::Ended(ended) => return Left::Ended(ended),
                Until::Ordered => {
                    let id = self.session.registered.handle().facts().id;
                    if let Some(order) = self.session.shared.move_orders.take(id) {
                        return Left::Ordered(order);
                    }
                }
                Until::Stopped => return Left::Stopped,
                Until::Asked if answers_by.is_none() => {
                    self.session.relay.probe().await;
                    answers_by = Some(Instant::now() + ANSWERS_WITHIN);
                }
                Until::Asked => {}
                Until::Due if !self.session.relay.awaits_probe() => answers_by = None,
                Until::Due if !self.session.relay.client_takes() => {
                    answers_by = Some(Instant::now() + ANSWERS_WITHIN);
                }
                Until::Due => return Left::Silent,
            }
        }
    }

    async fn relay_until_probe(&mut self, due: Option<Instant>) -> Until {
        let Established { relay, registered, .. } = &mut *self.session;
        let (mut run, handle) = (pin!(relay.run(registered)), registered.handle());
        let asked_or_ended = poll_fn(|cx| {
            let ended = run.as_mut().poll(cx).map(Until::Ended);
            if ended.is_pending() && handle.take_probe_requested() {
                Poll::Ready(Until::Asked)
            } else if ended.is_pending() && handle.take_move_requested() {
                Poll::Ready(Until::Ordered)
            } else if ended.is_pending() && handle.take_stop_requested() {
                Poll::Ready(Until::Stopped)
            } else {
                ended
            }
        });
        match due {
            None => asked_or_ended.await,
            Some(due) => Box::pin(timeout_at(due, asked_or_ended)).await.unwrap_or(Until::Due),
        }
    }

    /// The server has gone: finds another one.
    ///
    /// # Errors
    /// How the session ends.
    async fn rehome(&mut self, lost: Ended, is_silent: bool) -> Result<(), Ended> {
        let account = self.session.account.account();
        let Some((limits, account)) = account.and_then(|account| Some((account.rehome()?, account))) else {
            return Err(lost);
        };
        let shared = Arc::clone(&self.session.shared);
        let id = self.session.registered.handle().facts().id;
        let from = Arc::clone(self.session.server.server());
        from.may_be_another_process();
        let not = match self.go_elsewhere(&from, is_silent, (limits, &account)).await {
            Ok(()) => {
                let to = self.session.server.server();
                let (subscriptions, bytes) = self.session.relay.known().size();
                debug!(id, from = from.name(), to = to.name(), subscriptions, bytes, "session re-homed");
                shared.counters.moved(MoveCause::ServerLost, MoveResult::Rehomed);
                return Ok(());
            }
            Err(NoHome::Over(ended)) => return Err(ended),
            Err(not) => not,
        };
        shared.counters.moved(MoveCause::ServerLost, MoveResult::NotRehomed);
        let (why, ended) = match not {
            NoHome::Refused(line) => {
                self.session.relay.say_last(&line, Cause::ServerError);
                ("another server refuses its login", Ended { party: Party::Upstream, cause: Cause::ServerError })
            }
            NoHome::Meant => ("its server has closed it", lost),
            NoHome::Not(why) => (why, lost),
            NoHome::Over(ended) => ("", ended),
        };
        debug!(id, from = from.name(), why, "session not re-homed");
        Err(ended)
    }

    async fn go_elsewhere(
        &mut self,
        from: &Arc<Server>,
        is_silent: bool,
        (limits, account): (RehomeLimits, &Arc<Account>),
    ) -> Result<(), NoHome> {
        let Self { session, terms } = self;
        let Established { relay, registered, shared, .. } = &mut **session;
        relay.lose_server().map_err(|bound| NoHome::Not(bound.text()))?;
        let until = Instant::now() + limits.within;
        let find = terms.find(shared, (from, is_silent), account, until);
        let most_kept = limits.memory.get() as usize;
        let found = tokio::select! {
            biased;
            end = relay.serve_homeless(registered.handle(), most_kept, false) => return Err(NoHome::after(end)),
            found = timeout_at(until, find) => found,
        };
        let (pass, logged_in) = found.unwrap_or(Err(NoHome::Not("no other server in time")))?;
        let LoggedIn { stream, info, rest } = *logged_in;
        if let Some(why) = why_not_of(account, &info) {
            return Err(NoHome::Not(why));
        }
        if !is_silent {
            let rest = relay.serve_homeless(registered.handle(), most_kept, true);
            match timeout_at(Instant::now() + LAST_WORDS_WITHIN, rest).await {
                Ok(HomelessEnd::ServerRead) | Err(_) => {}
                Ok(end) => return Err(NoHome::after(end)),
            }
        }
        relay.may_go_on().map_err(|bound| NoHome::Not(bound.text()))?;
        // What it has had there is given back with it; the account's slot of the login ends with the login.
        let Pass { server, account: _login } = pass;
        terms.goes_on(registered.handle(), server.server(), &info);
        let new = NewServer { stream, server: Arc::clone(server.server()), info: &info, rest: &rest };
        session.server = server;
        session.relay.go_on(new).map_err(NoHome::Over)
    }
}

/// Why a session of this account cannot go on with a server that has let its client in with this INFO, if it cannot.
pub(super) fn why_not_of(account: &Account, info: &Info) -> Option<&'static str> {
    let is_another = info.remote_account().is_some_and(|name| account.is_known() && *name != **account.name());
    is_another.then_some("its login belongs to another account by now")
}

/// What it takes to log a client in again, as one process of weir tells another. `connect` holds the client's password.
#[derive(Serialize, Deserialize)]
pub struct TermsState {
    connect: Base64,
    credential: u64,
    login: u64,
    client: u64,
    source: IpAddr,
    #[serde(default)]
    proxy_header: Base64,
    server_id: Box<str>,
    echo: bool,
}

impl fmt::Debug for TermsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TermsState").field("source", &self.source).finish_non_exhaustive()
    }
}

impl RehomeTerms {
    /// For another process; `None` where the client is connected to a WebSocket port.
    pub fn state(&self) -> Option<TermsState> {
        let DialPort::Client = self.port else { return None };
        Some(TermsState {
            connect: Base64(self.connect.to_vec()),
            credential: self.credential.raw(),
            login: self.claim.credential.raw(),
            client: self.client.raw(),
            source: self.source,
            proxy_header: Base64(self.proxy_header.to_vec()),
            server_id: self.server_id.clone(),
            echo: self.echo,
        })
    }

    /// From another process.
    pub fn resume(state: TermsState) -> Self {
        let claim = Claim { source: state.source.into(), credential: CredentialKey::from_raw(state.login) };
        Self {
            connect: state.connect.0.into(),
            credential: CredentialKey::from_raw(state.credential),
            claim,
            client: ClientKey::from_raw(state.client),
            source: state.source,
            port: DialPort::Client,
            proxy_header: state.proxy_header.0.into(),
            server_id: state.server_id,
            echo: state.echo,
        }
    }

    /// Waits for a turn as any client does, and logs in.
    async fn find(
        &self,
        shared: &Shared,
        (from, is_silent): (&Arc<Server>, bool),
        account: &Arc<Account>,
        until: Instant,
    ) -> Result<(Pass, Box<LoggedIn>), NoHome> {
        if !is_silent && !self.is_lost(shared, from).await {
            return Err(NoHome::Meant);
        }
        let connect = self.connect().map_err(NoHome::Not)?;
        let login = Login { client: self.client, key: self.claim.credential };
        loop {
            let pass = self.await_turn(shared, account, until).await?;
            let attempt = LoginAttempt::new(shared, login, self.source);
            let client = (&connect, self.credential, until);
            match connect_with_failover(attempt, pass, None, client, (self.port, &self.proxy_header)).await {
                Ok(found) => return Ok(found),
                Err(NotAnswered::ServerError(_, line)) => return Err(NoHome::Refused(line)),
                Err(NotAnswered::TooLong) => return Err(NoHome::Not("its CONNECT is too long")),
                // Room may come up, and servers may come back.
                Err(NotAnswered::Refused(reason)) if Instant::now() + AGAIN > until => {
                    return Err(NoHome::Not(reason.name()));
                }
                Err(NotAnswered::Refused(_)) => sleep(AGAIN.mul_f64(with_rng(|rng| 0.5 + 0.5 * rng.f64()))).await,
            }
        }
    }

    /// What the client has said.
    ///
    /// # Errors
    /// It cannot be said again, for this reason.
    pub fn connect(&self) -> Result<Connect, &'static str> {
        let line = self.connect.strip_prefix(b"CONNECT ").unwrap_or(&self.connect);
        Connect::parse(line.trim_ascii_end()).map_err(|_| "its CONNECT does not parse")
    }

    /// The session goes on with this server, which has let the client in with this INFO.
    pub fn goes_on(&mut self, session: &SessionHandle, server: &Arc<Server>, info: &Info) {
        self.server_id = info.server_id().into();
        session.moved_to(AtServer { server: Some(Arc::clone(server)), client_id: info.client_id().unwrap_or(0) });
    }

    /// Why the session cannot be on two servers for a while, if it cannot.
    pub fn why_with_client(&self) -> Option<&'static str> {
        // The new server would deliver what the client publishes at the old one.
        (!self.echo).then_some("its client does not want what it publishes itself")
    }

    /// Whether the server is lost, and has not only closed this connection: then it meant to.
    async fn is_lost(&self, shared: &Shared, server: &Server) -> bool {
        if !server.is_reachable(now()) {
            return true;
        }
        let began = Instant::now();
        let tls = shared.servers_tls.as_deref().into();
        let dialled = dial::dial(server, tls, &self.proxy_header, began + IS_LOST_WITHIN).await;
        if let Err(err) = &dialled {
            err.note_at(server, Port::Client, (began, IS_LOST_WITHIN));
        }
        let there = dialled.as_ref().map(|there| there.info().server_id());
        shows_loss(there, server.process_id().as_deref(), &self.server_id)
    }

    async fn await_turn(&self, shared: &Shared, account: &Arc<Account>, until: Instant) -> Result<Pass, NoHome> {
        let by = until.into_std();
        let client = Client {
            account: Arc::clone(account.name()),
            names_its_account: false,
            is_leafnode: false,
            source: self.source.into(),
            key: self.client,
            proof: Proof::Known,
            may_use_reserve: false,
            would_refuse: None,
            quota_identity: QuotaIdentity::default(),
            hold_until: by,
            answer_by: by,
            returns: Return::Unknown,
        };
        let (turn, turn_comes) = oneshot::channel();
        let begun =
            with_rng(|rng| Wait::at_move(&shared.admission, &client, account, now(), rng, || TurnSender::new(turn)));
        let mut is_told = false;
        let tell = |wait: &SessionWait| {
            if wait.is_queued() && !std::mem::replace(&mut is_told, true) {
                shared.arrived.notify_one();
            }
        };
        match follow(shared, begun, turn_comes, std::future::pending::<()>(), tell).await {
            Waited::Turn(pass) => Ok(pass),
            Waited::Refused(reason) => Err(NoHome::Not(reason.name())),
            Waited::Left(()) => Err(NoHome::Not("the client has left")),
        }
    }
}

/// Whether a dial of its server shows that the process with this `server_id`, which had the session, is gone. The dial
/// has found the process `there`, and `last` is the one that has answered there last.
fn shows_loss(there: Result<&str, &DialError>, last: Option<&str>, server_id: &str) -> bool {
    match there {
        Ok(there) => there != server_id,
        // A busy server works. It has said who it is, unless TLS comes before that.
        Err(err) => !err.is_busy() || last != Some(server_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_busy_is_not_lost() {
        assert!(!shows_loss(Ok("A"), Some("A"), "A"));
        assert!(shows_loss(Ok("B"), Some("B"), "A"), "it has been restarted");
        for busy in [DialError::Full, DialError::Throttled] {
            assert!(!shows_loss(Err(&busy), Some("A"), "A"), "{busy}");
            assert!(shows_loss(Err(&busy), Some("B"), "A"), "{busy}, and restarted");
        }
        for gone in [DialError::Closed, DialError::TimedOut] {
            assert!(shows_loss(Err(&gone), Some("A"), "A"), "{gone}");
        }
    }
}
