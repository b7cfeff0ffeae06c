//! Whether a side has gone that is not read from, because the other side takes no bytes.
//!
//! Then nothing wakes the session when that side ends: the bytes that it sent before are still to be read. So a session
//! in which bytes wait looks once a second.
//!
//! The end of a server is behind all that it has written. When it closes a subscriber that does not read, its last
//! bytes fill the buffers of both kernels, and the FIN does not arrive as long as they do. But a closed connection
//! answers bytes with a reset. So weir writes an operation to the server that does nothing. Where nothing can be put
//! into what the client sends (TLS that ends at the server, the middle of a message), the server is asked for the
//! connections that it has closed (`stalled.rs`).

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{Interest, Ready},
    time::Instant,
};

use crate::{
    net::{
        stream::Stream,
        timer::{Sleep, sleep_until},
    },
    outcome::{Cause, Party},
    relay::{
        Ended, Relay,
        direction::Side,
        registry::{Registration, ServerSays},
        stalled::Stalled,
    },
};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After this many looks in a row between which a client took nothing its server is asked whether it is there, and
/// after as many again.
const STILL: u32 = 3;

/// After so many looks in a row between which a client neither took nor sent anything it is given up, where its server
/// cannot be asked. At its defaults nats-server closes it by then, since it has answered no PING: after 6 minutes.
const GIVEN_UP: u32 = 360;

/// The next look. On the heap and only while bytes wait: an idle session needs none.
#[derive(Debug)]
pub(super) struct Look {
    next: Sleep,
    /// When the last look was, or when bytes began to wait.
    looked: Instant,
    /// Since when at the earliest the client takes nothing, but not before the session began.
    since: Instant,
    /// What the client had taken at the last look, and how many looks found no more.
    taken: u64,
    still: u32,
    /// What the client had sent at the last look, and how many looks found that it took and sent no more.
    sent: u64,
    silent: u32,
}

impl Look {
    fn begin(taken: u64, sent: u64) -> Box<Self> {
        let now = Instant::now();
        Box::new(Self { next: Self::next(now), looked: now, since: now, taken, still: 0, sent, silent: 0 })
    }

    #[expect(clippy::arithmetic_side_effects, reason = "a time a second from now is a time")]
    fn next(now: Instant) -> Sleep {
        sleep_until(now + LOOK_INTERVAL)
    }

    /// Looks what the client has taken and sent since the last look.
    fn look(&mut self, taken: u64, sent: u64) {
        let now = Instant::now();
        if taken == self.taken {
            self.still = self.still.saturating_add(1);
        } else {
            (self.still, self.since) = (0, self.looked);
        }
        self.silent = if taken == self.taken && sent == self.sent { self.silent.saturating_add(1) } else { 0 };
        (self.taken, self.sent, self.looked, self.next) = (taken, sent, now, Self::next(now));
    }

    /// Whether it is time to find out if the server is there.
    fn is_long(&self) -> bool {
        self.still > 0 && self.still.is_multiple_of(STILL)
    }
}

impl<C: Side, S: Side> Relay<C, S> {
    /// Whether the client takes what the server sends: else nothing is read of the server. What is not taken may wait
    /// in TLS, in a WebSocket or in S2.
    pub fn client_takes(&self) -> bool {
        !self.to_client.holds_bytes() && !self.down.needs_flush()
    }

    /// The same of the server.
    fn server_takes(&self) -> bool {
        !self.to_server.holds_bytes() && !self.up.needs_flush()
    }

    /// Looks when it is time. Ready when a side has gone; what it sent before is still to be delivered.
    pub(super) fn poll_look(&mut self, cx: &mut Context<'_>, registered: &Registration) -> Poll<Ended> {
        let handle = registered.handle();
        if self.look.is_some() && handle.server_says() == ServerSays::Closed {
            return Poll::Ready(Ended { party: Party::Upstream, cause: Cause::Eof });
        }
        // A look that is due is not taken back when bytes move: they may wait again a moment later.
        while self.look.is_some() || !self.client_takes() || !self.server_takes() {
            let (taken, sent) = (self.to_client.delivered(), self.to_server.bytes());
            let look = self.look.get_or_insert_with(|| Look::begin(taken, sent));
            ready!(Pin::new(&mut look.next).poll(cx));
            if let Some(ended) = self.ended_unread(cx) {
                return Poll::Ready(ended);
            }
            let Some(mut look) = self.look.take() else { break };
            if self.client_takes() && self.server_takes() {
                break;
            }
            look.look(taken, sent);
            let (is_long, since, is_given_up) = (look.is_long(), look.since, look.silent >= GIVEN_UP);
            self.look = Some(look);
            if !self.client_takes() && is_long && !self.to_server.put_no_operation(cx, &mut self.up) {
                if is_given_up && handle.server_says() == ServerSays::NoAnswer {
                    return Poll::Ready(Ended { party: Party::Downstream, cause: Cause::SocketError });
                }
                registered.ask_whether_closed(Stalled::new(handle, &self.up, &self.down, since));
            }
        }
        Poll::Pending
    }

    fn ended_unread(&self, cx: &mut Context<'_>) -> Option<Ended> {
        let mut state_of = |stream: &Stream, of_interest| match pin!(stream.tcp().ready(of_interest)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready,
            _ => Ready::EMPTY,
        };
        if !self.client_takes() && state_of(&self.up, Interest::READABLE).is_read_closed() {
            return Some(Ended { party: Party::Upstream, cause: Cause::Eof });
        }
        // A client that has only ended its stream may still read: the server decides how long it takes for the rest.
        if !self.server_takes() && state_of(&self.down, Interest::WRITABLE).is_write_closed() {
            return Some(Ended { party: Party::Downstream, cause: Cause::SocketError });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{io::AsyncWriteExt, time::timeout};

    use super::*;
    use crate::{
        net::socket::connected_pair,
        relay::{
            Passthrough,
            registry::{AtServer, SessionFacts, SessionRegistry},
        },
        telemetry::counters::Counters,
    };

    /// How a session ends within 20 minutes whose client takes nothing and whose server says this.
    async fn end_of_stalled(says: ServerSays) -> Option<Ended> {
        let ((_client, down), (mut server, up)) = (connected_pair().await, connected_pair().await);
        let side = (Passthrough::default(), Passthrough::default());
        let counters = Arc::new(Counters::default());
        let mut relay = Relay::new((down.into(), side.0, b""), (up.into(), side.1, b""), counters).unwrap();
        let sessions = Arc::<SessionRegistry>::default();
        let registered = sessions.register(SessionFacts::default(), None, AtServer::default());
        registered.handle().server_said(says);
        let writes = tokio::spawn(async move { server.write_all(&vec![0; 64 * 1024 * 1024]).await });
        let ended = timeout(Duration::from_secs(1200), relay.run(&registered)).await;
        writes.abort();
        assert!(
            says == ServerSays::Closed || !sessions.take_stalled(crate::upstream::ServerId::from_raw(0)).is_empty(),
            "it asks its server"
        );
        assert!(sessions.take_stalled(crate::upstream::ServerId::from_raw(0)).is_empty());
        ended.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_session_ends_with_its_server_or_when_nobody_can_be_asked() {
        assert_eq!(end_of_stalled(ServerSays::Nothing).await, None);
        let by_server = Ended { party: Party::Upstream, cause: Cause::Eof };
        assert_eq!(end_of_stalled(ServerSays::Closed).await, Some(by_server));
        let given_up = Ended { party: Party::Downstream, cause: Cause::SocketError };
        assert_eq!(end_of_stalled(ServerSays::NoAnswer).await, Some(given_up));
    }
}
