//! Accounts that take turns: deficit round robin by weight, and within an account by seniority.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::admission::{
    queue::{Ticket, Waiter, WaitingClient, position::Positions},
    reputation::clients::Seniority,
    retry_schedule::ScheduledRetry,
};

/// Standings as far as they are told apart: flapping or not, and since when, in steps of four seconds. Those who have been
/// trying for about as long go in the order of their arrival: so the turn of one who waits is not put off by every one that
/// comes back meanwhile, and it can be told in time whether it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueRank(bool, u64);

const RANK_STEP_MILLIS: u128 = 4000;

impl QueueRank {
    /// Ranks count from when the first client came.
    pub fn of(seniority: Seniority, began: Instant) -> Self {
        let since = seniority.since.saturating_duration_since(began).as_millis();
        Self(seniority.flapping, (since / RANK_STEP_MILLIS) as u64)
    }
}

/// Those of one account.
#[derive(Debug)]
struct Lane<W> {
    /// Each with its place among those of its rank.
    waiting: BTreeMap<(QueueRank, u64), (u64, WaitingClient<W>)>,
    ranks: BTreeMap<QueueRank, SameRank>,
    /// Turns this lane has left before the next lane's.
    turns: u32,
}

/// Those of one rank.
#[derive(Debug, Default)]
struct SameRank {
    waiting: usize,
    /// Of those who have no scheduled_retry: the others leave, and it is not their turns that are waited for.
    positions: Positions,
}

/// The accounts.
#[derive(Debug)]
pub struct FairLanes<W> {
    lanes: HashMap<Arc<str>, Lane<W>>,
    /// Every lane that has somebody waiting, exactly once; the front one is served.
    sequence: VecDeque<Arc<str>>,
    waiting: usize,
}

impl<W> Default for FairLanes<W> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), sequence: VecDeque::new(), waiting: 0 }
    }
}

impl<W: Waiter> FairLanes<W> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Joins the lane of its account, in this order.
    pub fn push(&mut self, order: (QueueRank, u64), held: WaitingClient<W>) {
        let rank = order.0;
        let account = held.account.account().name();
        let lane = match self.lanes.get_mut(account) {
            Some(lane) => lane,
            None => {
                self.sequence.push_back(Arc::clone(account));
                let lane = Lane { waiting: BTreeMap::new(), ranks: BTreeMap::new(), turns: 0 };
                self.lanes.entry(Arc::clone(account)).or_insert(lane)
            }
        };
        let same_rank = lane.ranks.entry(rank).or_default();
        same_rank.waiting += 1;
        lane.waiting.insert(order, (same_rank.positions.take(), held));
        if same_rank.positions.are_many()
            && let Some((_, (first, _))) = lane.waiting.range((rank, 0)..).next()
        {
            same_rank.positions.forget(*first);
        }
        self.waiting += 1;
    }

    /// One who waits.
    pub fn get(&self, ticket: &Ticket) -> Option<&WaitingClient<W>> {
        Some(&self.lanes.get(&ticket.account)?.waiting.get(&ticket.order)?.1)
    }

    /// One who waits, and about how many of these accounts go before it: those of its lane with a better rank; of the same rank
    /// those who came before; and as many of each other lane, if there are so many. Not those who leave before their turn, by
    /// scheduled_retry.
    pub fn find(&self, ticket: &Ticket) -> Option<(&WaitingClient<W>, usize)> {
        let lane = self.lanes.get(&ticket.account)?;
        let (place, held) = lane.waiting.get(&ticket.order)?;
        let rank = ticket.order.0;
        let better: usize = lane.ranks.range(..rank).map(|(_, same_rank)| same_rank.positions.len()).sum();
        let in_lane = better + lane.ranks.get(&rank).map_or(0, |same_rank| same_rank.positions.before(*place));
        let in_others = self.waiting - lane.waiting.len();
        Some((held, in_lane + in_others.min(in_lane.saturating_mul(self.lanes.len() - 1))))
    }

    /// It is known when it is to leave, and to come back; or, with none, it stays after all. Returns what was known before.
    pub fn set_scheduled_retry(
        &mut self,
        ticket: &Ticket,
        scheduled_retry: Option<ScheduledRetry>,
    ) -> Option<ScheduledRetry> {
        let lane = self.lanes.get_mut(&ticket.account)?;
        let (place, held) = lane.waiting.get_mut(&ticket.order)?;
        let before = std::mem::replace(&mut held.scheduled_retry, scheduled_retry);
        if let Some(same_rank) = lane.ranks.get_mut(&ticket.order.0) {
            match (before, scheduled_retry) {
                (None, Some(_)) => same_rank.positions.give_back(*place),
                (Some(_), None) => same_rank.positions.take_again(*place),
                _ => {}
            }
        }
        before
    }

    /// Leaves its lane; `None` when its turn has come already.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<WaitingClient<W>> {
        let rank = ticket.order.0;
        let lane = self.lanes.get_mut(&ticket.account)?;
        let (place, held) = lane.waiting.remove(&ticket.order)?;
        if let Some(same_rank) = lane.ranks.get_mut(&rank) {
            same_rank.waiting -= 1;
            if held.scheduled_retry.is_none() {
                same_rank.positions.give_back(place);
            }
            if same_rank.waiting == 0 {
                lane.ranks.remove(&rank);
            }
        }
        self.waiting -= 1;
        if lane.waiting.is_empty() {
            self.lanes.remove(&ticket.account);
            self.sequence.retain(|name| *name != ticket.account);
        }
        Some(held)
    }

    /// The next to go, still in its place. Lanes for whose first `may_go` is false are passed over; those who left, or whose
    /// time is up, are dropped on the way.
    pub fn peek(&mut self, now: Instant, mut may_go: impl FnMut(&mut WaitingClient<W>) -> bool) -> Option<Ticket> {
        let mut passed_over = 0;
        loop {
            if passed_over >= self.sequence.len() {
                return None;
            }
            let account = self.sequence.front()?;
            let lane = self.lanes.get_mut(account)?;
            let (&order, (_, first)) = lane.waiting.iter_mut().next()?;
            if first.waiter.has_left() || now >= first.last_turn() {
                let ticket = first.ticket(order);
                self.remove(&ticket);
            } else if may_go(first) {
                if lane.turns == 0 {
                    lane.turns = first.account.account().weight().get();
                }
                return Some(first.ticket(order));
            } else {
                lane.turns = 0;
                self.sequence.rotate_left(1);
                passed_over += 1;
            }
        }
    }

    /// Takes the one that [`FairLanes::peek`] named out of its lane, and spends a turn of the lane.
    pub fn take(&mut self, next: &Ticket) -> Option<WaitingClient<W>> {
        let lane = self.lanes.get_mut(&next.account)?;
        lane.turns = lane.turns.saturating_sub(1);
        let round_over = lane.turns == 0;
        let held = self.remove(next);
        if round_over && self.sequence.front() == Some(&next.account) {
            self.sequence.rotate_left(1);
        }
        held
    }
}
