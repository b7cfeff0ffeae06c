//! A client that comes over WebSocket: the HTTP request that opens it, and its frames made a stream of NATS bytes.

mod stream;

use std::pin::pin;

use tokio::{io::AsyncReadExt, time::Instant};

use crate::{
    net::{stream::Stream, timer::timeout_at},
    protocol::websocket::upgrade::{LONGEST_REQUEST, Rejection, Rules, Upgrade},
};

pub use self::stream::{Buffers, WebSocket};
/// How the opening of a WebSocket ends without one.
#[derive(Debug)]
pub enum Unopened {
    /// The connection ended before it said anything: a health check or a port scan.
    Probe,
    /// The client left in the middle.
    Gone,
    /// What it asked for is not to be had here.
    Rejected(Rejection),
}

/// Reads the request that opens a WebSocket; it is not answered yet.
///
/// # Errors
/// [`Unopened`].
pub async fn request(down: &mut Stream, rules: &Rules, deadline: Instant) -> Result<Upgrade, Unopened> {
    let mut read = Vec::new();
    loop {
        let before = read.len();
        // A browser's request has about half a KiB.
        read.reserve(1024);
        match timeout_at(deadline, pin!(down.read_buf(&mut read))).await {
            Err(_) => return Err(Unopened::Rejected(Rejection::TOO_LATE)),
            Ok(Ok(1..)) => {}
            Ok(_) if before == 0 => return Err(Unopened::Probe),
            Ok(_) => return Err(Unopened::Gone),
        }
        // It ends with a line: read byte by byte it is not looked at as often.
        if before == 0 || read[before..].contains(&b'\n') || read.len() >= LONGEST_REQUEST {
            match rules.read(&read) {
                Ok(Some(upgrade)) => return Ok(upgrade),
                Ok(None) => {}
                Err(rejection) => return Err(Unopened::Rejected(rejection)),
            }
        }
    }
}

/// CertificateNames yes.
///
/// # Errors
/// The client is gone.
pub async fn open(mut down: Stream, upgrade: &Upgrade) -> std::io::Result<Stream> {
    let mut answer = Vec::with_capacity(256);
    upgrade.write(&mut answer);
    down.send(&answer).await?;
    Ok(WebSocket::over(down, upgrade.terms).into())
}
