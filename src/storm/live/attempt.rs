//! One attempt to connect, as a library makes it: TCP, INFO, CONNECT and PING, PONG, within its own deadline.

use std::{
    borrow::Cow,
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{SockRef, Socket};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};

use crate::{
    client_library::{
        behaviour::Ending,
        table::{BeforePong, Deadline, Library},
    },
    net::stream::Stream,
    storm::live::{security::OwnTls, seen::Seen},
};

/// A line longer than this is no NATS.
const LONGEST_LINE: usize = 256 * 1024;

/// What became of an attempt.
pub(super) enum Outcome {
    /// PONG came; what followed it.
    In(Stream, Vec<u8>),
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
    pub(super) ghost: Option<Socket>,
}

/// For the report.
pub(super) enum What {
    /// `-ERR` with this text.
    Refused(String),
    /// Something else.
    Error(Cow<'static, str>),
}

impl Failure {
    pub(super) fn error(ending: Ending, what: impl Into<Cow<'static, str>>) -> Self {
        Self { ending, what: What::Error(what.into()), ghost: None }
    }

    /// Keeps the socket open.
    pub(super) fn left_open(&mut self, tcp: Option<&TcpStream>) {
        self.ghost = tcp.and_then(|tcp| SockRef::from(tcp).try_clone().ok());
    }
}

/// The running deadline of a library.
pub(super) struct Clock {
    kind: Deadline,
    pub(super) until: Instant,
}

impl Clock {
    fn start(kind: Deadline) -> Self {
        Self { kind, until: Instant::now() + kind.step() }
    }

    /// The next step begins.
    pub(super) fn step(&mut self) {
        if let Deadline::PerStep(each) = self.kind {
            self.until = Instant::now() + each;
        }
    }
}

/// What an attempt needs of its client.
pub(super) struct Caller<'a> {
    pub(super) library: &'a Library,
    pub(super) source: Option<IpAddr>,
    pub(super) tls: Option<&'a OwnTls>,
    pub(super) connect: &'a [u8],
    pub(super) seen: &'a Seen,
}

/// Makes an attempt at the `n`th server, at `address`.
pub(super) async fn make(caller: Caller<'_>, n: usize, address: SocketAddr) -> Outcome {
    let library = caller.library;
    let mut clock = Clock::start(library.deadline);
    let stream = match timeout_at(clock.until, dial(address, caller.source)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(err)) => return Outcome::Failed(Failure::error(Ending::BeforeInfo, describe("dial", &err))),
        Err(_) => return Outcome::Failed(Failure::error(Ending::TimedOut, "timed out: dial")),
    };
    match handshake(&caller, n, stream, &mut clock).await {
        Ok(Some(mut lines)) => {
            lines.bytes.drain(..lines.taken);
            Outcome::In(lines.stream, lines.bytes)
        }
        Ok(None) => Outcome::Hangs,
        Err(mut failure) => {
            if library.ghost.is_zero() {
                failure.ghost = None;
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

pub(super) fn describe(step: &str, err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused: {step}"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => format!("reset: {step}"),
        // From one address to another there are only so many, by net.ipv4.ip_local_port_range.
        io::ErrorKind::AddrNotAvailable => format!("no local port is left: {step}"),
        _ => format!("{err}: {step}"),
    }
}

/// `None` hangs for ever.
async fn handshake(caller: &Caller<'_>, n: usize, tcp: TcpStream, clock: &mut Clock) -> Result<Option<Lines>, Failure> {
    let first = match caller.tls {
        Some(tls) if tls.first => tls.shake(tcp, n, clock, &caller.seen.tls).await?,
        _ => Stream::from(tcp),
    };
    clock.step();
    let mut lines = Lines { stream: first, bytes: Vec::with_capacity(1024), taken: 0 };
    let info = match lines.next(clock.until, "INFO").await {
        Ok(Some(line)) if line.starts_with("INFO ") => line,
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
    };
    if caller.library.info_alone && lines.has_more() {
        return Err(Failure::error(Ending::Broken, "more than INFO in its read"));
    }
    let lines = match (caller.tls, lines.stream) {
        (None, _) if demands_tls(&info) => {
            return Err(Failure::error(Ending::Broken, "the server demands TLS: --tls"));
        }
        (Some(_), Stream::Plain(_)) if !offers_tls(&info) => {
            return Err(Failure::error(Ending::Broken, "the server offers no TLS"));
        }
        (Some(tls), Stream::Plain(tcp)) => {
            let stream = tls.shake(tcp, n, clock, &caller.seen.tls).await?;
            Lines { stream, bytes: Vec::with_capacity(1024), taken: 0 }
        }
        (_, stream) => Lines { stream, ..lines },
    };
    login(caller, lines, clock).await
}

fn demands_tls(info: &str) -> bool {
    info.contains("\"tls_required\":true")
}

fn offers_tls(info: &str) -> bool {
    demands_tls(info) || info.contains("\"tls_available\":true")
}

/// From CONNECT on; `None` hangs for ever.
async fn login(caller: &Caller<'_>, mut lines: Lines, clock: &mut Clock) -> Result<Option<Lines>, Failure> {
    let (library, connect) = (caller.library, caller.connect);
    clock.step();
    let said = async {
        if library.two_writes {
            lines.stream.send(connect).await?;
            lines.stream.send(b"PING\r\n").await
        } else {
            lines.stream.send(&[connect, b"PING\r\n"].concat()).await
        }
    };
    match timeout_at(clock.until, said).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => return Err(Failure::error(Ending::Reset, describe("CONNECT", &err))),
        Err(_) => return Err(lines.timed_out("CONNECT")),
    }
    loop {
        let Some(line) = lines.next(clock.until, "PONG").await? else {
            return Err(Failure::error(Ending::Ended, "end of stream: PONG"));
        };
        if line.starts_with("PONG") {
            return Ok(Some(lines));
        }
        if let Some(text) = error_text(&line) {
            let ending = Ending::Refused(library.strike(text));
            return Err(Failure { ending, what: What::Refused(text.into()), ghost: None });
        }
        match library.before_pong {
            BeforePong::Skips => {}
            BeforePong::Succeeds => return Ok(Some(lines)),
            BeforePong::Hangs => return Ok(None),
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
    stream: Stream,
    bytes: Vec<u8>,
    taken: usize,
}

impl Lines {
    /// The library's deadline is over.
    fn timed_out(&self, step: &str) -> Failure {
        let mut failure = Failure::error(Ending::TimedOut, format!("timed out: {step}"));
        failure.left_open(Some(self.stream.tcp()));
        failure
    }

    fn has_more(&self) -> bool {
        self.taken < self.bytes.len()
    }

    /// The next line; `None` is the end of the stream.
    async fn next(&mut self, until: Instant, step: &str) -> Result<Option<String>, Failure> {
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
                Err(_) => return Err(self.timed_out(step)),
            }
        }
    }
}
