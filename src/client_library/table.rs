//! How each official client library connects and reconnects at its defaults, as one table.
//!
//! The figures were measured with, or read in the source of, the versions that [`Library::source`] names: single URL, plain
//! TCP. What TLS changes ([`OverTls`]) was read in the source of async-nats; for the others it is what the documentation of the
//! libraries and of what they take for TLS says, and was measured with none. An application that sets other options behaves otherwise.

use std::time::Duration;

use Match::{Anywhere, Prefix};

/// How long a library waits for an attempt to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// From TCP connect to PONG, in all.
    Total(Duration),
    /// For each step: TCP connect, INFO, TLS, PONG.
    PerStep(Duration),
}

impl Deadline {
    /// How long it waits for a step.
    pub const fn step(self) -> Duration {
        match self {
            Self::Total(time) | Self::PerStep(time) => time,
        }
    }
}

/// When a library tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// It goes through its list of servers and sleeps before the last one of each round; so with one server before every try.
    SleepsBeforeLast {
        /// The sleep.
        wait: Duration,
        /// Added to it, evenly spread.
        jitter: Duration,
    },
    /// It goes through its list at once and sleeps before each further round.
    SleepsBetweenRounds {
        /// The sleep.
        wait: Duration,
        /// Added to it, evenly spread.
        jitter: Duration,
    },
    /// Each server not sooner than this after its last attempt *began*.
    SinceStart {
        /// The distance.
        wait: Duration,
        /// Added to it, evenly spread.
        jitter: Duration,
    },
    /// It sleeps when the server's last attempt *ended* less than this ago.
    SinceEnd {
        /// The sleep.
        wait: Duration,
    },
    /// The first try at once, and before each further one a sleep that doubles.
    Doubling {
        /// Before the second try.
        first: Duration,
        /// The longest.
        cap: Duration,
        /// Added to it, evenly spread.
        jitter: Duration,
    },
}

/// How a library recognises a text as an authorization error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The text begins so.
    Prefix(&'static str),
    /// The text holds it.
    Anywhere(&'static str),
}

/// Whether a library notices a refusal behind INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// At once.
    Never,
    /// It waits out its deadline, but for authorization errors.
    UnlessAuthorization,
    /// It waits out its deadline.
    Always,
}

/// What a line other than PONG and `-ERR` in place of PONG does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforePong {
    /// Nothing.
    Skips,
    /// The attempt fails.
    Fails,
    /// It counts as connected.
    Succeeds,
    /// The client stays in between for ever: neither connected nor trying.
    Hangs,
}

/// What two authorization errors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strikes {
    /// Nothing: it goes on trying.
    Harmless,
    /// The same text twice ends the client, whatever happened in between.
    SameTwice,
    /// The same text twice in a row ends the client.
    SameInARow,
    /// Any two in a row end the client.
    AnyInARow,
}

/// What an `-ERR` does to an established client, before any end of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Established {
    /// Told to the application; the client waits for the end of the stream.
    WaitsForEnd,
    /// Reconnects on these texts (lower case, exact), tells the application of permissions and authorization errors, and
    /// closes for good on anything else.
    ClosesUnless {
        /// The texts that make it reconnect.
        reconnects: &'static [&'static str],
        /// Whether authorization errors only count as a strike; else they close it for good too.
        authorization_is_told: bool,
    },
    /// Reconnects at once on an authorization error; else told, and waits for the end of the stream.
    ReconnectsOnAuthorization,
}

/// What is different over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverTls {
    /// The rhythm's jitter; `None` leaves it.
    pub jitter: Option<Duration>,
    /// A client keeps the server's tickets and shows them when it comes back.
    pub resumes: bool,
}

impl OverTls {
    /// Go, JavaScript, Java and C: 1 s, where it is 100 ms without TLS.
    const MORE_JITTER: Self = Self { jitter: Some(Duration::from_secs(1)), resumes: false };
    const SAME: Self = Self { jitter: None, resumes: false };
}

/// One library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// `lang` in its CONNECT.
    pub lang: &'static str,
    /// `version` in its CONNECT: the newest that [`Library::source`] names, or one of that time.
    pub version: &'static str,
    /// The versions these figures come from, and how.
    pub source: &'static str,
    /// How long it waits.
    pub deadline: Deadline,
    /// When it tries again.
    pub rhythm: Rhythm,
    /// Failed tries per server, without a PONG in between, after which it is closed for good.
    pub tries: Option<u16>,
    /// Whether it notices a refusal or an end behind INFO only when its deadline is over.
    pub stalls: Stall,
    /// INFO must come alone in its read: what follows in the same one fails the attempt (Java) or is lost (C).
    pub info_alone: bool,
    /// What INFO, PING or an unasked `+OK` between CONNECT and PONG does.
    pub before_pong: BeforePong,
    /// An end of stream in place of PONG counts as connected, and as a drop right after.
    pub end_is_success: bool,
    /// How long after giving up an attempt its socket stays open.
    pub ghost: Duration,
    /// What it takes for authorization errors.
    pub authorization: &'static [Match],
    /// What two of those do.
    pub strikes: Strikes,
    /// What an `-ERR` does to it once it is connected.
    pub established: Established,
    /// CONNECT and PING are writes of their own.
    pub two_writes: bool,
    /// What is different over TLS.
    pub over_tls: OverTls,
}

