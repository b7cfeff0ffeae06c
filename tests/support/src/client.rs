//! A NATS client on a bare socket: it shows exactly what arrives, and it can misbehave.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{error::Elapsed, timeout};

use crate::PATIENCE;

/// The content of a client's CONNECT, and how the client sends it.
#[derive(Debug, Clone, Default)]
pub struct Login {
    fields: Map<String, Value>,
    two_writes: bool,
    key: Option<KeyPair>,
    source: Option<Ipv4Addr>,
}

impl Login {
    /// No credentials.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// User and password.
    pub fn user(user: &str, pass: &str) -> Self {
        Self::default().with("user", user.into()).with("pass", pass.into())
    }

    /// A token.
    pub fn token(token: &str) -> Self {
        Self::default().with("auth_token", token.into())
    }

    /// An NKey user.
    pub fn nkey(key: &KeyPair) -> Self {
        Self::default().with("nkey", key.public_key().into()).signing(key)
    }

    /// A JWT user, as a `.creds` file makes it.
    pub fn jwt(jwt: &str, key: &KeyPair) -> Self {
        Self::default().with("jwt", jwt.into()).signing(key)
    }

    /// Signs the nonce of INFO with this key.
    pub fn signing(mut self, key: &KeyPair) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// The login for a connection with this INFO: if the client signs, with the signature of the nonce.
    pub fn answering(&self, info: &Value) -> Self {
        let Some(key) = &self.key else { return self.clone() };
        let nonce = info["nonce"].as_str().unwrap_or_default();
        let sig = key.sign(nonce.as_bytes()).expect("a key that signs");
        self.clone().with("sig", BASE64URL_NOPAD.encode(&sig).into())
    }

    /// The keys of CONNECT that this login sets beyond the usual ones.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// Connects from this address instead of the one that the kernel chooses.
    pub fn from_source(mut self, source: Ipv4Addr) -> Self {
        self.source = Some(source);
        self
    }

    /// The client's name.
    pub fn name(self, name: &str) -> Self {
        self.with("name", name.into())
    }

    /// The client library's name. The default is `test`, so that weir applies no library's deadline.
    pub fn lang(self, lang: &str) -> Self {
        self.with("lang", lang.into())
    }

    /// Any other key of CONNECT.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.fields.insert(key.into(), value);
        self
    }

    /// Sends CONNECT and PING in separate writes, as nats.py and nats.js do.
    pub fn in_two_writes(mut self) -> Self {
        self.two_writes = true;
        self
    }

    /// The CONNECT line.
    pub fn connect_line(&self) -> String {
        let mut all = json!({
            "verbose": false, "pedantic": false, "tls_required": false, "name": "", "lang": "test", "version": "1.0.0",
            "protocol": 1, "echo": true, "headers": true, "no_responders": true
        });
        for (key, value) in &self.fields {
            all[key] = value.clone();
        }
        format!("CONNECT {all}\r\n")
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed properly.
    Eof,
    /// The connection was reset.
    Reset,
    /// The connection was still open at the deadline.
    StillOpen,
}

/// The result of one attempt to connect.
#[derive(Debug)]
pub enum Attempt {
    /// PONG came.
    In(RawClient),
    /// `-ERR 'text'` came instead of PONG (or instead of INFO, and then `info` is `None`). `end` says how the
    /// connection ended.
    Refused { text: String, info: Option<Value>, end: End },
    /// The connection ended without `-ERR`.
    Ended(End),
    /// Something came that real clients cannot handle: INFO, PING or an unexpected +OK between CONNECT and PONG, or
    /// something before INFO.
    Broken(String),
    /// Nothing came in time. The socket is still open. nats.go leaves such sockets open too.
    TimedOut(RawClient),
}

impl Attempt {
    /// The refusal's text; `None` if the attempt was not refused.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The client, if the attempt succeeded.
    pub fn into_client(self) -> Option<RawClient> {
        match self {
            Self::In(client) => Some(client),
            _ => None,
        }
    }

