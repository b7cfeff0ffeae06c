//! Orders to sessions to go to another server, each with a slot that is kept for it there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    admission::moving::Move,
    outcome::MoveCause,
    upstream::{ServerId, Slot},
};

/// The orders that no session has taken yet.
#[derive(Debug, Default)]
pub struct MoveOrders(Mutex<HashMap<u64, MoveOrder>>);

/// What one session is to do.
#[derive(Debug)]
pub struct MoveOrder {
    /// The server to leave.
    pub from: ServerId,
    /// On the server to go to.
    pub slot: Option<Slot>,
    /// Why it is to go.
    pub cause: MoveCause,
    answer: Answer,
}

/// What a session has done.
#[derive(Debug)]
pub enum Done {
    /// It is on this server, and its client has noticed nothing.
    Rehomed(ServerId),
    /// It stays where it is, or has ended.
    Stays,
    /// It cannot go without its client: that is closed, and is expected back.
    Closes(Move),
}

/// Where a session puts what it has done.
#[derive(Debug, Clone, Default)]
pub struct Answer(Arc<Mutex<Option<Done>>>);

impl Answer {
    fn done(&self) -> MutexGuard<'_, Option<Done>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the session has done, once.
    pub fn take(&self) -> Option<Done> {
        self.done().take()
    }
}

impl MoveOrders {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, MoveOrder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the session with this id an order. It is to be told of that by
    /// [`request_move`](crate::relay::registry::SessionHandle::request_move).
    pub fn give(&self, session: u64, from: ServerId, slot: Slot, cause: MoveCause) -> Answer {
        let answer = Answer::default();
        let order = MoveOrder { from, slot: Some(slot), cause, answer: answer.clone() };
        let before = self.all().insert(session, order);
        drop(before);
        answer
    }

    /// The order of this session. It is also taken for one that is gone.
    pub fn take(&self, session: u64) -> Option<MoveOrder> {
        self.all().remove(&session)
    }
}

impl MoveOrder {
    /// It has been carried out, or has not.
    pub fn done(self, done: Done) {
        *self.answer.done() = Some(done);
    }
}

/// A session that says nothing stays, or has ended.
impl Drop for MoveOrder {
    fn drop(&mut self) {
        self.answer.done().get_or_insert(Done::Stays);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Params, ServerParams, Servers};

    #[test]
    fn each_order_is_answered_and_its_slot_given_back() {
        let of = |name: &str| ServerParams {
            name: Some(name.into()),
            max_connections: Some(100),
            ..ServerParams::bare(format!("{name}:4222"))
        };
        let servers = Servers::new(&Params::bare(vec![of("n1")]));
        let server = servers.iter().next().unwrap();
        let slot = || Slot::promise(&server, std::time::Instant::now()).unwrap();
        let orders = MoveOrders::default();

        let answer = orders.give(7, server.id(), slot(), MoveCause::Rebalance);
        assert!(orders.take(8).is_none() && answer.take().is_none());
        let mut order = orders.take(7).unwrap();
        let kept = order.slot.take();
        order.done(Done::Rehomed(server.id()));
        assert!(matches!(answer.take(), Some(Done::Rehomed(at)) if at == server.id()));
        assert!(orders.take(7).is_none());
        drop(kept);

        // Its session has ended.
        let answer = orders.give(7, server.id(), slot(), MoveCause::Drain);
        assert_eq!(server.load().held(), 1);
        drop(orders.take(7));
        assert!(matches!(answer.take(), Some(Done::Stays)));
        assert_eq!(server.load().held(), 0);
    }
}
