//! What one client library does at its defaults, as plain values. [`super::table`] has one [`Library`] for each.

use std::time::Duration;

use ErrorText::{Contains, Prefix};

/// How long a library waits for an attempt to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// From TCP connect to PONG, in all.
    Total(Duration),
    /// For each step: TCP connect, INFO, TLS, PONG.
    PerStep(Duration),
}

impl Deadline {
    /// How long it waits for one step that begins with the deadline.
    pub const fn step(self) -> Duration {
        match self {
            Self::Total(time) | Self::PerStep(time) => time,
        }
    }
}

/// How long a library waits before it tries again. A round is one pass through its list of servers. Jitter is uniform
/// from zero to the given value and is added to the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconnectWait {
    /// It sleeps before the last server of each round; so with one server before every attempt.
    BeforeLastServer { wait: Duration, jitter: Duration },
    /// It sleeps between rounds; the first round begins at once.
    BetweenRounds { wait: Duration, jitter: Duration },
    /// It tries a server again no sooner than this after the last attempt there *began*.
    SinceAttemptBegan { wait: Duration, jitter: Duration },
    /// It sleeps if the last attempt at the server *ended* less than this ago.
    SinceAttemptEnded { wait: Duration },
    /// It tries once at once. It sleeps before each further attempt; the sleep begins with `first` and doubles up to
    /// `cap`.
    Exponential { first: Duration, cap: Duration, jitter: Duration },
}

/// How a library recognises an authorization error. It compares in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorText {
    Prefix(&'static str),
    Contains(&'static str),
}

/// When a library notices an `-ERR` or an end of stream that comes after INFO, in place of PONG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticesRefusal {
    Immediately,
    /// An authorization error at once; everything else when its deadline has passed.
    OnlyAuthErrors,
    /// When its deadline has passed.
    AtDeadline,
}

/// What a library does with a line between CONNECT and PONG that is neither PONG nor `-ERR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforePong {
    Ignores,
    /// The attempt fails.
    Fails,
    /// It takes the line for PONG.
    Connects,
    /// It neither connects nor tries again, for ever.
    Hangs,
}

/// Which authorization errors make a library close the client for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthErrorLimit {
    Unlimited,
    /// The same error twice, whatever happened between the two.
    SameTwice,
    /// The same error in two attempts in a row.
    SameInARow,
    /// Any two errors in a row.
    AnyInARow,
}

/// What a library does with an `-ERR` after PONG, before the stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It tells the application and waits for the end of the stream.
    KeepsConnection,
    /// It reconnects on the texts in `reconnects_on` (lower case, exact). It tells the application of permission
    /// errors, and of authorization errors if `keeps_on_auth_error`. It closes the client for good on every other text.
    ClosesUnless { reconnects_on: &'static [&'static str], keeps_on_auth_error: bool },
    /// It reconnects at once on an authorization error, and keeps the connection on every other text.
    ReconnectsOnAuthError,
}

/// What is different over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverTls {
    /// The jitter over TLS; `None`: the same as without.
    pub jitter: Option<Duration>,
    /// Whether a client keeps session tickets and resumes with them.
    pub resumes: bool,
}

impl OverTls {
    /// The default of Go, JavaScript, Java and C: 1 s of jitter instead of 100 ms.
    pub const MORE_JITTER: Self = Self { jitter: Some(Duration::from_secs(1)), resumes: false };
    pub const SAME: Self = Self { jitter: None, resumes: false };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// `lang` in its CONNECT.
    pub lang: &'static str,
    /// `version` in its CONNECT: the newest that [`Library::source`] names, or one of that time.
    pub version: &'static str,
    /// The versions that the figures come from, and whether they were measured or read.
    pub source: &'static str,
    pub deadline: Deadline,
    pub reconnect_wait: ReconnectWait,
    /// Failed attempts per server, without a PONG in between, after which the client is closed for good; `None`: it
    /// never is.
    pub max_attempts: Option<u16>,
    pub notices_refusal: NoticesRefusal,
    /// Whether INFO must come alone in its read. What follows it in the same read fails the attempt (Java) or is lost
    /// (C).
    pub needs_info_alone: bool,
    pub before_pong: BeforePong,
    /// Whether an end of stream in place of PONG counts as connected, and then as a lost connection.
    pub takes_eof_for_pong: bool,
    /// How long the socket of an attempt stays open after the library's deadline has ended the attempt.
    pub keeps_abandoned_socket: Duration,
    /// The texts that it takes for authorization errors.
    pub auth_errors: &'static [ErrorText],
    pub auth_error_limit: AuthErrorLimit,
    pub on_error: OnError,
    /// Whether it sends CONNECT and PING in two writes.
    pub sends_ping_apart: bool,
    pub over_tls: OverTls,
}

/// One of a library's own authorization errors: its place in [`Library::auth_errors`]. One byte, because a plan keeps
/// one for each of millions of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthError(u8);

impl Library {
    /// The same library when it speaks TLS.
    pub fn with_tls(&self) -> Self {
        let mut library = self.clone();
        if let Some(more) = self.over_tls.jitter {
            match &mut library.reconnect_wait {
                ReconnectWait::BeforeLastServer { jitter, .. }
                | ReconnectWait::BetweenRounds { jitter, .. }
                | ReconnectWait::SinceAttemptBegan { jitter, .. }
                | ReconnectWait::Exponential { jitter, .. } => *jitter = more,
                ReconnectWait::SinceAttemptEnded { .. } => {}
            }
        }
        library
    }

    /// Which of its authorization errors a text is; `None`: the text is another error.
    pub fn auth_error(&self, text: &str) -> Option<AuthError> {
        let text = text.to_ascii_lowercase();
        let is = |error: &ErrorText| match *error {
            Prefix(prefix) => text.starts_with(prefix),
            Contains(part) => text.contains(part),
        };
        self.auth_errors.iter().position(is).map(|place| AuthError(place as u8))
    }
}
