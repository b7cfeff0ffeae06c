//! What a client sends before it is admitted, as a state machine over bytes: one CONNECT, then whatever it pipelines.

use crate::protocol::{
    MAX_PIPELINED,
    connect::Connect,
    control_line::{ClientLine, LineScanner, client_line},
};

/// Why the preface went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// The server would say `maximum control line exceeded`.
    #[error("CONNECT is longer than max_control_line")]
    TooLong,
    /// Anything before CONNECT, or bytes that are no NATS.
    #[error("the first line is not CONNECT")]
    NotConnect,
    /// CONNECT's argument is not what nats-server accepts.
    #[error("CONNECT does not parse")]
    BadConnect,
    /// More behind CONNECT than may wait.
    #[error("more than {MAX_PIPELINED} bytes behind CONNECT")]
    TooMuch,
}

/// Collects bytes until CONNECT is complete, and then what follows it, bounded.
#[derive(Debug)]
pub struct Preface {
    /// Before CONNECT: the line so far. After it: what is pipelined behind.
    buffer: Vec<u8>,
    lines: LineScanner,
    connected: bool,
}

impl Preface {
    /// `max_control_line`: the longest argument of CONNECT, in bytes, as the servers are configured.
    pub fn new(max_control_line: usize) -> Self {
        Self { buffer: Vec::new(), lines: LineScanner::new(max_control_line), connected: false }
    }

    /// Takes in what was read. Returns CONNECT once, when it is complete.
    ///
    /// # Errors
    /// [`PrefaceError`]; the client is to be refused then.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<Box<Connect>>, PrefaceError> {
        self.buffer.extend_from_slice(bytes);
        let mut connect = None;
        if !self.connected {
            if !could_be_connect(&self.buffer) {
                return Err(PrefaceError::NotConnect);
            }
            let Some(end) = self.lines.find(&self.buffer).map_err(|_| PrefaceError::TooLong)? else { return Ok(None) };
            let ClientLine::Connect(argument) = client_line(&self.buffer[..end]) else {
                return Err(PrefaceError::NotConnect);
            };
            connect = Some(Box::new(Connect::parse(argument).map_err(|_| PrefaceError::BadConnect)?));
            self.connected = true;
            self.buffer.drain(..end);
        }
        if self.buffer.len() > MAX_PIPELINED {
            return Err(PrefaceError::TooMuch);
        }
        Ok(connect)
    }

    /// Whether anything has come at all.
    pub fn is_untouched(&self) -> bool {
        self.buffer.is_empty() && !self.connected
    }

    /// Takes a PING from the front of what is pipelined behind CONNECT, if that is what comes first.
    pub fn take_ping(&mut self) -> bool {
        let Some(end) = memchr::memchr(b'\n', &self.buffer).map(|i| i + 1) else { return false };
        let is_ping = matches!(client_line(&self.buffer[..end]), ClientLine::Ping);
        if is_ping {
            self.buffer.drain(..end);
        }
        is_ping
    }

    /// What is pipelined behind CONNECT, in order.
    pub fn into_pipelined(self) -> Vec<u8> {
        self.buffer
    }
}

/// Whether the start of the stream can still become CONNECT; a port scanner's first bytes are seen at once.
fn could_be_connect(bytes: &[u8]) -> bool {
    let verb = b"CONNECT";
    let n = bytes.len().min(verb.len());
    bytes[..n].eq_ignore_ascii_case(&verb[..n])
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
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PING\r\n", b" CONNECT {}\r\n", b"\r\n", b"CONNEXT"]
        {
            assert_eq!(Preface::new(4096).advance(bytes).unwrap_err(), PrefaceError::NotConnect, "{bytes:?}");
        }
        assert_eq!(Preface::new(4096).advance(b"CONNECT nonsense\r\n").unwrap_err(), PrefaceError::BadConnect);
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
        preface.advance(b"CONNECT {}\r\n").unwrap();
        preface.advance(&vec![b'x'; MAX_PIPELINED]).unwrap();
        assert_eq!(preface.advance(b"x").unwrap_err(), PrefaceError::TooMuch);
    }
}
