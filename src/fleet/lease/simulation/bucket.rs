//! A bucket as JetStream has it: one order of all writes, each of which may expect the last revision of its key.

use std::collections::BTreeMap;

use crate::fleet::lease::{Answer, Place, What};

/// A revision, and its value; `None` is a marker of deletion.
pub type Stored = (u64, Option<Vec<u8>>);

#[derive(Debug, Clone, Default)]
pub struct Bucket {
    last: u64,
    keys: BTreeMap<Place, Stored>,
}

impl Bucket {
    /// Does an operation. What it stores is told to all watches.
    pub fn apply(&mut self, place: &Place, what: &What) -> (Answer, Option<Stored>) {
        let is = self.keys.get(place);
        let revision = is.map_or(0, |(revision, _)| *revision);
        let (expected, value) = match what {
            What::Read => {
                return match is {
                    Some((revision, Some(value))) => {
                        (Answer::Found { revision: *revision, value: value.clone() }, None)
                    }
                    _ => (Answer::Absent { revision }, None),
                };
            }
            What::Write { value, expected } => (*expected, Some(value.clone())),
            What::Delete { expected } => (*expected, None),
            What::Ask => unreachable!("not asked of the bucket"),
        };
        if expected != revision {
            return (Answer::Refused, None);
        }
        self.last += 1;
        self.keys.insert(place.clone(), (self.last, value.clone()));
        (Answer::Stored { revision: self.last }, Some((self.last, value)))
    }

    /// The value of a key.
    pub fn get(&self, place: &Place) -> Option<&[u8]> {
        self.keys.get(place)?.1.as_deref()
    }

    /// Everything, as a watch tells it that begins.
    pub fn all(&self) -> Vec<(Place, u64, Option<Vec<u8>>)> {
        self.keys.iter().map(|(place, (revision, value))| (place.clone(), *revision, value.clone())).collect()
    }
}
