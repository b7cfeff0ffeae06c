//! A connection to a leafnode on which both sides speak S2: a read returns what its blocks hold, a write makes one.
//!
//! As with WebSocket (`net::websocket`) the buffers belong to the worker. A session keeps bytes only while the other
//! end does not take them, while a block is not there whole, or while one holds more than the reader has room for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    net::stream::Stream,
    protocol::s2::{
        Level, Mode,
        decode::{Decoder, Step},
        encode::{self, Compressor, MOST_WRITTEN},
    },
    worker::{self, Scratch},
};

/// The most bytes of the stream that are read at a time.
const BUFFER: usize = 32 * 1024;

/// What the S2 streams of one worker share.
#[derive(Debug)]
pub struct Buffers(Box<Inner>);

#[derive(Debug)]
struct Inner {
    /// Bytes as they were read.
    raw: Box<[u8]>,
    /// Chunks that are about to be written.
    chunks: Vec<u8>,
    compressor: Compressor,
}

impl worker::State for Scratch<Buffers> {
    const PLACE: worker::Place = worker::Place::S2Buffers;
}

impl Default for Buffers {
    fn default() -> Self {
        let raw = vec![0; BUFFER].into_boxed_slice();
        Self(Box::new(Inner { raw, chunks: Vec::new(), compressor: Compressor::default() }))
    }
}

/// See the module.
#[derive(Debug)]
pub struct S2 {
    below: Stream,
    mode: Mode,
    level: Level,
    decoder: Decoder,
    /// Bytes that were read and have not been decoded, from `at` on.
    raw: Vec<u8>,
    at: usize,
    /// Chunks that have not been written.
    pending: Vec<u8>,
    /// The stream to the other end has begun.
    begun: bool,
    /// What the other end sends is no S2: everything it still sends is discarded.
    broken: bool,
}

impl S2 {
    /// Both sides of `below` have agreed on `mode`; `raw` has been read behind that. `rtt` is how long it takes the
    /// other end to answer.
    pub fn new(below: Stream, mode: Mode, raw: Vec<u8>, rtt: Duration) -> Self {
        let (decoder, at, pending, begun, broken) = Default::default();
        Self { below, mode, level: mode.level(rtt), decoder, raw, at, pending, begun, broken }
    }

    /// The leafnode has been let in.
    pub fn let_in(&mut self) {
        self.decoder.let_in();
    }

    /// What both sides have agreed on.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// It takes the other end so long to answer a PING.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.level = self.mode.level(rtt);
    }

    /// The connection on which S2 is spoken.
    pub fn below(&self) -> &Stream {
        &self.below
    }

    /// See [`Self::below`].
    pub fn below_mut(&mut self) -> &mut Stream {
        &mut self.below
    }

    /// Whether chunks have not been written or flushed.
    pub fn needs_flush(&self) -> bool {
        !self.pending.is_empty() || self.below.needs_flush()
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.below.poll_pending(cx, &mut self.pending)
    }

    /// Decodes the bytes that were kept, or those of one read. Returns how many bytes are in `out`; `None` at the end.
    fn poll_decode(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Inner,
        out: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        let kept = self.raw.get(self.at..).unwrap_or_default();
        if !self.broken && (!kept.is_empty() || self.decoder.has_more()) {
            let Step { taken, given } = match self.decoder.decode(kept, out) {
                Ok(step) => step,
                Err(violation) => return Poll::Ready(Err(self.broken_by(violation))),
            };
            self.at = self.at.saturating_add(taken);
            if self.at >= self.raw.len() {
                (self.raw, self.at) = (Vec::new(), 0);
            }
            // It goes on once the leafnode is in, when the relay begins to read.
            return if given == 0 && self.decoder.is_stalled() { Poll::Pending } else { Poll::Ready(Ok(Some(given))) };
        }
        let mut read = ReadBuf::new(&mut buffers.raw);
        ready!(Pin::new(&mut self.below).poll_read(cx, &mut read))?;
        let raw: &[u8] = read.filled();
        if raw.is_empty() {
            return Poll::Ready(Ok(None));
        }
        if self.broken {
            return Poll::Ready(Ok(Some(0)));
        }
        match self.decoder.decode(raw, out) {
            Ok(Step { taken, given }) => {
                self.raw = raw.get(taken..).unwrap_or_default().to_vec();
                Poll::Ready(Ok(Some(given)))
            }
            Err(violation) => Poll::Ready(Err(self.broken_by(violation))),
        }
    }

    fn broken_by(&mut self, violation: impl std::error::Error + Send + Sync + 'static) -> io::Error {
        (self.broken, self.raw, self.at) = (true, Vec::new(), 0);
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }

    /// Writes `bytes` in a block, and keeps what the other end does not take now.
    fn write_block(&mut self, cx: &mut Context<'_>, buffers: &mut Inner, bytes: &[u8]) -> io::Result<()> {
        let chunks = &mut buffers.chunks;
        chunks.clear();
        if !std::mem::replace(&mut self.begun, true) {
            encode::begin(chunks);
        }
        buffers.compressor.block(self.level, bytes, chunks);
        self.pending = self.below.write_now(cx, chunks)?.to_vec();
        Ok(())
    }
}

