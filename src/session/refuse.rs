//! The ends of clients that are not let in.

use tokio::time::Instant;
use tracing::debug;

use crate::{
    admission::Client,
    net::{linger, stream::Stream, timer::sleep_until},
    outcome::{Cause, Close, Party, Phase, Refusal},
    protocol::{
        client_preface::{Preface, PrefaceError},
        refusal,
    },
    session::{
        End, Shared,
        preface::{self, Unfinished},
    },
};

/// Refuses at `at`, or earlier when the client leaves.
pub(super) async fn refuse_at(
    shared: &Shared,
    mut down: Stream,
    preface: &mut Preface,
    reason: Refusal,
    at: Instant,
) -> End {
    tokio::select! {
        () = sleep_until(at) => refuse(shared, down, reason).await,
        left = preface::watch(&mut down, preface) => leave_unfinished(down, left, Phase::Hold).await,
    }
}

/// Refuses at a random moment within the client's time.
pub(super) async fn turn_away(
    shared: &Shared,
    reason: Refusal,
    client: &Client,
    down: Stream,
    preface: &mut Preface,
) -> End {
    let now = Instant::now().into_std();
    let (at, delay) = shared.admission.turn_away(reason, client, now, &mut fastrand::Rng::new());
    let end = refuse_at(shared, down, preface, reason, Instant::from_std(at)).await;
    drop(delay);
    end
}

/// The polite refusal: CONNECT has been read, so the reason can be.
pub(super) async fn refuse(shared: &Shared, down: Stream, reason: Refusal) -> End {
    let words = refusal::line(reason);
    match shared.turned_away.enter() {
        Some(slot) => linger::close_detached(down, words, slot).await,
        // It is still the listener's client, or one that was turned away: it has its slot there.
        None => linger::close_with(down, words).await,
    }
    End::Refused(reason)
}

/// The end of a client that has not finished its preface.
pub(super) async fn leave_unfinished(down: impl Into<Option<Stream>>, unfinished: Unfinished, phase: Phase) -> End {
    let down = down.into();
    if let Unfinished::Wrong(wrong) = &unfinished {
        debug!(peer = ?down.as_ref().and_then(|down| down.tcp().peer_addr().ok()), %wrong, "no preface");
    }
    let (words, end) = match unfinished {
        Unfinished::Probe => return End::Probe,
        Unfinished::Gone => return End::Closed(Close { party: Party::Downstream, phase, cause: Cause::Eof }),
        Unfinished::Tls(_) => return End::Closed(Close { party: Party::Downstream, phase, cause: Cause::Tls }),
        Unfinished::TlsBusy => return End::Refused(Refusal::TlsBusy),
        Unfinished::TimedOut => (refusal::line(Refusal::HandshakeTimeout), Refusal::HandshakeTimeout),
        Unfinished::NotTls => (refusal::TLS_REQUIRED, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::TooLong) => (refusal::CONTROL_LINE_TOO_LONG, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::NotConnect) => (refusal::UNKNOWN_OP, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::BadConnect | PrefaceError::TooMuch) => {
            (refusal::line(Refusal::Protocol), Refusal::Protocol)
        }
    };
    if let Some(down) = down {
        linger::close_with(down, words).await;
    }
    End::Refused(end)
}
