//! A client that sends a case and hears all that comes.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_testkit::connect_from;
use weir_testkit::tls::TlsClient;
use weir_testkit::websocket::{BINARY, CLOSE, OpCode, frame, request};

use crate::differential::case::{Case, Ending, What};
use crate::differential::transcript::{self, End, Transcript};

/// How long something may take that must come: two servers and weir share the machine with other tests.
const MUST_COME: Duration = Duration::from_secs(45);

/// What has come so far, and whether that is all.
#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    is_over: bool,
}

/// A port, and how clients speak there.
#[derive(Clone)]
pub struct Target {
    pub address: String,
    pub transport: Transport,
}

#[derive(Clone)]
pub enum Transport {
    Plain,
    /// With the handshake behind INFO.
    Tls(Arc<ClientConfig>),
    WebSocket,
}

/// An open connection.
pub struct Wire {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Each write is a WebSocket message.
    is_websocket: bool,
    heard: watch::Receiver<Heard>,
    from: Ipv4Addr,
    reading: JoinHandle<()>,
}

impl Wire {
    /// Connects from this loopback address and waits for INFO.
    pub async fn open(target: &Target, from: Ipv4Addr) -> Self {
        let connected = timeout(MUST_COME, connect_from(from, &target.address)).await;
        let stream = connected.expect("in time").expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        timeout(MUST_COME, Self::over(stream, &target.transport, from)).await.expect("in time").expect("a handshake")
    }

