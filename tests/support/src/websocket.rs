//! A WebSocket client on a bare socket: it shows every frame as it arrived, and it can misbehave.

use std::io::{self, Cursor, Write as _};
use std::time::Duration;

use flate2::{Compression, Decompress, FlushDecompress, write::DeflateEncoder};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
pub use tungstenite::protocol::frame::FrameHeader;
pub use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{Login, PATIENCE};

pub const TEXT: OpCode = OpCode::Data(Data::Text);
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
pub const CONTINUE: OpCode = OpCode::Data(Data::Continue);
pub const CLOSE: OpCode = OpCode::Control(Control::Close);
pub const PING: OpCode = OpCode::Control(Control::Ping);
pub const PONG: OpCode = OpCode::Control(Control::Pong);

/// The upgrade request of a browser, with `more` header lines, each with its line end.
pub fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: nats.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// An HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header; the name is compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub header: FrameHeader,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code and the text of a close frame; 1005 if the frame has no code.
    pub fn closing(&self) -> (u16, String) {
        assert_eq!(self.header.opcode, CLOSE, "{self:?}");
        match &self.payload[..] {
            [] => (1005, String::new()),
            [a, b, text @ ..] => (u16::from_be_bytes([*a, *b]), String::from_utf8(text.to_vec()).expect("UTF-8")),
            _ => panic!("{self:?}"),
        }
    }
}

/// A connection that can carry a WebSocket.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A client over WebSocket.
pub struct WsClient {
    stream: Box<dyn Socket>,
    read: Vec<u8>,
    /// NATS bytes that were received and not read yet.
    pub bytes: Vec<u8>,
    /// Whether this client masks its frames.
    pub masks: bool,
}

