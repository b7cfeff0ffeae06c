//! A session goes from a server that works to another one, without a message lost or doubled: the new server gets the
//! subscriptions while the old one still delivers, and takes over once both have delivered for a while.
//!
//! 1. For [`REMEMBERS_BEFORE`](super::REMEMBERS_BEFORE) it is remembered what the old server delivers. Then the new
//!    server gets the subscriptions, and answers a PING.
//! 2. Both deliver for [`BOTH_DELIVER_FOR`] or longer, until the other servers of the cluster have learned of each
//!    subscription at the new one, and that has answered PINGs promptly for a while. A client that goes on subscribing
//!    is stopped for a moment. The client has what the old one delivers; copies are matched ([`super::overlap`]).
//! 3. The client is not read any more, at the end of an operation. The old server ends its subscriptions and answers a
//!    PING: behind that it has nothing of the session.
//! 4. What only the new one has delivered follows, and the client is read again.
//!
//! Until the third step the session can stay where it is, and does where anything goes wrong. A member of queue groups
//! has been given messages by the new server then that no other member gets: it ends the subscriptions there and has
//! those messages before it leaves that server.

mod new_server;

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::{
    Bound, NewServer, TrackedClient, TrackedServer,
    caught_up::CaughtUp,
    overlap::{Overlap, YOUNG_FOR},
};
use crate::{
    net::stream::Stream,
    outcome::{Cause, Party},
    protocol::{PING, info::Info, op::ServerOperation, subscriptions::unsub},
    relay::{
        Ended, Relay,
        direction::{Buffer, DirectionEnd, Side},
        registry::SessionHandle,
        waiting::SMALL_READ,
    },
    upstream::Server,
    worker::{self, Scratch},
};

/// Both servers deliver for so long since the new one has got the last subscription: until all servers know of it.
const BOTH_DELIVER_FOR: Duration = YOUNG_FOR;

/// A client that still subscribes anew after this time, as for each request or each batch of a pull consumer, is not
/// read for [`SPREADS_WITHIN`], where nothing else is missing.
const PAUSES_AFTER: Duration = Duration::from_secs(3);

/// A client that is not read is read again after this time where something else is missing by then, and is stopped once
/// more after [`PAUSES_AFTER`].
const PAUSED_FOR: Duration = Duration::from_millis(500);

/// The other servers of a cluster learn of one subscription within this time.
const SPREADS_WITHIN: Duration = Duration::from_millis(250);

/// A session that is not quiet enough to be moved within this time stays where it is.
const GIVES_UP_AFTER: Duration = Duration::from_secs(8);

/// How long the old server may take to end its subscriptions while the client takes what it sends: one that takes
/// longer is taken for lost, and so is one whose client has taken nothing for some two minutes.
const OLD_ENDS_WITHIN: Duration = Duration::from_secs(3);

/// A session that stays takes what the new server has given to it as a member of queue groups for so long: the client
/// may be slow, and has what its own server delivers to take as well.
const LEAVES_WITHIN: Duration = Duration::from_secs(120);

/// The most bytes that are read of the new server in one poll: the other sessions of the worker may run then.
const MOST_PER_POLL: usize = 8 * SMALL_READ;

/// The new server of a session that still is on its old one.
#[derive(Debug)]
pub struct Handover {
    stream: Stream,
    server: Arc<Server>,
    info: Arc<Info>,
    /// The beginning of an operation of the new server.
    held: Vec<u8>,
    /// What goes to the new server next, and how many bytes that may be.
    out: Vec<u8>,
    most_out: usize,
    /// What it sends next is read once it has the session.
    is_read_later: bool,
    /// When the new server has answered the PING behind the subscriptions.
    subscribed: Option<Instant>,
    caught_up: CaughtUp,
    pause: Pause,
    /// When the old server was told to end its subscriptions; later where the client has taken nothing since.
    flushing: Option<Instant>,
    leaving: Option<Leaving>,
    began: Instant,
}

