//! The login on a server, from CONNECT to the server's answer, and what is done while that does not come.
//!
//! A login that takes longer than others on its server is overdue: it makes room for the next one. It is tried on
//! another server where others of its account get in meanwhile. Else it goes on for as long as the client stays and the
//! server may still answer, since weir does not know how long the client waits. Past the deadline of the client's
//! library it does so only while nobody needs its place.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{
    admission::{Account, LoginOf, Pass},
    dial::{DialError, LoginReply, ServerConnection},
    dispatch,
    identity::CredentialKey,
    net::timer::{now, timeout_at},
    session::{login_evidence, shared::Shared},
    upstream::{LoginFailure, Server, ServerId, Slot, concurrency::baseline::MeasuredFrom},
    worker::{self, with_rng},
};

/// The part of a server's `auth_timeout` for which weir waits, however long the client would. After it a server answers
/// for a callout that has not answered, with `Authorization Violation`: two of these in a row end Go, Java and
/// JavaScript clients for good, and nobody has judged their credentials (docs/contract.md, towards clients 3).
const OF_AUTH_TIMEOUT: f64 = 0.95;
/// How soon to look again what can be done for an overdue login.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why there is no reply to a login.
pub(super) enum NoReply {
    Failed(DialError),
    /// It hangs here, and others of its account get in elsewhere: this is a slot on another server.
    HangsHere(Slot),
    /// Neither the server nor its client's deadline allows more.
    Expired,
}

/// What is known of a login beside its server.
pub(super) struct Terms<'a> {
    pub credential: CredentialKey,
    /// When it began, and with what.
    pub began: Instant,
    pub since: MeasuredFrom,
    /// The deadline of the client's library at its defaults.
    pub answer_by: Instant,
    /// The servers that the client may not be sent to if the login hangs; `None` where it may be sent to none.
    pub tried: Option<&'a [ServerId]>,
}

/// Sends `words`, which may be empty, and waits for the answer.
pub(super) async fn log_in(
    shared: &Shared,
    pass: &mut Pass,
    dialled: ServerConnection,
    words: &[u8],
    terms: Terms<'_>,
) -> Result<LoginReply, NoReply> {
    let server = Arc::clone(pass.server.server());
    let names_account = dialled.info().names_account();
    let until = Instant::now() + server.auth_timeout(dialled.port()).mul_f64(OF_AUTH_TIMEOUT);
    let until = match server.told_auth_timeout(dialled.port()) {
        Some(_) => until,
        // The default may be too short for this server: what the client's library allows is not cut off.
        None => until.max(terms.answer_by),
    };
    let mut watched = Watched {
        shared,
        credential: terms.credential,
        account: Arc::clone(pass.account.account()),
        server: Arc::clone(&server),
        began: terms.began,
        is_overdue: false,
        is_open: true,
    };
    let mut login = pin!(dialled.handshake(&server, words, names_account, until));
    let answer = match timeout_at(terms.began + server.overdue_after(), login.as_mut()).await {
        Ok(answer) => answer,
        Err(_) => {
            pass.login_is_overdue();
            watched.is_overdue = true;
            dispatch::run_now(&shared.admission);
            overdue(shared, pass, login, &terms).await?
        }
    };
    match &answer {
        Ok(LoginReply::Pong(accepted)) => {
            let took = terms.began.elapsed();
            let measured = (terms.since, worker::lag());
            shared.admission.handshake_finished(pass, took, measured, accepted.info.remote_account(), now());
            server.counters().handshakes.observe(took);
            login_evidence::succeeded(&server);
        }
        Err(DialError::TimedOut) => return Err(NoReply::Expired),
        Err(DialError::Full) => server.said_full(now()),
        _ => {}
    }
    watched.is_open = false;
    // Room for the next handshake: whoever waits for that need not wait for a timer.
    dispatch::run_now(&shared.admission);
    answer.map_err(NoReply::Failed)
}

/// Waits on for an overdue login, and looks from time to time what else can be done.
async fn overdue(
    shared: &Shared,
    pass: &Pass,
    mut login: Pin<&mut impl Future<Output = Result<LoginReply, DialError>>>,
    terms: &Terms<'_>,
) -> Result<Result<LoginReply, DialError>, NoReply> {
    let (account, server) = (pass.account.account(), pass.server.server());
    loop {
        if let Some(slot) = elsewhere(shared, pass.account.login(), server, terms) {
            return Err(NoReply::HangsHere(slot));
        }
        if Instant::now() >= terms.answer_by && shared.admission.is_place_wanted(account, server, now()) {
            return Err(NoReply::Expired);
        }
        if let Ok(answer) = timeout_at(Instant::now() + LOOK_AGAIN, login.as_mut()).await {
            return Ok(answer);
        }
    }
}

/// A slot on another server for a login that hangs on this one.
fn elsewhere(shared: &Shared, login: LoginOf<'_>, server: &Server, terms: &Terms<'_>) -> Option<Slot> {
    let account = login.account;
    // Meanwhile a server may have named the account to another client of this credential.
    let learned = || shared.directory.learned(terms.credential);
    let named = if account.is_known() { Some(Arc::clone(account.name())) } else { learned() }?;
    let hangs = shared.admission.hangs_here_only(&named, server, terms.began.into_std(), now());
    let mut tried = terms.tried.filter(|_| hangs)?.to_vec();
    tried.push(server.id());
    with_rng(|rng| shared.admission.place_hanging(login, &tried, now(), rng))
}

/// A login that has no answer yet. If it ends without one, admission is told, and the log.
struct Watched<'a> {
    shared: &'a Shared,
    credential: CredentialKey,
    account: Arc<Account>,
    server: Arc<Server>,
    began: Instant,
    is_overdue: bool,
    is_open: bool,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let Self { shared, account, server, is_overdue, .. } = self;
        if !self.is_open {
            return;
        }
        let login = (self.began.into_std(), *is_overdue);
        let named = shared.directory.learned(self.credential);
        let unanswered = shared.admission.login_unanswered(account, server, login, named.as_ref(), now());
        if unanswered.is_servers_fault {
            login_evidence::failed_here_only(server, LoginFailure::TimedOut);
        } else if unanswered.tell && may_log() {
            let (server, account, waited) = (server.name(), &**account.name(), self.began.elapsed());
            warn!(server, account, ?waited, "logins hang: does an auth callout or a resolver not answer?");
        }
    }
}

/// At most one line in a second, however many accounts are claimed.
fn may_log() -> bool {
    static LAST: Mutex<Option<std::time::Instant>> = Mutex::new(None);
    let (mut last, now) = (LAST.lock().unwrap_or_else(PoisonError::into_inner), now());
    let may = last.is_none_or(|last| now.saturating_duration_since(last) >= Duration::from_secs(1));
    if may {
        *last = Some(now);
    }
    may
}
