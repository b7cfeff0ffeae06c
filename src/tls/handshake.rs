//! The handshake with a client: seen coming, waited for, and computed step by step within the budget.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use rustls::HandshakeKind;
use tokio::{
    io::ReadBuf,
    net::TcpStream,
    time::{self, Instant},
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::{
    net::{
        stream::Stream,
        timer::{sleep_until, timeout_at},
    },
    protocol::client_hello::{FirstBytes, MAX_CLIENT_HELLO, classify},
    tls::{
        Terminator,
        budget::{self, Kind, Turn},
    },
};

/// How often an incomplete ClientHello is looked at again: while there is something to read the kernel wakes nobody for more.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How a handshake ends without TLS.
#[derive(Debug)]
pub enum Failed {
    /// The client left before it said anything.
    Silent,
    /// The client left in the middle.
    Gone,
    /// It did not come to an end in time.
    TimedOut,
    /// The worker could not have served it in time; nothing was computed.
    Busy,
    /// The client speaks, and it is not TLS.
    NotTls(TcpStream),
    /// TLS, but no agreement: a certificate that is not good, a version that is too old.
    Tls(io::Error),
}

/// What is there to read, as far as it was looked at; `None` when the client has left.
async fn first_bytes(down: &TcpStream) -> Option<FirstBytes> {
    // The buffer is the stack's, not the waiting session's.
    poll_fn(|cx| {
        let mut seen = [0; MAX_CLIENT_HELLO];
        let mut seen = ReadBuf::new(&mut seen);
        down.poll_peek(cx, &mut seen).map(|peeked| match peeked {
            Ok(n) if n > 0 => Some(classify(seen.filled())),
            _ => None,
        })
    })
    .await
}

/// Whether the client begins TLS by itself within this time.
pub async fn speaks_first(down: &TcpStream, within: Duration) -> bool {
    let mut one = [0];
    // Whatever comes: with no INFO yet a client has nothing to say but this. It waits for the time to pass, so a tick is too coarse.
    matches!(time::timeout(within, down.peek(&mut one)).await, Ok(Ok(1..)))
}

/// What a client begins with, once there is enough of it; `None` when it has left. Nothing is read.
pub async fn hello(down: &TcpStream) -> Option<FirstBytes> {
    loop {
        match first_bytes(down).await {
            Some(FirstBytes::Incomplete) => sleep_until(Instant::now() + LOOK_AGAIN).await,
            seen => return seen,
        }
    }
}

/// Does the server's part of a handshake. It is begun if it comes to its end by `done_by`, as far as one can say, and has to end by
/// `deadline`; a client that is `refused` anyway is served only if nobody else needs the worker.
///
/// # Errors
/// [`Failed`].
pub async fn accept(
    terminator: &Terminator,
    down: TcpStream,
    refused: bool,
    done_by: Instant,
    deadline: Instant,
) -> Result<(Stream, HandshakeKind), Failed> {
    let begun = timeout_at(deadline, pin!(hello(&down))).await;
    let (kind, config) = match begun {
        Err(_) => return Err(Failed::TimedOut),
        Ok(None) => return Err(Failed::Silent),
        Ok(Some(FirstBytes::ClientHello { resumes, without_aes })) => {
            let kind = match (refused, resumes) {
                (true, _) => Kind::Refused,
                (false, true) => Kind::Resumes,
                (false, false) => Kind::New,
            };
            (kind, terminator.config(without_aes))
        }
        Ok(Some(_)) => return Err(Failed::NotTls(down)),
    };
    let turn = budget::turn(kind, budget::begin_by(done_by)).await.ok_or(Failed::Busy)?;
    let began = Instant::now();
    let handshake = TlsAcceptor::from(config).accept(down);
    match step_by_step(handshake, Some(turn), deadline).await {
        Ok(tls) => {
            budget::took(began.elapsed());
            let kind = tls.get_ref().1.handshake_kind().unwrap_or(HandshakeKind::Full);
            Ok((Stream::Tls(Box::new(TlsStream::Server(tls))), kind))
        }
        Err(err) => Err(match err.kind() {
            io::ErrorKind::TimedOut => Failed::TimedOut,
            io::ErrorKind::InvalidData => Failed::Tls(err),
            _ => Failed::Gone,
        }),
    }
}

/// Lets a handshake compute in turns, the first of which may be there already.
///
/// # Errors
/// The handshake's, or that it took too long.
pub(super) async fn step_by_step<T>(
    handshake: impl Future<Output = io::Result<T>>,
    mut turn: Option<Turn>,
    deadline: Instant,
) -> io::Result<T> {
    let mut handshake = pin!(handshake);
    let steps = async {
        loop {
            let step = match turn.take() {
                Some(turn) => turn,
                None => budget::turn(Kind::Begun, deadline).await.ok_or(io::ErrorKind::TimedOut)?,
            };
            let done = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(step);
            match done {
                Poll::Ready(done) => return done,
                Poll::Pending => woken().await,
            }
        }
    };
    timeout_at(deadline, pin!(steps)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Returns when the task is woken; the handshake has seen to it that it will be.
async fn woken() {
    let mut slept = false;
    poll_fn(|_| if std::mem::replace(&mut slept, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
