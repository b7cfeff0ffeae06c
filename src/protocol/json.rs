//! JSON as Go's `encoding/json` reads it.
//!
//! Why not serde_json: on the server's side Go's reader decides who a client is, and wherever weir read a CONNECT
//! differently, one client could be two users (docs/contract.md, towards servers 4). Go differs from serde_json in four
//! ways:
//! - keys match without regard to case, with Unicode folding: `uſer` is `user` ([`same_key`]);
//! - of a key that occurs twice the last value counts, and a wrong type in the first is an error all the same;
//! - a lone surrogate escape, and each byte of invalid UTF-8, becomes U+FFFD and is not an error;
//! - nesting is bounded at 10,000 levels. Nothing here recurses, so depth costs no stack.
//!
//! The fuzz target `connect` compares what this reader accepts with serde_json.

mod write;

pub(crate) use write::{push_compact, push_ip, push_known_key, push_number, push_string};

/// Go's `maxNestingDepth`.
const MAX_DEPTH: usize = 10_000;

/// The text is not one JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syntax;

/// A raw key with its quotes, and a raw value.
pub(crate) type Member<'a> = (&'a [u8], &'a [u8]);

/// Reads one JSON text. Every value that it returns has been checked to its last byte.
pub(crate) struct Reader<'a> {
    buf: &'a [u8],
    /// At most the length of `buf`.
    pos: usize,
    /// No member of the entered object has been read yet.
    first: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(buf: &'a [u8]) -> Self {
        Self { buf, pos: 0, first: true }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.buf.get(self.pos).copied()
    }

    /// Moves past bytes that are in the buffer.
    #[inline]
    #[expect(clippy::arithmetic_side_effects, reason = "the sum is at most the length of a buffer")]
    fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.rest().len());
        self.pos += bytes;
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.buf.get(self.pos..).unwrap_or_default()
    }

    /// The bytes from an earlier position up to this one.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the position only grows, and is at most the length of the buffer")]
    fn since(&self, start: usize) -> &'a [u8] {
        &self.buf[start..self.pos]
    }

    #[inline]
    fn next(&mut self) -> Result<u8, Syntax> {
        let byte = self.peek().ok_or(Syntax)?;
        self.advance(1);
        Ok(byte)
    }

    #[inline]
    fn expect(&mut self, text: &[u8]) -> Result<(), Syntax> {
        if !self.rest().starts_with(text) {
            return Err(Syntax);
        }
        self.advance(text.len());
        Ok(())
    }

    #[inline]
    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.advance(1);
        }
    }

    /// The number of bytes that have been read.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.pos
    }

    /// Checks that only blanks are left.
    #[inline]
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        self.blanks();
        if self.peek().is_none() { Ok(()) } else { Err(Syntax) }
    }

    /// Steps into an object. If the next value is something else, returns false and consumes nothing.
    #[inline]
    pub(crate) fn enter_object(&mut self) -> bool {
        self.blanks();
        let object = self.peek() == Some(b'{');
        self.advance(usize::from(object));
        object
    }

    /// The next member of the object that [`Self::enter_object`] opened; `None` after its `}`.
    // Always: CONNECT and INFO loop over it, and out of line it costs each CONNECT 500 instructions of 8,500.
    #[inline(always)]
    pub(crate) fn member(&mut self) -> Result<Option<Member<'a>>, Syntax> {
        self.blanks();
        match (self.peek(), std::mem::take(&mut self.first)) {
            (Some(b'}'), _) => {
                self.advance(1);
                return Ok(None);
            }
            (_, true) => {}
            (Some(b','), false) => self.advance(1),
            _ => return Err(Syntax),
        }
        let key = self.key()?;
        Ok(Some((key, self.value()?)))
    }

    /// A key and its colon.
    #[inline]
    fn key(&mut self) -> Result<&'a [u8], Syntax> {
        self.blanks();
        let start = self.pos;
        self.expect(b"\"")?;
        self.string()?;
        let key = self.since(start);
        self.blanks();
        self.expect(b":")?;
        Ok(key)
    }

    /// The raw bytes of the next value, without blanks around it.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<&'a [u8], Syntax> {
        self.blanks();
        let start = self.pos;
        if !matches!(self.peek(), Some(b'{' | b'[')) {
            self.single()?;
            return Ok(self.since(start));
        }
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.blanks();
            match self.peek().ok_or(Syntax)? {
                b'{' => {
                    self.advance(1);
                    self.push(&mut open, b'}')?;
                    if !self.closes(b'}') {
                        self.key()?;
                        continue;
                    }
                    open.pop();
                }
                b'[' => {
                    self.advance(1);
                    self.push(&mut open, b']')?;
                    if !self.closes(b']') {
                        continue;
                    }
                    open.pop();
                }
                _ => self.single()?,
            }
            // A value has ended. Any number of the arrays and objects around it may end here too.
            loop {
                let Some(&close) = open.last() else {
                    return Ok(self.since(start));
                };
                self.blanks();
                match self.next()? {
                    b',' if close == b'}' => {
                        self.key()?;
                        break;
                    }
                    b',' => break,
                    byte if byte == close => {
                        open.pop();
                    }
                    _ => return Err(Syntax),
                }
            }
        }
    }

    /// A value that is neither an array nor an object.
    #[inline]
    fn single(&mut self) -> Result<(), Syntax> {
        match self.next()? {
            b'"' => self.string(),
            b't' => self.expect(b"rue"),
            b'f' => self.expect(b"alse"),
            b'n' => self.expect(b"ull"),
            byte @ (b'-' | b'0'..=b'9') => self.number(byte),
            _ => Err(Syntax),
        }
    }

    fn push(&self, open: &mut Vec<u8>, close: u8) -> Result<(), Syntax> {
        // The object around the value is one more level.
        if open.len() >= MAX_DEPTH - 1 {
            return Err(Syntax);
        }
        open.push(close);
        Ok(())
    }

    #[inline]
    fn closes(&mut self, close: u8) -> bool {
        self.blanks();
        let closes = self.peek() == Some(close);
        self.advance(usize::from(closes));
        closes
    }

    /// The rest of a string whose opening quote has been read.
    #[inline]
    fn string(&mut self) -> Result<(), Syntax> {
        loop {
            let rest = self.rest();
            self.advance(rest.iter().position(|&b| is_special(b)).unwrap_or(rest.len()));
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            if !self.next()?.is_ascii_hexdigit() {
                                return Err(Syntax);
                            }
                        }
                    }
                    _ => return Err(Syntax),
                },
                0..=0x1f => return Err(Syntax),
                _ => {}
            }
        }
    }

    /// The rest of a number whose first byte has been read.
    #[inline]
    fn number(&mut self, first: u8) -> Result<(), Syntax> {
        let lead = if first == b'-' { self.next()? } else { first };
        match lead {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return Err(Syntax),
        }
        if self.peek() == Some(b'.') {
            self.advance(1);
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.advance(1);
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.advance(1);
            }
            self.some_digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.advance(1);
        }
    }

    #[inline]
    fn some_digits(&mut self) -> Result<(), Syntax> {
        let start = self.pos;
        self.digits();
        if self.pos > start { Ok(()) } else { Err(Syntax) }
    }
}

