//! When a client that is refused comes back, by its library: so that it is refused at the moment that brings it back when its
//! turn comes, and not too often.
//!
//! Measured with the official libraries at their defaults; the table in `storm/library.rs` has the sources, and a test compares.

use std::time::Duration;

/// What a client does once it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Return {
    /// Nobody knows.
    #[default]
    Unknown,
    /// It comes back so long after the refusal.
    After(Duration),
    /// The same, and with each refusal in a row twice as long.
    Doubling {
        /// After the first.
        first: Duration,
        /// The longest.
        cap: Duration,
    },
    /// It waits out its own deadline, however early it is refused.
    Regardless,
}

impl Return {
    /// Of the client with this `lang`.
    pub fn of(lang: &str) -> Self {
        match lang {
            "go" | "C" | "python3" => Self::After(Duration::from_secs(2)),
            "rust" => Self::Doubling { first: Duration::from_millis(2), cap: Duration::from_secs(4) },
            "java" | "nats.js" | "nats.ws" => Self::Regardless,
            ".NET" => Self::Doubling { first: Duration::from_secs(2), cap: Duration::from_secs(5) },
            _ => Self::Unknown,
        }
    }

    /// This for a client that has been refused so often in a row, and will be once more.
    pub fn after_refusals(self, refusals: u32) -> Self {
        match self {
            Self::Doubling { first, cap } => Self::After(first.saturating_mul(1 << refusals.min(16)).min(cap)),
            other => other,
        }
    }
}

/// How many tries in a row a client with this `lang` makes at its defaults before it gives up for good; `None`: it goes on for
/// ever, or is unknown.
pub fn tries(lang: &str) -> Option<u32> {
    match lang {
        "nats.js" | "nats.ws" => Some(10),
        "go" | "java" | "C" => Some(60),
        "python3" => Some(61),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_double_up_to_their_cap() {
        let waits = |lang, refusals| Return::of(lang).after_refusals(refusals);
        assert_eq!([0, 3, 99].map(|n| waits("rust", n)), [2, 16, 4000].map(|ms| Return::After(ms * MS)));
        assert_eq!([0, 1, 2, 9].map(|n| waits(".NET", n)), [2, 4, 5, 5].map(|s| Return::After(s * 1000 * MS)));
        assert_eq!(waits("go", 5), Return::After(2000 * MS));
    }
}
