//! Framing from client to server: nats-server's parser.go for clients, reduced to where operations end.

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::protocol::op::{
    LONGEST_PAYLOAD, MOST_COUNTED,
    args::Args,
    fast_path::{Line, arguments, messages},
    is_zero,
};

/// A byte with which no operation begins or goes on: nats-server answers it with `Unknown Protocol Operation`.
pub const NO_LETTER: u8 = 0;

/// What [`ClientFraming::scan`] found in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientScan {
    /// The whole chunk may be forwarded.
    Pass,
    /// A CONNECT begins at `chunk[at]`, as its first letter tells; the bytes before it may be forwarded. The framing
    /// stays at the start of the line: the caller collects the line and continues the scan behind its LF.
    Connect {
        /// The index in the chunk at which the line begins.
        at: usize,
    },
    /// A parser error for the server, or bytes that the server's parser would treat differently from read to read. To
    /// let the server answer, forward up to and including `at` and nothing after it. The scan is over.
    Violation {
        /// The index of the offending byte.
        at: usize,
    },
    /// An HMSG begins here, which only servers send. A server does not object to the byte at `at`: to let it answer,
    /// forward the bytes before `at` and [`NO_LETTER`] in its place. The scan is over.
    Hmsg {
        /// The index of the M.
        at: usize,
    },
}

/// Follows the stream from a client behind its first CONNECT.
///
/// An operation begins and ends where it does for nats-server (parser.go with `processPub` and `processHeaderPub`,
/// 2.15). In three cases weir is stricter, because the server's behaviour depends on how its reads cut the stream, or
/// is an accident:
/// - a CR in the arguments of PUB or HPUB that is not followed by LF;
/// - a LF as the first byte of an argument: the server makes it a part of the argument, which then continues on the
///   next line;
/// - HMSG: the server reads it from a client as a message without a size, and objects only to what follows its line.
///
/// weir passes on what the server refuses for other reasons than framing (subjects, permissions, `max_payload`, the
/// JSON of INFO). The server then closes.
///
/// Another process reads on from what is serialised, maybe of another version: its words stay what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFraming {
    #[serde(default, skip_serializing_if = "is_zero")]
    state: State,
    /// Left out where it is unknown.
    #[serde(default = "unknown", skip_serializing_if = "is_unknown")]
    max_control_line: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    messages: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    payload: u64,
    /// SUB and UNSUB so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    interest: u32,
    /// PONG so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pongs: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    #[default]
    Start,
    /// `read` letters of the verb have been read.
    Verb { verb: Verb, read: u8 },
    /// Behind a verb that must be followed by a blank.
    NeedBlank(Verb),
    /// Blanks before an argument.
    Blanks(Verb),
    /// Behind PING, PONG and +OK, which may be followed by anything.
    Tail,
    /// In an argument of which only the end matters; this many bytes of it have been read.
    Arg(usize),
    /// In the arguments of PUB and HPUB. `cr`: the last byte was a CR.
    Sizes { verb: Verb, args: Args, len: usize, cr: bool },
    /// This many bytes of the payload are still to come.
    Payload(u32),
    /// Before the CR behind the payload.
    Cr,
    /// Before the LF behind the payload.
    Lf,
    /// A violation has been reported.
    Over(Violation),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Violation {
    Hmsg,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Pub,
    Hpub,
    Ping,
    Pong,
    Sub,
    Unsub,
    Info,
    Ok,
    Err,
}

impl Verb {
    fn starting_with(first: u8) -> Option<Self> {
        Some(match first {
            b'p' => Self::Pub,
            b'h' => Self::Hpub,
            b's' => Self::Sub,
            b'u' => Self::Unsub,
            b'i' => Self::Info,
            b'+' => Self::Ok,
            b'-' => Self::Err,
            _ => return None,
        })
    }