/// Whether the client is read.
#[derive(Debug, Clone, Copy)]
enum Pause {
    /// It has been since then.
    Off(Instant),
    /// It has not been since then.
    On(Instant),
}

/// The session stays on its old server, and has told the new one to end the subscriptions.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    why: &'static str,
    since: Instant,
    /// PONGs of the new server until it has ended them.
    answers_due: u32,
}

/// How a handover ends.
#[derive(Debug)]
pub enum HandoverEnd {
    /// The session is on the new server.
    Switched,
    /// It stays where it is, for this reason.
    Stays(&'static str),
    /// The session has ended on both.
    Ended(Ended),
    /// The new server is lost while the old one was ending the subscriptions.
    BothLost,
}

/// Why the new server does not get the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    Lost,
    TooLong,
    ShutsDown,
    Other(&'static str),
}

impl Obstacle {
    /// Whether the new server works all the same. Then it can have the session where the old one cannot any more.
    fn is_no_loss(self) -> bool {
        matches!(self, Self::TooLong | Self::ShutsDown)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Lost => "the other server is lost",
            Self::TooLong => "a message is too long to be matched",
            Self::ShutsDown => "the other server shuts down",
            Self::Other(text) => text,
        }
    }
}

impl Handover {
    fn is_paused(&self) -> bool {
        self.flushing.is_some() || matches!(self.pause, Pause::On(_))
    }

    /// The client is stopped for a moment where only that is missing, or read again where it was in vain.
    fn pause(&mut self, now: Instant, is_all_that_is_missing: bool) {
        let is_for = |time: Duration, since| now.saturating_duration_since(since) >= time;
        match self.pause {
            Pause::Off(since) if is_for(PAUSES_AFTER, since) && is_all_that_is_missing => self.pause = Pause::On(now),
            Pause::On(since) if is_for(PAUSED_FOR, since) => self.pause = Pause::Off(now),
            Pause::Off(_) | Pause::On(_) => {}
        }
    }

    /// The connection to the server that does not have the session: the old one where that has switched, else the new
    /// one.
    pub fn into_unused(self) -> Stream {
        self.stream
    }
}

impl Relay<TrackedClient, TrackedServer> {
    /// Why the session cannot go to another server while it is on one, if it cannot.
    pub fn stays_bound(&self) -> Option<Bound> {
        let state = self.known().state();
        let is_shared = state.subscriptions.has_queue_with_max();
        state.bound.or(is_shared.then_some(Bound::QueueWithMax))
    }

