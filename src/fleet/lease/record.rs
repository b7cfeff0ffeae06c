//! The values of the bucket: the leases of one quota, and what a process shows of its membership. JSON; fields that
//! this version does not know stay in a record that it changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::fleet::{
    addresses::Addresses,
    beat_key::BeatKey,
    lease::{Holder, LeaseKey},
};

/// The version of both values. One with another version is not changed.
pub const VERSION: u32 = 1;

/// The longest value that is read or written, in bytes.
pub const LONGEST: usize = 128 * 1024;

/// The most leases of one quota.
pub const MOST_ENTRIES: usize = 512;

/// The most quotas of which one membership tells what is open.
pub const MOST_TOLD: usize = 512;

/// Why a value is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("{0} bytes are more than {LONGEST}")]
    TooLong(usize),
    #[error("version {0} of the value is not known here")]
    Version(u32),
    #[error("it has more leases than {MOST_ENTRIES}")]
    TooMany,
    #[error("it is not understood: {0}")]
    Json(String),
}

/// The lease of one process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// The term of its membership in which it wrote this.
    pub t: u32,
    /// The lease: so many connections it may hold.
    pub n: u32,
    /// Of those, so many it may hold while it cannot reach the bucket.
    #[serde(default)]
    pub f: u32,
    /// So many it could use. More than `n`: it waits for others to give back.
    #[serde(default)]
    pub want: u32,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// All leases of one quota.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    v: u32,
    /// The quota as the last writer has it. Each weir goes by its own.
    #[serde(default)]
    pub q: u32,
    /// Connections that did not come through a weir.
    #[serde(default)]
    pub past: u32,
    /// The leases, by who holds them.
    #[serde(default)]
    pub l: BTreeMap<Holder, Entry>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Record {
    fn default() -> Self {
        Self { v: VERSION, q: 0, past: 0, l: BTreeMap::new(), unknown: Map::new() }
    }
}

/// What a process writes to show that it lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    v: u32,
    /// The term.
    pub t: u32,
    /// It has left, and no server has a connection of it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bye: bool,
    /// Of quotas in which ended terms have leases: the fewest connections that it had open for certain, each over so
    /// many milliseconds before it wrote this.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub o: BTreeMap<String, Vec<(u32, u32)>>,
    /// The addresses at which clients reach it, for those of the other weirs. A weir that drains tells none.
    #[serde(default, skip_serializing_if = "Addresses::is_empty")]
    pub a: Addresses,
    /// What its beats are signed with; `None` from a version that signs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<BeatKey>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

fn decode<T: DeserializeOwned>(value: &[u8], version: impl Fn(&T) -> u32) -> Result<T, InvalidValue> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    if value.len() > LONGEST {
        return Err(InvalidValue::TooLong(value.len()));
    }
    let json = |err: serde_json::Error| InvalidValue::Json(err.to_string());
    // What another version means by the rest is not known.
    let Version { v } = serde_json::from_slice(value).map_err(json)?;
    if v != VERSION {
        return Err(InvalidValue::Version(v));
    }
    let value: T = serde_json::from_slice(value).map_err(json)?;
    debug_assert_eq!(version(&value), v);
    Ok(value)
}

fn encode<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok().filter(|value| value.len() <= LONGEST)
}

impl Record {
    /// Reads a value.
    ///
    /// # Errors
    /// It is too long, no record, of another version, or has too many leases.
    pub fn decode(value: &[u8]) -> Result<Self, InvalidValue> {
        let record: Self = decode(value, |record: &Self| record.v)?;
        if record.l.len() > MOST_ENTRIES { Err(InvalidValue::TooMany) } else { Ok(record) }
    }

    /// The value; `None` if it were too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if self.l.len() > MOST_ENTRIES { None } else { encode(self) }
    }

    /// Whether nothing is in it that anybody needs.
    pub fn is_empty(&self) -> bool {
        self.l.is_empty() && self.past == 0 && self.unknown.is_empty()
    }

    /// The sum of all leases but that of `holder`.
    pub fn of_others(&self, holder: &Holder) -> u64 {
        self.l.iter().filter(|(other, _)| *other != holder).map(|(_, entry)| u64::from(entry.n)).sum()
    }

    /// Gives `holder` this lease; what it does not know of its entry stays.
    pub fn set(&mut self, holder: &Holder, (t, n, f, want): (u32, u32, u32, u32)) {
        let entry = self.l.entry(holder.clone()).or_default();
        (entry.t, entry.n, entry.f, entry.want) = (t, n, f, want);
    }
}

