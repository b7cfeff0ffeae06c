//! The server's half of the preface: connect, read INFO, send CONNECT and PING, wait for PONG or `-ERR`.
//! [`dial_websocket`] does so at the server's WebSocket port.

mod connect;
mod early_error;
mod header;
mod websocket;

use std::{future::pending, io, ops::Range, pin::pin, sync::Arc, time::Duration};

use tokio::{io::AsyncReadExt, time::Instant};
use tracing::warn;

use crate::{
    net::{
        stream::Stream,
        timer::{self, timeout_at},
    },
    protocol::{
        MAX_INFO_LINE, PONG,
        control_line::{LineScanner, ServerLine, server_line},
        info::{Info, InfoError},
        proxy_header,
    },
    tls::{ConnectError, Connector},
    upstream::{InfoKind, InfoWhen, Port, Server},
    worker::with_rng,
};

pub use self::{
    connect::connect,
    early_error::{Busy, busy, may_be_busy},
    websocket::dial_websocket,
};
use self::{connect::connect_then, early_error::instead_of_tls};

/// How long weir waits after PONG for the INFO that names the account. The server writes both together, so one that has
/// not sent the INFO by then does not send it.
const ACCOUNT_NAME_TIMEOUT: Duration = Duration::from_millis(250);

/// Why a server could not be used. None of these is the client's fault, so weir places the client elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Refused, unreachable, reset.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No agreement on TLS.
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("no answer in time")]
    TimedOut,
    /// The stream ended before PONG or `-ERR`.
    #[error("the server closed the connection")]
    Closed,
    /// The server sent what a nats-server does not send.
    #[error("not a nats-server: {0}")]
    NotNats(&'static str),
    /// The server said `maximum connections exceeded`: others took the slot.
    #[error("the server is full")]
    Full,
    /// The server does no more TLS handshakes in this second (`connection_rate_limit`).
    #[error("the server limits its rate of connections")]
    Throttled,
    /// The name of its cluster does not fit: it is somebody else's.
    #[error("it belongs to another cluster")]
    OtherCluster,
    /// It ends connections that begin with a PROXY header.
    #[error("it refuses PROXY headers: it needs proxy_protocol: true, or weir no cluster.proxy_protocol")]
    RefusesHeader,
    /// Its WebSocket or leafnode port has not answered, and the pause after that is not over; or weir does not know it.
    /// Nothing was dialled.
    #[error("this port of it does not answer, or is not known")]
    LeftAlone,
}

impl Busy {
    /// Notes that the server has said so.
    pub fn note_at(self, server: &Server) {
        match self {
            Self::Full => server.said_full(timer::now()),
            Self::Throttled => server.said_throttled(timer::now()),
        }
    }
}

impl DialError {
    /// Whether it is this machine's fault, and says nothing of the server.
    pub fn says_nothing(&self) -> bool {
        matches!(self, Self::Io(err) if is_for_want_of_memory_or_files(err))
    }

    /// Whether a nats-server has said so that works.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Full | Self::Throttled)
    }

    /// Notes what this end of a dial shows of its server. The dial `began` then, and was `given` so long. Returns the
    /// pause when that ejects the server, or its WebSocket port, anew.
    pub fn note_at(&self, server: &Server, port: Port, (began, given): (Instant, Duration)) -> Option<Duration> {
        match self {
            // It answers, and is not to be used now.
            Self::Full | Self::Throttled => {
                server.dial_answered_in(port, began.elapsed());
                match self {
                    Self::Throttled => server.said_throttled(timer::now()),
                    _ => server.said_full(timer::now()),
                }
                None
            }
            Self::OtherCluster => {
                server.dial_answered_in(port, began.elapsed());
                None
            }
            _ if self.says_nothing() => {
                server.dial_says_nothing(port, timer::now());
                None
            }
            Self::TimedOut => with_rng(|rng| server.dial_timed_out(port, timer::now(), given, rng)),
            Self::Io(err) if err.kind() == io::ErrorKind::ConnectionRefused => {
                with_rng(|rng| server.dial_refused(port, timer::now(), rng))
            }
            _ => with_rng(|rng| server.dial_failed(port, timer::now(), rng)),
        }
    }
}

/// Whether this machine had no descriptor or memory for the connection, which says nothing of the server.
fn is_for_want_of_memory_or_files(err: &io::Error) -> bool {
    use rustix::io::Errno;
    let wants = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].map(Errno::raw_os_error);
    err.raw_os_error().is_some_and(|code| wants.contains(&code))
}

