//! Recognising an INFO: from one connection to the next a server changes a few values, and the rest need not be parsed again.

use std::{ops::Range, sync::Arc};

use memchr::memchr;

use crate::protocol::info::{Info, InfoError};

/// Keys whose values differ from connection to connection; the index is [`Changing`].
pub(super) const CHANGING: [&str; 4] = ["client_id", "client_ip", "nonce", "remote_account"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changing {
    ClientId,
    ClientIp,
    Nonce,
    RemoteAccount,
}

impl Changing {
    pub(super) const ALL: [Self; CHANGING.len()] = [Self::ClientId, Self::ClientIp, Self::Nonce, Self::RemoteAccount];

    pub(super) fn key(self) -> &'static str {
        CHANGING[self as usize]
    }

    pub(super) fn of(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|which| which.key() == key)
    }

    /// Whether its value is a string, not a number.
    pub(super) fn is_text(self) -> bool {
        self != Self::ClientId
    }

    /// The value that `bytes` start with, if it is one that stands for itself: a string without escapes (what is between its
    /// quotes), a number without a sign.
    fn value(self, bytes: &[u8]) -> Option<&str> {
        if self.is_text() {
            let rest = bytes.strip_prefix(b"\"")?;
            let text = &rest[..memchr(b'"', rest)?];
            let plain = text.iter().all(|&b| (0x20..0x7f).contains(&b) && b != b'\\');
            return std::str::from_utf8(text).ok().filter(|_| plain);
        }
        let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = std::str::from_utf8(&bytes[..digits]).ok()?;
        (number.parse::<u64>().is_ok() && (digits == 1 || !number.starts_with('0'))).then_some(number)
    }
}

/// A place in an INFO line where such a value stands, its quotes not included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) which: Changing,
    at: Range<usize>,
}

impl Hole {
    /// The holes of a line, in its order; `places` are where the raw values begin, with the values, by [`Changing`].
    pub(super) fn all(places: [Option<(usize, &[u8])>; CHANGING.len()]) -> Vec<Self> {
        let hole = |which: Changing| {
            let (start, raw) = places[which as usize]?;
            let value = which.value(raw)?;
            let quote = usize::from(which.is_text());
            (value.len() + 2 * quote == raw.len())
                .then(|| Self { which, at: start + quote..start + quote + value.len() })
        };
        let mut holes: Vec<_> = Changing::ALL.into_iter().filter_map(hole).collect();
        holes.sort_unstable_by_key(|hole| hole.at.start);
        holes
    }
}

impl Info {
    /// The same as [`Info::parse`], quicker when the server has said so much as `known` before.
    ///
    /// # Errors
    /// As [`Info::parse`].
    pub fn parse_again(json: &[u8], known: Option<&Self>) -> Result<Self, InfoError> {
        known.and_then(|known| known.recognise(json)).map_or_else(|| Self::parse(json), Ok)
    }

    /// Whether one of the two was recognised as the other but for what changes from connection to connection.
    pub fn is_recognised_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.said, &other.said)
    }

    fn recognise(&self, json: &[u8]) -> Option<Self> {
        let (mut known, mut rest) = (0, json);
        let mut found = [""; CHANGING.len()];
        for Hole { which, at } in &self.said.holes {
            // A string's own quote is looked at with it.
            let start = at.start - usize::from(which.is_text());
            rest = rest.strip_prefix(&self.said.line[known..start])?;
            let value = which.value(rest)?;
            found[*which as usize] = value;
            rest = &rest[value.len() + at.start - start..];
            known = at.end;
        }
        if rest != &self.said.line[known..] {
            return None;
        }
        let mut info = Self { said: Arc::clone(&self.said), own: String::with_capacity(128), at: Default::default() };
        for which in Changing::ALL {
            let is_hole = self.said.holes.iter().any(|hole| hole.which == which);
            let start = info.own.len();
            info.own.push_str(if is_hole { found[which as usize] } else { self.own(which) });
            info.at[which as usize] = start..info.own.len();
        }
        Some(info)
    }
}
