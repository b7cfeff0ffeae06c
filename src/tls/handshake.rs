//! TLS handshakes with clients: waits for the ClientHello, then computes step by step within the budget of the worker.

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
        budget::{self, Priority, StepPermit},
    },
};

/// A client whose ClientHello comes late is not one that is in a hurry. It is worth a handshake that takes so long.
const FAIR_TIME: Duration = Duration::from_millis(400);
/// How often an incomplete ClientHello is looked at again. As long as bytes are left unread, the kernel does not report
/// more of them.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Why a handshake failed.
#[derive(Debug)]
pub enum Failed {
    /// The client left before it sent anything.
    Silent,
    /// The client left during the handshake.
    Gone,
    TimedOut,
    /// The worker could not have finished it in time, and has computed nothing.
    Busy,
    /// The client sent something else than TLS.
    NotTls(TcpStream),
    /// The two sides did not agree, because of a bad certificate or an old version, for example.
    Tls(io::Error),
}

/// What the first unread bytes are; `None` when the client has left.
async fn first_bytes(down: &TcpStream) -> Option<FirstBytes> {
    // The buffer is on the stack of one poll, so a waiting session takes no memory for it.
    poll_fn(|cx| {
        let mut bytes = [0; MAX_CLIENT_HELLO];
        let mut bytes = ReadBuf::new(&mut bytes);
        down.poll_peek(cx, &mut bytes).map(|peeked| match peeked {
            Ok(n) if n > 0 => Some(classify(bytes.filled())),
            _ => None,
        })
    })
    .await
}

/// Whether the client begins TLS within this time, without having seen INFO.
pub async fn speaks_first(down: &TcpStream, within: Duration) -> bool {
    let mut one = [0];
    // Any byte counts: before INFO a client has nothing to send but TLS. The client waits for INFO meanwhile, so this
    // uses tokio's timer, which is finer than the ticks of weir's own.
    matches!(time::timeout(within, down.peek(&mut one)).await, Ok(Ok(1..)))
}

/// What a client begins with, once enough bytes have come; `None` when it has left. Consumes nothing.
pub async fn hello(down: &TcpStream) -> Option<FirstBytes> {
    loop {
        match first_bytes(down).await {
            Some(FirstBytes::Incomplete) => sleep_until(Instant::now() + LOOK_AGAIN).await,
            first_bytes => return first_bytes,
        }
    }
}

/// Does the server's part of a handshake. The handshake is begun only if it will probably end by `done_by`, or within a
/// [`FAIR_TIME`] of a ClientHello that comes late, and has to end by `deadline`. A client that will be `refused` anyway
/// is served only if no other handshake waits for the worker.
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
    let first_bytes = timeout_at(deadline, pin!(hello(&down))).await;
    let (priority, config) = match first_bytes {
        Err(_) => return Err(Failed::TimedOut),
        Ok(None) => return Err(Failed::Silent),
        Ok(Some(FirstBytes::ClientHello { resumes, without_aes })) => {
            let priority = match (refused, resumes) {
                (true, _) => Priority::Refused,
                (false, true) => Priority::Resumes,
                (false, false) => Priority::New,
            };
            (priority, terminator.config(without_aes))
        }
        Ok(Some(_)) => return Err(Failed::NotTls(down)),
    };
    let done_by = done_by.max(Instant::now() + FAIR_TIME).min(deadline);
    let permit = budget::permit(priority, budget::latest_begin(done_by)).await.ok_or(Failed::Busy)?;
    let began = Instant::now();
    let handshake = TlsAcceptor::from(config).accept(down);
    match step_by_step(handshake, Some(permit), deadline).await {
        Ok(tls) => {
            budget::note_handshake(began.elapsed());
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

/// Drives a handshake, one step for each permit. The permit of the first step may be there already.
///
/// # Errors
/// Those of the handshake, or that it took too long.
pub(super) async fn step_by_step<T>(
    handshake: impl Future<Output = io::Result<T>>,
    mut first: Option<StepPermit>,
    deadline: Instant,
) -> io::Result<T> {
    let mut handshake = pin!(handshake);
    let steps = async {
        loop {
            let permit = match first.take() {
                Some(permit) => permit,
                None => budget::permit(Priority::Begun, deadline).await.ok_or(io::ErrorKind::TimedOut)?,
            };
            let done = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await;
            drop(permit);
            match done {
                Poll::Ready(done) => return done,
                Poll::Pending => woken().await,
            }
        }
    };
    timeout_at(deadline, pin!(steps)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Returns when the task is woken. The handshake has registered its waker, so it will be.
async fn woken() {
    let mut polled = false;
    poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
