//! The timer that sessions wait by. It ticks every 10 ms while a session waits; a tick wakes all whose time has come.
//! Where few wait, and nobody's time comes soon, ticks are left out.
//!
//! tokio's own timer costs more here. When a new deadline is the earliest of all, tokio writes to the thread's own
//! eventfd, and that ends the thread's next sleep at once: with deadlines of seconds and random delays, it did so for
//! every second client. This timer keeps one deadline of tokio's for a whole worker, and clients that are due in the
//! same 10 ms share one wake.

mod wheel;

use std::{
    cell::{Cell, RefCell},
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, time::Instant};

use self::wheel::{Key, Wheel};
use crate::worker::{self, Lag, OneTask};

/// Nobody is woken before its time, nor much later than this after it.
pub use crate::worker::TICK;

/// The time as decisions take it. It follows tokio's clock, which a test may pause.
pub fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// While no more wait than this, ticks at which nobody is due are left out: one tick costs a sleep of the thread, which
/// clients that come one by one share with nobody.
const FEW: usize = 32;

/// The next look comes so many ticks later at most, since looks also measure the lag of the worker.
const MOST_TICKS: u64 = 10;

/// The timer of one worker.
#[derive(Debug, Default)]
pub struct Timer {
    /// `None` while nobody waits.
    waits: RefCell<Option<Wheel<Waker>>>,
    ticker: OneTask,
    /// When the ticker looks next, where it leaves ticks out before.
    next_look: Cell<Option<Instant>>,
    /// Wakes the ticker before that.
    look_now: Arc<Notify>,
}

impl Timer {
    /// Wakes the ticker where it would look too late: for one that waits until `until` and is the `len`th.
    fn look_in_time(&self, until: Instant, len: usize) {
        let Some(next) = self.next_look.get() else { return };
        if len > FEW || until + TICK < next {
            self.next_look.set(None);
            self.look_now.notify_one();
        }
    }
}

impl worker::State for Timer {
    const PLACE: worker::Place = worker::Place::Timer;
}

/// A wait until a given time, on the thread that polls it first: its entry is in the timer of that thread. All
/// runtimes of weir have one thread each; on another one the first wait panics ([`OneTask::ensure_running`]).
#[derive(Debug)]
#[must_use]
pub struct Sleep {
    until: Instant,
    /// The entry in the timer, once there is one.
    key: Option<Key>,
    /// A poll without an entry reads the clock, and is ready where `until` has passed. The first poll of a deadline
    /// does not read it: the next tick does.
    looks_first: bool,
}

/// Waits until `until`, and up to a tick longer. Allocates nothing before the first poll that finds it in the future.
pub fn sleep_until(until: Instant) -> Sleep {
    Sleep { until, key: None, looks_first: true }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Each number is given once, so a wait that ends on another thread finds nothing there.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        worker::with(|timer: &Timer| {
            // Dropped after the borrow ends: it may be the last reference to its task.
            let _replaced;
            let mut waits = timer.waits.borrow_mut();
            if let Some(waker) = self.key.and_then(|key| waits.as_mut()?.get_mut(key)) {
                if !waker.will_wake(cx.waker()) {
                    _replaced = std::mem::replace(waker, cx.waker().clone());
                }
                return Poll::Pending;
            }
            if self.looks_first && Instant::now() >= self.until {
                self.key = None;
                return Poll::Ready(());
            }
            self.looks_first = true;
            let waits = waits.get_or_insert_with(|| Wheel::new(Instant::now()));
            let number = NonZeroU64::MIN.saturating_add(NEXT.fetch_add(1, Relaxed));
            self.key = Some(waits.insert(self.until, number, cx.waker().clone()));
            timer.look_in_time(self.until, waits.len());
            timer.ticker.ensure_running(tick);
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let _waker = worker::with(|timer: &Timer| timer.waits.borrow_mut().as_mut()?.remove(key));
        }
    }
}

/// The deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLate;

/// Waits for `work` until `deadline`, and up to a tick longer. Work that is ready is never too late.
///
/// # Errors
/// [`TooLate`]; `work` is left as it was.
pub async fn timeout_at<F: Future + Unpin>(deadline: Instant, mut work: F) -> Result<F::Output, TooLate> {
    let mut sleep = Sleep { until: deadline, key: None, looks_first: false };
    std::future::poll_fn(|cx| match Pin::new(&mut work).poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(TooLate)),
    })
    .await
}

