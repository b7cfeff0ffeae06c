//! One side of a session: a TCP connection, with or without TLS, WebSocket or S2 on top.
//!
//! `Stream` is an enum and not a generic, since the kind is chosen per connection; for a plain connection it costs one
//! branch that the processor predicts. TLS, WebSocket and S2 state is on the heap, so that an idle plain session takes
//! no memory for it.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::{
    net::{s2::S2, socket, websocket::WebSocket},
    protocol::{s2::Mode, websocket::closing::Closing},
};

pub use crate::net::tls_in_use::TlsInUse;

/// A connection that is read and written as plain bytes of the NATS protocol.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    /// As a TLS server towards clients, or as a TLS client towards servers.
    Tls(Box<TlsStream<TcpStream>>),
    /// Over one of the others.
    WebSocket(Box<WebSocket>),
    /// Compressed, over one of the others.
    S2(Box<S2>),
}

impl Stream {
    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            Self::WebSocket(websocket) => websocket.below().tcp(),
            Self::S2(s2) => s2.below().tcp(),
        }
    }

    /// TLS of a connection that does TLS.
    pub fn tls(&self) -> Option<TlsInUse> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => {
                let (_, tls) = tls.get_ref();
                Some(TlsInUse { version: tls.protocol_version()?, cipher: tls.negotiated_cipher_suite()?.suite() })
            }
            Self::WebSocket(websocket) => websocket.below().tls(),
            Self::S2(s2) => s2.below().tls(),
        }
    }

    /// The client behind it has been let in.
    pub fn let_in(&mut self) {
        match self {
            Self::Plain(_) | Self::Tls(_) => {}
            Self::WebSocket(websocket) => websocket.let_in(),
            Self::S2(s2) => s2.let_in(),
        }
    }

    /// Whether its end is told with a code.
    pub fn has_close_code(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Tls(_) => false,
            Self::WebSocket(_) => true,
            Self::S2(s2) => s2.below().has_close_code(),
        }
    }

    /// Ends it with this code where there is one, and it has one to end with. Nobody but who knows why it ends may say
    /// so: what passes through it may be the words of anybody.
    pub fn set_closing(&mut self, closing: Option<&Closing>) {
        match (self, closing) {
            (Self::WebSocket(websocket), Some(closing)) => websocket.set_closing(*closing),
            (Self::S2(s2), _) => s2.below_mut().set_closing(closing),
            (Self::Plain(_) | Self::Tls(_) | Self::WebSocket(_), _) => {}
        }
    }

    /// How both sides compress what they send, where they do.
    pub fn compression(&self) -> Option<Mode> {
        if let Self::S2(s2) = self { Some(s2.mode()) } else { None }
    }

    /// It takes the client so long to answer a PING.
    pub fn set_rtt(&mut self, rtt: Duration) {
        if let Self::S2(s2) = self {
            s2.set_rtt(rtt);
        }
    }

    /// Writes and flushes all of `bytes`.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self {
            Self::Plain(tcp) => socket::send_now(&*tcp, bytes)?,
            _ => 0,
        };
        if sent == bytes.len() && !self.needs_flush() {
            return Ok(());
        }
        self.write_all(&bytes[sent..]).await?;
        self.flush().await
    }

    /// Writes as much of `bytes` as the connection takes now, which may be nothing. Returns the rest.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn write_now<'b>(&mut self, cx: &mut Context<'_>, bytes: &'b [u8]) -> io::Result<&'b [u8]> {
        match Pin::new(self).poll_write(cx, bytes) {
            Poll::Ready(written) => Ok(&bytes[written?..]),
            Poll::Pending => Ok(bytes),
        }
    }

    /// Writes what a layer above has kept, and flushes. `pending` has the rest, and no memory once there is none: an
    /// idle session keeps no buffer.
    pub fn poll_pending(&mut self, cx: &mut Context<'_>, pending: &mut Vec<u8>) -> Poll<io::Result<()>> {
        let mut written = 0;
        while written < pending.len() {
            match Pin::new(&mut *self).poll_write(cx, &pending[written..]) {
                Poll::Ready(Ok(n)) if n > 0 => written += n,
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(err)) => return Poll::Ready(Err(err)),
                Poll::Pending => {
                    pending.drain(..written);
                    return Poll::Pending;
                }
            }
        }
        *pending = Vec::new();
        Pin::new(self).poll_flush(cx)
    }

    /// Reads up to `N` bytes once and passes them to `take`: an empty slice at the end of the stream. The bytes are on
    /// the stack during the read and not in the future, so a waiting client takes no memory for them. Cancel-safe.
    ///
    /// # Errors
    /// Those of the connection and of `take`.
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

    /// Whether bytes of an earlier write have not been sent yet and need a flush. Never so on a plain connection.
    pub fn needs_flush(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.get_ref().1.wants_write(),
            Self::WebSocket(websocket) => websocket.needs_flush(),
            Self::S2(s2) => s2.needs_flush(),
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

impl From<S2> for Stream {
    fn from(s2: S2) -> Self {
        Self::S2(Box::new(s2))
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => match Pin::new(tls).poll_read(cx, buf) {
                // An end without close_notify is taken as an end: the NATS framing tells whether bytes are missing.
                Poll::Ready(Err(err)) if err.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => read,
            },
            Self::WebSocket(websocket) => Pin::new(websocket).poll_read(cx, buf),
            Self::S2(s2) => Pin::new(s2).poll_read(cx, buf),
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
            Self::S2(s2) => Pin::new(s2).poll_write(cx, bytes),
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
            Self::S2(s2) => Pin::new(s2).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // A plain connection buffers nothing.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_flush(cx),
            Self::S2(s2) => Pin::new(s2).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_shutdown(cx),
            Self::S2(s2) => Pin::new(s2).poll_shutdown(cx),
        }
    }
}
