//! One direction of a relay: reads what has come, inspects it, and writes it to the other side.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    net::{socket, stream::Stream},
    outcome::Cause,
    protocol::websocket::closing::Closing,
    relay::waiting::{LARGE_READ, SMALL_READ, Waiting, most_to_read},
    worker::{self, Scratch},
};

/// A large read that finds no more bytes than this ends the large reads.
const TRICKLE: usize = 8 * 1024;

/// After this many bytes in one poll the other sessions of the worker may run.
const MOST_PER_POLL: usize = 1024 * 1024;

/// The buffer of a worker. A poll uses it only while it runs, so one buffer serves all sessions of the worker.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; LARGE_READ].into_boxed_slice())
    }
}

impl Buffer {
    /// Room for a small read.
    pub fn small(&mut self) -> &mut [u8] {
        let len = SMALL_READ.min(self.0.len());
        self.0.split_at_mut(len).0
    }
}

impl worker::State for Scratch<Buffer> {
    const PLACE: worker::Place = worker::Place::RelayBuffer;
}

/// What one direction does with the bytes that its side sends.
pub trait Side {
    /// Inspects `chunk` and puts into `out` what is to be forwarded.
    ///
    /// # Errors
    /// The cause for which nothing may be forwarded after that.
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause>;

    /// Messages that have passed; 0 where nobody looks.
    fn messages(&self) -> u64;

    /// The bytes of the payloads of these messages, headers included; 0 where nobody looks.
    fn payload(&self) -> u64;

    /// A number that changes with each thing that passes and is no mere sign of life, of so many `bytes` in all.
    fn activity(&self, _bytes: u64) -> u64 {
        self.messages()
    }

    /// On the way to the client its server's PINGs, on the way to the server the client's PONGs, modulo 2^32; 0 where
    /// nobody looks.
    fn signs_of_life(&self) -> u32 {
        0
    }

    /// The other side is a WebSocket: from now on [`Self::closing`] is known.
    fn capture_errors(&mut self) {}

    /// The close frame that goes behind the last error that has passed, if that one ends a connection.
    fn closing(&self) -> Option<&'static Closing> {
        None
    }

    /// Something of weir's own is to go to the other side between two operations: returns it where it can go now. Else
    /// [`Self::pass`] puts it where it can go.
    fn announce(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// An operation that the other side answers, where one may go behind what has been forwarded.
    fn question(&self) -> Option<&'static [u8]> {
        None
    }

    /// An operation that does nothing, where one may go behind what has been forwarded.
    fn no_operation(&self) -> Option<&'static [u8]> {
        None
    }
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectionEnd {
    Eof,
    /// The [`Side`] allows no more bytes.
    Stopped(Cause),
    ReadFailed,
    WriteFailed,
}

/// Takes the bytes that a [`Side`] forwards: into the socket while that takes them, else behind the bytes that wait.
#[derive(Debug)]
pub struct Outlet<'a, 'cx> {
    /// `None` before the relay runs, when all bytes wait.
    to: Option<(&'a mut Stream, &'a mut Context<'cx>)>,
    waiting: &'a mut Waiting,
    bytes: &'a mut u64,
    failed: bool,
}

impl<'a> Outlet<'a, '_> {
    /// All bytes wait.
    pub fn to_hold(waiting: &'a mut Waiting, bytes: &'a mut u64) -> Self {
        Self { to: None, waiting, bytes, failed: false }
    }
}

impl Outlet<'_, '_> {
    #[expect(clippy::indexing_slicing, reason = "a write takes at most the bytes it is given")]
    pub fn put(&mut self, mut bytes: &[u8]) {
        *self.bytes = self.bytes.saturating_add(bytes.len() as u64);
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
            self.waiting.push(bytes);
        }
    }
}

/// Why nothing can be read of what this side sends.
fn unreadable(from: &Stream) -> Cause {
    if let Stream::S2(_) = from { Cause::Compression } else { Cause::Protocol }
}

#[derive(Debug)]
pub struct Direction<S> {
    side: S,
    /// Forwarded bytes that the other side has not taken yet: at most those of one read, and what `side` adds to them.
    waiting: Waiting,
    /// The last reads found many bytes and the other side took all of them: the next read may fill the whole buffer.
    flowing: bool,
    /// The cause that ends this direction once `waiting` is empty.
    stopped: Option<Cause>,
    /// How often something was read, modulo 2^32.
    reads: u32,
    bytes: u64,
}

impl<S: Side> Direction<S> {
    pub fn new(side: S) -> Self {
        Self { side, waiting: Waiting::default(), flowing: false, stopped: None, reads: 0, bytes: 0 }
    }

