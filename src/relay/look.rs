//! Whether a side has gone that is not read from, because the other side takes no bytes.
//!
//! Then nothing wakes the session when that side ends: the bytes that it sent before are still to be read. So a session
//! in which bytes wait looks once a second.
//!
//! The end of a server is behind all that it has written. When it closes a subscriber that does not read, its last
//! bytes fill the buffers of both kernels, and the FIN does not arrive as long as they do. But a closed connection
//! answers bytes with a reset. So weir writes an operation to the server that does nothing.

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
    relay::{Ended, Relay, direction::Side},
};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After this many looks in a row between which a client took nothing its server is asked whether it is there, and
/// after as many again.
const STILL: u32 = 3;

/// The next look. On the heap and only while bytes wait: an idle session needs none.
#[derive(Debug)]
pub(super) struct Look {
    next: Sleep,
    /// What the client had taken at the last look, and how many looks found no more.
    taken: u64,
    still: u32,
}

impl Look {
    #[expect(clippy::arithmetic_side_effects, reason = "a time a second from now is a time")]
    fn next() -> Sleep {
        sleep_until(Instant::now() + LOOK_INTERVAL)
    }
}

impl<C: Side, S: Side> Relay<C, S> {
    /// Looks when it is time. Ready when a side has gone; what it sent before is still to be delivered.
    pub(super) fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        // A look that is due is not taken back when bytes move: they may wait again a moment later.
        while self.look.is_some() || self.to_client.holds_bytes() || self.to_server.holds_bytes() {
            let look = self.look.get_or_insert_with(|| Box::new(Look { next: Look::next(), taken: 0, still: 0 }));
            ready!(Pin::new(&mut look.next).poll(cx));
            if let Some(ended) = self.ended_unread(cx) {
                return Poll::Ready(ended);
            }
            let Some(mut look) = self.look.take() else { break };
            if !self.to_client.holds_bytes() && !self.to_server.holds_bytes() {
                break;
            }
            let taken = self.to_client.delivered();
            let still = if taken == look.taken { look.still.saturating_add(1) } else { 0 };
            (look.taken, look.still, look.next) = (taken, still, Look::next());
            self.look = Some(look);
            if self.to_client.holds_bytes() && still > 0 && still.is_multiple_of(STILL) {
                self.to_server.put_no_operation(cx, &mut self.up);
            }
        }
        Poll::Pending
    }

    fn ended_unread(&self, cx: &mut Context<'_>) -> Option<Ended> {
        let mut state_of = |stream: &Stream, of_interest| match pin!(stream.tcp().ready(of_interest)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready,
            _ => Ready::EMPTY,
        };
        if self.to_client.holds_bytes() && state_of(&self.up, Interest::READABLE).is_read_closed() {
            return Some(Ended { party: Party::Upstream, cause: Cause::Eof });
        }
        // A client that has only ended its stream may still read: the server decides how long it takes for the rest.
        if self.to_server.holds_bytes() && state_of(&self.down, Interest::WRITABLE).is_write_closed() {
            return Some(Ended { party: Party::Downstream, cause: Cause::SocketError });
        }
        None
    }
}
