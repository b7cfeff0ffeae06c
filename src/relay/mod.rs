//! Moves bytes both ways after the preface, until one side ends.
//!
//! One task serves both directions, so there is no lock between them. All sessions of a worker share one buffer: bytes
//! are read into it once they have come, and written from it to the other side at once. Bytes that the other side does
//! not take yet are kept by the session, those of one read at most, and nothing more is read until they are gone
//! (`waiting.rs`). An idle session holds no buffer.

#![warn(clippy::cast_possible_truncation, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod client_side;
mod direction;
mod ghost;
mod last_bytes;
mod late_keepalive;
mod leafnode;
mod look;
mod passthrough;
pub mod registry;
mod server_side;
mod stalled;
mod state;
mod tracked;
mod waiting;

use std::{
    future::poll_fn,
    mem,
    num::NonZeroU64,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    net::stream::{Stream, TlsInUse},
    outcome::{Cause, Party},
    protocol::s2::Mode,
    relay::{
        direction::{Direction, DirectionEnd},
        ghost::Question,
        look::Look,
        registry::{Registration, SessionHandle},
        state::RoundTripState,
    },
    telemetry::{
        counters::{Counters, Totals},
        moment::Moment,
    },
    worker,
};

pub use self::{
    client_side::ClientSide,
    direction::Side,
    late_keepalive::{LateKeepalive, request_keepalive, set_timeouts_of_servers},
    leafnode::LeafnodeSide,
    passthrough::Passthrough,
    server_side::{InfoPolicy, ServerSide},
    stalled::Stalled,
    state::{BadState, Base64, Immovable, PassthroughState, PlainState, RelayState, ResumedIn},
    tracked::{
        HandoverEnd, HomelessEnd, Known, NewServer, REMEMBERS_BEFORE, TrackedClient, TrackedServer, TrackedState,
    },
    waiting::held_bytes,
};

/// Who ended a relay, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub party: Party,
    pub cause: Cause,
}

impl Ended {
    /// Whether the server closed the connection, or died.
    pub fn by_server(self) -> bool {
        self.party == Party::Upstream && matches!(self.cause, Cause::Eof | Cause::SocketError)
    }
}

/// A session after its preface.
#[derive(Debug)]
pub struct Relay<C = ClientSide, S = ServerSide> {
    down: Stream,
    up: Stream,
    to_server: Direction<C>,
    to_client: Direction<S>,
    /// Which direction comes first in the next poll. They alternate, or a busy one would use up tokio's budget for the
    /// task each time.
    client_first: bool,
    /// The next look at a side that is not read from, while there is one.
    look: Option<Box<Look>>,
    /// The client has been asked for a sign of life, and has shown none yet.
    question: Option<Box<Question>>,
    counters: Arc<Counters>,
    /// The sum of the activity of both directions at the last count.
    activity: u64,
    /// How often something had been read from the client at the last count.
    heard: u32,
    rtt: RoundTrip,
}

/// How long the client takes to answer its server's PING: nats-server measures the same.
#[derive(Debug, Default)]
struct RoundTrip {
    pings: u32,
    pongs: u32,
    /// When the PING was sent on that is not answered yet.
    pinged: Option<NonZeroU64>,
}

impl RoundTrip {
    /// So many of each have passed. Returns how long the last one took, if it is answered now.
    fn passed(&mut self, pings: u32, pongs: u32) -> Option<Duration> {
        if mem::replace(&mut self.pings, pings) != pings {
            self.pinged = NonZeroU64::new(Moment::now().raw());
        }
        if mem::replace(&mut self.pongs, pongs) == pongs {
            return None;
        }
        Some(Moment::now().since(Moment::from_raw(self.pinged.take()?.get())))
    }

    fn state(&self) -> RoundTripState {
        let for_nanoseconds = |at: NonZeroU64| Moment::now().raw().saturating_sub(at.get());
        RoundTripState { pings: self.pings, pongs: self.pongs, pinged_for: self.pinged.map(for_nanoseconds) }
    }

    /// That of another process. The answer to a PING from before this process began is not measured.
    fn resumed(state: &RoundTripState) -> Self {
        let at = |nanoseconds| NonZeroU64::new(Moment::now().raw().saturating_sub(nanoseconds));
        Self { pings: state.pings, pongs: state.pongs, pinged: state.pinged_for.and_then(at) }
    }
}

impl<C: Side, S: Side> Relay<C, S> {
    /// `pipelined` are the bytes that the client sent behind its preface, `rest` those that the server sent behind its
    /// own.
    ///
    /// # Errors
    /// The end of the relay, when the server's bytes already hold a cause for it.
    pub fn new(
        (mut down, client, pipelined): (Stream, C, &[u8]),
        (up, mut server, rest): (Stream, S, &[u8]),
        counters: Arc<Counters>,
    ) -> Result<Self, (Stream, Ended)> {
        if down.has_close_code() {
            server.capture_errors();
        }
        let (mut to_server, mut to_client) = (Direction::new(client), Direction::new(server));
        if let Err(cause) = to_client.preload(rest) {
            down.set_closing(to_client.side().closing());
            return Err((down, Ended { party: Party::Upstream, cause }));
        }
        // What the server can answer still goes to the server, and its answer to the client.
        let _ = to_server.preload(pipelined);
        Ok(Self {
            down,
            up,
            to_server,
            to_client,
            client_first: true,
            look: None,
            question: None,
            counters,
            activity: 0,
            heard: 0,
            rtt: RoundTrip::default(),
        })
    }

