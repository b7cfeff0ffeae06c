//! The message by which each weir of a fleet tells the others what it holds.
//!
//! It is JSON. Fields that a weir does not know are ignored and fields that are missing have defaults, so that weirs of
//! neighbouring versions share a fleet; [`Beat::v`] changes only where that is not enough. Whoever may publish in the
//! account can forge a beat: it is bounded, and nothing in it is more than a hint (shares, placement).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::fleet::{key::Key, member::MemberId, rebalancing::Stage};

/// The version of the message.
pub const VERSION: u32 = 1;

/// The longest message that is read, in bytes.
pub const LONGEST: usize = 512 * 1024;

/// Most servers of a message.
pub const MOST_SERVERS: usize = 512;

/// Most accounts of a message.
pub const MOST_ACCOUNTS: usize = 1024;

/// Most rates of a message.
pub const MOST_RATES: usize = 256;

/// Most bytes of the version of weir in a message.
const LONGEST_VERSION: usize = 32;

/// What a weir holds of one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerBeat {
    /// Slots taken and not given back.
    pub held: u32,
    /// Of those, connections that the server counts for certain, since it has sent its INFO.
    pub open: u32,
    /// Slots taken since the weir began.
    pub taken: u64,
    /// Slots given back since the weir began.
    pub released: u64,
    /// Logins under way, overdue ones included.
    pub handshakes: u32,
    /// Clients that wait for a turn and could go there.
    pub waiting: u32,
    /// The most logins at a time, as this weir has found it.
    pub limit: u32,
    /// Logins that have ended with the server's PONG since the weir began.
    pub done: u64,
    /// How the weir uses the handshake limit; see [`crate::fleet::pace`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<PaceBeat>,
}

/// How a weir uses the handshake limit of one server, and what its logins have shown of that since it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PaceBeat {
    /// Logins under way, without overdue ones, and the place that it keeps for its next one.
    pub places: u32,
    /// The number of its last turn there; 0 where it has had none.
    pub turn: u64,
    /// Whose turn that was.
    pub lane: Key,
    /// Its limit, in thousandths.
    pub limit_milli: u64,
    /// Logins that ended well in time.
    pub finished: u64,
    /// Sum of expected over actual time, each at most 1, in thousandths.
    pub ratios_milli: u64,
    /// The same without that bound.
    pub unbounded_milli: u64,
    /// Sum of the times that they took, in milliseconds.
    pub took_ms: u64,
    /// Logins that did not end in time.
    pub timed_out: u64,
}

impl Default for PaceBeat {
    fn default() -> Self {
        Self {
            places: 0,
            turn: 0,
            lane: Key::LOWEST,
            limit_milli: 0,
            finished: 0,
            ratios_milli: 0,
            unbounded_milli: 0,
            took_ms: 0,
            timed_out: 0,
        }
    }
}

/// What a weir has of a rate, and wants, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateBeat {
    pub has: u32,
    pub wants: u32,
}

/// The clients that wait at a weir for any server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NextBeat {
    /// How many.
    pub clients: u32,
    /// Of how many accounts.
    pub lanes: u32,
    /// Whether the next of them has priority.
    pub priority: bool,
    /// Whose turn is next.
    pub lane: Key,
    /// The number of the last turn of that account that the weir has seen.
    pub lane_turn: u64,
    /// The least that a login takes, in microseconds, of accounts that the weir has measured lately.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub logins: BTreeMap<Key, u32>,
}

/// The most baselines of a beat.
pub const MOST_BASELINES: usize = 16;

impl NextBeat {
    /// The least that a login takes, by account. Of a beat that tells more than it may, no more count.
    pub fn baselines(&self) -> impl Iterator<Item = (Key, Duration)> {
        self.logins.iter().take(MOST_BASELINES).map(|(key, micros)| (*key, Duration::from_micros((*micros).into())))
    }
}

impl Default for NextBeat {
    fn default() -> Self {
        Self { clients: 0, lanes: 0, priority: false, lane: Key::LOWEST, lane_turn: 0, logins: BTreeMap::new() }
    }
}

