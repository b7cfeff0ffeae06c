//! Limits what TLS handshakes take of a worker: one step of one handshake at a time, and only when no other task is
//! ready to run.
//!
//! A step (a signature, a key exchange, the check of a client's certificate) keeps the worker busy for 0.1 to 1 ms, and
//! an established session waits for one step at most. Waiting handshakes are served in this order: those that have
//! begun, those that show a ticket, new ones, and those of clients that will be refused anyway. A handshake that would
//! probably end too late, judged by how long others took, is not begun.
//!
//! Handshakes do not have threads of their own. With one worker per core those would compete with the workers for the
//! same cores, where the scheduler gives each thread slices of milliseconds; a step on the worker takes a tenth of
//! that, and ends.

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

/// Which handshake is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// It has begun, so the steps it has taken would be wasted.
    Begun,
    /// It shows a ticket, and so takes little.
    Resumes,
    New,
    /// Its client will be refused: served only while no other handshake waits.
    Refused,
}

/// The most handshakes with a ticket that pass a waiting new one in a row. A client can show a ticket that is not
/// valid.
const PASS_IN_A_ROW: u32 = 8;
/// How long the handshakes that begin are counted to measure the time from one to the next. A worker that has just
/// accepted a thousand clients begins few handshakes at first, which says nothing of the next moment.
const WINDOW: Duration = Duration::from_millis(50);
/// A handshake does not queue if it would wait this many times as long as it may.
const HOPELESS: u32 = 2;

/// The permits of one worker.
#[derive(Debug, Default)]
pub struct Budget {
    state: Mutex<State>,
}

/// The budget of this worker, which its handshakes share.
#[derive(Debug, Default)]
struct WorkerBudget(Arc<Budget>);

impl worker::State for WorkerBudget {
    const PLACE: worker::Place = worker::Place::TlsBudget;
}

#[derive(Debug, Default)]
struct State {
    /// A step is being computed.
    in_use: bool,
    waiting: [VecDeque<oneshot::Sender<StepPermit>>; 4],
    /// Handshakes with a ticket in a row that passed a new one.
    passed: u32,
    interval: BeginInterval,
    handshake_time: HandshakeTime,
}

/// The time from the beginning of one handshake to that of the next, while some wait.
#[derive(Debug, Default)]
struct BeginInterval {
    /// When the window began, and how many handshakes have begun since; `None` while none wait.
    window: Option<(Instant, u32)>,
    /// The average of each of the last two windows, the newer first.
    averages: [Duration; 2],
}

impl BeginInterval {
    /// A handshake begins.
    fn note(&mut self, now: Instant) {
        let (since, count) = self.window.get_or_insert((now, 0));
        *count += 1;
        let elapsed = now.saturating_duration_since(*since);
        if elapsed >= WINDOW {
            self.averages = [elapsed / *count, self.averages[0]];
            self.window = Some((now, 0));
        }
    }

    /// The shorter of the two averages: one slow window is no reason to send clients away.
    fn get(&self) -> Duration {
        self.averages[0].min(self.averages[1])
    }
}

/// The time from the first step of a handshake to its end, network and client included: average and deviation, smoothed
/// as TCP smooths round trips.
#[derive(Debug, Default)]
struct HandshakeTime {
    mean: Duration,
    deviation: Duration,
}

impl HandshakeTime {
    fn note(&mut self, took: Duration) {
        let off = took.abs_diff(self.mean);
        self.mean = (self.mean * 7 + took) / 8;
        self.deviation = (self.deviation * 3 + off) / 4;
    }

    /// A time that few handshakes exceed.
    fn upper_bound(&self) -> Duration {
        self.mean + self.deviation * 2
    }
}

impl State {
    /// Takes the next handshake out of the queue, and tells whether it begins with this step.
    fn next(&mut self) -> Option<(oneshot::Sender<StepPermit>, bool)> {
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

    /// How long a handshake of this priority would probably wait.
    fn wait(&self, priority: Priority) -> Duration {
        let ahead = &self.waiting[Priority::Resumes as usize..=priority as usize];
        let ahead: usize = ahead.iter().map(VecDeque::len).sum();
        self.interval.get().saturating_mul(u32::try_from(ahead + 1).unwrap_or(u32::MAX))
    }
}

/// The right to compute one step. Its drop passes it on to the next handshake.
#[derive(Debug)]
pub(super) struct StepPermit {
    budget: Option<Arc<Budget>>,
}

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the permit at once if it is free, else joins the queue. `None`: the probable wait is longer than `times`
    /// the time until `by`.
    fn enter(
        self: &Arc<Self>,
        priority: Priority,
        by: Instant,
        times: u32,
    ) -> Option<Result<StepPermit, oneshot::Receiver<StepPermit>>> {
        let mut state = self.state();
        if !state.in_use {
            state.in_use = true;
            return Some(Ok(StepPermit { budget: Some(Arc::clone(self)) }));
        }
        let left = by.saturating_duration_since(Instant::now());
        let may_be_refused = priority != Priority::Begun;
        if priority == Priority::Refused || (may_be_refused && state.wait(priority) > left * times) {
            return None;
        }
        let (permit, permitted) = oneshot::channel();
        state.waiting[priority as usize].push_back(permit);
        Some(Err(permitted))
    }
}

impl Drop for StepPermit {
    fn drop(&mut self) {
        let Some(budget) = self.budget.take() else { return };
        loop {
            let mut state = budget.state();
            let Some((next, begins)) = state.next() else {
                state.in_use = false;
                state.interval.window = None;
                return;
            };
            drop(state);
            match next.send(StepPermit { budget: Some(Arc::clone(&budget)) }) {
                Ok(()) => {
                    if begins {
                        budget.state().interval.note(Instant::now());
                    }
                    return;
                }
                // Its task is gone. The loop passes the permit on, so the drop of the unclaimed one must not.
                Err(mut unclaimed) => unclaimed.budget = None,
            }
        }
    }
}

