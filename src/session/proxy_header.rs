//! The PROXY header in front of a connection that comes through a load balancer.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncReadExt, Interest},
    net::TcpStream,
    time::{self, Instant},
};

use crate::{
    net::timer::timeout_at,
    protocol::{
        client_preface::PrefaceError,
        proxy_header::{self, LONGEST, LONGEST_START},
    },
    session::downstream::Unfinished,
};

/// So long a client waits for INFO that comes without a header where it may: as long as nats-server waits for a
/// ClientHello that may come first (`DEFAULT_TLS_HANDSHAKE_FIRST_FALLBACK_DELAY`, const.go).
const COMES_WITHIN: Duration = Duration::from_millis(50);

/// Whether a connection that may come without a header begins like one. It is bounded in time, and takes nothing from
/// the connection. `PING` and `PUB` begin like `PROXY`, so more than the first byte is looked at.
pub async fn is_coming(down: &TcpStream) -> bool {
    let mut may_be_one = false;
    let told = time::timeout(COMES_WITHIN, begins_with_one(down, &mut may_be_one)).await;
    // What comes slowly and may still be a header is read as one, within the time that a header has.
    told.unwrap_or(may_be_one)
}

/// Whether the first bytes are those of a header, once they tell. `may_be_one`: the first of them are there.
async fn begins_with_one(down: &TcpStream, may_be_one: &mut bool) -> bool {
    loop {
        let Ok(ready) = down.ready(Interest::READABLE).await else { return true };
        let mut first = [0; LONGEST_START];
        // An answer that bytes are missing makes tokio wait for the next ones, although there are unread bytes.
        let looked = down.try_io(Interest::READABLE, || {
            let (_, n) = rustix::net::recv(down, &mut first[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            let begun = first.get(..n).unwrap_or_default();
            *may_be_one = !begun.is_empty();
            proxy_header::is_begun(begun).ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        match looked {
            Ok(is_begun) => return is_begun,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            // Its end: who reads on sees that.
            Err(_) => return true,
        }
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
