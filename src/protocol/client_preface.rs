//! The client's half of the preface as a state machine over bytes: one CONNECT, then whatever the client pipelines.
//!
//! A client may leave CONNECT out. nats-server then serves it, if it serves anybody without credentials, with the same
//! options as after an empty CONNECT. So does weir, which makes that CONNECT up at the first operation.

use crate::protocol::{
    MAX_READ_AHEAD,
    connect::Connect,
    control_line::{ClientLine, LineScanner, Operation, client_line, not_connect_at},
};

/// Why a client's preface is not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// A nats-server answers `maximum control line exceeded`.
    #[error("CONNECT is longer than max_control_line")]
    TooLong,
    /// No operation of a client, or bytes that are not NATS.
    #[error("the first line is no operation of a client")]
    NotConnect,
    /// A leafnode's S2 stream is broken, or it asks for a mode that nats-server does not know.
    #[error("the S2 stream cannot be read")]
    NotS2,
    /// nats-server would not accept the argument of CONNECT.
    #[error("CONNECT does not parse")]
    BadConnect,
}

/// Collects bytes until CONNECT is complete, and then those that follow it, for as long as its user goes on while it
/// [has room](Preface::has_room).
#[derive(Debug)]
pub struct Preface {
    /// Before CONNECT is complete, the line so far; afterwards, the bytes behind it.
    buffer: Vec<u8>,
    lines: LineScanner,
    connected: bool,
    /// The client has left CONNECT out.
    without_connect: bool,
    /// It may not do that: it is a leafnode.
    needs_connect: bool,
}

impl Preface {
    /// `max_control_line` is the longest argument of CONNECT that the servers accept, in bytes.
    pub fn new(max_control_line: usize) -> Self {
        Self {
            buffer: Vec::new(),
            lines: LineScanner::new(max_control_line),
            connected: false,
            without_connect: false,
            needs_connect: false,
        }
    }

    /// Of a leafnode, which says CONNECT first.
    #[must_use]
    pub fn of_leafnode(self) -> Self {
        Self { needs_connect: true, ..self }
    }

