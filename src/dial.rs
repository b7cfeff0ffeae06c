//! The server's half of the preface: connect, read its INFO, send CONNECT and PING, wait for its word.

use std::{future::pending, io, net::SocketAddr, ops::Range, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, lookup_host},
    time::Instant,
};

use crate::{
    net::{socket, stream::Stream, timer::timeout_at},
    protocol::{
        MAX_INFO_LINE, PONG,
        control_line::{LineScanner, ServerLine, server_line},
        info::Info,
    },
    tls::Connector,
    upstream::Server,
};

/// The INFO that names the account is written together with PONG; a server that does not send it is not waited for longer.
const ACCOUNT_NAME_TIMEOUT: Duration = Duration::from_millis(250);

/// Why a server could not be used. None of these is the client's fault, so it is placed elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Refused, unreachable, reset.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No agreement on TLS.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The stream ended before the server's word.
    #[error("the server closed the connection")]
    Closed,
    /// What came is not what a nats-server sends.
    #[error("not a nats-server: {0}")]
    NotNats(&'static str),
    /// `maximum connections exceeded`: others took the slot.
    #[error("the server is full")]
    Full,
}

/// A connection to a server whose INFO has been read.
#[derive(Debug)]
pub struct ServerConnection {
    stream: Stream,
    lines: Lines,
    info: Arc<Info>,
}

/// What the server said to CONNECT.
#[derive(Debug)]
pub enum LoginReply {
    /// PONG: the client is in.
    Pong(Box<LoggedIn>),
    /// `-ERR`: its own words, to be passed on as they are.
    Err(Vec<u8>),
}

/// A connection the server has accepted the client on.
#[derive(Debug)]
pub struct LoggedIn {
    /// The connection.
    pub stream: Stream,
    /// The server's INFO for this client: the one after its first PONG, or before 2.12 the first.
    pub info: Arc<Info>,
    /// What the server sent behind that.
    pub rest: Vec<u8>,
}

/// Whose TLS there is on a connection to a server.
#[derive(Debug, Clone, Copy)]
pub enum ServerTls<'a> {
    /// Nobody's.
    None,
    /// weir's.
    Weir(&'a Connector),
    /// The client's own, behind INFO: what follows that is none of weir's business.
    Client,
}

impl<'a> From<Option<&'a Connector>> for ServerTls<'a> {
    fn from(tls: Option<&'a Connector>) -> Self {
        tls.map_or(Self::None, Self::Weir)
    }
}

/// Connects to `server`, sends `words` unless they are empty, and reads INFO; does TLS before or after that. Words are a PROXY
/// header; or CONNECT and PING, for a server that is known not to ask for anything else first, TLS least of all:
/// [`ServerConnection::handshake`] then only listens.
///
/// # Errors
/// Any [`DialError`]; [`DialError::Full`] only where the client's own TLS is to follow.
pub async fn dial(
    server: &Server,
    tls: ServerTls<'_>,
    words: &[u8],
    deadline: Instant,
) -> Result<ServerConnection, DialError> {
    let mut stream = Stream::from(connect(server, words, deadline).await?);
    if let ServerTls::Weir(tls) = tls
        && tls.handshake_first()
    {
        stream = secured(stream, tls, server, deadline).await?;
    }
    let mut lines = Lines::default();
    let line = lines.next(&mut stream, deadline).await?;
    let ServerLine::Info(json) = server_line(lines.get(line)) else { return Err(DialError::NotNats("no INFO")) };
    let info = server.parse_info(json, false).map_err(|_| DialError::NotNats("INFO does not parse"))?;
    match (tls, &stream) {
        (ServerTls::None, _) if info.tls_required() => {
            return Err(DialError::NotNats("it requires TLS: write [cluster.tls]"));
        }
        (ServerTls::Weir(_), Stream::Plain(_)) if !info.does_tls() => {
            return Err(DialError::NotNats("it speaks no TLS, which [cluster.tls] asks for"));
        }
        (ServerTls::Client, _) if lines.says_full() => return Err(DialError::Full),
        // What came in plain words behind INFO would be taken for the server's.
        (ServerTls::Weir(_) | ServerTls::Client, Stream::Plain(_)) if !lines.ahead().is_empty() => {
            return Err(DialError::NotNats("it goes on without TLS"));
        }
        (ServerTls::Weir(tls), Stream::Plain(_)) => stream = secured(stream, tls, server, deadline).await?,
        _ => {}
    }
    Ok(ServerConnection { stream, lines, info: Arc::new(info) })
}

/// Connects to `server` and sends `words`, which may be empty.
///
/// # Errors
/// Those of the connection: [`DialError::Io`] and [`DialError::TimedOut`].
pub async fn connect(server: &Server, words: &[u8], deadline: Instant) -> Result<TcpStream, DialError> {
    let resolved = server.resolved();
    match &resolved[..] {
        // Only before the monitor's first look-up: each one takes a thread.
        [] => {
            let found = in_time(deadline, pin!(lookup_host(server.address()))).await?;
            connect_any(server, found, words, deadline).await
        }
        known => connect_any(server, known.iter().copied(), words, deadline).await,
    }
}

