//! What is another thing for a leafnode than for a client: which server it goes to, and what it reads at its welcome.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    admission::AcceptPermit,
    dispatch,
    net::{
        linger,
        stream::Stream,
        timer::{now, sleep_until},
    },
    outcome::Phase,
    protocol::client_preface::Preface,
    relay::{LeafnodeSide, Relay, registry::SessionHandle},
    session::{
        Session,
        account::AccountPlace,
        context::{Context, End},
        established::Established,
        shared::Shared,
    },
    upstream::Slot,
};

/// A session between a leafnode and its hub.
pub(super) type LeafnodeSession = Established<LeafnodeSide, LeafnodeSide>;

/// How soon to ask again whether the server with the fewest leafnodes may have one more handshake.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// A leafnode has its turn, with a slot. Where another server has far fewer leafnodes it goes to that one, as soon as
/// that may have one more handshake; where this is not before `until` it keeps its slot.
pub(super) async fn even(shared: &Shared, mut slot: Slot, until: Instant) -> Slot {
    slot.for_leafnode();
    if slot.is_from_reserve() || shared.admission.is_observing() {
        return slot;
    }
    while let Some(other) = shared.servers.evener_for_leafnode(slot.server(), now()) {
        if let Some(mut better) = Slot::reserve(&other, now()) {
            better.for_leafnode();
            drop(slot);
            dispatch::run_now(&shared.admission);
            return better;
        }
        if Instant::now() >= until {
            break;
        }
        sleep_until(Instant::now() + ASK_AGAIN).await;
    }
    slot
}

/// The session of a leafnode that its hub has let in.
pub(super) async fn begin(
    cx: &mut Context,
    (stream, preface): (Stream, Preface),
    (to_server, rest): (Stream, Vec<u8>),
    (server, account): (Slot, impl FnOnce(&Arc<SessionHandle>) -> AccountPlace),
    entry: Option<AcceptPermit>,
) -> Result<Session, End> {
    let info = Arc::clone(&cx.listener.info);
    let from_hub = LeafnodeSide::from_hub(info, cx.source(), Arc::clone(server.server()));
    let pipelined = preface.into_pipelined();
    let leafnode = (stream, LeafnodeSide::from_leafnode(), &*pipelined);
    match Relay::new(leafnode, (to_server, from_hub, &*rest), Arc::clone(&cx.shared.counters)) {
        Ok(relay) => Ok(Session::Leafnode(Box::new(Established::new(cx, relay, server, account, entry)))),
        Err((stream, ended)) => {
            linger::close_with(stream, b"").await;
            Err(End::closed(ended.party, Phase::Relay, ended.cause))
        }
    }
}
