//! A session between two servers: what is on its way to the lost one is dropped, what that has sent goes on to the
//! client, which is served as far as weir alone can, and the next server learns what the lost one knew.
//!
//! As long as it is not certain that another server has the session, the connection to the lost one is read in step:
//! where none has it, the client gets the last words of the lost one.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use super::{Bound, Homeless, Known, TrackedClient, TrackedServer};
use crate::{
    net::stream::Stream,
    outcome::{Cause, Party},
    protocol::{PING, info::Info, websocket::closing::Closing},
    relay::{
        Ended, Relay,
        direction::{DirectionEnd, Side},
        registry::SessionHandle,
    },
    upstream::Server,
};

/// The most PINGs of a client that are repeated: no library has more than a few on their way.
const MOST_PINGS: u32 = 1000;

/// Why a session without a server is served no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomelessEnd {
    /// It is to end.
    Ended(Ended),
    /// It cannot go to another server any more.
    Bound(Bound),
    /// All that the lost server has sent has been read.
    ServerRead,
}

/// A server that has let the client in.
#[derive(Debug)]
pub struct NewServer<'a> {
    /// The connection to it.
    pub stream: Stream,
    /// Which one it is.
    pub server: Arc<Server>,
    /// Its INFO for this client.
    pub info: &'a Arc<Info>,
    /// What it has sent behind that.
    pub rest: &'a [u8],
}

impl Relay<TrackedClient, TrackedServer> {
    /// The server is lost, with all that it has not sent and all that it has not read.
    ///
    /// # Errors
    /// The session cannot go to another server, for this reason.
    pub fn lose_server(&mut self) -> Result<(), Bound> {
        if let Some(bound) = self.known().bound() {
            return Err(bound);
        }
        if self.known().state().pings > MOST_PINGS {
            return Err(Bound::Pings);
        }
        self.to_client.side().is_between_messages()?;
        self.to_server.drop_waiting();
        self.to_server.side_mut().lose_server();
        self.look = None;
        let mut state = self.known().state();
        state.homeless = Some(Homeless { pings_to_repeat: state.pings, ..Homeless::default() });
        Ok(())
    }

    /// Serves the client of a session without a server: delivers what the lost one has sent, answers PINGs, takes in
    /// what the client subscribes to, and keeps what it publishes, up to so many bytes; then it reads no more. Returns
    /// when the session is to end, and with `until_read` once the lost server has sent no more.
    pub fn serve_homeless(
        &mut self,
        handle: &SessionHandle,
        most_kept: usize,
        until_read: bool,
    ) -> impl Future<Output = HomelessEnd> {
        poll_fn(move |cx| {
            handle.set_waker(cx.waker());
            if let Some(cause) = handle.end_requested() {
                return Poll::Ready(HomelessEnd::Ended(Ended { party: Party::Weir, cause }));
            }
            let is_read = match self.poll_lost(cx) {
                Ok(is_read) => is_read,
                Err(ended) => return Poll::Ready(HomelessEnd::Ended(ended)),
            };
            let ended = self.poll_homeless(cx, most_kept);
            // By what has come in this poll: one subscription too many, or the lost server's reason for its end.
            match self.known().bound() {
                Some(bound) if ended.is_pending() => Poll::Ready(HomelessEnd::Bound(bound)),
                None if ended.is_pending() && is_read && until_read => Poll::Ready(HomelessEnd::ServerRead),
                _ => ended.map(HomelessEnd::Ended),
            }
        })
    }

