//! All clients of one server are moved to the others: it is drained, or shuts down.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::time::{sleep, sleep_until};
use tracing::info;

use super::{Census, Emptying, Mover, State, carry_out::Go, lock, role};
use crate::{
    outcome::{MoveCause, MoveResult},
    rebalance::{
        plan::{Role, plan},
        run::{Manner, Run, Step},
    },
    relay::registry::SessionHandle,
    upstream::{Server, ServerId},
    worker,
};

/// Room may come up, so it is planned again for those who found none.
const PLAN_AGAIN: Duration = Duration::from_millis(250);

/// A server that shuts down and has kept clients for want of room elsewhere is evacuated again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The clients that wait for a slot go within this part of the time; what is left is for those who found none.
const PART: f64 = 0.7;

/// The evacuation of a server that shuts down: one at a time, until this is dropped.
pub(super) struct Evacuation {
    state: Arc<Mutex<State>>,
    server: ServerId,
}

impl Evacuation {
    /// `None` while the server is being evacuated, or was a moment ago and had to keep clients.
    pub(super) fn begin(state: &Arc<Mutex<State>>, server: ServerId, now: Instant) -> Option<Self> {
        let may_begin = {
            let mut state = lock(state);
            state.evacuated_again_at.retain(|_, at| now < *at);
            !state.evacuated_again_at.contains_key(&server) && state.evacuated.insert(server)
        };
        may_begin.then(|| Self { state: Arc::clone(state), server })
    }

    /// Lasts as long as `work`.
    pub(super) async fn lasts(self, work: impl Future<Output = ()>) {
        work.await;
    }
}

/// Also where its task panics or is dropped: else the server is not evacuated again, and nothing is balanced any more.
impl Drop for Evacuation {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.evacuated.remove(&self.server);
        state.emptied.insert(self.server);
    }
}

/// That the clients of a server are being moved away, for who looks, until this is dropped.
struct Shown {
    state: Arc<Mutex<State>>,
    server: ServerId,
}

impl Shown {
    fn new(state: &Arc<Mutex<State>>, emptying: Emptying) -> Self {
        let server = emptying.server.id();
        lock(state).emptying.push(emptying);
        Self { state: Arc::clone(state), server }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        lock(&self.state).emptying.retain(|one| one.server.id() != self.server);
    }
}

impl Mover {
    /// Moves the clients of a server to the others within this time: at the pace at which the cluster takes them, or
    /// faster where that takes too long. Those for whom there is no room in time stay on a server that shuts down,
    /// since there they are at least connected; the sessions of one that is drained end at the end of the time.
    pub async fn evacuate(&self, server: &Arc<Server>, cause: MoveCause, within: Duration) {
        let began = Instant::now();
        let until = began + within;
        let sessions = server.load().sessions();
        let _shown = Shown::new(&self.0.state, Emptying { server: Arc::clone(server), cause, sessions, until });
        while self.is_occupied(server, cause) {
            let now = Instant::now();
            let time = until.saturating_duration_since(now).mul_f64(PART);
            if time.is_zero() {
                break;
            }
            let of_server = |other: &Server| match other.id() == server.id() {
                true => Role::Leaves,
                false => role(other, now),
            };
            let id = server.id();
            let census = Census::take(self.shared(), of_server, |session| session.server_id() == id).await;
            // Only this server gives.
            let plan = plan(&census.now, f64::INFINITY);
            if plan.clients() > 0 {
                let rate = self.pace(now).max(f64::from(plan.clients()) / time.as_secs_f64());
                let mut run = Run::new(&plan, census.candidates, rate, Manner::Evacuation, now);
                let with_run = |step: &mut dyn FnMut(&mut Run) -> Step| step(&mut run);
                let go = || match Instant::now() >= until {
                    true => Go::Stop("the time is over".to_owned()),
                    false if !self.goes_on(server, cause) => Go::Stop("it gets clients again".to_owned()),
                    false => Go::On,
                };
                self.carry_out(&census.servers, cause, Some(until), with_run, go).await;
            } else if cause == MoveCause::Drain && census.candidates.is_empty() || !has_room(&census) {
                break;
            }
            sleep(PLAN_AGAIN.min(until.saturating_duration_since(Instant::now()))).await;
        }
        let left = server.load().sessions();
        if cause == MoveCause::Drain {
            self.end_the_rest(server, until).await;
        } else if left > 0 {
            self.state().evacuated_again_at.insert(server.id(), Instant::now() + AGAIN_AFTER);
        }
        let took = began.elapsed();
        info!(server = server.name(), cause = cause.name(), sessions, left, ?took, "clients have been moved away");
    }

