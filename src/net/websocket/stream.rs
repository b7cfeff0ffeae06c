//! WebSocket frames as a stream of bytes: a read returns the payload of the other end's frames, a write makes new
//! frames. The other end is a client, or a server towards which weir is the client.
//!
//! Both buffers belong to the worker. A session keeps bytes only while the other end does not take them, or while a
//! compressed message is not there whole or holds more than the reader has room for. An idle session keeps none.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use aws_lc_rs::rand;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    net::{
        stream::Stream,
        timer::{Sleep, sleep_until},
        websocket::pinger::Pinger,
    },
    protocol::websocket::{DeflatePool, Negotiated, Role, closing::Closing, decode::Decoder, encode},
    worker::{self, Scratch, TICK},
};

/// The most bytes of frames that are read at a time.
const BUFFER: usize = 32 * 1024;
/// The most compressed bytes that are read at a time. They are few: the session keeps what the reader cannot take.
const COMPRESSED: usize = 4 * 1024;
/// The most bytes that go into frames at a time.
const MOST_WRITTEN: usize = 64 * 1024;
/// A ping without a payload (RFC 6455, 5.5.2).
const PING: [u8; 2] = [0x89, 0];
/// Pings are not answered, and none are sent, while more bytes than this wait for an end that does not read.
const MOST_PENDING: usize = 4 * 1024;

/// What the WebSockets of one worker share.
#[derive(Debug)]
pub struct Buffers(Box<Inner>);

#[derive(Debug)]
struct Inner {
    /// Bytes as they were read.
    raw: Box<[u8]>,
    /// Frames that are about to be written.
    frames: Vec<u8>,
    deflate: DeflatePool,
}

impl worker::State for Scratch<Buffers> {
    const PLACE: worker::Place = worker::Place::WebSocketBuffers;
}

impl Default for Buffers {
    fn default() -> Self {
        let (raw, frames, deflate) = (vec![0; BUFFER].into_boxed_slice(), Vec::new(), DeflatePool::default());
        Self(Box::new(Inner { raw, frames, deflate }))
    }
}

/// A key for the next frame to a server, from the same source as TLS keys.
fn next_key() -> [u8; 4] {
    let mut key = [0; 4];
    // It fails only where the system has no random numbers at all. The mask then has less of a secret, and the frame
    // is still a correct one.
    rand::fill(&mut key).unwrap_or_else(|_| key = fastrand::u32(..).to_be_bytes());
    key
}

#[derive(Debug)]
pub struct WebSocket {
    below: Stream,
    role: Role,
    terms: Negotiated,
    decoder: Decoder,
    /// Bytes that were read and have not been decoded.
    raw: Vec<u8>,
    /// Frames that have not been written.
    pending: Vec<u8>,
    /// The close frame to send when weir ends the session.
    closing: Closing,
    /// A close frame has been sent or is pending: nothing may follow it.
    closed: bool,
    /// The other end violated the framing: everything it still sends is discarded.
    broken: bool,
    /// Where silent clients are pinged.
    pinger: Option<Box<Pinger>>,
    /// When to look again for a decompressor, while there is none for it.
    starved: Option<Box<Sleep>>,
}

impl WebSocket {
    /// A WebSocket that a client opened on `below`. It is pinged when it is silent for `ping_interval`.
    pub fn from_client(below: Stream, terms: Negotiated, ping_interval: Option<Duration>) -> Self {
        let pinger = ping_interval.map(|interval| Box::new(Pinger::new(interval)));
        let mut one = Self::new(below, Role::Server, terms, Vec::new(), Closing::GOING_AWAY);
        one.pinger = pinger;
        one
    }

    /// A WebSocket that weir opened to a server on `below`. `raw` has been read behind the server's answer.
    pub fn to_server(below: Stream, raw: Vec<u8>) -> Self {
        Self::new(below, Role::Client { next_key }, Negotiated::default(), raw, Closing::NORMAL)
    }

    fn new(below: Stream, role: Role, terms: Negotiated, raw: Vec<u8>, closing: Closing) -> Self {
        let (decoder, pending) = (Decoder::new(role, terms), Vec::new());
        let (closed, broken, pinger, starved) = Default::default();
        Self { below, role, terms, decoder, raw, pending, closing, closed, broken, pinger, starved }
    }

    /// The client has been let in.
    pub fn let_in(&mut self) {
        self.decoder.let_in();
    }

    /// The close frame to send when weir ends the session.
    pub fn set_closing(&mut self, closing: Closing) {
        self.closing = closing;
    }

