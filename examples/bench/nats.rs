//! The part of a NATS client that a load generator needs: the handshake, and counting messages without parsing them.

use std::{io, net::SocketAddr, time::Duration};

use memchr::{memchr, memmem};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What the official Rust client sends, in one write.
pub(crate) const HELLO: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"jwt\":null,\"nkey\":null,\"sig\":null,\
    \"name\":\"bench\",\"echo\":true,\"lang\":\"rust\",\"version\":\"0.51.0\",\"protocol\":1,\"tls_required\":false,\
    \"user\":null,\"pass\":null,\"auth_token\":null,\"headers\":true,\"no_responders\":true}\r\nPING\r\n";
pub(crate) const PONG: &[u8] = b"PONG\r\n";
/// No handshake takes this long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client after its handshake, and what the server has sent after PONG.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) rest: Vec<u8>,
}

impl Client {
    /// INFO → CONNECT, PING → PONG.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        timeout(PATIENCE, Self::handshake(address)).await.map_err(|_| io::Error::other("no PONG in time"))?
    }

    async fn handshake(address: SocketAddr) -> io::Result<Self> {
        let mut client = Self::greeted(address).await?;
        client.hello().await?;
        Ok(client)
    }

    /// Connects and reads INFO.
    async fn greeted(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, rest: Vec::with_capacity(2048) };
        while memchr(b'\n', &client.rest).is_none() {
            client.read().await?;
        }
        if !client.rest.starts_with(b"INFO ") {
            return Err(client.unexpected());
        }
        client.rest.clear();
        Ok(client)
    }

    /// INFO → TLS → CONNECT, PING → PONG. The certificate has to be that of `localhost`.
    pub(crate) async fn connect_over_tls(
        address: SocketAddr,
        tls: &TlsConnector,
    ) -> io::Result<Client<TlsStream<TcpStream>>> {
        let handshake = async {
            let Self { stream, rest } = Self::greeted(address).await?;
            let name = "localhost".try_into().map_err(io::Error::other)?;
            let mut client = Client { stream: tls.connect(name, stream).await?, rest };
            client.hello().await?;
            Ok(client)
        };
        timeout(PATIENCE, handshake).await.map_err(|_| io::Error::other("no PONG in time"))?
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn hello(&mut self) -> io::Result<()> {
        self.stream.write_all(HELLO).await?;
        self.stream.flush().await?;
        self.until_pong().await
    }

    /// Sends operations that end with a PING, and waits for its PONG.
    pub(crate) async fn say(&mut self, words: &[u8]) -> io::Result<()> {
        self.stream.write_all(words).await?;
        timeout(PATIENCE, self.until_pong()).await.map_err(|_| io::Error::other("no PONG in time"))?
    }

    /// Reads until PONG, and drops everything up to and including it.
    async fn until_pong(&mut self) -> io::Result<()> {
        loop {
            if let Some(at) = memmem::find(&self.rest, PONG) {
                self.rest.drain(..at + PONG.len());
                return Ok(());
            }
            if memmem::find(&self.rest, b"-ERR").is_some() {
                return Err(self.unexpected());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.rest).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side")),
            _ => Ok(()),
        }
    }

    fn unexpected(&self) -> io::Error {
        io::Error::other(format!("unexpected: {}", String::from_utf8_lossy(&self.rest).trim_end()))
    }
}

/// Counts messages that all have the same length. It looks only at the first byte of each, and skips other lines.
pub(crate) struct Counter {
    message: usize,
    skip: usize,
    in_line: bool,
}

impl Counter {
    /// Expects messages of `size` bytes on `subject`, with the subscription id 1.
    pub(crate) fn new(subject: &str, size: usize) -> Self {
        Self { message: format!("MSG {subject} 1 {size}\r\n").len() + size + 2, skip: 0, in_line: false }
    }

    /// How many messages ended in these bytes.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) -> io::Result<u64> {
        let mut count = 0;
        while let Some(first) = bytes.first() {
            if self.in_line {
                let Some(end) = memchr(b'\n', bytes) else { return Ok(count) };
                self.in_line = false;
                bytes = &bytes[end + 1..];
            } else if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                count += u64::from(self.skip == 0);
                bytes = &bytes[n..];
            } else {
                match first {
                    b'M' => self.skip = self.message,
                    b'P' | b'I' => self.in_line = true,
                    _ => {
                        let line = &bytes[..memchr(b'\r', bytes).unwrap_or(bytes.len()).min(120)];
                        return Err(io::Error::other(format!("unexpected: {}", String::from_utf8_lossy(line))));
                    }
                }
            }
        }
        Ok(count)
    }
}

/// The bytes that publish one message of `size` bytes.
pub(crate) fn publish(subject: &str, reply: &str, size: usize) -> Vec<u8> {
    let space = if reply.is_empty() { "" } else { " " };
    [format!("PUB {subject}{space}{reply} {size}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat()
}
