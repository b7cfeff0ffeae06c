//! Moving bytes both ways after the preface, until one side ends.
//!
//! One task, no lock between the directions. A worker's sessions share one buffer: bytes are read into it only once they are
//! there and are written on from it at once; what the other side does not take yet is kept by the session, at most one read, and
//! nothing more is read until it is gone. An idle session holds no buffer.

mod client_side;
mod direction;
mod late_keepalive;
mod passthrough;
pub mod registry;
mod server_side;

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::Instant};

use crate::{
    net::{
        linger, socket,
        stream::Stream,
        timer::{sleep_until, timeout_at},
    },
    outcome::{Cause, Party},
    relay::{
        direction::{Pump, Pumped},
        registry::Handle,
    },
    telemetry::counters::{Counters, Totals},
    worker,
};

pub use self::{
    client_side::ClientSide,
    server_side::{InfoPolicy, ServerSide},
};
pub use crate::relay::{
    direction::{Buffer, Side},
    late_keepalive::{LateKeepalive, mark_established},
    passthrough::Opaque,
};
/// After one side has ended, how long what is on its way from the other may take. nats-server closes as soon as it sees the
/// end; so do clients.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Who ended a relay, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Who.
    pub party: Party,
    /// Why.
    pub cause: Cause,
}

impl Ended {
    /// Whether the server has ended it, by dying or on purpose.
    pub fn by_server(self) -> bool {
        self.party == Party::Upstream && matches!(self.cause, Cause::Eof | Cause::SocketError)
    }
}

/// A session after its preface.
#[derive(Debug)]
pub struct Relay<C = ClientSide, S = ServerSide> {
    down: Stream,
    up: Stream,
    to_server: Pump<C>,
    to_client: Pump<S>,
    /// Which direction comes first in the next poll: they take turns, or a busy one would use up the task's budget each time.
    client_first: bool,
    counters: Arc<Counters>,
    /// What `tally` knows of already.
    told: Totals,
}

impl<C: Side, S: Side> Relay<C, S> {
    /// `pipelined` is what the client sent behind its preface, `rest` what the server did.
    ///
    /// # Errors
    /// The end, when those bytes already hold a reason for it.
    pub fn new(
        (down, client, pipelined): (Stream, C, &[u8]),
        (up, server, rest): (Stream, S, &[u8]),
        counters: Arc<Counters>,
    ) -> Result<Self, (Stream, Ended)> {
        let (mut to_server, mut to_client) = (Pump::new(client), Pump::new(server));
        if let Err(cause) = to_client.preload(rest) {
            return Err((down, Ended { party: Party::Upstream, cause }));
        }
        match to_server.preload(pipelined) {
            // The offending bytes are on their way, so that the server says its own words about them.
            Ok(()) | Err(Cause::Protocol) => {
                Ok(Self { down, up, to_server, to_client, client_first: true, counters, told: Totals::default() })
            }
            Err(cause) => Err((down, Ended { party: Party::Downstream, cause })),
        }
    }

    /// Relays until one side ends or `handle` is told to end; [`Relay::finish`] is to follow.
    // Not an `async fn`, whose future would hold each argument twice.
    pub fn run(&mut self, handle: &Arc<Handle>) -> impl Future<Output = Ended> {
        let (mut waker_is_known, mut has_keepalive) = (false, false);
        poll_fn(move |cx| {
            if !waker_is_known {
                handle.wake(cx.waker());
                waker_is_known = true;
                worker::with(|local| local.late_keepalive.register(Arc::clone(handle)));
            }
            // Sooner, its five system calls would mostly be for nothing: many sessions end soon.
            if !has_keepalive && handle.is_established() {
                has_keepalive = true;
                // A connection that is gone already is noticed below.
                let _ = socket::keep_alive(self.up.tcp());
            }
            self.step(cx, handle)
        })
    }

    /// The same, but only until `enough` says so of what has passed in all: then it returns `None`. Cancel-safe.
    pub async fn run_until(&mut self, handle: &Handle, mut enough: impl FnMut(Totals) -> bool) -> Option<Ended> {
        poll_fn(|cx| {
            handle.wake(cx.waker());
            let ended = self.step(cx, handle).map(Some);
            if ended.is_pending() && enough(self.told) { Poll::Ready(None) } else { ended }
        })
        .await
    }

