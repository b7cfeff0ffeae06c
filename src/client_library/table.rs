//! How each official client library connects and reconnects at its defaults, as one table.
//!
//! The figures were measured with the versions that [`Library::source`] names, or read in their source: one URL, plain
//! TCP. The values of [`OverTls`] were read, not measured: in the source of async-nats, and for the other libraries in
//! their documentation and in that of the TLS implementations they use. An application that sets other options behaves
//! differently.

use std::time::Duration;

use crate::client_library::library::{
    AuthErrorLimit, BeforePong, Deadline,
    ErrorText::{Contains, Prefix},
    Library, NoticesRefusal, OnError, OverTls, ReconnectWait,
};

/// nats.go.
pub static GO: Library = Library {
    lang: "go",
    version: "1.53.1",
    source: "measured with nats.go 1.22.1 and 1.53.1",
    deadline: Deadline::Total(Duration::from_secs(2)),
    reconnect_wait: ReconnectWait::BeforeLastServer {
        wait: Duration::from_secs(2),
        jitter: Duration::from_millis(100),
    },
    max_attempts: Some(60),
    notices_refusal: NoticesRefusal::Immediately,
    needs_info_alone: false,
    before_pong: BeforePong::Fails,
    takes_eof_for_pong: false,
    // Only the garbage collector closes it. It took from 124 s to more than 160 s.
    keeps_abandoned_socket: Duration::from_secs(124),
    auth_errors: &[
        Prefix("authorization violation"),
        Prefix("user authentication expired"),
        Prefix("user authentication revoked"),
        Prefix("account authentication expired"),
    ],
    auth_error_limit: AuthErrorLimit::SameTwice,
    on_error: OnError::ClosesUnless {
        reconnects_on: &[
            "stale connection",
            "maximum connections exceeded",
            "maximum account active connections exceeded",
        ],
        keeps_on_auth_error: true,
    },
    sends_ping_apart: true,
    // A `tls.Config` has no session cache unless the application sets one.
    over_tls: OverTls::MORE_JITTER,
};

/// async-nats.
pub static RUST: Library = Library {
    lang: "rust",
    version: "0.51.0",
    source: "measured with async-nats 0.49.1 and 0.51.0",
    deadline: Deadline::Total(Duration::from_secs(5)),
    reconnect_wait: ReconnectWait::Exponential {
        first: Duration::from_millis(2),
        cap: Duration::from_secs(4),
        jitter: Duration::ZERO,
    },
    max_attempts: None,
    notices_refusal: NoticesRefusal::Immediately,
    needs_info_alone: false,
    before_pong: BeforePong::Connects,
    takes_eof_for_pong: false,
    keeps_abandoned_socket: Duration::ZERO,
    auth_errors: &[],
    auth_error_limit: AuthErrorLimit::Unlimited,
    on_error: OnError::KeepsConnection,
    sends_ping_apart: false,
    // Each attempt makes its own TLS configuration, and so its own empty ticket store.
    over_tls: OverTls::SAME,
};

/// nats.py.
pub static PYTHON: Library = Library {
    lang: "python3",
    version: "2.16.0",
    source: "measured with nats-py 2.16.0",
    deadline: Deadline::PerStep(Duration::from_secs(2)),
    reconnect_wait: ReconnectWait::SinceAttemptEnded { wait: Duration::from_secs(2) },
    max_attempts: Some(61),
    notices_refusal: NoticesRefusal::Immediately,
    needs_info_alone: false,
    before_pong: BeforePong::Hangs,
    takes_eof_for_pong: true,
    // It gave up after 2.0 s and closed the socket after 4.0 s.
    keeps_abandoned_socket: Duration::from_secs(2),
    auth_errors: &[],
    auth_error_limit: AuthErrorLimit::Unlimited,
    on_error: OnError::ClosesUnless { reconnects_on: &["stale connection"], keeps_on_auth_error: false },
    sends_ping_apart: true,
    // `ssl` resumes only a session that it is given.
    over_tls: OverTls::SAME,
};

/// nats.js.
pub static JS: Library = Library {
    lang: "nats.js",
    version: "3.4.0",
    source: "measured with @nats-io/transport-node 3.4.0 and nats 2.29.3",
    deadline: Deadline::Total(Duration::from_secs(20)),
    reconnect_wait: ReconnectWait::SinceAttemptBegan {
        wait: Duration::from_secs(2),
        jitter: Duration::from_millis(100),
    },
    max_attempts: Some(10),
    notices_refusal: NoticesRefusal::OnlyAuthErrors,
    needs_info_alone: false,
    before_pong: BeforePong::Ignores,
    takes_eof_for_pong: false,
    keeps_abandoned_socket: Duration::ZERO,
    auth_errors: &[
        Contains("authorization violation"),
        Contains("user authentication expired"),
        Contains("account authentication expired"),
        Contains("authentication timeout"),
    ],
    auth_error_limit: AuthErrorLimit::AnyInARow,
    on_error: OnError::ReconnectsOnAuthError,
    sends_ping_apart: true,
    // `tls.connect` resumes only the `session` that it is given.
    over_tls: OverTls::MORE_JITTER,
};

