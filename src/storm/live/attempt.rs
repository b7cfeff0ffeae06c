//! One attempt to connect, as a library makes it: TCP, INFO, CONNECT and PING, PONG, within the library's own deadline.

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
        library::{BeforePong, Deadline, Library},
    },
    net::stream::Stream,
    storm::live::{stats::TlsStats, tls::ClientTls},
};

/// A longer line is not the NATS protocol.
const LONGEST_LINE: usize = 256 * 1024;

/// How an attempt ended.
pub(super) enum AttemptEnd {
    /// PONG came. The bytes are those that followed it.
    Connected(Stream, Vec<u8>),
    Failed(Failure),
    /// The library neither connects nor tries again, for ever.
    Hangs,
}

/// How an attempt failed.
pub(super) struct Failure {
    /// The way that decides what the library does next.
    pub(super) ending: Ending,
    /// The text for the report.
    pub(super) text: FailureText,
    /// The socket, if the library leaves it open.
    pub(super) abandoned_socket: Option<Socket>,
}

/// A failure in the report.
pub(super) enum FailureText {
    /// The text of `-ERR`.
    Refused(String),
    /// What else happened, and at which step.
    Error(Cow<'static, str>),
}

impl Failure {
    pub(super) fn error(ending: Ending, text: impl Into<Cow<'static, str>>) -> Self {
        Self { ending, text: FailureText::Error(text.into()), abandoned_socket: None }
    }

    /// Keeps a copy of the socket, which keeps the connection open.
    pub(super) fn keep_socket(&mut self, tcp: Option<&TcpStream>) {
        self.abandoned_socket = tcp.and_then(|tcp| SockRef::from(tcp).try_clone().ok());
    }
}

/// The library's deadline of a running attempt.
pub(super) struct DeadlineTimer {
    deadline: Deadline,
    pub(super) until: Instant,
}

impl DeadlineTimer {
    fn start(deadline: Deadline) -> Self {
        Self { deadline, until: Instant::now() + deadline.step() }
    }

    /// The next step begins. A deadline for each step starts anew.
    pub(super) fn next_step(&mut self) {
        if let Deadline::PerStep(each) = self.deadline {
            self.until = Instant::now() + each;
        }
    }
}

/// What an attempt needs from its client.
pub(super) struct Attempt<'a> {
    pub(super) library: &'a Library,
    pub(super) source: Option<IpAddr>,
    pub(super) tls: Option<&'a ClientTls>,
    pub(super) connect: &'a [u8],
    pub(super) tls_stats: &'a TlsStats,
}