/// What a weir holds of one account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountBeat {
    /// Connections, those in flight included.
    pub held: u32,
    /// Of those, connections that the servers count for certain.
    pub open: u32,
    /// Connections taken since the weir began.
    pub taken: u64,
    /// Connections given back since the weir began.
    pub released: u64,
    /// Clients that wait.
    pub waiting: u32,
}

/// The keys from the first to the second one, both included.
pub type Span = (Key, Key);

/// What one weir holds at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// The version of the message: [`VERSION`].
    pub v: u32,
    /// Which weir it is.
    pub id: MemberId,
    /// Which process: a random number. Counts begin anew with each.
    pub run: u64,
    /// Counts the messages of this process from 1 on: an older one that arrives later is ignored.
    pub n: u64,
    /// How long the process has been running when it sent this, in milliseconds.
    pub up_ms: u64,
    /// The next beat comes within so many milliseconds, unless it is lost.
    pub every_ms: u32,
    /// weir's own version.
    #[serde(default)]
    pub version: String,
    /// Clients that have logged in.
    #[serde(default)]
    pub sessions: u32,
    /// Clients that wait for their turn.
    #[serde(default)]
    pub waiting: u32,
    /// Clients that have come since the process began.
    #[serde(default)]
    pub arrivals: u64,
    /// Clients that have got in since the process began.
    #[serde(default)]
    pub admitted: u64,
    /// Whether its leases are in force; `false` while it goes by the split.
    #[serde(default)]
    pub leases_ok: bool,
    /// Whose turn is next; see [`crate::fleet::pace`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextBeat>,
    /// How far its rebalance is, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalancing: Option<Stage>,
    /// Its part of each rate that it uses; see [`crate::fleet::rates`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<Key, RateBeat>,
    /// Every server that the weir knows, in every beat.
    #[serde(default)]
    pub servers: BTreeMap<Key, ServerBeat>,
    /// Limited accounts in use: those that have changed lately, and all within `all_of`.
    #[serde(default)]
    pub accounts: BTreeMap<Key, AccountBeat>,
    /// Accounts of this span that are not in `accounts` are not in use at this weir. Absent: nothing follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_of: Option<Span>,
    /// It uses more limited accounts than it tells of: what it leaves out, also within `all_of`, may be in use there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves_out: bool,
}

/// Why a message is no beat.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBeat {
    #[error("{0} bytes are more than {LONGEST}")]
    TooLong(usize),
    #[error("version {0} of the message is not known here")]
    Version(u32),
    #[error("it has more {0} than a message may have")]
    TooMany(&'static str),
    #[error("it is not understood: {0}")]
    Json(String),
}