    /// Counts bytes of the client that the server has had before the relay.
    pub fn has_passed(&mut self, bytes_up: u64) {
        self.to_server.has_passed(bytes_up);
    }

    /// Relays until one side ends or the end is requested by its handle. Call [`Relay::finish`] afterwards.
    // Not an `async fn`: its future would hold each argument twice.
    pub fn run(&mut self, registered: &Registration) -> impl Future<Output = Ended> + Unpin {
        let (mut waker_is_known, mut has_timeouts) = (false, false);
        poll_fn(move |cx| {
            let handle = registered.handle();
            if !waker_is_known {
                handle.set_waker(cx.waker());
                waker_is_known = true;
                worker::with(|sessions: &LateKeepalive| sessions.register(handle));
            }
            // Not before: they take five system calls, and many sessions end within their first second.
            if !has_timeouts && handle.keepalive_requested() {
                has_timeouts = true;
                // An error means that the connection is gone, which the relay is about to notice.
                let _ = worker::with(LateKeepalive::timeouts).set_on(self.up.tcp());
            }
            if handle.take_info_requested() {
                self.to_client.announce(cx, &mut self.down);
            }
            if handle.take_no_operation_requested() {
                // In the middle of an operation the client's own bytes do the same.
                self.to_server.put_no_operation(cx, &mut self.up);
            }
            if handle.sign_of_life_requested() {
                self.ask_for_sign_of_life(cx, handle);
            }
            let mut ended = self.step(cx, handle);
            if ended.is_pending() {
                ended = self.poll_question(cx);
            }
            if ended.is_pending() {
                ended = self.poll_look(cx, registered);
            }
            ended
        })
    }

    /// Like [`Relay::run`], but returns `None` once `enough` is true of the totals so far. Cancel-safe.
    pub async fn run_until(&mut self, handle: &SessionHandle, mut enough: impl FnMut(Totals) -> bool) -> Option<Ended> {
        poll_fn(|cx| {
            handle.set_waker(cx.waker());
            let ended = self.step(cx, handle).map(Some);
            if ended.is_pending() && enough(self.totals()) { Poll::Ready(None) } else { ended }
        })
        .await
    }

    fn step(&mut self, cx: &mut Context<'_>, handle: &SessionHandle) -> Poll<Ended> {
        if let Some(cause) = handle.end_requested() {
            return Poll::Ready(Ended { party: Party::Weir, cause });
        }
        let polled = self.poll(cx);
        self.count(handle);
        polled
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let ended = |party, direction_end| match direction_end {
            DirectionEnd::Eof => Ended { party, cause: Cause::Eof },
            DirectionEnd::Stopped(cause) => Ended { party, cause },
            DirectionEnd::ReadFailed => Ended { party, cause: Cause::SocketError },
            DirectionEnd::WriteFailed => Ended {
                party: if party == Party::Downstream { Party::Upstream } else { Party::Downstream },
                cause: Cause::SocketError,
            },
        };
        self.client_first = !self.client_first;
        for from_client in [self.client_first, !self.client_first] {
            let (party, polled) = match from_client {
                true => (Party::Downstream, self.to_server.poll(cx, &mut self.down, &mut self.up)),
                false => (Party::Upstream, self.to_client.poll(cx, &mut self.up, &mut self.down)),
            };
            if let Poll::Ready(direction_end) = polled {
                return Poll::Ready(ended(party, direction_end));
            }
        }
        Poll::Pending
    }

    /// What has passed.
    fn totals(&self) -> Totals {
        let (up, down) = (self.to_server.side(), self.to_client.side());
        Totals {
            bytes_up: self.to_server.bytes(),
            bytes_down: self.to_client.bytes(),
            messages_up: up.messages(),
            messages_down: down.messages(),
            payload_up: up.payload(),
            payload_down: down.payload(),
        }
    }

    /// Adds what has passed since the last call to the counters, and shows it in the session's entry; returns the
    /// totals.
    fn count(&mut self, session: &SessionHandle) -> Totals {
        let (totals, before) = (self.totals(), session.traffic().totals());
        let heard = self.to_server.reads();
        if mem::replace(&mut self.heard, heard) != heard {
            session.traffic().set_last_heard(Moment::now_coarse());
        }
        if totals != before {
            self.counters.relayed(totals.since(before));
            session.traffic().set(totals);
            let activity = self.to_server.activity().wrapping_add(self.to_client.activity());
            if mem::replace(&mut self.activity, activity) != activity {
                session.traffic().set_last_activity(Moment::now_coarse());
            }
            let (pings, pongs) = (self.to_client.side().signs_of_life(), self.to_server.side().signs_of_life());
            if let Some(rtt) = self.rtt.passed(pings, pongs) {
                session.traffic().set_rtt(rtt);
                self.down.set_rtt(rtt);
            }
        }
        totals
    }

    /// TLS of the client's connection, where weir ends it.
    pub fn client_tls(&self) -> Option<TlsInUse> {
        self.down.tls()
    }

    /// How the client's connection is compressed, where both sides have agreed on that.
    pub fn client_compression(&self) -> Option<Mode> {
        self.down.compression()
    }

    /// Whether the client has left and there is nothing to wait for, so both connections can be closed at once: the
    /// client sent nothing to the server since the relay began, and without TLS or WebSocket a close is no more than a
    /// FIN.
    pub fn is_owed_nothing(&self, ended: Ended) -> bool {
        let has_left = ended.party == Party::Downstream && ended.cause == Cause::Eof;
        let is_plain = matches!((&self.down, &self.up), (Stream::Plain(_), Stream::Plain(_)));
        has_left && is_plain && self.to_server.bytes() == 0
    }
}
