//! The sessions that are relaying now, so that weir can end each of them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::Waker,
};

use dashmap::DashMap;

use crate::{outcome::Cause, relay::stalled::Stalled, upstream::ServerId};

/// How many sessions may ask at a time whether their server has closed them. Others ask again a little later.
const MOST_STALLED: usize = 16_384;

/// How others reach one session.
#[derive(Debug)]
pub struct SessionHandle {
    /// The position of the cause in [`Cause::ALL`], counted from 1; 0 while nobody has asked for the end.
    end_requested: AtomicU8,
    keepalive_requested: AtomicBool,
    /// A [`ServerSays`].
    server_says: AtomicU8,
    server: ServerId,
    waker: Mutex<Option<Waker>>,
}

/// What the server of a session has answered when it was asked whether it has closed the session's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerSays {
    /// It has not been asked, or knows nothing of it.
    Nothing,
    /// It cannot be asked.
    NoAnswer,
    Closed,
}

impl SessionHandle {
    pub(super) fn new(server: ServerId) -> Self {
        Self {
            end_requested: AtomicU8::new(0),
            keepalive_requested: AtomicBool::new(false),
            server_says: AtomicU8::new(ServerSays::Nothing as u8),
            server,
            waker: Mutex::default(),
        }
    }

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
        self.wake();
    }

    /// The server has answered whether it has closed the connection, or cannot be asked.
    pub fn server_said(&self, says: ServerSays) {
        self.server_says.store(says as u8, Relaxed);
        if says == ServerSays::Closed {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    pub fn server_says(&self) -> ServerSays {
        match self.server_says.load(Relaxed) {
            says if says == ServerSays::Closed as u8 => ServerSays::Closed,
            says if says == ServerSays::NoAnswer as u8 => ServerSays::NoAnswer,
            _ => ServerSays::Nothing,
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
    /// Sessions that ask whether their server has closed them, with its id.
    stalled: Mutex<Vec<(ServerId, Stalled)>>,
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

    /// Asks the session's server whether it has closed the connection.
    pub fn ask_whether_closed(&self, stalled: Stalled) {
        let mut all = self.sessions.stalled();
        if all.len() < MOST_STALLED {
            all.push((self.handle.server, stalled));
        }
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
    /// `server` is the session's.
    pub fn register(self: &Arc<Self>, id: u64, server: ServerId) -> Registration {
        let handle = Arc::new(SessionHandle::new(server));
        self.map.insert(id, Arc::clone(&handle));
        Registration { sessions: Arc::clone(self), id, handle }
    }

    /// The handles of all sessions there are at this moment.
    pub fn handles(&self) -> Vec<Arc<SessionHandle>> {
        self.map.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// Takes out the sessions that ask whether this server has closed them.
    pub fn take_stalled(&self, server: ServerId) -> Vec<Stalled> {
        let mut all = self.stalled();
        // Without one there is no memory.
        let asks = all.extract_if(.., |(id, _)| *id == server).map(|(_, one)| one).collect();
        if all.is_empty() {
            *all = Vec::new();
        }
        asks
    }

    fn stalled(&self) -> MutexGuard<'_, Vec<(ServerId, Stalled)>> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handles of the sessions with this server that there are at this moment.
    pub fn handles_of(&self, server: ServerId) -> Vec<Arc<SessionHandle>> {
        let of_server = self.map.iter().filter(|entry| entry.value().server == server);
        of_server.map(|entry| Arc::clone(entry.value())).collect()
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
        let registered = sessions.register(7, ServerId::from_raw(0));
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
            let handle = SessionHandle::new(ServerId::from_raw(0));
            handle.end(cause);
            assert_eq!(handle.end_requested(), Some(cause));
        }
    }

    #[test]
    fn a_handle_that_outlives_its_session_holds_nothing_of_it() {
        let (sessions, wakes) = (Arc::<SessionRegistry>::default(), Arc::<CountingWaker>::default());
        let registered = sessions.register(7, ServerId::from_raw(0));
        registered.handle().set_waker(&Waker::from(Arc::clone(&wakes)));
        let handle = Arc::clone(registered.handle());
        drop(registered);
        assert_eq!((Arc::strong_count(&wakes), sessions.len()), (1, 0));
        handle.request_keepalive();
        handle.end(Cause::Draining);
        assert_eq!(wakes.0.load(Relaxed), 0);
    }
}
