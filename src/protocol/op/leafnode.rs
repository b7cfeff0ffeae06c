//! Framing between two nats-servers of which one is a leafnode of the other, in either direction: messages are skipped,
//! and INFO is captured, `-ERR` where that is asked for.

use memchr::memchr;

use crate::protocol::op::{
    args::Args,
    fast_path::{Line, arguments, messages},
};

/// What [`LeafnodeFraming::scan`] found in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafnodeScan {
    /// The whole chunk may be forwarded.
    Pass,
    /// A line to capture begins at `chunk[at]`, as its first byte tells; the bytes before it may be forwarded. The
    /// framing stays at the start of the line: the caller collects the line and continues the scan behind its LF.
    Line {
        /// The index in the chunk at which the line begins.
        at: usize,
    },
    /// A CONNECT begins here, as its first byte tells. The scan is over.
    Connect {
        /// The index in the chunk at which the line begins.
        at: usize,
    },
    /// No nats-server sends this to a leafnode, or as one. The scan is over.
    Violation {
        /// The index of the offending byte.
        at: usize,
    },
}

/// Follows the stream from one of the two, behind the first CONNECT or the INFO that answers it.
///
/// An operation begins and ends where it does for nats-server (parser.go for `LEAF`, with `processLeafMsgArgs` and
/// `processLeafHeaderMsgArgs`, 2.15), of those operations that a nats-server sends there. Its parser reads others too
/// (`PUB`, `SUB`, `RMSG`): weir does not let them pass. As with clients ([`super::client`]) it is stricter in two
/// cases, in which a line would end elsewhere for the server, so that a CONNECT could be hidden from weir:
/// - a LF as the first byte of an argument: the server makes it a part of the argument, which then continues on the
///   next line;
/// - a CR in the arguments of LMSG or HMSG that is not followed by LF: the server drops the last byte of the line for
///   it, or another one, as its reads cut the stream.
#[derive(Debug, Default)]
pub struct LeafnodeFraming {
    state: State,
    messages: u64,
    payload: u64,
    pings: u32,
    pongs: u32,
    captures_errors: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// `read` letters of the verb have been read.
    Verb {
        verb: Verb,
        read: u8,
    },
    /// Behind a verb that must be followed by a blank.
    NeedBlank(Verb),
    /// Blanks before an argument.
    Blanks(Verb),
    /// In the arguments of a message. `cr`: the last byte was a CR, which only LF may follow.
    Args {
        args: Args,
        cr: bool,
    },
    /// In the rest of a line of which only the end matters.
    Tail,
    /// This many bytes of the payload are still to come.
    Payload(u32),
    Cr,
    Lf,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// A message.
    Lmsg,
    /// A message with headers.
    Hmsg,
    /// Interest that begins.
    Sub,
    /// Interest that ends.
    Unsub,
    Ping,
    Pong,
    Ok,
    Err,
}

impl Verb {
    const fn letters(self) -> &'static [u8] {
        match self {
            Self::Lmsg => b"LMSG",
            Self::Hmsg => b"HMSG",
            Self::Sub => b"LS+",
            Self::Unsub => b"LS-",
            Self::Ping => b"PING",
            Self::Pong => b"PONG",
            Self::Ok => b"+OK",
            Self::Err => b"-ERR",
        }
    }

    fn starting_with(first: u8) -> Option<Self> {
        Some(match first {
            b'L' => Self::Lmsg,
            b'H' => Self::Hmsg,
            b'P' => Self::Ping,
            b'+' => Self::Ok,
            b'-' => Self::Err,
            _ => return None,
        })
    }

    /// The verb that has the same first letters, and then this one.
    fn at(self, read: u8, letter: u8) -> Self {
        match (self, read, letter) {
            (Self::Lmsg, 1, b'S') => Self::Sub,
            (Self::Sub, 2, b'-') => Self::Unsub,
            (Self::Ping, 1, b'O') => Self::Pong,
            _ => self,
        }
    }
}

/// A byte that no nats-server sends here.
struct Violation;

impl LeafnodeFraming {
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
    pub fn scan(&mut self, chunk: &[u8]) -> LeafnodeScan {
        let mut at = 0;
        while at < chunk.len() {
            if self.state == State::Start {
                at += self.whole_messages(&chunk[at..]);
                match chunk.get(at) {
                    None => break,
                    Some(b'I' | b'i') if self.state == State::Start => return LeafnodeScan::Line { at },
                    Some(b'-') if self.captures_errors && self.state == State::Start => {
                        return LeafnodeScan::Line { at };
                    }
                    Some(b'C' | b'c') if self.state == State::Start => {
                        self.state = State::Over;
                        return LeafnodeScan::Connect { at };
                    }
                    Some(_) => {}
                }
            }
            match self.step(&chunk[at..]) {
                Ok(read) => at += read,
                Err(Violation) => {
                    self.state = State::Over;
                    return LeafnodeScan::Violation { at };
                }
            }
        }
        LeafnodeScan::Pass
    }

