//! The client's side of a session that is on its way: what it has said, and what it does while it waits.

use std::{future::pending, io, pin::pin, time::Duration};

use tokio::{io::Interest, net::TcpStream, time::Instant};

use crate::{
    admission::{AcceptPermit, OperatorPermit, Permit},
    identity::SentIdentity,
    net::{
        stream::Stream,
        timer::{sleep_until, timeout_at},
    },
    protocol::{
        client_preface::{Preface, PrefaceError},
        connect::Connect,
    },
    session::read_ahead::ReadAhead,
};

/// How long a login may still take once the client has ended its stream. It has said what it has to say, and may still
/// read: what it sent is delivered. A client that has closed for good is told from that one only by writing to it.
const DELIVER_WITHIN: Duration = Duration::from_secs(2);

/// A record of TLS that says no more than `close_notify` has 31 bytes at most (TLS 1.2, AES-GCM). A client that has
/// sent more has said something else too.
const CLOSE_NOTIFY: usize = 40;

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
    /// It goes on in another process.
    Given,
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

/// Watches a client that is held, and reads a little of what it sends. Returns when there is no more reason to let it
/// wait: it has ended its stream, or broken off. (A held client that closes has mostly given up; docs/contract.md,
/// towards clients 5.)
pub(super) async fn watch(read_ahead: &ReadAhead, stream: &mut Stream, preface: &mut Preface) -> Unfinished {
    match leaves(read_ahead, stream, preface).await {
        Leaves::Ended | Leaves::Broken => Unfinished::Gone,
        Leaves::Wrong(wrong) => Unfinished::Wrong(wrong),
    }
}

/// Like [`watch`], for a client that a server is about to let in. Its end of stream is not its absence
/// (docs/contract.md, towards everybody 3).
pub(super) async fn watch_in_dial(read_ahead: &ReadAhead, stream: &mut Stream, preface: &mut Preface) -> Unfinished {
    match leaves(read_ahead, stream, preface).await {
        Leaves::Wrong(wrong) => return Unfinished::Wrong(wrong),
        // Nobody is there any more, and nothing is to be delivered.
        Leaves::Broken if !preface.has_operations() => {}
        Leaves::Ended | Leaves::Broken => sleep_until(Instant::now() + DELIVER_WITHIN).await,
    }
    Unfinished::Gone
}

/// How a client that waits stops doing so.
enum Leaves {
    /// It has ended its stream.
    Ended,
    /// Its connection is broken.
    Broken,
    Wrong(PrefaceError),
}

async fn leaves(read_ahead: &ReadAhead, stream: &mut Stream, preface: &mut Preface) -> Leaves {
    let permit = read_ahead.permit(stream);
    while permit.is_some() && preface.has_room() {
        match advance(stream, preface).await {
            Err(err) if err.kind() == io::ErrorKind::InvalidData => return Leaves::Wrong(unreadable(stream)),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Leaves::Ended,
            Err(_) => return Leaves::Broken,
            Ok(Err(wrong)) => return Leaves::Wrong(wrong),
            Ok(Ok(_)) => {}
        }
    }
    match ended_unread(stream.tcp()).await {
        true => Leaves::Broken,
        false => Leaves::Ended,
    }
}

/// What is wrong where nothing can be read of what a client sends.
pub(super) fn unreadable(stream: &Stream) -> PrefaceError {
    if let Stream::S2(_) = stream { PrefaceError::NotS2 } else { PrefaceError::NotConnect }
}

/// Returns when a client leaves that has not seen INFO yet; never while it is there, or once it has said something.
pub(super) async fn left_before_info(stream: &Stream) {
    // The bytes are only looked at: the preface reads them.
    if let Ok(1..) = stream.tcp().peek(&mut [0]).await {
        if let Stream::Plain(_) = stream {
            pending().await
        }
        // With TLS the end itself is bytes (close_notify), and a client that sends it closes behind it.
        ended_unread(stream.tcp()).await;
        if matches!(stream.tcp().peek(&mut [0; CLOSE_NOTIFY]).await, Ok(CLOSE_NOTIFY)) {
            pending().await
        }
    }
}

/// Returns when a client ends its stream, although nobody has read what it has sent; and whether the connection is
/// broken then.
pub(super) async fn ended_unread(tcp: &TcpStream) -> bool {
    // Not `READABLE`, which is true as long as there are unread bytes: of the things that are priority and error, TCP
    // with NATS on it knows only the end.
    tcp.ready(Interest::PRIORITY | Interest::ERROR).await.is_ok_and(|ready| ready.is_error())
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
