//! One side of a session: a TCP connection, as it is or with something on top that turns it into bytes of NATS.
//!
//! An enum and not a generic: the sides' kinds are chosen per connection, and the plain one costs a branch that is always
//! taken the same way. What is not plain lives on the heap, so that an idle plain session pays nothing for it.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::net::{socket, websocket::WebSocket};

/// A connection that carries NATS in plain bytes, whatever is below them.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// TLS, either side's.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket, over one of the others.
    WebSocket(Box<WebSocket>),
}

impl Stream {
    /// The connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            Self::WebSocket(websocket) => websocket.below().tcp(),
        }
    }

    /// Writes all of `bytes`, and sees to it that they leave.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self {
            Self::Plain(tcp) => socket::send_now(&*tcp, bytes)?,
            _ => 0,
        };
        if sent == bytes.len() && !self.owes() {
            return Ok(());
        }
        self.write_all(&bytes[sent..]).await?;
        self.flush().await
    }

    /// One read of up to `N` bytes, which `take` is shown: none at the end of the stream. They are on the stack of the read, not in the
    /// future, so a client that waits takes no room for them. Cancel-safe.
    ///
    /// # Errors
    /// The connection's, and those of `take`.
    pub fn read_once<const N: usize, T>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> io::Result<T> + Unpin,
    ) -> impl Future<Output = io::Result<T>> + Unpin {
        poll_fn(move |cx| {
            let mut bytes = [MaybeUninit::uninit(); N];
            let mut read = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut *self).poll_read(cx, &mut read))?;
            Poll::Ready(take(read.filled()))
        })
    }

    /// Whether bytes that were taken by a write are still here: a flush sends them. Never so on a plain connection.
    pub fn owes(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.get_ref().1.wants_write(),
            Self::WebSocket(websocket) => websocket.owes(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

impl From<WebSocket> for Stream {
    fn from(websocket: WebSocket) -> Self {
        Self::WebSocket(Box::new(websocket))
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => match Pin::new(tls).poll_read(cx, buf) {
                // An end without close_notify is an end: NATS's own framing tells whether anything is missing.
                Poll::Ready(Err(err)) if err.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => read,
            },
            Self::WebSocket(websocket) => Pin::new(websocket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // Nothing is ever kept back.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_shutdown(cx),
        }
    }
}
