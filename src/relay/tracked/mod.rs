//! Sessions that can go to another server without their clients' noticing. Beside the relay of all sessions they
//! remember what their server knows of the client: its subscriptions, and which of its PINGs wait for an answer.
//!
//! An operation goes on to the other side once it is there as a whole, so that a side that ends has begun none. One
//! that is longer than [`LONGEST_HELD`] goes on as it comes; a session whose server is lost in the middle of such a
//! message cannot be kept, since the client waits for the rest.

mod client_side;
mod homeless;
mod server_side;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memchr::memchr;

use crate::protocol::subscriptions::{NoRoom, Subscriptions};

pub use self::{client_side::TrackedClient, homeless::NewServer, server_side::TrackedServer};

/// The longest operation in bytes that is held until it is whole: one small read of the relay.
const LONGEST_HELD: usize = 32 * 1024;

/// What a session's server knows of its client. Both directions of the session write it, and nobody else, so its lock
/// is free.
#[derive(Debug, Clone)]
pub struct Known(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    subscriptions: Subscriptions,
    /// PINGs of the client that its server has not answered.
    pings: u32,
    /// How many of those stand before a PING of weir's own, where that is not answered.
    before_own_ping: Option<u32>,
    /// It subscribes for the client until that is answered.
    replays: bool,
    /// Where the session is on no server.
    homeless: Option<Homeless>,
    /// Why the session cannot go to another server.
    bound: Option<Bound>,
}

/// What a session without a server has to do.
#[derive(Debug, Default)]
struct Homeless {
    /// PINGs of the client that the lost server has not answered: the next one is to.
    pings_to_repeat: u32,
    /// Its client has published: what it sends then is kept in order.
    keeps: bool,
    /// PINGs of the client to be answered by weir.
    pongs_due: u32,
}

/// Why a session that is tracked cannot go to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Its subscriptions take more memory than `rehome_memory` allows.
    Memory,
    /// Its client has changed its options by a second CONNECT.
    Options,
    /// Its server has said that it closes, and why.
    Error,
    /// It was in the middle of a message that is longer than weir holds.
    LongMessage,
    /// Its client waits for the answers to very many PINGs.
    Pings,
}

impl Bound {
    /// In words, for the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Memory => "its subscriptions take more than rehome_memory",
            Self::Options => "its client has changed its options",
            Self::Error => "its server has ended it by an error",
            Self::LongMessage => "it was in the middle of a long message",
            Self::Pings => "too many PINGs of its client are not answered",
        }
    }
}

/// Moves the bytes from the start of `chunk` behind `held` that its operation needs, as far as that is known: so many
/// as its payload misses, or else the rest of its line. Returns what is left of the chunk.
fn complete<'a>(held: &mut Vec<u8>, chunk: &'a [u8], missing: Option<usize>) -> &'a [u8] {
    let needed = missing.or_else(|| memchr(b'\n', chunk).map(|end| end.saturating_add(1))).unwrap_or(chunk.len());
    let (now, rest) = chunk.split_at(needed.clamp(1, chunk.len().max(1)).min(chunk.len()));
    held.extend_from_slice(now);
    rest
}

impl Known {
    /// A client without subscriptions, which may take so many bytes of memory.
    pub fn new(most_bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            subscriptions: Subscriptions::new(most_bytes),
            pings: 0,
            before_own_ping: None,
            replays: false,
            homeless: None,
            bound: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the session cannot go to another server, if it cannot.
    pub fn bound(&self) -> Option<Bound> {
        self.state().bound
    }

    /// Subscriptions, and the bytes of memory that they take.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state();
        (state.subscriptions.len(), state.subscriptions.bytes())
    }
}

impl State {
    fn subscribe(&mut self, arguments: &[u8]) {
        if self.bound.is_none()
            && let Err(NoRoom) = self.subscriptions.subscribe(arguments)
        {
            self.bind(Bound::Memory);
        }
    }

    /// From now on nothing is remembered.
    fn bind(&mut self, why: Bound) {
        self.bound.get_or_insert(why);
        self.subscriptions = Subscriptions::new(0);
    }

    /// weir is about to send a PING of its own. Returns whether none is under way.
    fn begin_own_ping(&mut self) -> bool {
        let may = self.before_own_ping.is_none();
        self.before_own_ping.get_or_insert(self.pings);
        may
    }

    /// The server has answered a PING. Returns whether it is one of the client's.
    fn pong(&mut self) -> bool {
        match &mut self.before_own_ping {
            Some(0) => {
                self.before_own_ping = None;
                self.replays = false;
                return false;
            }
            Some(before) => *before = before.saturating_sub(1),
            None => {}
        }
        self.pings = self.pings.saturating_sub(1);
        true
    }
}
