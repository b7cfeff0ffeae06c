//! How the story begins for a client over WebSocket: it asks in HTTP, and is answered in HTTP once the accept door has spoken.

use std::net::SocketAddr;

use tokio::{io::AsyncReadExt, time::Instant};
use tracing::debug;

use crate::{
    admission::{Step, Wait},
    net::{
        linger,
        stream::Stream,
        timer::sleep_until,
        websocket::{self, Unopened},
    },
    outcome::{Cause, Close, Party, Phase, Refusal},
    protocol::{
        refusal,
        websocket::{
            forwarded,
            upgrade::{self, Rejection, Upgrade},
        },
    },
    session::{End, Shared, Web},
};

/// What a client that finds no room is told to wait, in seconds: what the client libraries wait by themselves.
const RETRY_AFTER: u64 = 2;

/// Reads what the client asks for. Where a proxy that is believed names another `peer`, that one is the peer.
pub(super) async fn ask(
    mut down: Stream,
    web: &Web,
    peer: &mut SocketAddr,
    deadline: Instant,
) -> Result<(Stream, Upgrade), End> {
    let upgrade = match websocket::request(&mut down, &web.rules, deadline).await {
        Ok(upgrade) => upgrade,
        Err(Unopened::Probe) => return Err(End::Probe),
        Err(Unopened::Gone) => return Err(gone()),
        Err(Unopened::Rejected(rejection)) => {
            debug!(%peer, status = rejection.status, why = rejection.why, "no WebSocket");
            let mut answer = Vec::new();
            rejection.write(&mut answer);
            linger::close_with(down, &answer).await;
            let too_late = rejection == Rejection::TOO_LATE;
            return Err(End::Refused(if too_late { Refusal::HandshakeTimeout } else { Refusal::Protocol }));
        }
    };
    let believed = |ip| web.believes.iter().any(|network| network.contains(&ip));
    if believed(peer.ip())
        && let Some(ip) = forwarded::client(&upgrade.forwarded_for, believed)
    {
        // Its port nobody tells; the proxy's own is at least one that there is.
        peer.set_ip(ip);
    }
    Ok((down, upgrade))
}

/// CertificateNames yes.
pub(super) async fn open(down: Stream, upgrade: &Upgrade) -> Result<Stream, End> {
    websocket::open(down, upgrade).await.map_err(|_| gone())
}

/// CertificateNames that there is no room, at a random moment: clients that retry in step come back spread out.
pub(super) async fn turn_away(shared: &Shared, mut down: Stream, reason: Refusal, deadline: Instant) -> End {
    let (now, until) = (Instant::now().into_std(), deadline.into_std());
    let refused = Wait::refused_at_accept(&shared.admission, reason, until, now, &mut fastrand::Rng::new());
    if let (_, Step::Wait(at)) = refused {
        tokio::select! {
            () = sleep_until(Instant::from_std(at)) => {}
            read = down.read_u8() => {
                if read.is_err() {
                    return gone();
                }
            }
        }
    }
    let mut answer = Vec::new();
    upgrade::unavailable(refusal::text(reason), RETRY_AFTER, &mut answer);
    linger::close_with(down, &answer).await;
    End::Refused(reason)
}

fn gone() -> End {
    End::Closed(Close { party: Party::Downstream, phase: Phase::Preface, cause: Cause::Eof })
}
