//! Names that no message tells: accounts, users, names of clients and servers go under a hash of theirs.
//!
//! The hash says the same in every weir of a fleet, and another thing in another fleet. It is no secret: who guesses a
//! name can check the guess. It keeps names out of messages and buckets, and makes all of one length, fit for subjects.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// Bytes of a key.
const SIZE: usize = 16;

/// What a name is the name of. Things of different kinds have different keys, whatever they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An account.
    Account,
    /// A user.
    User,
    /// A pattern of clients' names (`name` of CONNECT), as it is configured.
    Name,
    /// The leafnodes of an account.
    Leafnodes,
    /// A server.
    Server,
}

impl Kind {
    /// What keys of a bucket begin with; part of what is hashed.
    pub const fn letter(self) -> char {
        match self {
            Self::Account => 'a',
            Self::User => 'u',
            Self::Name => 'n',
            Self::Leafnodes => 'l',
            Self::Server => 's',
        }
    }
}

/// 128 bits of a hash of a name, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; SIZE]);

impl Key {
    /// The lowest key.
    pub const LOWEST: Self = Self([0; SIZE]);
    /// The highest key.
    pub const HIGHEST: Self = Self([u8::MAX; SIZE]);

    /// The key that these digits stand for; `None` if they are no key.
    pub fn parse(digits: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        data_encoding::HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = [0; 2 * SIZE];
        data_encoding::HEXLOWER.encode_mut(&self.0, &mut digits);
        serializer.serialize_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&digits).ok_or_else(|| D::Error::custom("a key is 32 hexadecimal digits"))
    }
}

/// Makes the keys of one fleet.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The hash of the fleet's name, which every key goes on from.
    fleet: Sha256,
}

impl Keys {
    /// Those of the fleet of this name.
    pub fn of_fleet(name: &str) -> Self {
        let mut fleet = Sha256::new();
        fleet.update(b"weir-fleet-1\0");
        // The length keeps "a" + "b…" apart from "ab" + "…".
        fleet.update((name.len() as u64).to_be_bytes());
        fleet.update(name);
        Self { fleet }
    }

    /// The key of what is called `name`.
    pub fn of(&self, kind: Kind, name: &str) -> Key {
        let hash = self.fleet.clone().chain_update([kind.letter() as u8]).chain_update(name).finalize();
        let mut key = [0; SIZE];
        key.copy_from_slice(&hash[..SIZE]);
        Key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weir_of_a_fleet_has_the_same_key_of_a_name_and_each_fleet_its_own() {
        let [one, same, other] = ["edge", "edge", "edge2"].map(Keys::of_fleet);
        assert_eq!(one.of(Kind::Account, "A"), same.of(Kind::Account, "A"));
        assert_ne!(one.of(Kind::Account, "A"), other.of(Kind::Account, "A"));
        assert_ne!(one.of(Kind::Account, "A"), one.of(Kind::User, "A"));
        assert_ne!(one.of(Kind::Account, "A"), one.of(Kind::Account, "B"));
    }

    #[test]
    fn keys_stay_what_they_are_from_version_to_version() {
        // Weirs of two versions share a fleet during an upgrade: this text changes with `Beat::v` only.
        let key = Keys::of_fleet("edge").of(Kind::Account, "ORDERS");
        assert_eq!(key.to_string(), "0ba45bfbeba5ec3d139c68e4c109921e");
    }

    #[test]
    fn a_key_is_written_as_32_digits_and_read_again() {
        let key = Keys::of_fleet("edge").of(Kind::Server, "n1");
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!((text.len(), serde_json::from_str::<Key>(&text).unwrap()), (34, key));
        assert_eq!(Key::parse(&key.to_string()), Some(key));
        for wrong in ["", "00", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32), &"A".repeat(32)] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
        assert!(Key::LOWEST < key && key < Key::HIGHEST);
    }
}
