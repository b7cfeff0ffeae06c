//! Counts the sessions every few seconds for the reports, and ends sessions that have been idle for too
//! long. It runs on the control thread, in slices between which other tasks run, so no session waits for it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admission::policies::Idleness,
    growth::EVERY,
    net::timer,
    outcome::Cause,
    relay::registry::{AtServer, SessionHandle},
    reports::census::{Census, Fact},
    session::Shared,
    telemetry::moment::Moment,
};

/// Sessions that are counted in a row: a fraction of a millisecond.
const SLICE: usize = 256;

/// The most idle sessions that are ended in one look. Their clients reconnect, and are no storm.
const MOST_ENDED: usize = 50;

/// Samples until `stop`.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let (mut next, mut looked_at) = (Instant::now(), Moment::now());
    shared.tallies.not_let_in.begin(timer::now());
    shared.tallies.churn.begin(timer::now());
    let work = async {
        loop {
            let now = Moment::now();
            sample_sessions(&shared, now, now.since(looked_at)).await;
            looked_at = now;
            next = (next + EVERY).max(Instant::now());
            sleep_until(next).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn sample_sessions(shared: &Shared, now: Moment, since_last_look: Duration) {
    let mut all: Vec<(Arc<SessionHandle>, Arc<str>, AtServer)> = Vec::with_capacity(shared.sessions.len());
    shared.sessions.for_each(|one| all.push((Arc::clone(one), one.account().unwrap_or_default(), one.at()))).await;
    let (mut census, mut idle) = (Census::default(), IdleSessions::default());
    for slice in all.chunks(SLICE) {
        for (session, account, at) in slice {
            let fact = fact(session, (account, at), now);
            idle.look_at(shared, session, &fact, since_last_look);
            census.add(fact);
        }
        yield_now().await;
    }
    idle.tell();
    shared.reports.sample_sessions(timer::now(), &census);
}

fn fact<'a>(session: &'a SessionHandle, (account, at): (&'a str, &'a AtServer), now: Moment) -> Fact<'a> {
    let facts = session.facts();
    Fact {
        account,
        user: facts.said.user().unwrap_or_default(),
        name: facts.said.name().unwrap_or_default(),
        source: facts.peer.ip().into(),
        server: at.name().unwrap_or_default(),
        idle: now.since(session.traffic().last_activity()),
    }
}

/// The sessions of one look that the policy for idle ones is about.
#[derive(Default)]
struct IdleSessions {
    ended: usize,
    /// They will be ended at the next looks.
    postponed: usize,
    warned: usize,
}

impl IdleSessions {
    fn look_at(&mut self, shared: &Shared, session: &SessionHandle, fact: &Fact<'_>, since_last_look: Duration) {
        match shared.policies.load().idleness(fact.account, fact.idle, since_last_look) {
            Idleness::Fine => {}
            Idleness::Warned => {
                self.warned += 1;
                shared.counters.would_end_idle.fetch_add(1, Relaxed);
            }
            Idleness::Over if self.ended < MOST_ENDED => {
                self.ended += 1;
                session.end(Cause::Idle);
            }
            Idleness::Over => self.postponed += 1,
        }
    }

    fn tell(&self) {
        if self.ended > 0 {
            info!(
                sessions = self.ended,
                postponed = self.postponed,
                reason = Cause::Idle.name(),
                "ending idle sessions"
            );
        }
        if self.warned > 0 {
            let reason = Cause::Idle.name();
            warn!(sessions = self.warned, reason, "idle for longer than the policy allows, which only warns");
        }
    }
}
