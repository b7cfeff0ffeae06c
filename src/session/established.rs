//! A client that is in: the relay, and how it ends.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

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
        finish::finish,
        shared::Shared,
        takeover::{self, Movable},
    },
    telemetry::counters::Totals,
    upstream::Slot,
    worker::with_rng,
};

/// A session, with all the places that it holds for as long as it lives.
pub(super) struct Established<C = ClientSide, S = ServerSide> {
    pub relay: Relay<C, S>,
    pub server: Slot,
    pub account: AccountPlace,
    _entry: Option<AcceptPermit>,
    pub registered: Registration,
    pub shared: Arc<Shared>,
}

impl<C: Side, S: Side> Established<C, S> {
    /// Registers a session, so that weir can show and end it. What the client has said goes into the registry.
    pub fn new(
        cx: &mut Context,
        relay: Relay<C, S>,
        server: Slot,
        account: impl FnOnce(&Arc<SessionHandle>) -> AccountPlace,
        entry: Option<AcceptPermit>,
    ) -> Self {
        let facts = cx.facts(relay.client_tls(), relay.client_compression());
        let registered = cx.shared.sessions.register(facts, cx.log.account.clone(), cx.at());
        // A drain that began after this client's turn has not seen the session.
        if cx.shared.admission.is_draining() {
            registered.handle().end(Cause::Draining);
        }
        // Nor has the drain of its server.
        if server.server().is_draining() {
            registered.handle().end(Cause::Drain);
        }
        if let Some(client) = registered.handle().facts().client {
            cx.shared.admission.moving().session_began(client, server.server().id());
        }
        let account = account(registered.handle());
        let shared = Arc::clone(&cx.shared);
        Self { relay, server, account, _entry: entry, registered, shared }
    }

    /// A session that another process has had until now.
    pub fn adopted(
        relay: Relay<C, S>,
        (server, account, entry): (Slot, AccountPlace, AcceptPermit),
        registered: Registration,
        shared: &Arc<Shared>,
    ) -> Self {
        Self { relay, server, account, _entry: Some(entry), registered, shared: Arc::clone(shared) }
    }

    /// Relays until one side ends, or the session is asked to stop: `None`.
    fn run(&mut self) -> impl Future<Output = Option<Ended>> + Unpin {
        let Self { relay, registered, .. } = self;
        let registered = &*registered;
        let mut run = relay.run(registered);
        poll_fn(move |cx| {
            let ended = Pin::new(&mut run).poll(cx).map(Some);
            let stops = ended.is_pending() && registered.handle().take_stop_requested();
            if stops { Poll::Ready(None) } else { ended }
        })
    }

    /// The session began then. Relays until one side ends, closes both, and counts the end; or until another process
    /// has the session.
    #[expect(clippy::manual_async_fn, reason = "the future of an async fn would hold each argument twice")]
    pub fn relay(mut self: Box<Self>, began: Instant) -> impl Future<Output = ()>
    where
        Relay<C, S>: Movable,
    {
        async move {
            let ended = loop {
                match self.run().await {
                    Some(ended) => break ended,
                    None if Box::pin(takeover::stop(&self, began, None)).await => return,
                    None => {}
                }
            };
            self.over(began, ended).await;
        }
    }

    /// The relay is over: closes both sides, and counts the end.
    pub(super) async fn over(self: Box<Self>, began: Instant, ended: Ended) {
        if ended.by_server() {
            self.server.server().may_be_another_process();
        }
        if let Some(client) = self.registered.handle().facts().client {
            self.shared.admission.session_ended(client, began.elapsed(), now());
        }
        let (shared, session) = (Arc::clone(&self.shared), Arc::clone(self.registered.handle()));
        match self.ends_at_once(ended) {
            true => drop(self),
            false => Box::pin(self.close(ended)).await,
        }
        finish(&shared, session, End::closed(ended.party, Phase::Relay, ended.cause));
    }

    /// Closes a session at once, whoever has ended it: its login was not over. `end` tells from what has passed which
    /// end it is.
    pub async fn close_in_login(self: Box<Self>, ended: Ended, end: impl FnOnce(Totals) -> End) {
        let Self { relay, server: _server, account: _account, _entry, registered, shared, .. } = *self;
        let session = Arc::clone(registered.handle());
        let totals = relay.finish(ended, &session).await;
        drop(registered);
        finish(&shared, session, end(totals));
    }

    /// Whether both sides can simply be closed: nothing is on its way, and neither the server nor a quota is so near
    /// its limit that it matters whether the server has seen the end already.
    fn ends_at_once(&self, ended: Ended) -> bool {
        self.relay.is_owed_nothing(ended) && self.server.is_one_of_many() && self.account.is_unlimited()
    }

    /// Closes both sides, and only then gives the session's places back. Those of a session that its server has ended
    /// are given back at once: nobody is connected to a server in them any more, however long the client takes for its
    /// last bytes. Its descriptor counts among those of the clients that are being refused, where there is room.
    async fn close(self: Box<Self>, ended: Ended) {
        let Self { mut relay, server, account, _entry: entry, registered, shared, .. } = *self;
        let _places = if ended.by_server() {
            drop((server, account));
            let lingering = shared.descriptors.refusing.try_acquire();
            let entry = entry.filter(|_| lingering.is_none());
            let now = Instant::now();
            let wait = with_rng(|rng| shared.admission.session_lost(now.into_std(), rng));
            if !wait.is_zero() {
                relay.outlive_server(now + wait, registered.handle()).await;
            }
            (lingering, entry, None)
        } else {
            (None, entry, Some((server, account)))
        };
        relay.finish(ended, registered.handle()).await;
        drop(registered);
    }
}
