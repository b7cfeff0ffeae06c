//! Dial-first: a server is dialled before the client sees INFO, so that the client signs the nonce of that very
//! server.
//!
//! The client waits for its turn before the dial, since the server's own timer for CONNECT starts at the dial. An
//! upstream connection whose nonce a client has answered is never given to another client. One that nobody answered
//! may be the next client's (`upstream_pool.rs`).

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};
use tracing::debug;

use crate::{
    admission::{AccountSlot, Client, OperatorPermit, Pass, SilentClient, Source, Wait},
    advertised_info::PrefaceShape,
    dial::{DialError, ServerConnection},
    dispatch::TurnSender,
    identity::{Credential, ServerChecks},
    net::{
        stream::Stream,
        timer::{TICK, now, sleep_until},
    },
    outcome::Refusal,
    session::{
        account::enter_shared,
        await_turn::{Waited, await_turn},
        context::{Context, End},
        damped_dials::{self, Kind},
        downstream::{self, Downstream, Unfinished},
        failover::{DialPort, UntilInfo, open_any},
        leafnode,
        shared::Shared,
        takeover::{Stage, give, unless_asked},
        unanswered,
        upstream_pool::{self, DialledServer},
    },
    upstream::{Server, Slot},
    worker::with_rng,
};

/// The part of a server's `auth_timeout` in which CONNECT must come from the client; the rest is for the way to the
/// server.
const FOR_CONNECT: f64 = 0.75;

/// While a client takes no longer than this for its CONNECT, its handshake is one of those under way on the server,
/// so that no more logins come to the server at once than it can take. A slower client does not keep others waiting.
const PROMPT: Duration = Duration::from_millis(250);

/// How soon to ask again whether an account may have one more handshake: it has no timer to wait for.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// The server that a client has before it sees INFO.
pub(super) enum DialFirst {
    /// The servers send no nonce: the dial comes after CONNECT.
    NotNeeded,
    /// There is none, and why: the client sees weir's INFO. If it signs it is refused, if not it waits for its turn
    /// as usual.
    NoServer(Refusal),
    /// A server of its own.
    Dialled(Box<DialledServer>),
}

/// What the connect check of a client begins with.
pub(super) enum Begin {
    /// The client has its server already, which has sent the nonce that it signed.
    Dialled(Pass, Box<ServerConnection>),
    /// It takes part in the queue; with what it has taken of its quotas, where it has entered them.
    Queue(Option<AccountSlot>),
    /// It is refused.
    Refused(Refusal),
    /// It left meanwhile.
    Left(Unfinished),
}

/// Why a client that has not seen INFO yet is not dialled for any more.
enum Left {
    /// It is there no more.
    Gone,
    /// It is to go to another process.
    Asked,
}

impl DialFirst {
    /// Dials a server where clients sign, once the client has its turn. The error is the end of a client that left
    /// meanwhile.
    pub async fn begin(
        cx: &mut Context,
        stream: &Stream,
        proxy_header: &[u8],
        refused: Option<Refusal>,
    ) -> Result<Self, End> {
        match shape(cx) {
            PrefaceShape::ConnectFirst => Ok(Self::NotNeeded),
            PrefaceShape::Unknown => Ok(Self::NoServer(Refusal::NoServer)),
            PrefaceShape::DialFirst => {
                let operator = cx.shared.admission.operators().before_connect(cx.source(), now());
                if refused.is_some() && operator.is_none() {
                    return Ok(Self::NoServer(Refusal::ServerCapacity));
                }
                let mut operator = operator;
                loop {
                    // Boxed, so that a client that needs no server before INFO takes no memory for it.
                    match Box::pin(Self::dial(cx, stream, proxy_header, operator.take())).await {
                        Ok(dialled) => return Ok(dialled),
                        Err(Left::Gone) => return Err(End::Probe),
                        Err(Left::Asked) => {
                            if Box::pin(give(cx, stream, Stage::BeforeInfo)).await {
                                return Err(End::Given);
                            }
                            sleep_until(Instant::now() + TICK).await;
                        }
                    }
                }
            }
        }
    }