    const fn letters(self) -> &'static [u8] {
        match self {
            Self::Pub => b"pub",
            Self::Hpub => b"hpub",
            Self::Ping => b"ping",
            Self::Pong => b"pong",
            Self::Sub => b"sub",
            Self::Unsub => b"unsub",
            Self::Info => b"info",
            Self::Ok => b"+ok",
            Self::Err => b"-err",
        }
    }

    /// The state behind the next letter of a verb of which `read` letters have been read.
    #[expect(clippy::arithmetic_side_effects, reason = "no verb has more than 5 letters")]
    fn read_letter(self, read: u8, letter: u8) -> Result<State, Violation> {
        // Three verbs begin with a P.
        let verb = match (self, read, letter) {
            (Self::Pub, 1, b'i') => Self::Ping,
            (Self::Pub, 1, b'o') => Self::Pong,
            _ => self,
        };
        match verb.letters().get(usize::from(read)..) {
            Some([expected]) if *expected == letter => Ok(verb.finished()),
            Some([expected, ..]) if *expected == letter => Ok(State::Verb { verb, read: read + 1 }),
            _ if verb == Self::Hpub && read == 1 && letter == b'm' => Err(Violation::Hmsg),
            _ => Err(Violation::Other),
        }
    }

    /// The state at the first byte of an argument.
    fn argument(self) -> State {
        match self {
            Self::Pub | Self::Hpub => State::Sizes { verb: self, args: Args::default(), len: 0, cr: false },
            _ => State::Arg(0),
        }
    }

    /// The state behind the last letter.
    fn finished(self) -> State {
        match self {
            Self::Ping | Self::Pong | Self::Ok => State::Tail,
            Self::Info => State::Blanks(self),
            _ => State::NeedBlank(self),
        }
    }
}