    /// Pings a client that is silent, and is not closed. Its pong is read like any other, and says no more than that.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(pinger) = &mut self.pinger else { return Ok(()) };
        if !pinger.is_due(cx) || self.closed || self.pending.len() > MOST_PENDING {
            return Ok(());
        }
        self.pending.extend_from_slice(&PING);
        match self.poll_pending(cx) {
            Poll::Ready(written) => written,
            Poll::Pending => Ok(()),
        }
    }

    /// The connection on which the WebSocket is open.
    pub fn below(&self) -> &Stream {
        &self.below
    }

    /// Whether frames have not been written or flushed.
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
        if let Some(look_again) = &mut self.starved {
            ready!(Pin::new(look_again).poll(cx));
            self.starved = None;
        }
        let kept = std::mem::take(&mut self.raw);
        let raw = if !self.broken && (!kept.is_empty() || self.decoder.has_more()) {
            &kept[..]
        } else {
            // Bytes that are not compressed fit into `out` when they are decoded.
            let most = if self.terms.deflate { COMPRESSED } else { out.len().min(BUFFER) };
            let mut read = ReadBuf::new(&mut buffers.raw[..most]);
            ready!(Pin::new(&mut self.below).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(None));
            }
            let n = read.filled().len();
            if let Some(pinger) = &mut self.pinger {
                pinger.heard();
            }
            &buffers.raw[..n]
        };
        if self.broken {
            return Poll::Ready(Ok(Some(0)));
        }
        let before = self.pending.len();
        let decoded = self.decoder.decode(raw, out, &mut self.pending, &mut buffers.deflate);
        if self.closed || before > MOST_PENDING {
            self.pending.truncate(before);
        }
        match decoded {
            Ok(step) => {
                self.raw = raw[step.taken..].to_vec();
                self.starved = self.decoder.is_starved().then(|| Box::new(sleep_until(Instant::now() + TICK)));
                Poll::Ready(Ok(Some(step.given)))
            }
            Err(violation) => {
                if !self.closed {
                    violation.0.write(self.role, &mut self.pending);
                }
                (self.closed, self.broken) = (true, true);
                // Best effort: the lingering close flushes the rest.
                let _ = self.poll_pending(cx);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)))
            }
        }
    }
}

impl WebSocket {
    /// Answers the other end's close frame; `false` when there is none to answer. Nothing may follow the answer, so it
    /// is due once the other side of the session has ended, too: what a server still says to a client that has closed
    /// goes before it, as straight from a nats-server.
    fn answer_close(&mut self) -> bool {
        let reply = self.decoder.take_close_reply();
        self.pending.extend_from_slice(&reply);
        self.closed |= !reply.is_empty();
        !reply.is_empty()
    }

    /// Writes `bytes` in frames, and keeps the frames that the other end does not take now.
    fn write_frames(&mut self, cx: &mut Context<'_>, buffers: &mut Inner, bytes: &[u8]) -> io::Result<()> {
        let frames = &mut buffers.frames;
        frames.clear();
        encode::data(self.role, self.terms, bytes, &mut buffers.deflate, frames);
        self.pending = self.below.write_now(cx, frames)?.to_vec();
        Ok(())
    }
}

impl AsyncRead for WebSocket {
    /// A violation of the framing is [`io::ErrorKind::InvalidData`]. Reads after it discard everything until the end.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_ping(cx)?;
        loop {
            if this.decoder.is_closed() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let out = buf.initialize_unfilled();
            let given = worker::with(|scratch: &Scratch<Buffers>| {
                scratch.with(|Buffers(buffers)| this.poll_decode(cx, buffers, out))
            });
            let Some(given) = ready!(given)? else { return Poll::Ready(Ok(())) };
            buf.advance(given);
            // Pongs. Frames that cannot be written now are written by the next flush.
            if !this.pending.is_empty()
                && let Poll::Ready(Err(err)) = this.poll_pending(cx)
            {
                return Poll::Ready(Err(err));
            }
            if given > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // The other end ignores everything behind a close frame.
        if this.closed || bytes.is_empty() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if !this.pending.is_empty() {
            ready!(this.poll_pending(cx))?;
        }
        let bytes = &bytes[..bytes.len().min(MOST_WRITTEN)];
        worker::with(|scratch: &Scratch<Buffers>| {
            scratch.with(|Buffers(buffers)| this.write_frames(cx, buffers, bytes))
        })?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_pending(cx)
    }

    /// Sends the close frame, and then ends the connection below.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed && !this.answer_close() {
            this.closing.write(this.role, &mut this.pending);
            this.closed = true;
        }
        ready!(this.poll_pending(cx))?;
        Pin::new(&mut this.below).poll_shutdown(cx)
    }
}

impl Drop for WebSocket {
    /// A session that ends before a server has been found has no last words, and no reason to wait for anything: its
    /// client is answered all the same, as far as the connection takes it at once.
    fn drop(&mut self) {
        if !self.closed && self.answer_close() {
            let _ = self.poll_pending(&mut Context::from_waker(Waker::noop()));
        }
    }
}
