//! What an operator should hear of before it hurts, and what has changed since: the events that go to the log, to
//! metrics, to the webhook and to a NATS subject. This module says what they are and in which words they are told.
//!
//! - [`fullness`]: when a level of fullness, or an outage, is to be told.
//! - [`watch`]: how full everything is, and what of it is to be told.
//! - [`advisory`]: the JSON of an event.

pub mod advisory;
pub mod fullness;
pub mod watch;

use std::time::Duration;

use serde::Serialize;
use strum::{EnumCount, IntoStaticStr, VariantArray};

use crate::{events::fullness::Level, growth::Growth};

/// The kinds of events, by their names in metrics, types of advisories and subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    ServerNearlyFull,
    ServerFull,
    ServerRoomAgain,
    AccountNearlyFull,
    AccountFull,
    AccountRoomAgain,
    ListenerNearlyFull,
    ListenerFull,
    ListenerRoomAgain,
    ServerDown,
    ServerUp,
    NoServer,
    ServerUsableAgain,
    ClusterFull,
    ClusterRoomAgain,
    StormBegan,
    StormOver,
    CertificateExpires,
    ReloadFailed,
    ServerDrained,
    ServerUndrained,
    Paused,
    Resumed,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Its name.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::NoServer | Self::ClusterFull => Severity::Critical,
            Self::ServerNearlyFull
            | Self::ServerFull
            | Self::AccountNearlyFull
            | Self::AccountFull
            | Self::ListenerNearlyFull
            | Self::ListenerFull
            | Self::ServerDown
            | Self::StormBegan
            | Self::CertificateExpires
            | Self::ReloadFailed => Severity::Warning,
            Self::ServerRoomAgain
            | Self::AccountRoomAgain
            | Self::ListenerRoomAgain
            | Self::ServerUp
            | Self::ServerUsableAgain
            | Self::ClusterRoomAgain
            | Self::StormOver
            | Self::ServerDrained
            | Self::ServerUndrained
            | Self::Paused
            | Self::Resumed => Severity::Info,
        }
    }
}

/// How much an event matters, in the words of Prometheus' alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Clients are refused, or soon will be.
    Critical,
    /// An operator should look at it.
    Warning,
    /// It is over, or somebody has asked for it.
    Info,
}

/// What may be full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Thing {
    Server,
    Account,
    Listener,
}

impl Thing {
    /// What to do before it is full.
    fn advice(self) -> &'static str {
        match self {
            Self::Server => "add a server, or raise its max_connections",
            Self::Account => "close connections that nobody needs, or raise its limit (accounts, or its JWT)",
            Self::Listener => "raise max_clients, or add a weir",
        }
    }
}

/// How full something is.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    pub of: Thing,
    pub name: String,
    pub connections: u32,
    pub max_connections: u32,
    /// From how many connections on it takes no more.
    pub full: u32,
    /// The level that is told: the one that was reached, or the one that is left; `None` is below all of them.
    pub level: Option<Level>,
    /// Whether it has risen to that level.
    pub rises: bool,
    /// Since when it is, or was, at a level: RFC 3339.
    pub since: String,
    /// `None` where it does not grow, or nobody can tell.
    pub growth: Option<Growth>,
}

impl Usage {
    /// In whole percent of the limit, rounded down.
    pub fn percent(&self) -> u64 {
        u64::from(self.connections) * 100 / u64::from(self.max_connections.max(1))
    }

    /// How long the room lasts; `None` where it does not get less, or nobody can tell.
    pub fn full_in(&self) -> Option<Duration> {
        let growth = self.growth.filter(|_| self.connections < self.full)?;
        growth.reaches(self.full.into(), self.connections.into()).map(|forecast| forecast.at)
    }

