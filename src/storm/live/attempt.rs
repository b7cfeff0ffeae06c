//! One attempt to connect, as a library makes it: TCP, INFO, CONNECT and PING, PONG, within its own deadline.

use std::{
    borrow::Cow,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};

use crate::storm::{
    behaviour::Ending,
    library::{BeforePong, Deadline, Library},
};

/// A line longer than this is no NATS.
const LONGEST_LINE: usize = 256 * 1024;

/// What became of an attempt.
pub(super) enum Outcome {
    /// PONG came; what followed it.
    In(TcpStream, Vec<u8>),
    /// It failed.
    Failed(Failure),
    /// The library stays in between for ever.
    Hangs,
}

/// How an attempt failed.
pub(super) struct Failure {
    /// What the library makes of it.
    pub(super) ending: Ending,
    /// For the report: the text of a refusal, or what happened.
    pub(super) what: What,
    /// The socket, where the library leaves it open.
    pub(super) ghost: Option<TcpStream>,
}

/// For the report.
pub(super) enum What {
    /// `-ERR` with this text.
    Refused(String),
    /// Something else.
    Error(Cow<'static, str>),
}

impl Failure {
    fn error(ending: Ending, what: impl Into<Cow<'static, str>>) -> Self {
        Self { ending, what: What::Error(what.into()), ghost: None }
    }
}

/// The running deadline of a library.
struct Clock {
    kind: Deadline,
    until: Instant,
}

impl Clock {
    fn start(kind: Deadline) -> Self {
        Self { kind, until: Instant::now() + kind.step() }
    }

    /// The next step begins.
    fn step(&mut self) {
        if let Deadline::PerStep(each) = self.kind {
            self.until = Instant::now() + each;
        }
    }
}

/// Makes an attempt at `address`, from `source` where one is given.
pub(super) async fn make(library: &Library, address: SocketAddr, source: Option<IpAddr>, connect: &[u8]) -> Outcome {
    let mut clock = Clock::start(library.deadline);
    let stream = match timeout_at(clock.until, dial(address, source)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(err)) => return Outcome::Failed(Failure::error(Ending::BeforeInfo, describe("dial", &err))),
        Err(_) => return Outcome::Failed(Failure::error(Ending::TimedOut, "timed out: dial")),
    };
    let mut line = Lines { stream, bytes: Vec::with_capacity(1024), taken: 0 };
    match handshake(library, &mut line, &mut clock, connect).await {
        Ok(true) => {
            line.bytes.drain(..line.taken);
            Outcome::In(line.stream, line.bytes)
        }
        Ok(false) => Outcome::Hangs,
        Err(mut failure) => {
            if failure.ending == Ending::TimedOut && library.ghost > Duration::ZERO {
                failure.ghost = Some(line.stream);
            }
            Outcome::Failed(failure)
        }
    }
}

async fn dial(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn describe(step: &str, err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused: {step}"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => format!("reset: {step}"),
        _ => format!("{err}: {step}"),
    }
}

/// `Ok(true)` is connected, `Ok(false)` hung for ever.
async fn handshake(library: &Library, lines: &mut Lines, clock: &mut Clock, connect: &[u8]) -> Result<bool, Failure> {
    clock.step();
    match lines.next(clock.until, "INFO").await {
        Ok(Some(line)) if line.starts_with("INFO ") => {
            if line.contains("\"tls_required\":true") {
                return Err(Failure::error(Ending::Broken, "the server demands TLS, which is not spoken here"));
            }
        }
        Ok(Some(line)) => {
            let what = match error_text(&line) {
                Some(text) => What::Refused(text.into()),
                None => What::Error("the first line is no INFO".into()),
            };
            return Err(Failure { ending: Ending::BeforeInfo, what, ghost: None });
        }
        Ok(None) => return Err(Failure::error(Ending::BeforeInfo, "end of stream: INFO")),
        Err(mut failure) => {
            if failure.ending == Ending::Reset {
                failure.ending = Ending::BeforeInfo;
            }
            return Err(failure);
        }
    }
    if library.info_alone && lines.has_more() {
        return Err(Failure::error(Ending::Broken, "more than INFO in its read"));
    }
    clock.step();
    let said = async {
        if library.two_writes {
            lines.stream.write_all(connect).await?;
            lines.stream.write_all(b"PING\r\n").await
        } else {
            lines.stream.write_all(&[connect, b"PING\r\n"].concat()).await
        }
    };
    match timeout_at(clock.until, said).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => return Err(Failure::error(Ending::Reset, describe("CONNECT", &err))),
        Err(_) => return Err(Failure::error(Ending::TimedOut, "timed out: CONNECT")),
    }
    loop {
        let Some(line) = lines.next(clock.until, "PONG").await? else {
            return Err(Failure::error(Ending::Ended, "end of stream: PONG"));
        };
        if line.starts_with("PONG") {
            return Ok(true);
        }
        if let Some(text) = error_text(&line) {
            let ending = Ending::Refused(library.strike(text));
            return Err(Failure { ending, what: What::Refused(text.into()), ghost: None });
        }
        match library.before_pong {
            BeforePong::Skips => {}
            BeforePong::Succeeds => return Ok(true),
            BeforePong::Hangs => return Ok(false),
            BeforePong::Fails => {
                let word: String = line.split_whitespace().next().unwrap_or_default().chars().take(20).collect();
                return Err(Failure::error(Ending::Broken, format!("{word} in place of PONG")));
            }
        }
    }
}

/// The text of an `-ERR` line.
pub(super) fn error_text(line: &str) -> Option<&str> {
    line.strip_prefix("-ERR").map(|text| text.trim().trim_matches('\''))
}

/// A stream, by lines.
struct Lines {
    stream: TcpStream,
    bytes: Vec<u8>,
    taken: usize,
}

impl Lines {
    fn has_more(&self) -> bool {
        self.taken < self.bytes.len()
    }

    /// The next line; `None` is the end of the stream.
    async fn next(&mut self, until: Instant, step: &'static str) -> Result<Option<String>, Failure> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.bytes[self.taken..]) {
                let line = &self.bytes[self.taken..self.taken + at];
                let line = String::from_utf8_lossy(line).trim_end().to_owned();
                self.taken += at + 1;
                return Ok(Some(line));
            }
            if self.bytes.len() - self.taken > LONGEST_LINE {
                return Err(Failure::error(Ending::Broken, "a line without an end"));
            }
            match timeout_at(until, self.stream.read_buf(&mut self.bytes)).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => {}
                Ok(Err(err)) => return Err(Failure::error(Ending::Reset, describe(step, &err))),
                Err(_) => return Err(Failure::error(Ending::TimedOut, format!("timed out: {step}"))),
            }
        }
    }
}
