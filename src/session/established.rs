//! A client that is in: the relay, and how it ends.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    admission::AcceptPermit,
    net::timer::now,
    outcome::{Cause, Phase},
    relay::{
        ClientSide, Ended, Relay, ServerSide, Side,
        registry::{Registration, SessionHandle},
    },
    session::{
        account::AccountPlace,
        context::{Context, End},
    },
    telemetry::counters::Totals,
    upstream::Slot,
    worker::with_rng,
};

/// A session, with all the places that it holds for as long as it lives.
pub(super) struct Established<C = ClientSide, S = ServerSide> {
    pub relay: Relay<C, S>,
    pub server: Slot,
    account: AccountPlace,
    _entry: Option<AcceptPermit>,
    pub registered: Registration,
}

impl<C: Side, S: Side> Established<C, S> {
    /// Registers a session, so that weir can end it.
    pub fn new(
        cx: &Context,
        relay: Relay<C, S>,
        server: Slot,
        account: impl FnOnce(&Arc<SessionHandle>) -> AccountPlace,
        entry: Option<AcceptPermit>,
    ) -> Self {
        let registered = cx.shared.sessions.register(cx.id, server.server().id());
        // A drain that began after this client's turn has not seen the session.
        if cx.shared.admission.is_draining() {
            registered.handle().end(Cause::Draining);
        }
        // Nor has the drain of its server.
        if server.server().is_draining() {
            registered.handle().end(Cause::ServerDrained);
        }
        let account = account(registered.handle());
        Self { relay, server, account, _entry: entry, registered }
    }

    /// Relays until one side ends, and closes both.
    // Not an `async fn`, whose future would hold each argument twice.
    pub fn relay(mut self: Box<Self>, cx: &Context) -> impl Future<Output = (End, Totals)> {
        let began = Instant::now();
        async move {
            let ended = self.relay.run(&self.registered).await;
            if ended.by_server() {
                self.server.server().may_be_another_process();
            }
            if let Some(client) = cx.log.client {
                cx.shared.admission.session_ended(client, began.elapsed(), now());
            }
            let totals = match self.ends_at_once(ended) {
                Some(totals) => {
                    drop(self);
                    totals
                }
                None => Box::pin(self.close(cx, ended)).await,
            };
            (End::closed(ended.party, Phase::Relay, ended.cause), totals)
        }
    }

    /// Closes a session at once, whoever has ended it: its login was not over.
    pub async fn close_in_login(self: Box<Self>, ended: Ended) -> Totals {
        let Self { relay, server: _server, account: _account, _entry, registered: _registered } = *self;
        relay.finish(ended).await
    }

    /// What has been relayed, when both sides can simply be closed: nothing is on its way, and neither the server nor
    /// a quota is so near its limit that it matters whether the server has seen the end already.
    fn ends_at_once(&self, ended: Ended) -> Option<Totals> {
        let totals = self.relay.owed_nothing(ended)?;
        (self.server.is_one_of_many() && self.account.is_unlimited()).then_some(totals)
    }

    /// Closes both sides, and only then gives the session's places back. Those of a session that its server has ended
    /// are given back at once: nobody is connected to a server in them any more, however long the client takes for its
    /// last bytes. Its descriptor counts among those of the clients that are being refused, where there is room.
    async fn close(self: Box<Self>, cx: &Context, ended: Ended) -> Totals {
        let Self { mut relay, server, account, _entry: entry, registered } = *self;
        let _places = if ended.by_server() {
            drop((server, account));
            let lingering = cx.shared.refusing.try_acquire();
            let entry = entry.filter(|_| lingering.is_none());
            let now = Instant::now();
            let wait = with_rng(|rng| cx.shared.admission.session_lost(now.into_std(), rng));
            if !wait.is_zero() {
                relay.outlive_server(now + wait, registered.handle()).await;
            }
            (lingering, entry, None)
        } else {
            (None, entry, Some((server, account)))
        };
        let totals = relay.finish(ended).await;
        drop(registered);
        totals
    }
}
