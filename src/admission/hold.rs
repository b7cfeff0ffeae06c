//! Those who wait for their turn: fair between accounts (deficit round robin by weight), and within an account by standing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use governor::clock::Clock;

use super::{accounts::AccountSlot, seniority::Standing};
use crate::identity::ClientKey;

/// The far end of a hold, as the queue needs to know it.
pub trait Waiter {
    /// Whether the client has gone: a turn would be wasted on it.
    fn has_left(&self) -> bool;
}

/// One who waits.
#[derive(Debug)]
pub struct Held<W, C: Clock> {
    /// Who is told.
    pub waiter: W,
    /// Its slot in its account's quota, taken at the connect door.
    pub account: AccountSlot<C>,
    /// Whether it has its account's token already.
    pub account_paid: bool,
    /// Nobody is admitted after this.
    pub hold_until: Instant,
    /// Who it is across reconnects.
    pub client: ClientKey,
}

/// A place in the queue.
#[derive(Debug, Clone)]
pub struct Ticket {
    account: Arc<str>,
    order: (Standing, u64),
}

#[derive(Debug)]
struct Lane<W, C: Clock> {
    waiting: BTreeMap<(Standing, u64), Held<W, C>>,
    /// Turns this lane has left before the next lane's.
    turns: u32,
}

/// The queue. Its length is bounded by whoever pushes.
#[derive(Debug)]
pub struct Queue<W, C: Clock> {
    lanes: HashMap<Arc<str>, Lane<W, C>>,
    /// Every lane that has somebody waiting, exactly once; the front one is served.
    round: VecDeque<Arc<str>>,
    len: usize,
    arrivals: u64,
}

impl<W, C: Clock> Default for Queue<W, C> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), round: VecDeque::new(), len: 0, arrivals: 0 }
    }
}

impl<W: Waiter, C: Clock> Queue<W, C> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Joins the lane of its account.
    pub fn push(&mut self, held: Held<W, C>, standing: Standing) -> Ticket {
        let account = Arc::clone(held.account.account().name());
        self.arrivals += 1;
        let order = (standing, self.arrivals);
        let lane = self.lanes.entry(Arc::clone(&account)).or_insert_with(|| {
            self.round.push_back(Arc::clone(&account));
            Lane { waiting: BTreeMap::new(), turns: 0 }
        });
        lane.waiting.insert(order, held);
        self.len += 1;
        Ticket { account, order }
    }

    /// Leaves the queue; `None` when the turn has come already.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<Held<W, C>> {
        let lane = self.lanes.get_mut(&ticket.account)?;
        let held = lane.waiting.remove(&ticket.order)?;
        self.len -= 1;
        if lane.waiting.is_empty() {
            self.lanes.remove(&ticket.account);
            self.round.retain(|name| *name != ticket.account);
        }
        Some(held)
    }

    /// The next to go, still in its place. Lanes for whose first `may_go` is false are passed over; those who left, or whose
    /// time is up, are dropped on the way.
    pub fn peek(
        &mut self,
        now: Instant,
        mut may_go: impl FnMut(&mut Held<W, C>) -> bool,
    ) -> Option<(Ticket, &Held<W, C>)> {
        let mut passed_over = 0;
        let ticket = loop {
            if passed_over >= self.round.len() {
                return None;
            }
            let account = Arc::clone(self.round.front()?);
            let lane = self.lanes.get_mut(&account)?;
            let (&order, first) = lane.waiting.iter_mut().next()?;
            let ticket = Ticket { account, order };
            if first.waiter.has_left() || now >= first.hold_until {
                self.remove(&ticket);
            } else if may_go(first) {
                if lane.turns == 0 {
                    lane.turns = first.account.account().weight().get();
                }
                break ticket;
            } else {
                lane.turns = 0;
                self.round.rotate_left(1);
                passed_over += 1;
            }
        };
        let held = self.lanes.get(&ticket.account)?.waiting.get(&ticket.order)?;
        Some((ticket, held))
    }

    /// Takes the one that [`Queue::peek`] named out of the queue and spends a turn of its lane.
    pub fn take(&mut self, next: &Ticket) -> Option<Held<W, C>> {
        let lane = self.lanes.get_mut(&next.account)?;
        lane.turns = lane.turns.saturating_sub(1);
        let round_over = lane.turns == 0;
        let held = self.remove(next);
        if round_over && self.round.front() == Some(&next.account) {
            self.round.rotate_left(1);
        }
        held
    }

    /// Sends everybody away.
    pub fn clear(&mut self) {
        self.lanes.clear();
        self.round.clear();
        self.len = 0;
    }
}
