//! The client's half of the preface: INFO out, CONNECT in, bounded in bytes and in time; and watching a client that waits.

use std::{future::pending, io, pin::pin, time::Duration};

use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    net::{stream::Stream, timer::timeout_at},
    protocol::{
        client_preface::{Preface, PrefaceError},
        connect::Connect,
    },
};

/// While there are bytes to read the kernel does not wake anybody about the end behind them.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a preface ends without a CONNECT.
#[derive(Debug)]
pub enum Unfinished {
    /// The connection ended before it said anything: a health check or a port scan.
    Probe,
    /// The client left in the middle.
    Gone,
    /// CONNECT did not come in time.
    TimedOut,
    /// What came is not acceptable.
    Wrong(PrefaceError),
    /// What came is not TLS, which is required.
    NotTls,
    /// TLS failed, and why.
    Tls(io::Error),
    /// TLS could not have begun in time.
    TlsBusy,
}

/// The client's words so far.
#[derive(Debug)]
pub struct Arrival {
    /// What it asks for.
    pub connect: Box<Connect>,
    /// What it sends behind.
    pub preface: Preface,
}

/// Sends `greeting` in a write of its own.
///
/// # Errors
/// [`Unfinished`].
pub async fn greet(down: &mut Stream, greeting: &[u8], deadline: Instant) -> Result<(), Unfinished> {
    let sent = timeout_at(deadline, pin!(down.send(greeting))).await;
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Unfinished::Probe),
        Err(_) => Err(Unfinished::TimedOut),
    }
}

/// Reads until CONNECT is complete.
///
/// # Errors
/// [`Unfinished`].
pub async fn hear(down: &mut Stream, max_control_line: usize, deadline: Instant) -> Result<Arrival, Unfinished> {
    let mut preface = Preface::new(max_control_line);
    loop {
        let advanced = timeout_at(deadline, advance(down, &mut preface)).await;
        match advanced {
            Err(_) => return Err(Unfinished::TimedOut),
            Ok(Err(err)) if err.kind() == io::ErrorKind::InvalidData => {
                return Err(Unfinished::Wrong(PrefaceError::NotConnect));
            }
            Ok(Err(_)) if preface.is_untouched() => return Err(Unfinished::Probe),
            Ok(Err(_)) => return Err(Unfinished::Gone),
            Ok(Ok(Err(wrong))) => return Err(Unfinished::Wrong(wrong)),
            Ok(Ok(Ok(None))) => {}
            Ok(Ok(Ok(Some(connect)))) => return Ok(Arrival { connect, preface }),
        }
    }
}

/// Reads on while a client waits. Returns when there is no more reason to let it wait: it left, or sends more than may wait.
pub async fn watch(down: &mut Stream, preface: &mut Preface) -> Unfinished {
    loop {
        match advance(down, preface).await {
            Err(err) if err.kind() == io::ErrorKind::InvalidData => return Unfinished::Wrong(PrefaceError::NotConnect),
            Err(_) => return Unfinished::Gone,
            Ok(Err(wrong)) => return Unfinished::Wrong(wrong),
            Ok(Ok(_)) => {}
        }
    }
}

/// Returns when a client that has not been greeted yet leaves; never while it is there, or once it has said something.
pub async fn left_ungreeted(down: &Stream) {
    let mut one = [0];
    // Only looked at: whatever it is, the exchange reads it.
    if let Ok(1..) = down.tcp().peek(&mut one).await {
        if let Stream::Plain(_) = down {
            pending().await
        }
        // With TLS the goodbye itself is bytes, and those who say it leave.
        left_unheard(down.tcp()).await;
    }
}

/// Returns when a client leaves whose words nobody has read yet.
pub async fn left_unheard(down: &TcpStream) {
    while matches!(down.ready(Interest::READABLE).await, Ok(ready) if !ready.is_read_closed()) {
        sleep(LOOK_AGAIN).await;
    }
}

/// One read. The outer error is the end of the stream. Cancel-safe: what has been read is in `preface`.
fn advance(
    down: &mut Stream,
    preface: &mut Preface,
) -> impl Future<Output = io::Result<Result<Option<Box<Connect>>, PrefaceError>>> + Unpin {
    down.read_once::<1024, _>(|bytes| match bytes {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => Ok(preface.advance(bytes)),
    })
}
