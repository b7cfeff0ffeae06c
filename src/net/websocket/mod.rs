//! Clients over WebSocket: the HTTP request that opens one, and its frames read and written as a stream of NATS bytes.

mod stream;

use std::pin::pin;

use tokio::{io::AsyncReadExt, time::Instant};

use crate::{
    net::{stream::Stream, timer::timeout_at},
    protocol::websocket::upgrade::{LONGEST_REQUEST, Rejection, Rules, Upgrade},
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

/// Accepts the request: answers it with 101.
///
/// # Errors
/// The client is gone.
pub async fn open(mut down: Stream, upgrade: &Upgrade) -> std::io::Result<Stream> {
    let mut answer = Vec::with_capacity(256);
    upgrade.write(&mut answer);
    down.send(&answer).await?;
    Ok(WebSocket::over(down, upgrade.negotiated).into())
}
