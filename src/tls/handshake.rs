//! TLS handshakes with clients: waits for the ClientHello, then computes step by step within the budget of the worker.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use rustix::net::RecvFlags;
use rustls::HandshakeKind;
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{self, Instant},
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::{
    net::{stream::Stream, timer::timeout_at},
    protocol::client_hello::{FirstBytes, MAX_CLIENT_HELLO, classify},
    tls::{
        Terminator,
        budget::{self, Priority, StepPermit},
    },
};

/// A client whose ClientHello comes late is not one that is in a hurry. It is worth a handshake that takes so long.
const FAIR_TIME: Duration = Duration::from_millis(400);
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

/// Looks at the unread bytes without consuming them. The buffer is on the stack of one poll, so a waiting session takes
/// no memory for it.
fn peek(down: &TcpStream) -> io::Result<Option<FirstBytes>> {
    let mut bytes = [0; MAX_CLIENT_HELLO];
    let (_, n) = rustix::net::recv(down, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(bytes.get(..n).filter(|bytes| !bytes.is_empty()).map(classify))
}

/// What a client has begun with, as far as it has come. Consumes nothing.
pub fn begun_with(down: &TcpStream) -> Option<FirstBytes> {
    peek(down).ok().flatten()
}

/// Whether the client begins TLS within this time, without having seen INFO.
pub async fn speaks_first(down: &TcpStream, within: Duration) -> bool {
    let mut one = [0];
    // Any byte counts: before INFO a client has nothing to send but TLS. The client waits for INFO meanwhile, so this
    // uses tokio's timer, which is finer than the ticks of weir's own.
    matches!(time::timeout(within, down.peek(&mut one)).await, Ok(Ok(1..)))
}

/// What a client begins with, once enough bytes have come; `None` when it has left. Consumes nothing. Looks again only
/// when more bytes have come: a client that stops in the middle costs nothing more.
pub async fn hello(down: &TcpStream) -> Option<FirstBytes> {
    loop {
        let is_closed = down.ready(Interest::READABLE).await.ok()?.is_read_closed();
        // An answer that bytes are missing makes tokio wait for the next ones, although there are unread bytes.
        let looked = down.try_io(Interest::READABLE, || match peek(down)? {
            Some(FirstBytes::Incomplete) => Err(io::ErrorKind::WouldBlock.into()),
            first_bytes => Ok(first_bytes),
        });
        match looked {
            Ok(first_bytes) => return first_bytes,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock && !is_closed => {}
            Err(_) => return None,
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

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, task::yield_now};

    use super::*;
    use crate::net::socket::connected_pair;

    /// The rest of a record of 4 bytes comes byte by byte, with pauses in virtual time.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_in_the_middle_is_not_looked_at() {
        let (mut client, down) = connected_pair().await;
        client.write_all(&[22, 3, 1, 0]).await.unwrap();
        let mut looks = 0;
        let mut hello = pin!(hello(&down));
        let mut counted = poll_fn(|cx| {
            looks += 1;
            hello.as_mut().poll(cx)
        });
        assert!(time::timeout(Duration::from_secs(60), &mut counted).await.is_err());
        client.write_all(&[4, 1, 2]).await.unwrap();
        assert!(time::timeout(Duration::from_secs(60), &mut counted).await.is_err());
        client.write_all(&[3, 4]).await.unwrap();
        assert!(matches!(counted.await, Some(FirstBytes::ClientHello { .. })));
        // Each timeout polls once more at its end.
        assert!(looks < 12, "{looks}");
    }

    #[tokio::test]
    async fn a_client_that_leaves_in_the_middle_has_left() {
        for half in [&[][..], &[22], &[22, 3, 1, 0, 4, 1]] {
            let (mut client, down) = connected_pair().await;
            client.write_all(half).await.unwrap();
            let left = tokio::spawn(async move { hello(&down).await });
            yield_now().await;
            drop(client);
            assert_eq!(left.await.unwrap(), None, "{half:?}");
        }
    }
}
