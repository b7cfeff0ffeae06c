//! The dial: a client is connected to its server, and placed on another one when that fails, without noticing.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    admission::{Claim, Login, LoginTry, Pass},
    advertised_info::PrefaceShape,
    dial::{DialError, LoggedIn, LoginReply, ServerConnection},
    identity::CredentialKey,
    net::{linger, timer::now},
    outcome::{Cause, Party, Phase, Refusal},
    protocol::{PING, client_preface::PrefaceError, connect::Connect, refusal},
    relay::InfoPolicy,
    session::{
        context::{Context, End},
        downstream::{self, Downstream, Unfinished},
        failover::{DialPort, open, place_again, place_instead},
        leafnode,
        log_in::{NoReply, Terms, log_in},
        login_evidence::{self, LoginAttempt, Movable, NotAnswered},
        refuse::{close_unfinished, refuse_now},
        shared::Shared,
        wait::Admitted,
    },
    upstream::{LoginFailure, Server, concurrency::baseline::MeasuredFrom},
};

/// So much is left of a leafnode's time for its login, where it waits for the server with the fewest leafnodes.
const LOGIN_OF_LEAFNODE: Duration = Duration::from_millis(500);

/// A client that a server has let in.
pub(super) struct Connected {
    pub downstream: Box<Downstream>,
    pub pass: Pass,
    pub credential: CredentialKey,
    pub claim: Claim,
    /// The server's side.
    pub upstream: Box<LoggedIn>,
    /// What happens to the server's INFOs on their way to the client.
    pub info_policy: InfoPolicy,
    pub proxy_header: Vec<u8>,
}

impl Admitted {
    /// Connects the client to its server, or to another one.
    pub async fn connect_upstream(self, cx: &mut Context) -> Result<Connected, End> {
        let Self { mut downstream, pass, dialled, proxy_header, credential, claim, login_try, answer_by } = self;
        let info_policy = match cx.listener.is_for_leafnodes {
            // The server names it in its answer.
            true => InfoPolicy::Rewrite,
            false => ask_for_account(&mut downstream.connect),
        };
        let attempt = LoginAttempt::new(&cx.shared, login_of(cx, claim, &downstream.connect), cx.source());
        let Downstream { stream, preface, connect, .. } = &mut *downstream;
        let (port, client) = (DialPort::of(cx), (&**connect, credential, answer_by));
        let answered = {
            // Pinned where it is made: select! would copy all of it, 2 KB for each client.
            let connecting = pin!(connect_with_failover(attempt, pass, dialled, client, (port, &proxy_header)));
            tokio::select! {
                biased;
                answered = connecting => Ok(answered),
                left = downstream::watch_in_dial(&cx.shared.read_ahead, stream, preface) => Err(left),
            }
        };
        let (pass, upstream) = match answered {
            Ok(Ok(both)) => both,
            Ok(Err(not)) => return Err(not_answered(cx, downstream, (claim, login_try), not).await),
            Err(left) => {
                login_try.use_up();
                return Err(close_unfinished(downstream.stream, left, Phase::Dial).await);
            }
        };
        cx.shared.admission.source_reputation().succeeded(cx.source(), claim.credential);
        cx.log.server = Some(Arc::clone(pass.server.server()));
        Ok(Connected { downstream, pass, credential, claim, upstream, info_policy, proxy_header })
    }
}

/// Which login of which client this is.
fn login_of(cx: &Context, claim: Claim, connect: &Connect) -> Login {
    let key = claim.credential;
    let client = cx.log.client.unwrap_or_else(|| cx.shared.keys.client(cx.source(), key, connect.name()));
    Login { client, key }
}

/// Makes sure that the server tells what account the client is in. Servers since 2.12 do so in the INFO after the
/// first PONG, to clients of protocol 1. A client of protocol 0 is presented as one of 1, and the INFOs it does not
/// expect are kept from it.
fn ask_for_account(connect: &mut Connect) -> InfoPolicy {
    if connect.protocol() == 0 {
        connect.set_protocol(1);
        return InfoPolicy::Drop;
    }
    InfoPolicy::Rewrite
}

