//! Client to server, in whole operations.

use std::{mem, sync::Arc};

use super::{Bound, Known, LONGEST_HELD, WholeOperations, state::TrackedClientState};
use crate::{
    identity::Keys,
    outcome::Cause,
    protocol::{
        PONG,
        op::{ClientOperation, ClientScan},
    },
    relay::{
        client_side::ClientSide,
        direction::{Outlet, Side},
        state::{BadState, Base64, Immovable},
        waiting::Waiting,
    },
};

/// [`ClientSide`] of a session that can go to another server.
#[derive(Debug)]
pub struct TrackedClient {
    inner: ClientSide,
    known: Known,
    /// The beginning of an operation.
    held: Vec<u8>,
    /// The rest of the operation that is under way goes nowhere: the server that has its beginning is lost.
    drops_rest: bool,
}

impl TrackedClient {
    /// Of a client of which no server knows more than `known`.
    pub fn new(inner: ClientSide, known: Known) -> Self {
        Self { inner, known, held: Vec::new(), drops_rest: false }
    }

    /// # Errors
    /// The session is between two servers.
    pub(super) fn state(&self) -> Result<TrackedClientState, Immovable> {
        Ok(TrackedClientState {
            client: self.inner.state(),
            known: self.known.written()?,
            held: Base64(self.held.clone()),
            drops_rest: self.drops_rest,
        })
    }

    /// Goes on where another process has stopped, with what was `known` there.
    ///
    /// # Errors
    /// No client can be there.
    pub(super) fn resumed(state: TrackedClientState, known: Known, keys: Arc<Keys>) -> Result<Self, BadState> {
        let TrackedClientState { client, known: _, held: Base64(held), drops_rest } = state;
        let mut inner = ClientSide::resumed(client, keys)?;
        if !held.is_empty() && (held.len() > LONGEST_HELD || !inner.at_boundary()) {
            return Err(BadState("the beginning of an operation of the client"));
        }
        if drops_rest && inner.framing().at_boundary() {
            return Err(BadState("the rest of an operation that is none"));
        }
        Ok(Self { inner, known, held, drops_rest })
    }

    /// What the server knows of the client.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// The server is lost, with all that it had of the operation that is under way. It had nothing of a CONNECT that is
    /// being collected.
    pub(super) fn lose_server(&mut self) {
        self.drops_rest = !self.inner.framing().at_boundary();
    }

    /// Whether this is the beginning of an operation, as far as it goes: the server answers what is none.
    fn may_go_on(&mut self, rest: &[u8]) -> bool {
        matches!(self.inner.framing().clone().scan(rest), ClientScan::Pass | ClientScan::Connect { at: 0 })
    }

    fn forward(&mut self, bytes: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        let options = self.inner.options();
        self.inner.pass(bytes, out)?;
        if self.inner.options() != options {
            // Servers since 2.15 drop the subscriptions of such a client, others keep them.
            self.known.state().bind(Bound::Options);
        }
        Ok(bytes.len())
    }

    /// Passes the rest of an operation that goes on as it comes; returns how many bytes that are.
    fn pass_rest(&mut self, rest: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        if self.inner.collects_line() {
            self.inner.pass(rest, out)?;
            return Ok(rest.len());
        }
        let end = self.inner.framing().pass_boundary(rest);
        let passed = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if !self.drops_rest {
            out.put(passed);
        }
        if let Some(end) = end {
            if !self.inner.at_boundary() {
                // A violation: the server answers it.
                self.inner.pass(rest.get(end..).unwrap_or_default(), out)?;
                return Ok(rest.len());
            }
            self.drops_rest = false;
        }
        Ok(passed.len())
    }

    /// SUB and UNSUB of a session without a server are only remembered: the next server gets them first.
    fn pass_interest(&mut self, line: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        let is_homeless = self.known.state().homeless.is_some();
        match is_homeless {
            true => self.inner.pass(line, &mut Outlet::to_hold(&mut Waiting::default(), &mut 0))?,
            false => self.inner.pass(line, out)?,
        }
        Ok(line.len())
    }

    fn publishes(&self) {
        if let Some(homeless) = &mut self.known.state().homeless {
            homeless.keeps = true;
        }
    }

    /// Takes in a PING. Of a session without a server weir answers it, unless it asks whether the server has got what
    /// is kept.
    fn is_answered_here(&self) -> bool {
        let mut state = self.known.state();
        match &mut state.homeless {
            Some(homeless) if !homeless.keeps => {
                homeless.pongs_due = homeless.pongs_due.saturating_add(1);
                true
            }
            _ => {
                state.ping();
                false
            }
        }
    }

    /// What is to be written to the client meanwhile.
    pub(super) fn take_pongs(&self) -> Vec<u8> {
        let due = self.known.state().homeless.as_mut().map_or(0, |homeless| mem::take(&mut homeless.pongs_due));
        PONG.repeat(due as usize)
    }
}

impl WholeOperations for TrackedClient {
    fn pass_operation(&mut self, rest: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        if !self.inner.at_boundary() {
            return self.pass_rest(rest, out);
        }
        let whole = self.inner.framing().pass_whole(rest);
        if whole > 0 {
            self.publishes();
            out.put(rest.get(..whole).unwrap_or_default());
            return Ok(whole);
        }
        match ClientOperation::at(rest) {
            ClientOperation::Unfinished if rest.len() < LONGEST_HELD && self.may_go_on(rest) => Ok(0),
            ClientOperation::Publication { len } if len > rest.len() && len <= LONGEST_HELD => Ok(0),
            ClientOperation::Unfinished => self.forward(rest, out),
            ClientOperation::Publication { len } => {
                self.publishes();
                self.forward(rest.get(..len).unwrap_or(rest), out)
            }
            ClientOperation::Sub { line, arguments } => {
                self.known.state().subscribe(arguments);
                self.pass_interest(line, out)
            }
            ClientOperation::Unsub { line, arguments } => {
                self.known.state().unsubscribe(arguments);
                self.pass_interest(line, out)
            }
            ClientOperation::Ping(line) if self.is_answered_here() => Ok(line.len()),
            ClientOperation::Ping(line) | ClientOperation::Line(line) => self.forward(line, out),
        }
    }

    fn length(begun: &[u8]) -> Option<usize> {
        match ClientOperation::at(begun) {
            ClientOperation::Publication { len } => Some(len),
            _ => None,
        }
    }

    fn held(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }
}

impl Side for TrackedClient {
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        self.pass_chunk(chunk, out)
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

    fn activity(&self, bytes: u64) -> u64 {
        self.inner.activity(bytes)
    }

    fn no_operation(&self) -> Option<&'static [u8]> {
        self.inner.no_operation()
    }
}
