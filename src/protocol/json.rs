//! JSON as Go's `encoding/json` reads it, since that is what decides on the server's side who a client is.
//!
//! Where it differs from common Rust readers: a lone surrogate escape and every byte of invalid UTF-8 become U+FFFD
//! instead of an error, and keys match without regard to case ([`same_key`]). Nothing here recurses: depth is bounded as in Go.

use std::net::IpAddr;

/// Go's `maxNestingDepth`.
const MAX_DEPTH: usize = 10_000;

/// The text is not one JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syntax;

/// A raw key with its quotes, and its raw value.
pub(crate) type Member<'a> = (&'a [u8], &'a [u8]);

/// Reads one text from its start; every value it hands out has been checked to its last byte.
pub(crate) struct Reader<'a> {
    buf: &'a [u8],
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

    #[inline]
    fn next(&mut self) -> Result<u8, Syntax> {
        let byte = self.peek().ok_or(Syntax)?;
        self.pos += 1;
        Ok(byte)
    }

    fn expect(&mut self, text: &[u8]) -> Result<(), Syntax> {
        let rest = self.buf.get(self.pos..).unwrap_or_default();
        if !rest.starts_with(text) {
            return Err(Syntax);
        }
        self.pos += text.len();
        Ok(())
    }

    #[inline]
    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.pos += 1;
        }
    }

    /// How far it has read.
    pub(crate) fn at(&self) -> usize {
        self.pos
    }

    /// Whether nothing but blanks is left.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        self.blanks();
        if self.peek().is_none() { Ok(()) } else { Err(Syntax) }
    }

    /// Steps into an object. False when the next value is something else; nothing is consumed then.
    pub(crate) fn enter_object(&mut self) -> bool {
        self.blanks();
        let object = self.peek() == Some(b'{');
        self.pos += usize::from(object);
        object
    }

    /// The next member of the object that [`Self::enter_object`] opened: `None` after its `}`.
    pub(crate) fn member(&mut self) -> Result<Option<Member<'a>>, Syntax> {
        self.blanks();
        match (self.peek(), std::mem::take(&mut self.first)) {
            (Some(b'}'), _) => {
                self.pos += 1;
                return Ok(None);
            }
            (_, true) => {}
            (Some(b','), false) => self.pos += 1,
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
        let key = &self.buf[start..self.pos];
        self.blanks();
        self.expect(b":")?;
        Ok(key)
    }

    /// The raw bytes of the next value, without blanks around it.
    pub(crate) fn value(&mut self) -> Result<&'a [u8], Syntax> {
        self.blanks();
        let start = self.pos;
        if !matches!(self.peek(), Some(b'{' | b'[')) {
            self.single()?;
            return Ok(&self.buf[start..self.pos]);
        }
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.blanks();
            match self.peek().ok_or(Syntax)? {
                b'{' => {
                    self.pos += 1;
                    self.push(&mut open, b'}')?;
                    if !self.closes(b'}') {
                        self.key()?;
                        continue;
                    }
                    open.pop();
                }
                b'[' => {
                    self.pos += 1;
                    self.push(&mut open, b']')?;
                    if !self.closes(b']') {
                        continue;
                    }
                    open.pop();
                }
                _ => self.single()?,
            }
            // A value has ended: so may any number of the arrays and objects around it.
            loop {
                let Some(&close) = open.last() else {
                    return Ok(&self.buf[start..self.pos]);
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
        // One level is the object around the value.
        if open.len() + 1 >= MAX_DEPTH {
            return Err(Syntax);
        }
        open.push(close);
        Ok(())
    }

    fn closes(&mut self, close: u8) -> bool {
        self.blanks();
        let closes = self.peek() == Some(close);
        self.pos += usize::from(closes);
        closes
    }

    /// The rest of a string whose opening quote has been read.
    fn string(&mut self) -> Result<(), Syntax> {
        loop {
            let rest = self.buf.get(self.pos..).unwrap_or_default();
            self.pos += rest.iter().position(|&b| is_special(b)).unwrap_or(rest.len());
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
    fn number(&mut self, first: u8) -> Result<(), Syntax> {
        let lead = if first == b'-' { self.next()? } else { first };
        match lead {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return Err(Syntax),
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.pos += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.pos += 1;
            }
            self.some_digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.pos += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), Syntax> {
        let start = self.pos;
        self.digits();
        if self.pos > start { Ok(()) } else { Err(Syntax) }
    }
}

/// Whether a byte of a string does not stand for itself, or ends it.
#[inline]
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

/// The raw elements of a checked raw array; `None` when the value is something else.
pub(crate) fn elements(raw: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let mut reader = Reader::new(raw);
    reader.expect(b"[").ok()?;
    let mut first = true;
    Some(std::iter::from_fn(move || {
        reader.blanks();
        match reader.peek()? {
            b']' => return None,
            b',' if !first => reader.pos += 1,
            _ => {}
        }
        first = false;
        reader.value().ok()
    }))
}

/// The text of a raw string that stands for itself: no escape, no invalid UTF-8.
pub(crate) fn plain(raw: &[u8]) -> Option<&str> {
    let text = unquoted_bytes(raw)?;
    match memchr::memchr(b'\\', text) {
        Some(_) => None,
        None => std::str::from_utf8(text).ok(),
    }
}

/// What is between the quotes of a raw string, escapes and all.
pub(crate) fn unquoted_bytes(raw: &[u8]) -> Option<&[u8]> {
    raw.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// [`unquote`] into a string of its own.
pub(crate) fn unquoted(raw: &[u8]) -> String {
    let mut text = String::new();
    unquote(raw, &mut text);
    text
}

/// Go's `unquote`: the text of a raw string (with its quotes) that [`Reader`] has checked, appended to `out`.
pub(crate) fn unquote(raw: &[u8], out: &mut String) {
    let mut rest = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        push_lossy(&rest[..at], out);
        rest = &rest[at + 1..];
        let Some((&escape, after)) = rest.split_first() else {
            return;
        };
        rest = after;
        out.push(match escape {
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
                        let point = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        char::from_u32(point).unwrap_or('\u{fffd}')
                    }
                    // A surrogate without its partner; what follows it stands for itself.
                    _ => char::from_u32(unit).unwrap_or('\u{fffd}'),
                }
            }
            other => char::from(other),
        });
    }
    push_lossy(rest, out);
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4)?;
    digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
}

