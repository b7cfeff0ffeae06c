//! The PROXY header in front of a connection that comes through a load balancer.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{self, Instant},
};

use crate::{
    net::timer::timeout_at,
    protocol::{
        client_preface::PrefaceError,
        proxy_header::{self, LONGEST},
    },
    session::downstream::Unfinished,
};

/// So long a client waits for INFO that comes without a header where it may: as long as nats-server waits for a
/// ClientHello that may come first (`DEFAULT_TLS_HANDSHAKE_FIRST_FALLBACK_DELAY`, const.go).
const COMES_WITHIN: Duration = Duration::from_millis(50);

/// Whether a connection that may come without a header begins like one. It is bounded in time, and takes nothing from
/// the connection.
pub async fn is_coming(down: &TcpStream) -> bool {
    let mut first = [0];
    match time::timeout(COMES_WITHIN, down.peek(&mut first)).await {
        Err(_) => false,
        Ok(Ok(1..)) => proxy_header::scan(&first).is_ok(),
        // Its end: who reads on sees that.
        Ok(_) => true,
    }
}

/// Reads a header, and nothing behind it. Returns where the connection really comes from; `None` when it is the
/// peer's own.
///
/// # Errors
/// [`Unfinished`]: no header came, in time or at all.
pub async fn read(down: &mut TcpStream, deadline: Instant) -> Result<Option<SocketAddr>, Unfinished> {
    let mut read = Vec::new();
    let advanced = timeout_at(deadline, pin!(advance(down, &mut read))).await;
    match advanced {
        Err(_) => Err(Unfinished::TimedOut),
        Ok(Ok(source)) => source.map_err(Unfinished::Wrong),
        Ok(Err(_)) if read.is_empty() => Err(Unfinished::Probe),
        Ok(Err(_)) => Err(Unfinished::Gone),
    }
}

/// The outer error is the end of the stream.
async fn advance(down: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Result<Option<SocketAddr>, PrefaceError>> {
    let mut bytes = [0; 256];
    loop {
        let before = read.len();
        // What is looked at is taken only as far as it belongs to the header.
        match down.peek(&mut bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read.extend_from_slice(&bytes[..n]),
        }
        match proxy_header::scan(read) {
            Ok(Some(header)) => {
                down.read_exact(&mut bytes[..header.length - before]).await?;
                return Ok(Ok(header.source));
            }
            Ok(None) if read.len() < LONGEST => _ = down.read_exact(&mut bytes[..read.len() - before]).await?,
            Ok(None) | Err(_) => return Ok(Err(PrefaceError::NotConnect)),
        }
    }
}
