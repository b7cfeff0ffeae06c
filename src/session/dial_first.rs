//! Dial-first: a server is dialled before the client is greeted, so that the client signs that server's nonce.
//!
//! The wait for a turn is before the dial, since the server's own timer for CONNECT starts there. An upstream connection whose
//! nonce a client has answered is never another's; one that nobody answered may be the next client's (`upstream_pool.rs`).

use std::{net::IpAddr, pin::pin, time::Duration};

use tokio::{sync::oneshot, time::Instant};
use tracing::debug;

use crate::{
    admission::{Client, Pass, Wait},
    dial::{DialError, Dialled},
    dispatch::{AnyAccountSlot, AnyPass, Turn},
    identity::Credential,
    net::{linger, stream::Stream, timer::sleep_until},
    outcome::{Phase, Refusal},
    protocol::{client_preface::Preface, connect::Connect, info::Info},
    session::{
        End, Shared, Waited, Who,
        connect_upstream::{Greeted, open_any},
        leave_unfinished, preface, turn_away, upstream_pool, wait,
    },
    upstream::Slot,
};

/// The part of a server's `auth_timeout` in which CONNECT must come from the client; the rest is for the way to the server.
const FOR_CONNECT: f64 = 0.75;

/// While a client takes no longer than this for its CONNECT, its handshake is one of those under way on the server, so that no
/// more logins come to the server at once than it can take. One that is slower, or silent, is not to keep others waiting.
const PROMPT: Duration = Duration::from_millis(250);

/// What there is of a server when the client is greeted.
pub(super) enum Ahead {
    /// The servers send no nonce: the dial comes after CONNECT.
    NotNeeded,
    /// No server, and why: the client is greeted by weir. If it signs it is refused, if not it waits for its turn as usual.
    Not(Refusal),
    /// A server of its own.
    Dialled(Box<Opened>),
}

/// A server's connection that waits for a CONNECT.
pub(super) struct Opened {
    pub(super) dialled: Dialled,
    pub(super) slot: Slot,
    /// CONNECT must have come by then.
    pub(super) expires: Instant,
}

impl Opened {
    /// What the server says of itself.
    pub(super) fn info(&self) -> &Info {
        self.dialled.info()
    }

    /// Closes the connection. The slot is given back once the server has seen the end.
    pub(super) async fn let_go(self) {
        linger::close_with(self.dialled.into_stream(), b"").await;
        drop(self.slot);
    }
}

/// Waits for a turn and dials. The error is the end of a client that has left meanwhile.
pub(super) async fn dial(
    shared: &Shared,
    down: &Stream,
    header: &[u8],
    source: IpAddr,
    accepted: Instant,
    who: &mut Who,
) -> Result<Ahead, End> {
    if shared.admission.source_reputation().is_damped(source, Instant::now().into_std()) {
        return Ok(Ahead::Not(Refusal::SourceRate));
    }
    // Whoever waits goes first, and can use the slot.
    if shared.admission.held() == 0
        && let Some(spare) = upstream_pool::take()
    {
        return Ok(Ahead::Dialled(spare));
    }
    let slot = match turn(shared, source, accepted, who, preface::left_ungreeted(down)).await? {
        Ok(pass) => pass.server,
        Err(reason) => return Ok(Ahead::Not(reason)),
    };
    let deadline = dial_until(shared, accepted);
    let mut opening = pin!(open_greeted(shared, slot, header, deadline));
    let left = tokio::select! {
        opened = &mut opening => return Ok(opened.map_or_else(Ahead::Not, |o| Ahead::Dialled(Box::new(o)))),
        () = preface::left_ungreeted(down) => End::Probe,
    };
    // The server may count the connection by now: the slot stays taken until it has seen the end.
    if let Ok(opened) = opening.await {
        Ahead::Dialled(Box::new(opened)).spare(shared).await;
    }
    Err(left)
}

/// Until when a server may be looked for, for a client of which nothing is known.
pub(super) fn dial_until(shared: &Shared, accepted: Instant) -> Instant {
    let accepted = accepted.into_std();
    Instant::from_std(shared.admission.patience().deadlines(None, accepted, accepted).hold_until)
}

/// Waits for a turn by the client's source: nothing else is known. The error is the end of a client that `left` meanwhile.
pub(super) async fn turn(
    shared: &Shared,
    source: IpAddr,
    accepted: Instant,
    who: &mut Who,
    left: impl Future<Output = ()>,
) -> Result<Result<AnyPass, Refusal>, End> {
    let hold_until = shared.admission.patience().before_info(accepted.into_std());
    let client = shared.keys.client(source, shared.keys.credential(Credential::Nothing), None);
    let (turn, turn_comes) = oneshot::channel();
    let (now, rng) = (Instant::now().into_std(), &mut fastrand::Rng::new());
    let verdict = shared.admission.at_accept_turn(source, client, hold_until, now, rng, || Turn(turn));
    match wait(shared, Wait::of(verdict, now), turn_comes, who, left).await {
        Waited::Turn(pass) => Ok(Ok(pass)),
        Waited::Left(()) => Err(End::Probe),
        Waited::InVain(reason) => Ok(Err(reason)),
    }
}