    /// Goes on where another process has stopped, which has read `waiting` and not written it.
    pub fn resumed(side: S, waiting: &[u8], stopped: Option<Cause>, bytes: u64) -> Self {
        let mut direction = Self { stopped, bytes, ..Self::new(side) };
        if !waiting.is_empty() {
            direction.waiting.push(waiting);
        }
        direction
    }

    /// Takes in bytes that were read before the relay began.
    pub fn preload(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        let mut out = Outlet::to_hold(&mut self.waiting, &mut self.bytes);
        let passed = if bytes.is_empty() { Ok(()) } else { self.side.pass(bytes, &mut out) };
        self.stopped = passed.err();
        passed
    }

    /// Counts bytes that the other side has had already.
    pub fn has_passed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether bytes that were read have not been forwarded yet.
    pub fn holds_bytes(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Forwarded bytes that the other side has not taken yet.
    pub fn waiting(&self) -> &[u8] {
        &self.waiting
    }

    /// The cause that ends this direction once none wait.
    pub fn stopped(&self) -> Option<Cause> {
        self.stopped
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How often something was read, modulo 2^32: also what the [`Side`] keeps until its operation is whole.
    pub fn reads(&self) -> u32 {
        self.reads
    }

    /// See [`Side::activity`].
    pub fn activity(&self) -> u64 {
        self.side.activity(self.bytes)
    }

    /// Bytes that the other side has taken.
    pub fn delivered(&self) -> u64 {
        self.bytes.saturating_sub(self.waiting.len() as u64)
    }

    /// Writes an operation to the other side that does nothing. Returns whether that is possible now.
    pub fn put_no_operation(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> bool {
        let operation = self.side.no_operation().filter(|_| self.waiting.is_empty());
        if let Some(operation) = operation {
            let mut uncounted = 0;
            let mut out =
                Outlet { to: Some((to, cx)), waiting: &mut self.waiting, bytes: &mut uncounted, failed: false };
            // A failure shows when the side is read from.
            out.put(operation);
        }
        operation.is_some()
    }

    /// Writes to the other side what it answers. Returns whether that is possible now.
    pub fn ask(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> bool {
        let question = self.side.question().filter(|_| self.waiting.is_empty() && self.stopped.is_none());
        if let Some(question) = question {
            self.put_between(cx, to, question);
        }
        question.is_some()
    }

    /// Has the [`Side`] tell the other side what is new, at once or behind the operation that is under way.
    pub fn announce(&mut self, cx: &mut Context<'_>, to: &mut Stream) {
        if self.stopped.is_none()
            && let Some(news) = self.side.announce()
        {
            self.put_between(cx, to, &news);
        }
    }

    /// Writes to the other side what is weir's own, between two operations.
    pub fn put_between(&mut self, cx: &mut Context<'_>, to: &mut Stream, bytes: &[u8]) {
        // A failure shows at the next write.
        let mut out = Outlet { to: Some((to, cx)), waiting: &mut self.waiting, bytes: &mut self.bytes, failed: false };
        out.put(bytes);
    }

    /// `last` goes to the other side behind the bytes that wait.
    pub fn put_behind(&mut self, last: &[u8]) {
        self.pass_behind(|_, out| out.put(last));
    }

    /// What `pass` puts goes to the other side behind the bytes that wait.
    pub fn pass_behind<R>(&mut self, pass: impl FnOnce(&mut S, &mut Outlet<'_, '_>) -> R) -> R {
        pass(&mut self.side, &mut Outlet::to_hold(&mut self.waiting, &mut self.bytes))
    }

    /// Nothing more is read, and this direction ends for this cause once no bytes wait.
    pub fn stop(&mut self, cause: Cause) {
        self.stopped = Some(cause);
    }

    /// The other side is gone, and with it the bytes that wait for it.
    pub fn drop_waiting(&mut self) {
        self.waiting.all_taken();
    }

    /// `first` goes to the other side before the bytes that wait. It counts for nothing.
    pub fn put_first(&mut self, first: &[u8]) {
        let behind = mem::take(&mut self.waiting);
        self.waiting.push(first);
        self.waiting.push(&behind);
    }

    /// Reads what comes from one side while there is no other, until so many bytes wait. Ready when this direction has
    /// ended.
    pub fn poll_keep(&mut self, cx: &mut Context<'_>, from: &mut Stream, most: usize) -> Poll<DirectionEnd> {
        worker::with(|scratch: &Scratch<Buffer>| {
            scratch.with(|Buffer(buffer)| {
                while self.waiting.len() < most {
                    if let Some(cause) = self.stopped {
                        return Poll::Ready(DirectionEnd::Stopped(cause));
                    }
                    let room = buffer.get_mut(..most_to_read(false)).unwrap_or_default();
                    let mut read = ReadBuf::new(room);
                    match ready!(Pin::new(&mut *from).poll_read(cx, &mut read)) {
                        Err(err) if err.kind() == io::ErrorKind::InvalidData => self.stopped = Some(unreadable(from)),
                        Err(_) => return Poll::Ready(DirectionEnd::ReadFailed),
                        Ok(()) if read.filled().is_empty() => return Poll::Ready(DirectionEnd::Eof),
                        Ok(()) => {
                            self.reads = self.reads.wrapping_add(1);
                            let mut out = Outlet::to_hold(&mut self.waiting, &mut self.bytes);
                            self.stopped = self.side.pass(read.filled(), &mut out).err();
                        }
                    }
                }
                Poll::Pending
            })
        })
    }

    /// Writes some of the bytes that wait without asking the runtime whether the socket takes any: it says so only when
    /// much of the socket's buffer is free. An error shows at the next write.
    pub fn push(&mut self, to: &Stream) {
        if let Stream::Plain(tcp) = to
            && !self.waiting.is_empty()
            && let Ok(taken) = socket::send_now(tcp, &self.waiting)
        {
            self.waiting.taken(taken);
        }
    }

    pub fn side(&self) -> &S {
        &self.side
    }

    pub fn side_mut(&mut self) -> &mut S {
        &mut self.side
    }

    /// Writes the bytes that wait. Ready with `true` when none are left, and with `false` when the other side is gone.
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a write takes at most the bytes it is given, so `written` stays within `waiting`"
    )]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<bool> {
        let mut written = 0;
        while written < self.waiting.len() {
            match Pin::new(&mut *to).poll_write(cx, &self.waiting[written..]) {
                Poll::Ready(Ok(n)) if n > 0 => written += n,
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => {
                    self.waiting.taken(written);
                    return Poll::Pending;
                }
            }
        }
        // An idle session keeps no buffer.
        self.waiting.all_taken();
        if to.needs_flush() {
            return Pin::new(to).poll_flush(cx).map(|flushed| flushed.is_ok());
        }
        Poll::Ready(true)
    }

    /// Moves the bytes that can be moved now. Ready when this direction has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream) -> Poll<DirectionEnd> {
        worker::with(|scratch: &Scratch<Buffer>| scratch.with(|Buffer(buffer)| self.poll_with(buffer, cx, from, to)))
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "reads fit into the buffer, and `moved` is at most MOST_PER_POLL and one read"
    )]
    fn poll_with(
        &mut self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<DirectionEnd> {
        let mut moved = 0;
        loop {
            if (!self.waiting.is_empty() || to.needs_flush()) && !ready!(self.poll_flush(cx, to)) {
                return Poll::Ready(DirectionEnd::WriteFailed);
            }
            if let Some(cause) = self.stopped {
                return Poll::Ready(DirectionEnd::Stopped(cause));
            }
            if moved >= MOST_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut read = ReadBuf::new(&mut buffer[..most_to_read(self.flowing)]);
            if let Err(err) = ready!(Pin::new(&mut *from).poll_read(cx, &mut read)) {
                if err.kind() != io::ErrorKind::InvalidData {
                    return Poll::Ready(DirectionEnd::ReadFailed);
                }
                // Nothing that it still sends is waited for.
                let cause = unreadable(from);
                self.stopped = Some(cause);
                return Poll::Ready(DirectionEnd::Stopped(cause));
            }
            if read.filled().is_empty() {
                return Poll::Ready(DirectionEnd::Eof);
            }
            self.reads = self.reads.wrapping_add(1);
            let mut out =
                Outlet { to: Some((to, cx)), waiting: &mut self.waiting, bytes: &mut self.bytes, failed: false };
            self.stopped = self.side.pass(read.filled(), &mut out).err();
            if out.failed {
                return Poll::Ready(DirectionEnd::WriteFailed);
            }
            moved += read.filled().len();
            let much = if self.flowing { read.filled().len() > TRICKLE } else { read.remaining() == 0 };
            self.flowing = much && self.waiting.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::{
        net::{s2::S2, socket::connected_pair},
        protocol::s2::Mode,
        relay::Passthrough,
    };

    #[tokio::test]
    async fn a_side_that_cannot_be_read_is_not_waited_for() {
        let ((mut leafnode, down), (_hub, up)) = (connected_pair().await, connected_pair().await);
        let mut down = Stream::from(S2::new(down.into(), Mode::S2Fast, Vec::new(), Duration::ZERO));
        let (mut up, mut direction) = (Stream::from(up), Direction::new(Passthrough::default()));
        leafnode.write_all(b"PING\r\nPING\r\n").await.unwrap();
        let end = poll_fn(|cx| direction.poll(cx, &mut down, &mut up)).await;
        assert_eq!(end, DirectionEnd::Stopped(Cause::Compression));
        let again = poll_fn(|cx| Poll::Ready(direction.poll(cx, &mut down, &mut up))).await;
        assert_eq!(again, Poll::Ready(DirectionEnd::Stopped(Cause::Compression)));
    }
}
