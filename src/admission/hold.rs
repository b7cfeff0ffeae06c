//! Those who wait for their turn: fair between accounts (deficit round robin by weight), and within an account by standing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use governor::clock::Clock;

use super::{
    accounts::AccountSlot, appointments::Appointment, patience::last_turn, places::Places, returns::Return,
    seniority::Standing,
};
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
    /// It must have its answer by then.
    pub answer_by: Instant,
    /// Who it is across reconnects.
    pub client: ClientKey,
    /// What it does when it is refused.
    pub returns: Return,
    /// It is to be refused at the next look, and expected back then, unless its turn comes in time after all.
    pub appointment: Option<Appointment>,
}

impl<W, C: Clock> Held<W, C> {
    /// Its last moment for a turn: the login must end in time too, however long logins of its account take by now.
    pub fn last_turn(&self) -> Instant {
        last_turn(self.hold_until, self.answer_by, self.account.account().login_takes())
    }

    /// Who waits, and whether it does for its account's rate.
    fn owes(&self) -> (ClientKey, bool) {
        (self.client, !self.account_paid && self.account.account().has_rate())
    }
}

/// A place in the queue.
#[derive(Debug, Clone)]
pub struct Ticket {
    account: Arc<str>,
    order: (Rank, u64),
    pub(super) client: ClientKey,
    /// It was its account's rate that it waited for when it came.
    pub(super) unpaid: bool,
}

#[derive(Debug)]
struct Lane<W, C: Clock> {
    /// Each with its place among those of its rank.
    waiting: BTreeMap<(Rank, u64), (u64, Held<W, C>)>,
    ranks: BTreeMap<Rank, Crowd>,
    /// Turns this lane has left before the next lane's.
    turns: u32,
}

/// Those of one rank.
#[derive(Debug, Default)]
struct Crowd {
    waiting: usize,
    /// Of those who have no appointment: the others leave, and it is not their turns that are waited for.
    places: Places,
}

/// Standings as far as they are told apart: flapping or not, and since when, in steps of four seconds. Those who have been
/// trying for about as long go in the order of their arrival: so the turn of one who waits is not put off by every one that
/// comes back meanwhile, and it can be told in time whether it comes.
type Rank = (bool, u64);
const RANK_MILLIS: u128 = 4000;

/// The queue. Its length is bounded by whoever pushes.
#[derive(Debug)]
pub struct Queue<W, C: Clock> {
    lanes: HashMap<Arc<str>, Lane<W, C>>,
    /// Every lane that has somebody waiting, exactly once; the front one is served.
    round: VecDeque<Arc<str>>,
    len: usize,
    arrivals: u64,
    /// Ranks count from the first arrival.
    began: Option<Instant>,
}