    /// The new server has let the client in: it gets the subscriptions. Call [`Relay::prepare_handover`] before, and
    /// [`Relay::stay`] where the session stays.
    ///
    /// # Errors
    /// The session stays where it is, for this reason.
    pub fn begin_handover(&mut self, new: NewServer<'_>, now: Instant) -> Result<Handover, &'static str> {
        let NewServer { stream, server, info, rest } = new;
        let mut handover = Handover {
            stream,
            server,
            info: Arc::clone(info),
            held: Vec::new(),
            out: Vec::with_capacity(1024),
            most_out: 0,
            is_read_later: false,
            subscribed: None,
            caught_up: CaughtUp::default(),
            pause: Pause::Off(now),
            flushing: None,
            leaving: None,
            began: now,
        };
        {
            let mut state = self.known().state();
            if let Some(bound) = state.bound {
                return Err(bound.text());
            }
            let last_sub = state.last_sub;
            let overlap = state.overlap.get_or_insert_with(|| Box::new(Overlap::new(last_sub)));
            overlap.subscribes(now);
            state.subscriptions.write_without_max(&mut handover.out);
        }
        handover.may_grow();
        handover.ask(now);
        let mut pass = Vec::new();
        match handover.take_in(rest, &self.known().clone(), self.to_client.side(), &mut pass) {
            Ok(()) => Ok(handover),
            Err(obstacle) => Err(obstacle.text()),
        }
    }

    /// A handover begins after [`REMEMBERS_BEFORE`](super::REMEMBERS_BEFORE): until then what the server delivers is
    /// remembered.
    pub fn prepare_handover(&self) {
        let mut state = self.known().state();
        let overlap = state.overlap.take();
        let last_sub = state.last_sub;
        let overlap = overlap.map_or_else(|| Overlap::new(last_sub), |overlap| overlap.again(last_sub));
        state.overlap = Some(Box::new(overlap));
    }

    /// The session stays on its server.
    pub fn stay(&self) {
        self.known().state().end_overlap();
    }

    /// Relays between the client and the old server, and listens to the new one, until one of them has the session.
    /// Call it again from time to time: it sets no timer.
    pub fn poll_handover(
        &mut self,
        cx: &mut Context<'_>,
        handle: &SessionHandle,
        handover: &mut Handover,
    ) -> Poll<HandoverEnd> {
        handle.set_waker(cx.waker());
        if let Some(cause) = handle.end_requested() {
            return Poll::Ready(HandoverEnd::Ended(Ended { party: Party::Weir, cause }));
        }
        let may_switch = handover.subscribed.is_some() && handover.leaving.is_none();
        let old_is_gone = match self.poll_old(cx, handover.is_paused()) {
            Poll::Ready(ended) if ended.by_server() && may_switch => true,
            Poll::Ready(ended) => {
                self.count(handle);
                return Poll::Ready(HandoverEnd::Ended(ended));
            }
            Poll::Pending => false,
        };
        self.count(handle);
        let now = Instant::now();
        let is_even = match self.poll_new(cx, handover) {
            Ok(is_even) => is_even,
            Err(obstacle) if obstacle.is_no_loss() && old_is_gone => {
                return Poll::Ready(self.switch(handover, true, now));
            }
            Err(obstacle) if obstacle.is_no_loss() && handover.flushing.is_some() => {
                handover.is_read_later = true;
                false
            }
            Err(_) if handover.flushing.is_some() || old_is_gone => return Poll::Ready(HandoverEnd::BothLost),
            Err(obstacle) => return self.leave(cx, handover, obstacle, now),
        };
        if handover.out.len() > handover.most_out && handover.flushing.is_none() && !old_is_gone {
            let obstacle = Obstacle::Other("it subscribes faster than the other server takes it");
            return self.leave(cx, handover, obstacle, now);
        }
        if let Some(Leaving { why, since, answers_due }) = handover.leaving {
            let is_over = answers_due == 0 || now.saturating_duration_since(since) > LEAVES_WITHIN;
            return if is_over { Poll::Ready(HandoverEnd::Stays(why)) } else { Poll::Pending };
        }
        if let Some(since) = handover.flushing {
            // What a client takes nothing of is not read, and is not late.
            let since = if self.client_takes() { since } else { *handover.flushing.insert(now) };
            let is_late = now.saturating_duration_since(since) > OLD_ENDS_WITHIN
                || now.saturating_duration_since(handover.began) > GIVES_UP_AFTER.saturating_add(LEAVES_WITHIN);
            if old_is_gone || is_late || !self.awaits_probe() {
                return Poll::Ready(self.switch(handover, old_is_gone || is_late, now));
            }
            return Poll::Pending;
        }
        if old_is_gone {
            return Poll::Ready(self.switch(handover, true, now));
        }
        let (too_much, last_sub) = {
            let mut state = self.known().state();
            let bound = state.bound.map(Bound::text);
            let too_much = state.both().and_then(|both| both.too_much());
            (bound.or(too_much), state.both().and_then(|both| both.last_sub).unwrap_or(now))
        };
        let is_late = now.saturating_duration_since(handover.began) > GIVES_UP_AFTER;
        if let Some(why) = too_much.or(is_late.then_some("it is too busy")) {
            return self.leave(cx, handover, Obstacle::Other(why), now);
        }
        let is_for = |time: Duration, since| now.saturating_duration_since(since) >= time;
        let delivers = handover.subscribed.is_some_and(|since| is_for(BOTH_DELIVER_FOR, since));
        let is_ready = delivers && is_even && handover.caught_up.is_prompt(now) && handover.out.is_empty();
        handover.pause(now, is_ready && !is_for(BOTH_DELIVER_FOR, last_sub) && self.is_between_operations());
        let spread = if handover.is_paused() { SPREADS_WITHIN } else { BOTH_DELIVER_FOR };
        if is_ready && is_for(spread, last_sub) && self.begin_flush() {
            handover.flushing = Some(now);
            // What has been put waits for the next poll.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The session stays on its old server, for this reason. It leaves the new one at once where that is lost or gives
    /// it nothing that others do not get, and else once that has ended the subscriptions.
    fn leave(
        &mut self,
        cx: &Context<'_>,
        handover: &mut Handover,
        obstacle: Obstacle,
        now: Instant,
    ) -> Poll<HandoverEnd> {
        let why = obstacle.text();
        let mut state = self.known().state();
        if obstacle == Obstacle::Lost || handover.leaving.is_some() || !state.subscriptions.has_queue() {
            return Poll::Ready(HandoverEnd::Stays(why));
        }
        if let Some(both) = state.both() {
            handover.out.append(&mut both.to_new);
            both.leaves_new();
        }
        state.subscriptions.write_ends(&mut handover.out);
        handover.out.extend_from_slice(PING);
        handover.may_grow();
        let answers_due = u32::from(handover.caught_up.is_asked()).saturating_add(1);
        handover.leaving = Some(Leaving { why, since: now, answers_due });
        handover.pause = Pause::Off(now);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Both directions between the client and the old server, or without what the client sends.
    fn poll_old(&mut self, cx: &mut Context<'_>, is_paused: bool) -> Poll<Ended> {
        if !is_paused {
            return self.poll(cx);
        }
        let by_server = |cause| Poll::Ready(Ended { party: Party::Upstream, cause });
        if let Poll::Ready(false) = self.to_server.poll_flush(cx, &mut self.up) {
            return by_server(Cause::SocketError);
        }
        match self.to_client.poll(cx, &mut self.up, &mut self.down) {
            Poll::Ready(DirectionEnd::Eof) => by_server(Cause::Eof),
            Poll::Ready(DirectionEnd::ReadFailed) => by_server(Cause::SocketError),
            Poll::Ready(DirectionEnd::Stopped(cause)) => by_server(cause),
            Poll::Ready(DirectionEnd::WriteFailed) => {
                Poll::Ready(Ended { party: Party::Downstream, cause: Cause::SocketError })
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes to the new server and reads from it, as long as the client takes what is delivered. Returns whether all
    /// that it has sent has been read.
    fn poll_new(&mut self, cx: &mut Context<'_>, handover: &mut Handover) -> Result<bool, Obstacle> {
        let known = self.known().clone();
        if let Some(both) = known.state().both() {
            handover.out.append(&mut both.to_new);
        }
        if handover.leaving.is_none() {
            handover.ask(Instant::now());
        }
        handover.poll_write(cx)?;
        let mut read = 0_usize;
        while self.client_takes() && self.to_client.side().at_boundary() && !handover.is_read_later {
            if read >= MOST_PER_POLL {
                cx.waker().wake_by_ref();
                return Ok(false);
            }
            let mut pass = Vec::new();
            let taken = worker::with(|scratch: &Scratch<Buffer>| {
                scratch.with(|buffer| {
                    let mut chunk = ReadBuf::new(buffer.small());
                    match Pin::new(&mut handover.stream).poll_read(cx, &mut chunk) {
                        Poll::Pending => Ok(None),
                        Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                            let taken = handover.take_in(chunk.filled(), &known, self.to_client.side(), &mut pass);
                            taken.map(|()| Some(chunk.filled().len()))
                        }
                        Poll::Ready(_) => Err(Obstacle::Lost),
                    }
                })
            });
            if !pass.is_empty() {
                self.deliver(&pass);
            }
            match taken? {
                Some(n) => read = read.saturating_add(n),
                None => {
                    if let Some(both) = known.state().both() {
                        both.is_even(handover.caught_up.until(), Instant::now());
                    }
                    handover.poll_write(cx)?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// These messages go to the client behind what waits for it.
    fn deliver(&mut self, messages: &[u8]) {
        // They are whole messages, in which there is nothing to stop for.
        let _ = self.to_client.pass_behind(|side, out| side.pass_as_they_are(messages, out));
    }

    /// Whether all that the client has sent so far has gone on as whole operations.
    fn is_between_operations(&self) -> bool {
        self.to_server.side().no_operation().is_some() && !self.to_server.holds_bytes()
    }

    /// Tells the old server to end its subscriptions, where that is possible now.
    fn begin_flush(&mut self) -> bool {
        if !self.is_between_operations() || !self.client_takes() {
            return false;
        }
        let mut words = Vec::with_capacity(256);
        {
            let mut state = self.known().state();
            if !state.begin_own_ping() {
                return false;
            }
            state.subscriptions.write_ends(&mut words);
        }
        words.extend_from_slice(PING);
        self.to_server.put_first(&words);
        true
    }

    /// The new server has the session.
    fn switch(&mut self, handover: &mut Handover, old_is_gone: bool, now: Instant) -> HandoverEnd {
        let overlap = self.known().state().overlap.take();
        let is_possible = match old_is_gone {
            true => self.lose_server(),
            false => self.to_client.side().is_between_messages(),
        };
        if is_possible.is_err() {
            return HandoverEnd::Ended(Ended { party: Party::Upstream, cause: Cause::Eof });
        }
        let mut words = mem::take(&mut handover.out);
        let mut deliver = Vec::new();
        {
            let mut state = self.known().state();
            if let Some(mut overlap) = overlap {
                words.append(&mut overlap.to_new);
                for message in overlap.switch(now) {
                    let ServerOperation::Message { sid, .. } = ServerOperation::at(&message) else { continue };
                    if state.subscriptions.receives(sid).is_none() {
                        continue;
                    }
                    deliver.extend_from_slice(&message);
                    if state.delivered(sid, 1) {
                        unsub(sid, None, &mut words);
                    }
                }
                state.subscriptions.write_max(|sid| overlap.not_counted(sid), &mut words);
                state.overlap = Some(overlap).filter(|overlap| !overlap.is_over(now));
                state.forget_if_bound();
            }
            // The first answer is that to a PING of weir's, the client's follow.
            if !handover.caught_up.is_asked() {
                words.extend_from_slice(PING);
            }
            let pings = state.homeless.take().map_or(0, |homeless| homeless.pings_to_repeat);
            words.extend_from_slice(&PING.repeat(pings as usize));
            // This server has its subscriptions, whatever the old one has not answered.
            (state.before_own_ping, state.replays) = (Some(0), false);
            state.unanswered.asked_elsewhere();
        }
        self.look = None;
        self.to_server.put_first(&words);
        if let Some(info) = self.to_client.side_mut().moved_to(Arc::clone(&handover.server), &handover.info) {
            self.to_client.put_behind(&info);
        }
        self.deliver(&deliver);
        self.to_client.side_mut().drop_begun();
        mem::swap(&mut self.up, &mut handover.stream);
        // The beginning of an operation, and what was to be read later. A cause for the end shows at the next poll.
        let _ = self.to_client.preload(&mem::take(&mut handover.held));
        HandoverEnd::Switched
    }
}