/// Connects to the first address that answers, and sends `words` there.
async fn connect_any(
    server: &Server,
    addresses: impl Iterator<Item = SocketAddr>,
    words: &[u8],
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let mut failed = DialError::Io(io::ErrorKind::NotFound.into());
    for address in addresses {
        match in_time(deadline, pin!(connect_to(server, address, words))).await {
            Ok(stream) => return Ok(stream),
            Err(DialError::TimedOut) => return Err(DialError::TimedOut),
            Err(err) => failed = err,
        }
    }
    Err(failed)
}

/// From the first of its sources that has a port left.
fn begin(server: &Server, address: SocketAddr, speaks: bool) -> io::Result<std::net::TcpStream> {
    let mut sources = server.sources(address);
    let mut source = sources.next();
    loop {
        match socket::connect(address, source, speaks) {
            Err(err) if err.kind() == io::ErrorKind::AddrNotAvailable => {
                source = Some(sources.next().ok_or(err)?);
            }
            begun => return begun,
        }
    }
}

async fn connect_to(server: &Server, address: SocketAddr, words: &[u8]) -> io::Result<TcpStream> {
    let stream = begin(server, address, !words.is_empty())?;
    // On the same machine, and often in the same rack, the connection is there by now.
    let mut sent = match words {
        [] => 0,
        words => socket::send_now(&stream, words)?,
    };
    let stream = TcpStream::from_std(stream)?;
    if words.is_empty() || sent < words.len() {
        stream.writable().await?;
        if let Some(err) = stream.take_error()? {
            return Err(err);
        }
    }
    while sent < words.len() {
        stream.writable().await?;
        sent += socket::send_now(&stream, &words[sent..])?;
    }
    Ok(stream)
}

async fn secured(stream: Stream, tls: &Connector, server: &Server, deadline: Instant) -> Result<Stream, DialError> {
    let Stream::Plain(tcp) = stream else { return Ok(stream) };
    // On the heap for as long as it takes: a dial without TLS does not pay for it.
    match Box::pin(tls.connect(tcp, server.address(), deadline)).await {
        Ok(stream) => Ok(stream),
        Err(err) if err.kind() == io::ErrorKind::TimedOut => Err(DialError::TimedOut),
        Err(err) => Err(DialError::Tls(err)),
    }
}

impl ServerConnection {
    /// The server's INFO.
    pub fn info(&self) -> &Arc<Info> {
        &self.info
    }

    /// The connection alone.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Returns when the server ends the connection although nothing was sent yet; never while it waits.
    pub async fn closed(&mut self) -> DialError {
        // What is read here is there for the handshake all the same.
        if self.lines.ahead().is_empty() {
            match self.stream.read_buf(&mut self.lines.buffer).await {
                Ok(0) => return DialError::Closed,
                Ok(_) => {}
                Err(err) => return DialError::Io(err),
            }
        }
        match self.lines.ahead() {
            _ if self.lines.says_full() => DialError::Full,
            [b'-', ..] => DialError::Closed,
            // A PING, which the handshake answers. What may follow it is found there.
            _ => pending().await,
        }
    }

    /// Sends `connect` (a whole CONNECT line and PING; nothing if it has been sent) and waits for the server's word. With `names_account` the INFO that a
    /// server since 2.12 sends right behind its first PONG is waited for too: it names the account.
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
        // A full server says so and closes without reading; its word is still there to be read when this write fails.
        let written = match connect {
            [] => Ok(()),
            connect => in_time(deadline, pin!(self.stream.send(connect))).await,
        };
        let mut ponged = false;
        loop {
            let line = match self.lines.next(&mut self.stream, deadline).await {
                Ok(line) => line,
                // The account's name is welcome, but the client is in already.
                Err(DialError::TimedOut) if ponged => break,
                Err(err) => return Err(written.err().unwrap_or(err)),
            };
            let line = self.lines.get(line);
            match server_line(line) {
                ServerLine::Info(json) => {
                    let info = server.parse_info(json, ponged);
                    self.info = Arc::new(info.map_err(|_| DialError::NotNats("INFO does not parse"))?);
                    if ponged {
                        break;
                    }
                }
                ServerLine::Ping => in_time(deadline, pin!(self.stream.send(PONG))).await?,
                // weir sent CONNECT as the client wrote it: a verbose client gets its +OK from the session.
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

/// How a full server's word begins.
const ERR_FULL: &[u8] = b"-ERR 'maximum connections exceeded'";

/// Whether these are a full server's words.
pub fn says_full(bytes: &[u8]) -> bool {
    bytes.get(..ERR_FULL.len()).is_some_and(|word| word.eq_ignore_ascii_case(ERR_FULL))
}

fn is_full(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"maximum connections exceeded")
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = io::Result<T>> + Unpin) -> Result<T, DialError> {
    timeout_at(deadline, work).await.map_err(|_| DialError::TimedOut)?.map_err(DialError::Io)
}

/// Reads control lines, and nothing past them.
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
    /// Where the next line is.
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
            // INFO is 300 to 600 bytes, of a large cluster some KiB; two of them and PONG are the usual answer.
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

    /// What has been read and is not part of a line yet that was asked for.
    fn ahead(&self) -> &[u8] {
        &self.buffer[self.next..]
    }

    /// Whether what is ahead is a full server's word.
    fn says_full(&self) -> bool {
        says_full(self.ahead())
    }

    fn into_rest(mut self) -> Vec<u8> {
        self.buffer.drain(..self.next);
        self.buffer
    }
}