/// Waits for the permit of this worker. `None`: it does not come by `by`.
pub(super) async fn permit(priority: Priority, by: Instant) -> Option<StepPermit> {
    let budget = worker::with(|WorkerBudget(budget)| Arc::clone(budget));
    let mut entered = budget.enter(priority, by, HOPELESS);
    if entered.is_none() && priority != Priority::Refused {
        // The queue is too long now. Clients that are sent away leave after random times, so that they come back spread
        // out, and the queue may be shorter when this one's time has come.
        let now = Instant::now();
        sleep_until(now + by.saturating_duration_since(now).mul_f64(worker::with_rng(fastrand::Rng::f64))).await;
        entered = budget.enter(priority, by, 1);
    }
    let permit = match entered? {
        Ok(permit) => permit,
        Err(permitted) => timeout_at(by, permitted).await.ok()?.ok()?,
    };
    // A task that yields runs again after all tasks that were ready have run and the runtime has polled the sockets.
    yield_now().await;
    Some(permit)
}

/// When a handshake has to begin on this worker to end by `by`. What others took counts up to a third of the time left:
/// the handshake times of an earlier storm say little about the next.
pub(super) fn latest_begin(by: Instant) -> Instant {
    let took = worker::with(|WorkerBudget(budget)| budget.state().handshake_time.upper_bound());
    by - took.min(by.saturating_duration_since(Instant::now()) / 3)
}

/// Records how long a handshake on this worker took, its first step included.
pub(super) fn note_handshake(took: Duration) {
    worker::with(|WorkerBudget(budget)| budget.state().handshake_time.note(took));
}

/// How many handshakes wait on this worker.
#[cfg(test)]
fn waiting() -> usize {
    worker::with(|WorkerBudget(budget)| budget.state().waiting.iter().map(VecDeque::len).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    /// Lets every ready task run.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_at_a_time_and_tickets_first() {
        let first = permit(Priority::New, later(9)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (name, priority) in [("new", Priority::New), ("ticket", Priority::Resumes), ("begun", Priority::Begun)] {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                let _permit = permit(priority, later(9)).await.unwrap();
                order.lock().unwrap().push(name);
            });
            settle().await;
        }
        assert!(order.lock().unwrap().is_empty());
        assert!(permit(Priority::Refused, later(9)).await.is_none());
        drop(first);
        settle().await;
        assert_eq!(*order.lock().unwrap(), ["begun", "ticket", "new"]);
        assert!(permit(Priority::Refused, later(9)).await.is_some());
    }

    #[tokio::test]
    async fn new_handshakes_are_not_passed_for_ever() {
        let first = permit(Priority::New, later(9)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        for n in 0..30 {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                let priority = if n == 0 { Priority::New } else { Priority::Resumes };
                let _permit = permit(priority, later(9)).await.unwrap();
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
    async fn a_client_that_leaves_or_is_too_late_costs_no_other_its_permit() {
        let first = permit(Priority::New, later(9)).await.unwrap();
        let left = tokio::spawn(permit(Priority::New, later(9)));
        settle().await;
        left.abort();
        assert!(permit(Priority::New, later(1)).await.is_none(), "the permit was never free");
        let last = tokio::spawn(permit(Priority::New, later(9)));
        settle().await;
        drop(first);
        assert!(last.await.unwrap().is_some());
        settle().await;
        assert_eq!(waiting(), 0);
        assert!(permit(Priority::Refused, later(9)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_hopeless_queue_nobody_waits_to_the_end() {
        let first = permit(Priority::New, later(9)).await.unwrap();
        // Handshakes begin every two and a half seconds.
        worker::with(|WorkerBudget(budget)| budget.state().interval.averages = [Duration::from_millis(2500); 2]);
        let waits = tokio::spawn(permit(Priority::New, later(9)));
        settle().await;
        let began = Instant::now();
        assert!(permit(Priority::New, later(1)).await.is_none());
        assert!(began.elapsed() < Duration::from_secs(1) + 2 * crate::net::timer::TICK);
        drop(first);
        assert!(waits.await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_window_sends_nobody_away() {
        let mut interval = BeginInterval::default();
        let begin = |n: u32, interval: &mut BeginInterval| (0..n).for_each(|_| interval.note(Instant::now()));
        begin(1, &mut interval);
        tokio::time::advance(Duration::from_millis(50)).await;
        begin(1, &mut interval);
        assert_eq!(interval.get(), Duration::ZERO, "before two windows are over, no wait is foretold");
        tokio::time::advance(Duration::from_millis(50)).await;
        begin(1, &mut interval);
        assert_eq!(interval.get(), Duration::from_millis(25));
        tokio::time::advance(Duration::from_secs(2)).await;
        begin(1, &mut interval);
        assert_eq!(interval.get(), Duration::from_millis(50));
        tokio::time::advance(Duration::from_secs(2)).await;
        begin(1, &mut interval);
        assert_eq!(interval.get(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_begin_earlier_by_the_time_that_others_took() {
        let by = later(3);
        assert_eq!(latest_begin(by), by);
        (0..100).for_each(|_| note_handshake(Duration::from_millis(800)));
        let early = by - latest_begin(by);
        assert!((Duration::from_millis(790)..Duration::from_millis(810)).contains(&early), "{early:?}");
        (0..100).for_each(|_| note_handshake(Duration::from_secs(60)));
        assert_eq!(latest_begin(by), by - Duration::from_secs(1));
    }
}
