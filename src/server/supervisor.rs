//! Starts the tasks that live as long as the process, and starts one again that has panicked: no such task ends
//! silently (docs/contract.md, towards operators 6).

use std::{future::Future, time::Duration};

use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

/// A task that has panicked waits this long before it is started again, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The long-lived tasks of one runtime.
#[derive(Debug, Clone)]
pub struct Supervisor {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Supervisor {
    /// Its tasks end once `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { tasks: TaskTracker::new(), stop }
    }

    /// A supervisor of tasks that end with those of this one, or sooner: when it is told to [`stop`](Self::stop).
    pub fn child(&self) -> Self {
        Self { tasks: self.tasks.clone(), stop: self.stop.child_token() }
    }

    /// Ends its tasks, and those of its children.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// A supervisor of tasks that end once `stop` is cancelled, which is so no later than that of this one. This one
    /// waits for them.
    pub fn until(&self, stop: CancellationToken) -> Self {
        Self { tasks: self.tasks.clone(), stop }
    }

    /// Starts a task on the runtime of the caller. `start` makes its future anew each time: what must outlast a panic
    /// belongs to the closure.
    pub fn spawn<F>(&self, name: &'static str, mut start: impl FnMut(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let task = tokio::spawn(with_test_panic(name, start(stop.child_token())));
                match task.await {
                    Ok(()) if stop.is_cancelled() => return,
                    Ok(()) => error!(task = name, ?pause, "a task ended before weir did; it is started again"),
                    // The runtime shuts down.
                    Err(err) if err.is_cancelled() => return,
                    Err(_) => error!(task = name, ?pause, "a task has panicked; it is started again"),
                }
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stop.cancelled() => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Waits until all tasks have ended. They do so once they are told to stop.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Debug builds only: makes the tasks that this environment variable names panic, separated by commas, each once and
/// some time after it has started; `session` is the first session. For the tests of what a panic leaves behind.
#[cfg(debug_assertions)]
const TEST_PANIC_VARIABLE: &str = "WEIR_TEST_PANIC";

/// Does a task, and panics in it where a test wants that.
#[cfg(debug_assertions)]
pub async fn with_test_panic(name: &'static str, task: impl Future<Output = ()>) {
    use std::{collections::HashSet, future::pending, sync::Mutex};

    static DONE: Mutex<Option<HashSet<&str>>> = Mutex::new(None);

    let panics = async {
        let named = std::env::var(TEST_PANIC_VARIABLE).unwrap_or_default();
        if !named.split(',').any(|one| one == name) {
            pending::<()>().await;
        }
        sleep(Duration::from_millis(300)).await;
        let first = DONE.lock().is_ok_and(|mut done| done.get_or_insert_default().insert(name));
        assert!(!first, "a test wants {name} to panic");
        pending::<()>().await;
    };
    tokio::select! {
        () = task => {}
        () = panics => {}
    }
}

#[cfg(not(debug_assertions))]
async fn with_test_panic(_: &'static str, task: impl Future<Output = ()>) {
    task.await;
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_until_weir_stops() {
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(stop.clone());
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        supervisor.spawn("test", move |stop| {
            let n = counted.fetch_add(1, Relaxed);
            async move {
                assert!(n > 2, "attempt {n}");
                stop.cancelled().await;
            }
        });
        while starts.load(Relaxed) < 4 {
            sleep(Duration::from_millis(50)).await;
        }
        stop.cancel();
        supervisor.ended().await;
        assert_eq!(starts.load(Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_to_be_started_again_ends_with_weir() {
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(stop.clone());
        supervisor.spawn("test", |_| async { panic!("always") });
        sleep(Duration::from_secs(60)).await;
        stop.cancel();
        supervisor.ended().await;
    }
}
