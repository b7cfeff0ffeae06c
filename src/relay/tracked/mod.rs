//! Sessions that can go to another server without their clients' noticing. Beside the relay of all sessions they
//! remember what their server knows of the client: its subscriptions, and which of its PINGs wait for an answer.
//!
//! An operation goes on to the other side once it is there as a whole, so that a side that ends has begun none. One
//! that is longer than [`LONGEST_HELD`] goes on as it comes; a session whose server is lost in the middle of such a
//! message cannot be kept, since the client waits for the rest.

mod caught_up;
mod client_side;
mod handover;
mod homeless;
mod overlap;
mod server_side;
mod state;
#[cfg(test)]
mod tests;
mod unanswered;

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use memchr::memchr;
use serde::{Deserialize, Serialize};

use self::{overlap::Overlap, unanswered::Unanswered};
use crate::{
    outcome::Cause,
    protocol::subscriptions::{NoRoom, Receives, Subscriptions},
    relay::direction::Outlet,
};

pub use self::{
    client_side::TrackedClient,
    handover::HandoverEnd,
    homeless::{HomelessEnd, NewServer},
    overlap::REMEMBERS_BEFORE,
    server_side::TrackedServer,
    state::TrackedState,
};

/// The longest operation in bytes that is held until it is whole: one small read of the relay.
const LONGEST_HELD: usize = 32 * 1024;

/// The same of a message while two servers deliver, so that it can be matched: nats-server's default `max_payload` is
/// 1 MiB.
const LONGEST_MATCHED: usize = 2 * 1024 * 1024;