/// nats.go.
pub static GO: Library = Library {
    lang: "go",
    version: "1.53.1",
    source: "measured with nats.go 1.22.1 and 1.53.1",
    deadline: Deadline::Total(Duration::from_secs(2)),
    rhythm: Rhythm::SleepsBeforeLast { wait: Duration::from_secs(2), jitter: Duration::from_millis(100) },
    tries: Some(60),
    stalls: Stall::Never,
    info_alone: false,
    before_pong: BeforePong::Fails,
    end_is_success: false,
    // Freed by the garbage collector only: 124 s to more than 160 s were seen.
    ghost: Duration::from_secs(124),
    authorization: &[
        Prefix("authorization violation"),
        Prefix("user authentication expired"),
        Prefix("user authentication revoked"),
        Prefix("account authentication expired"),
    ],
    strikes: Strikes::SameTwice,
    established: Established::ClosesUnless {
        reconnects: &[
            "stale connection",
            "maximum connections exceeded",
            "maximum account active connections exceeded",
        ],
        authorization_is_told: true,
    },
    two_writes: true,
    // A `tls.Config` has no session cache unless the application gives it one.
    over_tls: OverTls::MORE_JITTER,
};

/// async-nats.
pub static RUST: Library = Library {
    lang: "rust",
    version: "0.51.0",
    source: "measured with async-nats 0.49.1 and 0.51.0",
    deadline: Deadline::Total(Duration::from_secs(5)),
    rhythm: Rhythm::Doubling { first: Duration::from_millis(2), cap: Duration::from_secs(4), jitter: Duration::ZERO },
    tries: None,
    stalls: Stall::Never,
    info_alone: false,
    before_pong: BeforePong::Succeeds,
    end_is_success: false,
    ghost: Duration::ZERO,
    authorization: &[],
    strikes: Strikes::Harmless,
    established: Established::WaitsForEnd,
    two_writes: false,
    // Each attempt makes a configuration, and so a store of tickets, of its own.
    over_tls: OverTls::SAME,
};

/// nats.py.
pub static PYTHON: Library = Library {
    lang: "python3",
    version: "2.16.0",
    source: "measured with nats-py 2.16.0",
    deadline: Deadline::PerStep(Duration::from_secs(2)),
    rhythm: Rhythm::SinceEnd { wait: Duration::from_secs(2) },
    tries: Some(61),
    stalls: Stall::Never,
    info_alone: false,
    before_pong: BeforePong::Hangs,
    end_is_success: true,
    // Gave up after 2.0 s, closed after 4.0 s.
    ghost: Duration::from_secs(2),
    authorization: &[],
    strikes: Strikes::Harmless,
    established: Established::ClosesUnless { reconnects: &["stale connection"], authorization_is_told: false },
    two_writes: true,
    // `ssl` resumes only what it is told to.
    over_tls: OverTls::SAME,
};

/// nats.js.
pub static JS: Library = Library {
    lang: "nats.js",
    version: "3.4.0",
    source: "measured with @nats-io/transport-node 3.4.0 and nats 2.29.3",
    deadline: Deadline::Total(Duration::from_secs(20)),
    rhythm: Rhythm::SinceStart { wait: Duration::from_secs(2), jitter: Duration::from_millis(100) },
    tries: Some(10),
    stalls: Stall::UnlessAuthorization,
    info_alone: false,
    before_pong: BeforePong::Skips,
    end_is_success: false,
    ghost: Duration::ZERO,
    authorization: &[
        Anywhere("authorization violation"),
        Anywhere("user authentication expired"),
        Anywhere("account authentication expired"),
        Anywhere("authentication timeout"),
    ],
    strikes: Strikes::AnyInARow,
    established: Established::ReconnectsOnAuthorization,
    two_writes: true,
    // `tls.connect` resumes only the `session` it is given.
    over_tls: OverTls::MORE_JITTER,
};

/// nats.java.
pub static JAVA: Library = Library {
    lang: "java",
    version: "2.26.3",
    source: "measured with jnats 2.26.3-dev",
    deadline: Deadline::Total(Duration::from_secs(2)),
    rhythm: Rhythm::SleepsBetweenRounds { wait: Duration::from_secs(2), jitter: Duration::from_millis(100) },
    tries: Some(60),
    stalls: Stall::Always,
    info_alone: true,
    before_pong: BeforePong::Skips,
    end_is_success: false,
    ghost: Duration::ZERO,
    authorization: &[
        Prefix("user authentication"),
        Anywhere("authorization violation"),
        Prefix("account authentication expired"),
    ],
    strikes: Strikes::SameTwice,
    established: Established::WaitsForEnd,
    two_writes: true,
    // The `SSLContext` keeps sessions by host and port.
    over_tls: OverTls { resumes: true, ..OverTls::MORE_JITTER },
};