impl Membership {
    /// A membership in this term, which has told nothing yet.
    pub fn new(t: u32) -> Self {
        Self { v: VERSION, t, bye: false, o: BTreeMap::new(), a: Addresses::default(), k: None, unknown: Map::new() }
    }

    /// Tells the fewest connections of a quota that were open, each over the last so many milliseconds.
    pub fn tell(&mut self, key: LeaseKey, least: Vec<(u32, u32)>) {
        if self.o.len() < MOST_TOLD {
            self.o.insert(key.to_string(), least);
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// It is too long, no membership, or of another version.
    pub fn decode(value: &[u8]) -> Result<Self, InvalidValue> {
        decode(value, |membership: &Self| membership.v)
    }

    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        encode(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLDER: &str = "weir-1.00000000000000ab";

    fn holder() -> Holder {
        Holder::parse(HOLDER).unwrap()
    }

    #[test]
    fn what_is_not_known_stays_in_a_record_that_is_changed() {
        let text =
            format!(r#"{{"v":1,"q":9,"later":[1,{{"x":2}}],"l":{{"{HOLDER}":{{"t":1,"n":3,"colour":"red"}}}}}}"#);
        let mut record = Record::decode(text.as_bytes()).unwrap();
        record.set(&holder(), (2, 4, 1, 8));
        let text = String::from_utf8(record.encode().unwrap()).unwrap();
        assert!(text.contains(r#""later":[1,{"x":2}]"#) && text.contains(r#""colour":"red""#), "{text}");
        assert_eq!(Record::decode(text.as_bytes()).unwrap(), record);
        assert_eq!((record.l[&holder()].n, record.l[&holder()].t), (4, 2));
    }

    #[test]
    fn what_is_no_record_is_not_used() {
        let entry = |id: &str, n: &str| format!(r#"{{"v":1,"l":{{"{id}":{{"t":1,"n":{n}}}}}}}"#);
        assert!(Record::decode(entry(HOLDER, "7").as_bytes()).is_ok());
        for wrong in [
            String::new(),
            "[]".into(),
            "{}".into(),
            r#"{"v":1,"past":-1}"#.into(),
            entry(HOLDER, "-1"),
            entry(HOLDER, "4294967296"),
            entry(HOLDER, "1e3"),
            entry("weir-1", "7"),
            entry("weir 1.00000000000000ab", "7"),
            entry("weir-1.00000000000000AB", "7"),
            "[".repeat(10_000),
        ] {
            assert!(matches!(Record::decode(wrong.as_bytes()), Err(InvalidValue::Json(_))), "{wrong}");
        }
        assert_eq!(Record::decode(br#"{"v":2,"l":7}"#), Err(InvalidValue::Version(2)));
        assert_eq!(Record::decode(&vec![b' '; LONGEST + 1]), Err(InvalidValue::TooLong(LONGEST + 1)));
        let mut many = Record::default();
        for run in 0..=MOST_ENTRIES {
            many.l.insert(Holder::parse(&format!("w.{run:016x}")).unwrap(), Entry::default());
        }
        assert_eq!(many.encode(), None);
        let many = serde_json::to_vec(&many).unwrap();
        assert_eq!(Record::decode(&many), Err(InvalidValue::TooMany));
    }

    #[test]
    fn a_full_record_and_a_full_membership_have_room() {
        let mut record = Record::default();
        for run in 0..MOST_ENTRIES {
            let holder = Holder::parse(&format!("{}.{run:016x}", "w".repeat(48))).unwrap();
            record.set(&holder, (u32::MAX, u32::MAX, u32::MAX, u32::MAX));
        }
        let value = record.encode().unwrap();
        assert_eq!(Record::decode(&value).unwrap(), record);
        assert_eq!(record.of_others(&holder()), MOST_ENTRIES as u64 * u64::from(u32::MAX));
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            past: u32, q: u32,
            entries in prop::collection::vec(any::<(u64, u32, u32, u32, u32)>(), 0..20),
        ) {
            let mut record = Record { past, q, ..Record::default() };
            for (run, t, n, f, want) in entries {
                record.set(&Holder::parse(&format!("w.{run:016x}")).unwrap(), (t, n, f, want));
            }
            prop_assert_eq!(Record::decode(&record.encode().unwrap()), Ok(record));
        }

        #[test]
        fn no_value_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Record::decode(&value), Membership::decode(&value));
        }
    }
}
