//! The table of sessions: those that are relaying now, so that weir can show and end each of them, and those that ended
//! last.

mod closed;
mod ended_traffic;
mod facts;
mod handle;
mod said;
mod traffic;

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::task::yield_now;

use crate::{relay::stalled::Stalled, upstream::ServerId};

pub use self::{
    closed::{ClosedSession, ClosedSessions, DEFAULT_MAX_CLOSED, Ending},
    ended_traffic::EndedTraffic,
    facts::{AtServer, ListenerKind, ListenerName, SessionFacts},
    handle::{ServerSays, SessionHandle},
    said::Said,
    traffic::TrafficState,
};

/// How many sessions may ask at a time whether their server has closed them. Others ask again a little later.
const MOST_STALLED: usize = 16_384;

/// Over so many maps the sessions are spread, so that workers seldom wait for each other.
const SHARDS: usize = 64;

/// The most sessions that a walk takes out of a map under one lock: some microseconds, for which a session that begins
/// or ends may have to wait.
const SLICE: usize = 256;

type Shard = Mutex<BTreeMap<u64, Arc<SessionHandle>>>;

/// All sessions, by id.
#[derive(Debug)]
pub struct SessionRegistry {
    shards: [Shard; SHARDS],
    /// How many of them are leafnodes.
    leafnodes: AtomicUsize,
    /// Those that ended last, and clients that were refused.
    closed: ClosedSessions,
    ended_traffic: EndedTraffic,
    /// Sessions that ask whether their server has closed them, with its id.
    stalled: Mutex<Vec<(ServerId, Stalled)>>,
}

impl Default for SessionRegistry {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            leafnodes: AtomicUsize::new(0),
            closed: ClosedSessions::default(),
            ended_traffic: EndedTraffic::default(),
            stalled: Mutex::default(),
        }
    }
}

/// A session's entry in the registry, which ends when this is dropped.
#[derive(Debug)]
pub struct Registration {
    sessions: Arc<SessionRegistry>,
    handle: Arc<SessionHandle>,
}

impl Registration {
    pub fn handle(&self) -> &Arc<SessionHandle> {
        &self.handle
    }