    /// Moves the clients of these connections of a server to the others within this time: as if it shut down, but
    /// nobody else goes, and it gets clients as before. Those for whom there is no room in time stay.
    pub(super) async fn move_away(&self, server: &Arc<Server>, connections: &HashSet<u64>, within: Duration) {
        let until = Instant::now() + within;
        while Instant::now() < until {
            let (now, id) = (Instant::now(), server.id());
            let of_server = |other: &Server| if other.id() == id { Role::Leaves } else { role(other, now) };
            let is_told = |session: &SessionHandle| {
                let at = session.at();
                at.server_id() == id && connections.contains(&at.client_id)
            };
            let census = Census::take(self.shared(), of_server, is_told).await;
            if census.candidates.is_empty() {
                return;
            }
            let plan = plan(&census.now, f64::INFINITY);
            if plan.clients() > 0 {
                let mut run = Run::new(&plan, census.candidates, self.pace(now), Manner::Evacuation, now);
                let with_run = |step: &mut dyn FnMut(&mut Run) -> Step| step(&mut run);
                let is_over = || Instant::now() >= until;
                let go = || if is_over() { Go::Stop("the time is over".to_owned()) } else { Go::On };
                self.carry_out(&census.servers, MoveCause::LameDuck, Some(until), with_run, go).await;
            } else if !has_room(&census) {
                return;
            }
            sleep(PLAN_AGAIN).await;
        }
    }

    fn is_occupied(&self, server: &Server, cause: MoveCause) -> bool {
        server.load().sessions() > 0 && self.goes_on(server, cause)
    }

    /// Whether the server is still to be emptied.
    fn goes_on(&self, server: &Server, cause: MoveCause) -> bool {
        match cause {
            MoveCause::LameDuck => server.is_lame_duck(Instant::now()),
            _ => server.is_draining(),
        }
    }

    /// Ends the sessions for which no slot could be kept, spread over what is left of the time.
    async fn end_the_rest(&self, server: &Arc<Server>, until: Instant) {
        let mut handles = self.shared().sessions.handles_of(server.id());
        handles.retain(|session| session.end_requested().is_none());
        worker::with_rng(|rng| rng.shuffle(&mut handles));
        let (began, count) = (Instant::now(), u32::try_from(handles.len()).unwrap_or(u32::MAX).max(1));
        let each = Duration::from_secs_f64(1.0 / self.pace(began)).min(until.saturating_duration_since(began) / count);
        for (n, handle) in (0_u32..).zip(handles) {
            sleep_until((began + each * n).into()).await;
            if handle.end(MoveCause::Drain.of_close()) {
                self.shared().counters.moved(MoveCause::Drain, MoveResult::Unreserved);
            }
        }
    }
}

/// Whether any server could take a client.
fn has_room(census: &Census) -> bool {
    census.now.iter().any(|one| one.role == Role::Shares && one.others + one.sessions < one.ceiling)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::upstream::{Params, ServerParams, Servers};

    #[tokio::test]
    async fn an_evacuation_that_ends_in_any_way_lets_the_next_one_begin() {
        let server = ServerParams { name: Some("n1".into()), ..ServerParams::bare("n1:4222") };
        let server = Servers::new(&Params::bare(vec![server])).iter().next().unwrap().id();
        let state = Arc::<Mutex<State>>::default();
        let now = Instant::now();
        let begin = || Evacuation::begin(&state, server, now).expect("none is under way");
        let is_over = || {
            let mut state = lock(&state);
            // What it has moved before counts: the server gets it back.
            state.evacuated.is_empty() && state.emptied.remove(&server)
        };

        begin().lasts(async {}).await;
        assert!(is_over(), "it is done");

        let panics = tokio::spawn(begin().lasts(async { panic!("it panics") }));
        assert!(panics.await.unwrap_err().is_panic());
        assert!(is_over(), "it has panicked");

        drop(begin().lasts(pending()));
        assert!(is_over(), "its task has been dropped before it began");

        let task = tokio::spawn(begin().lasts(pending()));
        tokio::task::yield_now().await;
        assert!(Evacuation::begin(&state, server, now).is_none(), "one is under way");
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(is_over(), "its task has been dropped on its way");

        lock(&state).evacuated_again_at.insert(server, now + AGAIN_AFTER);
        assert!(Evacuation::begin(&state, server, now).is_none(), "there was no room a moment ago");
        assert!(Evacuation::begin(&state, server, now + AGAIN_AFTER).is_some());
    }
}