/// Ends a client that no server has let in.
async fn not_answered(
    cx: &mut Context,
    downstream: Box<Downstream>,
    (claim, login_try): (Claim, LoginTry),
    why: NotAnswered,
) -> End {
    match why {
        NotAnswered::Refused(reason) => {
            if reason == Refusal::ServerRefusesLogin {
                login_try.use_up();
            }
            let reason = cx.shared.servers.lacks_port(DialPort::of(cx).port(), reason, now());
            refuse_now(cx, downstream, reason).await
        }
        NotAnswered::TooLong => {
            let too_long = Unfinished::Wrong(PrefaceError::TooLong);
            close_unfinished(downstream.stream, too_long, Phase::Dial).await
        }
        NotAnswered::ServerError(server, line) => {
            cx.log.server = Some(server);
            let bad = refusal::bad_login(&line);
            cx.login_failed(bad, &line);
            if let Some(bad) = bad {
                let account = cx.log.account.as_deref().unwrap_or_default();
                cx.shared.counters.bad_logins.note(account, cx.source(), bad, now());
                if bad.is_of_credentials() {
                    cx.shared.admission.source_reputation().failed(cx.source(), claim.credential, login_try, now());
                }
            }
            linger::close_with(downstream.stream, &line).await;
            End::closed(Party::Upstream, Phase::Dial, Cause::ServerError)
        }
    }
}

/// What the server is sent: the canonical CONNECT, with weir's signature where weir is a trusted proxy, and PING where
/// the answer to that is waited for.
fn words_of_login(
    shared: &Shared,
    connect: &Connect,
    (nonce, port): (Option<&str>, DialPort),
    longest: usize,
) -> Result<Vec<u8>, NotAnswered> {
    let mut words = Vec::with_capacity(512);
    match shared.proxy_key.as_ref().zip(nonce).and_then(|(key, nonce)| key.sign(nonce)) {
        None => connect.write(&mut words),
        Some(sig) => {
            let mut signed = connect.clone();
            signed.set_proxy_sig(&sig);
            signed.write(&mut words);
            let argument = words.len() - b"CONNECT \r\n".len();
            if argument > longest {
                static TOLD: AtomicBool = AtomicBool::new(false);
                if !TOLD.swap(true, Relaxed) {
                    warn!(
                        argument,
                        max_control_line = longest,
                        "a CONNECT has no room for proxy_sig: raise max_control_line"
                    );
                }
                return Err(NotAnswered::TooLong);
            }
        }
    }
    // The answer to the CONNECT of a leafnode is an INFO.
    if !matches!(port, DialPort::Leafnode) {
        words.extend_from_slice(PING);
    }
    Ok(words)
}

/// How long the argument of the canonical CONNECT is, in bytes.
fn length_of(connect: &Connect) -> usize {
    let mut words = Vec::with_capacity(512);
    connect.write(&mut words);
    words.len() - b"CONNECT \r\n".len()
}

