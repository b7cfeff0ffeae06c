//! How a connection ended: who ended it, in which phase, and why. The log, the metrics and the endpoints share these
//! names, and operators build alerts on them: a test below lists every one.

use strum::{EnumCount, IntoStaticStr, VariantArray};

/// The variants of an enum as an array: counters have one entry for each, by `variant as usize`.
// Not a `const fn`: with optimisation the compiler asks for all bodies of the crate before it calls one, also for the
// length of an array in a type, and for a closure in some of them that type first: an error.
macro_rules! array {
    ($variants:expr) => {
        match $variants.first_chunk() {
            Some(all) => *all,
            None => panic!("COUNT and VARIANTS come from the same derive"),
        }
    };
}

/// Why a client was refused. The `-ERR` that it reads is in [`crate::protocol::refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// No eligible server has headroom.
    ServerCapacity,
    /// No server can be used: none answers dials, or all that do are in lame duck mode.
    NoServer,
    /// It is a leafnode, and of no server weir knows where that takes leafnodes.
    NoLeafnodePort,
    /// A server refused a login that other servers let in, and no other server could be asked on this connection: the
    /// client is to come back.
    ServerRefusesLogin,
    /// The client's turn did not come within its own deadline.
    HoldExpired,
    /// Its server did not answer its login, within its own deadline or as long as the server waits.
    LoginTimeout,
    /// `max_held` clients are waiting already.
    QueueFull,
    /// The account has as many connections as its quota.
    AccountQuota,
    /// The account has as many leafnodes as it may.
    AccountLeafnodeQuota,
    /// The account opens connections faster than its quota.
    AccountRate,
    /// The user has as many connections as its quota.
    UserQuota,
    /// The user opens connections faster than its quota.
    UserRate,
    /// Clients of this name have as many connections as their quota.
    NameQuota,
    /// Clients of this name open connections faster than their quota.
    NameRate,
    /// The client has no name, and `[policies.name]` requires one.
    NameMissing,
    /// The client's library is older than `[policies.version]` allows.
    ClientTooOld,
    /// The source has as many connections as its quota.
    SourceQuota,
    /// The source has as many leafnodes as it may.
    SourceLeafnodeQuota,
    /// The source opens connections faster than its quota, or its logins keep failing.
    SourceRate,
    /// The listener serves `max_clients` already.
    ListenerFull,
    Draining,
    /// The client's time to wait was over while an operator held everybody (`weir pause`).
    Paused,
    /// An operator has kicked the client for a time that is not over (`weir kick --for`).
    Kicked,
    /// The client sent something that is not NATS, or more than a preface may hold.
    Protocol,
    /// CONNECT did not come within `handshake_timeout`.
    HandshakeTimeout,
    /// The TLS handshake could not begin before the client's deadline, so weir closed before computing anything for it.
    TlsBusy,
}

impl Refusal {
    pub const ALL: [Self; Self::COUNT] = array!(Self::VARIANTS);

    /// Whether the client opens connections too fast, so that it may be let in after a wait.
    pub const fn is_a_rate(self) -> bool {
        matches!(self, Self::AccountRate | Self::UserRate | Self::NameRate | Self::SourceRate)
    }