/// nats.c.
pub static C: Library = Library {
    lang: "C",
    version: "3.11.0",
    source: "read in the source of nats.c (000b3e86), not measured",
    deadline: Deadline::Total(Duration::from_secs(2)),
    rhythm: Rhythm::SleepsBeforeLast { wait: Duration::from_secs(2), jitter: Duration::from_millis(100) },
    tries: Some(60),
    stalls: Stall::Never,
    info_alone: true,
    before_pong: BeforePong::Fails,
    end_is_success: false,
    ghost: Duration::ZERO,
    authorization: &[Anywhere("authorization violation"), Anywhere("user authentication expired")],
    strikes: Strikes::SameTwice,
    established: Established::ClosesUnless { reconnects: &["stale connection"], authorization_is_told: true },
    two_writes: false,
    over_tls: OverTls::MORE_JITTER,
};

/// NATS .NET v2.
pub static DOTNET: Library = Library {
    lang: ".NET",
    version: "2.6.0",
    source: "read in the source of nats.net (06cc5156), not measured",
    deadline: Deadline::PerStep(Duration::from_secs(2)),
    rhythm: Rhythm::Doubling {
        first: Duration::from_secs(2),
        cap: Duration::from_secs(5),
        jitter: Duration::from_millis(100),
    },
    tries: None,
    stalls: Stall::Never,
    info_alone: false,
    before_pong: BeforePong::Skips,
    end_is_success: false,
    ghost: Duration::ZERO,
    authorization: &[
        Anywhere("authorization violation"),
        Anywhere("user authentication expired"),
        Anywhere("user authentication revoked"),
        Anywhere("account authentication expired"),
    ],
    strikes: Strikes::SameInARow,
    established: Established::WaitsForEnd,
    two_writes: false,
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
        // nats.ws is nats.js in a browser: the same core over WebSocket.
        "nats.js" | "nats.ws" => Some(&JS),
        "java" => Some(&JAVA),
        "C" => Some(&C),
        ".NET" => Some(&DOTNET),
        _ => None,
    }
}

/// Which libraries a storm's clients are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Like {
    /// All of one.
    One(&'static Library),
    /// Equal shares of each.
    Mix,
}

impl Like {
    /// The library of the `n`th client.
    #[cfg(test)]
    pub fn library(self, n: usize) -> &'static Library {
        match self {
            Self::One(library) => library,
            Self::Mix => ALL[n % ALL.len()],
        }
    }

    /// The libraries that occur.
    pub fn libraries(self) -> Vec<&'static Library> {
        match self {
            Self::One(library) => vec![library],
            Self::Mix => ALL.to_vec(),
        }
    }

    /// What a reader calls its clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mix => "mixed",
            Self::One(library) => match library.lang {
                "go" => "Go",
                "rust" => "Rust",
                "python3" => "Python",
                "nats.js" => "JavaScript",
                "java" => "Java",
                other => other,
            },
        }
    }
}

impl std::str::FromStr for Like {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |library: &&&Library| library.lang.eq_ignore_ascii_case(text);
        match text.to_ascii_lowercase().as_str() {
            "mix" => Ok(Self::Mix),
            "python" | "py" => Ok(Self::One(&PYTHON)),
            "js" => Ok(Self::One(&JS)),
            "dotnet" => Ok(Self::One(&DOTNET)),
            _ => ALL.iter().find(named).map(|library| Self::One(library)).ok_or_else(|| {
                format!("{text:?} is no client library; write go, rust, python3, nats.js, java, C, dotnet or mix")
            }),
        }
    }
}

impl Library {
    /// The same library when it speaks TLS.
    pub fn with_tls(&self) -> Self {
        let mut library = self.clone();
        if let Some(more) = self.over_tls.jitter {
            match &mut library.rhythm {
                Rhythm::SleepsBeforeLast { jitter, .. }
                | Rhythm::SleepsBetweenRounds { jitter, .. }
                | Rhythm::SinceStart { jitter, .. }
                | Rhythm::Doubling { jitter, .. } => *jitter = more,
                Rhythm::SinceEnd { .. } => {}
            }
        }
        library
    }

    /// Which of its authorization errors a text is, from 1; 0 is none.
    pub fn strike(&self, text: &str) -> u8 {
        let text = text.to_ascii_lowercase();
        let is = |one: &Match| match *one {
            Prefix(prefix) => text.starts_with(prefix),
            Anywhere(part) => text.contains(part),
        };
        self.authorization.iter().position(is).map_or(0, |at| at as u8 + 1)
    }
}
