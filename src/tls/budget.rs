//! What handshakes may take of a worker: one step of one handshake at a time, and only when nothing else is ready to run.
//!
//! A step (a signature, a key exchange, a client's certificate) keeps the worker for 0.1 to 1 ms, and an established session
//! waits behind one of them at most. Who waits is served in order: handshakes that have begun, then those that show a ticket,
//! then new ones, then those that end in a refusal anyway. A handshake that would come to its end too late, by what others
//! took of late, is not begun.
//!
//! Threads of their own for handshakes were not taken: with one worker per core they would compete with the workers for the same
//! cores, where the scheduler gives each of them slices of milliseconds; a step on the worker is a tenth of that, and ends.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, task::yield_now, time::Instant};

use crate::{
    net::timer::{sleep_until, timeout_at},
    worker,
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
/// How long first steps are counted to know how many of them there are in a second. A worker that has just accepted a thousand clients
/// serves few of them at first; that says nothing of the next moment.
const COUNTED_FOR: Duration = Duration::from_millis(50);
/// A turn that would come after this many times the time there is will not come.
const BEYOND_HOPE: u32 = 2;

/// The turns of one worker.
#[derive(Debug, Default)]
pub struct Budget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A step is under way.
    taken: bool,
    waiting: [VecDeque<oneshot::Sender<Turn>>; 4],
    passed: u32,
    pace: Pace,
    took: Took,
}

/// From one handshake's beginning to the next one's, while some wait.
#[derive(Debug, Default)]
struct Pace {
    /// Since when they are counted, and how many there were; `None` while nobody waits.
    counted: Option<(Instant, u32)>,
    /// In the last two times, the newer first.
    each: [Duration; 2],
}

impl Pace {
    /// One begins.
    fn begins(&mut self, now: Instant) {
        let (since, count) = self.counted.get_or_insert((now, 0));
        *count += 1;
        let elapsed = now.saturating_duration_since(*since);
        if elapsed >= COUNTED_FOR {
            self.each = [elapsed / *count, self.each[0]];
            self.counted = Some((now, 0));
        }
    }

    /// The better of what is known.
    fn each(&self) -> Duration {
        self.each[0].min(self.each[1])
    }
}

/// From the first step of a handshake to its end, the client's part and the way to it included: smoothed, and how far it strays.
#[derive(Debug, Default)]
struct Took {
    mean: Duration,
    strays: Duration,
}

impl Took {
    fn note(&mut self, took: Duration) {
        let off = took.abs_diff(self.mean);
        self.mean = (self.mean * 7 + took) / 8;
        self.strays = (self.strays * 3 + off) / 4;
    }

    /// Hardly any takes longer.
    fn at_most(&self) -> Duration {
        self.mean + self.strays * 2
    }
}

impl State {
    /// Whose turn it is, and whether a handshake begins with it.
    fn next(&mut self) -> Option<(oneshot::Sender<Turn>, bool)> {
        let [begun, resumes, new, refused] = &mut self.waiting;
        if let Some(next) = begun.pop_front() {
            return Some((next, false));
        }
        if (self.passed < PASS_IN_A_ROW || new.is_empty())
            && let Some(next) = resumes.pop_front()
        {
            self.passed += 1;
            return Some((next, true));
        }
        self.passed = 0;
        new.pop_front().or_else(|| refused.pop_front()).map(|next| (next, true))
    }

    /// How long one of this kind would wait.
    fn wait(&self, kind: Kind) -> Duration {
        let ahead: usize = self.waiting[Kind::Resumes as usize..=kind as usize].iter().map(VecDeque::len).sum();
        self.pace.each().saturating_mul(u32::try_from(ahead + 1).unwrap_or(u32::MAX))
    }
}