    /// Takes the next bytes of the stream. Returns CONNECT once, when it is complete, or when another operation stands
    /// in its place.
    ///
    /// # Errors
    /// [`PrefaceError`]: the client must be refused.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<Box<Connect>>, PrefaceError> {
        self.buffer.extend_from_slice(bytes);
        let mut connect = None;
        if !self.connected {
            if not_connect_at(&self.buffer).is_some() {
                match Operation::at_start_of(&self.buffer) {
                    Operation::Yes if !self.needs_connect => {}
                    Operation::Maybe => return Ok(None),
                    // A port scanner is refused at the first byte that says so.
                    Operation::Yes | Operation::No => return Err(PrefaceError::NotConnect),
                }
                connect = Connect::parse(b"{}").ok().map(Box::new);
                self.without_connect = true;
            } else {
                let found = self.lines.find(&self.buffer).map_err(|_| PrefaceError::TooLong)?;
                let Some(end) = found else { return Ok(None) };
                let ClientLine::Connect(argument) = client_line(self.buffer.get(..end).unwrap_or_default()) else {
                    return Err(PrefaceError::NotConnect);
                };
                let mut read = Connect::parse(argument).map_err(|_| PrefaceError::BadConnect)?;
                if self.needs_connect {
                    read.set_uncompressed();
                }
                connect = Some(Box::new(read));
                // A client that waits keeps no room for the line that has been read.
                self.buffer = self.buffer.split_off(end);
            }
            self.connected = true;
        }
        Ok(connect)
    }

    /// All that the client has said, as far as it is to be said again to another preface; `connect` is its CONNECT
    /// where that was complete. What a client that has left CONNECT out has said is as it came.
    pub fn said(&self, connect: Option<&Connect>) -> Vec<u8> {
        let mut said = Vec::new();
        if let Some(connect) = connect.filter(|_| !self.without_connect) {
            connect.write(&mut said);
        }
        said.extend_from_slice(&self.buffer);
        said
    }

    /// Whether more may be read: until CONNECT is complete, and then up to [`MAX_READ_AHEAD`] bytes.
    pub fn has_room(&self) -> bool {
        !self.connected || self.buffer.len() < MAX_READ_AHEAD
    }

    /// Whether there is something behind CONNECT that a server is to act on: more than a PING.
    pub fn has_operations(&self) -> bool {
        !b"PING\r\n".starts_with(&self.buffer)
    }

    /// Whether the client has sent nothing yet.
    pub fn is_untouched(&self) -> bool {
        self.buffer.is_empty() && !self.connected
    }

    /// Whether the client has left CONNECT out, so that it expects no answer to it.
    pub fn is_without_connect(&self) -> bool {
        self.without_connect
    }

    /// Removes a PING from the front of the pipelined bytes, if one is there.
    pub fn take_ping(&mut self) -> bool {
        let Some(end) = memchr::memchr(b'\n', &self.buffer) else { return false };
        let is_ping = self.buffer.get(..=end).is_some_and(|line| client_line(line) == ClientLine::Ping);
        if is_ping {
            self.buffer.drain(..=end);
        }
        is_ping
    }

    /// The bytes that the client sent behind CONNECT.
    pub fn into_pipelined(self) -> Vec<u8> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"CONNECT {\"user\":\"a\",\"lang\":\"go\"}\r\nPING\r\nSUB foo 1\r\n";

    #[test]
    fn cut_at_every_byte_it_is_the_same() {
        for cut in 0..=STREAM.len() {
            let mut preface = Preface::new(4096);
            let first = preface.advance(&STREAM[..cut]).unwrap();
            let second = preface.advance(&STREAM[cut..]).unwrap();
            let connect = first.or(second).expect("a CONNECT");
            assert_eq!(connect.user(), Some("a"));
            assert!(preface.take_ping());
            assert!(!preface.take_ping());
            assert_eq!(preface.into_pipelined(), b"SUB foo 1\r\n");
        }
    }

    #[test]
    fn anything_else_is_refused_at_its_first_byte() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PUT / ", b" CONNECT {}\r\n", b"\r\n", b"CONNEXT"] {
            assert_eq!(Preface::new(4096).advance(bytes).unwrap_err(), PrefaceError::NotConnect, "{bytes:?}");
        }
        assert_eq!(Preface::new(4096).advance(b"CONNECT nonsense\r\n").unwrap_err(), PrefaceError::BadConnect);
    }

    #[test]
    fn the_first_operation_stands_for_an_empty_connect() {
        for stream in
            [&b"PING\r\n"[..], b"pub a 1\r\nx\r\n", b"SUB\ta 1\n", b"Unsub 1\r\n", b"HPUB a 1 2", b"PONG\n", b"pingx"]
        {
            for cut in 0..=stream.len() {
                let mut preface = Preface::new(4096);
                let first = preface.advance(&stream[..cut]).unwrap();
                assert!(first.is_none() || cut > 3, "the verb is whole");
                let second = preface.advance(&stream[cut..]).unwrap();
                let connect = first.or(second).expect("a CONNECT");
                let options = (connect.verbose(), connect.pedantic(), connect.echo(), connect.headers());
                assert_eq!(options, (true, true, true, false), "nats-server's own, without CONNECT");
                assert_eq!((connect.protocol(), connect.user(), connect.signs()), (0, None, false));
                assert!(preface.is_without_connect());
                assert_eq!(preface.into_pipelined(), stream);
            }
        }
        let mut preface = Preface::new(4096);
        preface.advance(b"CONNECT {}\r\n").unwrap().expect("a CONNECT");
        assert!(!preface.is_without_connect());
    }

    #[test]
    fn everything_is_bounded() {
        let mut preface = Preface::new(4096);
        let mut taken = 0;
        let err = loop {
            match preface.advance(if taken == 0 { b"CONNECT {" } else { &[b'x'; 100] }) {
                Ok(_) => taken += 100,
                Err(err) => break err,
            }
            assert!(taken < 10_000);
        };
        assert_eq!(err, PrefaceError::TooLong);

        let mut preface = Preface::new(4096);
        preface.advance(b"CONNECT {}\r\nPING\r\n").unwrap();
        assert!(preface.has_room() && !preface.has_operations());
        preface.advance(&vec![b'x'; MAX_READ_AHEAD - 7]).unwrap();
        assert!(preface.has_room() && preface.has_operations());
        preface.advance(b"x").unwrap();
        assert!(!preface.has_room());
    }
}