    /// Whether the client lacks a place that may come free when a session ends.
    pub const fn is_for_a_place(self) -> bool {
        matches!(
            self,
            Self::ServerCapacity
                | Self::AccountQuota
                | Self::AccountLeafnodeQuota
                | Self::UserQuota
                | Self::NameQuota
                | Self::SourceQuota
                | Self::SourceLeafnodeQuota
                | Self::ListenerFull
        )
    }

    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The reason with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// What an operator can do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::ServerCapacity => "all servers are full: raise their max_connections, or add a server",
            Self::NoServer => "no server can be used: `weir status` says why of each one",
            Self::NoLeafnodePort => {
                "no server is known to take leafnodes: configure leafnodes { listen } there, or cluster.servers.leafnode"
            }
            Self::ServerRefusesLogin => {
                "a server has other users or accounts than the others: see weir_server_logins_failing"
            }
            Self::HoldExpired => "more clients come than servers log in: see weir_held and weir_handshake_limit",
            Self::LoginTimeout => "servers do not answer logins: look at auth callout and account resolver",
            Self::QueueFull => "admission.max_held clients wait already: find out why so many come",
            Self::AccountQuota => {
                "the account has all its connections: close some, or raise its limit (accounts, or its JWT)"
            }
            Self::AccountLeafnodeQuota => {
                "the account has all its leafnodes: stop some, or raise its limit (accounts, or its JWT)"
            }
            Self::AccountRate => "the account connects too fast: find out why, or raise its rate in [accounts]",
            Self::UserQuota => "the user has all its connections: close some, or raise its limit in [users]",
            Self::UserRate => "the user connects too fast: find out why, or raise its rate in [users]",
            Self::NameQuota => "clients of this name have all their connections: raise their limit in [names]",
            Self::NameRate => "clients of this name connect too fast: find out why, or raise their rate in [names]",
            Self::NameMissing => "clients connect without a name: have them set one, or relax [policies.name]",
            Self::ClientTooOld => "client libraries are too old: upgrade them, or relax [policies.version]",
            Self::SourceQuota => "the source has all its connections: raise the limit in [admission.per_source]",
            Self::SourceLeafnodeQuota => {
                "the source has all its leafnodes: raise max_leafnodes in [admission.per_source]"
            }
            Self::SourceRate => {
                "the source connects too fast (admission.per_source), or its logins keep failing: look at who it is"
            }
            Self::ListenerFull => "the listener has all its clients: raise max_clients, or run another weir",
            Self::Draining => "weir is stopping: clients find another one, or come back once it runs again",
            Self::Kicked => {
                "an operator keeps these clients away for a time: `weir kick --forgive` lets them come back"
            }
            Self::Paused => "an operator holds everybody: `weir resume` lets clients in again",
            Self::Protocol => "what the sources send is not NATS: look at what connects there",
            Self::HandshakeTimeout => "the sources connect and say nothing: a scan, a check, or a slow network",
            Self::TlsBusy => "more TLS handshakes come than this machine computes: give it more cores",
        }
    }
}

/// Why a server refused a login, as its `-ERR` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum BadLogin {
    /// `Authorization Violation`: the credentials are wrong, unknown or revoked, or an auth callout rejected them.
    Violation,
    /// `User Authentication Expired` or `Account Authentication Expired`.
    Expired,
    /// `User Authentication Revoked`.
    Revoked,
    /// `Authentication Timeout`: the client, the server, or the service that the server asked was too slow.
    TimedOut,
}