impl<W, C: Clock> Default for Queue<W, C> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), round: VecDeque::new(), len: 0, arrivals: 0, began: None }
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

    /// How many have joined it in all.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Joins the lane of its account.
    pub fn push(&mut self, held: Held<W, C>, standing: Standing) -> Ticket {
        let account = Arc::clone(held.account.account().name());
        self.arrivals += 1;
        self.began.get_or_insert(standing.since);
        let rank = self.rank(standing);
        let order = (rank, self.arrivals);
        let (client, unpaid) = held.owes();
        let lane = self.lanes.entry(Arc::clone(&account)).or_insert_with(|| {
            self.round.push_back(Arc::clone(&account));
            Lane { waiting: BTreeMap::new(), ranks: BTreeMap::new(), turns: 0 }
        });
        let crowd = lane.ranks.entry(rank).or_default();
        crowd.waiting += 1;
        lane.waiting.insert(order, (crowd.places.take(), held));
        if crowd.places.are_many()
            && let Some((_, (first, _))) = lane.waiting.range((rank, 0)..).next()
        {
            crowd.places.forget(*first);
        }
        self.len += 1;
        Ticket { account, order, client, unpaid }
    }

    fn rank(&self, standing: Standing) -> Rank {
        let since = self.began.map_or(0, |began| standing.since.saturating_duration_since(began).as_millis());
        (standing.flapping, (since / RANK_MILLIS) as u64)
    }

    /// One who waits, and about how many go before it: those of its lane with a better rank; of the same rank those who came
    /// before; and as many of each other lane, if there are so many. Not those who leave before their turn, by appointment.
    pub fn find(&self, ticket: &Ticket) -> Option<(&Held<W, C>, usize)> {
        let lane = self.lanes.get(&ticket.account)?;
        let (place, held) = lane.waiting.get(&ticket.order)?;
        let rank = ticket.order.0;
        let better: usize = lane.ranks.range(..rank).map(|(_, crowd)| crowd.places.len()).sum();
        let in_lane = better + lane.ranks.get(&rank).map_or(0, |crowd| crowd.places.before(*place));
        let in_others = self.len - lane.waiting.len();
        Some((held, in_lane + in_others.min(in_lane.saturating_mul(self.lanes.len() - 1))))
    }

    /// It is known when it is to leave, and to come back; or, with none, it stays after all. Returns what was known before.
    pub fn appoint(&mut self, ticket: &Ticket, appointment: Option<Appointment>) -> Option<Appointment> {
        let lane = self.lanes.get_mut(&ticket.account)?;
        let (place, held) = lane.waiting.get_mut(&ticket.order)?;
        let before = std::mem::replace(&mut held.appointment, appointment);
        if let Some(crowd) = lane.ranks.get_mut(&ticket.order.0) {
            match (before, appointment) {
                (None, Some(_)) => crowd.places.give_back(*place),
                (Some(_), None) => crowd.places.take_again(*place),
                _ => {}
            }
        }
        before
    }

    /// Leaves the queue; `None` when the turn has come already.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<Held<W, C>> {
        let rank = ticket.order.0;
        let lane = self.lanes.get_mut(&ticket.account)?;
        let (place, held) = lane.waiting.remove(&ticket.order)?;
        if let Some(crowd) = lane.ranks.get_mut(&rank) {
            crowd.waiting -= 1;
            if held.appointment.is_none() {
                crowd.places.give_back(place);
            }
            if crowd.waiting == 0 {
                lane.ranks.remove(&rank);
            }
        }
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
            let (&order, (_, first)) = lane.waiting.iter_mut().next()?;
            let (client, unpaid) = first.owes();
            let ticket = Ticket { account, order, client, unpaid };
            if first.waiter.has_left() || now >= first.last_turn() {
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
        let (_, held) = self.lanes.get(&ticket.account)?.waiting.get(&ticket.order)?;
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

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::admission::{AccountLimits, Accounts};

    struct Stays;

    impl Waiter for Stays {
        fn has_left(&self) -> bool {
            false
        }
    }

    struct Line {
        queue: Queue<Stays, FakeRelativeClock>,
        accounts: Accounts<FakeRelativeClock>,
        start: Instant,
    }

    impl Line {
        fn new(weights: &[(&str, u32)]) -> Self {
            let limits = |weight: u32| AccountLimits { weight: weight.try_into().unwrap(), ..AccountLimits::default() };
            let configured: HashMap<_, _> = weights.iter().map(|&(name, w)| (name.to_owned(), limits(w))).collect();
            let accounts = Accounts::new(limits(1), configured, Arc::default(), FakeRelativeClock::default());
            let start = Instant::now();
            Self { queue: Queue { began: Some(start), ..Queue::default() }, accounts, start }
        }

        fn push(&mut self, account: &str, since: u64, flapping: bool) -> Ticket {
            let held = Held {
                waiter: Stays,
                account: self.accounts.enter(&account.into(), self.start).unwrap(),
                account_paid: false,
                hold_until: self.start + Duration::from_secs(10),
                answer_by: self.start + Duration::from_secs(11),
                client: ClientKey::from_raw(since),
                returns: Return::Unknown,
                appointment: None,
            };
            self.queue.push(held, Standing { flapping, since: self.start + Duration::from_secs(since) })
        }

        fn next(&mut self, may_go: impl Fn(&str) -> bool) -> Option<String> {
            let (ticket, _) = self.queue.peek(self.start, |held| may_go(held.account.account().name()))?;
            let held = self.queue.take(&ticket).unwrap();
            Some(format!("{}{}", held.account.account().name(), held.client.raw()))
        }

        fn order(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.next(|_| true)).collect()
        }
    }

    #[test]
    fn accounts_take_turns_by_weight() {
        let mut line = Line::new(&[("A", 1), ("B", 2)]);
        for n in 0..6 {
            line.push("A", n, false);
        }
        for n in 0..6 {
            line.push("B", n, false);
        }
        let order = line.order().concat();
        assert_eq!(order, "A0B0B1A1B2B3A2B4B5A3A4A5");
        assert!(line.queue.is_empty() && line.queue.round.is_empty() && line.queue.lanes.is_empty());
    }

    #[test]
    fn a_storm_of_one_account_does_not_delay_another() {
        let mut line = Line::new(&[]);
        for n in 0..1000 {
            line.push("storm", n, false);
        }
        line.next(|_| true);
        line.push("quiet", 2000, false);
        let first: Vec<_> = (0..2).filter_map(|_| line.next(|_| true)).collect();
        assert!(first.contains(&"quiet2000".to_owned()), "{first:?}");
    }

    #[test]
    fn within_an_account_the_longest_refused_go_first_and_the_flapping_last() {
        let mut line = Line::new(&[]);
        for (since, flapping) in [(15, false), (1, true), (3, false), (9, false)] {
            line.push("A", since, flapping);
        }
        assert_eq!(line.order(), ["A3", "A9", "A15", "A1"]);
    }

    #[test]
    fn an_account_that_may_not_go_is_passed_over() {
        let mut line = Line::new(&[]);
        line.push("A", 1, false);
        line.push("B", 2, false);
        assert_eq!(line.next(|name| name == "B"), Some("B2".into()));
        assert_eq!(line.next(|name| name == "B"), None);
        assert_eq!(line.queue.len(), 1);
    }

    #[test]
    fn one_who_waits_knows_about_how_many_go_before_it() {
        let mut line = Line::new(&[]);
        let new: Vec<_> = (0..100).map(|n| line.push("A", 50 + n / 50, false)).collect();
        let ahead = |line: &Line, ticket: &Ticket| line.queue.find(ticket).map(|(_, ahead)| ahead);
        assert_eq!([0, 50, 99].map(|n| ahead(&line, &new[n])), [Some(0), Some(50), Some(99)]);
        let senior = line.push("A", 40, false);
        assert_eq!((ahead(&line, &senior), ahead(&line, &new[99])), (Some(0), Some(100)), "it goes before them all");
        let flapping = line.push("A", 10, true);
        assert_eq!(ahead(&line, &flapping), Some(101));
        let quiet = line.push("B", 60, false);
        assert_eq!((ahead(&line, &quiet), ahead(&line, &senior)), (Some(0), Some(0)));
        assert_eq!(ahead(&line, &new[99]), Some(101), "one of the other lane goes before it");
        (80..99).for_each(|n| drop(line.queue.remove(&new[n])));
        assert_eq!(ahead(&line, &new[99]), Some(82));
        (0..40).for_each(|_| drop(line.next(|_| true)));
        assert!(ahead(&line, &new[0]).is_none());
        assert!(ahead(&line, &new[99]).is_some_and(|ahead| (41..=43).contains(&ahead)));
    }

    #[test]
    fn whoever_leaves_gives_everything_back() {
        let mut line = Line::new(&[]);
        let ticket = line.push("A", 1, false);
        assert_eq!(line.accounts.connections().len(), 1);
        assert!(line.queue.remove(&ticket).is_some());
        assert!(line.queue.remove(&ticket).is_none());
        assert!(line.accounts.connections().is_empty() && line.queue.is_empty());
    }

    #[test]
    fn nobody_gets_a_turn_after_the_deadline() {
        let mut line = Line::new(&[]);
        line.push("A", 1, false);
        let late = line.start + Duration::from_secs(10);
        assert!(line.queue.peek(late, |_| true).is_none());
        assert!(line.queue.is_empty() && line.accounts.connections().is_empty());
    }
}