    /// For a client that has seen INFO without a server of its own.
    pub fn without(cx: &Context) -> Self {
        match shape(cx) {
            PrefaceShape::ConnectFirst => Self::NotNeeded,
            PrefaceShape::Unknown | PrefaceShape::DialFirst => Self::NoServer(Refusal::NoServer),
        }
    }

    async fn dial(
        cx: &mut Context,
        stream: &Stream,
        proxy_header: &[u8],
        operator: Option<OperatorPermit>,
    ) -> Result<Self, Left> {
        let shared = Arc::clone(&cx.shared);
        let may_go = cx.may_be_given(stream) && operator.is_none();
        let left = || left(&shared, stream, may_go);
        if !damped_dials::may_dial(cx, Kind::Read, left()).await? {
            return Ok(Self::NoServer(Refusal::SourceRate));
        }
        let mut unanswered = None;
        if operator.is_none() {
            unanswered = unanswered::begin(cx, left()).await?;
            if unanswered.is_none() {
                return Ok(Self::NoServer(Refusal::ServerCapacity));
            }
        }
        // Clients in the queue go first, and can use the slot.
        if cx.shared.admission.queued() == 0
            && !cx.shared.admission.is_paused()
            && matches!(DialPort::of(cx), DialPort::Client)
            && cx.shared.admission.login_history().avoided_by(&Source::from(cx.source()).lane_name(), now()).is_none()
            && let Some(pooled) = upstream_pool::take()
        {
            return Ok(Self::Dialled(Box::new(DialledServer { operator, unanswered, ..*pooled })));
        }
        let slot = match turn_by_source(cx, operator.is_some(), left()).await? {
            Ok(pass) => pass.server,
            Err(reason) => return Ok(Self::NoServer(reason)),
        };
        let slot = match cx.listener.is_for_leafnodes {
            true => tokio::select! {
                slot = leafnode::even(&shared, slot, cx.wait_before_info_until()) => slot,
                left = left() => return Err(left),
            },
            false => slot,
        };
        let mut opening = pin!(open(cx, slot, proxy_header, operator));
        let dialled = |opened| Self::Dialled(Box::new(DialledServer { unanswered, ..opened }));
        let left = tokio::select! {
            opened = &mut opening => return Ok(opened.map_or_else(Self::NoServer, dialled)),
            left = left() => left,
        };
        // The server may count the connection by now: the slot stays taken until the server has seen the end.
        if let Ok(opened) = opening.await {
            Self::Dialled(Box::new(opened)).recycle(cx).await;
        }
        Err(left)
    }

    /// Writes the INFO that the client is to see: of its server, or weir's own.
    pub fn write_info(&self, cx: &Context, out: &mut Vec<u8>) {
        let info = &cx.listener.info;
        match self {
            Self::Dialled(server) => info.write_dialled_info(server.info(), cx.source(), out),
            Self::NoServer(_) => info.write_own_info_with_nonce(cx.source(), out),
            Self::NotNeeded => info.write_own_info(cx.source(), out),
        }
    }

    /// Takes what its client was let in with as an operator's, before it had said who it is.
    pub fn take_permit(&mut self) -> Option<OperatorPermit> {
        match self {
            Self::Dialled(server) => server.operator.take(),
            Self::NotNeeded | Self::NoServer(_) => None,
        }
    }

    /// What of the CONNECT counts: what the server at hand will check, else what any server may check that sends a
    /// nonce.
    pub fn checks(&self, cx: &Context) -> ServerChecks {
        let trusts_operator = |server: &Server| server.auth_mode().trusts_operator();
        match self {
            Self::NotNeeded => ServerChecks::default(),
            Self::Dialled(server) => {
                ServerChecks::of(server.dialled.info().nonce().is_some(), trusts_operator(server.slot.server()))
            }
            Self::NoServer(_) => {
                let (info, always) = (&cx.shared.advertised_info, cx.listener.is_for_leafnodes);
                let checks = |server: &Arc<Server>| {
                    ServerChecks::of(always || info.may_send_nonce(server), trusts_operator(server))
                };
                cx.shared.servers.list().iter().map(checks).fold(ServerChecks::default(), ServerChecks::or)
            }
        }
    }

