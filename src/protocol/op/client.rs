//! From client to server: nats-server's parser.go for a client, as far as the ends of operations go.

use memchr::memchr;

use crate::protocol::op::{
    args::Args,
    fast_path::{Line, arguments, messages},
};

/// What [`ClientFraming::scan`] found in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientScan {
    /// The whole chunk may be forwarded.
    Pass,
    /// A CONNECT has been recognised, by its verb. The bytes before `at` may be forwarded: they end before the verb, or, when
    /// the verb began in an earlier chunk, are none; its newline has never been among them. The scan is over.
    Connect {
        /// Where in the chunk the operation begins; 0 when it began earlier.
        at: usize,
    },
    /// What the server calls a parser error, or what it would read differently from read to read. To have the server
    /// say so itself, forward up to and including `at` and nothing after it. The scan is over.
    Violation {
        /// The offending byte.
        at: usize,
    },
}

/// Follows the stream from a client behind its first CONNECT.
///
/// An operation begins and ends where it does in nats-server (parser.go with `processPub` and `processHeaderPub`, 2.15).
/// Stricter than the server, because what it does there depends on how its reads cut the stream, or is an accident:
/// - a CR in the arguments of PUB or HPUB that is not followed by LF,
/// - a LF as the first byte of an argument (the server takes it for the argument's and goes on to the next line),
/// - HMSG, which the server takes from a client with whatever size it saw last.
///
/// What the server refuses without it having to do with framing (subjects, permissions, `max_payload`, the JSON of
/// INFO) is passed on; the server closes.
#[derive(Debug, Clone)]
pub struct ClientFraming {
    state: State,
    max_control_line: usize,
    messages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// This much of the verb has been read.
    Verb {
        verb: Verb,
        read: u8,
    },
    /// Behind a verb that needs a blank.
    NeedBlank(Verb),
    /// Blanks before an argument.
    Blanks(Verb),
    /// Behind PING, PONG and +OK, where anything goes.
    Tail,
    /// An argument of which only the end matters, and how long it is so far.
    Arg(usize),
    /// The arguments of PUB and HPUB, and whether the last byte was a CR.
    Sizes {
        verb: Verb,
        args: Args,
        len: usize,
        cr: bool,
    },
    /// This much of the payload is to come.
    Payload(u32),
    /// The CR behind the payload is to come.
    Cr,
    /// The LF behind the payload is to come.
    Lf,
    /// CONNECT or a violation has been reported.
    Over(Ended),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Connect,
    Violation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    Connect,
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
            b'c' => Self::Connect,
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
            Self::Connect => b"connect",
        }
    }

    /// The state behind the last letter; `None` for CONNECT.
    fn finished(self) -> Option<State> {
        Some(match self {
            Self::Ping | Self::Pong | Self::Ok => State::Tail,
            Self::Info => State::Blanks(self),
            Self::Connect => return None,
            _ => State::NeedBlank(self),
        })
    }
}

/// The byte ends the scan.
struct End(Ended);

const VIOLATION: End = End(Ended::Violation);

impl ClientFraming {
    /// Starts between two operations. `max_control_line` is the most bytes of an argument, as the server counts them;
    /// `usize::MAX` leaves that to the server, whose limit INFO does not tell.
    pub const fn new(max_control_line: usize) -> Self {
        Self { state: State::Start, max_control_line, messages: 0 }
    }

    /// Follows the next bytes of the stream. After anything but [`ClientScan::Pass`] nothing more is to be forwarded, and
    /// every further scan says the same again, `at` 0.
    pub fn scan(&mut self, chunk: &[u8]) -> ClientScan {
        let (mut at, mut op) = (0, 0);
        while at < chunk.len() {
            if matches!(self.state, State::Start) {
                at += self.publications(&chunk[at..]);
                op = at;
                if at == chunk.len() {
                    break;
                }
            }
            match self.step(&chunk[at..]) {
                Ok(read) => at += read,
                Err(End(ended)) => {
                    self.state = State::Over(ended);
                    return match ended {
                        Ended::Connect => ClientScan::Connect { at: op },
                        Ended::Violation => ClientScan::Violation { at },
                    };
                }
            }
        }
        ClientScan::Pass
    }

    /// PUB and HPUB so far, counted when their control line is complete.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether the stream stands between two operations.
    pub fn at_boundary(&self) -> bool {
        self.state == State::Start
    }

    /// The fast path: consumes messages from a boundary on, as long as their control lines are whole and usual. The state
    /// is a boundary behind it, or within a payload that goes on behind the chunk.
    fn publications(&mut self, chunk: &[u8]) -> usize {
        let max = self.max_control_line;
        let consumed = messages(chunk, |rest| publication(rest, max));
        self.messages += consumed.messages;
        if let Some(state) = consumed.leaves(State::Cr, State::Payload) {
            self.state = state;
        }
        consumed.bytes
    }