impl WsClient {
    /// Opens a connection, sends `request` and reads the response.
    pub async fn ask(address: &str, request: &str) -> io::Result<(Self, Answer)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::ask_over(Box::new(stream), request).await
    }

    /// The same over an open connection.
    pub async fn ask_over(mut stream: Box<dyn Socket>, request: &str) -> io::Result<(Self, Answer)> {
        stream.write_all(request.as_bytes()).await?;
        let mut client = Self { stream, read: Vec::new(), bytes: Vec::new(), masks: true };
        let end = loop {
            if let Some(end) = client.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if client.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(&client.read[..end]).into_owned();
        client.read.drain(..end);
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, body: String::new() };
        if status != 101 {
            // nats-server leaves the connection open, so the body ends by its length.
            let length = answer.header("Content-Length").map_or(0, |length| length.parse().expect("a number"));
            while client.read.len() < length && client.more().await? > 0 {}
            answer.body = String::from_utf8_lossy(&client.read).into_owned();
        }
        Ok((client, answer))
    }

    /// Opens a WebSocket with more header lines.
    pub async fn open(address: &str, more: &str) -> Self {
        let (client, answer) = Self::ask(address, &request("/", more)).await.expect("an answer");
        assert_eq!(answer.status, 101, "{answer:?}");
        client
    }

    /// The same, and reads INFO.
    pub async fn greeted(address: &str, more: &str) -> (Self, Value) {
        let mut client = Self::open(address, more).await;
        let info = client.info().await;
        (client, info)
    }

    /// Reads INFO, which comes first and alone in its frame.
    pub async fn info(&mut self) -> Value {
        let frame = self.frame().await.expect("INFO");
        assert!(frame.header.is_final && frame.header.opcode == BINARY && frame.header.mask.is_none(), "{frame:?}");
        let line = inflated(&frame);
        let json = line.strip_prefix(b"INFO ").expect("INFO comes first");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "INFO is alone in its frame");
        serde_json::from_slice(json).expect("INFO is JSON")
    }

    /// The same, and logs in.
    pub async fn connect(address: &str, more: &str, login: &Login) -> Self {
        let (mut client, info) = Self::greeted(address, more).await;
        client.say(format!("{}PING\r\n", login.answering(&info).connect_line()).as_bytes()).await;
        assert_eq!(client.line().await, "PONG");
        client
    }

    /// Sends bytes without framing.
    pub async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await?
    }

    /// Sends a frame.
    pub async fn send(&mut self, opcode: OpCode, is_final: bool, rsv1: bool, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame(opcode, is_final, rsv1, self.masks, payload, &mut bytes);
        self.raw(&bytes).await
    }

    /// Sends a message of one frame.
    pub async fn say(&mut self, payload: &[u8]) {
        self.send(BINARY, true, false, payload).await.expect("still open");
    }

    /// Sends a compressed message.
    pub async fn say_deflated(&mut self, payload: &[u8]) {
        self.send(BINARY, true, true, &deflated(payload)).await.expect("still open");
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            let mut cursor = Cursor::new(&self.read);
            if let Some((header, length)) = FrameHeader::parse(&mut cursor).expect("a header") {
                let (start, length) = (cursor.position() as usize, length as usize);
                if self.read.len() >= start + length {
                    let payload = self.read[start..start + length].to_vec();
                    self.read.drain(..start + length);
                    return Some(Frame { header, payload });
                }
            }
            match self.more().await {
                Ok(0) => {
                    assert!(self.read.is_empty(), "the end came in the middle of a frame");
                    return None;
                }
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(err) => panic!("no frame: {err}"),
            }
        }
    }

    /// The next NATS line, without its line end. Fragments of compressed messages are joined. A server's own PING,
    /// which it sends to every client that has been there for some seconds, is left out.
    pub async fn line(&mut self) -> String {
        loop {
            while let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
                self.bytes.drain(..end + 2);
                if line != "PING" {
                    return line;
                }
            }
            self.message().await;
        }
    }

    /// The next `n` NATS bytes.
    pub async fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.bytes.len() < n {
            self.message().await;
        }
        self.bytes.drain(..n).collect()
    }

    /// Reads one more message; returns its number of frames and whether it was compressed.
    pub async fn message(&mut self) -> (usize, bool) {
        let mut first = self.frame().await.expect("a frame");
        assert_eq!(first.header.opcode, BINARY, "{first:?}");
        let mut frames = 1;
        while !first.header.is_final {
            let next = self.frame().await.expect("a frame");
            assert_eq!(next.header.opcode, CONTINUE);
            first.payload.extend(next.payload);
            first.header.is_final = next.header.is_final;
            frames += 1;
        }
        self.bytes.extend(inflated(&first));
        (frames, first.header.rsv1)
    }

    /// Everything until the connection ends: NATS bytes, and the close frame if there was one.
    pub async fn rest(&mut self) -> (String, Option<(u16, String)>) {
        let mut closing = None;
        while let Some(frame) = self.frame().await {
            assert_eq!(closing, None, "{frame:?} behind a close frame");
            match frame.header.opcode {
                CLOSE => closing = Some(frame.closing()),
                BINARY => self.bytes.extend(inflated(&frame)),
                _ => {}
            }
        }
        (String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned(), closing)
    }

    /// Whether nothing arrives for this long.
    pub async fn is_silent(&mut self, long: Duration) -> bool {
        timeout(long, self.frame()).await.is_err()
    }

    async fn more(&mut self) -> io::Result<usize> {
        timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await?
    }
}

/// Appends a client's frame to `out`.
pub fn frame(opcode: OpCode, is_final: bool, rsv1: bool, masks: bool, payload: &[u8], out: &mut Vec<u8>) {
    let mask: [u8; 4] = if masks { fastrand::u32(..).to_be_bytes() } else { [0; 4] };
    let header = FrameHeader { is_final, rsv1, opcode, mask: masks.then_some(mask), ..FrameHeader::default() };
    header.format(payload.len() as u64, out).expect("a Vec takes it");
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
}

/// Compresses as RFC 7692 says: flushed, without the tail of the flush.
pub fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(payload).expect("a Vec takes it");
    encoder.flush().expect("a Vec takes it");
    encoder.get_ref().strip_suffix(&[0, 0, 0xff, 0xff]).expect("a flushed stream").to_vec()
}

/// The payload of a message, decompressed if necessary.
fn inflated(message: &Frame) -> Vec<u8> {
    if !message.header.rsv1 {
        return message.payload.clone();
    }
    let (input, mut out) = ([&message.payload[..], &[0, 0, 0xff, 0xff]].concat(), Vec::with_capacity(4 << 20));
    Decompress::new(false).decompress_vec(&input, &mut out, FlushDecompress::Sync).expect("deflate");
    out
}
