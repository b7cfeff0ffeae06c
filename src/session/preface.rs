//! INFO out, CONNECT in: bounded in bytes and in time; and watching a client that waits.

use std::{future::pending, io, pin::pin, time::Duration};

use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    admission::{AcceptPermit, Permit, Wait},
    net::{
        stream::Stream,
        timer::{now, timeout_at},
    },
    outcome::Refusal,
    protocol::{
        client_preface::{Preface, PrefaceError},
        connect::Connect,
    },
    session::{
        arrive::Accepted,
        client_tls::{self, Lost},
        context::{Context, End},
        dial_first::DialFirst,
        refuse::{Refusable, refuse},
        websocket_upgrade,
    },
    worker::with_rng,
};

/// The client's side of a session that is on its way: what it has said, and the places that it has taken.
pub(super) struct Downstream {
    pub stream: Stream,
    pub connect: Box<Connect>,
    /// What the client sent behind CONNECT.
    pub preface: Preface,
    /// `None` for a client of the system account that the listener has no room for.
    pub entry: Option<AcceptPermit>,
    /// Counts a client that the accept check refused.
    pub refusing: Option<Permit>,
}

/// A client whose CONNECT has come.
pub(super) struct Greeted {
    pub downstream: Downstream,
    /// Why the accept check said no, where it did.
    pub refused: Option<Refusal>,
    pub dial_first: DialFirst,
    pub proxy_header: Vec<u8>,
    /// When CONNECT was complete.
    pub connected: Instant,
}

impl Accepted {
    /// Shows the client INFO and reads its CONNECT. Where clients sign, a server is dialled before.
    pub async fn exchange_preface(self, cx: &mut Context) -> Result<Greeted, End> {
        let Self { stream, upgrade, entry, refusing, proxy_header } = self;
        let refused = entry.as_ref().err().copied();
        let stream = match (&upgrade, refused) {
            (None, _) => match client_tls::handshake_first(cx, stream, refused).await {
                Ok(stream) => stream,
                Err(lost) => return Err(lost.close(refused).await),
            },
            (Some(upgrade), None) => websocket_upgrade::accept(stream, upgrade).await?,
            (Some(_), Some(reason)) => {
                let until = cx.connect_by().into_std();
                let refused = with_rng(|rng| Wait::refused_at_accept(&cx.shared.admission, reason, until, now(), rng));
                return Err(refuse(cx, Refusable::Http(stream), reason, refused).await);
            }
        };
        let mut dial_first = DialFirst::begin(cx, &stream, &proxy_header, refused).await?;
        let mut info = Vec::with_capacity(512);
        dial_first.write_info(cx, &mut info);
        let (stream, connect, preface) = match dial_first.lasts_through(cx, exchange(cx, stream, &info, refused)).await
        {
            Ok(exchanged) => exchanged,
            Err(lost) => {
                match lost.is_probe() {
                    true => dial_first.recycle(cx).await,
                    false => dial_first.close().await,
                }
                return Err(lost.close(refused).await);
            }
        };
        let mut downstream = Downstream { stream, connect, preface, entry: entry.ok(), refusing };
        if let Some(upgrade) = upgrade {
            upgrade.cookies.fill_in(&mut downstream.connect);
        }
        Ok(Greeted { downstream, refused, dial_first, proxy_header, connected: Instant::now() })
    }
}

/// Sends `info`, does TLS where that is still to come, and reads CONNECT.
async fn exchange(
    cx: &Context,
    mut stream: Stream,
    info: &[u8],
    refused: Option<Refusal>,
) -> Result<(Stream, Box<Connect>, Preface), Lost> {
    let connect_by = cx.connect_by();
    if let Err(unfinished) = send_info(&mut stream, info, connect_by).await {
        return Err(Lost::new(stream, unfinished));
    }
    let mut stream = client_tls::handshake(cx, stream, refused).await?;
    let longest = cx.shared.servers.max_control_line();
    match read_connect(&mut stream, longest, connect_by).await {
        Ok((connect, preface)) => Ok((stream, connect, preface)),
        Err(unfinished) => Err(Lost::new(stream, unfinished)),
    }
}

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

/// Reads until CONNECT is complete.
///
/// # Errors
/// [`Unfinished`].
async fn read_connect(
    stream: &mut Stream,
    max_control_line: usize,
    deadline: Instant,
) -> Result<(Box<Connect>, Preface), Unfinished> {
    let mut preface = Preface::new(max_control_line);
    loop {
        let advanced = timeout_at(deadline, advance(stream, &mut preface)).await;
        match advanced {
            Err(_) => return Err(Unfinished::TimedOut),
            Ok(Err(err)) if err.kind() == io::ErrorKind::InvalidData => {
                return Err(Unfinished::Wrong(PrefaceError::NotConnect));
            }
            Ok(Err(_)) if preface.is_untouched() => return Err(Unfinished::Probe),
            Ok(Err(_)) => return Err(Unfinished::Gone),
            Ok(Ok(Err(wrong))) => return Err(Unfinished::Wrong(wrong)),
            Ok(Ok(Ok(None))) => {}
            Ok(Ok(Ok(Some(connect)))) => return Ok((connect, preface)),
        }
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
fn advance(
    stream: &mut Stream,
    preface: &mut Preface,
) -> impl Future<Output = io::Result<Result<Option<Box<Connect>>, PrefaceError>>> + Unpin {
    stream.read_once::<1024, _>(|bytes| match bytes {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => Ok(preface.advance(bytes)),
    })
}
