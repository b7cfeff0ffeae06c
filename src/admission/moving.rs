//! Clients that weir moves from one server to another: each has been closed, and has a slot on its new server kept for
//! its return.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::{
    identity::ClientKey,
    outcome::MoveResult,
    upstream::{ServerId, Slot},
};

/// The moves that are under way.
#[derive(Debug, Default)]
pub struct Moving {
    /// How many there are: whoever connects while there are none does not look further.
    count: AtomicUsize,
    /// Of several that look the same the one that is expected for longest comes first: any of them may come for its
    /// slot.
    by_client: Mutex<HashMap<ClientKey, Vec<Expected>>>,
}

/// A client that is expected back.
#[derive(Debug)]
struct Expected {
    outcome: Arc<AtomicU8>,
    to: ServerId,
    /// `None` once the client has come for it.
    slot: Option<Slot>,
}

/// A move that is under way. On drop the client is not expected any more, and its slot is given back unless the client
/// has it.
#[derive(Debug)]
pub struct Move {
    all: Arc<Moving>,
    client: ClientKey,
    /// 0 until the client has landed; then the position of the result in [`MoveResult::ALL`], counted from 1.
    outcome: Arc<AtomicU8>,
}

impl Moving {
    fn by_client(&self) -> MutexGuard<'_, HashMap<ClientKey, Vec<Expected>>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects a client back, for which `slot` is kept. To be called before its session is ended.
    pub fn expect(self: &Arc<Self>, client: ClientKey, slot: Slot) -> Move {
        let outcome = Arc::<AtomicU8>::default();
        let expected = Expected { outcome: Arc::clone(&outcome), to: slot.server().id(), slot: Some(slot) };
        self.by_client().entry(client).or_default().push(expected);
        self.count.fetch_add(1, Relaxed);
        Move { all: Arc::clone(self), client, outcome }
    }

    /// Whether nobody is expected. One relaxed load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// How many are expected.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether a slot is kept for this client.
    pub(in crate::admission) fn keeps_slot_for(&self, client: ClientKey) -> bool {
        let by_client = self.by_client();
        by_client.get(&client).is_some_and(|all| all.iter().any(|one| one.slot.is_some()))
    }

    /// The slot that is kept for this client, which is here.
    pub(in crate::admission) fn redeem(&self, client: ClientKey, now: Instant) -> Option<Slot> {
        let slot = {
            let mut by_client = self.by_client();
            by_client.get_mut(&client)?.iter_mut().find_map(|one| one.slot.take())?
        };
        slot.redeem(now)
    }

    /// A session of this client has begun: if it is one that is being moved, it has landed. One relaxed load while
    /// nobody is moved.
    pub fn session_began(&self, client: ClientKey, on: ServerId) {
        if self.is_empty() {
            return;
        }
        let expected = {
            let mut by_client = self.by_client();
            let Some(all) = by_client.get_mut(&client) else { return };
            // Of several that look the same the one who has taken its slot here.
            let here = all.iter().position(|one| one.slot.is_none() && one.to == on);
            let at = here.or_else(|| all.iter().position(|one| one.to == on)).unwrap_or(0);
            let expected = all.remove(at);
            if all.is_empty() {
                by_client.remove(&client);
            }
            expected
        };
        self.count.fetch_sub(1, Relaxed);
        let result = if expected.to == on { MoveResult::Landed } else { MoveResult::Elsewhere };
        expected.outcome.store(result as u8 + 1, Relaxed);
    }
}

impl Move {
    /// Where the client is, once it is somewhere.
    pub fn result(&self) -> Option<MoveResult> {
        let at = self.outcome.load(Relaxed).checked_sub(1)?;
        MoveResult::ALL.get(usize::from(at)).copied()
    }
}

