//! The fast path of both directions: messages whose control line is whole in a chunk and has the usual form. Everything
//! else, valid or not, is left to the byte-by-byte state machines of [`super::client`] and [`super::server`].

/// What [`messages`] consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Consumed {
    /// Bytes of the chunk.
    pub(super) bytes: usize,
    /// Control lines.
    pub(super) messages: u64,
    /// The sizes of their payloads together.
    pub(super) sizes: u64,
    /// The size of the last message's payload, if only its control line was consumed: the payload continues behind the
    /// chunk or is not followed by CR LF.
    pub(super) payload: Option<u32>,
    /// The length of that control line; 0 where there is none.
    line: usize,
}

impl Consumed {
    /// The state that the framing enters: `cr` before the CR LF of an empty payload, `payload` within a payload, or
    /// `None` if it stays between two messages.
    #[inline(always)]
    pub(super) fn next_state<S>(&self, cr: S, payload: impl FnOnce(u32) -> S) -> Option<S> {
        self.payload.map(|size| if size == 0 { cr } else { payload(size) })
    }

    /// The same without the last message, unless it is whole.
    pub(super) fn whole(self) -> Self {
        let Some(size) = self.payload else { return self };
        Self {
            bytes: self.bytes.saturating_sub(self.line),
            messages: self.messages.saturating_sub(1),
            sizes: self.sizes.saturating_sub(size.into()),
            payload: None,
            line: 0,
        }
    }
}

/// A whole control line at the start of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// In bytes, LF included.
    pub(super) len: usize,
    /// The size of the payload.
    pub(super) size: u32,
}

/// Consumes messages from the start of one, as long as `read` accepts their control lines. The result of `read` may
/// depend only on the bytes up to the first LF: on a busy connection most control lines repeat the one before them, and
/// a repeated line is compared instead of read again. `repeats` gets each line once for all whole messages that have it
/// in a row, with their number.
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "`read` returns the length of a line within `rest` and a size below 10^9, so `end` is at least 2 and the sums \
              fit usize; `rest` is cut at `end` only after `get` has found bytes up to it"
)]
pub(super) fn messages(
    chunk: &[u8],
    read: impl Fn(&[u8]) -> Option<Line>,
    mut repeats: impl FnMut(&[u8], u32),
) -> Consumed {
    let mut rest = chunk;
    let (mut messages, mut sizes) = (0, 0);
    while let Some(Line { len, size }) = read(rest) {
        let line = &rest[..len];
        let end = len + size as usize + 2;
        let mut in_a_row = 0;
        loop {
            messages += 1;
            sizes += u64::from(size);
            if rest.get(end - 2..end) != Some(b"\r\n") {
                let bytes = chunk.len() - rest.len() + len;
                if in_a_row > 0 {
                    repeats(line, in_a_row);
                }
                return Consumed { bytes, messages, sizes, payload: Some(size), line: len };
            }
            rest = &rest[end..];
            in_a_row += 1;
            if !begins_with(rest, line) {
                break;
            }
        }
        repeats(line, in_a_row);
    }
    Consumed { bytes: chunk.len() - rest.len(), messages, sizes, payload: None, line: 0 }
}

/// `starts_with` without a call to `memcmp`, for lines that are a few words long: it compares 8 bytes at a time, and
/// the last 8 may overlap those before them.
#[inline(always)]
fn begins_with(bytes: &[u8], line: &[u8]) -> bool {
    let Some(bytes) = bytes.get(..line.len()) else {
        return false;
    };
    let (Some(a), Some(b)) = (bytes.last_chunk::<8>(), line.last_chunk::<8>()) else {
        return bytes == line;
    };
    if a != b {
        return false;
    }
    bytes.as_chunks::<8>().0.iter().zip(line.as_chunks::<8>().0).all(|(a, b)| a == b)
}

/// The arguments of a control line, which start at `bytes[0]` and are separated by single blanks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Their length in bytes, without the end of the line.
    pub(super) len: usize,
    /// Their length in bytes, with the end of the line.
    pub(super) line: usize,
    pub(super) words: u32,
    /// The index of the last word, and of the one before it (0 if there is none).
    last: usize,
    previous: usize,
}

