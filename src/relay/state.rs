//! What a relay is besides its two connections, written down: another process that gets both goes on where this one has
//! stopped, in the middle of a payload or of a line, and neither side notices.
//!
//! The other process may run the version of weir before this one or the one behind it. So a name here stays what it is;
//! what is new can be absent, and what is not known is not looked at. Something that is neither known nor can be left
//! out, as an unknown state of the framing, is refused, and the session stays where it is. A key in the text is left
//! out where it says nothing, so that an idle session takes some hundred bytes.

use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use crate::{
    advertised_info::ListenerInfo,
    identity::{Keys, SentIdentity},
    net::stream::Stream,
    outcome::Cause,
    protocol::{
        connect::ServiceOptions,
        op::{ClientFraming, ServerFraming},
    },
    relay::{
        ClientSide, InfoPolicy, LeafnodeSide, Passthrough, Relay, RoundTrip, ServerSide, TrackedState,
        direction::{Direction, Side},
    },
    telemetry::counters::Counters,
    upstream::Server,
};

/// More bytes than this pass in no session.
const MOST_BYTES: u64 = 1 << 62;

/// The state of a relay of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// Of [`ClientSide`] and [`ServerSide`].
    Plain(Box<PlainState>),
    /// Of [`TrackedClient`](super::TrackedClient) and [`TrackedServer`](super::TrackedServer).
    Tracked(Box<TrackedState>),
    /// Of [`Passthrough`] both ways.
    Passthrough(Box<PassthroughState>),
}

/// The state of a relay of [`ClientSide`] and [`ServerSide`].
pub type PlainState = StateOf<ClientState, ServerState>;

/// The state of a relay of [`Passthrough`] both ways.
pub type PassthroughState = StateOf<NoState, NoState>;

/// The state of a relay whose sides have these states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOf<C, S> {
    pub(super) to_server: DirectionState<C>,
    pub(super) to_client: DirectionState<S>,
    /// The sum of the activity of both directions when it was counted last.
    #[serde(default, skip_serializing_if = "says_nothing")]
    activity: u64,
    #[serde(default, skip_serializing_if = "says_nothing")]
    rtt: RoundTripState,
}

/// The state of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirectionState<T> {
    pub(super) side: T,
    /// Forwarded bytes that the other side has not taken yet.
    #[serde(default, skip_serializing_if = "says_nothing")]
    waiting: Base64,
    /// What ends the direction once these are gone.
    #[serde(default, skip_serializing_if = "says_nothing", with = "cause")]
    stopped: Option<Cause>,
    #[serde(default, skip_serializing_if = "says_nothing")]
    bytes: u64,
}

/// The state of [`RoundTrip`].
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RoundTripState {
    #[serde(skip_serializing_if = "says_nothing")]
    pub(super) pings: u32,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(super) pongs: u32,
    /// For how many nanoseconds a PING has waited for its answer.
    #[serde(skip_serializing_if = "says_nothing")]
    pub(super) pinged_for: Option<u64>,
}

/// The state of [`ClientSide`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientState {
    pub(super) framing: ClientFraming,
    /// What has come of the CONNECT that is being collected.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) line: Option<Base64>,
    pub(super) client: SentIdentity,
    #[serde(default)]
    pub(super) options: ServiceOptions,
}

/// The state of [`ServerSide`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    pub(super) framing: ServerFraming,
    /// What has come of the line that is being collected.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) line: Option<Base64>,
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) welcome: Option<Base64>,
    pub(super) policy: InfoPolicy,
    /// The argument of the server's last INFO, where the listener may have something new to tell its clients.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) last_info: Option<String>,
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub(super) is_news_due: bool,
}

/// Of [`Passthrough`], which knows nothing of the bytes that pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoState {}

/// Bytes, as base64 in text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

/// Why the state of a relay cannot be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Immovable {
    /// A connection is TLS or WebSocket, which have a state of their own.
    #[error("a connection is TLS or WebSocket")]
    NotPlain,
    /// Its client is a leafnode.
    #[error("its client is a leafnode")]
    Leafnode,
    /// weir has asked the client for a sign of life: for 2 s at most.
    #[error("its client is being asked for a sign of life")]
    AskedForSignOfLife,
    /// It is on no server, or goes from one to another.
    #[error("it is between two servers")]
    BetweenServers,
    /// Passthrough: it is not known yet whether the client is in.
    #[error("its login is not over")]
    LogsIn,
}

impl Immovable {
    /// Whether it will be so as long as the session lives.
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::NotPlain | Self::Leafnode)
    }
}