    /// Delivers what the lost server has sent. Returns whether all of it has been read.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        match self.to_client.poll(cx, &mut self.up, &mut self.down) {
            Poll::Ready(DirectionEnd::Eof | DirectionEnd::ReadFailed) => Ok(true),
            Poll::Ready(DirectionEnd::WriteFailed) => {
                Err(Ended { party: Party::Downstream, cause: Cause::SocketError })
            }
            Poll::Ready(DirectionEnd::Stopped(cause)) => Err(Ended { party: Party::Upstream, cause }),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_homeless(&mut self, cx: &mut Context<'_>, most_kept: usize) -> Poll<Ended> {
        let ended = |cause| Poll::Ready(Ended { party: Party::Downstream, cause });
        // Nothing is read of a client that does not take its PONGs, or they would be without end.
        if !self.client_takes() {
            return Poll::Pending;
        }
        let polled = self.to_server.poll_keep(cx, &mut self.down, most_kept);
        let pongs = self.to_server.side().take_pongs();
        if !pongs.is_empty() {
            self.to_client.put_between(cx, &mut self.down, &pongs);
            // Whatever it does not take at once is written when it takes some.
            cx.waker().wake_by_ref();
        }
        match polled {
            // It is an end of what the client sends: what it has published is for the next server, and the relay finds
            // the end again behind that.
            Poll::Ready(DirectionEnd::Eof) if self.to_server.holds_bytes() => Poll::Pending,
            Poll::Ready(DirectionEnd::Eof) => ended(Cause::Eof),
            Poll::Ready(DirectionEnd::Stopped(cause)) => ended(cause),
            Poll::Ready(DirectionEnd::ReadFailed | DirectionEnd::WriteFailed) => ended(Cause::SocketError),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Asks the server for a sign of life: the answer does not reach the client. Not in the middle of an operation, nor
    /// while an answer is awaited.
    pub fn probe(&mut self) -> impl Future<Output = ()> {
        poll_fn(|cx| {
            let may_ask = self.to_server.side().no_operation().is_some();
            let begun = may_ask && self.known().state().begin_own_ping();
            if begun {
                self.to_server.put_between(cx, &mut self.up, PING);
            }
            Poll::Ready(())
        })
    }

    /// Whether the server has not answered yet.
    pub fn awaits_probe(&self) -> bool {
        self.known().state().before_own_ping.is_some()
    }

    /// What the server knows of the client.
    pub fn known(&self) -> &Known {
        self.to_server.side().known()
    }

    /// The client reads this line last, once its session ends for this cause; unless it has the beginning of a message.
    pub fn say_last(&mut self, line: &[u8], cause: Cause) {
        if self.to_client.side().at_boundary() {
            self.to_client.put_behind(line);
            self.to_client.stop(cause);
            self.down.set_closing(Closing::after(line));
        }
    }

    /// Whether another server can have the session by now.
    ///
    /// # Errors
    /// It cannot, for this reason.
    pub fn may_go_on(&self) -> Result<(), Bound> {
        self.known().bound().map_or_else(|| self.to_client.side().is_between_messages(), Err)
    }

    /// The session goes on with another server: that learns of the subscriptions, the client of the server, and what
    /// was kept follows. [`Relay::may_go_on`] says whether it may.
    ///
    /// # Errors
    /// The end of the relay, when the server's bytes already hold a cause for it.
    pub fn go_on(&mut self, new: NewServer<'_>) -> Result<(), Ended> {
        let NewServer { stream, server, info, rest } = new;
        self.up = stream;
        self.to_client.side_mut().drop_begun();
        let mut words = Vec::with_capacity(1024);
        {
            let mut state = self.known().state();
            state.subscriptions.write(&mut words);
            // The client's own come first, then weir's: until its answer errors are about what has been written here.
            let pings = state.homeless.take().map_or(0, |homeless| homeless.pings_to_repeat);
            words.extend_from_slice(&PING.repeat(pings as usize));
            words.extend_from_slice(PING);
            state.before_own_ping = Some(pings);
            state.replays = true;
            state.end_overlap();
            // A server that refuses one of these ends the session.
            state.all_answered();
        }
        self.to_server.put_first(&words);
        if let Some(info) = self.to_client.side_mut().moved_to(server, info) {
            self.to_client.put_behind(&info);
        }
        self.to_client.preload(rest).map_err(|cause| Ended { party: Party::Upstream, cause })
    }
}