impl Attempt<'_> {
    /// Makes the attempt at the `n`th server, at `address`.
    pub(super) async fn make(&self, n: usize, address: SocketAddr) -> AttemptEnd {
        let mut timer = DeadlineTimer::start(self.library.deadline);
        let stream = match timeout_at(timer.until, dial(address, self.source)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(err)) => return AttemptEnd::Failed(Failure::error(Ending::BeforeInfo, describe("dial", &err))),
            Err(_) => return AttemptEnd::Failed(Failure::error(Ending::TimedOut, "timed out: dial")),
        };
        match self.handshake(n, stream, &mut timer).await {
            Ok(Some(mut lines)) => {
                lines.bytes.drain(..lines.taken);
                AttemptEnd::Connected(lines.stream, lines.bytes)
            }
            Ok(None) => AttemptEnd::Hangs,
            Err(mut failure) => {
                if self.library.keeps_abandoned_socket.is_zero() {
                    failure.abandoned_socket = None;
                }
                AttemptEnd::Failed(failure)
            }
        }
    }

    /// From the TCP connection to PONG; `None`: the library hangs for ever.
    async fn handshake(
        &self,
        n: usize,
        tcp: TcpStream,
        timer: &mut DeadlineTimer,
    ) -> Result<Option<LineReader>, Failure> {
        let stream = match self.tls {
            Some(tls) if tls.first => tls.handshake(tcp, n, timer, self.tls_stats).await?,
            _ => Stream::from(tcp),
        };
        timer.next_step();
        let mut lines = LineReader::new(stream);
        let info = read_info(&mut lines, timer.until).await?;
        if self.library.needs_info_alone && lines.has_more() {
            return Err(Failure::error(Ending::Malformed, "more than INFO in its read"));
        }
        let lines = match (self.tls, lines.stream) {
            (None, _) if demands_tls(&info) => {
                return Err(Failure::error(Ending::Malformed, "the server demands TLS: --tls"));
            }
            (Some(_), Stream::Plain(_)) if !offers_tls(&info) => {
                return Err(Failure::error(Ending::Malformed, "the server offers no TLS"));
            }
            (Some(tls), Stream::Plain(tcp)) => LineReader::new(tls.handshake(tcp, n, timer, self.tls_stats).await?),
            (_, stream) => LineReader { stream, ..lines },
        };
        self.login(lines, timer).await
    }

    /// From CONNECT to PONG; `None`: the library hangs for ever.
    async fn login(&self, mut lines: LineReader, timer: &mut DeadlineTimer) -> Result<Option<LineReader>, Failure> {
        timer.next_step();
        let sent = async {
            if self.library.sends_ping_apart {
                lines.stream.send(self.connect).await?;
                lines.stream.send(b"PING\r\n").await
            } else {
                lines.stream.send(&[self.connect, b"PING\r\n"].concat()).await
            }
        };
        match timeout_at(timer.until, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => return Err(Failure::error(Ending::Reset, describe("CONNECT", &err))),
            Err(_) => return Err(lines.timed_out("CONNECT")),
        }
        loop {
            let Some(line) = lines.next(timer.until, "PONG").await? else {
                return Err(Failure::error(Ending::Eof, "end of stream: PONG"));
            };
            if line.starts_with("PONG") {
                return Ok(Some(lines));
            }
            if let Some(text) = error_text(&line) {
                let (ending, text) = (self.library.refused_with(text), FailureText::Refused(text.into()));
                return Err(Failure { ending, text, abandoned_socket: None });
            }
            match self.library.before_pong {
                BeforePong::Ignores => {}
                BeforePong::Connects => return Ok(Some(lines)),
                BeforePong::Hangs => return Ok(None),
                BeforePong::Fails => {
                    let word: String = line.split_whitespace().next().unwrap_or_default().chars().take(20).collect();
                    return Err(Failure::error(Ending::Malformed, format!("{word} in place of PONG")));
                }
            }
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
        // net.ipv4.ip_local_port_range limits the connections from one address to another.
        io::ErrorKind::AddrNotAvailable => format!("no local port is left: {step}"),
        _ => format!("{err}: {step}"),
    }
}

async fn read_info(lines: &mut LineReader, until: Instant) -> Result<String, Failure> {
    match lines.next(until, "INFO").await {
        Ok(Some(line)) if line.starts_with("INFO ") => Ok(line),
        Ok(Some(line)) => {
            let text = match error_text(&line) {
                Some(text) => FailureText::Refused(text.into()),
                None => FailureText::Error("the first line is no INFO".into()),
            };
            Err(Failure { ending: Ending::BeforeInfo, text, abandoned_socket: None })
        }
        Ok(None) => Err(Failure::error(Ending::BeforeInfo, "end of stream: INFO")),
        Err(mut failure) => {
            if failure.ending == Ending::Reset {
                failure.ending = Ending::BeforeInfo;
            }
            Err(failure)
        }
    }
}

fn demands_tls(info: &str) -> bool {
    info.contains("\"tls_required\":true")
}

fn offers_tls(info: &str) -> bool {
    demands_tls(info) || info.contains("\"tls_available\":true")
}

/// The text of an `-ERR` line.
pub(super) fn error_text(line: &str) -> Option<&str> {
    line.strip_prefix("-ERR").map(|text| text.trim().trim_matches('\''))
}

/// Reads a stream line by line.
struct LineReader {
    stream: Stream,
    bytes: Vec<u8>,
    /// How many of `bytes` have been returned as lines.
    taken: usize,
}

impl LineReader {
    fn new(stream: Stream) -> Self {
        Self { stream, bytes: Vec::with_capacity(1024), taken: 0 }
    }

    /// The failure when the library's deadline has passed at this step.
    fn timed_out(&self, step: &str) -> Failure {
        let mut failure = Failure::error(Ending::TimedOut, format!("timed out: {step}"));
        failure.keep_socket(Some(self.stream.tcp()));
        failure
    }

    fn has_more(&self) -> bool {
        self.taken < self.bytes.len()
    }

    /// The next line; `None`: the stream has ended.
    async fn next(&mut self, until: Instant, step: &str) -> Result<Option<String>, Failure> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.bytes[self.taken..]) {
                let line = &self.bytes[self.taken..self.taken + at];
                let line = String::from_utf8_lossy(line).trim_end().to_owned();
                self.taken += at + 1;
                return Ok(Some(line));
            }
            if self.bytes.len() - self.taken > LONGEST_LINE {
                return Err(Failure::error(Ending::Malformed, "a line without an end"));
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