impl Beat {
    /// Of the process `run` of the weir `id`, which holds nothing, waits for nobody and has its leases.
    pub fn new(id: MemberId, run: u64) -> Self {
        Self {
            v: VERSION,
            id,
            run,
            n: 0,
            up_ms: 0,
            every_ms: 250,
            version: String::new(),
            sessions: 0,
            waiting: 0,
            arrivals: 0,
            admitted: 0,
            leases_ok: true,
            next: None,
            rebalancing: None,
            rates: BTreeMap::new(),
            servers: BTreeMap::new(),
            accounts: BTreeMap::new(),
            all_of: None,
            leaves_out: false,
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// It is too long, no beat, of another version, or has more servers, accounts or rates than a beat may have.
    pub fn decode(message: &[u8]) -> Result<Self, InvalidBeat> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        if message.len() > LONGEST {
            return Err(InvalidBeat::TooLong(message.len()));
        }
        let json = |error: serde_json::Error| InvalidBeat::Json(error.to_string());
        // Another version may have other types in the same fields: it is told as what it is.
        let Version { v } = serde_json::from_slice(message).map_err(json)?;
        if v != VERSION {
            return Err(InvalidBeat::Version(v));
        }
        let mut beat: Self = serde_json::from_slice(message).map_err(json)?;
        beat.check()?;
        // What is open is held. By more than that connections would count as a peer's that came past all weirs, and the
        // quota would be given out once more.
        beat.servers.values_mut().for_each(|one| one.open = one.open.min(one.held));
        beat.accounts.values_mut().for_each(|one| one.open = one.open.min(one.held));
        Ok(beat)
    }

    fn check(&self) -> Result<(), InvalidBeat> {
        let bounds = [
            ("servers", self.servers.len(), MOST_SERVERS),
            ("accounts", self.accounts.len(), MOST_ACCOUNTS),
            ("rates", self.rates.len(), MOST_RATES),
            ("bytes of version", self.version.len(), LONGEST_VERSION),
        ];
        match bounds.into_iter().find(|(_, n, most)| n > most) {
            Some((what, ..)) => Err(InvalidBeat::TooMany(what)),
            None => Ok(()),
        }
    }

    /// Whether the weir may have more rates than it tells of.
    pub fn may_leave_rates_out(&self) -> bool {
        self.rates.len() + 1 >= MOST_RATES
    }

    /// The message. What would make it one that is not read is left out: accounts, servers and rates beyond those that
    /// a beat may have.
    pub fn encode(&self) -> Vec<u8> {
        if self.check().is_err() {
            return self.bounded().encode();
        }
        // Maps with text keys and plain numbers: there is nothing that JSON could not say.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn bounded(&self) -> Self {
        let mut beat = self.clone();
        beat.version.truncate(beat.version.floor_char_boundary(LONGEST_VERSION));
        beat.servers = beat.servers.into_iter().take(MOST_SERVERS).collect();
        beat.rates = beat.rates.into_iter().take(MOST_RATES).collect();
        if beat.accounts.len() > MOST_ACCOUNTS {
            beat.accounts = beat.accounts.into_iter().take(MOST_ACCOUNTS).collect();
            (beat.all_of, beat.leaves_out) = (None, true);
        }
        beat
    }
}

/// The message by which a weir says that it ends: on the subject of byes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bye {
    /// Which weir it is.
    pub id: MemberId,
    /// Which process of it.
    pub run: u64,
}

impl Bye {
    /// Reads a message.
    ///
    /// # Errors
    /// It is too long, or no bye.
    pub fn decode(message: &[u8]) -> Result<Self, InvalidBeat> {
        if message.len() > LONGEST {
            return Err(InvalidBeat::TooLong(message.len()));
        }
        serde_json::from_slice(message).map_err(|error| InvalidBeat::Json(error.to_string()))
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fleet::key::{Keys, Kind};

    fn beat() -> Beat {
        let keys = Keys::of_fleet("edge");
        let server =
            ServerBeat { held: 3, open: 2, taken: 9, released: 6, handshakes: 1, limit: 4, ..Default::default() };
        let account = AccountBeat { held: 2, ..Default::default() };
        Beat {
            v: VERSION,
            id: MemberId::new("weir-1").unwrap(),
            run: u64::MAX,
            n: 7,
            up_ms: 12_000,
            every_ms: 250,
            version: "0.1.0".into(),
            sessions: 2,
            waiting: 1,
            arrivals: 10,
            admitted: 8,
            leases_ok: true,
            rebalancing: Some(Stage::Running),
            next: Some(NextBeat { clients: 1, lanes: 1, lane_turn: 9, ..Default::default() }),
            rates: [(keys.of(Kind::Account, "A"), RateBeat { has: 500_000, wants: 1_000_000 })].into(),
            servers: [(keys.of(Kind::Server, "n1"), server)].into(),
            accounts: [(keys.of(Kind::Account, "A"), account)].into(),
            all_of: Some((Key::LOWEST, Key::HIGHEST)),
            leaves_out: true,
        }
    }

    #[test]
    fn a_beat_is_read_as_it_was_sent() {
        assert_eq!(Beat::decode(&beat().encode()), Ok(beat()));
        let bye = Bye { id: beat().id, run: 4 };
        assert_eq!(Bye::decode(&bye.encode()), Ok(bye));
    }

    #[test]
    fn a_neighbouring_version_is_understood() {
        let more = r#"{"v":1,"id":"w","run":1,"n":1,"up_ms":5,"every_ms":250,"new":{"a":[1]},
            "servers":{"00000000000000000000000000000001":{"held":4,"new":true}}}"#;
        let beat = Beat::decode(more.as_bytes()).unwrap();
        assert_eq!((beat.servers.values().next().unwrap().held, beat.sessions, beat.all_of), (4, 0, None));
        let other = r#"{"v":2,"id":["not","this"]}"#;
        assert_eq!(Beat::decode(other.as_bytes()), Err(InvalidBeat::Version(2)));
    }