/// What a session's server knows of its client. Both directions of the session write it, and nobody else, so its lock
/// is free.
#[derive(Debug, Clone)]
pub struct Known(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    subscriptions: Subscriptions,
    unanswered: Unanswered,
    /// PINGs of the client that its server has not answered.
    pings: u32,
    /// How many of those stand before a PING of weir's own, where that is not answered.
    before_own_ping: Option<u32>,
    /// It subscribes for the client until that is answered.
    replays: bool,
    /// When the client has subscribed last.
    last_sub: Option<Instant>,
    /// Where the session is on no server.
    homeless: Option<Homeless>,
    /// Where two servers deliver, or have done so of late.
    overlap: Option<Box<Overlap>>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Its server has refused a subscription, and weir cannot tell which.
    Refused,
    /// It is a member of a queue group that ends with a number of messages: two servers would each count their own.
    QueueWithMax,
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
            Self::Refused => "its server has refused a subscription without saying which",
            Self::QueueWithMax => "it has a subscription of a queue group with a maximum",
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

/// A side that passes whole operations, and holds the beginning of the next one.
trait WholeOperations {
    /// Passes at least one operation, and returns how many bytes that are; 0 where its rest is still to come.
    fn pass_operation(&mut self, rest: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause>;

    /// How long the operation is of which this is the beginning, in bytes, where that is known.
    fn length(begun: &[u8]) -> Option<usize>;

    fn held(&mut self) -> &mut Vec<u8>;

    /// Passes all operations that are whole, and returns how many bytes they have.
    fn pass_whole(&mut self, bytes: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        let mut at = 0_usize;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.pass_operation(rest, out)? {
                0 => break,
                passed => at = at.saturating_add(passed),
            }
        }
        Ok(at)
    }

    /// Passes what is held and what has come, and holds what is not whole yet.
    fn pass_chunk(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        let mut rest = chunk;
        while !self.held().is_empty() && !rest.is_empty() {
            let mut held = mem::take(self.held());
            let missing = Self::length(&held).map(|len| len.saturating_sub(held.len()));
            rest = complete(&mut held, rest, missing);
            let passed = self.pass_whole(&held, out)?;
            self.held().extend_from_slice(held.get(passed..).unwrap_or_default());
        }
        let passed = self.pass_whole(rest, out)?;
        self.held().extend_from_slice(rest.get(passed..).unwrap_or_default());
        Ok(())
    }
}

impl Known {
    /// A client without subscriptions, which may take so many bytes of memory.
    pub fn new(most_bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            subscriptions: Subscriptions::new(most_bytes),
            unanswered: Unanswered::default(),
            pings: 0,
            before_own_ping: None,
            replays: false,
            last_sub: None,
            homeless: None,
            overlap: None,
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
    /// While two servers deliver: the other one is to learn the same as the present one.
    fn both(&mut self) -> Option<&mut Overlap> {
        self.overlap.as_deref_mut().filter(|overlap| !overlap.is_switched())
    }

    fn subscribe(&mut self, arguments: &[u8]) {
        if self.bound.is_none() {
            match self.subscriptions.subscribe(arguments) {
                Ok(subscribed) => subscribed.into_iter().for_each(|subscribed| self.unanswered.sub(subscribed)),
                Err(NoRoom) => self.bind(Bound::Memory),
            }
        }
        let now = Instant::now();
        self.last_sub = Some(now);
        // A session that is bound goes to no other server: what is not remembered could not be ended there.
        if self.bound.is_none()
            && let Some(both) = self.both()
        {
            both.subscribe(arguments, now);
        }
    }

    fn unsubscribe(&mut self, arguments: &[u8]) {
        if self.subscriptions.unsubscribe(arguments) {
            self.unanswered.ended();
        }
        if self.overlap.is_some() {
            let sid = arguments.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
            // One with a maximum gets what is left of it when the other server is the only one.
            if self.subscriptions.receives(sid).is_none() {
                self.ends_at_new(sid);
            }
        }
    }

    /// The client has had messages of the subscription with this sid. Returns whether it has ended by that.
    fn delivered(&mut self, sid: &[u8], messages: u32) -> bool {
        let ends = self.subscriptions.delivered(sid, messages);
        if ends {
            self.unanswered.ended();
        }
        ends
    }

    fn ends_at_new(&mut self, sid: &[u8]) {
        if let Some(both) = self.both() {
            both.unsubscribe(sid);
        }
    }

    /// Forgets what two servers have delivered, once nothing is left to be matched. Returns whether something is.
    fn is_matching(&mut self) -> bool {
        if self.overlap.as_ref().is_some_and(|overlap| overlap.is_over(Instant::now())) {
            self.end_overlap();
        }
        self.overlap.is_some()
    }

    /// Nothing is matched any more.
    fn end_overlap(&mut self) {
        self.overlap = None;
        self.forget_if_bound();
    }

    /// The present server has delivered a message; `message` is `None` where it is longer than weir holds. Returns
    /// whether it goes on to the client.
    fn message(&mut self, sid: &[u8], message: Option<&[u8]>) -> bool {
        if self.overlap.is_some()
            && self.subscriptions.receives(sid) == Some(Receives::All)
            && let Some(overlap) = &mut self.overlap
        {
            let now = Instant::now();
            if message.is_some_and(|message| overlap.is_leftover(message, now)) {
                return false;
            }
            if !overlap.is_switched() {
                overlap.old_delivers(sid, message, now);
            }
        }
        if self.delivered(sid, 1) {
            self.ends_at_new(sid);
        }
        true
    }

    /// The new server has delivered a message while the old one does, too. Returns whether it goes on to the client.
    fn message_of_new(&mut self, sid: &[u8], message: &[u8]) -> bool {
        let receives = self.subscriptions.receives(sid);
        let Some(both) = self.both() else { return false };
        let goes_on = both.new_delivers(sid, message, receives, Instant::now());
        if goes_on {
            self.delivered(sid, 1);
        }
        goes_on
    }

    /// From now on no more is remembered.
    fn bind(&mut self, why: Bound) {
        self.bound.get_or_insert(why);
        self.forget_if_bound();
    }

    /// Where two servers deliver, it still has to be known which messages of the new one are the client's, and what is
    /// to be ended there.
    fn forget_if_bound(&mut self) {
        if self.bound.is_some() && self.overlap.is_none() {
            self.subscriptions = Subscriptions::new(0);
        }
    }

    /// weir is about to send a PING of its own. Returns whether none is under way.
    fn begin_own_ping(&mut self) -> bool {
        let may = self.before_own_ping.is_none();
        self.before_own_ping.get_or_insert(self.pings);
        if may {
            self.unanswered.ping(self.pings.saturating_add(1));
        }
        may
    }

    /// A PING of the client goes to the server.
    fn ping(&mut self) {
        self.pings = self.pings.saturating_add(1);
        let own = u32::from(self.before_own_ping.is_some());
        self.unanswered.ping(self.pings.saturating_add(own));
    }

    /// The server has answered a PING. Returns whether it is one of the client's.
    fn pong(&mut self) -> bool {
        self.pong_for_subs();
        match &mut self.before_own_ping {
            Some(0) => {
                self.before_own_ping = None;
                self.replays = false;
                if let Some(overlap) = &mut self.overlap {
                    overlap.present_answers(Instant::now());
                }
                return false;
            }
            Some(before) => *before = before.saturating_sub(1),
            None => {}
        }
        self.pings = self.pings.saturating_sub(1);
        if let Some(homeless) = &mut self.homeless {
            homeless.pings_to_repeat = homeless.pings_to_repeat.saturating_sub(1);
        }
        true
    }
}
