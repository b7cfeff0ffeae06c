//! What a relay that can go to another server is besides its two connections: see [`crate::relay::RelayState`].

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Bound, Known, State, TrackedClient, TrackedServer, unanswered::Unanswered};
use crate::{
    net::stream::Stream,
    protocol::subscriptions::{NotRestored, Subscriptions},
    relay::{
        Relay,
        state::{BadState, Base64, ClientState, Immovable, RelayState, ResumedIn, ServerState, StateOf, says_nothing},
    },
};

/// The state of a relay of [`TrackedClient`] and [`TrackedServer`].
pub type TrackedState = StateOf<TrackedClientState, TrackedServerState>;

/// The state of [`TrackedClient`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedClientState {
    pub(super) client: ClientState,
    #[serde(default)]
    pub(super) known: KnownState,
    /// The beginning of an operation.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) held: Base64,
    /// The rest of the operation that is under way goes nowhere.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) drops_rest: bool,
}

/// The state of [`TrackedServer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedServerState {
    pub(super) server: ServerState,
    /// The beginning of an operation.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) held: Base64,
}

/// The state of [`Known`].
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct KnownState {
    #[serde(skip_serializing_if = "says_nothing")]
    subscriptions: Vec<SubscriptionState>,
    /// PINGs of the client that its server has not answered.
    #[serde(skip_serializing_if = "says_nothing")]
    pings: u32,
    /// How many of those stand before a PING of weir's own, where that is not answered.
    #[serde(skip_serializing_if = "says_nothing")]
    before_own_ping: Option<u32>,
    /// weir subscribes for the client until that is answered.
    #[serde(skip_serializing_if = "says_nothing")]
    replays: bool,
    /// How many milliseconds ago the client has subscribed last.
    #[serde(skip_serializing_if = "says_nothing")]
    subscribed_before: Option<u64>,
    #[serde(skip_serializing_if = "says_nothing")]
    bound: Option<Bound>,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SubscriptionState {
    /// As the client has sent it, with one blank between words: subject, queue if any, sid.
    sub: Base64,
    /// Messages that the client has had.
    #[serde(default, skip_serializing_if = "says_nothing")]
    delivered: u32,
    /// It ends with this message; 0 where it does not end by itself.
    #[serde(default, skip_serializing_if = "says_nothing")]
    max: u32,
}

impl Known {
    /// # Errors
    /// The session is between two servers.
    pub(super) fn written(&self) -> Result<KnownState, Immovable> {
        let (state, now) = (self.state(), Instant::now());
        let is_matching = state.overlap.as_ref().is_some_and(|overlap| !overlap.is_over(now));
        if state.homeless.is_some() || is_matching {
            return Err(Immovable::BetweenServers);
        }
        let subscription = |(sub, delivered, max)| SubscriptionState { sub: Base64(sub), delivered, max };
        let ago = |at| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
        Ok(KnownState {
            subscriptions: state.subscriptions.all().map(subscription).collect(),
            pings: state.pings,
            before_own_ping: state.before_own_ping,
            replays: state.replays,
            subscribed_before: state.last_sub.map(ago),
            bound: state.bound,
        })
    }

    /// Goes on with what another process has remembered; the subscriptions may take so many bytes of memory. `None`:
    /// the session is not to be re-homed here, and nothing bounds what it would remember, so it remembers nothing.
    fn resumed(known: KnownState, most_bytes: Option<usize>) -> Result<Self, BadState> {
        let most_bytes = most_bytes.unwrap_or(0);
        let KnownState { subscriptions, pings, before_own_ping, replays, subscribed_before, mut bound } = known;
        if before_own_ping.is_some_and(|before| before > pings) {
            return Err(BadState("an answer that comes behind more of the client's than there will be"));
        }
        let mut restored = Subscriptions::new(0);
        if bound.is_none() {
            let all = subscriptions.iter().map(|one| (one.sub.0.as_slice(), one.delivered, one.max));
            match Subscriptions::restore(most_bytes, all) {
                Ok(all) => restored = all,
                Err(NotRestored::NoRoom) => bound = Some(Bound::Memory),
                Err(NotRestored::NotOne) => return Err(BadState("a subscription")),
            }
        }
        let before = |milliseconds| Instant::now().checked_sub(Duration::from_millis(milliseconds));
        Ok(Self(Arc::new(Mutex::new(State {
            subscriptions: restored,
            unanswered: Unanswered::of_another_process(),
            pings,
            before_own_ping,
            replays,
            last_sub: subscribed_before.and_then(before),
            homeless: None,
            overlap: None,
            bound,
        }))))
    }
}

impl Relay<TrackedClient, TrackedServer> {
    /// See [`Relay::state`] of a plain relay.
    ///
    /// # Errors
    /// It cannot be moved, or not now: while the session is between two servers.
    pub fn state(&self) -> Result<RelayState, Immovable> {
        let state = self.state_with(TrackedClient::state, |server| Ok(server.state()))?;
        Ok(RelayState::Tracked(Box::new(state)))
    }

    /// See [`Relay::resume`] of a plain relay. The subscriptions may take so many bytes of memory; `None`: the
    /// session is not to be re-homed here.
    ///
    /// # Errors
    /// The state makes no sense. Nothing has been read or written.
    pub fn resume(
        streams: (Stream, Stream),
        mut state: TrackedState,
        process: ResumedIn,
        most_bytes: Option<usize>,
    ) -> Result<Self, BadState> {
        let known = Known::resumed(std::mem::take(&mut state.to_server.side.known), most_bytes)?;
        let ResumedIn { keys, listener_info, client_ip, server, counters } = process;
        let of_client = |state| TrackedClient::resumed(state, known.clone(), keys);
        let of_server = |state| TrackedServer::resumed(state, known.clone(), listener_info, client_ip, server);
        Self::resume_with(streams, state, (of_client, of_server), counters)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]
mod tests;