    fn step(&mut self, cx: &mut Context<'_>, handle: &Handle) -> Poll<Ended> {
        if handle.told_to_end() {
            return Poll::Ready(Ended { party: Party::Weir, cause: Cause::Draining });
        }
        let polled = self.poll(cx);
        self.tell();
        polled
    }

    /// Keeps the client until `until` after its server has gone: what the server had said reaches it, and then it notices nothing.
    /// Returns sooner when the client speaks, since what it says would be lost, when it leaves, and when `handle` is told to end.
    pub async fn outlive_server(&mut self, until: Instant, handle: &Handle) {
        if self.to_server.holds_bytes() {
            return;
        }
        let _ = self.up.shutdown().await;
        let (to_client, down) = (&mut self.to_client, &mut self.down);
        let quiet = async {
            if poll_fn(|cx| to_client.poll_flush(cx, down)).await {
                let _ = down.tcp().peek(&mut [0]).await;
            }
        };
        let told = poll_fn(|cx| {
            handle.wake(cx.waker());
            if handle.told_to_end() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = quiet => {}
            () = told => {}
            () = sleep_until(until) => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let ended = |party, pumped| match pumped {
            Pumped::Eof => Ended { party, cause: Cause::Eof },
            Pumped::Stopped(cause) => Ended { party, cause },
            Pumped::ReadFailed => Ended { party, cause: Cause::SocketError },
            Pumped::WriteFailed => Ended {
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
            if let Poll::Ready(pumped) = polled {
                return Poll::Ready(ended(party, pumped));
            }
        }
        Poll::Pending
    }

    /// Adds what has passed since the last time to the tally; returns what has passed in all.
    fn tell(&mut self) -> Totals {
        let totals = Totals {
            bytes_up: self.to_server.bytes(),
            bytes_down: self.to_client.bytes(),
            messages_up: self.to_server.side().messages(),
            messages_down: self.to_client.side().messages(),
        };
        self.counters.relayed(totals - self.told);
        self.told = totals;
        totals
    }

    /// Whether the client has gone and nobody has anything to wait for: all that it said was answered before the relay began, and
    /// a close on both sides is no more than their FIN. Returns what has passed then.
    pub fn owed_nothing(&self, ended: Ended) -> Option<Totals> {
        let has_left = ended.party == Party::Downstream && ended.cause == Cause::Eof;
        let is_plain = matches!((&self.down, &self.up), (Stream::Plain(_), Stream::Plain(_)));
        (has_left && is_plain && self.told.bytes_up == 0).then_some(self.told)
    }

    /// Lets the other side go: what is on its way arrives where anybody still reads it, both sides get a plain FIN. When this
    /// returns the server's connection is closed, and seen closed by the server where it answers.
    pub async fn finish(mut self, ended: Ended) -> Totals {
        let deadline = Instant::now() + LAST_BYTES;
        let (mut down_is_over, mut up_is_over) = match ended.cause {
            // A WebSocket's end is a frame: the goodbye of TLS and the FIN are still to come, and are this side's to begin.
            Cause::Eof if matches!(self.down, Stream::WebSocket(_)) => (false, ended.party == Party::Upstream),
            Cause::Eof | Cause::SocketError => (ended.party == Party::Downstream, ended.party == Party::Upstream),
            _ => (false, false),
        };
        match (ended.party, ended.cause) {
            (Party::Downstream, Cause::Eof | Cause::Protocol) => {
                // The client's last bytes reach the server, then its end; the server's last words reach the client.
                let last_words = async {
                    poll_fn(|cx| self.to_server.poll_flush(cx, &mut self.up)).await;
                    let _ = self.up.shutdown().await;
                    poll_fn(|cx| self.to_client.poll(cx, &mut self.up, &mut self.down)).await
                };
                up_is_over = timeout_at(deadline, pin!(last_words)).await == Ok(Pumped::Eof);
            }
            (Party::Upstream, _) => {
                let flushed = timeout_at(deadline, poll_fn(|cx| self.to_client.poll_flush(cx, &mut self.down))).await;
                down_is_over = flushed == Ok(false);
            }
            _ => {}
        }
        let totals = self.tell();
        // Both at once, so that the server's slot is free as soon as the server itself has seen the end. A side whose end has
        // been read is closed without further ado.
        let let_go = async |stream: Stream, is_over: bool| {
            if !is_over {
                linger::close_with(stream, b"").await;
            }
        };
        tokio::join!(let_go(self.up, up_is_over), let_go(self.down, down_is_over));
        totals
    }
}