/// nats.java.
pub static JAVA: Library = Library {
    lang: "java",
    version: "2.26.3",
    source: "measured with jnats 2.26.3-dev",
    deadline: Deadline::Total(Duration::from_secs(2)),
    reconnect_wait: ReconnectWait::BetweenRounds { wait: Duration::from_secs(2), jitter: Duration::from_millis(100) },
    max_attempts: Some(60),
    notices_refusal: NoticesRefusal::AtDeadline,
    needs_info_alone: true,
    before_pong: BeforePong::Ignores,
    takes_eof_for_pong: false,
    keeps_abandoned_socket: Duration::ZERO,
    auth_errors: &[
        Prefix("user authentication"),
        Contains("authorization violation"),
        Prefix("account authentication expired"),
    ],
    auth_error_limit: AuthErrorLimit::SameTwice,
    on_error: OnError::KeepsConnection,
    sends_ping_apart: true,
    // The `SSLContext` caches sessions by host and port.
    over_tls: OverTls { resumes: true, ..OverTls::MORE_JITTER },
};

/// nats.c.
pub static C: Library = Library {
    lang: "C",
    version: "3.11.0",
    source: "read in the source of nats.c (000b3e86), not measured",
    deadline: Deadline::Total(Duration::from_secs(2)),
    reconnect_wait: ReconnectWait::BeforeLastServer {
        wait: Duration::from_secs(2),
        jitter: Duration::from_millis(100),
    },
    max_attempts: Some(60),
    notices_refusal: NoticesRefusal::Immediately,
    needs_info_alone: true,
    before_pong: BeforePong::Fails,
    takes_eof_for_pong: false,
    keeps_abandoned_socket: Duration::ZERO,
    auth_errors: &[Contains("authorization violation"), Contains("user authentication expired")],
    auth_error_limit: AuthErrorLimit::SameTwice,
    on_error: OnError::ClosesUnless { reconnects_on: &["stale connection"], keeps_on_auth_error: true },
    sends_ping_apart: false,
    over_tls: OverTls::MORE_JITTER,
};

/// NATS .NET v2.
pub static DOTNET: Library = Library {
    lang: ".NET",
    version: "2.6.0",
    source: "read in the source of nats.net (06cc5156), not measured",
    deadline: Deadline::PerStep(Duration::from_secs(2)),
    reconnect_wait: ReconnectWait::Exponential {
        first: Duration::from_secs(2),
        cap: Duration::from_secs(5),
        jitter: Duration::from_millis(100),
    },
    max_attempts: None,
    notices_refusal: NoticesRefusal::Immediately,
    needs_info_alone: false,
    before_pong: BeforePong::Ignores,
    takes_eof_for_pong: false,
    keeps_abandoned_socket: Duration::ZERO,
    auth_errors: &[
        Contains("authorization violation"),
        Contains("user authentication expired"),
        Contains("user authentication revoked"),
        Contains("account authentication expired"),
    ],
    auth_error_limit: AuthErrorLimit::SameInARow,
    on_error: OnError::KeepsConnection,
    sends_ping_apart: false,
    // `AllowTlsResume` is the default, and since .NET 7 it works on Linux too.
    over_tls: OverTls { resumes: true, ..OverTls::SAME },
};

/// Every library.
pub static ALL: [&Library; 7] = [&GO, &RUST, &PYTHON, &JS, &JAVA, &C, &DOTNET];

/// The library of clients whose CONNECT says this `lang`, if its behaviour is known.
pub fn by_lang(lang: &str) -> Option<&'static Library> {
    match lang {
        "go" => Some(&GO),
        "rust" => Some(&RUST),
        "python3" => Some(&PYTHON),
        // nats.ws is nats.js in a browser, nats.deno in Deno: the same core (nats-base-client, later core) with another
        // transport.
        "nats.js" | "nats.ws" | "nats.deno" => Some(&JS),
        "java" => Some(&JAVA),
        "C" => Some(&C),
        ".NET" => Some(&DOTNET),
        _ => None,
    }
}
