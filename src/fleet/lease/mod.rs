//! Hard quotas that the weirs of a fleet share, by leases in a bucket (JetStream KV): decisions only.
//!
//! A *lease* is the number of connections of one quota that one weir may hold. All leases of a quota stand in one
//! [`record`] of the bucket, which changes only by compare-and-set on its revision; nobody writes a record in which the
//! leases and what came past weir are more than the quota. A weir admits while what it holds is less than what the
//! last write of its own that was acknowledged gives it: a lease is never raised by what is read or watched.
//!
//! That a weir lives is shown by its [`membership`]: a key of its own in the bucket, which it writes every
//! [`membership::EVERY`]. Its leases are in force for [`membership::VALID`] after the *sending* of the last write that
//! was acknowledged. Another weir that has seen no new revision of it for [`membership::EXPIRE`] on its own clock ends
//! the membership: it deletes the key by compare-and-set ([`sights`]). No clocks are compared, and they may run 20 %
//! apart. Memberships of one process have numbers, *terms*; a lease belongs to the term in which it was written, so
//! that who comes back confirms each lease anew before it uses it. What ended terms leave behind is taken back by
//! [`reclaim`].
//!
//! Nothing here trusts what a stranger in the account can forge: leases, memberships and the counts by which leases are
//! reclaimed come from the bucket and from the servers. Beats say whether it is worth to wait, and what did not come
//! past weir: they are signed ([`crate::fleet::beat_key`]).
//!
//! What calls this does the [`Operation`]s of [`ledger::Ledger::next`] and tells their [`Answer`]s.

pub mod allowance;
pub mod book;
pub mod ledger;
pub mod membership;
mod needs;
mod past;
pub mod plan;
mod quota;
pub mod reclaim;
pub mod record;
mod samples;
mod sights;
pub mod surroundings;

#[cfg(test)]
mod simulation;

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::fleet::{
    key::{Key, Kind},
    member::MemberId,
};

/// One process of a weir, as leases know it. One that was restarted is another holder, also under the same id: what the
/// one before it holds at the servers is not its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder(Arc<str>);

impl Holder {
    /// The process of the weir `id` whose number is `run`; see [`crate::fleet::Fleet::run`].
    pub fn new(id: &MemberId, run: u64) -> Self {
        Self(format!("{id}.{run:016x}").into())
    }

    /// The id of the weir.
    pub fn id(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// What [`Holder`] writes by its `Display`; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, run) = text.split_once('.')?;
        MemberId::new(id).ok()?;
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (run.len() == 16 && run.bytes().all(is_digit)).then(|| Self(text.into()))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Holder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Holder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not the id of a weir and the number of its process"))
    }
}

/// What a quota is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey {
    pub kind: Kind,
    pub key: Key,
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind.letter(), self.key)
    }
}

impl LeaseKey {
    /// What [`LeaseKey`] writes by its `Display`; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (letter, key) = text.split_once('.')?;
        let kinds = [Kind::Account, Kind::User, Kind::Name, Kind::Leafnodes, Kind::Server];
        let kind = kinds.into_iter().find(|kind| letter.chars().eq([kind.letter()]))?;
        Some(Self { kind, key: Key::parse(key)? })
    }
}

/// A key of the bucket. Its `Display` is the key's text there: `w.ID.RUN`, or a letter and a hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The leases of one quota.
    Leases(LeaseKey),
    /// The membership of one process.
    Member(Holder),
}

impl Place {
    /// The place of a key of the bucket; `None` for one that is not known.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("w.") {
            Some(holder) => Holder::parse(holder).map(Self::Member),
            None => LeaseKey::parse(text).map(Self::Leases),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leases(key) => key.fmt(f),
            Self::Member(holder) => write!(f, "w.{holder}"),
        }
    }
}

/// Something to be done for a [`ledger::Ledger`]. Operations may be done at the same time and in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Goes back with the answer.
    pub serial: u64,
    pub place: Place,
    pub what: What,
}

/// How long the mark of a deleted key stays in the bucket, so that whoever was cut off meanwhile finds a revision that
/// is not its own. Without this the ids of all weirs that ever were would stay. Servers before 2.11 keep them.
pub const MARK_STAYS: Duration = Duration::from_secs(3600);

/// What is to be done at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Store the value if the last revision of the key, deletions included, is `expected`; 0 is a key that was never
    /// stored. Answer: `Stored`, `Refused` or `Unknown`.
    Write { value: Vec<u8>, expected: u64 },
    /// Leave a marker of deletion there, also where the key is deleted already, on the same condition. Same answers.
    Delete { expected: u64 },
    /// Read the last value. Answer: `Found`, `Absent` or `Unknown`.
    Read,
    /// Ask at `weir.fleet.NAME.is.ID.RUN` whether the process is still connected. Answer: `Responds`, `Silent`,
    /// `NoResponders` or `Unknown`.
    Ask,
}

/// What became of an [`Operation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is stored, as this revision.
    Stored { revision: u64 },
    /// The last revision is another one.
    Refused,
    /// The value and its revision.
    Found { revision: u64, value: Vec<u8> },
    /// There is no value. The revision is that of the marker of deletion; 0 where there is none.
    Absent { revision: u64 },
    /// It has answered.
    Responds,
    /// Its subject has a subscriber, which does not answer: the process, standing still, or anybody else.
    Silent,
    /// Its subject has no subscriber: its connection is gone.
    NoResponders,
    /// No answer came in time: it may happen still, or have happened.
    Unknown,
}
