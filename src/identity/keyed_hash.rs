//! The hash of which keys are made: SipHash 1-3 under a secret of 128 bits, over bytes that are written down here. So a
//! key is the same in the process that takes over from this one, whatever build of weir that is; what `std::hash::Hash`
//! feeds for a `str` or an enum may change with the compiler.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use siphasher::sip::SipHasher13;

/// The secret of a process's keys. Whoever knows it can choose credentials that collide, and can try out which
/// credential has a key: it goes to nobody but a process that takes over. It has no `Display`, and its `Debug` shows
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u64; 2]);

impl Secret {
    /// A new one. The seed of a `RandomState` comes from the system's random numbers.
    pub(super) fn random() -> Self {
        Self([0; 2].map(|_: u64| RandomState::new().build_hasher().finish()))
    }

    /// The secret of another process.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self([both as u64, (both >> 64) as u64])
    }

    /// For another process.
    pub fn to_bytes(self) -> [u8; 16] {
        let [low, high] = self.0;
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a key is of. A number stands for one kind for good.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyOf {
    Credential = 1,
    OverWebSocket = 2,
    BesideJwt = 3,
    Login = 4,
    ClientV4 = 5,
    ClientV6 = 6,
    Sent = 7,
    OfLeafnode = 8,
}

/// A hash under way. First comes one word that says what follows: of what kind the key is, and in `more` whatever else
/// tells two sequences of parts apart. A number is eight bytes, the least significant first; a text is its length, as a
/// number, and its bytes.
pub(super) struct KeyedHash(SipHasher13);

impl KeyedHash {
    #[inline]
    pub fn begin(Secret([low, high]): Secret, of: KeyOf, more: u64) -> Self {
        Self(SipHasher13::new_with_keys(low, high)).number(more << 8 | of as u64)
    }

    #[inline]
    pub fn number(mut self, number: u64) -> Self {
        // Least significant byte first on every machine; a `write` of its bytes takes twice as long.
        self.0.write_u64(number);
        self
    }

    #[inline]
    pub fn text(self, text: &str) -> Self {
        let mut fed = self.number(text.len() as u64);
        fed.0.write(text.as_bytes());
        fed
    }

    /// Those of `texts` that are there. [`which`] has to be part of what the hash began with.
    #[inline]
    pub fn texts(mut self, texts: &[Option<&str>]) -> Self {
        for text in texts.iter().flatten() {
            self = self.text(text);
        }
        self
    }

    #[inline]
    pub fn end(self) -> u64 {
        self.0.finish()
    }
}

/// Which of `texts`, at most 32, are there: one bit for each.
pub(super) fn which(texts: &[Option<&str>]) -> u64 {
    texts.iter().rev().fold(0, |bits, text| bits << 1 | u64::from(text.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_to_another_process_and_to_no_log() {
        let secret = Secret::random();
        assert_eq!(Secret::from_bytes(secret.to_bytes()), secret);
        assert_ne!(Secret::random(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        let bytes = std::array::from_fn(|n| n as u8);
        assert_eq!(Secret::from_bytes(bytes).to_bytes(), bytes);
    }

    #[test]
    fn parts_are_told_apart() {
        let secret = Secret::random();
        let begin = |more| KeyedHash::begin(secret, KeyOf::Login, more);
        let texts = |texts: &[Option<&str>]| begin(which(texts)).texts(texts).end();
        let mut hashes = vec![
            begin(0).end(),
            begin(0).number(0).end(),
            begin(8).end(),
            KeyedHash::begin(secret, KeyOf::Sent, 0).end(),
            texts(&[Some("a"), None]),
            texts(&[None, Some("a")]),
            texts(&[Some(""), Some("a")]),
            texts(&[Some("a"), Some("")]),
            texts(&[Some("ab"), Some("c")]),
            texts(&[Some("a"), Some("bc")]),
        ];
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 10);
        assert_eq!(which(&[Some(""), None, None, Some("a")]), 0b1001);
    }
}