    /// Whether the stream is between two operations.
    pub fn at_boundary(&self) -> bool {
        self.state == State::Start
    }

    /// The number of LMSG and HMSG so far; each counts once its control line is complete.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The bytes of the payloads of these messages, headers included.
    pub fn payload(&self) -> u64 {
        self.payload
    }

    /// The number of PING so far, modulo 2^32.
    pub fn pings(&self) -> u32 {
        self.pings
    }

    /// The number of PONG so far, modulo 2^32.
    pub fn pongs(&self) -> u32 {
        self.pongs
    }

    /// The fast path: consumes messages whose control lines are whole and have the usual form.
    #[expect(clippy::arithmetic_side_effects, reason = "2^64 messages take centuries")]
    #[inline(never)] // with `scan` around it, the loop would have too few registers
    fn whole_messages(&mut self, chunk: &[u8]) -> usize {
        let consumed = messages(chunk, message, |_, _| {});
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
        reason = "`rest` is not empty, memchr finds indices in it, no verb has more than 4 letters, and a size has nine \
                  digits, so that the cast to u32 loses nothing"
    )]
    #[inline(never)] // keeps `scan`, which mostly needs only the fast path, small
    fn step(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let byte = rest[0];
        match &mut self.state {
            State::Start => {
                let verb = Verb::starting_with(byte.to_ascii_uppercase()).ok_or(Violation)?;
                self.state = State::Verb { verb, read: 1 };
            }
            State::Verb { verb, read } => {
                let letter = byte.to_ascii_uppercase();
                *verb = verb.at(*read, letter);
                match verb.letters().get(usize::from(*read)) {
                    Some(expected) if *expected == letter => *read += 1,
                    _ => return Err(Violation),
                }
                self.verb_read();
            }
            State::NeedBlank(verb) if is_blank(byte) => self.state = State::Blanks(*verb),
            State::Blanks(_) if is_blank(byte) => {}
            State::Blanks(verb) if byte != b'\n' => {
                self.state = match verb {
                    Verb::Lmsg | Verb::Hmsg => State::Args { args: Args::default(), cr: false },
                    _ => State::Tail,
                };
                // The byte is the first of the argument.
                return self.step(rest);
            }
            State::Args { args, .. } if byte == b'\n' => {
                let size = args.size().filter(|_| args.words() > 1).ok_or(Violation)?;
                self.messages += 1;
                self.payload += u64::from(size);
                self.state = if size == 0 { State::Cr } else { State::Payload(size) };
            }
            State::Args { args, cr: cr @ false } => match byte {
                b'\r' => *cr = true,
                _ => args.push(byte),
            },
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
            State::NeedBlank(_) | State::Blanks(_) | State::Args { .. } | State::Cr | State::Lf | State::Over => {
                return Err(Violation);
            }
        }
        Ok(1)
    }

    /// What follows the last letter of a verb: an argument, or anything up to the end of the line.
    fn verb_read(&mut self) {
        let State::Verb { verb, read } = self.state else { return };
        if usize::from(read) < verb.letters().len() {
            return;
        }
        match verb {
            Verb::Ping => self.pings = self.pings.wrapping_add(1),
            Verb::Pong => self.pongs = self.pongs.wrapping_add(1),
            _ => {}
        }
        self.state = match verb {
            Verb::Ping | Verb::Pong | Verb::Ok => State::Tail,
            Verb::Lmsg | Verb::Hmsg | Verb::Sub | Verb::Unsub | Verb::Err => State::NeedBlank(verb),
        };
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A whole control line of LMSG or HMSG in the usual form at the start of `rest`. The size of the payload, with the
/// headers, is its last word.
#[inline(always)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "`rest` starts with 5 matched bytes, and the arguments end within it"
)]
fn message(rest: &[u8]) -> Option<Line> {
    let [b'L' | b'H', b'M', b'S', b'G', b' ', ..] = rest else { return None };
    let rest = &rest[5..];
    let args = arguments(rest)?;
    let size = args.size(rest)?;
    (args.words > 1).then_some(Line { len: 5 + args.line, size })
}

#[cfg(test)]
mod tests;