impl Drop for Move {
    fn drop(&mut self) {
        let left = {
            let mut by_client = self.all.by_client();
            let Some(all) = by_client.get_mut(&self.client) else { return };
            let Some(at) = all.iter().position(|one| Arc::ptr_eq(&one.outcome, &self.outcome)) else { return };
            let left = all.remove(at);
            if all.is_empty() {
                by_client.remove(&self.client);
            }
            left
        };
        self.all.count.fetch_sub(1, Relaxed);
        // Its slot is given back without the lock.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::upstream::{Params, Server, ServerParams, Servers};

    fn servers() -> [Arc<Server>; 2] {
        let of = |name: &str| ServerParams {
            name: Some(name.into()),
            max_connections: Some(100),
            ..ServerParams::bare(format!("{name}:4222"))
        };
        let servers = Servers::new(&Params::bare(vec![of("n1"), of("n2")]));
        let mut all = servers.iter();
        [all.next().unwrap(), all.next().unwrap()]
    }

    #[test]
    fn a_slot_is_kept_until_its_client_comes_or_is_late() {
        let ([n1, n2], now, client) = (servers(), Instant::now(), ClientKey::from_raw(7));
        let moving = Arc::<Moving>::default();
        let first = moving.expect(client, Slot::promise(&n1, now).unwrap());
        assert_eq!((n1.load().held(), n1.load().handshakes(), moving.len()), (1, 0, 1));
        assert!(moving.redeem(ClientKey::from_raw(8), now).is_none());
        let mut slot = moving.redeem(client, now).unwrap();
        assert_eq!((n1.load().held(), n1.load().handshakes(), first.result()), (1, 1, None));
        assert!(moving.redeem(client, now).is_none(), "there is one slot");
        slot.opened();
        slot.session_began();
        moving.session_began(client, n1.id());
        assert_eq!((first.result(), moving.is_empty()), (Some(MoveResult::Landed), true));
        moving.session_began(client, n1.id());
        drop((first, slot));
        assert_eq!((n1.load().held(), n1.load().handshakes(), n1.load().sessions()), (0, 0, 0));

        let late = moving.expect(client, Slot::promise(&n1, now).unwrap());
        drop(late);
        assert_eq!((n1.load().held(), moving.is_empty()), (0, true));

        let elsewhere = moving.expect(client, Slot::promise(&n1, now).unwrap());
        moving.session_began(client, n2.id());
        assert_eq!((elsewhere.result(), n1.load().held()), (Some(MoveResult::Elsewhere), 0));
    }

    #[test]
    fn whoever_comes_back_lands_for_the_one_that_is_expected_for_longest() {
        let ([n1, _], now, client) = (servers(), Instant::now(), ClientKey::from_raw(7));
        let moving = Arc::<Moving>::default();
        let begin = || {
            let mut slot = moving.redeem(client, now).unwrap();
            slot.opened();
            slot.session_began();
            moving.session_began(client, n1.id());
            slot
        };
        let expect = || moving.expect(client, Slot::promise(&n1, now).unwrap());
        let mut expected = VecDeque::from([expect(), expect()]);
        let mut sessions = Vec::new();
        for _ in 0..5 {
            expected.push_back(expect());
            sessions.push(begin());
            let results: Vec<_> = expected.iter().map(Move::result).collect();
            assert_eq!(results, [Some(MoveResult::Landed), None, None]);
            expected.pop_front();
        }
    }

    #[test]
    fn a_promise_is_kept_to_the_limit_and_not_after_a_lame_duck() {
        let ([n1, _], now, client) = (servers(), Instant::now(), ClientKey::from_raw(7));
        let all: Vec<_> = std::iter::from_fn(|| Slot::promise(&n1, now)).collect();
        assert_eq!(all.len() as u32, n1.load().ceiling());
        drop(all);
        let moving = Arc::<Moving>::default();
        let kept = moving.expect(client, Slot::promise(&n1, now).unwrap());
        n1.said_lame_duck(now, "a");
        if n1.is_lame_duck(now) {
            assert!(moving.redeem(client, now).is_none());
        }
        drop(kept);
        assert_eq!((n1.load().held(), n1.load().handshakes()), (0, 0));
    }
}