/// The right to compute one step; the next one's turn comes when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    budget: Option<Arc<Budget>>,
}

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the queue, or takes the turn at once. `None`: it would not come by then, nor by so many times the time until then.
    fn enter(self: &Arc<Self>, kind: Kind, by: Instant, times: u32) -> Option<Result<Turn, oneshot::Receiver<Turn>>> {
        let mut state = self.state();
        if !state.taken {
            state.taken = true;
            return Some(Ok(Turn { budget: Some(Arc::clone(self)) }));
        }
        let left = by.saturating_duration_since(Instant::now());
        if kind == Kind::Refused || (kind != Kind::Begun && state.wait(kind) > left * times) {
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
        loop {
            let mut state = budget.state();
            let Some((next, begins)) = state.next() else {
                state.taken = false;
                state.pace.counted = None;
                return;
            };
            drop(state);
            match next.send(Turn { budget: Some(Arc::clone(&budget)) }) {
                Ok(()) => {
                    if begins {
                        budget.state().pace.begins(Instant::now());
                    }
                    return;
                }
                // It has left: the turn is passed on here, not by the drop of what was to be sent.
                Err(mut unclaimed) => unclaimed.budget = None,
            }
        }
    }
}

/// Waits for a turn on this worker. `None`: it does not come `by` then.
pub(super) async fn turn(kind: Kind, by: Instant) -> Option<Turn> {
    let budget = worker::with(|local| Arc::clone(&local.tls_budget));
    let mut entered = budget.enter(kind, by, BEYOND_HOPE);
    if entered.is_none() && kind != Kind::Refused {
        // There is no hope now. Those who are sent away leave at random moments, so that they come back spread out; and in
        // the meantime there may be hope again.
        let now = Instant::now();
        sleep_until(now + by.saturating_duration_since(now).mul_f64(worker::with_rng(fastrand::Rng::f64))).await;
        entered = budget.enter(kind, by, 1);
    }
    let turn = match entered? {
        Ok(turn) => turn,
        Err(comes) => timeout_at(by, comes).await.ok()?.ok()?,
    };
    // A task that yields runs again once everything that was ready has run and the sockets have been asked for more.
    yield_now().await;
    Some(turn)
}

/// When a handshake has to begin on this worker to be at its end `by` then. What others took is believed up to a third of the time:
/// a storm that is over says little of the next.
pub(super) fn begin_by(by: Instant) -> Instant {
    let took = worker::with(|local| local.tls_budget.state().took.at_most());
    by - took.min(by.saturating_duration_since(Instant::now()) / 3)
}

/// A handshake on this worker took so long, its first step included.
pub(super) fn took(time: Duration) {
    worker::with(|local| local.tls_budget.state().took.note(time));
}

/// How many wait on this worker.
#[cfg(test)]
fn waiting() -> usize {
    worker::with(|local| local.tls_budget.state().waiting.iter().map(VecDeque::len).sum())
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
        // Turns take two and a half seconds each.
        worker::with(|local| local.tls_budget.state().pace.each = [Duration::from_millis(2500); 2]);
        let waits = tokio::spawn(turn(Kind::New, later(9)));
        settle().await;
        let began = Instant::now();
        assert!(turn(Kind::New, later(1)).await.is_none());
        assert!(began.elapsed() < Duration::from_secs(1) + 2 * crate::net::timer::TICK);
        drop(first);
        assert!(waits.await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_moment_does_not_take_hope() {
        let mut pace = Pace::default();
        let begin = |n: u32, pace: &mut Pace| (0..n).for_each(|_| pace.begins(Instant::now()));
        begin(1, &mut pace);
        tokio::time::advance(Duration::from_millis(50)).await;
        begin(1, &mut pace);
        assert_eq!(pace.each(), Duration::ZERO, "as long as little is known, there is hope");
        tokio::time::advance(Duration::from_millis(50)).await;
        begin(1, &mut pace);
        assert_eq!(pace.each(), Duration::from_millis(25));
        tokio::time::advance(Duration::from_secs(2)).await;
        begin(1, &mut pace);
        assert_eq!(pace.each(), Duration::from_millis(50));
        tokio::time::advance(Duration::from_secs(2)).await;
        begin(1, &mut pace);
        assert_eq!(pace.each(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_begin_so_much_earlier_as_others_took() {
        let by = later(3);
        assert_eq!(begin_by(by), by);
        (0..100).for_each(|_| took(Duration::from_millis(800)));
        let early = by - begin_by(by);
        assert!((Duration::from_millis(790)..Duration::from_millis(810)).contains(&early), "{early:?}");
        (0..100).for_each(|_| took(Duration::from_secs(60)));
        assert_eq!(begin_by(by), by - Duration::from_secs(1));
    }
}
