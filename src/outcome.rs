//! How a connection ended: who ended it, in which phase, why. One set of names for the log, the metrics and the endpoints.

/// Why a client was refused: the last word it was told is in [`crate::protocol::refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// No eligible server has headroom.
    ServerCapacity,
    /// The client's turn did not come within its own deadline.
    HoldExpired,
    /// More clients wait than `max_held` allows.
    QueueFull,
    /// The account has as many connections as its quota.
    AccountQuota,
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
    /// The source has as many connections as its quota.
    SourceQuota,
    /// The source opens connections faster than its quota, or its logins keep failing.
    SourceRate,
    /// The listener serves `max_clients` already.
    ListenerFull,
    /// weir is stopping.
    Draining,
    /// What the client sent is not NATS, or more than the preface may hold.
    Protocol,
    /// CONNECT did not come within `handshake_timeout`.
    HandshakeTimeout,
    /// The TLS handshake's turn could not come within the client's deadline: closed before anything was computed for it.
    TlsBusy,
}

impl Refusal {
    /// Every reason, in the order of the metric's documentation.
    pub const ALL: [Self; 16] = [
        Self::ServerCapacity,
        Self::HoldExpired,
        Self::QueueFull,
        Self::AccountQuota,
        Self::AccountRate,
        Self::UserQuota,
        Self::UserRate,
        Self::NameQuota,
        Self::NameRate,
        Self::SourceQuota,
        Self::SourceRate,
        Self::ListenerFull,
        Self::Draining,
        Self::Protocol,
        Self::HandshakeTimeout,
        Self::TlsBusy,
    ];

    /// Whether it is for opening connections too fast, so that the client might wait.
    pub const fn is_a_rate(self) -> bool {
        matches!(self, Self::AccountRate | Self::UserRate | Self::NameRate | Self::SourceRate)
    }

    /// The name in logs, metrics and endpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServerCapacity => "server_capacity",
            Self::HoldExpired => "hold_expired",
            Self::QueueFull => "queue_full",
            Self::AccountQuota => "account_quota",
            Self::AccountRate => "account_rate",
            Self::UserQuota => "user_quota",
            Self::UserRate => "user_rate",
            Self::NameQuota => "name_quota",
            Self::NameRate => "name_rate",
            Self::SourceQuota => "source_quota",
            Self::SourceRate => "source_rate",
            Self::ListenerFull => "listener_full",
            Self::Draining => "draining",
            Self::Protocol => "protocol",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::TlsBusy => "tls_busy",
        }
    }
}

/// Why a server refused a login, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BadLogin {
    /// `Authorization Violation`: wrong, unknown, revoked, or an auth callout's no.
    Violation,
    /// `… Authentication Expired`, of the user or of the account.
    Expired,
    /// `User Authentication Revoked`.
    Revoked,
    /// `Authentication Timeout`: the server, or what it asks, was too slow, or the client.
    TimedOut,
}

impl BadLogin {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Violation, Self::Expired, Self::Revoked, Self::TimedOut];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::TimedOut => "timed_out",
        }
    }

    /// Whether it is about the credentials themselves: neither the server nor what it asks was merely too slow.
    pub const fn is_of_credentials(self) -> bool {
        !matches!(self, Self::TimedOut)
    }
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    /// The client.
    Downstream,
    /// The nats-server.
    Upstream,
    /// weir itself.
    Weir,
}

impl Party {
    /// Every party.
    pub const ALL: [Self; 3] = [Self::Downstream, Self::Upstream, Self::Weir];

    /// The name in logs, metrics and endpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Weir => "weir",
        }
    }
}

/// How far a connection had come when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// INFO sent, CONNECT not complete.
    Preface,
    /// Waiting for its turn.
    Hold,
    /// From the dial to the server's PONG.
    Dial,
    /// Bytes pass both ways.
    Relay,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 4] = [Self::Preface, Self::Hold, Self::Dial, Self::Relay];

    /// The name in logs, metrics and endpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preface => "preface",
            Self::Hold => "hold",
            Self::Dial => "dial",
            Self::Relay => "relay",
        }
    }
}

/// Why a connection that was not refused ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A plain end of stream.
    Eof,
    /// A reset, a keepalive or user timeout, or another socket error.
    SocketError,
    /// The server said `-ERR` during the handshake (bad credentials, say); its words went to the client.
    ServerError,
    /// A second CONNECT on a live session, which would have moved it to another account.
    SecondConnect,
    /// Bytes that follow no NATS framing.
    Protocol,
    /// No agreement on TLS: a certificate that is not good for one of the two, or no version or suite in common.
    Tls,
    /// weir is stopping.
    Draining,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::Eof,
        Self::SocketError,
        Self::ServerError,
        Self::SecondConnect,
        Self::Protocol,
        Self::Tls,
        Self::Draining,
    ];

    /// The name in logs, metrics and endpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::SocketError => "socket_error",
            Self::ServerError => "server_error",
            Self::SecondConnect => "second_connect",
            Self::Protocol => "protocol",
            Self::Tls => "tls",
            Self::Draining => "draining",
        }
    }
}

/// The whole name of an end: party × phase × cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Close {
    /// Who ended it.
    pub party: Party,
    /// How far it had come.
    pub phase: Phase,
    /// Why.
    pub cause: Cause,
}