    /// What to do; nothing where it has room again.
    pub fn advice(&self) -> Option<&'static str> {
        self.rises.then(|| self.of.advice())
    }

    fn kind(&self) -> Kind {
        let is_full = self.level == Some(Level::Full);
        match (self.of, self.rises, is_full) {
            (Thing::Server, true, false) => Kind::ServerNearlyFull,
            (Thing::Server, true, true) => Kind::ServerFull,
            (Thing::Server, false, _) => Kind::ServerRoomAgain,
            (Thing::Account, true, false) => Kind::AccountNearlyFull,
            (Thing::Account, true, true) => Kind::AccountFull,
            (Thing::Account, false, _) => Kind::AccountRoomAgain,
            (Thing::Listener, true, false) => Kind::ListenerNearlyFull,
            (Thing::Listener, true, true) => Kind::ListenerFull,
            (Thing::Listener, false, _) => Kind::ListenerRoomAgain,
        }
    }

    fn text(&self) -> String {
        let Self { name, connections, max_connections, .. } = self;
        let of: &str = self.of.into();
        let counts = format!("{connections} of {max_connections} connections ({} %)", self.percent());
        let mut text = match (self.rises, self.level) {
            (true, Some(Level::Full)) => format!("{of} {name} is full: {counts}"),
            (true, _) => format!("{of} {name} is nearly full: {counts}"),
            (false, _) => format!("{of} {name} has room again: {counts}"),
        };
        if let Some(growth) = self.growth.filter(|_| self.rises) {
            text += &format!(", {} a minute", per_minute(growth.per_second));
        }
        if let Some(left) = self.full_in().filter(|_| self.rises) {
            let about = if self.may_be_chance() { "perhaps " } else { "" };
            text += &format!(", full in {about}{}", rounded(left));
        }
        self.advice().map_or(text.clone(), |advice| format!("{text}: {advice}"))
    }

    /// Whether its growth may be nothing but chance.
    pub fn may_be_chance(&self) -> bool {
        self.growth.is_some_and(|growth| growth.may_be_chance())
    }
}

/// A growth per minute, with its sign.
pub fn per_minute(per_second: f64) -> String {
    let per_minute = per_second * 60.0;
    let decimals = if per_minute.abs() < 10.0 { 1 } else { 0 };
    format!("{:+.decimals$}", if per_minute.abs() < 0.05 { 0.0 } else { per_minute })
}

/// A time in one unit: nobody needs an estimate in seconds that is hours.
pub fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Usage(Usage),
    /// A server does not answer, or is in lame duck mode.
    ServerDown {
        server: String,
        is_lame_duck: bool,
    },
    ServerUp {
        server: String,
        lasted: Duration,
    },
    /// No server can be used.
    NoServer {
        servers: usize,
        lame_ducks: usize,
        /// Those that an operator has drained.
        drained: usize,
    },
    ServerUsableAgain {
        lasted: Duration,
        refused: u64,
    },
    /// No server has a slot that weir may fill.
    ClusterFull {
        servers: usize,
    },
    ClusterRoomAgain {
        lasted: Duration,
        refused: u64,
    },
    StormBegan {
        held: usize,
    },
    StormOver {
        seconds: u64,
        arrived: u64,
        admitted: u64,
        refused: u64,
    },
    CertificateExpires {
        /// Where it is shown.
        of: String,
        subject: String,
        days: i64,
    },
    /// A new configuration is wrong, and nothing has changed.
    ReloadFailed {
        errors: usize,
        first: String,
    },
    /// Somebody has asked that a server gets no more clients, until it is undrained or because it is to be removed.
    ServerDrained {
        server: String,
        by: String,
    },
    ServerUndrained {
        server: String,
        by: String,
    },
    /// Somebody has asked that all new clients wait, or that they go on.
    Paused {
        by: String,
    },
    Resumed {
        by: String,
        lasted: Duration,
    },
}

