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

    /// Who is to be woken when the session is asked to end. Once per session: a task keeps its waker.
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
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions.map.remove(&self.id);
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
