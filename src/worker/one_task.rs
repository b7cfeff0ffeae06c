//! A background task of which a worker has at most one at a time.

use std::{cell::RefCell, future::Future};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::AbortHandle,
};

/// Starts a task when there is work for it. The task ends by itself when it has nothing left to do.
#[derive(Debug, Default)]
pub struct OneTask(RefCell<Option<AbortHandle>>);

impl OneTask {
    /// Starts `task` unless one is running. A task whose runtime has stopped is finished, so a thread's next runtime
    /// starts another.
    ///
    /// # Panics
    /// On a runtime with several threads: what a worker has belongs to its thread, and a task that another thread goes
    /// on with, or drops, would find the state of that one.
    pub fn ensure_running<F>(&self, task: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.0.borrow_mut();
        if running.as_ref().is_none_or(AbortHandle::is_finished) {
            let flavor = Handle::current().runtime_flavor();
            assert_eq!(flavor, RuntimeFlavor::CurrentThread, "a worker has a runtime of one thread");
            *running = Some(tokio::spawn(task()).abort_handle());
        }
    }
}
