//! The clock that sessions wait by: it ticks while anybody waits, and wakes all whose moment has come at once.
//!
//! A timer of tokio's that is due before all others makes its thread write to its own eventfd, which ends the thread's next
//! sleep at once: with deadlines of seconds and moments drawn at random, that was one write for every second client. Here one
//! timer serves a whole worker, and clients that are to be told something at random moments share a wake.

use std::{
    cell::Cell,
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

/// Nobody is woken before its moment, nor much later than this after it.
pub const TICK: Duration = Duration::from_millis(10);

thread_local! {
    static CLOCK: Arc<Clock> = Arc::default();
    static LATE: Cell<Duration> = const { Cell::new(LATE_AT_FIRST) };
}

/// How late a thread is taken to be when it begins to tick: what storms begin with is seen when they have begun.
const LATE_AT_FIRST: Duration = TICK;
/// A tick's share in what its thread is taken to be late.
const SMOOTHING: u32 = 8;
/// tokio's timers round up to this.
const ROUNDING: Duration = Duration::from_millis(1);

/// How late whatever this thread waits for is noticed at the moment, smoothed over eight ticks: because it is busy with something else,
/// or waits for a core itself.
pub fn late() -> Duration {
    LATE.get()
}

fn was_late(late: Duration) {
    LATE.set((LATE.get() * (SMOOTHING - 1) + late.saturating_sub(ROUNDING)) / SMOOTHING);
}

/// A thread's.
#[derive(Default)]
struct Clock {
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    /// By the end of the wait, and a number that does not come twice on any thread.
    all: BTreeMap<Key, Waker>,
    /// Whether a task ticks.
    ticks: bool,
}

type Key = (Instant, u64);

impl Clock {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait until a moment.
#[derive(Debug)]
#[must_use]
pub struct Sleep {
    until: Instant,
    key: Option<Key>,
}

/// Waits until `until`, and up to a tick longer. Nothing is allocated before the first poll that finds it in the future.
pub fn sleep_until(until: Instant) -> Sleep {
    Sleep { until, key: None }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        CLOCK.with(|clock| {
            // Dropped after the lock: it may be the last of its task.
            let _replaced;
            let mut waits = clock.waits();
            if let Some(waker) = self.key.and_then(|key| waits.all.get_mut(&key)) {
                if !waker.will_wake(cx.waker()) {
                    _replaced = std::mem::replace(waker, cx.waker().clone());
                }
                return Poll::Pending;
            }
            if Instant::now() >= self.until {
                self.key = None;
                return Poll::Ready(());
            }
            let key = (self.until, NEXT.fetch_add(1, Relaxed));
            waits.all.insert(key, cx.waker().clone());
            self.key = Some(key);
            if !std::mem::replace(&mut waits.ticks, true) {
                tokio::spawn(tick(Ticking(Arc::clone(clock))));
            }
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // Where the thread has ended there is nobody left to wake.
            let _waker = CLOCK.try_with(|clock| clock.waits().all.remove(&key));
        }
    }
}

/// The time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLate;

/// Waits for `work` until `deadline`, and up to a tick longer. Work that can end at once does, whatever the time.
///
/// # Errors
/// [`TooLate`]; the work is as it was left.
pub async fn timeout_at<F: Future + Unpin>(deadline: Instant, mut work: F) -> Result<F::Output, TooLate> {
    let mut sleep = sleep_until(deadline);
    std::future::poll_fn(|cx| match Pin::new(&mut work).poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(TooLate)),
    })
    .await
}

/// The right to tick. A runtime that stops drops the task that has it; the thread's next one begins anew.
struct Ticking(Arc<Clock>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.waits().ticks = false;
    }
}

/// Ticks until nobody waits.
async fn tick(ticking: Ticking) {
    let clock = &ticking.0;
    let mut due = Vec::new();
    LATE.set(LATE_AT_FIRST);
    loop {
        let next = Instant::now() + TICK;
        tokio::time::sleep_until(next).await;
        {
            let mut waits = clock.waits();
            let now = Instant::now();
            was_late(now.saturating_duration_since(next));
            while let Some(first) = waits.all.first_entry().filter(|first| first.key().0 <= now) {
                due.push(first.remove());
            }
            if due.is_empty() && waits.all.is_empty() {
                return;
            }
        }
        due.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use super::*;

    fn waiting() -> usize {
        CLOCK.with(|clock| clock.waits().all.len())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_woken_early_nor_much_too_late() {
        let began = Instant::now();
        let waits = [0, 1, 9, 10, 11, 25, 1000, 3000].map(|ms| {
            let until = began + Duration::from_millis(ms);
            tokio::spawn(async move {
                sleep_until(until).await;
                Instant::now() - until
            })
        });
        for wait in waits {
            // tokio's own timers round up to a millisecond.
            assert!(wait.await.unwrap() <= TICK + Duration::from_millis(2));
        }
        assert_eq!(waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_done_in_time_leaves_nothing_behind() {
        let soon = Instant::now() + Duration::from_millis(50);
        let quick = pin!(sleep_until(soon));
        assert_eq!(timeout_at(soon + Duration::from_secs(5), quick).await, Ok(()));
        assert_eq!(waiting(), 0);
        assert_eq!(timeout_at(soon, std::future::ready(7)).await, Ok(7), "done although it is late");
        assert_eq!(timeout_at(Instant::now() + TICK, pending::<()>()).await, Err(TooLate));
        assert_eq!(waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_knows_how_late_it_is() {
        sleep_until(Instant::now() + 30 * TICK).await;
        let on_time = late();
        assert!(on_time < Duration::from_millis(1), "{on_time:?}");
        for _ in 0..30 {
            was_late(Duration::from_millis(26));
        }
        assert!(late() > Duration::from_millis(20), "{:?}", late());
        tokio::time::sleep(2 * TICK).await;
        sleep_until(Instant::now() + TICK).await;
        assert!(late() > on_time, "what it was long ago says nothing: it begins anew");
    }

    #[test]
    fn a_clock_whose_runtime_has_stopped_ticks_on_the_next() {
        let wait = |wait: Duration| async move {
            let until = Instant::now() + wait;
            timeout_at(until, pending::<()>()).await
        };
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.spawn(wait(Duration::from_secs(3600)));
            assert_eq!(runtime.block_on(wait(TICK)), Err(TooLate));
        }
        assert_eq!(waiting(), 0);
    }
}
