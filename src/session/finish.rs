//! How the end of a client's path is counted, logged and remembered.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tracing::debug;

use crate::{
    net::timer::now,
    outcome::{Cause, Close, Party, Phase},
    relay::registry::{Ending, SessionHandle},
    session::{context::End, shared::Shared},
    tally::Who,
    telemetry::moment::Moment,
};

/// Counts, logs and remembers an end, once. A session is not in the registry any more.
pub(super) fn finish(shared: &Shared, session: Arc<SessionHandle>, end: End) {
    let (facts, account, totals) = (session.facts(), session.account(), session.traffic().totals());
    let (user, name, lang) = (facts.said.user(), facts.said.name(), facts.said.lang());
    let who = Who { account: account.as_deref(), user, name, source: facts.peer.ip().into() };
    let mut tls = None;
    let count_close = |close: Close| {
        shared.counters.close(close);
        (Ending::Closed(close), close.party, Some(close.phase.name()))
    };
    let (ending, party, phase) = match end {
        End::Probe => {
            shared.counters.probes.fetch_add(1, Relaxed);
            return;
        }
        End::Given => return,
        End::Refused(reason) => {
            shared.counters.refuse(reason);
            shared.tallies.refused(reason, &who, now());
            if let Some(account) = &account {
                shared.counters.refused_by_account.note(account, reason, now());
            }
            shared.flight.refused(account.as_deref(), lang, reason);
            (Ending::Refused(reason), Party::Weir, None)
        }
        End::Closed(close) => count_close(close),
        End::TlsFailed(phase, why) => {
            tls = Some(why);
            count_close(Close { party: Party::Downstream, phase, cause: Cause::Tls })
        }
    };
    let lived = Moment::now().since(facts.accepted);
    let outcome = if phase.is_some() { "closed" } else { "refused" };
    debug!(
        id = facts.id,
        peer = %facts.peer,
        party = party.name(),
        phase,
        reason = ending.reason(),
        account = account.as_deref(),
        user,
        name,
        lang,
        server = session.at().name(),
        tls,
        ?lived,
        bytes_up = totals.bytes_up,
        bytes_down = totals.bytes_down,
        "{outcome}"
    );
    if let (Ending::Closed(Close { phase: Phase::Relay, .. }), Some(account)) = (ending, &account) {
        shared.sessions.ended_traffic().add(account, totals);
    }
    if let Ending::Closed(Close { phase: Phase::Relay, .. }) = ending {
        shared.tallies.session_ended(&who, lived, now());
    }
    shared.sessions.closed().note(session, ending);
}
