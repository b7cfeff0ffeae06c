//! Server to client, in whole operations.

use std::{net::IpAddr, sync::Arc};

use super::{Bound, Known, LONGEST_HELD, LONGEST_MATCHED, WholeOperations, state::TrackedServerState};
use crate::{
    advertised_info::ListenerInfo,
    outcome::Cause,
    protocol::{MAX_INFO_LINE, info::Info, op::ServerOperation, websocket::closing::Closing},
    relay::{
        direction::{Outlet, Side},
        server_side::ServerSide,
        state::{BadState, Base64},
    },
    upstream::Server,
};

/// The errors behind which a nats-server leaves a connection open, as they begin, apart from those about subscriptions.
const STAYS_OPEN: [&[u8]; 3] = [b"permissions violation", b"invalid publish subject", b"server shutdown"];

const INVALID_SUBJECT: &[u8] = b"invalid subject";
const ONE_TOO_MANY: &[u8] = b"maximum subscriptions exceeded";

/// How a server begins to say that it refuses a subscription.
const SUBSCRIPTION_REFUSED: &[u8] = b"permissions violation for subscription to \"";

/// [`ServerSide`] of a session that can go to another server.
#[derive(Debug)]
pub struct TrackedServer {
    inner: ServerSide,
    known: Known,
    /// The beginning of an operation.
    held: Vec<u8>,
}

impl TrackedServer {
    /// Of a server that knows of the client what is `known`.
    pub fn new(inner: ServerSide, known: Known) -> Self {
        Self { inner, known, held: Vec::new() }
    }

    pub(super) fn state(&self) -> TrackedServerState {
        TrackedServerState { server: self.inner.state(), held: Base64(self.held.clone()) }
    }

    /// Goes on where another process has stopped, with what was `known` there.
    ///
    /// # Errors
    /// No server can be there.
    pub(super) fn resumed(
        state: TrackedServerState,
        known: Known,
        listener_info: Arc<ListenerInfo>,
        client_ip: IpAddr,
        server: Arc<Server>,
    ) -> Result<Self, BadState> {
        let TrackedServerState { server: side, held: Base64(held) } = state;
        let inner = ServerSide::resumed(side, listener_info, client_ip, server)?;
        let longest = LONGEST_MATCHED.max(MAX_INFO_LINE);
        if !held.is_empty() && (held.len() > longest || !inner.at_boundary()) {
            return Err(BadState("the beginning of an operation of the server"));
        }
        Ok(Self { inner, known, held })
    }

    /// # Errors
    /// The client has had the beginning of a message, so that no other server can go on.
    pub(super) fn is_between_messages(&self) -> Result<(), Bound> {
        if self.inner.at_boundary() { Ok(()) } else { Err(Bound::LongMessage) }
    }

    /// Whether no operation is under way to the client.
    pub(super) fn at_boundary(&self) -> bool {
        self.inner.at_boundary()
    }

    /// Passes whole operations that are not matched with others any more.
    ///
    /// # Errors
    /// See [`Side::pass`].
    pub(super) fn pass_as_they_are(&mut self, operations: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        self.inner.pass(operations, out)
    }

    /// Another server speaks from now on: what the one before has begun has no end.
    pub(super) fn drop_begun(&mut self) {
        self.held = Vec::new();
    }

    /// Reads an INFO of the session's next server.
    pub(super) fn info_of(&self, server: &Server, json: &[u8]) -> Option<Info> {
        self.inner.info_of(server, json)
    }

    /// See [`ServerSide::moved_to`].
    pub(super) fn moved_to(&mut self, server: Arc<Server>, info: &Arc<Info>) -> Option<Vec<u8>> {
        self.inner.moved_to(server, info)
    }

    fn forward(&mut self, bytes: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        self.inner.pass(bytes, out)?;
        Ok(bytes.len())
    }