/// Go replaces every bad byte on its own; `String::from_utf8_lossy` replaces some sequences of them as one.
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

/// Whether Go takes `key` for the struct field named `name`, which is ASCII in lower case: simple case folding, under
/// which two characters outside ASCII are letters too (U+017F is an s, U+212A a k).
pub(crate) fn same_key(key: &str, name: &str) -> bool {
    // A character folds to one byte; outside ASCII it has two or three.
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

/// Appends a checked raw value without the blanks between its tokens.
pub(crate) fn push_compact(raw: &[u8], out: &mut Vec<u8>) {
    // Most values have none, which is quicker to see than to write byte by byte.
    if !raw.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
        return out.extend_from_slice(raw);
    }
    let (mut quoted, mut escaped) = (false, false);
    for &byte in raw {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        } else {
            quoted = byte == b'"';
        }
        out.push(byte);
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn push_string(text: &str, out: &mut Vec<u8>) {
    // What stands for itself, as names and versions do, needs no writer that looks for what does not.
    if !text.bytes().any(is_special) {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        return out.push(b'"');
    }
    // Writing a string into a Vec fails for no text.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a separator, a key in which nothing is to be escaped, and its colon. The next separator is a comma.
pub(crate) fn push_known_key(sep: &mut u8, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&[std::mem::replace(sep, b','), b'"']);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends `number` in decimal.
pub(crate) fn push_number(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `ip` as it is written everywhere. Most clients' addresses are IPv4, which needs none of the formatter's machinery.
pub(crate) fn push_ip(ip: IpAddr, out: &mut Vec<u8>) {
    let IpAddr::V4(ip) = ip else {
        out.extend_from_slice(ip.to_string().as_bytes());
        return;
    };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        push_number(octet, out);
    }
}
