//! What handshakes may take of a worker: one step of one handshake at a time, and only when nothing else is ready to run.
//!
//! A step (a signature, a key exchange, a client's certificate) keeps the worker for 0.1 to 1 ms, and an established session
//! waits behind one of them at most. Who waits is served in order: handshakes that have begun, then those that show a ticket,
//! then new ones, then those that end in a refusal anyway. Whoever could not be served in time is told so before anything is
//! computed for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep_until, timeout_at},
};

/// In the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Begun already: what was spent on it is not to be lost.
    Begun,
    /// Shows a ticket.
    Resumes,
    /// Has to compute everything.
    New,
    /// Will be refused: served only while nobody else waits.
    Refused,
}

/// So many with a ticket may pass a new one in a row: anybody can show a ticket that is none.
const PASS_IN_A_ROW: u32 = 8;

thread_local! {
    /// This worker's.
    static WORKER: Arc<Budget> = Arc::default();
}

/// The turns of one worker.
#[derive(Debug, Default)]
struct Budget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A step is under way.
    taken: bool,
    waiting: [VecDeque<oneshot::Sender<Turn>>; 4],
    passed: u32,
    /// From turn to turn while some wait, smoothed.
    pace: Duration,
}

impl State {
    /// Whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let [begun, resumes, new, refused] = &mut self.waiting;
        if let Some(next) = begun.pop_front() {
            return Some(next);
        }
        if (self.passed < PASS_IN_A_ROW || new.is_empty())
            && let Some(next) = resumes.pop_front()
        {
            self.passed += 1;
            return Some(next);
        }
        self.passed = 0;
        new.pop_front().or_else(|| refused.pop_front())
    }

    /// How long one of this kind would wait.
    fn wait(&self, kind: Kind) -> Duration {
        let ahead: usize = self.waiting[..=kind as usize].iter().map(VecDeque::len).sum();
        self.pace.saturating_mul(u32::try_from(ahead + 1).unwrap_or(u32::MAX))
    }
}

/// The right to compute one step; the next one's turn comes when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    budget: Option<Arc<Budget>>,
    began: Instant,
}

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the queue, or takes the turn at once. `None`: it would not come by then.
    fn enter(self: &Arc<Self>, kind: Kind, by: Instant) -> Option<Result<Turn, oneshot::Receiver<Turn>>> {
        let mut state = self.state();
        if !state.taken {
            state.taken = true;
            return Some(Ok(Turn { budget: Some(Arc::clone(self)), began: Instant::now() }));
        }
        if kind == Kind::Refused || (kind != Kind::Begun && Instant::now() + state.wait(kind) > by) {
            return None;
        }
        let (turn, comes) = oneshot::channel();
        state.waiting[kind as usize].push_back(turn);
        Some(Err(comes))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(budget) = self.budget.take() else { return };
        let mut began = self.began;
        loop {
            let mut state = budget.state();
            let Some(next) = state.next() else {
                state.taken = false;
                return;
            };
            let now = Instant::now();
            // A worker that stood still for a moment says nothing of the next turns.
            let took = now.saturating_duration_since(began).min(Duration::from_millis(50));
            state.pace = if state.pace.is_zero() { took } else { (state.pace * 7 + took) / 8 };
            drop(state);
            began = now;
            match next.send(Turn { budget: Some(Arc::clone(&budget)), began }) {
                Ok(()) => return,
                // It has left: the turn is passed on here, not by the drop of what was to be sent.
                Err(mut unclaimed) => unclaimed.budget = None,
            }
        }
    }
}

/// Waits for a turn on this worker. `None`: it does not come `by` then.
pub(super) async fn turn(kind: Kind, by: Instant) -> Option<Turn> {
    let budget = WORKER.with(Arc::clone);
    let mut entered = budget.enter(kind, by);
    if entered.is_none() && kind != Kind::Refused {
        // There is no hope now. Those who are sent away leave at random moments, so that they come back spread out; and in
        // the meantime there may be hope again.
        let now = Instant::now();
        sleep_until(now + by.saturating_duration_since(now).mul_f64(fastrand::f64())).await;
        entered = budget.enter(kind, by);
    }
    let turn = match entered? {
        Ok(turn) => turn,
        Err(comes) => timeout_at(by, comes).await.ok()?.ok()?,
    };
    // A task that yields runs again once everything that was ready has run and the sockets have been asked for more.
    yield_now().await;
    Some(turn)
}

/// How many wait on this worker.
#[cfg(test)]
fn waiting() -> usize {
    WORKER.with(|budget| budget.state().waiting.iter().map(VecDeque::len).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    /// Lets everybody run who is ready.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_at_a_time_and_tickets_first() {
        let first = turn(Kind::New, later(9)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (name, kind) in [("new", Kind::New), ("ticket", Kind::Resumes), ("begun", Kind::Begun)] {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                let _turn = turn(kind, later(9)).await.unwrap();
                order.lock().unwrap().push(name);
            });
            settle().await;
        }
        assert!(order.lock().unwrap().is_empty());
        assert!(turn(Kind::Refused, later(9)).await.is_none());
        drop(first);
        settle().await;
        assert_eq!(*order.lock().unwrap(), ["begun", "ticket", "new"]);
        assert!(turn(Kind::Refused, later(9)).await.is_some());
    }

    #[tokio::test]
    async fn new_ones_are_not_passed_for_ever() {
        let first = turn(Kind::New, later(9)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        for n in 0..30 {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                let kind = if n == 0 { Kind::New } else { Kind::Resumes };
                let _turn = turn(kind, later(9)).await.unwrap();
                order.lock().unwrap().push(n);
            });
        }
        settle().await;
        drop(first);
        while order.lock().unwrap().len() < 30 {
            yield_now().await;
        }
        assert_eq!(order.lock().unwrap().iter().position(|&n| n == 0), Some(PASS_IN_A_ROW as usize));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_or_is_too_late_costs_nobody_his_turn() {
        let first = turn(Kind::New, later(9)).await.unwrap();
        let left = tokio::spawn(turn(Kind::New, later(9)));
        settle().await;
        left.abort();
        assert!(turn(Kind::New, later(1)).await.is_none(), "the turn was never free");
        let last = tokio::spawn(turn(Kind::New, later(9)));
        settle().await;
        drop(first);
        assert!(last.await.unwrap().is_some());
        settle().await;
        assert_eq!(waiting(), 0);
        assert!(turn(Kind::Refused, later(9)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn without_hope_nobody_waits_to_the_end() {
        let first = turn(Kind::New, later(9)).await.unwrap();
        // Turns take a second each.
        WORKER.with(|budget| budget.state().pace = Duration::from_secs(1));
        let waits = tokio::spawn(turn(Kind::New, later(9)));
        settle().await;
        let began = Instant::now();
        assert!(turn(Kind::New, later(1)).await.is_none());
        assert!(began.elapsed() < Duration::from_secs(1));
        drop(first);
        assert!(waits.await.unwrap().is_some());
    }
}