    /// Asks the session's server whether it has closed the connection.
    pub fn ask_whether_closed(&self, stalled: Stalled) {
        let server = self.handle.server_id();
        let mut all = self.sessions.stalled();
        if all.len() < MOST_STALLED {
            all.push((server, stalled));
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let id = self.handle.facts().id;
        let _ = self.sessions.shard(id).remove(&id);
        if self.handle.is_leafnode() {
            self.sessions.leafnodes.fetch_sub(1, Relaxed);
        }
        self.handle.forget_waker();
    }
}

/// How far a walk over all sessions has come; see [`SessionRegistry::some`].
#[derive(Debug, Default)]
pub struct Walk {
    shard: usize,
    behind: Option<u64>,
}

impl SessionRegistry {
    /// Enters a session. `account` is that of its client, as far as is known, and `at` is where it is connected.
    pub fn register(self: &Arc<Self>, facts: SessionFacts, account: Option<Arc<str>>, at: AtServer) -> Registration {
        let handle = Arc::new(SessionHandle::new(facts, account, at));
        let id = handle.facts().id;
        self.shard(id).insert(id, Arc::clone(&handle));
        if handle.is_leafnode() {
            self.leafnodes.fetch_add(1, Relaxed);
        }
        Registration { sessions: Arc::clone(self), handle }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "the remainder is below SHARDS, which is not 0"
    )]
    fn shard(&self, id: u64) -> MutexGuard<'_, BTreeMap<u64, Arc<SessionHandle>>> {
        lock(&self.shards[(id % SHARDS as u64) as usize])
    }

    /// The session with this id.
    pub fn get(&self, id: u64) -> Option<Arc<SessionHandle>> {
        self.shard(id).get(&id).cloned()
    }

    /// The next sessions of a walk over all, in no order; `None` at its end. Those that begin or end meanwhile may be
    /// missing.
    pub fn some(&self, walk: &mut Walk) -> Option<Vec<Arc<SessionHandle>>> {
        while let Some(shard) = self.shards.get(walk.shard) {
            let from = walk.behind.map_or(Bound::Unbounded, Bound::Excluded);
            let range = (from, Bound::Unbounded);
            let some: Vec<_> = lock(shard).range(range).take(SLICE).map(|(_, one)| Arc::clone(one)).collect();
            walk.behind = some.last().map(|last| last.facts().id).filter(|_| some.len() == SLICE);
            if walk.behind.is_none() {
                walk.shard = walk.shard.saturating_add(1);
            }
            if !some.is_empty() {
                return Some(some);
            }
        }
        None
    }

    /// Shows each session to `look`, in slices between which other tasks of the thread run.
    pub async fn for_each(&self, mut look: impl FnMut(&Arc<SessionHandle>)) {
        let (mut walk, mut in_a_row) = (Walk::default(), 0_usize);
        while let Some(some) = self.some(&mut walk) {
            some.iter().for_each(&mut look);
            in_a_row = in_a_row.saturating_add(some.len());
            if in_a_row >= SLICE {
                in_a_row = 0;
                yield_now().await;
            }
        }
    }

    /// The handles of all sessions there are at this moment.
    pub fn handles(&self) -> Vec<Arc<SessionHandle>> {
        let (mut walk, mut all) = (Walk::default(), Vec::new());
        while let Some(some) = self.some(&mut walk) {
            all.extend(some);
        }
        all
    }

    /// The handles of the sessions with this server that there are at this moment.
    pub fn handles_of(&self, server: ServerId) -> Vec<Arc<SessionHandle>> {
        let mut all = self.handles();
        all.retain(|session| session.server_id() == server);
        all
    }

    /// The connections that ended last.
    pub fn closed(&self) -> &ClosedSessions {
        &self.closed
    }

    /// What ended sessions had moved, by account.
    pub fn ended_traffic(&self) -> &EndedTraffic {
        &self.ended_traffic
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
        lock(&self.stalled)
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// How many of them are leafnodes.
    pub fn leafnodes(&self) -> usize {
        self.leafnodes.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }
}

/// What a lock guards is whole between any two statements, so a panic elsewhere while it was locked spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::{Wake, Waker},
    };

    use super::*;
    use crate::outcome::Cause;

    fn of_id(id: u64) -> SessionFacts {
        SessionFacts { id, ..SessionFacts::default() }
    }

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
        let registered = sessions.register(of_id(7), None, AtServer::default());
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
        let registered = sessions.register(of_id(7), None, AtServer::default());
        registered.handle().set_waker(&Waker::from(Arc::clone(&wakes)));
        let handle = Arc::clone(registered.handle());
        drop(registered);
        assert_eq!((Arc::strong_count(&wakes), sessions.len()), (1, 0));
        handle.request_keepalive();
        handle.end(Cause::Draining);
        assert_eq!(wakes.0.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_walk_sees_each_session_once_whatever_comes_and_goes() {
        let sessions = Arc::<SessionRegistry>::default();
        let enter = |id| sessions.register(of_id(id), None, AtServer::default());
        let mut stay: Vec<_> = (0..40_000).map(enter).collect();
        let (mut walk, mut seen) = (Walk::default(), Vec::new());
        while let Some(some) = sessions.some(&mut walk) {
            assert!(some.len() <= SLICE);
            seen.extend(some.iter().map(|one| one.facts().id));
            // The last one of the slice ends, and two begin in the same map.
            let last = *seen.last().unwrap();
            stay.retain(|one| one.handle().facts().id != last);
            stay.extend([last + 64_000_000, last + 128_000_000].map(enter));
        }
        seen.retain(|id| *id < 40_000);
        seen.sort_unstable();
        assert_eq!(seen, (0..40_000).collect::<Vec<_>>());
        let mut all = 0;
        sessions.for_each(|_| all += 1).await;
        assert_eq!([all, sessions.len(), sessions.handles().len()], [stay.len(); 3]);
        let one = stay.last().unwrap().handle().facts().id;
        assert!(sessions.get(one).is_some_and(|found| found.facts().id == one));
        drop(stay);
        assert!(sessions.is_empty() && sessions.get(one).is_none());
    }
}