/// Dials until a server has answered CONNECT. Whatever goes wrong with one server, the client is placed on the next.
/// A client that has signed the nonce of the first, which is `dialled` already, cannot be placed elsewhere: it has to
/// come back.
pub(super) async fn connect_with_failover(
    mut attempt: LoginAttempt<'_>,
    mut pass: Pass,
    mut dialled: Option<Box<ServerConnection>>,
    (connect, credential, answer_by): (&Connect, CredentialKey, Instant),
    (port, header): (DialPort, &[u8]),
) -> Result<(Pass, Box<LoggedIn>), NotAnswered> {
    let shared = attempt.shared();
    let dial = if let DialPort::WebSocket(_) = port { MeasuredFrom::WebSocketDial } else { MeasuredFrom::Dial };
    let bound = dialled.is_some() && connect.signs();
    if let (DialPort::Leafnode, None) = (port, &dialled) {
        pass.server = Box::pin(leafnode::even(shared, pass.server, answer_by - LOGIN_OF_LEAFNODE)).await;
    }
    let mut signed_for = None;
    let mut tried = Vec::new();
    // A login that has hung is tried elsewhere once: an auth callout is asked about it each time.
    let mut hung_on: Option<Arc<Server>> = None;
    loop {
        let began = Instant::now();
        let longest = match port {
            // Its CONNECT has no limit.
            DialPort::Leafnode => usize::MAX,
            DialPort::Client | DialPort::WebSocket(_) => pass.server.server().max_control_line(),
        };
        // Servers may differ in this. A client that has signed for one has no choice.
        if !bound && longest < shared.servers.max_control_line() && length_of(connect) > longest {
            let Pass { server, account } = pass;
            debug!(server = server.server().name(), max_control_line = longest, "CONNECT is too long for the server");
            dialled = None;
            tried.push(server.server().id());
            drop(server);
            let placed = place_again(shared, Some(account.login()), &tried, answer_by).await;
            pass = Pass::new(placed.map_err(|reason| attempt.nowhere_else(reason))?, account);
            continue;
        }
        let (opened, since, said) = match dialled.take() {
            Some(dialled) => (Ok(*dialled), MeasuredFrom::Connect, false),
            None if !pass.account.is_shared()
                && !pass.server.is_leased()
                && may_speak_first(shared, port, header, pass.server.server()) =>
            {
                let words = words_of_login(shared, connect, (None, port), longest)?;
                (open(shared, &mut pass.server, port, &words, answer_by).await, dial, true)
            }
            None => (open(shared, &mut pass.server, port, header, answer_by).await, dial, false),
        };
        let answer = match opened {
            // It has signed another nonce, or none: this server would call it a liar.
            Ok(dialled) if connect.signs() && !bound && dialled.info().nonce().is_some() => {
                return Err(NotAnswered::Refused(shared.servers.no_room(now())));
            }
            Ok(_) if !shared.admission.is_observing() && !pass.server.may_go_on(std::time::Instant::now()) => {
                // weir was stopped meanwhile, and others may have its slots.
                if bound {
                    return Err(NotAnswered::Refused(shared.servers.no_room(now())));
                }
                let Pass { server, account } = pass;
                drop((opened, server));
                let placed = place_again(shared, Some(account.login()), &tried, answer_by).await;
                pass = Pass::new(placed.map_err(|reason| attempt.nowhere_else(reason))?, account);
                continue;
            }
            Ok(dialled) => {
                // By now weir may have been stopped for so long that another has the client's place.
                if !shared.admission.is_observing() {
                    pass.account.may_go_on(std::time::Instant::now()).map_err(NotAnswered::Refused)?;
                }
                signed_for = bound.then(|| Arc::clone(dialled.info()));
                let words = match said {
                    true => Vec::new(),
                    false => words_of_login(shared, connect, (dialled.info().nonce(), port), longest)?,
                };
                let tried = (!bound && hung_on.is_none()).then_some(&tried[..]);
                let terms = Terms { credential, began, since, answer_by, tried };
                log_in(shared, &mut pass, dialled, &words, terms).await
            }
            Err(err) => Err(NoReply::Failed(err)),
        };
        match answer {
            Ok(LoginReply::Pong(accepted)) => {
                if let Some(server) = hung_on {
                    login_evidence::failed_here_only(&server, LoginFailure::TimedOut);
                }
                attempt.let_in(pass.server.server());
                return Ok((pass, accepted));
            }
            Ok(LoginReply::Err(line)) => {
                let movable = Movable::of(connect, signed_for.as_deref());
                attempt.refused(pass.server.server(), line, movable)?;
                let Pass { server, account } = pass;
                tried.push(server.server().id());
                drop(server);
                let placed = place_again(shared, Some(account.login()), &tried, answer_by).await;
                pass = Pass::new(placed.map_err(|reason| attempt.nowhere_else(reason))?, account);
            }
            Err(NoReply::Expired) => return Err(attempt.nowhere_else(Refusal::LoginTimeout)),
            Err(NoReply::HangsHere(slot)) => {
                debug!(server = pass.server.server().name(), to = slot.server().name(), "login hangs");
                tried.push(pass.server.server().id());
                hung_on = Some(Arc::clone(pass.server.server()));
                pass = Pass::new(slot, pass.account);
            }
            Err(NoReply::Failed(err)) if bound => {
                debug!(server = pass.server.server().name(), %err, "dial failed");
                return Err(NotAnswered::Refused(shared.servers.no_room(now())));
            }
            Err(NoReply::Failed(err)) => {
                let Pass { server, account } = pass;
                let full = matches!(err, DialError::Full).then(|| Arc::clone(server.server()));
                let placed = place_instead(shared, (server, Some(account.login())), &err, &mut tried, answer_by).await;
                let placed = placed.map_err(|reason| match full {
                    // Where weir only observes, full servers answer for themselves.
                    Some(server) if shared.admission.is_observing() => {
                        NotAnswered::ServerError(server, refusal::line(Refusal::ServerCapacity).to_vec())
                    }
                    _ => attempt.nowhere_else(reason),
                });
                pass = Pass::new(placed?, account);
            }
        }
    }
}

/// Whether CONNECT may be on its way before the server's INFO has been read: where no server has anything in it that
/// CONNECT must answer, no signature, no TLS and no HTTP. A server that may have been restarted shows its INFO first.
fn may_speak_first(shared: &Shared, port: DialPort, header: &[u8], server: &Server) -> bool {
    server.may_get_credentials_first()
        && matches!(port, DialPort::Client)
        && shared.advertised_info.shape() == PrefaceShape::ConnectFirst
        && shared.servers_tls.is_none()
        && shared.proxy_key.is_none()
        && header.is_empty()
}
