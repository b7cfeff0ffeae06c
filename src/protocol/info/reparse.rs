//! A faster way to parse an INFO of a server that weir knows: from one connection to the next a server changes a few
//! values, and only those are parsed again.

use std::{ops::Range, sync::Arc};

use memchr::memchr;

use crate::protocol::info::{Info, InfoError};

/// Keys whose values differ from connection to connection; [`PerConnection`] is the index.
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

    #[expect(clippy::indexing_slicing, reason = "each PerConnection is an index of PER_CONNECTION")]
    pub(super) fn key(self) -> &'static str {
        PER_CONNECTION[self as usize]
    }

    pub(super) fn of(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|which| which.key() == key)
    }

    /// Whether its value is a string, and not a number.
    pub(super) fn is_text(self) -> bool {
        self != Self::ClientId
    }

    /// The value at the start of `bytes`, if it needs no decoding: the text between the quotes of a string without
    /// escapes, or a number without a sign.
    fn value(self, bytes: &[u8]) -> Option<&str> {
        if self.is_text() {
            let rest = bytes.strip_prefix(b"\"")?;
            let text = rest.get(..memchr(b'"', rest)?)?;
            let plain = text.iter().all(|&b| (0x20..0x7f).contains(&b) && b != b'\\');
            return std::str::from_utf8(text).ok().filter(|_| plain);
        }
        let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = std::str::from_utf8(bytes.get(..digits)?).ok()?;
        (number.parse::<u64>().is_ok() && (digits == 1 || !number.starts_with('0'))).then_some(number)
    }
}

/// Where in the line of a template such a value stands; the quotes of a string belong to the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placeholder {
    pub(super) which: PerConnection,
    at: Range<usize>,
}

impl Placeholder {
    /// The placeholders of a line, in its order. `places` are where the raw values begin, with the values, by
    /// [`PerConnection`].
    pub(super) fn all(places: [Option<(usize, &[u8])>; PER_CONNECTION.len()]) -> Vec<Self> {
        let placeholder = |(which, place): (PerConnection, Option<(usize, &[u8])>)| {
            let (start, raw) = place?;
            let value = which.value(raw)?;
            let (start, quotes) = if which.is_text() { (start.checked_add(1)?, 2) } else { (start, 0) };
            let at = start..start.checked_add(value.len())?;
            // The value is all that there is, and not the beginning of a number like `1e3`.
            (raw.len().checked_sub(value.len())? == quotes).then_some(Self { which, at })
        };
        let mut placeholders: Vec<_> = PerConnection::ALL.into_iter().zip(places).filter_map(placeholder).collect();
        placeholders.sort_unstable_by_key(|placeholder| placeholder.at.start);
        placeholders
    }
}

impl Info {
    /// Parses an INFO as [`Info::parse`] does, but faster if it has the same template as `known`.
    ///
    /// # Errors
    /// As [`Info::parse`].
    pub fn reparse(json: &[u8], known: Option<&Self>) -> Result<Self, InfoError> {
        known.and_then(|known| known.match_template(json)).map_or_else(|| Self::parse(json), Ok)
    }

    /// Whether the two are the same but for the values of one connection, and one was found to be so by
    /// [`Self::reparse`].
    pub fn shares_template_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.template, &other.template)
    }

    /// Appends the argument of the INFO line as it was received.
    pub fn write_received(&self, out: &mut Vec<u8>) {
        let line = &*self.template.line;
        let mut written = 0;
        for Placeholder { which, at } in &self.template.placeholders {
            out.extend_from_slice(line.get(written..at.start).unwrap_or_default());
            out.extend_from_slice(self.value_of(*which).as_bytes());
            written = at.end;
        }
        out.extend_from_slice(line.get(written..).unwrap_or_default());
    }

    fn match_template(&self, json: &[u8]) -> Option<Self> {
        let line = &*self.template.line;
        let (mut compared, mut rest) = (0, json);
        let mut found: [Option<&str>; PER_CONNECTION.len()] = [None; PER_CONNECTION.len()];
        for Placeholder { which, at } in &self.template.placeholders {
            rest = rest.strip_prefix(line.get(compared..at.start)?)?;
            // A string is read from its opening quote on, which belongs to the line and has just been compared.
            let from_quote =
                json.get(json.len().checked_sub(rest.len())?.checked_sub(usize::from(which.is_text()))?..)?;
            let value = which.value(from_quote)?;
            *found.get_mut(*which as usize)? = Some(value);
            rest = rest.get(value.len()..)?;
            compared = at.end;
        }
        if rest != line.get(compared..)? {
            return None;
        }
        let mut info = Self {
            template: Arc::clone(&self.template),
            values: String::with_capacity(128),
            ranges: Default::default(),
        };
        for ((which, found), range) in PerConnection::ALL.into_iter().zip(found).zip(&mut info.ranges) {
            let start = info.values.len();
            info.values.push_str(found.unwrap_or_else(|| self.value_of(which)));
            *range = start..info.values.len();
        }
        Some(info)
    }
}
