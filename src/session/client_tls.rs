//! TLS with a client: before INFO, or behind it.

use std::sync::atomic::Ordering::Relaxed;

use rustls::HandshakeKind;
use tokio::{net::TcpStream, time::Instant};

use crate::{
    net::stream::Stream,
    outcome::{Phase, Refusal},
    protocol::websocket::upgrade::looks_like_http,
    session::{
        context::{Context, End},
        downstream::Unfinished,
        refuse::close_unfinished,
    },
    tls::{self, Failed, HandshakeFirst, Terminator},
};

/// A client that was lost before its CONNECT was complete. Without a stream there is nobody to say anything to.
pub(super) struct Lost {
    stream: Option<Stream>,
    unfinished: Unfinished,
}

impl Lost {
    pub fn new(stream: impl Into<Option<Stream>>, unfinished: Unfinished) -> Self {
        Self { stream: stream.into(), unfinished }
    }

    /// Whether the client left without a word.
    pub fn is_probe(&self) -> bool {
        matches!(self.unfinished, Unfinished::Probe)
    }

    /// Closes what is left of it. `refused` is the reason of the accept check, if it said no.
    pub async fn close(self, refused: Option<Refusal>) -> End {
        let Self { stream, unfinished } = self;
        match (unfinished, refused) {
            // It was to be refused anyway, and there was no time to say so.
            (Unfinished::TlsBusy, Some(reason)) => End::Refused(reason),
            (unfinished, _) => close_unfinished(stream, unfinished, Phase::Preface).await,
        }
    }
}

/// Does TLS before INFO, where the listener and the client do so.
pub(super) async fn handshake_first(
    cx: &mut Context,
    stream: Stream,
    refused: Option<Refusal>,
) -> Result<Stream, Lost> {
    let Some(terminator) = &cx.listener.tls else { return Ok(stream) };
    match terminator.handshake_first() {
        HandshakeFirst::Never => Ok(stream),
        HandshakeFirst::Within(pause) if !tls::speaks_first(stream.tcp(), pause).await => Ok(stream),
        HandshakeFirst::Within(_) | HandshakeFirst::Always => {
            let stream = handshake(cx, stream, refused).await?;
            cx.note_heard();
            Ok(stream)
        }
    }
}

/// Does TLS now, where the listener does TLS and it has not been done.
pub(super) async fn handshake(cx: &Context, stream: Stream, refused: Option<Refusal>) -> Result<Stream, Lost> {
    match (&cx.listener.tls, stream) {
        (Some(terminator), Stream::Plain(tcp)) => accept(cx, terminator, tcp, refused).await,
        (_, stream) => Ok(stream),
    }
}

/// Whether a client that has spoken without TLS has begun an HTTP request.
async fn speaks_http(tcp: &TcpStream) -> bool {
    let mut word = [0; 5];
    matches!(tcp.peek(&mut word).await, Ok(n) if looks_like_http(&word[..n]))
}

async fn accept(
    cx: &Context,
    terminator: &Terminator,
    tcp: TcpStream,
    refused: Option<Refusal>,
) -> Result<Stream, Lost> {
    let deadline = cx.step_by(Instant::now());
    // When CONNECT should be there. A client that is ready only then can still be let in, if its turn comes at once.
    let done_by = cx.unknown_hold_until().min(deadline);
    // On the heap while it lasts: it is larger than all else that a preface keeps.
    let done = Box::pin(tls::accept(terminator, tcp, refused.is_some(), done_by, deadline)).await;
    Err(match done {
        Ok((stream, kind)) => {
            let counters = &cx.shared.counters;
            let resumed = kind == HandshakeKind::Resumed;
            if resumed { &counters.tls_resumed } else { &counters.tls_full }.fetch_add(1, Relaxed);
            return Ok(stream);
        }
        Err(Failed::Silent) => Lost::new(None, Unfinished::Probe),
        Err(Failed::Gone) => Lost::new(None, Unfinished::Gone),
        Err(Failed::TimedOut) => Lost::new(None, Unfinished::TimedOut),
        Err(Failed::Busy) => Lost::new(None, Unfinished::TlsBusy),
        Err(Failed::NotTls(tcp)) => {
            let http = cx.listener.websocket.is_some() && speaks_http(&tcp).await;
            Lost::new(Stream::from(tcp), if http { Unfinished::NotHttps } else { Unfinished::NotTls })
        }
        Err(Failed::Tls(err)) => Lost::new(None, Unfinished::Tls(err)),
    })
}