impl BadLogin {
    pub const ALL: [Self; Self::COUNT] = array!(Self::VARIANTS);

    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether the credentials themselves were rejected. After a timeout they may still be good.
    pub const fn is_of_credentials(self) -> bool {
        !matches!(self, Self::TimedOut)
    }
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Party {
    /// The client.
    Downstream,
    /// The nats-server.
    Upstream,
    Weir,
}

impl Party {
    pub const ALL: [Self; Self::COUNT] = array!(Self::VARIANTS);

    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How far a connection had come when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// Before CONNECT was complete.
    Preface,
    /// In the queue.
    Hold,
    /// From the dial to the server's PONG.
    Dial,
    /// Bytes pass both ways.
    Relay,
}

impl Phase {
    pub const ALL: [Self; Self::COUNT] = array!(Self::VARIANTS);

    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Why a connection that was not refused ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// An end of stream.
    Eof,
    /// A reset, a keepalive or user timeout, or another socket error.
    SocketError,
    /// The server sent an `-ERR` during the login, for example because of bad credentials. It was passed on to the
    /// client.
    ServerError,
    /// A second CONNECT on a live session, which would have moved it to another account.
    SecondConnect,
    /// Bytes that do not follow NATS framing.
    Protocol,
    /// A leafnode's S2 stream that is broken: a block without its checksum, or one larger than 4 MiB.
    Compression,
    /// The TLS handshake failed: a certificate was not accepted, or the two sides share no version or cipher suite.
    Tls,
    /// The account of the session turned out to have as many connections as its quota.
    AccountQuota,
    /// The session has not been used for as long as `[policies.idle]` allows.
    Idle,
    Draining,
    /// Its server is drained by the operator, or was removed: the client is moved.
    Drain,
    /// Its server shuts down (lame duck mode): the client is moved before that.
    LameDuck,
    /// The servers are not even, and weir moves clients so that they are.
    Rebalance,
    /// The connection has reached `max_connection_age`.
    Age,
    /// An operator has ended the session (`weir kick`).
    Kicked,
    /// Its client showed no sign of life when weir asked for one, since a client like it wanted a place.
    Ghost,
}

impl Cause {
    pub const ALL: [Self; Self::COUNT] = array!(Self::VARIANTS);

    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Why weir moves a client to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum MoveCause {
    Rebalance,
    LameDuck,
    Drain,
    /// Its connection has reached `max_connection_age`: it comes back to wherever balancers send it.
    Age,
    /// Its server has died, or does not answer any more.
    ServerLost,
}

impl MoveCause {
    pub const ALL: [Self; Self::COUNT] = array!(Self::VARIANTS);

    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The cause of the close by which the client is moved.
    pub const fn of_close(self) -> Cause {
        match self {
            Self::Rebalance => Cause::Rebalance,
            Self::LameDuck => Cause::LameDuck,
            Self::Drain => Cause::Drain,
            Self::Age => Cause::Age,
            // Its server has closed it already.
            Self::ServerLost => Cause::Eof,
        }
    }
}

/// What has become of a client that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum MoveResult {
    /// It is on the server that was chosen for it.
    Landed,
    /// It came back, and is on another server.
    Elsewhere,
    /// It did not come back in time: the slot that was kept for it has been given back.
    Late,
    /// It was closed without a slot being kept for it: no server had room in time, weir cannot recognise it, or it may
    /// go anywhere.
    Unreserved,
    /// Its session goes on with another server, and its client has noticed nothing.
    Rehomed,
    /// Its session was to go on with another server and could not: it ended.
    NotRehomed,
    /// Its session was to go on with another server, and stays where it is: it was too busy, or the other server did
    /// not take it.
    Stayed,
}

impl MoveResult {
    pub const ALL: [Self; Self::COUNT] = array!(Self::VARIANTS);

    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The full name of an end: party × phase × cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Close {
    pub party: Party,
    pub phase: Phase,
    pub cause: Cause,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards, alerts and log searches hold these names: renaming a variant must not rename one of them.
    #[test]
    fn names_are_what_operators_search_for() {
        assert_eq!(
            Refusal::ALL.map(Refusal::name),
            [
                "server_capacity",
                "no_server",
                "no_leafnode_port",
                "server_refuses_login",
                "hold_expired",
                "login_timeout",
                "queue_full",
                "account_quota",
                "account_leafnode_quota",
                "account_rate",
                "user_quota",
                "user_rate",
                "name_quota",
                "name_rate",
                "name_missing",
                "client_too_old",
                "source_quota",
                "source_leafnode_quota",
                "source_rate",
                "listener_full",
                "draining",
                "paused",
                "kicked",
                "protocol",
                "handshake_timeout",
                "tls_busy",
            ]
        );
        assert_eq!(BadLogin::ALL.map(BadLogin::name), ["violation", "expired", "revoked", "timed_out"]);
        assert_eq!(Party::ALL.map(Party::name), ["downstream", "upstream", "weir"]);
        assert_eq!(Phase::ALL.map(Phase::name), ["preface", "hold", "dial", "relay"]);
        assert_eq!(
            Cause::ALL.map(Cause::name),
            [
                "eof",
                "socket_error",
                "server_error",
                "second_connect",
                "protocol",
                "compression",
                "tls",
                "account_quota",
                "idle",
                "draining",
                "drain",
                "lame_duck",
                "rebalance",
                "age",
                "kicked",
                "ghost"
            ]
        );
        assert_eq!(MoveCause::ALL.map(MoveCause::name), ["rebalance", "lame_duck", "drain", "age", "server_lost"]);
        assert_eq!(
            MoveResult::ALL.map(MoveResult::name),
            ["landed", "elsewhere", "late", "unreserved", "rehomed", "not_rehomed", "stayed"]
        );
        for cause in MoveCause::ALL.into_iter().filter(|cause| *cause != MoveCause::ServerLost) {
            assert_eq!(cause.of_close().name(), cause.name());
        }
    }

    #[test]
    fn the_index_of_a_variant_is_its_number() {
        for (n, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, n);
            assert_eq!(Refusal::named(refusal.name()), Some(refusal));
        }
    }
}
