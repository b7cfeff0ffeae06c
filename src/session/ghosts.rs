//! Finds the ghosts of clients that lack a place: sessions that look like theirs and whose client may be gone are asked
//! for a sign of life, and those that show none end themselves.
//!
//! One task looks through all sessions, at once for all clients that have come meanwhile. No client waits for it: one
//! that is held gets its turn when a ghost's places come free, and one that is refused finds them free when it is back.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    admission::ghosts::{Silence, WithoutPlace},
    identity::ClientKey,
    relay::registry::SessionHandle,
    session::shared::Shared,
    telemetry::moment::Moment,
};

/// The least time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// After a look there is none for this many times as long as it took: looks take a twentieth of the control thread at
/// most, however many sessions there are.
const REST: u32 = 19;

/// Sessions that are woken before other tasks of the thread run.
const AT_ONCE: usize = 64;

/// The clients that lack a place since the last look.
#[derive(Debug, Default)]
pub struct Ghosts {
    without_place: Mutex<WithoutPlace>,
    came: Notify,
}

impl Ghosts {
    fn without_place(&self) -> MutexGuard<'_, WithoutPlace> {
        self.without_place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This client lacks a place.
    pub fn lacks_place(&self, client: ClientKey) {
        let mut without = self.without_place();
        let is_first = without.is_empty();
        without.note(client);
        drop(without);
        if is_first {
            self.came.notify_one();
        }
    }
}

/// Looks for ghosts until `stop`.
pub async fn find(shared: Arc<Shared>, stop: CancellationToken) {
    let work = async {
        loop {
            shared.ghosts.came.notified().await;
            let without = mem::take(&mut *shared.ghosts.without_place());
            let began = Instant::now();
            ask(&shared, without).await;
            sleep(LOOK_INTERVAL.max(began.elapsed().saturating_mul(REST))).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Asks the sessions that may be ghosts of these clients for a sign of life.
async fn ask(shared: &Shared, without_place: WithoutPlace) {
    let (mut suspects, now) = (without_place.look::<Arc<SessionHandle>>(), Moment::now());
    let look = |session: &Arc<SessionHandle>| {
        if let Some(client) = session.facts().client {
            suspects.look_at(client, || silence(session, now), || Arc::clone(session));
        }
    };
    shared.sessions.for_each(look).await;
    for (n, session) in suspects.into_sessions().enumerate() {
        if n % AT_ONCE == AT_ONCE - 1 {
            yield_now().await;
        }
        debug!(id = session.facts().id, "asking for a sign of life: a client like it lacks a place");
        session.request_sign_of_life(Moment::now());
    }
}

fn silence(session: &SessionHandle, now: Moment) -> Silence {
    let asked_ago = session.sign_of_life_requested_at().map(|at| now.since(at));
    Silence { silent_for: now.since(session.traffic().last_heard()), asked_ago }
}
