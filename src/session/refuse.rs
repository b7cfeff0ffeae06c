//! The only way to say no: each client is told in what it can read, at its moment, and is closed so that it can read
//! it.

use tokio::time::Instant;
use tracing::debug;

use crate::{
    admission::Step,
    dispatch::SessionWait,
    net::{linger, stream::Stream, timer::sleep_until},
    outcome::{Phase, Refusal},
    protocol::{
        client_preface::{Preface, PrefaceError},
        refusal,
        websocket::upgrade,
    },
    session::{
        context::{Context, End, canonical},
        downstream::{self, Downstream, Unfinished},
        passthrough::client::PassthroughClient,
        read_ahead::ReadAhead,
        websocket_upgrade,
    },
};

/// A client that is to be refused, by what it can read.
pub(super) enum Refusable {
    /// CONNECT has come: it reads `-ERR`.
    Nats(Stream, Preface),
    /// Its request for a WebSocket has come: it reads an HTTP status.
    Http(Stream),
    /// Its TLS ends at a server: it reads a TLS alert, behind INFO where the servers begin with INFO.
    Passthrough(PassthroughClient),
}

/// What happens to a client before its moment has come.
enum Early {
    /// It has left, or does what it may not.
    Ends(Unfinished),
    /// It has left without a word that could be answered.
    Left(End),
    /// It waits no longer: it is told now.
    Speaks,
}

/// Refuses a client at the moment that admission has chosen, or notices that it leaves before. It counts as waiting
/// until then.
pub(super) async fn refuse(
    cx: &mut Context,
    mut client: Refusable,
    reason: Refusal,
    (_counted, step): (SessionWait, Step),
) -> End {
    cx.learns_anew = None;
    cx.lacks_place(reason);
    let at = match step {
        Step::Wait(_) if cx.shared.must_hurry(reason) => Instant::now(),
        Step::Wait(at) => Instant::from_std(at),
        Step::Refuse(_) | Step::Dial(_) | Step::Gone => Instant::now(),
    };
    let early = tokio::select! {
        biased;
        () = sleep_until(at) => None,
        early = client.early(&cx.shared.read_ahead) => Some(early),
    };
    match (early, client) {
        (Some(Early::Left(end)), _) => end,
        (Some(Early::Ends(unfinished)), Refusable::Nats(stream, _)) => {
            close_unfinished(stream, unfinished, Phase::Hold).await
        }
        (_, client) => client.tell(cx, reason).await,
    }
}

/// Refuses a client that has sent its CONNECT, now. The places that it has taken are given back once it has been told.
pub(super) async fn refuse_now(cx: &mut Context, downstream: Box<Downstream>, reason: Refusal) -> End {
    let Downstream { stream, preface, entry: _entry, refusing: _refusing, .. } = *downstream;
    cx.learns_anew = None;
    cx.lacks_place(reason);
    Refusable::Nats(stream, preface).tell(cx, reason).await
}

impl Refusable {
    async fn early(&mut self, read_ahead: &ReadAhead) -> Early {
        match self {
            Self::Nats(stream, preface) => Early::Ends(downstream::watch(read_ahead, stream, preface).await),
            Self::Http(stream) => match websocket_upgrade::speaks(stream).await {
                true => Early::Speaks,
                false => Early::Left(End::left(Phase::Preface)),
            },
            Self::Passthrough(client) => {
                client.left().await;
                Early::Left(client.end_of_left(Phase::Hold))
            }
        }
    }

    async fn tell(self, cx: &mut Context, reason: Refusal) -> End {
        match self {
            Self::Nats(stream, _) => match cx.shared.descriptors.refusing.try_acquire() {
                Some(permit) => linger::close_detached(stream, refusal::line(reason), permit).await,
                // The client still has its place in the limit of its listener, or among those who are refused.
                None => linger::close_with(stream, refusal::line(reason)).await,
            },
            Self::Http(stream) => websocket_upgrade::refuse(stream, reason).await,
            Self::Passthrough(client) => return client.tell(cx, reason).await,
        }
        End::Refused(reason)
    }
}

/// Ends a client that has not finished its preface, with the words that nats-server has for what it did.
pub(super) async fn close_unfinished(stream: impl Into<Option<Stream>>, unfinished: Unfinished, phase: Phase) -> End {
    let stream = stream.into();
    if let Unfinished::Wrong(wrong) = &unfinished {
        let peer = stream.as_ref().and_then(|stream| stream.tcp().peer_addr().ok()).map(canonical);
        debug!(?peer, %wrong, "no preface");
    }
    let (words, reason) = match unfinished {
        Unfinished::Probe => return End::Probe,
        Unfinished::Gone => return End::left(phase),
        Unfinished::Given => return End::Given,
        Unfinished::Tls(err) => return End::TlsFailed(phase, err.to_string().into()),
        Unfinished::TlsBusy => return End::Refused(Refusal::TlsBusy),
        Unfinished::TimedOut => (refusal::line(Refusal::HandshakeTimeout), Refusal::HandshakeTimeout),
        Unfinished::NotTls => (refusal::TLS_REQUIRED, Refusal::Protocol),
        Unfinished::NotHttps => (upgrade::NOT_HTTPS, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::TooLong) => (refusal::CONTROL_LINE_TOO_LONG, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::NotConnect) => (refusal::UNKNOWN_OP, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::BadConnect | PrefaceError::NotS2) => {
            (refusal::line(Refusal::Protocol), Refusal::Protocol)
        }
    };
    if let Some(stream) = stream {
        linger::close_with(stream, words).await;
    }
    End::Refused(reason)
}
