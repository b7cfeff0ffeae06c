//! Framing from server to client: messages are skipped, and control lines can be captured.

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::protocol::op::{
    LONGEST_PAYLOAD, MOST_COUNTED,
    args::Args,
    fast_path::{Line, arguments, messages},
    is_zero,
};

/// Which of the server's lines stop the scan.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// INFO.
    #[default]
    InfoOnly,
    /// INFO, PING, PONG, `+OK` and `-ERR`: everything but messages.
    EveryControlLine,
}

/// What [`ServerFraming::scan`] found in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerScan {
    /// The whole chunk may be forwarded.
    Pass,
    /// A line to capture begins at `chunk[at]`, as its first byte tells; the bytes before it may be forwarded. The
    /// framing stays at the start of the line: the caller collects the line and continues the scan behind its LF.
    Line {
        /// The index in the chunk at which the line begins.
        at: usize,
    },
    /// No nats-server sends this to a client. The scan is over.
    Violation {
        /// The index of the offending byte.
        at: usize,
    },
}

/// Follows the stream from a server, from the start of a line on.
///
/// weir trusts the server: of MSG and HMSG it checks only the verb, the size and the end of the payload.
///
/// Another process reads on from what is serialised, maybe of another version: its words stay what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFraming {
    #[serde(default, skip_serializing_if = "is_zero")]
    state: State,
    #[serde(default, skip_serializing_if = "is_zero")]
    capture: Capture,
    #[serde(default, skip_serializing_if = "is_zero")]
    messages: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    payload: u64,
    /// PING so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pings: u32,
    /// `-ERR` is captured, whatever else is. Only where a WebSocket is to end with a code: no such session goes to
    /// another process.
    #[serde(skip)]
    captures_errors: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    #[default]
    Start,
    /// `read` letters of the verb have been read.
    Verb {
        verb: Verb,
        read: u8,
    },
    /// Blanks before the arguments.
    Blanks,
    /// In the arguments of MSG and HMSG. `cr`: the last byte was a CR, which belongs to the arguments unless LF
    /// follows.
    Args {
        args: Args,
        cr: bool,
    },
    /// Behind the first letter of PING or PONG that is not captured.
    P,
    /// In a control line that is not captured.
    Tail,
    /// This many bytes of the payload are still to come.
    Payload(u32),
    Cr,
    Lf,
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Msg,
    Hmsg,
}

impl Verb {
    const fn letters(self) -> &'static [u8] {
        match self {
            Self::Msg => b"MSG",
            Self::Hmsg => b"HMSG",
        }
    }
}

impl State {
    /// Whether a stream can be there.
    fn is_sound(&self) -> bool {
        match self {
            Self::Start | Self::Blanks | Self::P | Self::Tail | Self::Cr | Self::Lf | Self::Broken => true,
            Self::Verb { verb, read } => (1..=verb.letters().len()).contains(&usize::from(*read)),
            Self::Args { args, .. } => args.is_sound(),
            Self::Payload(left) => (1..=LONGEST_PAYLOAD).contains(left),
        }
    }
}

/// A byte that no server sends here.
struct Violation;

impl ServerFraming {
    /// Starts between two lines.
    pub const fn new(capture: Capture) -> Self {
        Self { state: State::Start, capture, messages: 0, payload: 0, pings: 0, captures_errors: false }
    }

    /// Changes what is captured, from the next line on.
    pub fn set_capture(&mut self, capture: Capture) {
        self.capture = capture;
    }

    /// Captures `-ERR` too, from the next line on.
    pub fn capture_errors(&mut self) {
        self.captures_errors = true;
    }

