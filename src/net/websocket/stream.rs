//! Frames as a stream of bytes: reading gives what the client's frames carry, each write goes into frames of its own.
//!
//! Both buffers belong to the worker. A session keeps bytes only while the client does not take them, or while a compressed
//! message holds more than there is room for; an idle one has none.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    net::stream::Stream,
    protocol::websocket::{Terms, Tools, closing::Closing, decode::Decoder, encode},
    worker,
};

/// As much as the relay reads at a time.
const BUFFER: usize = 32 * 1024;
/// Compressed bytes that are read at a time: what does not come out at once is kept by the session.
const COMPRESSED: usize = 4 * 1024;
/// The most that goes into frames at a time.
const MOST_WRITTEN: usize = 64 * 1024;
/// Answers to pings are left out while so many bytes wait for a client that does not read.
const MOST_OWED: usize = 4 * 1024;

/// What the WebSockets of one worker share.
#[derive(Debug)]
pub struct Buffers(Box<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes as they were read.
    raw: Box<[u8]>,
    /// Frames that are about to be written.
    frames: Vec<u8>,
    tools: Tools,
}

impl Default for Buffers {
    fn default() -> Self {
        let (raw, frames, tools) = (vec![0; BUFFER].into_boxed_slice(), Vec::new(), Tools::default());
        Self(Box::new(Shared { raw, frames, tools }))
    }
}

/// An open WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    below: Stream,
    terms: Terms,
    decoder: Decoder,
    /// Bytes that came and have not been decoded.
    raw: Vec<u8>,
    /// Frames that the client has not taken.
    owed: Vec<u8>,
    /// How it closes when it comes to that.
    closing: Closing,
    /// A close frame is sent, or owed: nothing may follow it.
    closed: bool,
    /// The client broke the rules: whatever it still sends is thrown away.
    broken: bool,
}

impl WebSocket {
    /// What was opened on `below`.
    pub fn over(below: Stream, terms: Terms) -> Self {
        Self {
            below,
            terms,
            decoder: Decoder::new(terms),
            raw: Vec::new(),
            owed: Vec::new(),
            closing: Closing::GOING_AWAY,
            closed: false,
            broken: false,
        }
    }

    /// The connection below.
    pub fn below(&self) -> &Stream {
        &self.below
    }

    /// Whether frames wait to be flushed.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty() || self.below.owes()
    }

    fn poll_pay(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut paid = 0;
        while paid < self.owed.len() {
            match Pin::new(&mut self.below).poll_write(cx, &self.owed[paid..]) {
                Poll::Ready(Ok(n)) if n > 0 => paid += n,
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(err)) => return Poll::Ready(Err(err)),
                Poll::Pending => {
                    self.owed.drain(..paid);
                    return Poll::Pending;
                }
            }
        }
        // An idle session keeps no buffer.
        self.owed = Vec::new();
        Pin::new(&mut self.below).poll_flush(cx)
    }

    /// One step of reading: what was kept, or else what there is to read. Returns how many bytes came out; `None` at the end.
    fn poll_decode(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Shared,
        out: &mut [u8],
    ) -> Poll<io::Result<Option<usize>>> {
        let kept = std::mem::take(&mut self.raw);
        let raw = if !self.broken && (!kept.is_empty() || self.decoder.has_more()) {
            &kept[..]
        } else {
            // What is not compressed takes no more room than it takes now.
            let most = if self.terms.deflate { COMPRESSED } else { out.len().min(BUFFER) };
            let mut read = ReadBuf::new(&mut buffers.raw[..most]);
            ready!(Pin::new(&mut self.below).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(None));
            }
            let n = read.filled().len();
            &buffers.raw[..n]
        };
        if self.broken {
            return Poll::Ready(Ok(Some(0)));
        }
        let owed = self.owed.len();
        let decoded = self.decoder.decode(raw, out, &mut self.owed, &mut buffers.tools);
        if self.closed || (owed > MOST_OWED && !self.decoder.is_closed()) {
            self.owed.truncate(owed);
        }
        match decoded {
            Ok(step) => {
                self.raw = raw[step.taken..].to_vec();
                self.closed |= self.decoder.is_closed();
                Poll::Ready(Ok(Some(step.given)))
            }
            Err(violation) => {
                if !self.closed {
                    violation.0.write(&mut self.owed);
                }
                (self.closed, self.broken) = (true, true);
                // Best effort here; a farewell flushes what is owed.
                let _ = self.poll_pay(cx);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)))
            }
        }
    }
}

impl WebSocket {
    /// Writes frames with `bytes`, and keeps what the client does not take now.
    fn write_frames(&mut self, cx: &mut Context<'_>, buffers: &mut Shared, bytes: &[u8]) -> io::Result<()> {
        let frames = &mut buffers.frames;
        frames.clear();
        encode::data(self.terms, bytes, &mut buffers.tools, frames);
        let written = match Pin::new(&mut self.below).poll_write(cx, frames) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        self.owed = frames[written..].to_vec();
        Ok(())
    }
}

impl AsyncRead for WebSocket {
    /// Violations of the framing are [`io::ErrorKind::InvalidData`]; after one, reading throws away until the end.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.decoder.is_closed() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let out = buf.initialize_unfilled();
            let given =
                worker::with(|local| local.websocket_buffers.with(|Buffers(shared)| this.poll_decode(cx, shared, out)));
            let Some(given) = ready!(given)? else { return Poll::Ready(Ok(())) };
            buf.advance(given);
            // Pongs and the answer to a close; what cannot leave now leaves with the next flush.
            if !this.owed.is_empty()
                && let Poll::Ready(Err(err)) = this.poll_pay(cx)
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
        // Nobody reads what comes behind a close frame.
        if this.closed || bytes.is_empty() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if !this.owed.is_empty() {
            ready!(this.poll_pay(cx))?;
        }
        let bytes = &bytes[..bytes.len().min(MOST_WRITTEN)];
        this.closing = Closing::after(bytes).unwrap_or(this.closing);
        worker::with(|local| local.websocket_buffers.with(|Buffers(shared)| this.write_frames(cx, shared, bytes)))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_pay(cx)
    }

    /// CertificateNames how it ends, and then ends the connection below.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            this.closing.write(&mut this.owed);
            this.closed = true;
        }
        ready!(this.poll_pay(cx))?;
        Pin::new(&mut this.below).poll_shutdown(cx)
    }
}