/// Polls all that wait by the timer of this worker, as if it were their time: there is something new to look at.
pub fn wake_all() {
    let all: Vec<_> =
        worker::with(|timer: &Timer| timer.waits.borrow().iter().flat_map(Wheel::values).cloned().collect());
    all.into_iter().for_each(Waker::wake);
}

/// Ticks until nobody waits, and measures how late each tick is.
async fn tick() {
    let mut due = Vec::new();
    let look_now = worker::with(|timer: &Timer| Arc::clone(&timer.look_now));
    worker::with_lag(Lag::reset);
    let mut last = Instant::now();
    let mut next = last + TICK;
    loop {
        let is_time = tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => true,
            () = look_now.notified() => false,
        };
        let now = Instant::now();
        if is_time {
            worker::with_lag(|lag| lag.note(now.saturating_duration_since(next), next.saturating_duration_since(last)));
        }
        let look = worker::with(|timer: &Timer| {
            timer.next_look.set(None);
            let mut waits = timer.waits.borrow_mut();
            let wheel = waits.as_mut()?;
            wheel.take_due(now, &mut due);
            let ticks = if due.is_empty() && wheel.len() <= FEW { MOST_TICKS } else { 1 };
            if is_time && due.is_empty() && wheel.is_empty() {
                *waits = None;
                return None;
            }
            let look = wheel.next_look(now, ticks);
            timer.next_look.set((look > now + TICK).then_some(look));
            Some(look)
        });
        let Some(look) = look else { return };
        (last, next) = (now, look);
        due.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin, time::Duration};

    use super::*;

    fn waiting() -> usize {
        worker::with(|timer: &Timer| timer.waits.borrow().iter().flat_map(Wheel::values).count())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_woken_early_nor_more_than_a_tick_late() {
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

    /// The first ones wait so long that ticks are left out; those of the second half come one by one, and are more than
    /// few in the end.
    #[tokio::test(start_paused = true)]
    async fn who_comes_while_ticks_are_left_out_is_woken_in_time_too() {
        let wait = |ms| {
            let until = Instant::now() + Duration::from_millis(ms);
            tokio::spawn(async move {
                sleep_until(until).await;
                Instant::now() - until
            })
        };
        let mut waits = vec![wait(3000), wait(5000)];
        for n in 0..2 * FEW as u64 {
            tokio::time::sleep(Duration::from_millis(37)).await;
            waits.extend([wait(n % 13), wait(30 + n), wait(4000 + n)]);
        }
        for wait in waits {
            let late = wait.await.unwrap();
            assert!(late <= TICK + Duration::from_millis(2), "{late:?}");
        }
        assert_eq!(waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_in_time_leaves_no_wait_behind() {
        let soon = Instant::now() + Duration::from_millis(50);
        let quick = pin!(sleep_until(soon));
        assert_eq!(timeout_at(soon + Duration::from_secs(5), quick).await, Ok(()));
        assert_eq!(waiting(), 0);
        assert_eq!(timeout_at(soon, std::future::ready(7)).await, Ok(7), "done although it is late");
        assert_eq!(timeout_at(Instant::now() + TICK, pending::<()>()).await, Err(TooLate));
        assert_eq!(waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_measure_the_lag_of_their_worker() {
        sleep_until(Instant::now() + 30 * TICK).await;
        let on_time = worker::lag();
        assert!(on_time < Duration::from_millis(1), "{on_time:?}");
        for _ in 0..30 {
            worker::with_lag(|lag| lag.note(Duration::from_millis(26), TICK));
        }
        assert!(worker::lag() > Duration::from_millis(20), "{:?}", worker::lag());
        tokio::time::sleep(2 * TICK).await;
        sleep_until(Instant::now() + TICK).await;
        assert!(worker::lag() > on_time, "a lag of long ago is forgotten");
    }

    /// There a task may go on on another thread, whose timer does not know its wait.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[should_panic(expected = "a worker has a runtime of one thread")]
    async fn nobody_waits_on_a_runtime_with_several_threads() {
        sleep_until(Instant::now() + TICK).await;
    }

    #[test]
    fn a_timer_whose_runtime_has_stopped_ticks_on_the_next() {
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
