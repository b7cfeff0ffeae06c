//! The lines of the preface: where a line ends, and which operation it is.

use memchr::memchr;

/// The line is longer than the limit, or will be when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the control line is too long")
    }
}

impl std::error::Error for TooLong {}

/// The most bytes of a verb and the blanks behind it that do not count against the limit. This bounds the line; a
/// nats-server accepts any number of blanks before an argument.
const MAX_OVERHEAD: usize = 64;

/// No verb is longer.
const MAX_VERB: usize = 8;

/// A resumable search for the end of the line that starts at `buf[0]`. It never searches a byte twice.
///
/// The limit is that of nats-server's `overMaxControlLineLimit`: it applies to the *argument*, from the first byte
/// after the verb and its blanks to the end of the line, without the CR before the LF.
#[derive(Debug, Clone)]
pub struct LineScanner {
    limit: usize,
    searched: usize,
}

impl LineScanner {
    /// A scanner for lines whose argument has at most `limit` bytes, or 8 if `limit` is lower.
    pub const fn new(limit: usize) -> Self {
        let limit = if limit < MAX_VERB { MAX_VERB } else { limit };
        Self { limit, searched: 0 }
    }

    /// A line with more bytes than this is too long in any case.
    pub const fn longest(&self) -> usize {
        self.limit.saturating_add(MAX_OVERHEAD + 2)
    }

    /// The index behind the line's `\n`, or `None` if more bytes are needed. In that case call again with the same
    /// bytes and more behind them. After the end of a line has been found the scanner is ready for the next line.
    ///
    /// # Errors
    ///
    /// [`TooLong`] as soon as that is certain, so that a buffer never needs to hold more than the limit and 66 bytes.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "memchr found `end` in `buf`, and the overhead of a line is a part of it"
    )]
    pub fn find(&mut self, buf: &[u8]) -> Result<Option<usize>, TooLong> {
        let unsearched = buf.get(self.searched..).unwrap_or_default();
        let end = memchr(b'\n', unsearched).map(|at| self.searched + at);
        let line = &buf[..end.unwrap_or(buf.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // The overhead matters only for a line that exceeds the limit with it.
        if line.len() > self.limit && line.len() - overhead(line) > self.limit {
            self.searched = 0;
            return Err(TooLong);
        }
        self.searched = if end.is_some() { 0 } else { buf.len() };
        Ok(end.map(|at| at + 1))
    }
}

/// The number of bytes before the argument.
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "the argument is a part of the line, and `verb` is the index of one of its bytes or 0"
)]
fn overhead(line: &[u8]) -> usize {
    let start = match argument(line, b"CONNECT").or_else(|| argument(line, b"INFO")) {
        Some(argument) => line.len() - argument.len(),
        None => {
            // The end of the verb must not depend on how much of the line has arrived.
            let verb = line.iter().take(MAX_VERB).position(|&b| is_blank(b)).unwrap_or(0);
            line.len() - trim_start(&line[verb..]).len()
        }
    };
    start.min(MAX_OVERHEAD)
}

/// A line from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientLine<'a> {
    /// CONNECT with its argument, which may end in blanks and need not be JSON.
    Connect(&'a [u8]),
    /// PING.
    Ping,
    /// PONG.
    Pong,
    /// Anything else, valid or not.
    Other,
}

/// Classifies a line, which includes its newline.
///
/// It follows nats-server's parser.go: a verb may have any case; blanks, tabs or nothing stand before an argument; the
/// line ends in CR LF or LF; PING and PONG may be followed by anything. A CONNECT without an argument, whose line the
/// server would not end at this LF, is [`ClientLine::Other`].
pub fn client_line(line: &[u8]) -> ClientLine<'_> {
    let Some(line) = line.strip_suffix(b"\n") else {
        return ClientLine::Other;
    };
    if let Some(arg) = argument(line, b"CONNECT") {
        return match arg {
            [] => ClientLine::Other,
            // The server counts a CR in front as a part of the argument. The argument is not JSON in either case.
            _ => ClientLine::Connect(arg.strip_suffix(b"\r").unwrap_or(arg)),
        };
    }
    match line.get(..4) {
        Some(verb) if verb.eq_ignore_ascii_case(b"PING") => ClientLine::Ping,
        Some(verb) if verb.eq_ignore_ascii_case(b"PONG") => ClientLine::Pong,
        _ => ClientLine::Other,
    }
}

/// The index of the first byte that is no letter of CONNECT, in a line that may not be whole yet. `None` while the line
/// may be a CONNECT.
pub fn not_connect_at(line: &[u8]) -> Option<usize> {
    line.iter().zip(b"CONNECT").position(|(byte, letter)| !byte.eq_ignore_ascii_case(letter))
}

/// Whether a line begins with another operation that a client may send than CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It does.
    Yes,
    /// Its verb is not whole yet.
    Maybe,
    /// It does not.
    No,
}

impl Operation {
    /// Of a line that may not be whole yet. A verb with arguments is whole once a blank or the end of the line is
    /// behind it. Behind PING and PONG a server reads anything up to the end of the line.
    pub fn at_start_of(line: &[u8]) -> Self {
        const ALONE: [&[u8]; 2] = [b"PING", b"PONG"];
        const WITH_ARGUMENTS: [&[u8]; 4] = [b"PUB", b"SUB", b"UNSUB", b"HPUB"];
        if ALONE.iter().any(|verb| line.get(..verb.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(verb))) {
            return Self::Yes;
        }
        let of = |&verb: &&[u8]| {
            let is_begun = line.iter().zip(verb).all(|(byte, letter)| byte.eq_ignore_ascii_case(letter));
            match line.get(verb.len()) {
                _ if !is_begun => Self::No,
                None => Self::Maybe,
                Some(b' ' | b'\t' | b'\r' | b'\n') => Self::Yes,
                Some(_) => Self::No,
            }
        };
        ALONE.iter().chain(&WITH_ARGUMENTS).map(of).find(|found| *found != Self::No).unwrap_or(Self::No)
    }
}

/// A line from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerLine<'a> {
    /// INFO with its JSON.
    Info(&'a [u8]),
    /// PING.
    Ping,
    /// PONG.
    Pong,
    /// `+OK`.
    Ok,
    /// `-ERR` with its text, without the quotes. The text may contain bytes that a client sent, so it may not be UTF-8.
    Err(&'a [u8]),
    /// Anything else.
    Other,
}

/// Classifies a line, which includes its newline, as leniently as [`client_line`].
pub fn server_line(line: &[u8]) -> ServerLine<'_> {
    let Some(line) = line.strip_suffix(b"\n") else {
        return ServerLine::Other;
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Some(json) = argument(line, b"INFO") {
        return ServerLine::Info(json);
    }
    if let Some(text) = argument(line, b"-ERR") {
        let text = text.trim_ascii_end();
        let text = text.strip_prefix(b"'").map_or(text, |text| text.strip_suffix(b"'").unwrap_or(text));
        return ServerLine::Err(text);
    }
    match line.trim_ascii_end() {
        verb if verb.eq_ignore_ascii_case(b"PING") => ServerLine::Ping,
        verb if verb.eq_ignore_ascii_case(b"PONG") => ServerLine::Pong,
        verb if verb.eq_ignore_ascii_case(b"+OK") => ServerLine::Ok,
        _ => ServerLine::Other,
    }
}

/// The bytes behind the verb and its blanks, if the line has this verb.
fn argument<'a>(line: &'a [u8], verb: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(verb.len())?;
    head.eq_ignore_ascii_case(verb).then(|| trim_start(rest))
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(*first)
    {
        bytes = rest;
    }
    bytes
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests;
