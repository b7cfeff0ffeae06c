//! TLS with a client, before its preface or in the middle of it.

use std::sync::atomic::Ordering::Relaxed;

use rustls::HandshakeKind;
use tokio::{net::TcpStream, time::Instant};

use crate::{
    net::stream::Stream,
    outcome::{Phase, Refusal},
    session::{
        End, Listener, Shared, Who, leave_unfinished,
        preface::{self, Arrival, Unfinished},
    },
    tls::{self, Failed, HandshakeFirst, Terminator},
};

/// What a session's TLS depends on.
pub(super) struct Secure<'a> {
    shared: &'a Shared,
    terminator: Option<&'a Terminator>,
    /// Why the accept door refuses the client.
    pub(super) refused: Option<Refusal>,
    /// When CONNECT should be there. A client that is ready only then can still be let in, if the pace allows it at once.
    done_by: Instant,
    deadline: Instant,
}

/// A client that was lost before its CONNECT was complete; without a connection there is nobody to say anything to.
pub(super) struct Lost {
    down: Option<Stream>,
    unfinished: Unfinished,
}

impl Lost {
    fn new(down: impl Into<Option<Stream>>, unfinished: Unfinished) -> Self {
        Self { down: down.into(), unfinished }
    }

    /// Whether it has left without a word.
    pub(super) fn is_probe(&self) -> bool {
        matches!(self.unfinished, Unfinished::Probe)
    }
}

impl<'a> Secure<'a> {
    /// For a client that was accepted at `accepted`.
    pub(super) fn new(shared: &'a Shared, listener: &'a Listener, accepted: Instant, deadline: Instant) -> Self {
        let unknown = shared.admission.deadline_policy().deadlines(None, accepted.into_std(), accepted.into_std());
        let done_by = Instant::from_std(unknown.hold_until).min(deadline);
        Self { shared, terminator: listener.tls.as_deref(), refused: None, done_by, deadline }
    }

    /// TLS before INFO, where the listener and the client do so.
    pub(super) async fn first(&self, down: Stream) -> Result<Stream, Lost> {
        let Some(terminator) = self.terminator else { return Ok(down) };
        match terminator.handshake_first() {
            HandshakeFirst::Never => Ok(down),
            HandshakeFirst::Within(pause) if !tls::speaks_first(down.tcp(), pause).await => Ok(down),
            HandshakeFirst::Within(_) | HandshakeFirst::Always => self.at_once(down).await,
        }
    }

    /// TLS now, where the listener does TLS and it has not been done.
    pub(super) async fn at_once(&self, down: Stream) -> Result<Stream, Lost> {
        match (self.terminator, down) {
            (Some(terminator), Stream::Plain(tcp)) => self.handshake(terminator, tcp).await,
            (_, down) => Ok(down),
        }
    }

    /// Sends `greeting`, does TLS where that is still to come, and reads CONNECT.
    pub(super) async fn exchange(&self, mut down: Stream, greeting: &[u8]) -> Result<(Stream, Arrival), Lost> {
        if let Err(unfinished) = preface::greet(&mut down, greeting, self.deadline).await {
            return Err(Lost::new(down, unfinished));
        }
        let mut down = self.at_once(down).await?;
        let longest = self.shared.servers.max_control_line();
        match preface::hear(&mut down, longest, self.deadline).await {
            Ok(arrival) => Ok((down, arrival)),
            Err(unfinished) => Err(Lost::new(down, unfinished)),
        }
    }

    async fn handshake(&self, terminator: &Terminator, down: TcpStream) -> Result<Stream, Lost> {
        // On the heap for as long as it takes: most of a preface's own memory would be this.
        let done = Box::pin(tls::accept(terminator, down, self.refused.is_some(), self.done_by, self.deadline)).await;
        Err(match done {
            Ok((down, kind)) => {
                let resumed = kind == HandshakeKind::Resumed;
                let counters = &self.shared.counters;
                if resumed { &counters.tls_resumed } else { &counters.tls_full }.fetch_add(1, Relaxed);
                return Ok(down);
            }
            Err(Failed::Silent) => Lost::new(None, Unfinished::Probe),
            Err(Failed::Gone) => Lost::new(None, Unfinished::Gone),
            Err(Failed::TimedOut) => Lost::new(None, Unfinished::TimedOut),
            Err(Failed::Busy) => Lost::new(None, Unfinished::TlsBusy),
            Err(Failed::NotTls(down)) => Lost::new(Stream::from(down), Unfinished::NotTls),
            Err(Failed::Tls(err)) => Lost::new(None, Unfinished::Tls(err)),
        })
    }

    /// The end of a client that was lost.
    pub(super) async fn end(&self, lost: Lost, who: &mut Who) -> End {
        let Lost { down, unfinished } = lost;
        match (unfinished, self.refused) {
            // It was to be refused anyway, and there was no time to say so.
            (Unfinished::TlsBusy, Some(reason)) => End::Refused(reason),
            (unfinished, _) => {
                if let Unfinished::Tls(err) = &unfinished {
                    who.tls = Some(err.to_string().into());
                }
                leave_unfinished(down, unfinished, Phase::Preface).await
            }
        }
    }
}
