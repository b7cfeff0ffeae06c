//! WebSockets from clients and to servers: the HTTP request that opens one, and its frames read and written as a stream
//! of NATS bytes.

mod pinger;
mod stream;

use std::{io, net::IpAddr, pin::pin, time::Duration};

use aws_lc_rs::rand;
use tokio::{io::AsyncReadExt, time::Instant};

use crate::{
    net::{stream::Stream, timer::timeout_at},
    protocol::websocket::{
        open::Request,
        upgrade::{LONGEST_REQUEST, Rejection, Rules, Upgrade},
    },
};

pub use self::stream::WebSocket;

/// Why a request opened no WebSocket.
#[derive(Debug)]
pub enum Unopened {
    /// The connection ended before the first byte: a health check or a port scan.
    Probe,
    /// The client left within its request.
    Gone,
    /// The request is answered with an HTTP error.
    Rejected(Rejection),
}

/// Reads the request that opens a WebSocket, without answering it.
///
/// # Errors
/// [`Unopened`].
pub async fn request(down: &mut Stream, rules: &Rules, deadline: Instant) -> Result<Upgrade, Unopened> {
    let mut read = Vec::new();
    loop {
        let before = read.len();
        // The request of a browser has about 512 bytes.
        read.reserve(1024);
        match timeout_at(deadline, pin!(down.read_buf(&mut read))).await {
            Err(_) => return Err(Unopened::Rejected(Rejection::TOO_LATE)),
            Ok(Ok(1..)) => {}
            Ok(_) if before == 0 => return Err(Unopened::Probe),
            Ok(_) => return Err(Unopened::Gone),
        }
        // A request ends with a line end. Parsing only then keeps a request that comes byte by byte cheap.
        if before == 0 || read[before..].contains(&b'\n') || read.len() >= LONGEST_REQUEST {
            match rules.read(&read) {
                Ok(Some(upgrade)) => return Ok(upgrade),
                Ok(None) => {}
                Err(rejection) => return Err(Unopened::Rejected(rejection)),
            }
        }
    }
}

/// Accepts the request: answers it with 101, and `more` header lines.
///
/// # Errors
/// The client is gone.
pub async fn open(
    mut down: Stream,
    upgrade: &Upgrade,
    more: &str,
    ping_interval: Option<Duration>,
) -> io::Result<Stream> {
    let mut answer = Vec::with_capacity(256);
    upgrade.write(more, &mut answer);
    down.send(&answer).await?;
    Ok(WebSocket::from_client(down, upgrade.negotiated, ping_interval).into())
}

/// Why a server opened no WebSocket.
#[derive(Debug)]
pub enum NotOpened {
    /// Reset, or the end of the stream.
    Io(io::Error),
    TimedOut,
    /// What is wrong with its answer.
    Answer(&'static str),
}

impl From<io::Error> for NotOpened {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

/// Opens a WebSocket to the server at `host`, `host:port`, on a connection to it. The server is told the address of the
/// `client` that it is for, if it is for one.
///
/// # Errors
/// [`NotOpened`].
pub async fn open_to_server(
    mut up: Stream,
    host: &str,
    client: Option<IpAddr>,
    deadline: Instant,
) -> Result<Stream, NotOpened> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
    let request = Request::new(random);
    let mut bytes = Vec::with_capacity(512);
    request.write(host, client, &mut bytes);
    timeout_at(deadline, pin!(up.send(&bytes))).await.map_err(|_| NotOpened::TimedOut)??;
    bytes.clear();
    loop {
        bytes.reserve(1024);
        let read = timeout_at(deadline, pin!(up.read_buf(&mut bytes))).await.map_err(|_| NotOpened::TimedOut)??;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(length) = request.read_answer(&bytes).map_err(NotOpened::Answer)? {
            bytes.drain(..length);
            return Ok(WebSocket::to_server(up, bytes).into());
        }
    }
}
