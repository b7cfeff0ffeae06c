//! Finds the sessions that have lived for a second or more: only those get keepalive and user timeout towards their
//! server, since that takes five system calls and many sessions end sooner. One look a second per worker replaces a
//! timer per session.

use std::{
    cell::{Cell, RefCell},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{task::yield_now, time::sleep};

use crate::{net::socket::TcpTimeouts, relay::registry::SessionHandle, worker};

/// The time between two looks. A session gets keepalive after at least this, and at most twice as long.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Sessions that are woken before the worker's other tasks run.
const AT_ONCE: usize = 64;

/// The sessions of one worker that do not have keepalive yet, and what they get.
#[derive(Debug, Default)]
pub struct LateKeepalive {
    waiting: RefCell<Waiting>,
    timeouts: Cell<TcpTimeouts>,
}

impl worker::State for LateKeepalive {
    const PLACE: worker::Place = worker::Place::LateKeepalive;
}

#[derive(Debug, Default)]
struct Waiting {
    since_last_look: Vec<Arc<SessionHandle>>,
    before_last_look: Vec<Arc<SessionHandle>>,
}

impl LateKeepalive {
    /// A session has begun. Where there is nothing to set it is not woken later.
    pub fn register(&self, handle: &Arc<SessionHandle>) {
        if !self.timeouts().is_off() {
            self.waiting.borrow_mut().since_last_look.push(Arc::clone(handle));
        }
    }

    /// What a session sets that is asked for keepalive.
    pub fn timeouts(&self) -> TcpTimeouts {
        self.timeouts.get()
    }

    /// The sessions that were there at the last look already. They are not kept here any longer.
    fn look(&self) -> Vec<Arc<SessionHandle>> {
        let Waiting { since_last_look, before_last_look } = &mut *self.waiting.borrow_mut();
        mem::replace(before_last_look, mem::take(since_last_look))
    }
}

/// Sets what connections to servers get on this worker, before it has any session.
pub fn set_timeouts_of_servers(timeouts: TcpTimeouts) {
    worker::with(|late: &LateKeepalive| late.timeouts.set(timeouts));
}

/// Asks the sessions of this worker for keepalive, each at its time. Runs as long as the worker.
pub async fn request_keepalive() {
    loop {
        sleep(LOOK_INTERVAL).await;
        for some in worker::with(LateKeepalive::look).chunks(AT_ONCE) {
            some.iter().for_each(|handle| handle.request_keepalive());
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_gets_keepalive_at_the_second_look() {
        let (late_keepalive, handle) = (LateKeepalive::default(), Arc::<SessionHandle>::default());
        late_keepalive.register(&handle);
        assert!([(); 2].iter().all(|()| late_keepalive.look().is_empty()), "there is nothing to set");
        late_keepalive.timeouts.set(TcpTimeouts::of_seconds(60, 150));
        late_keepalive.register(&handle);
        assert!(late_keepalive.look().is_empty(), "it may have come a moment ago");
        let [due] = &late_keepalive.look()[..] else { panic!("one was there") };
        due.request_keepalive();
        assert!(handle.keepalive_requested() && handle.end_requested().is_none());
        assert!(late_keepalive.look().is_empty());
    }
}