impl Event {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Usage(usage) => usage.kind(),
            Self::ServerDown { .. } => Kind::ServerDown,
            Self::ServerUp { .. } => Kind::ServerUp,
            Self::NoServer { .. } => Kind::NoServer,
            Self::ServerUsableAgain { .. } => Kind::ServerUsableAgain,
            Self::ClusterFull { .. } => Kind::ClusterFull,
            Self::ClusterRoomAgain { .. } => Kind::ClusterRoomAgain,
            Self::StormBegan { .. } => Kind::StormBegan,
            Self::StormOver { .. } => Kind::StormOver,
            Self::CertificateExpires { .. } => Kind::CertificateExpires,
            Self::ReloadFailed { .. } => Kind::ReloadFailed,
            Self::ServerDrained { .. } => Kind::ServerDrained,
            Self::ServerUndrained { .. } => Kind::ServerUndrained,
            Self::Paused { .. } => Kind::Paused,
            Self::Resumed { .. } => Kind::Resumed,
        }
    }

    /// It in one sentence, for people.
    pub fn text(&self) -> String {
        match self {
            Self::Usage(usage) => usage.text(),
            Self::ServerDown { server, is_lame_duck: true } => format!("server {server} is in lame duck mode"),
            Self::ServerDown { server, .. } => format!("server {server} does not answer"),
            Self::ServerUp { server, lasted } => {
                format!("server {server} is back after {}", rounded(*lasted))
            }
            Self::NoServer { servers, .. } => {
                format!("none of {servers} servers can be used: all clients are refused until one answers")
            }
            Self::ServerUsableAgain { lasted, refused } => {
                format!("a server can be used again after {}; {refused} clients were refused for it", rounded(*lasted))
            }
            Self::ClusterFull { .. } => {
                "no server has room: new clients are refused until one has; add a server, or raise max_connections"
                    .to_owned()
            }
            Self::ClusterRoomAgain { lasted, refused } => {
                format!("a server has room again after {}; {refused} clients were refused for it", rounded(*lasted))
            }
            Self::StormBegan { held } => format!("a storm has begun: {held} clients wait"),
            Self::StormOver { seconds, arrived, admitted, refused } => format!(
                "a storm is over after {seconds} s: {arrived} clients arrived, {admitted} got in, {refused} were refused"
            ),
            Self::CertificateExpires { subject, days, .. } if *days < 0 => {
                format!("the certificate {subject} has expired")
            }
            Self::CertificateExpires { subject, days, .. } => {
                format!("the certificate {subject} expires in {days} days")
            }
            Self::ReloadFailed { first, .. } => format!("the new configuration is not in force: {first}"),
            Self::ServerDrained { server, by } => format!("server {server} is drained: no new clients ({by})"),
            Self::ServerUndrained { server, by } => format!("server {server} gets clients again ({by})"),
            Self::Paused { by } => format!("new clients wait: paused by {by}"),
            Self::Resumed { by, lasted } => {
                format!("new clients go on after {}: resumed by {by}", rounded(*lasted))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn usage(connections: u32, level: Option<Level>, rises: bool) -> Usage {
        Usage {
            of: Thing::Server,
            name: "n1".into(),
            connections,
            max_connections: 1000,
            full: 980,
            level,
            rises,
            since: "2026-11-26T14:00:00Z".into(),
            growth: Some(Growth { per_second: 0.5, error: 0.01, over: Duration::from_secs(300) }),
        }
    }

    #[test]
    fn a_sentence_says_what_how_full_how_long_and_what_to_do() {
        let mut nearly = usage(800, Some(Level::WarnAt), true);
        let said = "server n1 is nearly full: 800 of 1000 connections (80 %), +30 a minute, full in 6m: add a server, or \
                    raise its max_connections";
        assert_eq!(nearly.text(), said);
        nearly.growth = None;
        assert!(!nearly.text().contains("minute"));
        let full = usage(980, Some(Level::Full), true);
        assert_eq!((full.kind(), full.full_in()), (Kind::ServerFull, None));
        let again = usage(700, None, false);
        assert_eq!(again.text(), "server n1 has room again: 700 of 1000 connections (70 %)");
    }

    #[test]
    fn estimates_have_one_unit() {
        let shown = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|s| rounded(Duration::from_secs(s)));
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!([0.5, -0.01, 0.0001].map(per_minute), ["+30", "-0.6", "+0.0"]);
    }
}