    /// Passes the rest of an operation that goes on as it comes.
    fn pass_rest(&mut self, rest: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        if self.inner.collects_line() {
            return self.forward(rest, out);
        }
        let end = self.inner.framing().pass_boundary(rest);
        let passed = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        out.put(passed);
        if end.is_some() && !self.inner.at_boundary() {
            return self.forward(rest.get(passed.len()..).unwrap_or_default(), out);
        }
        Ok(passed.len())
    }

    /// What an error of the server means for what it knows of the client.
    fn note_error(&self, text: &[u8]) {
        let begins_with = |begin: &[u8]| text.get(..begin.len()).is_some_and(|text| text.eq_ignore_ascii_case(begin));
        let mut state = self.known.state();
        if begins_with(SUBSCRIPTION_REFUSED) {
            // … to "SUBJECT", or … to "SUBJECT" using queue "QUEUE"; a sid may follow.
            let mut parts = text.split(|byte| *byte == b'"').skip(1);
            let (subject, between, queue) = (parts.next(), parts.next(), parts.next());
            let queue = queue.filter(|_| between == Some(b" using queue "));
            if state.subscriptions.refused(subject.unwrap_or_default(), queue) {
                state.unanswered.ended();
            }
        } else if begins_with(ONE_TOO_MANY) {
            state.one_too_many();
        } else if begins_with(INVALID_SUBJECT) {
            state.invalid_subject();
        } else if !STAYS_OPEN.iter().any(|begin| begins_with(begin)) {
            state.bind(Bound::Error);
        }
    }
}

impl WholeOperations for TrackedServer {
    fn pass_operation(&mut self, rest: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        if !self.inner.at_boundary() {
            return self.pass_rest(rest, out);
        }
        let mut longest = LONGEST_HELD;
        let whole = {
            let mut state = self.known.state();
            if state.is_matching() || state.homeless.is_some() {
                // Each message is looked at; and of a lost server the client has only whole ones.
                longest = LONGEST_MATCHED;
                0
            } else {
                self.inner.framing().pass_whole(rest, |sid, messages| {
                    state.delivered(sid, messages);
                })
            }
        };
        if whole > 0 {
            out.put(rest.get(..whole).unwrap_or_default());
            return Ok(whole);
        }
        match ServerOperation::at(rest) {
            ServerOperation::Unfinished if rest.len() < MAX_INFO_LINE => Ok(0),
            ServerOperation::Message { len, .. } if len > rest.len() && len <= longest => Ok(0),
            ServerOperation::Unfinished => self.forward(rest, out),
            ServerOperation::Message { sid, len, .. } => {
                let message = rest.get(..len);
                let goes_on = self.known.state().message(sid, message);
                if goes_on { self.forward(message.unwrap_or(rest), out) } else { Ok(len) }
            }
            ServerOperation::Pong(line) => {
                let is_clients = self.known.state().pong();
                if is_clients { self.forward(line, out) } else { Ok(line.len()) }
            }
            ServerOperation::Err { line, text } => {
                self.note_error(text);
                let is_replay = self.known.state().replays;
                let passed = self.forward(line, out)?;
                // What another server has granted this one refuses.
                if is_replay { Err(Cause::ServerError) } else { Ok(passed) }
            }
            ServerOperation::Ping(line) | ServerOperation::Line(line) => self.forward(line, out),
        }
    }

    fn length(begun: &[u8]) -> Option<usize> {
        match ServerOperation::at(begun) {
            ServerOperation::Message { len, .. } => Some(len),
            _ => None,
        }
    }

    fn held(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }
}

impl Side for TrackedServer {
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        self.pass_chunk(chunk, out)
    }

    fn capture_errors(&mut self) {
        self.inner.capture_errors();
    }

    fn closing(&self) -> Option<&'static Closing> {
        self.inner.closing()
    }

    fn announce(&mut self) -> Option<Vec<u8>> {
        self.inner.announce()
    }

    fn question(&self) -> Option<&'static [u8]> {
        self.inner.question()
    }

    fn messages(&self) -> u64 {
        self.inner.messages()
    }

    fn payload(&self) -> u64 {
        self.inner.payload()
    }

    fn signs_of_life(&self) -> u32 {
        self.inner.signs_of_life()
    }
}
