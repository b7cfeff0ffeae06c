//! Those who wait for their turn: clients of accounts with priority before all others, and each of these two classes fair between
//! its accounts.

pub mod fair_lanes;
pub mod position;
pub mod release;

use std::{sync::Arc, time::Instant};

use crate::{
    admission::{
        deadlines::last_turn,
        queue::fair_lanes::{FairLanes, Rank},
        quota::accounts::AccountSlot,
        reputation::clients::Standing,
        retry_schedule::Appointment,
    },
    client_library::returns::Return,
    identity::ClientKey,
};

/// The far end of a hold, as the queue needs to know it.
pub trait Waiter {
    /// Whether the client has gone: a turn would be wasted on it.
    fn has_left(&self) -> bool;
}

/// One who waits.
#[derive(Debug)]
pub struct Held<W> {
    /// Who is told.
    pub waiter: W,
    /// Its slot in its account's quota, taken at the connect door.
    pub account: AccountSlot,
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

impl<W> Held<W> {
    /// Its last moment for a turn: the login must end in time too, however long logins of its account take by now.
    pub fn last_turn(&self) -> Instant {
        last_turn(self.hold_until, self.answer_by, self.account.account().login_takes())
    }

    /// Its place in the queue.
    pub fn ticket(&self, order: (Rank, u64)) -> Ticket {
        let account = self.account.account();
        Ticket {
            account: Arc::clone(account.name()),
            has_priority: account.has_priority(),
            order,
            client: self.client,
            unpaid: !self.account_paid && account.has_rate(),
        }
    }
}

/// A place in the queue.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub account: Arc<str>,
    has_priority: bool,
    pub order: (Rank, u64),
    pub client: ClientKey,
    /// It was its account's rate that it waited for when it came.
    pub unpaid: bool,
}

/// The queue. Its length is bounded by whoever pushes.
#[derive(Debug)]
pub struct Queue<W> {
    with_priority: FairLanes<W>,
    others: FairLanes<W>,
    arrivals: u64,
    /// When the first client came.
    began: Option<Instant>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { with_priority: FairLanes::default(), others: FairLanes::default(), arrivals: 0, began: None }
    }
}

impl<W: Waiter> Queue<W> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.with_priority.len() + self.others.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many have joined it in all.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    fn fair_lanes(&mut self, has_priority: bool) -> &mut FairLanes<W> {
        if has_priority { &mut self.with_priority } else { &mut self.others }
    }

    /// Joins the lane of its account.
    pub fn push(&mut self, held: Held<W>, standing: Standing) -> Ticket {
        self.arrivals += 1;
        let rank = Rank::of(standing, *self.began.get_or_insert(standing.since));
        let ticket = held.ticket((rank, self.arrivals));
        self.fair_lanes(ticket.has_priority).push(ticket.order, held);
        ticket
    }

    /// One who waits, and about how many go before it.
    pub fn find(&self, ticket: &Ticket) -> Option<(&Held<W>, usize)> {
        if ticket.has_priority {
            return self.with_priority.find(ticket);
        }
        self.others.find(ticket).map(|(held, ahead)| (held, ahead + self.with_priority.len()))
    }

    /// It is known when it is to leave, and to come back; or, with none, it stays after all. Returns what was known before.
    pub fn appoint(&mut self, ticket: &Ticket, appointment: Option<Appointment>) -> Option<Appointment> {
        self.fair_lanes(ticket.has_priority).appoint(ticket, appointment)
    }

    /// Leaves the queue; `None` when the turn has come already.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<Held<W>> {
        self.fair_lanes(ticket.has_priority).remove(ticket)
    }

    /// The next to go, still in its place. Accounts for whose first `may_go` is false are passed over; those who left, or whose
    /// time is up, are dropped on the way.
    pub fn peek(&mut self, now: Instant, mut may_go: impl FnMut(&mut Held<W>) -> bool) -> Option<(Ticket, &Held<W>)> {
        let first = self.with_priority.peek(now, &mut may_go);
        let ticket = first.or_else(|| self.others.peek(now, &mut may_go))?;
        let held = self.fair_lanes(ticket.has_priority).get(&ticket)?;
        Some((ticket, held))
    }

    /// Takes the one that [`Queue::peek`] named out of the queue and spends a turn of its lane.
    pub fn take(&mut self, next: &Ticket) -> Option<Held<W>> {
        self.fair_lanes(next.has_priority).take(next)
    }

    /// Sends everybody away.
    pub fn clear(&mut self) {
        (self.with_priority, self.others) = (FairLanes::default(), FairLanes::default());
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::*;
    use crate::admission::{AccountLimits, Accounts};

    struct Stays;

    impl Waiter for Stays {
        fn has_left(&self) -> bool {
            false
        }
    }

    struct Line {
        queue: Queue<Stays>,
        accounts: Accounts,
        start: Instant,
    }

    impl Line {
        fn new(weights: &[(&str, u32)]) -> Self {
            let limits = |weight: u32| AccountLimits { weight: weight.try_into().unwrap(), ..AccountLimits::default() };
            let configured = weights.iter().map(|&(name, w)| (name.to_owned(), limits(w)));
            let priority = ["X", "Y"].map(|name| (name.to_owned(), AccountLimits { priority: true, ..limits(1) }));
            let configured: HashMap<_, _> = configured.chain(priority).collect();
            let accounts = Accounts::new(limits(1), configured, Arc::default());
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
        assert!(line.queue.is_empty());
    }

    #[test]
    fn accounts_with_priority_go_first_and_take_turns_among_each_other() {
        let mut line = Line::new(&[("A", 1000)]);
        for n in 0..3 {
            line.push("A", n, false);
        }
        let last = line.push("A", 3, false);
        for n in 0..3 {
            line.push("X", n, false);
            line.push("Y", n, n == 0);
        }
        assert_eq!(line.queue.find(&last).map(|(_, ahead)| ahead), Some(3 + 6));
        let first = line.push("Y", 0, false);
        assert_eq!(line.queue.find(&first).map(|(_, ahead)| ahead), Some(4), "two of its own, and as many of X");
        assert!(line.queue.remove(&first).is_some() && line.queue.remove(&first).is_none());
        assert_eq!(line.order().concat(), "X0Y1X1Y2X2Y0A0A1A2A3");
        assert!(line.queue.is_empty() && line.queue.remove(&last).is_none());
    }

    #[test]
    fn an_account_with_priority_that_may_not_go_holds_nobody_up() {
        let mut line = Line::new(&[]);
        line.push("X", 0, false);
        line.push("A", 0, false);
        assert_eq!(line.next(|name| name == "A"), Some("A0".into()));
        assert_eq!(line.order(), ["X0"]);
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