    /// Consumes at least one byte of `rest`, which is not empty. An error is about its first byte.
    fn step(&mut self, rest: &[u8]) -> Result<usize, End> {
        let byte = rest[0];
        match &mut self.state {
            State::Start => {
                let verb = Verb::starting_with(byte.to_ascii_lowercase()).ok_or(VIOLATION)?;
                self.state = State::Verb { verb, read: 1 };
            }
            State::Verb { verb, read } => {
                let letter = byte.to_ascii_lowercase();
                // Three verbs begin with a P.
                match (*verb, *read, letter) {
                    (Verb::Pub, 1, b'i') => *verb = Verb::Ping,
                    (Verb::Pub, 1, b'o') => *verb = Verb::Pong,
                    _ => {}
                }
                let letters = verb.letters();
                if letters.get(usize::from(*read)) != Some(&letter) {
                    return Err(VIOLATION);
                }
                *read += 1;
                if usize::from(*read) == letters.len() {
                    self.state = verb.finished().ok_or(End(Ended::Connect))?;
                }
            }
            State::NeedBlank(verb) => match byte {
                b' ' | b'\t' => self.state = State::Blanks(*verb),
                _ => return Err(VIOLATION),
            },
            State::Blanks(verb) => match byte {
                b' ' | b'\t' => {}
                b'\n' => return Err(VIOLATION),
                _ => {
                    let verb = *verb;
                    self.state = match verb {
                        Verb::Pub | Verb::Hpub => State::Sizes { verb, args: Args::default(), len: 0, cr: false },
                        _ => State::Arg(0),
                    };
                    // The byte is the argument's first, and read as such.
                    return self.step(rest);
                }
            },
            State::Tail => match memchr(b'\n', rest) {
                Some(end) => {
                    self.state = State::Start;
                    return Ok(end + 1);
                }
                None => return Ok(rest.len()),
            },
            State::Arg(_) if byte == b'\n' => self.state = State::Start,
            State::Arg(len) => {
                let end = memchr(b'\n', rest);
                let arg = &rest[..end.unwrap_or(rest.len())];
                let max = self.max_control_line;
                // A CR may stand behind the last byte that the limit allows, if LF follows it.
                if over_limit(byte, *len, max) {
                    return Err(VIOLATION);
                }
                let within = max.saturating_sub(*len).max(1);
                if arg.len() > within {
                    // Up to the first byte that may be one too many; the next step decides.
                    *len += within;
                    return Ok(within);
                }
                *len += arg.len();
                match end {
                    Some(end) => {
                        self.state = State::Start;
                        return Ok(end + 1);
                    }
                    None => return Ok(arg.len()),
                }
            }
            State::Sizes { verb, args, len, cr } => {
                if byte == b'\n' {
                    let size = finish(*verb, args).ok_or(VIOLATION)?;
                    self.messages += 1;
                    self.state = if size == 0 { State::Cr } else { State::Payload(size) };
                } else if *cr || over_limit(byte, *len, self.max_control_line) {
                    return Err(VIOLATION);
                } else {
                    *cr = byte == b'\r';
                    *len += 1;
                    if !*cr {
                        args.push(byte);
                    }
                }
            }
            State::Payload(left) => {
                // Both fit: a size has at most nine digits.
                let read = rest.len().min(*left as usize);
                *left -= read as u32;
                if *left == 0 {
                    self.state = State::Cr;
                }
                return Ok(read);
            }
            State::Cr => match byte {
                b'\r' => self.state = State::Lf,
                _ => return Err(VIOLATION),
            },
            State::Lf => match byte {
                b'\n' => self.state = State::Start,
                _ => return Err(VIOLATION),
            },
            State::Over(ended) => return Err(End(*ended)),
        }
        Ok(1)
    }
}

/// Whether this byte at index `len` of an argument makes it longer than `max`, given that it is not the line's LF.
fn over_limit(byte: u8, len: usize, max: usize) -> bool {
    if byte == b'\r' { len > max } else { len >= max }
}

/// The size of the payload, when the arguments of the line are right.
fn finish(verb: Verb, args: &Args) -> Option<u32> {
    match (verb, args.words()) {
        (Verb::Pub, 2 | 3) => args.size(),
        (Verb::Hpub, 3 | 4) => args.sizes().filter(|(header, total)| header <= total).map(|(_, total)| total),
        _ => None,
    }
}

/// A whole, usual control line of PUB or HPUB at the start of `rest`.
#[inline(always)]
fn publication(rest: &[u8], max_control_line: usize) -> Option<Line> {
    let &[a, b, c, d, e, ..] = rest else {
        return None;
    };
    // Clearing this bit is `to_ascii_uppercase` for what becomes a letter by it.
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
