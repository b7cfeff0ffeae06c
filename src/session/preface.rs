//! INFO out, CONNECT in: bounded in bytes and in time; and watching a client that waits.

use std::{io, pin::pin, time::Duration};

use tokio::time::Instant;

use crate::{
    admission::Wait,
    net::{
        stream::Stream,
        timer::{now, timeout_at},
    },
    outcome::Refusal,
    protocol::{client_preface::Preface, connect::Connect, s2::Mode},
    session::{
        arrive::Accepted,
        client_tls::{self, Lost},
        context::{Context, End, STEP_TIMEOUT},
        dial_first::DialFirst,
        downstream::{Downstream, Unfinished, advance, send_info, unreadable},
        leafnode_compression,
        refuse::{Refusable, refuse},
        takeover::{Stage, TakenClient, give, unless_asked},
        websocket_upgrade,
    },
    worker::with_rng,
};

/// A client whose CONNECT has come.
pub(super) struct Greeted {
    pub downstream: Box<Downstream>,
    /// Why the accept check said no, where it did.
    pub refused: Option<Refusal>,
    pub dial_first: DialFirst,
    pub proxy_header: Vec<u8>,
    /// When CONNECT was complete.
    pub connected: Instant,
    /// From INFO to CONNECT.
    pub took: Duration,
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
            (Some(upgrade), None) => websocket_upgrade::accept(cx, stream, upgrade).await?,
            // A nats-server that gets an HTTP error does not tell its operator what that says. It reads `-ERR`.
            (Some(upgrade), Some(_)) if cx.listener.is_for_leafnodes => {
                websocket_upgrade::accept(cx, stream, upgrade).await?
            }
            (Some(_), Some(reason)) => {
                let until = cx.step_by(cx.heard()).into_std();
                let refused = with_rng(|rng| Wait::refused_at_accept(&cx.shared.admission, reason, until, now(), rng));
                return Err(refuse(cx, Refusable::Http(stream), reason, refused).await);
            }
        };
        let mut dial_first = DialFirst::begin(cx, &stream, &proxy_header, refused).await?;
        let mut info = Vec::with_capacity(512);
        dial_first.write_info(cx, &mut info);
        // One that has seen the nonce of a server is bound to that, and to this process.
        let may_go = refused.is_none() && !matches!(dial_first, DialFirst::Dialled(_));
        let told = Instant::now();
        let exchanged = {
            let exchange = pin!(exchange(cx, stream, (&info, told), (refused, may_go)));
            dial_first.lasts_through(cx, exchange).await
        };
        let (stream, connect, preface) = match exchanged {
            Ok(exchanged) => exchanged,
            Err(lost) => {
                match lost.is_probe() {
                    true => dial_first.recycle(cx).await,
                    false => dial_first.close().await,
                }
                return Err(lost.close(refused).await);
            }
        };
        let sent = cx.shared.keys.sent_identity(&connect);
        let entry = entry.ok();
        let mut downstream = Box::new(Downstream { stream, connect, sent, preface, entry, refusing, operator: None });
        if let Some(upgrade) = upgrade {
            upgrade.cookies.fill_in(&mut downstream.connect);
        }
        let connected = Instant::now();
        Ok(Greeted { downstream, refused, dial_first, proxy_header, connected, took: connected - told })
    }
}

impl TakenClient {
    /// Goes on with a client where another process has stopped.
    pub async fn exchange_preface(self, cx: &mut Context) -> Result<Greeted, End> {
        let Self { accepted, said } = self;
        let Some((said, connected)) = said else { return accepted.exchange_preface(cx).await };
        let Accepted { mut stream, entry, proxy_header, .. } = accepted;
        let by = cx.connect_by(Instant::now());
        let (connect, preface) = match read_connect((cx, true), &mut stream, &said, by).await {
            Ok(read) => read,
            Err(unfinished) => return Err(Lost::new(stream, unfinished).close(None).await),
        };
        let sent = cx.shared.keys.sent_identity(&connect);
        let entry = entry.ok();
        let downstream = Box::new(Downstream { stream, connect, sent, preface, entry, refusing: None, operator: None });
        let (dial_first, connected) = (DialFirst::without(cx), connected.unwrap_or_else(Instant::now));
        let took = Duration::ZERO;
        Ok(Greeted { downstream, refused: None, dial_first, proxy_header, connected, took })
    }
}

/// What a client of this listener has to say first.
fn new_preface(cx: &Context) -> Preface {
    let preface = Preface::new(cx.longest_connect());
    if cx.listener.is_for_leafnodes { preface.of_leafnode() } else { preface }
}

/// Sends `info` at `told`, does TLS where that is still to come, and reads CONNECT.
async fn exchange(
    cx: &Context,
    mut stream: Stream,
    (info, told): (&[u8], Instant),
    (refused, may_go): (Option<Refusal>, bool),
) -> Result<(Stream, Box<Connect>, Preface), Lost> {
    if let Err(unfinished) = send_info(&mut stream, info, cx.step_by(told)).await {
        return Err(Lost::new(stream, unfinished));
    }
    let stream = client_tls::handshake(cx, stream, refused).await?;
    let now = Instant::now();
    // A client that is to be refused has the time to say what it must say before it can read why, and no more.
    let by = match refused {
        None => cx.connect_by(now),
        Some(reason) if cx.shared.must_hurry(reason) => cx.step_by(now).min(now + STEP_TIMEOUT),
        Some(_) => cx.step_by(now),
    };
    let (mut stream, said) = match cx.listener.compression {
        Mode::Off => (stream, Vec::new()),
        mode => Box::pin(leafnode_compression::agree(mode, stream, info, (told, by))).await?,
    };
    match read_connect((cx, may_go), &mut stream, &said, by).await {
        Ok((connect, preface)) => Ok((stream, connect, preface)),
        Err(unfinished) => Err(Lost::new(stream, unfinished)),
    }
}

/// Reads until CONNECT is complete, of which `said` has been read. The client may go to another process meanwhile, if
/// it `may_go`.
///
/// # Errors
/// [`Unfinished`].
async fn read_connect(
    (cx, may_go): (&Context, bool),
    stream: &mut Stream,
    said: &[u8],
    deadline: Instant,
) -> Result<(Box<Connect>, Preface), Unfinished> {
    let mut preface = new_preface(cx);
    if let Some(connect) = preface.advance(said).map_err(Unfinished::Wrong)? {
        return Ok((connect, preface));
    }
    let mut may_go = may_go && cx.may_be_given(stream);
    loop {
        let advances = unless_asked((&cx.shared.takeover, may_go), advance(stream, &mut preface));
        let Some(advanced) = timeout_at(deadline, advances).await.transpose() else {
            if Box::pin(give(cx, stream, Stage::Preface(&preface))).await {
                return Err(Unfinished::Given);
            }
            // It stays, and is not asked again.
            may_go = false;
            continue;
        };
        match advanced {
            Err(_) => return Err(Unfinished::TimedOut),
            Ok(Err(err)) if err.kind() == io::ErrorKind::InvalidData => {
                return Err(Unfinished::Wrong(unreadable(stream)));
            }
            Ok(Err(_)) if preface.is_untouched() => return Err(Unfinished::Probe),
            Ok(Err(_)) => return Err(Unfinished::Gone),
            Ok(Ok(Err(wrong))) => return Err(Unfinished::Wrong(wrong)),
            Ok(Ok(Ok(None))) => {}
            Ok(Ok(Ok(Some(connect)))) => return Ok((connect, preface)),
        }
    }
}
