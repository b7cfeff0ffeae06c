//! The HTTP request that opens a WebSocket. It is read before the accept check, since a proxy may say in it who asks,
//! and answered after that.

use tokio::io::AsyncReadExt;
use tracing::debug;

use crate::{
    net::{
        linger,
        stream::Stream,
        websocket::{self, Unopened},
    },
    outcome::{Phase, Refusal},
    protocol::{
        refusal,
        websocket::{
            forwarded,
            upgrade::{self, Rejection, Upgrade},
        },
    },
    session::{
        context::{Context, End},
        listener::WebSocketListener,
    },
};

/// `Retry-After` of a refused client, in seconds: what the client libraries wait by themselves.
const RETRY_AFTER: u64 = 2;

/// Reads the request. Where a trusted proxy names the client, that is the peer from then on.
pub(super) async fn read_request(
    cx: &mut Context,
    mut stream: Stream,
    web: &WebSocketListener,
) -> Result<(Stream, Upgrade), End> {
    let upgrade = match websocket::request(&mut stream, &web.rules, cx.step_by(cx.heard())).await {
        Ok(upgrade) => upgrade,
        Err(Unopened::Probe) => return Err(End::Probe),
        Err(Unopened::Gone) => return Err(End::left(Phase::Preface)),
        Err(Unopened::Rejected(rejection)) => return Err(reject(cx, stream, rejection).await),
    };
    let trusted = |ip| web.trusts_proxy(ip);
    if trusted(cx.peer.ip())
        && let Some(ip) = forwarded::client(&upgrade.forwarded_for, trusted)
    {
        // The header names no port. The proxy's own is at least one that exists.
        cx.peer.set_ip(ip);
    }
    Ok((stream, upgrade))
}

/// Answers a request that opens no WebSocket.
async fn reject(cx: &Context, stream: Stream, rejection: Rejection) -> End {
    debug!(peer = %cx.peer, status = rejection.status, why = rejection.why, "no WebSocket");
    let mut answer = Vec::new();
    rejection.write(&mut answer);
    linger::close_with(stream, &answer).await;
    let too_late = rejection == Rejection::TOO_LATE;
    End::Refused(if too_late { Refusal::HandshakeTimeout } else { Refusal::Protocol })
}

/// Answers `101 Switching Protocols`.
pub(super) async fn accept(cx: &Context, stream: Stream, upgrade: &Upgrade) -> Result<Stream, End> {
    let (headers, ping_interval) = match &cx.listener.websocket {
        Some(web) => (&*web.headers, web.ping_interval),
        None => ("", None),
    };
    websocket::open(stream, upgrade, headers, ping_interval).await.map_err(|_| End::left(Phase::Preface))
}

/// Waits for a client that leaves before it is answered, or that speaks and need not wait longer. Returns whether it
/// is there.
pub(super) async fn speaks(stream: &mut Stream) -> bool {
    stream.read_u8().await.is_ok()
}

/// Answers `503 Service Unavailable`.
pub(super) async fn refuse(stream: Stream, reason: Refusal) {
    let mut answer = Vec::new();
    upgrade::unavailable(refusal::text(reason), RETRY_AFTER, &mut answer);
    linger::close_with(stream, &answer).await;
}