/// A connection to a server whose INFO has been read.
#[derive(Debug)]
pub struct ServerConnection {
    stream: Stream,
    port: Port,
    lines: Lines,
    info: Arc<Info>,
    /// See [`header::may_refuse`].
    may_refuse_header: bool,
}

/// What the server replied to CONNECT.
#[derive(Debug)]
pub enum LoginReply {
    /// PONG: the client is logged in.
    Pong(Box<LoggedIn>),
    /// The whole `-ERR` line, to be passed on unchanged.
    Err(Vec<u8>),
}

/// A connection on which the server has logged the client in.
#[derive(Debug)]
pub struct LoggedIn {
    pub stream: Stream,
    /// The server's INFO for this client: the one after its first PONG, or before 2.12 the first.
    pub info: Arc<Info>,
    /// What the server has sent after that.
    pub rest: Vec<u8>,
}

/// Who does TLS with the server on a connection.
#[derive(Debug, Clone, Copy)]
pub enum ServerTls<'a> {
    /// Nobody.
    None,
    /// weir.
    Weir(&'a Connector),
    /// The client, after INFO (passthrough). weir reads nothing of what follows INFO, except a full server's `-ERR`.
    Client,
}

impl<'a> From<Option<&'a Connector>> for ServerTls<'a> {
    fn from(tls: Option<&'a Connector>) -> Self {
        tls.map_or(Self::None, Self::Weir)
    }
}

/// Connects to `server`, sends `first_bytes` (which may be empty), and reads INFO; weir's TLS, if any, comes before or
/// after INFO. The first bytes are a PROXY header; or CONNECT and PING, for a server that is known to need nothing else
/// first, above all no TLS: then [`ServerConnection::handshake`] only waits for the reply.
///
/// # Errors
/// Any [`DialError`]; [`DialError::Full`] and [`DialError::Throttled`] only where TLS is to follow.
pub async fn dial(
    server: &Server,
    tls: ServerTls<'_>,
    first_bytes: &[u8],
    deadline: Instant,
) -> Result<ServerConnection, DialError> {
    let dialled = dial_to_look(server, tls, first_bytes, deadline).await?;
    if server.refuses_proxy_header() {
        if dialled.may_refuse_header {
            return Err(DialError::RefusesHeader);
        }
        // Another process is there, or another configuration.
        if proxy_header::is_begun(first_bytes) == Some(true) {
            server.set_refuses_proxy_header(false);
        }
    }
    Ok(dialled)
}

/// The same, whether the server has refused a PROXY header before or not: [`ServerConnection::refuses_header`] looks
/// again.
///
/// # Errors
/// As [`dial`].
pub async fn dial_to_look(
    server: &Server,
    tls: ServerTls<'_>,
    first_bytes: &[u8],
    deadline: Instant,
) -> Result<ServerConnection, DialError> {
    let sends_header = proxy_header::is_begun(first_bytes) == Some(true);
    connect_then(server.endpoint(), first_bytes, deadline, async |tcp| {
        open(server, (Port::Client, server.address(), sends_header), tls, Stream::from(tcp), deadline).await
    })
    .await
}

/// The same at the leafnode port of `server`.
///
/// # Errors
/// Any [`DialError`].
pub async fn dial_leafnode(
    server: &Server,
    tls: ServerTls<'_>,
    first_bytes: &[u8],
    deadline: Instant,
) -> Result<ServerConnection, DialError> {
    let Some(endpoint) = server.leafnode().endpoint() else { return Err(DialError::LeftAlone) };
    connect_then(&endpoint, first_bytes, deadline, async |tcp| {
        open(server, (Port::Leafnode, endpoint.address(), false), tls, Stream::from(tcp), deadline).await
    })
    .await
}

