//! Recognising an INFO: from one connection to the next a server changes a few values, and the rest need not be parsed again.

use std::{ops::Range, sync::Arc};

use memchr::memchr;

use crate::protocol::info::{Info, InfoError};

/// Keys whose values differ from connection to connection; the index is [`PerConnection`].
pub(super) const PER_CONNECTION: [&str; 4] = ["client_id", "client_ip", "nonce", "remote_account"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PerConnection {
    ClientId,
    ClientIp,
    Nonce,
    RemoteAccount,
}

impl PerConnection {
    pub(super) const ALL: [Self; PER_CONNECTION.len()] =
        [Self::ClientId, Self::ClientIp, Self::Nonce, Self::RemoteAccount];

    pub(super) fn key(self) -> &'static str {
        PER_CONNECTION[self as usize]
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
pub(super) struct Placeholder {
    pub(super) which: PerConnection,
    at: Range<usize>,
}

impl Placeholder {
    /// The placeholders of a line, in its order; `places` are where the raw values begin, with the values, by [`PerConnection`].
    pub(super) fn all(places: [Option<(usize, &[u8])>; PER_CONNECTION.len()]) -> Vec<Self> {
        let placeholder = |which: PerConnection| {
            let (start, raw) = places[which as usize]?;
            let value = which.value(raw)?;
            let quote = usize::from(which.is_text());
            (value.len() + 2 * quote == raw.len())
                .then(|| Self { which, at: start + quote..start + quote + value.len() })
        };
        let mut placeholders: Vec<_> = PerConnection::ALL.into_iter().filter_map(placeholder).collect();
        placeholders.sort_unstable_by_key(|placeholder| placeholder.at.start);
        placeholders
    }
}

impl Info {
    /// The same as [`Info::parse`], quicker when the server has template so much as `known` before.
    ///
    /// # Errors
    /// As [`Info::parse`].
    pub fn reparse(json: &[u8], known: Option<&Self>) -> Result<Self, InfoError> {
        known.and_then(|known| known.match_template(json)).map_or_else(|| Self::parse(json), Ok)
    }

    /// Whether one of the two was recognised as the other but for what changes from connection to connection.
    pub fn shares_template_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.template, &other.template)
    }

    fn match_template(&self, json: &[u8]) -> Option<Self> {
        let (mut known, mut rest) = (0, json);
        let mut found = [""; PER_CONNECTION.len()];
        for Placeholder { which, at } in &self.template.placeholders {
            // A string's own quote is looked at with it.
            let start = at.start - usize::from(which.is_text());
            rest = rest.strip_prefix(&self.template.line[known..start])?;
            let value = which.value(rest)?;
            found[*which as usize] = value;
            rest = &rest[value.len() + at.start - start..];
            known = at.end;
        }
        if rest != &self.template.line[known..] {
            return None;
        }
        let mut info = Self {
            template: Arc::clone(&self.template),
            values: String::with_capacity(128),
            ranges: Default::default(),
        };
        for which in PerConnection::ALL {
            let is_placeholder = self.template.placeholders.iter().any(|placeholder| placeholder.which == which);
            let start = info.values.len();
            info.values.push_str(if is_placeholder { found[which as usize] } else { self.value_of(which) });
            info.ranges[which as usize] = start..info.values.len();
        }
        Some(info)
    }
}