    /// The client; panics with the result if the attempt did not succeed.
    pub fn expect_in(self) -> RawClient {
        match self {
            Self::In(client) => client,
            other => panic!("not connected: {other:?}"),
        }
    }
}

/// A message or another operation from the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `INFO {…}`
    Info(Value),
    /// `MSG` or `HMSG`: subject, reply subject and payload (with its headers before it).
    Msg { subject: String, reply: Option<String>, payload: Vec<u8> },
    /// `PING`
    Ping,
    /// `PONG`
    Pong,
    /// `+OK`
    Ok,
    /// `-ERR '…'`, its text
    Err(String),
}

/// A connection that speaks the NATS protocol, open until dropped.
#[derive(Debug)]
pub struct RawClient {
    stream: BufReader<TcpStream>,
    partial: Vec<u8>,
    inbox: VecDeque<Op>,
    /// The first INFO.
    pub info: Value,
    /// The `-ERR` texts that [`Self::stay`] has read.
    pub errors: Vec<String>,
}

/// Connects from an address of this machine's own.
pub async fn connect_from(source: Ipv4Addr, address: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(address.parse().map_err(io::Error::other)?).await
}

impl RawClient {
    /// Opens the connection.
    pub async fn dial(address: &str) -> io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        Ok(Self::over(stream))
    }

    fn over(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let (stream, inbox) = (BufReader::new(stream), VecDeque::new());
        Self { stream, partial: Vec::new(), inbox, info: Value::Null, errors: Vec::new() }
    }

    /// Opens the connection and reads INFO.
    pub async fn greeted(address: &str) -> io::Result<Self> {
        let mut client = Self::dial(address).await?;
        match client.next_within(PATIENCE).await? {
            Some(Op::Info(info)) => client.info = info,
            other => return Err(io::Error::other(format!("instead of INFO: {other:?}"))),
        }
        Ok(client)
    }

    /// One whole attempt: INFO, CONNECT, PING, PONG, all within `deadline`.
    pub async fn attempt(address: &str, login: &Login, deadline: Duration) -> Attempt {
        Self::attempt_behind(b"", address, login, deadline).await
    }

    /// The same through a load balancer that sends `header` first.
    pub async fn attempt_behind(header: &[u8], address: &str, login: &Login, deadline: Duration) -> Attempt {
        let dial = async {
            match login.source {
                Some(source) => connect_from(source, address).await,
                None => TcpStream::connect(address).await,
            }
        };
        let dialled = match timeout(deadline, dial).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Attempt::Ended(End::Reset),
            Err(_) => return Attempt::Ended(End::StillOpen),
        };
        let mut client = Self::over(dialled);
        if client.send(header).await.is_err() {
            return Attempt::Ended(End::Reset);
        }
        let reply = timeout(deadline, client.handshake(login)).await;
        client.judge(reply, deadline).await
    }

    /// The rest of an attempt on a connection whose INFO has been read.
    pub async fn enter(mut self, login: &Login, deadline: Duration) -> Attempt {
        let reply = timeout(deadline, self.log_in(login)).await;
        self.judge(reply, deadline).await
    }

    async fn judge(mut self, reply: Result<io::Result<Reply>, Elapsed>, deadline: Duration) -> Attempt {
        match reply {
            Ok(Ok(Reply::Pong)) => Attempt::In(self),
            Ok(Ok(Reply::Err(text))) => {
                let end = self.end(deadline).await;
                Attempt::Refused { text, info: (!self.info.is_null()).then_some(self.info), end }
            }
            Ok(Ok(Reply::Eof)) => Attempt::Ended(End::Eof),
            Ok(Ok(Reply::Odd(what))) => Attempt::Broken(what),
            Ok(Err(_)) => Attempt::Ended(End::Reset),
            Err(_) => Attempt::TimedOut(self),
        }
    }

    /// An attempt that must succeed.
    pub async fn connect(address: &str, login: &Login) -> Self {
        Self::attempt(address, login, PATIENCE).await.expect_in()
    }

    async fn handshake(&mut self, login: &Login) -> io::Result<Reply> {
        match self.next().await? {
            Some(Op::Info(info)) => self.info = info,
            Some(Op::Err(text)) => return Ok(Reply::Err(text)),
            Some(other) => return Ok(Reply::Odd(format!("{other:?} before INFO"))),
            None => return Ok(Reply::Eof),
        }
        self.log_in(login).await
    }

    async fn log_in(&mut self, login: &Login) -> io::Result<Reply> {
        let connect = login.answering(&self.info).connect_line();
        if login.two_writes {
            self.send(connect.as_bytes()).await?;
            tokio::task::yield_now().await;
            self.send(b"PING\r\n").await?;
        } else {
            self.send(format!("{connect}PING\r\n").as_bytes()).await?;
        }
        let mut ok_wanted = login.fields.get("verbose") == Some(&Value::Bool(true));
        loop {
            match self.next().await? {
                Some(Op::Pong) => return Ok(Reply::Pong),
                Some(Op::Err(text)) => return Ok(Reply::Err(text)),
                Some(Op::Ok) if ok_wanted => ok_wanted = false,
                Some(other) => return Ok(Reply::Odd(format!("{other:?} between CONNECT and PONG"))),
                None => return Ok(Reply::Eof),
            }
        }
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// Publishes.
    pub async fn publish(&mut self, subject: &str, payload: &[u8]) -> io::Result<()> {
        let mut bytes = format!("PUB {subject} {}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes).await
    }

    /// Subscribes and waits until the server knows the subscription.
    pub async fn subscribe(&mut self, subject: &str, sid: u64) -> io::Result<()> {
        self.send(format!("SUB {subject} {sid}\r\n").as_bytes()).await?;
        self.round_trip().await
    }

    /// Sends PING and waits for its PONG. Operations that arrive before the PONG are kept for [`Self::next`].
    pub async fn round_trip(&mut self) -> io::Result<()> {
        self.send(b"PING\r\n").await?;
        let mut before = VecDeque::new();
        let result = loop {
            match timeout(PATIENCE, self.read_op()).await {
                Err(_) => break Err(io::ErrorKind::TimedOut.into()),
                Ok(Err(e)) => break Err(e),
                Ok(Ok(Some(Op::Pong))) => break Ok(()),
                Ok(Ok(Some(Op::Ping))) => self.send(b"PONG\r\n").await?,
                Ok(Ok(Some(op))) => before.push_back(op),
                Ok(Ok(None)) => break Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("after {before:?}"))),
            }
        };
        self.inbox.append(&mut before);
        result
    }

    /// The next operation; `None` at EOF.
    pub async fn next(&mut self) -> io::Result<Option<Op>> {
        match self.inbox.pop_front() {
            Some(op) => Ok(Some(op)),
            None => self.read_op().await,
        }
    }

    /// The same, with a deadline.
    pub async fn next_within(&mut self, deadline: Duration) -> io::Result<Option<Op>> {
        timeout(deadline, self.next()).await?
    }

    /// The next message. Answers PING and skips INFO until it comes.
    pub async fn next_msg(&mut self) -> (String, Vec<u8>) {
        loop {
            match self.next_within(PATIENCE).await {
                Ok(Some(Op::Msg { subject, payload, .. })) => return (subject, payload),
                Ok(Some(Op::Ping)) => self.send(b"PONG\r\n").await.expect("PONG"),
                Ok(Some(Op::Info(_))) => {}
                other => panic!("instead of a message: {other:?}"),
            }
        }
    }

    /// The INFO that a server sends right after the first PONG (`connect_info`, nats-server 2.12+).
    pub async fn info_after_pong(&mut self) -> Value {
        match self.next_within(PATIENCE).await {
            Ok(Some(Op::Info(info))) => info,
            other => panic!("instead of INFO after PONG: {other:?}"),
        }
    }

    /// Answers PING until the connection ends; returns how it ended.
    pub async fn stay(&mut self) -> End {
        loop {
            match self.next().await {
                Ok(Some(Op::Ping)) if self.send(b"PONG\r\n").await.is_err() => return End::Reset,
                Ok(Some(Op::Err(text))) => self.errors.push(text),
                Ok(Some(_)) => {}
                Ok(None) => return End::Eof,
                Err(_) => return End::Reset,
            }
        }
    }

    /// Waits for the end of the connection and ignores what still arrives.
    pub async fn end(&mut self, deadline: Duration) -> End {
        timeout(deadline, self.stay()).await.unwrap_or(End::StillOpen)
    }

    /// Everything that arrives until the connection ends, unparsed, and how the connection ended.
    pub async fn rest(&mut self, deadline: Duration) -> (String, End) {
        let mut bytes = Vec::new();
        let end = match timeout(deadline, self.stream.read_to_end(&mut bytes)).await {
            Ok(Ok(_)) => End::Eof,
            Ok(Err(_)) => End::Reset,
            Err(_) => End::StillOpen,
        };
        (String::from_utf8_lossy(&bytes).into_owned(), end)
    }

    /// Splits the connection into its reading and its writing half.
    pub fn split(self) -> (BufReader<OwnedReadHalf>, OwnedWriteHalf) {
        assert!(self.stream.buffer().is_empty() && self.inbox.is_empty(), "something has arrived already");
        let (reader, writer) = self.stream.into_inner().into_split();
        (BufReader::new(reader), writer)
    }

    /// Shuts down the writing half; the client still reads.
    pub async fn shut_writing(&mut self) -> io::Result<()> {
        self.stream.get_mut().shutdown().await
    }

    /// Resets the connection, as a host does that crashed and came back.
    pub fn abandon(self) {
        let stream = self.stream.into_inner();
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }

    async fn read_op(&mut self) -> io::Result<Option<Op>> {
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((&line, ""));
            return Ok(Some(match verb {
                "INFO" => {
                    Op::Info(serde_json::from_str(rest).map_err(|e| io::Error::other(format!("INFO: {e}: {rest}")))?)
                }
                "MSG" | "HMSG" => self.message(rest).await?,
                "PING" => Op::Ping,
                "PONG" => Op::Pong,
                "+OK" => Op::Ok,
                "-ERR" => Op::Err(rest.trim_matches('\'').to_owned()),
                "" => continue,
                _ => return Err(io::Error::other(format!("not a line of the protocol: {line:?}"))),
            }));
        }
    }

    /// A line without its line end. Cancel-safe: the part already read stays in `partial`.
    async fn line(&mut self) -> io::Result<Option<String>> {
        let n = self.stream.read_until(b'\n', &mut self.partial).await?;
        if n == 0 || self.partial.last() != Some(&b'\n') {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    async fn message(&mut self, arguments: &str) -> io::Result<Op> {
        // MSG subject sid [reply] size. HMSG has a header size before the size; tests receive no message with headers
        // here.
        let parts: Vec<&str> = arguments.split_whitespace().collect();
        let [subject, _sid, middle @ .., size] = parts.as_slice() else {
            return Err(io::Error::other(format!("MSG {arguments}")));
        };
        let size: usize = size.parse().map_err(io::Error::other)?;
        let mut payload = vec![0; size + 2];
        self.stream.read_exact(&mut payload).await?;
        payload.truncate(size);
        Ok(Op::Msg { subject: (*subject).into(), reply: middle.first().map(|reply| (*reply).into()), payload })
    }
}

enum Reply {
    Pong,
    Err(String),
    Eof,
    Odd(String),
}