    async fn over(stream: TcpStream, transport: &Transport, from: Ipv4Addr) -> io::Result<Self> {
        let (hears, heard) = watch::channel(Heard::default());
        let is_websocket = matches!(transport, Transport::WebSocket);
        let (writer, reading): (Box<dyn AsyncWrite + Send + Unpin>, _) = match transport {
            Transport::Plain => {
                let (reader, writer) = stream.into_split();
                (Box::new(writer), tokio::spawn(read(reader, hears)))
            }
            Transport::Tls(config) => {
                let client = TlsClient::over(stream, "localhost", false, Arc::clone(config)).await?;
                hears.send_modify(|heard| heard.bytes = client.info.into_bytes());
                let (reader, writer) = tokio::io::split(client.stream.into_inner());
                (Box::new(writer), tokio::spawn(read(reader, hears)))
            }
            Transport::WebSocket => {
                let (mut reader, mut writer) = stream.into_split();
                writer.write_all(request("/", "").as_bytes()).await?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(reader.read_u8().await?);
                }
                assert!(head.starts_with(b"HTTP/1.1 101"), "{}", head.escape_ascii());
                (Box::new(writer), tokio::spawn(read_frames(BufReader::new(reader), hears)))
            }
        };
        let mut wire = Self { writer, is_websocket, heard, from, reading };
        wire.until(|bytes| bytes.contains(&b'\n')).await;
        Ok(wire)
    }

    /// Waits until what has come satisfies `is_there`; `false` when the connection ends, or nothing comes, before that.
    async fn until(&mut self, is_there: impl Fn(&[u8]) -> bool) -> bool {
        let mut found = false;
        let waited = self.heard.wait_for(|heard| {
            found = is_there(&heard.bytes);
            found || heard.is_over
        });
        let _ = timeout(MUST_COME, waited).await;
        found
    }

    /// The nonce of the first INFO, if it has one.
    pub fn nonce(&self) -> Option<String> {
        let heard = self.heard.borrow();
        let line = heard.bytes.split(|&byte| byte == b'\n').next()?.strip_prefix(b"INFO ")?;
        let info: serde_json::Value = serde_json::from_slice(line).ok()?;
        Some(info["nonce"].as_str()?.to_owned())
    }

    /// Writes; `false` when the connection takes no more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        match self.is_websocket {
            true if bytes.is_empty() => true,
            true => self.write_raw(&message(BINARY, bytes)).await,
            false => self.write_raw(bytes).await,
        }
    }

    async fn write_raw(&mut self, bytes: &[u8]) -> bool {
        let written = timeout(MUST_COME, async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        });
        matches!(written.await, Ok(Ok(())))
    }

    /// Waits for this many PONGs in all; `false` when they do not come.
    pub async fn hears_pongs(&mut self, pongs: usize) -> bool {
        self.until(|bytes| transcript::pongs(bytes) >= pongs).await
    }

    /// What comes behind these bytes up to a PONG; `None` when there is none.
    pub async fn hears_pong_behind(&mut self, read: usize) -> Option<Vec<u8>> {
        let found = self.until(|bytes| bytes[read..].ends_with(b"\r\n") && transcript::pongs(&bytes[read..]) > 0).await;
        found.then(|| self.heard.borrow().bytes[read..].to_vec())
    }

    /// Ends what it sends, and returns all that it hears until the peer closes.
    pub async fn rest(mut self) -> Transcript {
        if self.is_websocket {
            self.write_raw(&message(CLOSE, &1000_u16.to_be_bytes())).await;
        } else {
            let _ = timeout(MUST_COME, self.writer.shutdown()).await;
        }
        self.until(|_| false).await;
        let heard = self.heard.borrow();
        let end = if heard.is_over { End::Closed } else { End::Open };
        Transcript { ops: transcript::read(&heard.bytes, self.from), end }
    }

    /// Plays a case. `fill_in` puts what only this connection knows into a piece, such as a signature.
    pub async fn play(mut self, case: &Case, fill_in: impl Fn(&[u8], Option<&str>) -> Vec<u8>) -> Option<Transcript> {
        let nonce = self.nonce();
        let mut pings = 0;
        let mut unsent = Vec::new();
        'pieces: for piece in &case.pieces {
            let bytes = fill_in(&piece.bytes, nonce.as_deref());
            let mut from = 0;
            let end = piece.waits.then_some(bytes.len());
            for cut in piece.cuts.iter().copied().chain(end) {
                let cut = cut.min(bytes.len());
                unsent.extend_from_slice(&bytes[from..cut]);
                from = cut;
                if !self.write(&std::mem::take(&mut unsent)).await {
                    break 'pieces;
                }
                // Another task may read what has come, so that the next write is a read of its own, in most runs.
                tokio::task::yield_now().await;
            }
            unsent.extend_from_slice(&bytes[from..]);
            pings += usize::from(piece.what == What::Ping);
            if piece.waits && !self.hears_pongs(pings).await {
                break;
            }
        }
        self.write(&unsent).await;
        match case.ending {
            Ending::HalfClose => Some(self.rest().await),
            Ending::Close => None,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(mut reader: impl AsyncRead + Unpin, hears: watch::Sender<Heard>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        hears.send_modify(|heard| heard.bytes.extend_from_slice(&buffer[..n]));
    }
    hears.send_modify(|heard| heard.is_over = true);
}

/// One frame that is a whole message.
fn message(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(opcode, true, false, true, payload, &mut bytes);
    bytes
}

/// The payloads of data frames, up to a close frame or the end of the stream.
async fn read_frames(mut reader: impl AsyncRead + Unpin, hears: watch::Sender<Heard>) {
    while let Ok((opcode, payload)) = read_frame(&mut reader).await {
        match opcode {
            0..=2 => hears.send_modify(|heard| heard.bytes.extend_from_slice(&payload)),
            8 => break,
            // No client here lives long enough to be closed for not answering it.
            9 => {}
            other => panic!("a frame of type {other}"),
        }
    }
    hears.send_modify(|heard| heard.is_over = true);
}

/// The opcode and the payload of one unmasked frame.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let opcode = reader.read_u8().await? & 0x0f;
    let length = match reader.read_u8().await? {
        126 => reader.read_u16().await?.into(),
        127 => reader.read_u64().await?,
        length => length.into(),
    };
    let mut payload = vec![0; usize::try_from(length).expect("a length")];
    reader.read_exact(&mut payload).await?;
    Ok((opcode, payload))
}