/// Reads INFO on a new connection; weir's TLS, if any, comes before or after that.
async fn open(
    server: &Server,
    (port, address, sends_header): (Port, &str, bool),
    tls: ServerTls<'_>,
    mut stream: Stream,
    deadline: Instant,
) -> Result<ServerConnection, DialError> {
    if let ServerTls::Weir(tls) = tls
        && tls.handshake_first()
    {
        stream = with_tls(stream, tls, address, deadline).await?;
    }
    let (mut lines, info) = read_info(server, port, &mut stream, deadline).await?;
    let may_refuse_header = sends_header && header::may_refuse(&stream, &info);
    if let (ServerTls::Weir(_) | ServerTls::Client, Stream::Plain(_)) = (tls, &stream) {
        // A busy server says so right behind INFO. Whatever else follows INFO without TLS may be anybody's.
        if !lines.unread().is_empty() {
            let line = lines.next(&mut stream, deadline).await?;
            return Err(instead_of_tls(lines.get(line)));
        }
    }
    match (tls, &stream) {
        (ServerTls::None, _) if info.tls_required() => {
            return Err(DialError::NotNats("it requires TLS: write [cluster.tls]"));
        }
        (ServerTls::None, _) if port == Port::Client => server.asked_for_no_tls(),
        (ServerTls::Weir(_), Stream::Plain(_)) if !info.does_tls() => {
            return Err(DialError::NotNats("it speaks no TLS, which [cluster.tls] asks for"));
        }
        (ServerTls::Weir(tls), Stream::Plain(_)) => {
            stream = match with_tls(stream, tls, address, deadline).await {
                Err(DialError::Tls(err)) if may_refuse_header && header::is_end(&err) => {
                    return Err(DialError::RefusesHeader);
                }
                done => done?,
            };
        }
        _ => {}
    }
    Ok(ServerConnection { stream, port, lines, info: Arc::new(info), may_refuse_header })
}

/// Reads the INFO that opens a connection.
async fn read_info(
    server: &Server,
    port: Port,
    stream: &mut Stream,
    deadline: Instant,
) -> Result<(Lines, Info), DialError> {
    let mut lines = Lines::default();
    let line = lines.next(stream, deadline).await?;
    let ServerLine::Info(json) = server_line(lines.get(line)) else { return Err(DialError::NotNats("no INFO")) };
    let info = parse_info(server, json, InfoKind { port, when: InfoWhen::Opens });
    let info = info.map_err(|_| DialError::NotNats("INFO does not parse"))?;
    // Before it gets anybody's password.
    if server.is_stranger() {
        return Err(DialError::OtherCluster);
    }
    Ok((lines, info))
}

/// Parses an INFO of a server. What weir does not understand of it is counted, and told once a minute at most.
///
/// # Errors
/// It does not parse.
pub fn parse_info(server: &Server, json: &[u8], kind: InfoKind) -> Result<Info, InfoError> {
    let now = timer::now();
    let parsed = server.parse_info(now, json, kind);
    match &parsed {
        Ok(info) => {
            if let Some(field) = info.misfit().filter(|_| server.may_tell_of_info(now)) {
                warn!(
                    server = server.name(),
                    field,
                    version = info.version(),
                    "INFO has a value of another type than weir knows: clients get it as it is, and weir does not use it"
                );
            }
        }
        Err(err) if server.may_tell_of_info(now) => {
            warn!(server = server.name(), %err, when = ?kind.when, "an INFO does not parse, and no client gets it");
        }
        Err(_) => {}
    }
    parsed
}

async fn with_tls(stream: Stream, tls: &Connector, address: &str, deadline: Instant) -> Result<Stream, DialError> {
    let Stream::Plain(tcp) = stream else { return Ok(stream) };
    // Boxed, so that the future of a dial without TLS stays small.
    match Box::pin(tls.connect(tcp, address, deadline)).await {
        Ok(stream) => Ok(stream),
        Err(ConnectError::Plain(line)) => Err(instead_of_tls(&line)),
        Err(ConnectError::Tls(err)) if err.kind() == io::ErrorKind::TimedOut => Err(DialError::TimedOut),
        Err(ConnectError::Tls(err)) => Err(DialError::Tls(err)),
    }
}

impl ServerConnection {
    /// The port of the server to which it goes.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The server's INFO.
    pub fn info(&self) -> &Arc<Info> {
        &self.info
    }

    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Waits until the server ends the connection, before weir has sent CONNECT on it. Never returns while the server
    /// waits.
    pub async fn closed(&mut self) -> DialError {
        // The handshake finds what is read here in the same buffer.
        if self.lines.unread().is_empty() {
            match self.stream.read_buf(&mut self.lines.buffer).await {
                Ok(0) => return DialError::Closed,
                Ok(_) => {}
                Err(err) => return DialError::Io(err),
            }
        }
        match self.lines.unread() {
            unread if busy(unread) == Some(Busy::Full) => DialError::Full,
            [b'-', ..] => DialError::Closed,
            // A PING. The handshake answers it, and finds what may follow.
            _ => pending().await,
        }
    }

