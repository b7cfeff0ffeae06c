//! What a weir knows, for the process that takes over from it: without it an upgrade in the middle of a storm begins
//! the storm anew. It holds no credential, only keyed hashes ([`Keys`]), which mean something to a process with the
//! same secret and to nobody else.
//!
//! The process that leaves writes it before its sessions go, and the other one reads it before it accepts clients:
//!
//! ```text
//! leaves       shared.remembered(now).to_json()
//! takes over   shared.recall(Remembered::from_json(&text)?, now)     its keys made with Keys::with_secret
//! ```
//!
//! The form is JSON. A field that is not known is passed over, one that is absent or not understood counts as empty,
//! and a number beyond what is possible counts as the nearest one that is: another build of weir may have written it.
//!
//! | of `Shared` | | why |
//! |---|---|---|
//! | `admission` | goes along | see `admission::remembered` |
//! | `servers` | goes along | see `upstream::remembered` and `upstream::server::remembered` |
//! | `directory`: learned accounts | goes along | a client counts for its account from its first login on |
//! | `next_id` | goes along | sessions keep their ids, and no id is given twice |
//! | `keys` | its secret goes before | sessions need it first; a hash here shows another secret |
//! | `sessions`, `held`, `unanswered`, `descriptors` | stays | those that come are counted anew |
//! | `move_orders`, `ghosts`, `moves_under_way` | stays | they are of sessions here |
//! | `damped_dials` | stays | a source that is damped waits for milliseconds |
//! | `advertised_info` | stays | made from the servers' INFO and the configuration |
//! | `counters`, `tallies`, `flight`, `reports`, `heartbeats` | stays | they begin anew, as with any start |
//! | `notifier`, `usage`, `account_lookups`, `arrived` | stays | a level that is still reached is told once more |
//! | `fleet` | stays | its membership is a thing of its own |
//! | `policies`, `listeners`, `terminators`, `servers_tls` and the like | stays | the configuration has them |

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    admission::RememberedAdmission,
    identity::{ClientKey, CredentialKey, Keys},
    lapse,
    session::shared::Shared,
    upstream::RememberedServers,
};

/// A longer text is not read. With every table full one has about 70 MB, by the length of an entry of each.
pub const MOST_BYTES: usize = 128 << 20;
/// Between writing and reading no more time is believed to have passed: the system's clock may have been set.
const LONGEST_BETWEEN: Duration = Duration::from_secs(60);

/// What another process recalls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// When it was written, in milliseconds since 1970.
    #[serde(default, deserialize_with = "lapse::or_default")]
    written_unix_ms: u64,
    /// The key of a client that is none.
    #[serde(default, deserialize_with = "lapse::or_default")]
    nobody: Option<ClientKey>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    next_id: u64,
    #[serde(default, deserialize_with = "lapse::or_default")]
    servers: RememberedServers,
    #[serde(default, deserialize_with = "lapse::or_default")]
    admission: RememberedAdmission,
    /// By account, the credentials that servers have let into it.
    #[serde(default, deserialize_with = "lapse::or_default")]
    learned: BTreeMap<String, Vec<CredentialKey>>,
}

/// Why a text says nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotRemembered {
    /// It is no JSON object.
    #[error("it is not what a weir writes: {0}")]
    Json(#[from] serde_json::Error),
    /// It is longer than [`MOST_BYTES`].
    #[error("it has {0} bytes, and may have {MOST_BYTES}")]
    TooLong(usize),
}

impl Remembered {
    /// As a text.
    ///
    /// # Errors
    /// None that is known: what is written down has a form in JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, NotRemembered> {
        Ok(serde_json::to_vec(self)?)
    }

    /// What a weir has written, perhaps of another build.
    ///
    /// # Errors
    /// The text is longer than any weir writes, or no JSON object.
    pub fn from_json(text: &[u8]) -> Result<Self, NotRemembered> {
        if text.len() > MOST_BYTES {
            return Err(NotRemembered::TooLong(text.len()));
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// How many credentials it knows the accounts of.
    #[cfg(test)]
    pub fn learned_accounts(&self) -> usize {
        self.learned.values().map(Vec::len).sum()
    }

    /// The moment at which it was written, on a clock that is at `now` while the system's clock is at `unix_ms`.
    fn written_at(&self, now: Instant, unix_ms: u64) -> Instant {
        let since = Duration::from_millis(unix_ms.saturating_sub(self.written_unix_ms)).min(LONGEST_BETWEEN);
        now.checked_sub(since).unwrap_or(now)
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The key of a client that is none: another secret makes another one.
fn nobody(keys: &Keys) -> ClientKey {
    keys.client(IpAddr::V4(Ipv4Addr::UNSPECIFIED), CredentialKey::from_raw(0), None)
}

impl Shared {
    /// What weir knows, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> Remembered {
        Remembered {
            written_unix_ms: unix_ms(),
            nobody: Some(nobody(&self.keys)),
            next_id: self.next_id.load(Relaxed),
            servers: self.servers.remembered(now),
            admission: self.admission.remembered(now),
            learned: self.directory.remembered(),
        }
    }

    /// Recalls what the process knew from which this one takes over. To be called before clients are accepted, and once
    /// the servers have been read where they can be. Returns whether its keys are those of that process: else what is
    /// known by them is left out.
    pub fn recall(&self, remembered: Remembered, now: Instant) -> bool {
        let then = remembered.written_at(now, unix_ms());
        let Remembered { nobody: written_by, next_id, servers, mut admission, learned, .. } = remembered;
        let has_same_keys = written_by == Some(nobody(&self.keys));
        self.servers.recall(&servers, then);
        // Ids are counted from there; half of all are left for those to come.
        self.next_id.fetch_max(next_id.min(u64::MAX / 2), Relaxed);
        if has_same_keys {
            self.directory.recall(learned, now);
        } else {
            admission.forget_keys();
        }
        self.admission.recall(admission, then);
        has_same_keys
    }
}