impl State {
    /// Whether a stream can be there.
    fn is_sound(&self, max_control_line: usize) -> bool {
        let is_read = |len: usize| len <= max_control_line.saturating_add(1) && len as u64 <= MOST_COUNTED;
        match self {
            Self::Start | Self::Tail | Self::Cr | Self::Lf | Self::Over(_) => true,
            Self::Verb { verb, read } => (1..verb.letters().len()).contains(&usize::from(*read)),
            Self::NeedBlank(verb) => matches!(verb.finished(), Self::NeedBlank(_)),
            Self::Blanks(verb) => !matches!(verb.finished(), Self::Tail),
            Self::Arg(len) => is_read(*len),
            Self::Sizes { verb, args, len, .. } => {
                matches!(verb, Verb::Pub | Verb::Hpub) && args.is_sound() && is_read(*len)
            }
            Self::Payload(left) => (1..=LONGEST_PAYLOAD).contains(left),
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The limit of a server that is not known.
const fn unknown() -> usize {
    usize::MAX
}

fn is_unknown(limit: &usize) -> bool {
    *limit == unknown()
}

impl ClientFraming {
    /// Starts between two operations. `max_control_line` is the longest argument in bytes, as the server counts them.
    /// INFO does not tell the server's limit: where it is unknown, `usize::MAX` leaves the check to the server.
    pub const fn new(max_control_line: usize) -> Self {
        Self { state: State::Start, max_control_line, messages: 0, payload: 0, interest: 0, pongs: 0 }
    }

    /// Follows the next bytes of the stream. After a violation nothing more may be forwarded, and every further scan
    /// returns the same result, with `at` 0.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "`at` is below the length of the chunk, and each step consumes at most the rest of it"
    )]
    pub fn scan(&mut self, chunk: &[u8]) -> ClientScan {
        let mut at = 0;
        while at < chunk.len() {
            if matches!(self.state, State::Start) {
                at += self.publications(&chunk[at..]);
                match chunk.get(at) {
                    None => break,
                    Some(b'C' | b'c') if self.state == State::Start => return ClientScan::Connect { at },
                    Some(_) => {}
                }
            }
            match self.step(&chunk[at..]) {
                Ok(read) => at += read,
                Err(violation) => {
                    self.state = State::Over(violation);
                    return match violation {
                        Violation::Hmsg => ClientScan::Hmsg { at },
                        Violation::Other => ClientScan::Violation { at },
                    };
                }
            }
        }
        ClientScan::Pass
    }

    /// Whether it can be what following a stream makes. One that another process has written need not be.
    pub fn is_sound(&self) -> bool {
        let Self { state, max_control_line, messages, payload, interest: _, pongs: _ } = self;
        state.is_sound(*max_control_line) && [messages, payload].into_iter().all(|count| *count <= MOST_COUNTED)
    }

    /// The longest argument in bytes; `usize::MAX` where the server's limit is unknown.
    pub fn max_control_line(&self) -> usize {
        self.max_control_line
    }

    /// The number of PUB and HPUB so far; each counts once its control line is complete.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The bytes of the payloads of these messages, headers included.
    pub fn payload(&self) -> u64 {
        self.payload
    }

    /// The number of SUB and UNSUB so far, modulo 2^32; each counts once its arguments begin.
    pub fn interest(&self) -> u32 {
        self.interest
    }

    /// The number of PONG so far, modulo 2^32.
    pub fn pongs(&self) -> u32 {
        self.pongs
    }

    /// Whether the stream is between two operations.
    pub fn at_boundary(&self) -> bool {
        self.state == State::Start
    }

    /// The fast path: consumes messages from the start of one, as long as their control lines are whole and have the
    /// usual form. Afterwards the state is between two operations, or in a payload that continues behind the chunk.
    #[expect(clippy::arithmetic_side_effects, reason = "2^64 messages take centuries")]
    #[inline(never)] // with `scan` around it, the loop would have too few registers
    fn publications(&mut self, chunk: &[u8]) -> usize {
        let max = self.max_control_line;
        let consumed = messages(chunk, |rest| publication(rest, max), |_, _| {});
        self.messages += consumed.messages;
        self.payload += consumed.sizes;
        if let Some(state) = consumed.next_state(State::Cr, State::Payload) {
            self.state = state;
        }
        consumed.bytes
    }

    /// Follows PUB and HPUB that are whole and have the usual form, from the start of one, and returns how many bytes
    /// these are.
    pub fn pass_whole(&mut self, chunk: &[u8]) -> usize {
        let max = self.max_control_line;
        let whole = messages(chunk, |rest| publication(rest, max), |_, _| {}).whole();
        self.messages = self.messages.saturating_add(whole.messages);
        self.payload = self.payload.saturating_add(whole.sizes);
        whole.bytes
    }

    /// Follows the next bytes up to the end of the operation that is under way, and returns how many these are; `None`
    /// where it goes on behind the chunk. At a violation it ends, too, and [`Self::scan`] finds that byte.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "`at` is below the length of the chunk, and each step consumes at most the rest of it"
    )]
    pub fn pass_boundary(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut at = 0;
        while !self.at_boundary() {
            if at == chunk.len() {
                return None;
            }
            match self.step(&chunk[at..]) {
                Ok(read) => at += read,
                Err(_) => return Some(at),
            }
        }
        Some(at)
    }

    /// Consumes at least one byte of `rest`, which is not empty. An error is about its first byte.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        reason = "`rest` is not empty, memchr finds indices in it, counts are at most the length of a line, and a size has nine \
                  digits, so that the cast to u32 loses nothing"
    )]
    #[inline(never)] // keeps `scan`, which mostly needs only the fast path, small
    fn step(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let byte = rest[0];
        match &mut self.state {
            State::Start => {
                let verb = Verb::starting_with(byte.to_ascii_lowercase()).ok_or(Violation::Other)?;
                self.state = State::Verb { verb, read: 1 };
            }
            State::Verb { verb, read } => {
                let is_pong = *verb == Verb::Pong && *read == 3;
                self.state = verb.read_letter(*read, byte.to_ascii_lowercase())?;
                self.pongs = self.pongs.wrapping_add(is_pong.into());
            }
            State::NeedBlank(verb) if is_blank(byte) => self.state = State::Blanks(*verb),
            State::Blanks(_) if is_blank(byte) => {}
            State::Blanks(verb) if byte != b'\n' => {
                let verb = *verb;
                self.interest = self.interest.wrapping_add(matches!(verb, Verb::Sub | Verb::Unsub).into());
                self.state = verb.argument();
                // The byte is the first of the argument.
                return self.step(rest);
            }
            State::Tail => {
                let Some(end) = memchr(b'\n', rest) else { return Ok(rest.len()) };
                self.state = State::Start;
                return Ok(end + 1);
            }
            State::Arg(_) if byte == b'\n' => self.state = State::Start,
            State::Arg(len) => {
                let (read, is_whole) = argument(rest, len, self.max_control_line).ok_or(Violation::Other)?;
                if is_whole {
                    self.state = State::Start;
                }
                return Ok(read);
            }
            State::Sizes { verb, args, .. } if byte == b'\n' => {
                let size = finish(*verb, args).ok_or(Violation::Other)?;
                self.messages += 1;
                self.payload += u64::from(size);
                self.state = if size == 0 { State::Cr } else { State::Payload(size) };
            }
            State::Sizes { args, len, cr: cr @ false, .. } if !over_limit(byte, *len, self.max_control_line) => {
                *len += 1;
                match byte {
                    b'\r' => *cr = true,
                    _ => args.push(byte),
                }
            }
            State::Payload(left) => {
                let read = rest.len().min(*left as usize);
                *left -= read as u32;
                if *left == 0 {
                    self.state = State::Cr;
                }
                return Ok(read);
            }
            State::Cr if byte == b'\r' => self.state = State::Lf,
            State::Lf if byte == b'\n' => self.state = State::Start,
            State::NeedBlank(_) | State::Blanks(_) | State::Sizes { .. } | State::Cr | State::Lf => {
                return Err(Violation::Other);
            }
            State::Over(violation) => return Err(*violation),
        }
        Ok(1)
    }
}