    /// Follows the next bytes of the stream.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "`at` is below the length of the chunk, and each step consumes at most the rest of it"
    )]
    pub fn scan(&mut self, chunk: &[u8]) -> ServerScan {
        let mut at = 0;
        while at < chunk.len() {
            if matches!(self.state, State::Start) {
                at += self.deliveries(&chunk[at..]);
                match chunk.get(at) {
                    None => break,
                    Some(&first) if self.state == State::Start && self.captures(first) => {
                        return ServerScan::Line { at };
                    }
                    Some(_) => {}
                }
            }
            match self.step(&chunk[at..]) {
                Ok(read) => at += read,
                Err(Violation) => {
                    self.state = State::Broken;
                    return ServerScan::Violation { at };
                }
            }
        }
        ServerScan::Pass
    }

    /// Follows the next bytes up to the end of the operation that is under way, and returns how many these are; `None`
    /// where it goes on behind the chunk. At a byte that no server sends it ends, too, and [`Self::scan`] finds that
    /// byte.
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
                Err(Violation) => return Some(at),
            }
        }
        Some(at)
    }

    /// Follows MSG and HMSG that are whole and have the usual form, from the start of one, and returns how many bytes
    /// these are. `delivered` gets the sid of each message, for several in a row once, with their number.
    pub fn pass_whole(&mut self, chunk: &[u8], mut delivered: impl FnMut(&[u8], u32)) -> usize {
        let sid = |line: &[u8], messages| delivered(sid_of(line), messages);
        let whole = messages(chunk, delivery, sid).whole();
        self.messages = self.messages.saturating_add(whole.messages);
        self.payload = self.payload.saturating_add(whole.sizes);
        whole.bytes
    }

    /// Whether it can be what following a stream makes. One that another process has written need not be.
    pub fn is_sound(&self) -> bool {
        let Self { state, capture: _, messages, payload, pings: _, captures_errors: _ } = self;
        state.is_sound() && [messages, payload].into_iter().all(|count| *count <= MOST_COUNTED)
    }

    /// What is captured.
    pub fn capture(&self) -> Capture {
        self.capture
    }

    /// The number of MSG and HMSG so far; each counts once its control line is complete.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The bytes of the payloads of these messages, headers included.
    pub fn payload(&self) -> u64 {
        self.payload
    }

    /// The number of PING so far, modulo 2^32; not of those that are captured.
    pub fn pings(&self) -> u32 {
        self.pings
    }

    /// Whether the stream is between two lines.
    pub fn at_boundary(&self) -> bool {
        self.state == State::Start
    }

    fn captures(&self, first: u8) -> bool {
        match first {
            b'I' | b'i' => true,
            b'-' if self.captures_errors => true,
            b'P' | b'p' | b'+' | b'-' => self.capture == Capture::EveryControlLine,
            _ => false,
        }
    }

    /// The fast path, as in [`super::ClientFraming`]: consumes messages whose control lines are whole and have the
    /// usual form.
    #[expect(clippy::arithmetic_side_effects, reason = "2^64 messages take centuries")]
    #[inline(never)] // with `scan` around it, the loop would have too few registers
    fn deliveries(&mut self, chunk: &[u8]) -> usize {
        let consumed = messages(chunk, delivery, |_, _| {});
        self.messages += consumed.messages;
        self.payload += consumed.sizes;
        if let Some(state) = consumed.next_state(State::Cr, State::Payload) {
            self.state = state;
        }
        consumed.bytes
    }

    /// Consumes at least one byte of `rest`, which is not empty. An error is about its first byte.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        reason = "`rest` is not empty, memchr finds indices in it, and a size has nine digits, so that the cast to u32 \
                  loses nothing"
    )]
    #[inline(never)] // keeps `scan`, which mostly needs only the fast path, small
    fn step(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let byte = rest[0];
        match &mut self.state {
            State::Start => {
                self.state = match byte.to_ascii_uppercase() {
                    b'M' => State::Verb { verb: Verb::Msg, read: 1 },
                    b'H' => State::Verb { verb: Verb::Hmsg, read: 1 },
                    b'P' => State::P,
                    b'+' | b'-' => State::Tail,
                    _ => return Err(Violation),
                }
            }
            State::Verb { verb, read } => match verb.letters().get(usize::from(*read)) {
                Some(letter) if *letter == byte.to_ascii_uppercase() => *read += 1,
                None if matches!(byte, b' ' | b'\t') => self.state = State::Blanks,
                _ => return Err(Violation),
            },
            State::Blanks => {
                if !matches!(byte, b' ' | b'\t') {
                    // As in the clients' own parsers, any byte begins the argument. It may be LF: nats-server 2.15
                    // accepts a subject that begins with one from a publisher.
                    let mut args = Args::default();
                    args.push(byte);
                    self.state = State::Args { args, cr: false };
                }
            }
            State::Args { args, cr } => {
                if byte == b'\n' {
                    let size = args.size().filter(|_| args.words() > 1).ok_or(Violation)?;
                    self.messages += 1;
                    self.payload += u64::from(size);
                    self.state = if size == 0 { State::Cr } else { State::Payload(size) };
                } else {
                    // A CR belongs to the end of the line only before LF.
                    if std::mem::replace(cr, byte == b'\r') {
                        args.push(b'\r');
                    }
                    if !*cr {
                        args.push(byte);
                    }
                }
            }
            State::P => {
                self.pings = self.pings.wrapping_add(matches!(byte, b'I' | b'i').into());
                self.state = State::Tail;
                // It may be the end of the line.
                return self.step(rest);
            }
            State::Tail => {
                let Some(end) = memchr(b'\n', rest) else { return Ok(rest.len()) };
                self.state = State::Start;
                return Ok(end + 1);
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
            State::Cr | State::Lf | State::Broken => return Err(Violation),
        }
        Ok(1)
    }
}

/// The sid in a control line of MSG or HMSG: its third word.
pub(super) fn sid_of(line: &[u8]) -> &[u8] {
    line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).nth(2).unwrap_or_default()
}

/// A whole control line of MSG or HMSG in the usual form at the start of `rest`.
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "`rest` starts with `start` matched bytes, and the arguments end within it"
)]
fn delivery(rest: &[u8]) -> Option<Line> {
    let start = match rest {
        [b'M', b'S', b'G', b' ', ..] => 4,
        [b'H', b'M', b'S', b'G', b' ', ..] => 5,
        _ => return None,
    };
    let rest = &rest[start..];
    let args = arguments(rest)?;
    let size = args.size(rest)?;
    (args.words > 1).then_some(Line { len: start + args.line, size })
}

#[cfg(test)]
mod tests;
