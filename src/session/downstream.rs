//! The client's side of a session that is on its way: what it has said, and what it does while it waits.

use std::{future::pending, io, pin::pin, time::Duration};

use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    admission::{AcceptPermit, OperatorPermit, Permit},
    identity::SentIdentity,
    net::{stream::Stream, timer::timeout_at},
    protocol::{
        client_preface::{Preface, PrefaceError},
        connect::Connect,
    },
};

/// While there are bytes to read the kernel does not wake anybody about the end behind them.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The client's side of a session that is on its way: what it has said, and the places that it has taken.
pub(super) struct Downstream {
    pub stream: Stream,
    pub connect: Box<Connect>,
    /// Who it said it is, before anything was filled in for it.
    pub sent: SentIdentity,
    /// What the client sent behind CONNECT.
    pub preface: Preface,
    /// `None` for a client of the system account that the listener has no room for.
    pub entry: Option<AcceptPermit>,
    /// Counts a client that the accept check refused.
    pub refusing: Option<Permit>,
    /// Lets a client that says it belongs to the system account use what is kept for operators, until the server has
    /// named its account.
    pub operator: Option<OperatorPermit>,
}

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
    /// What came is HTTP where HTTPS is required.
    NotHttps,
    /// TLS failed, and why.
    Tls(io::Error),
    /// TLS could not have begun in time.
    TlsBusy,
}

/// Sends `info` in a write of its own (docs/contract.md, towards clients 1).
///
/// # Errors
/// [`Unfinished`].
pub(super) async fn send_info(stream: &mut Stream, info: &[u8], deadline: Instant) -> Result<(), Unfinished> {
    let sent = timeout_at(deadline, pin!(stream.send(info))).await;
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Unfinished::Probe),
        Err(_) => Err(Unfinished::TimedOut),
    }
}

/// Reads on while a client waits. Returns when there is no more reason to let it wait: it left, or sent more than
/// weir keeps.
pub(super) async fn watch(stream: &mut Stream, preface: &mut Preface) -> Unfinished {
    loop {
        match advance(stream, preface).await {
            Err(err) if err.kind() == io::ErrorKind::InvalidData => return Unfinished::Wrong(PrefaceError::NotConnect),
            Err(_) => return Unfinished::Gone,
            Ok(Err(wrong)) => return Unfinished::Wrong(wrong),
            Ok(Ok(_)) => {}
        }
    }
}

/// Returns when a client leaves that has not seen INFO yet; never while it is there, or once it has said something.
pub(super) async fn left_before_info(stream: &Stream) {
    let mut one = [0];
    // The byte is only looked at: the preface reads it.
    if let Ok(1..) = stream.tcp().peek(&mut one).await {
        if let Stream::Plain(_) = stream {
            pending().await
        }
        // With TLS the end itself is bytes (close_notify), and a client that sends it closes behind it.
        left_unread(stream.tcp()).await;
    }
}

/// Returns when a client leaves, although nobody has read what it has sent.
pub(super) async fn left_unread(tcp: &TcpStream) {
    while matches!(tcp.ready(Interest::READABLE).await, Ok(ready) if !ready.is_read_closed()) {
        sleep(LOOK_AGAIN).await;
    }
}

/// One read. The outer error is the end of the stream. Cancel-safe: what has been read is in `preface`.
pub(super) fn advance(
    stream: &mut Stream,
    preface: &mut Preface,
) -> impl Future<Output = io::Result<Result<Option<Box<Connect>>, PrefaceError>>> + Unpin {
    stream.read_once::<1024, _>(|bytes| match bytes {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => Ok(preface.advance(bytes)),
    })
}