    #[test]
    fn nobody_has_more_open_than_it_holds() {
        let forged = r#"{"v":1,"id":"w","run":1,"n":9,"up_ms":5,"every_ms":250,
            "servers":{"00000000000000000000000000000001":{"held":1,"open":10}},
            "accounts":{"00000000000000000000000000000002":{"held":1,"open":10}}}"#;
        let beat = Beat::decode(forged.as_bytes()).unwrap();
        assert_eq!((beat.servers.values().next().unwrap().open, beat.accounts.values().next().unwrap().open), (1, 1));
    }

    #[test]
    fn a_message_that_is_too_long_or_has_too_much_is_not_read() {
        assert_eq!(Beat::decode(&vec![b' '; LONGEST + 1]), Err(InvalidBeat::TooLong(LONGEST + 1)));
        let keys = Keys::of_fleet("edge");
        let many = |kind, n: usize| (0..n).map(move |n| keys.clone().of(kind, &n.to_string()));
        let (server, account) = (ServerBeat::default(), AccountBeat::default());
        let servers = many(Kind::Server, MOST_SERVERS + 1).map(|key| (key, server.clone())).collect();
        let keys = Keys::of_fleet("edge");
        let many = |kind, n: usize| (0..n).map(move |n| keys.clone().of(kind, &n.to_string()));
        let accounts = many(Kind::Account, MOST_ACCOUNTS + 1).map(|key| (key, account.clone())).collect();
        let wrong =
            [Beat { servers, ..beat() }, Beat { accounts, ..beat() }, Beat { version: "ä".repeat(40), ..beat() }];
        for wrong in wrong {
            let sent = serde_json::to_vec(&wrong).unwrap();
            assert!(matches!(Beat::decode(&sent), Err(InvalidBeat::TooMany(_))), "{wrong:?}");
            assert!(Beat::decode(&wrong.encode()).is_ok(), "what is sent is cut down to what is read");
        }
    }

    #[test]
    fn the_largest_beat_is_read() {
        let keys = Keys::of_fleet("edge");
        let most = u64::MAX / 10;
        let of_server = ServerBeat {
            held: u32::MAX,
            open: u32::MAX,
            taken: most,
            released: most,
            handshakes: u32::MAX,
            waiting: u32::MAX,
            limit: u32::MAX,
            done: most,
            pace: Some(PaceBeat {
                places: u32::MAX,
                turn: most,
                lane: Key::HIGHEST,
                limit_milli: most,
                finished: most,
                ratios_milli: most,
                unbounded_milli: most,
                took_ms: most,
                timed_out: most,
            }),
        };
        let of_account = AccountBeat { held: 100_000, open: 100_000, taken: most, released: most, waiting: 100_000 };
        let servers = (0..MOST_SERVERS).map(|n| (keys.of(Kind::Server, &n.to_string()), of_server.clone()));
        let accounts = (0..MOST_ACCOUNTS).map(|n| (keys.of(Kind::Account, &n.to_string()), of_account.clone()));
        let largest = Beat { servers: servers.collect(), accounts: accounts.collect(), ..beat() };
        assert_eq!(Beat::decode(&largest.encode()).as_ref(), Ok(&largest));
    }

    proptest! {
        #[test]
        fn no_message_is_worse_than_an_error(bytes: Vec<u8>) {
            drop(Beat::decode(&bytes));
            drop(Bye::decode(&bytes));
        }

        #[test]
        fn a_message_that_was_garbled_is_no_worse(at: prop::sample::Index, to: u8) {
            let mut message = beat().encode();
            let at = at.index(message.len());
            message[at] = to;
            drop(Beat::decode(&message));
        }
    }
}