/// A state that no relay can have, and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the state of a relay makes no sense: {0}")]
pub struct BadState(pub(in crate::relay) &'static str);

/// What the process gives a relay that it begins from its state.
#[derive(Debug)]
pub struct ResumedIn {
    /// They have the secret of the process before.
    pub keys: Arc<Keys>,
    /// What the client's listener tells.
    pub listener_info: Arc<ListenerInfo>,
    /// Where the client comes from, as it is told.
    pub client_ip: IpAddr,
    /// The server at the other end.
    pub server: Arc<Server>,
    /// Count what passes from now on.
    pub counters: Arc<Counters>,
}

/// For keys that are left out then.
pub(super) fn says_nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

/// A cause by its name.
mod cause {
    use super::{Cause, Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(cause: &Option<Cause>, serializer: S) -> Result<S::Ok, S::Error> {
        cause.map(Cause::name).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cause>, D::Error> {
        let Some(name) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let cause = Cause::ALL.into_iter().find(|cause| cause.name() == name);
        cause.map(Some).ok_or_else(|| serde::de::Error::custom("an unknown cause"))
    }
}

impl<T> DirectionState<T> {
    /// Of a direction whose side has the state `side`.
    fn of<S: Side>(direction: &Direction<S>, side: T) -> Self {
        Self {
            side,
            waiting: Base64(direction.waiting().to_vec()),
            stopped: direction.stopped(),
            bytes: direction.bytes(),
        }
    }

    /// The direction, with the side that `begin` makes of its state.
    pub(super) fn begin<S: Side>(self, begin: impl FnOnce(T) -> Result<S, BadState>) -> Result<Direction<S>, BadState> {
        if self.bytes > MOST_BYTES {
            return Err(BadState("more bytes have passed than can"));
        }
        Ok(Direction::resumed(begin(self.side)?, &self.waiting.0, self.stopped, self.bytes))
    }
}

impl<C: Side, S: Side> Relay<C, S> {
    /// The connections to the client and to the server; `None` where another process could not go on with them, since
    /// they have a state of their own.
    pub fn descriptors(&self) -> Option<[BorrowedFd<'_>; 2]> {
        match (&self.down, &self.up) {
            (Stream::Plain(down), Stream::Plain(up)) => Some([down.as_fd(), up.as_fd()]),
            _ => None,
        }
    }

    /// The state, with what `client` and `server` make of the two sides. A look at a side that is not read from is not
    /// a part of it, since it can begin anew.
    pub(super) fn state_with<T, U>(
        &self,
        client: impl FnOnce(&C) -> Result<T, Immovable>,
        server: impl FnOnce(&S) -> Result<U, Immovable>,
    ) -> Result<StateOf<T, U>, Immovable> {
        if self.descriptors().is_none() {
            return Err(Immovable::NotPlain);
        }
        if self.question.is_some() {
            return Err(Immovable::AskedForSignOfLife);
        }
        Ok(StateOf {
            to_server: DirectionState::of(&self.to_server, client(self.to_server.side())?),
            to_client: DirectionState::of(&self.to_client, server(self.to_client.side())?),
            activity: self.activity,
            rtt: self.rtt.state(),
        })
    }

    /// Goes on where another process has stopped, with the sides that `client` and `server` make of their states.
    pub(super) fn resume_with<T, U>(
        (down, up): (Stream, Stream),
        state: StateOf<T, U>,
        (client, server): (impl FnOnce(T) -> Result<C, BadState>, impl FnOnce(U) -> Result<S, BadState>),
        counters: Arc<Counters>,
    ) -> Result<Self, BadState> {
        Ok(Self {
            down,
            up,
            to_server: state.to_server.begin(client)?,
            to_client: state.to_client.begin(server)?,
            client_first: true,
            look: None,
            question: None,
            counters,
            activity: state.activity,
            heard: 0,
            rtt: RoundTrip::resumed(&state.rtt),
        })
    }
}

impl Relay<ClientSide, ServerSide> {
    /// What another process needs to go on with the session, beside [`Relay::descriptors`]. The relay stays as it is.
    /// Once the other process goes on, this one may neither read nor write any more.
    ///
    /// # Errors
    /// It cannot be moved, or not now.
    pub fn state(&self) -> Result<RelayState, Immovable> {
        let state = self.state_with(|client| Ok(client.state()), |server| Ok(server.state()))?;
        Ok(RelayState::Plain(Box::new(state)))
    }

    /// Goes on with a session where another process has stopped. The session's entry begins with the totals that it had
    /// there, so that nothing is counted twice.
    ///
    /// # Errors
    /// The state makes no sense. Nothing has been read or written.
    pub fn resume(streams: (Stream, Stream), state: PlainState, process: ResumedIn) -> Result<Self, BadState> {
        let ResumedIn { keys, listener_info, client_ip, server, counters } = process;
        let of_client = |state| ClientSide::resumed(state, keys);
        let of_server = |state| ServerSide::resumed(state, listener_info, client_ip, server);
        Self::resume_with(streams, state, (of_client, of_server), counters)
    }
}

impl Relay<Passthrough, Passthrough> {
    /// See [`Relay::state`] of a plain relay.
    ///
    /// # Errors
    /// It cannot be moved, or not now: during the login.
    pub fn state(&self) -> Result<RelayState, Immovable> {
        let side = |side: &Passthrough| if side.logs_in() { Err(Immovable::LogsIn) } else { Ok(NoState {}) };
        Ok(RelayState::Passthrough(Box::new(self.state_with(side, side)?)))
    }

    /// See [`Relay::resume`] of a plain relay.
    ///
    /// # Errors
    /// The state makes no sense. Nothing has been read or written.
    pub fn resume(
        streams: (Stream, Stream),
        state: PassthroughState,
        counters: Arc<Counters>,
    ) -> Result<Self, BadState> {
        let side = |NoState {}| Ok(Passthrough::default());
        Self::resume_with(streams, state, (side, side), counters)
    }
}

impl Relay<LeafnodeSide, LeafnodeSide> {
    /// See [`Relay::state`] of a plain relay.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn state(&self) -> Result<RelayState, Immovable> {
        Err(Immovable::Leafnode)
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "small numbers of the tests' own"
)]
pub(in crate::relay) mod tests;
