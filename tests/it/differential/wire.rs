//! A client that sends a case and hears all that comes.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

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

/// An open connection.
pub struct Wire {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    heard: watch::Receiver<Heard>,
    from: Ipv4Addr,
    reading: JoinHandle<()>,
}

impl Wire {
    /// Connects from this loopback address and waits for INFO.
    pub async fn open(address: &str, from: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("a loopback address");
        let address = address.parse().expect("an address");
        let stream = timeout(MUST_COME, socket.connect(address)).await.expect("in time").expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        let (reader, writer) = stream.into_split();
        let (hears, heard) = watch::channel(Heard::default());
        let reading = tokio::spawn(read(Box::new(reader), hears));
        let mut wire = Self { writer: Box::new(writer), heard, from, reading };
        wire.until(|bytes| bytes.contains(&b'\n')).await;
        wire
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
        let _ = timeout(MUST_COME, self.writer.shutdown()).await;
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

async fn read(mut reader: Box<dyn AsyncRead + Send + Unpin>, hears: watch::Sender<Heard>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        hears.send_modify(|heard| heard.bytes.extend_from_slice(&buffer[..n]));
    }
    hears.send_modify(|heard| heard.is_over = true);
}