    /// Watches the server while the client reads INFO and sends its CONNECT. A server that is lost, or whose own
    /// timer runs out, is closed. The client is not disturbed, since one that does not sign can have another server.
    pub async fn lasts_through<T>(&mut self, cx: &Context, mut exchange: impl Future<Output = T> + Unpin) -> T {
        let Self::Dialled(server) = self else { return exchange.await };
        let source_reputation = cx.shared.admission.source_reputation();
        let began = Instant::now();
        let mut prompt_until = Some(began + PROMPT);
        let is_damped = source_reputation.is_damped(cx.source(), began.into_std());
        if is_damped || !source_reputation.is_prompt(cx.source(), began.into_std()) {
            server.slot.await_connect();
            prompt_until = None;
        }
        let why = loop {
            tokio::select! {
                biased;
                done = &mut exchange => return done,
                lost = server.dialled.closed() => {
                    let server = server.slot.server();
                    debug!(server = server.name(), %lost, "lost before CONNECT");
                    if matches!(lost, DialError::Full) {
                        server.said_full(now());
                    }
                    break cx.shared.servers.no_room(now());
                }
                () = sleep_until(prompt_until.unwrap_or(server.expires)) => {}
            }
            if prompt_until.take().is_none() {
                break Refusal::HoldExpired;
            }
            server.slot.await_connect();
            source_reputation.kept_silent(cx.source(), now());
        };
        let gone = std::mem::replace(self, Self::NoServer(why));
        tokio::join!(exchange, gone.close()).0
    }

    /// Leaves the server's connection, if there is one, to the next client: nobody has answered its nonce.
    pub async fn recycle(self, cx: &Context) {
        let Self::Dialled(server) = self else { return };
        // A server that was told whose connection it is would take the next client for that one.
        let admission = &cx.shared.admission;
        let is_told = cx.shared.sends_proxy_headers || !matches!(DialPort::of(cx), DialPort::Client);
        let is_free = !is_told && !server.slot.is_from_reserve() && admission.queued() == 0 && !admission.is_draining();
        if let Some(server) = if is_free { upstream_pool::put(server) } else { Some(server) } {
            server.close().await;
        }
    }

    /// Closes the server's connection, if there is one.
    pub async fn close(self) {
        if let Self::Dialled(server) = self {
            server.close().await;
        }
    }

    /// Begins the connect check with the server at hand, if there is one.
    pub async fn begin_check(self, cx: &Context, client: &Client, downstream: &mut Downstream) -> Begin {
        let signs = downstream.connect.signs();
        let server = match self {
            Self::NotNeeded => return Begin::Queue(None),
            Self::NoServer(reason) if signs => return Begin::Refused(reason),
            Self::NoServer(_) => return Begin::Queue(None),
            Self::Dialled(server) => server,
        };
        // A slot that is kept for the system account was taken for a client of another.
        if server.slot.is_from_reserve() && !client.may_use_reserve {
            server.close().await;
            return if signs { Begin::Refused(Refusal::ServerCapacity) } else { Begin::Queue(None) };
        }
        // One that does not sign can have another server than the one where logins of its account hang.
        let at = server.slot.server().id();
        if !signs && cx.shared.admission.is_disliked(&client.account, at, now()) {
            server.close().await;
            return Begin::Queue(None);
        }
        let enter = || cx.shared.admission.enter_account(client, now());
        let entered = enter_shared(&cx.shared, &client.account, enter).await;
        let mut account = match entered {
            Ok(account) => account,
            Err(reason) => {
                server.close().await;
                return if signs || !reason.is_a_rate() { Begin::Refused(reason) } else { Begin::Queue(None) };
            }
        };
        if let Err(reason) = cx.shared.admission.pay_account(&account, client, now()) {
            server.close().await;
            return if signs { Begin::Refused(reason) } else { Begin::Queue(Some(account)) };
        }
        let mut server = server;
        if cx.shared.admission.is_barred(account.login(), at, now()) {
            // Meanwhile it is not one of those logins that the server works on.
            server.slot.await_connect();
        }
        let until = server.expires.min(Instant::from_std(client.hold_until));
        let Downstream { stream, preface, .. } = downstream;
        let has_begun = tokio::select! {
            // A client that need not wait here is not asked whether it is still there.
            biased;
            has_begun = begin_handshake(cx, &mut account, server.slot.server(), until) => has_begun,
            left = downstream::watch(&cx.shared.read_ahead, stream, preface) => {
                server.close().await;
                return Begin::Left(left);
            }
        };
        if !has_begun {
            server.close().await;
            return Begin::Refused(Refusal::HoldExpired);
        }
        let DialledServer { dialled, slot: mut server, .. } = *server;
        server.resume_handshake();
        Begin::Dialled(Pass::new(server, account), Box::new(dialled))
    }
}