    /// Sends `connect` (a whole CONNECT line and PING; empty if they have been sent) and waits for the server's reply.
    /// With `names_account`, waits also for the INFO that a server since 2.12 sends right behind its first PONG: it
    /// names the account.
    ///
    /// # Errors
    /// Any [`DialError`].
    pub async fn handshake(
        mut self,
        server: &Server,
        connect: &[u8],
        names_account: bool,
        mut deadline: Instant,
    ) -> Result<LoginReply, DialError> {
        // A full server sends `-ERR` and closes without reading. That line can still be read when this write fails.
        let written = match connect {
            [] => Ok(()),
            connect => in_time(deadline, pin!(self.stream.send(connect))).await,
        };
        let mut ponged = false;
        loop {
            let line = match self.lines.next(&mut self.stream, deadline).await {
                Ok(line) => line,
                // The client is logged in; only the account's name is missing.
                Err(DialError::TimedOut) if ponged => break,
                Err(err) => return Err(written.err().unwrap_or(err)),
            };
            let line = self.lines.get(line);
            match server_line(line) {
                ServerLine::Info(json) => {
                    let is_leafnode = self.port == Port::Leafnode;
                    let when = if ponged || is_leafnode { InfoWhen::BehindPong } else { InfoWhen::Opens };
                    let info = parse_info(server, json, InfoKind { port: self.port, when });
                    self.info = Arc::new(info.map_err(|_| DialError::NotNats("INFO does not parse"))?);
                    // A leafnode's CONNECT is answered by an INFO.
                    if ponged || is_leafnode && self.info.connect_info() {
                        break;
                    }
                }
                ServerLine::Ping => in_time(deadline, pin!(self.stream.send(PONG))).await?,
                // CONNECT went out with the client's own `verbose`; the session sends a verbose client its +OK.
                ServerLine::Ok => {}
                ServerLine::Pong if names_account && !ponged => {
                    ponged = true;
                    deadline = deadline.min(Instant::now() + ACCOUNT_NAME_TIMEOUT);
                }
                ServerLine::Pong => break,
                ServerLine::Err(text) if is_full(text) => return Err(DialError::Full),
                ServerLine::Err(_) => return Ok(LoginReply::Err(line.to_vec())),
                ServerLine::Other => return Err(DialError::NotNats("an operation before PONG")),
            }
        }
        Ok(LoginReply::Pong(Box::new(LoggedIn { stream: self.stream, info: self.info, rest: self.lines.into_rest() })))
    }
}

fn is_full(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"maximum connections exceeded")
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = io::Result<T>> + Unpin) -> Result<T, DialError> {
    timeout_at(deadline, work).await.map_err(|_| DialError::TimedOut)?.map_err(DialError::Io)
}

/// Reads control lines from a server, one after another.
#[derive(Debug)]
struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    next: usize,
    scanner: LineScanner,
}

impl Default for Lines {
    fn default() -> Self {
        Self { buffer: Vec::new(), next: 0, scanner: LineScanner::new(MAX_INFO_LINE) }
    }
}

impl Lines {
    /// Reads the next line, and returns where in the buffer it is.
    async fn next(&mut self, stream: &mut Stream, deadline: Instant) -> Result<Range<usize>, DialError> {
        loop {
            let start = self.next;
            let found = self
                .scanner
                .find(&self.buffer[self.next..])
                .map_err(|_| DialError::NotNats("a line without an end"))?;
            if let Some(end) = found {
                self.next += end;
                return Ok(start..self.next);
            }
            // INFO is 300 to 600 bytes, in a large cluster some KiB. Two of them and PONG are the usual reply.
            if self.next == self.buffer.len() {
                self.buffer.clear();
                self.next = 0;
            }
            self.buffer.reserve(2048);
            if in_time(deadline, pin!(stream.read_buf(&mut self.buffer))).await? == 0 {
                return Err(DialError::Closed);
            }
        }
    }

    fn get(&self, line: Range<usize>) -> &[u8] {
        &self.buffer[line]
    }

    /// What has been read after the last line that [`Lines::next`] returned.
    fn unread(&self) -> &[u8] {
        &self.buffer[self.next..]
    }

    fn into_rest(mut self) -> Vec<u8> {
        self.buffer.drain(..self.next);
        self.buffer
    }
}
