//! The sessions that are relaying now, so that weir can end each of them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::Waker,
};

use dashmap::DashMap;

use crate::outcome::Cause;

/// How others reach one session.
#[derive(Debug, Default)]
pub struct SessionHandle {
    /// The position of the cause in [`Cause::ALL`], counted from 1; 0 while nobody has asked for the end.
    end_requested: AtomicU8,
    keepalive_requested: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl SessionHandle {
    /// Asks the session to end with a plain FIN, for this cause. The first cause counts.
    pub fn end(&self, cause: Cause) {
        let cause = u8::try_from(cause as usize).unwrap_or(u8::MAX).saturating_add(1);
        let _ = self.end_requested.compare_exchange(0, cause, Relaxed, Relaxed);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// Why the session is to end, if it is. One relaxed load: cheap enough for every poll of a relay.
    pub fn end_requested(&self) -> Option<Cause> {
        let at = self.end_requested.load(Relaxed).checked_sub(1)?;
        Cause::ALL.get(usize::from(at)).copied()
    }

    /// Asks the session to set keepalive on its connection to the server.
    pub fn request_keepalive(&self) {
        self.keepalive_requested.store(true, Relaxed);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    pub fn keepalive_requested(&self) -> bool {
        self.keepalive_requested.load(Relaxed)
    }

    /// Sets what to wake when there is something to tell. Once per session: a task keeps its waker.
    pub fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }
}

/// All sessions, by id.
#[derive(Debug, Default)]
pub struct SessionRegistry {
    map: DashMap<u64, Arc<SessionHandle>>,
}

/// A session's entry in the registry, which ends when this is dropped.
#[derive(Debug)]
pub struct Registration {
    sessions: Arc<SessionRegistry>,
    id: u64,
    handle: Arc<SessionHandle>,
}

impl Registration {
    pub fn handle(&self) -> &Arc<SessionHandle> {
        &self.handle
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.sessions.map.remove(&self.id);
        // A waker keeps the memory of its task allocated, and others may hold the handle for a while.
        *self.handle.waker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl SessionRegistry {
    pub fn register(self: &Arc<Self>, id: u64) -> Registration {
        let handle = Arc::<SessionHandle>::default();
        self.map.insert(id, Arc::clone(&handle));
        Registration { sessions: Arc::clone(self), id, handle }
    }

    /// The handles of all sessions there are at this moment.
    pub fn handles(&self) -> Vec<Arc<SessionHandle>> {
        self.map.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        task::{Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_session_is_woken_by_everything_it_is_told() {
        let (sessions, wakes) = (Arc::<SessionRegistry>::default(), Arc::<CountingWaker>::default());
        let registered = sessions.register(7);
        registered.handle().set_waker(&Waker::from(Arc::clone(&wakes)));
        registered.handle().request_keepalive();
        assert_eq!((wakes.0.load(Relaxed), registered.handle().keepalive_requested()), (1, true));
        assert_eq!(registered.handle().end_requested(), None);
        registered.handle().end(Cause::AccountQuota);
        registered.handle().end(Cause::Draining);
        assert_eq!((wakes.0.load(Relaxed), registered.handle().end_requested()), (2, Some(Cause::AccountQuota)));
    }

    #[test]
    fn every_cause_can_be_told() {
        for cause in Cause::ALL {
            let handle = SessionHandle::default();
            handle.end(cause);
            assert_eq!(handle.end_requested(), Some(cause));
        }
    }

    #[test]
    fn a_handle_that_outlives_its_session_holds_nothing_of_it() {
        let (sessions, wakes) = (Arc::<SessionRegistry>::default(), Arc::<CountingWaker>::default());
        let registered = sessions.register(7);
        registered.handle().set_waker(&Waker::from(Arc::clone(&wakes)));
        let handle = Arc::clone(registered.handle());
        drop(registered);
        assert_eq!((Arc::strong_count(&wakes), sessions.len()), (1, 0));
        handle.request_keepalive();
        handle.end(Cause::Draining);
        assert_eq!(wakes.0.load(Relaxed), 0);
    }
}
