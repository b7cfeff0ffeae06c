//! A session goes to another server while its own still works, since an operator wants it there or the server is to
//! stop: the client keeps its connection, and no message is lost or doubled (`relay/tracked/handover.rs`). Where that
//! cannot be, the client is closed and comes back by itself, as clients do that are not re-homable.

use std::{future::poll_fn, mem, sync::Arc, time::Duration};

use tokio::time::{Instant, interval, sleep, sleep_until, timeout_at};
use tracing::debug;

use crate::{
    admission::{Account, Login, Pass},
    dial::LoggedIn,
    net::{linger, stream::Stream, timer::now},
    outcome::{Cause, MoveResult, Party},
    relay::{Ended, HandoverEnd, NewServer, REMEMBERS_BEFORE},
    session::{
        connect_upstream::connect_with_failover,
        established::Established,
        login_evidence::{LoginAttempt, NotAnswered},
        move_orders::{Done, MoveOrder},
        rehome::{Rehomable, RehomeTerms, why_not_of},
        shared::Shared,
    },
    upstream::{ServerId, Slot},
};

/// How long the login at the new server may take. The session goes on meanwhile.
const LOGS_IN_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether the account may log in once more.
const LOOK: Duration = Duration::from_millis(20);

/// How often a session on two servers looks at its clock.
const TICK: Duration = Duration::from_millis(50);

/// Why a session has not gone to the server of its order.
enum NotMoved {
    /// It stays where it is, for this reason.
    Stays(&'static str),
    Ended(Ended),
    /// Both servers are lost.
    BothLost,
}

impl Rehomable {
    /// Carries an order out. Returns how the session is on no server any more, if it is not, and whether it is certain
    /// that the server is lost.
    pub(super) async fn carry_out(&mut self, mut order: MoveOrder) -> Option<(Ended, bool)> {
        if self.session.server.server().id() != order.from {
            // It has gone meanwhile, for another reason.
            order.done(Done::Stays);
            return None;
        }
        let bound = self.session.relay.stays_bound().map(|bound| bound.text());
        let shared = Arc::clone(&self.session.shared);
        let id = self.session.registered.handle().facts().id;
        let (from, cause) = (Arc::clone(self.session.server.server()), order.cause);
        if let Some(why) = bound.or(self.terms.why_with_client()) {
            debug!(id, from = from.name(), cause = cause.name(), why, "session is closed to be moved");
            self.close_to_move(order);
            return None;
        }
        let (stays, left) = match self.go_along(&mut order).await {
            Ok(to) => {
                let name = self.session.server.server().name();
                debug!(id, from = from.name(), to = name, cause = cause.name(), "session moved");
                shared.counters.moved(cause, MoveResult::Rehomed);
                order.done(Done::Rehomed(to));
                return None;
            }
            Err(NotMoved::Stays(why)) => (why, None),
            Err(NotMoved::Ended(ended)) => ("it has ended", Some((ended, false))),
            Err(NotMoved::BothLost) => {
                let ended = Ended { party: Party::Upstream, cause: Cause::SocketError };
                ("both servers are lost", Some((ended, true)))
            }
        };
        debug!(id, from = from.name(), cause = cause.name(), why = stays, "session not moved");
        self.session.relay.stay();
        shared.counters.moved(cause, MoveResult::Stayed);
        order.done(Done::Stays);
        left
    }

    /// The client is to come back by itself, to the slot that is kept.
    fn close_to_move(&self, mut order: MoveOrder) {
        let Established { registered, shared, .. } = &*self.session;
        let Some((slot, client)) = order.slot.take().zip(registered.handle().facts().client) else { return };
        let kept = shared.admission.moving().expect(client, slot);
        if registered.handle().end(order.cause.of_close()) {
            shared.counters.moved(order.cause, MoveResult::NotRehomed);
            order.done(Done::Closes(kept));
        }
    }

    async fn go_along(&mut self, order: &mut MoveOrder) -> Result<ServerId, NotMoved> {
        let slot = order.slot.take().ok_or(NotMoved::Stays("no slot is kept for it"))?;
        let Self { session, terms } = self;
        let account = session.account.account().ok_or(NotMoved::Stays("its account is not known yet"))?;
        let from = session.server.server().id();
        let Established { relay, registered, shared, .. } = &mut **session;
        let until = Instant::now() + LOGS_IN_WITHIN;
        relay.prepare_handover();
        let prepared = Instant::now() + REMEMBERS_BEFORE;
        let log_in = async {
            let found = timeout_at(until, terms.log_in_at(shared, &account, slot, until)).await;
            sleep_until(prepared).await;
            found
        };
        let found = tokio::select! {
            biased;
            ended = relay.run(registered) => return Err(NotMoved::Ended(ended)),
            found = log_in => found,
        };
        let (pass, logged_in) =
            found.unwrap_or(Err("the other server has not let it in in time")).map_err(NotMoved::Stays)?;
        let LoggedIn { stream, info, rest } = *logged_in;
        // The account's slot of the login ends with the login.
        let Pass { server: slot, account: _login } = pass;
        let why_not = if slot.server().id() == from {
            Some("no other server has let it in")
        } else {
            why_not_of(&account, &info)
        };
        if let Some(why) = why_not {
            close_behind(stream, slot);
            return Err(NotMoved::Stays(why));
        }
        let new = NewServer { stream, server: Arc::clone(slot.server()), info: &info, rest: &rest };
        let mut handover = relay.begin_handover(new, now()).map_err(NotMoved::Stays)?;
        let mut tick = interval(TICK);
        let end = poll_fn(|cx| {
            while tick.poll_tick(cx).is_ready() {}
            relay.poll_handover(cx, registered.handle(), &mut handover)
        })
        .await;
        let (unused, result) = match end {
            HandoverEnd::Switched => {
                terms.goes_on(registered.handle(), slot.server(), &info);
                let to = slot.server().id();
                (mem::replace(&mut session.server, slot), Ok(to))
            }
            HandoverEnd::Stays(why) => (slot, Err(NotMoved::Stays(why))),
            HandoverEnd::Ended(ended) => (slot, Err(NotMoved::Ended(ended))),
            HandoverEnd::BothLost => (slot, Err(NotMoved::BothLost)),
        };
        close_behind(handover.into_unused(), unused);
        result
    }
}

impl RehomeTerms {
    /// Logs in at the server of the slot, or elsewhere where that one does not let the client in.
    async fn log_in_at(
        &self,
        shared: &Shared,
        account: &Arc<Account>,
        slot: Slot,
        until: Instant,
    ) -> Result<(Pass, Box<LoggedIn>), &'static str> {
        let connect = self.connect()?;
        let mut login_slot = shared.admission.account_slot_of_move(account, self.source.into());
        while !login_slot.begin_handshake() {
            sleep(LOOK).await;
        }
        let slot = slot.redeem(now()).ok_or("the other server takes no clients any more")?;
        let attempt = LoginAttempt::new(shared, Login { client: self.client, key: self.claim.credential }, self.source);
        let client = (&connect, self.credential, until);
        let header = (self.port, &*self.proxy_header);
        let found = connect_with_failover(attempt, Pass::new(slot, login_slot), None, client, header).await;
        found.map_err(|not| match not {
            NotAnswered::ServerError(..) => "the other server refuses its login",
            NotAnswered::TooLong => "its CONNECT is too long",
            NotAnswered::Refused(reason) => reason.name(),
        })
    }
}

/// Closes a connection to a server; the slot is given back once the server has seen the end.
fn close_behind(stream: Stream, slot: Slot) {
    tokio::spawn(async move {
        linger::close_with(stream, b"").await;
        drop(slot);
    });
}