/// Finds the arguments. `None` unless the line is whole, ends in LF or CR LF, and contains no byte below `!` except
/// single blanks between words.
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "`at` is the index of a byte of `bytes`: `filled_up` marks none behind the end, and all sums are at most 8 more"
)]
pub(super) fn arguments(bytes: &[u8]) -> Option<Arguments> {
    let (mut last, mut previous, mut words) = (0, 0, 1);
    let mut base = 0;
    loop {
        let rest = bytes.get(base..)?;
        let word = rest.first_chunk().copied().or_else(|| filled_up(rest))?;
        let mut marks = low(u64::from_le_bytes(word));
        while marks != 0 {
            let at = base + (marks.trailing_zeros() / 8) as usize;
            match bytes[at] {
                b' ' if at > last => {
                    (previous, last) = (last, at + 1);
                    words += 1;
                }
                b'\r' if at > last && bytes.get(at + 1) == Some(&b'\n') => {
                    return Some(Arguments { len: at, line: at + 2, words, last, previous });
                }
                b'\n' if at > last => return Some(Arguments { len: at, line: at + 1, words, last, previous }),
                _ => return None,
            }
            marks &= marks - 1;
        }
        base += 8;
    }
}

/// The last bytes of a chunk, filled up to a word with bytes that [`low`] does not mark.
#[cold]
fn filled_up(rest: &[u8]) -> Option<[u8; 8]> {
    let mut word = [u8::MAX; 8];
    word.get_mut(..rest.len())?.copy_from_slice(rest);
    (!rest.is_empty()).then_some(word)
}

/// Marks each byte that is at most a blank (0x20) by its highest bit; all other bits are 0.
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "without its highest bit no byte carries into the next: 0x7f + 0x5f < 0x100"
)]
fn low(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    !(((word & (0x7f * EACH)) + 0x5f * EACH) | word) & (0x80 * EACH)
}

impl Arguments {
    /// The last word as a size.
    #[inline(always)]
    pub(super) fn size(&self, bytes: &[u8]) -> Option<u32> {
        number(bytes.get(self.last..self.len)?)
    }

    /// The word before the last as a size.
    #[inline(always)]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "called for at least three words: a blank precedes the last one"
    )]
    pub(super) fn header(&self, bytes: &[u8]) -> Option<u32> {
        number(bytes.get(self.previous..self.last - 1)?)
    }
}

/// Reads 1 to 9 digits: nats-server's `parseSize` rejects more, leading zeros included.
#[inline(always)]
#[expect(clippy::arithmetic_side_effects, reason = "nine digits fit u32")]
fn number(word: &[u8]) -> Option<u32> {
    if word.is_empty() || word.len() > super::args::MAX_DIGITS {
        return None;
    }
    word.iter().try_fold(0, |number, &byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_low_byte_is_marked_and_no_other() {
        for byte in 0..=u8::MAX {
            for neighbour in [0, b' ', b'!', 0x7f, 0x80, 0xff] {
                for at in 0..8 {
                    let mut word = [neighbour; 8];
                    word[at] = byte;
                    let marked = low(u64::from_le_bytes(word)).to_le_bytes();
                    assert_eq!(marked, word.map(|byte| if byte <= b' ' { 0x80 } else { 0 }), "{word:?}");
                }
            }
        }
    }

    #[test]
    fn what_arguments_are() {
        for (line, words, size) in [
            ("a 1\r\n", Some(2), Some(1)),
            ("a 1\n", Some(2), Some(1)),
            ("a.bcdefghijkl 123456789\r\n", Some(2), Some(123_456_789)),
            ("a 1234567890\r\n", Some(2), None),
            ("a b c 12\r\n", Some(4), Some(12)),
            ("12\r\n", Some(1), Some(12)),
            ("a 1x\r\n", Some(2), None),
            ("a  1\r\n", None, None),
            (" a 1\r\n", None, None),
            ("a 1 \r\n", None, None),
            ("a\t1\r\n", None, None),
            ("a 1\r\r\n", None, None),
            ("a\r 1\r\n", None, None),
            ("a 1\r", None, None),
            ("a 1", None, None),
            ("\r\n", None, None),
            ("\n", None, None),
            ("", None, None),
        ] {
            for behind in ["", "x", "0123456789 \r\n"] {
                let bytes = [line, behind].concat();
                if !line.ends_with('\n') && !behind.is_empty() {
                    continue;
                }
                let found = arguments(bytes.as_bytes());
                assert_eq!(found.map(|args| args.words), words, "{bytes:?}");
                assert_eq!(found.and_then(|args| args.size(bytes.as_bytes())), size, "{bytes:?}");
                assert!(found.is_none_or(|args| args.line == line.len()), "{bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn begins_with_is_starts_with(line in prop::collection::vec(0u8..2, 0..40), change in prop::option::of(any::<prop::sample::Index>()), more in 0usize..20) {
            let mut bytes = [&line[..], &[1; 20][..more]].concat();
            prop_assert!(begins_with(&bytes, &line));
            if let Some(change) = change && !line.is_empty() {
                bytes[change.index(line.len())] ^= 1;
            }
            prop_assert_eq!(begins_with(&bytes, &line), bytes.starts_with(&line));
            bytes.truncate(line.len().saturating_sub(1));
            prop_assert_eq!(begins_with(&bytes, &line), bytes.starts_with(&line));
        }
    }
}