/// The order of dial and CONNECT for a client of this listener. At its leafnode port each server sends a nonce.
fn shape(cx: &Context) -> PrefaceShape {
    if cx.listener.is_for_leafnodes { PrefaceShape::DialFirst } else { cx.shared.advertised_info.shape() }
}

/// Returns when a client leaves that has not seen INFO yet, or when one that `may_go` is to go to another process.
async fn left(shared: &Shared, stream: &Stream, may_go: bool) -> Left {
    let left = pin!(downstream::left_before_info(stream));
    unless_asked((&shared.takeover, may_go), left).await.map_or(Left::Asked, |()| Left::Gone)
}

/// Waits for a turn by the client's source: nothing else is known. The outer error is how it `left` meanwhile.
pub(super) async fn turn_by_source<L>(
    cx: &mut Context,
    may_use_reserve: bool,
    left: impl Future<Output = L>,
) -> Result<Result<Pass, Refusal>, L> {
    let shared = &cx.shared;
    let hold_until = cx.wait_before_info_until().into_std();
    let key = shared.keys.client(cx.source(), shared.keys.credential(Credential::Nothing), None);
    let is_leafnode = cx.listener.is_for_leafnodes;
    let client = SilentClient { source: cx.source(), key, hold_until, may_use_reserve, is_leafnode };
    let (turn, turn_comes) = oneshot::channel();
    let waiter = || TurnSender::new(turn);
    let begun = with_rng(|rng| Wait::before_connect(&shared.admission, client, now(), rng, waiter));
    match await_turn(cx, begun, turn_comes, left).await {
        Waited::Turn(pass) => Ok(Ok(pass)),
        Waited::Left(left) => Err(left),
        Waited::Refused(reason) => Ok(Err(reason)),
    }
}

/// Opens a connection to the server of `slot`, or to another one, and reads its INFO.
async fn open(
    cx: &Context,
    slot: Slot,
    proxy_header: &[u8],
    operator: Option<OperatorPermit>,
) -> Result<DialledServer, Refusal> {
    let shared = &cx.shared;
    let port = DialPort::of(cx);
    let until_info = UntilInfo::new(shared, port, proxy_header);
    let opened = open_any(shared, slot, &until_info, cx.dial_by()).await;
    let (dialled, slot, began) = opened.map_err(|reason| shared.servers.lacks_port(port.port(), reason, now()))?;
    shared.advertised_info.learn_at(port.port(), slot.server(), dialled.info());
    let expires = began + slot.server().auth_timeout(port.port()).mul_f64(FOR_CONNECT);
    Ok(DialledServer { dialled, slot, expires, operator, unanswered: None })
}

/// Waits until the account of a client may have one more handshake on this server; `false` when it does not in time.
async fn begin_handshake(cx: &Context, account: &mut AccountSlot, server: &Server, until: Instant) -> bool {
    while cx.shared.admission.is_barred(account.login(), server.id(), now()) || !account.begin_handshake() {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    true
}