/// Whether a byte ends a string, begins an escape, or is not allowed in a string.
#[inline]
#[expect(clippy::indexing_slicing, reason = "every byte is an index of 256 entries")]
fn is_special(byte: u8) -> bool {
    const SPECIAL: [bool; 256] = {
        let mut special = [false; 256];
        let mut byte = 0;
        while byte < 0x20 {
            special[byte] = true;
            byte += 1;
        }
        special[b'"' as usize] = true;
        special[b'\\' as usize] = true;
        special
    };
    SPECIAL[byte as usize]
}

/// The raw elements of a checked raw array; `None` if the value is something else.
pub(crate) fn elements(raw: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let mut reader = Reader::new(raw);
    reader.expect(b"[").ok()?;
    let mut first = true;
    Some(std::iter::from_fn(move || {
        reader.blanks();
        match reader.peek()? {
            b']' => return None,
            b',' if !first => reader.advance(1),
            _ => {}
        }
        first = false;
        reader.value().ok()
    }))
}

/// The text of a raw string that needs no decoding: it has no escape and is valid UTF-8.
#[inline]
pub(crate) fn plain(raw: &[u8]) -> Option<&str> {
    let text = unquoted_bytes(raw)?;
    match memchr::memchr(b'\\', text) {
        Some(_) => None,
        None => std::str::from_utf8(text).ok(),
    }
}

/// The bytes between the quotes of a raw string, not decoded.
#[inline]
pub(crate) fn unquoted_bytes(raw: &[u8]) -> Option<&[u8]> {
    raw.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// The text of a raw string, as [`unquote`] decodes it.
pub(crate) fn unquoted(raw: &[u8]) -> String {
    let mut text = String::new();
    unquote(raw, &mut text);
    text
}

/// Go's `unquote`: the text of a raw string (with its quotes) that [`Reader`] has checked, appended to `out`.
pub(crate) fn unquote(raw: &[u8], out: &mut String) {
    let mut rest = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    while let Some((before, [_backslash, escape, after @ ..])) =
        memchr::memchr(b'\\', rest).and_then(|at| rest.split_at_checked(at))
    {
        push_lossy(before, out);
        rest = after;
        out.push(match *escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = hex4(rest).unwrap_or(0xfffd);
                rest = rest.get(4..).unwrap_or_default();
                let low = rest.strip_prefix(b"\\u").and_then(hex4);
                match (unit, low) {
                    (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                        rest = rest.get(6..).unwrap_or_default();
                        char::decode_utf16([unit, low]).next().and_then(Result::ok).unwrap_or('\u{fffd}')
                    }
                    // A surrogate without its partner becomes U+FFFD, and the next escape is decoded by itself.
                    _ => char::from_u32(unit.into()).unwrap_or('\u{fffd}'),
                }
            }
            other => char::from(other),
        });
    }
    push_lossy(rest, out);
}

fn hex4(bytes: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(bytes.get(..4)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

/// Replaces each invalid byte with U+FFFD, as Go does; `String::from_utf8_lossy` replaces some sequences with a single
/// one.
fn push_lossy(mut bytes: &[u8], out: &mut String) {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => return out.push_str(text),
            Err(error) => {
                let (good, bad) = bytes.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(good).unwrap_or_default());
                out.push('\u{fffd}');
                bytes = bad.get(1..).unwrap_or_default();
            }
        }
    }
}

/// Whether Go takes `key` for the struct field `name`, which is ASCII in lower case. Go uses simple case folding, under
/// which U+017F is an s and U+212A is a k.
#[inline]
pub(crate) fn same_key(key: &str, name: &str) -> bool {
    // Each character folds to one byte, so a key with fewer bytes than the name cannot match.
    if key.len() < name.len() {
        return false;
    }
    let mut folded = key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    name.chars().all(|c| folded.next() == Some(c)) && folded.next().is_none()
}
