//! Connections that have reached `max_connection_age` end, one after another, so that what stands in front of weir, and
//! placement behind it, choose anew for their clients.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info};

use super::Mover;
use crate::{
    outcome::{Cause, Close, MoveCause, MoveResult, Party, Phase, Refusal},
    rebalance::age::{Arrivals, Due, Look, between_looks, is_short_of_room},
    relay::registry::SessionHandle,
    telemetry::{counters::Counters, moment::Moment},
};

/// How often it is seen whether a look is due, since a reload may have changed the age.
const TICK: Duration = Duration::from_secs(1);

/// The log has one line in this time at most.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What is remembered from one look to the next.
#[derive(Default)]
struct SoFar {
    last_look: Option<Instant>,
    /// Since weir began, at the last look.
    let_in: u64,
    kept_out: u64,
    /// Since the last look.
    closed_since: u64,
    /// How many have been closed that the log has not told of.
    closed: u32,
    /// How many have reached their age, and have not been closed by the end of the last look.
    left: usize,
    told: Option<Instant>,
}

impl Mover {
    /// Closes connections that are older than `max_age` says now.
    pub(super) async fn close_by_age(&self, max_age: impl Fn() -> Option<Duration>) {
        let (mut so_far, mut ticks) = (SoFar::default(), interval(TICK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(age) = max_age().filter(|age| so_far.is_time_to_look(*age)) {
                self.close_those_of(age, || max_age() == Some(age), &mut so_far).await;
            }
            so_far.tell();
        }
    }

    /// One look at all sessions, and closes until the next one.
    async fn close_those_of(&self, max_age: Duration, is_in_force: impl Fn() -> bool, so_far: &mut SoFar) {
        so_far.last_look = Some(Instant::now());
        let (now, mut sessions, mut due) = (Moment::now(), 0_u32, Vec::new());
        let look = |session: &Arc<SessionHandle>| {
            sessions = sessions.saturating_add(1);
            due.extend(due_at(session, now, max_age));
        };
        self.shared().sessions.for_each(look).await;
        so_far.left = due.len();
        let arrivals = so_far.arrivals(&self.shared().counters);
        let pace = self.pace(Instant::now());
        let (order, each) = Look { sessions, due, arrivals, pace }.plan(max_age);
        let began = Instant::now();
        for (n, one) in (0_u32..).zip(&order) {
            sleep_until((began + each * n).into()).await;
            let why_not = if is_in_force() { self.why_nobody_for_age(sessions) } else { Some("reloaded".to_owned()) };
            if let Some(why) = why_not {
                debug!(why, left = so_far.left, "no connection is closed for its age now");
                return;
            }
            if self.close_for_age(one) {
                so_far.closed = so_far.closed.saturating_add(1);
                so_far.closed_since = so_far.closed_since.saturating_add(1);
                so_far.left = so_far.left.saturating_sub(1);
            }
        }
    }

    /// Closes a session whose turn it is, unless it has ended, ends, or may be within a request.
    fn close_for_age(&self, due: &Due) -> bool {
        let Some(session) = self.shared().sessions.get(due.session) else { return false };
        let idle = Moment::now().since(session.traffic().last_activity());
        let closes = due.may_go(idle) && session.end(MoveCause::Age.of_close());
        if closes {
            self.shared().counters.moved(MoveCause::Age, MoveResult::Unreserved);
        }
        closes
    }

    /// Why nobody is closed for its age now.
    fn why_nobody_for_age(&self, sessions: u32) -> Option<String> {
        if let Some(why) = self.why_not() {
            return Some(why);
        }
        let headroom = self.shared().servers.headroom(Instant::now());
        let state = self.state();
        if state.current.as_ref().is_some_and(|current| !current.run.is_paused()) {
            Some("a rebalance is under way".to_owned())
        } else if !state.evacuated.is_empty() {
            Some("the clients of a server are being moved away".to_owned())
        } else {
            is_short_of_room(headroom, sessions).then(|| format!("the servers have {headroom} free slots"))
        }
    }
}

fn due_at(session: &SessionHandle, now: Moment, max_age: Duration) -> Option<Due> {
    let facts = session.facts();
    let idle = || now.since(session.traffic().last_activity());
    let due = Due::of(facts.id, now.since(facts.accepted), idle, max_age);
    due.filter(|_| session.end_requested().is_none())
}

impl SoFar {
    fn is_time_to_look(&self, max_age: Duration) -> bool {
        // At the nearest tick.
        self.last_look.is_none_or(|at| at.elapsed() + TICK / 2 >= between_looks(max_age))
    }

    /// How clients have fared since the last call.
    fn arrivals(&mut self, counters: &Counters) -> Arrivals {
        let (let_in, kept_out) = (counters.admitted.load(Relaxed), kept_out(counters));
        Arrivals {
            let_in: let_in.saturating_sub(std::mem::replace(&mut self.let_in, let_in)),
            kept_out: kept_out.saturating_sub(std::mem::replace(&mut self.kept_out, kept_out)),
            closed: std::mem::take(&mut self.closed_since),
        }
    }

    fn tell(&mut self) {
        if self.closed > 0 && self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            info!(clients = self.closed, left = self.left, "connections are closed for their age");
            (self.closed, self.told) = (0, Some(Instant::now()));
        }
    }
}

/// Clients that did not get in, since weir began.
fn kept_out(counters: &Counters) -> u64 {
    let refused: u64 = Refusal::ALL.into_iter().map(|reason| counters.refused(reason)).sum();
    let of = |party, phase| -> u64 {
        Cause::ALL.into_iter().map(|cause| counters.closed(Close { party, phase, cause })).sum()
    };
    let closed: u64 = Party::ALL.into_iter().map(|party| of(party, Phase::Hold) + of(party, Phase::Dial)).sum();
    refused + closed
}
