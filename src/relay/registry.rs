//! The sessions that are relaying now, so that one can be told to end.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
};

use dashmap::DashMap;

/// The far end of one session.
#[derive(Debug, Default)]
pub struct Handle {
    told_to_end: AtomicBool,
    established: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Handle {
    /// Asks the session to end with a plain FIN.
    pub fn end(&self) {
        self.told_to_end.store(true, Relaxed);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// Whether the session was asked to end. One relaxed load: cheap enough for every poll of a relay.
    pub fn told_to_end(&self) -> bool {
        self.told_to_end.load(Relaxed)
    }

    /// Tells the session that it has lived long enough for keepalive.
    pub fn mark_established(&self) {
        self.established.store(true, Relaxed);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// Whether the session was told so.
    pub fn is_established(&self) -> bool {
        self.established.load(Relaxed)
    }

    /// Who is to be woken when there is something to tell. Once per session: a task keeps its waker.
    pub fn wake(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }
}

/// All sessions, by id.
#[derive(Debug, Default)]
pub struct Sessions {
    map: DashMap<u64, Arc<Handle>>,
}

/// A session's entry, taken out on drop.
#[derive(Debug)]
pub struct Registered {
    sessions: Arc<Sessions>,
    id: u64,
    handle: Arc<Handle>,
}

impl Registered {
    /// The session's own handle.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions.map.remove(&self.id);
        // A waker keeps the memory of its task, and the handle may be held elsewhere for a while.
        *self.handle.waker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Sessions {
    /// Enters a session.
    pub fn register(self: &Arc<Self>, id: u64) -> Registered {
        let handle = Arc::<Handle>::default();
        self.map.insert(id, Arc::clone(&handle));
        Registered { sessions: Arc::clone(self), id, handle }
    }

    /// Every session there is at this moment.
    pub fn handles(&self) -> Vec<Arc<Handle>> {
        self.map.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
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
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_session_hears_all_that_it_is_told() {
        let (sessions, woken) = (Arc::<Sessions>::default(), Arc::<Woken>::default());
        let registered = sessions.register(7);
        registered.handle().wake(&Waker::from(Arc::clone(&woken)));
        registered.handle().mark_established();
        assert_eq!((woken.0.load(Relaxed), registered.handle().is_established()), (1, true));
        registered.handle().end();
        assert_eq!((woken.0.load(Relaxed), registered.handle().told_to_end()), (2, true));
    }

    #[test]
    fn a_handle_that_outlives_its_session_holds_nothing_of_it() {
        let (sessions, woken) = (Arc::<Sessions>::default(), Arc::<Woken>::default());
        let registered = sessions.register(7);
        registered.handle().wake(&Waker::from(Arc::clone(&woken)));
        let handle = Arc::clone(registered.handle());
        drop(registered);
        assert_eq!((Arc::strong_count(&woken), sessions.len()), (1, 0));
        handle.mark_established();
        handle.end();
        assert_eq!(woken.0.load(Relaxed), 0);
    }
}
