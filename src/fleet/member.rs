//! What a weir is called in its fleet.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest id, in bytes: it is part of subjects, of keys in a bucket, and of every beat.
pub const LONGEST: usize = 48;

/// What the host's name may take of a default id, in bytes.
const LONGEST_HOST: usize = 32;

/// Hexadecimal digits that chance adds to a default id, so that two weirs of one host differ.
const RANDOM_DIGITS: usize = 6;

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("is empty")]
    Empty,
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
    #[error("may have letters of ASCII, digits, `-` and `_` only")]
    Characters,
}

/// The id of a weir: unique in its fleet, one token of a NATS subject, and good as part of a key of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(Arc<str>);

impl MemberId {
    /// The id that an operator has configured, or that a message names.
    ///
    /// # Errors
    /// It is empty, too long, or has characters that a subject cannot have.
    pub fn new(id: &str) -> Result<Self, InvalidId> {
        if id.is_empty() {
            return Err(InvalidId::Empty);
        }
        if id.len() > LONGEST {
            return Err(InvalidId::TooLong);
        }
        if !id.bytes().all(is_allowed) {
            return Err(InvalidId::Characters);
        }
        Ok(Self(id.into()))
    }

    /// The id of a weir whose configuration names none: its host's name up to the first dot, and a random part.
    pub fn of_host(host: &str, rng: &mut fastrand::Rng) -> Self {
        let host = host.split('.').next().unwrap_or_default();
        let host: String =
            host.bytes().take(LONGEST_HOST).map(|b| if is_allowed(b) { b.into() } else { '-' }).collect();
        let host = if host.is_empty() { "weir" } else { &host };
        let random = rng.u32(..) >> (32 - 4 * RANDOM_DIGITS);
        Self(format!("{host}-{random:0RANDOM_DIGITS$x}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for MemberId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MemberId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::new(&id).map_err(|invalid| D::Error::custom(format!("the id of a weir {invalid}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_one_token_of_a_subject() {
        assert_eq!(MemberId::new("weir-1_B").unwrap().as_str(), "weir-1_B");
        assert_eq!(MemberId::new(""), Err(InvalidId::Empty));
        assert_eq!(MemberId::new(&"a".repeat(LONGEST + 1)), Err(InvalidId::TooLong));
        for wrong in ["a.b", "*", ">", "a b", "ä", "a\n", "$SYS", "a/b", "a=b"] {
            assert_eq!(MemberId::new(wrong), Err(InvalidId::Characters), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_default_id_is_valid_whatever_the_host_is_called(host in ".{0,80}", seed: u64) {
            let id = MemberId::of_host(&host, &mut fastrand::Rng::with_seed(seed));
            prop_assert_eq!(MemberId::new(id.as_str()), Ok(id));
        }
    }

    #[test]
    fn two_weirs_of_one_host_differ() {
        let mut rng = fastrand::Rng::with_seed(7);
        let [a, b] = [(); 2].map(|()| MemberId::of_host("edge-3.example.com", &mut rng));
        assert!(a.as_str().starts_with("edge-3-") && a != b, "{a} {b}");
    }
}