/// Opens a connection to the server of `slot`, or to another one, and reads its INFO.
async fn open_greeted(shared: &Shared, slot: Slot, header: &[u8], deadline: Instant) -> Result<Opened, Refusal> {
    let (dialled, slot, began) = open_any(shared, slot, &Greeted::by(shared, header), deadline).await?;
    shared.advertised_info.learn(slot.server().index(), dialled.info());
    let expires = began + slot.server().auth_timeout().mul_f64(FOR_CONNECT);
    Ok(Opened { dialled, slot, expires })
}

/// How soon to ask again whether an account may have one more handshake: it has no timer to wait for.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until the account of a client may have one more handshake; `false` when it does not in time.
async fn begin_handshake(account: &mut AnyAccountSlot, until: Instant) -> bool {
    while !account.begin_handshake() {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    true
}

impl Ahead {
    /// Keeps an eye on the server while the client is greeted and says its CONNECT. A server that is lost, or whose own timer
    /// runs out, is let go; the client is not disturbed, since one that does not sign can have another server.
    pub(super) async fn lasts_through<T>(
        &mut self,
        shared: &Shared,
        source: IpAddr,
        exchange: impl Future<Output = T>,
    ) -> T {
        let Self::Dialled(opened) = self else { return exchange.await };
        let (source_reputation, now) = (shared.admission.source_reputation(), Instant::now());
        let mut exchange = pin!(exchange);
        let mut prompt_until = Some(now + PROMPT);
        if !source_reputation.is_prompt(source, now.into_std()) {
            opened.slot.waits();
            prompt_until = None;
        }
        let why = loop {
            tokio::select! {
                biased;
                done = &mut exchange => return done,
                lost = opened.dialled.lost() => {
                    let server = opened.slot.server();
                    debug!(server = server.name(), %lost, "lost before CONNECT");
                    if matches!(lost, DialError::Full) {
                        server.said_full(Instant::now().into_std());
                    }
                    break Refusal::ServerCapacity;
                }
                () = sleep_until(prompt_until.unwrap_or(opened.expires)) => {}
            }
            if prompt_until.take().is_none() {
                break Refusal::HoldExpired;
            }
            opened.slot.waits();
            source_reputation.kept_silent(source, Instant::now().into_std());
        };
        let gone = std::mem::replace(self, Self::Not(why));
        tokio::join!(exchange, gone.let_go()).0
    }

    /// Leaves the server's connection, if there is one, to the next client: nobody has answered its nonce.
    pub(super) async fn spare(self, shared: &Shared) {
        let Self::Dialled(opened) = self else { return };
        // A server that was told whose connection it is would take the next client for that one.
        let is_free = !shared.sends_proxy_headers && shared.admission.held() == 0 && !shared.admission.is_draining();
        if let Some(opened) = if is_free { upstream_pool::put(opened) } else { Some(opened) } {
            opened.let_go().await;
        }
    }

    /// Closes the server's connection, if there is one.
    pub(super) async fn let_go(self) {
        if let Self::Dialled(opened) = self {
            opened.let_go().await;
        }
    }

    /// The connect door, with or without a server at hand; without one a client that does not sign waits for its turn.
    pub(super) async fn enter(
        self,
        shared: &Shared,
        client: Client,
        connect: &Connect,
        mut down: Stream,
        preface: &mut Preface,
        who: &mut Who,
    ) -> Result<(AnyPass, Option<Dialled>, Stream), End> {
        let now = Instant::now().into_std();
        let refused = match self {
            Self::NotNeeded => None,
            Self::Not(reason) => connect.signs().then_some(reason),
            // What is kept for the system account was taken for another.
            Self::Dialled(opened) if opened.slot.is_in_lane() && !shared.servers.is_system_account(&client.account) => {
                opened.let_go().await;
                connect.signs().then_some(Refusal::ServerCapacity)
            }
            Self::Dialled(opened) => match shared.admission.enter_account(&client, now) {
                Ok(mut account) => {
                    let until = opened.expires.min(Instant::from_std(client.hold_until));
                    let begun = tokio::select! {
                        begun = begin_handshake(&mut account, until) => begun,
                        left = preface::watch(&mut down, preface) => {
                            opened.let_go().await;
                            return Err(leave_unfinished(down, left, Phase::Hold).await);
                        }
                    };
                    if begun {
                        let Opened { dialled, slot: mut server, .. } = *opened;
                        server.goes_on();
                        return Ok((Pass { server, account }, Some(dialled), down));
                    }
                    opened.let_go().await;
                    Some(Refusal::HoldExpired)
                }
                Err(reason) => {
                    opened.let_go().await;
                    (connect.signs() || !reason.is_a_rate()).then_some(reason)
                }
            },
        };
        let Some(reason) = refused else {
            return crate::session::enter(shared, client, down, preface, who)
                .await
                .map(|(pass, down)| (pass, None, down));
        };
        Err(turn_away(shared, reason, &client, down, preface).await)
    }
}