impl AsyncRead for S2 {
    /// What is no S2 is [`io::ErrorKind::InvalidData`]. Reads after it discard everything until the end.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let out = buf.initialize_unfilled();
            let given = worker::with(|scratch: &Scratch<Buffers>| {
                scratch.with(|Buffers(buffers)| this.poll_decode(cx, buffers, out))
            });
            let Some(given) = ready!(given)? else { return Poll::Ready(Ok(())) };
            buf.advance(given);
            if given > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for S2 {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !this.pending.is_empty() {
            ready!(this.poll_pending(cx))?;
        }
        let bytes = bytes.get(..MOST_WRITTEN).unwrap_or(bytes);
        worker::with(|scratch: &Scratch<Buffers>| {
            scratch.with(|Buffers(buffers)| this.write_block(cx, buffers, bytes))
        })?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_pending(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.below).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::socket::connected_pair;

    fn messages(n: usize) -> Vec<u8> {
        let message =
            |i| format!("LMSG telemetry.{} 40\r\n{{\"sensor\":{i:9},\"unit\":\"celsius\",\"ok\":1}}\r\n", i % 5);
        (0..n).flat_map(|i| message(i).into_bytes()).collect()
    }

    async fn pair(mode: Mode) -> (S2, S2) {
        let (near, far) = connected_pair().await;
        let side = |tcp: tokio::net::TcpStream| S2::new(tcp.into(), mode, Vec::new(), Duration::ZERO);
        (side(near), side(far))
    }

    /// What the other end does not take is one block, and nothing is held once it has taken all.
    #[tokio::test]
    async fn a_slow_reader_gets_everything_and_costs_one_block() {
        for mode in [Mode::S2Auto, Mode::S2Fast, Mode::S2Best] {
            let (mut writer, mut reader) = pair(mode).await;
            reader.let_in();
            let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(300_000).collect();
            let text = [messages(20_000), random, messages(10)].concat();
            let mut sent = Vec::new();
            poll_fn(|cx| {
                loop {
                    match Pin::new(&mut writer).poll_write(cx, &text) {
                        Poll::Ready(n) => sent.extend_from_slice(&text[..n.unwrap()]),
                        Poll::Pending => break Poll::Ready(()),
                    }
                }
            })
            .await;
            assert!(writer.pending.len() <= MOST_WRITTEN + 64, "{} bytes are kept", writer.pending.len());
            let behind = messages(3);
            let write = async {
                writer.write_all(&behind).await.unwrap();
                writer.flush().await.unwrap();
                assert_eq!(writer.pending.capacity(), 0);
                writer
            };
            let read = async {
                let mut read = vec![0; sent.len() + behind.len()];
                reader.read_exact(&mut read).await.unwrap();
                assert_eq!(reader.raw.capacity(), 0);
                (read, reader)
            };
            let (_writer, (read, _reader)) = tokio::join!(write, read);
            assert!(read == [sent, behind].concat(), "{mode:?}");
        }
    }

    /// Nothing but the state itself, beside the connection.
    #[test]
    fn an_idle_one_takes_little() {
        assert!(size_of::<S2>() <= 256, "{}", size_of::<S2>());
    }

    #[tokio::test]
    async fn the_level_follows_the_round_trip() {
        let (near, mut far) = connected_pair().await;
        let mut writer = S2::new(near.into(), Mode::S2Auto, Vec::new(), Duration::ZERO);
        let text = messages(400);
        let mut took = Vec::new();
        for rtt in [0, 20, 60, 200, 0] {
            writer.set_rtt(Duration::from_millis(rtt));
            writer.write_all(&text).await.unwrap();
            writer.flush().await.unwrap();
            let mut header = [0; 4];
            far.read_exact(&mut header).await.unwrap();
            if header[0] == 0xff {
                far.read_exact(&mut [0; 6]).await.unwrap();
                far.read_exact(&mut header).await.unwrap();
            }
            let length = u32::from_le_bytes([header[1], header[2], header[3], 0]);
            far.read_exact(&mut vec![0; length.try_into().unwrap()]).await.unwrap();
            took.push(length);
        }
        assert!(took[0] as usize == text.len() + 4 && took[4] == took[0], "{took:?}");
        assert!(took[1] * 2 < took[0] && took[2] < took[1] && took[3] < took[2], "{took:?}");
    }
}
