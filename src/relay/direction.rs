//! One direction of a relay: read what is there, look at it, write it on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{net::stream::Stream, outcome::Cause, worker};

/// The worker's buffer: the most that is read at once, from where there is much.
const BUFFER: usize = 256 * 1024;

/// What is read at once at first, and from a side whose bytes the other does not take as fast as they come: what waits is kept by
/// the session.
const CAUTIOUS: usize = 32 * 1024;

/// A read that finds no more ends the large ones.
const FEW: usize = 8 * 1024;

/// After so many bytes in one go the other sessions of the worker get their turn.
const TURN: usize = 1024 * 1024;

/// The buffer of a worker. A poll uses it only while it runs, so one buffer serves all sessions of the worker.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; BUFFER].into_boxed_slice())
    }
}

/// What a direction does with the bytes that pass.
pub trait Side {
    /// Looks at `chunk` and hands to `out` what is to be forwarded.
    ///
    /// # Errors
    /// Why nothing after what was handed to `out` may pass.
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause>;

    /// Messages that have passed, where that is known.
    fn messages(&self) -> u64;
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    Eof,
    Stopped(Cause),
    ReadFailed,
    WriteFailed,
}

/// Where forwarded bytes go: into the socket while it takes them, else behind the bytes that wait.
#[derive(Debug)]
pub struct Outlet<'a, 'cx> {
    /// `None` before the relay runs: everything waits then.
    to: Option<(&'a mut Stream, &'a mut Context<'cx>)>,
    waiting: &'a mut Vec<u8>,
    bytes: &'a mut u64,
    failed: bool,
}

impl Outlet<'_, '_> {
    /// Forwards `bytes`.
    pub fn put(&mut self, mut bytes: &[u8]) {
        *self.bytes += bytes.len() as u64;
        if let Some((to, cx)) = &mut self.to
            && self.waiting.is_empty()
        {
            while !bytes.is_empty() && !self.failed {
                match Pin::new(&mut **to).poll_write(cx, bytes) {
                    Poll::Ready(Ok(n)) if n > 0 => bytes = &bytes[n..],
                    Poll::Ready(_) => self.failed = true,
                    Poll::Pending => break,
                }
            }
        }
        if !bytes.is_empty() {
            self.waiting.extend_from_slice(bytes);
        }
    }
}

/// One direction.
#[derive(Debug)]
pub struct Pump<S> {
    side: S,
    /// Forwarded bytes that the other end has not taken yet. At most one read, and what `side` adds.
    waiting: Vec<u8>,
    /// The last reads found much, and all of it was taken: the next may be of a whole buffer.
    flowing: bool,
    /// The reason that ends this direction once `waiting` is gone.
    stopped: Option<Cause>,
    bytes: u64,
}

impl<S: Side> Pump<S> {
    pub fn new(side: S) -> Self {
        Self { side, waiting: Vec::new(), flowing: false, stopped: None, bytes: 0 }
    }

    /// Passes bytes that were read before the relay began.
    pub fn preload(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        let mut out = Outlet { to: None, waiting: &mut self.waiting, bytes: &mut self.bytes, failed: false };
        let passed = if bytes.is_empty() { Ok(()) } else { self.side.pass(bytes, &mut out) };
        self.stopped = passed.err();
        passed
    }

    /// Whether bytes that were read have not been passed on yet.
    pub fn holds_bytes(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn side(&self) -> &S {
        &self.side
    }

    /// Writes what waits. Ready when nothing does any more, or the other end is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<bool> {
        let mut written = 0;
        while written < self.waiting.len() {
            match Pin::new(&mut *to).poll_write(cx, &self.waiting[written..]) {
                Poll::Ready(Ok(n)) if n > 0 => written += n,
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => {
                    self.waiting.drain(..written);
                    return Poll::Pending;
                }
            }
        }
        // An idle session keeps no buffer.
        self.waiting = Vec::new();
        if to.owes() {
            return Pin::new(to).poll_flush(cx).map(|flushed| flushed.is_ok());
        }
        Poll::Ready(true)
    }

    /// Moves what can be moved. Ready when this direction is over.
    pub fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<Pumped> {
        worker::with(|local| local.relay_buffer.with(|Buffer(buffer)| self.poll_with(buffer, cx, from, to)))
    }

    #[inline]
    fn poll_with(
        &mut self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Pumped> {
        let mut moved = 0;
        loop {
            if (!self.waiting.is_empty() || to.owes()) && !ready!(self.poll_flush(cx, to)) {
                return Poll::Ready(Pumped::WriteFailed);
            }
            if let Some(cause) = self.stopped {
                return Poll::Ready(Pumped::Stopped(cause));
            }
            if moved >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let most = if self.flowing { BUFFER } else { CAUTIOUS };
            let mut read = ReadBuf::new(&mut buffer[..most]);
            if let Err(err) = ready!(Pin::new(&mut *from).poll_read(cx, &mut read)) {
                return Poll::Ready(match err.kind() {
                    io::ErrorKind::InvalidData => Pumped::Stopped(Cause::Protocol),
                    _ => Pumped::ReadFailed,
                });
            }
            if read.filled().is_empty() {
                return Poll::Ready(Pumped::Eof);
            }
            let mut out =
                Outlet { to: Some((to, cx)), waiting: &mut self.waiting, bytes: &mut self.bytes, failed: false };
            self.stopped = self.side.pass(read.filled(), &mut out).err();
            if out.failed {
                return Poll::Ready(Pumped::WriteFailed);
            }
            moved += read.filled().len();
            let much = if self.flowing { read.filled().len() > FEW } else { read.remaining() == 0 };
            self.flowing = much && self.waiting.is_empty();
        }
    }
}
