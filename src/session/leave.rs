//! The ends of clients that are not let in.

use super::{End, House};
use crate::{
    admission::Applicant,
    clock::sleep_until,
    close::{Cause, Close, Party, Phase, Refusal},
    farewell,
    preface::{self, Unfinished},
    protocol::{
        preface::{Preface, PrefaceError},
        refusal,
    },
    stream::Stream,
};
use tokio::time::Instant;
use tracing::debug;

/// Refuses at `at`, or earlier when the client leaves.
pub(super) async fn refuse_at(
    house: &House,
    mut down: Stream,
    preface: &mut Preface,
    reason: Refusal,
    at: Instant,
) -> End {
    tokio::select! {
        () = sleep_until(at) => refuse(house, down, reason).await,
        left = preface::watch(&mut down, preface) => leave_unfinished(down, left, Phase::Hold).await,
    }
}

/// Refuses at a random moment within the client's time.
pub(super) async fn turn_away(
    house: &House,
    reason: Refusal,
    applicant: &Applicant,
    down: Stream,
    preface: &mut Preface,
) -> End {
    let now = Instant::now().into_std();
    let (at, delay) = house.doors.turn_away(reason, applicant, now, &mut fastrand::Rng::new());
    let end = refuse_at(house, down, preface, reason, Instant::from_std(at)).await;
    drop(delay);
    end
}

/// The polite refusal: CONNECT has been read, so the reason can be.
pub(super) async fn refuse(house: &House, down: Stream, reason: Refusal) -> End {
    let words = refusal::line(reason);
    match house.turned_away.enter() {
        Some(slot) => farewell::part(down, words, slot).await,
        // It is still the listener's client, or one that was turned away: it has its slot there.
        None => farewell::say(down, words).await,
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
        Unfinished::NotTls => (refusal::TLS_REQUIRED_LINE, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::TooLong) => (refusal::MAX_CONTROL_LINE_LINE, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::NotConnect) => (refusal::UNKNOWN_OP, Refusal::Protocol),
        Unfinished::Wrong(PrefaceError::BadConnect | PrefaceError::TooMuch) => {
            (refusal::line(Refusal::Protocol), Refusal::Protocol)
        }
    };
    if let Some(down) = down {
        farewell::say(down, words).await;
    }
    End::Refused(end)
}