/// Reads what is there of an argument of which `len` bytes have been read. Returns how many bytes to consume and
/// whether the line ends with them; `None` if the argument is too long.
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "`rest` is not empty, memchr finds an index in it, and `len` is the length of what was received"
)]
fn argument(rest: &[u8], len: &mut usize, max: usize) -> Option<(usize, bool)> {
    // A CR may stand behind the last byte that the limit allows, if LF follows it.
    if over_limit(rest[0], *len, max) {
        return None;
    }
    let end = memchr(b'\n', rest);
    let here = end.unwrap_or(rest.len());
    let within = max.saturating_sub(*len).max(1);
    if here > within {
        // Stop before the first byte that may be one too many; the next step decides.
        *len += within;
        return Some((within, false));
    }
    *len += here;
    Some(end.map_or((here, false), |end| (end + 1, true)))
}

/// Whether a byte at index `len` of an argument makes the argument longer than `max`; the byte is not the LF of the
/// line.
fn over_limit(byte: u8, len: usize, max: usize) -> bool {
    if byte == b'\r' { len > max } else { len >= max }
}

/// The size of the payload, if the arguments of the line are valid.
fn finish(verb: Verb, args: &Args) -> Option<u32> {
    match (verb, args.words()) {
        (Verb::Pub, 2 | 3) => args.size(),
        (Verb::Hpub, 3 | 4) => args.sizes().filter(|(header, total)| header <= total).map(|(_, total)| total),
        _ => None,
    }
}

/// A whole control line of PUB or HPUB in the usual form at the start of `rest`.
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "`rest` has at least 5 bytes, and the arguments end within it"
)]
fn publication(rest: &[u8], max_control_line: usize) -> Option<Line> {
    let &[a, b, c, d, e, ..] = rest else {
        return None;
    };
    // Clearing this bit turns a lower-case letter into its upper-case one; no other byte turns into one of these
    // letters.
    let word = u32::from_be_bytes([a, b, c, d]) & 0xdfdf_dfdf;
    let (start, header) = if word & 0xffff_ff00 == u32::from_be_bytes(*b"PUB\0") && d == b' ' {
        (4, false)
    } else if word == u32::from_be_bytes(*b"HPUB") && e == b' ' {
        (5, true)
    } else {
        return None;
    };
    let rest = &rest[start..];
    let args = arguments(rest)?;
    let size = args.size(rest)?;
    let usual = match header {
        false => matches!(args.words, 2 | 3),
        true => matches!(args.words, 3 | 4) && args.header(rest)? <= size,
    };
    (usual && args.len <= max_control_line).then_some(Line { len: start + args.line, size })
}

#[cfg(test)]
mod tests;
