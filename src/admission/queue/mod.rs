//! The queue of clients that wait for their turn: those of accounts with priority before all others. In each of these
//! two classes leafnodes go before clients, and both are fair between their accounts.

mod class;
pub mod fair_lanes;
mod known_first;
pub mod position;
pub mod release;
mod turns_by_credential;
pub mod waiting;

use std::{sync::Arc, time::Instant};

use crate::{
    admission::{
        queue::{
            class::Class,
            fair_lanes::FairLanes,
            waiting::{QueueRank, Ticket, Waiter, WaitingClient},
        },
        reputation::clients::Seniority,
        retry_schedule::ScheduledRetry,
    },
    identity::CredentialKey,
};

/// The queue. Its length is bounded by [`Admission::may_wait`](super::Admission::may_wait).
#[derive(Debug)]
pub struct Queue<W> {
    with_priority: Class<W>,
    others: Class<W>,
    arrivals: u64,
    /// When the first client came.
    began: Option<Instant>,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { with_priority: Class::default(), others: Class::default(), arrivals: 0, began: None }
    }
}

impl<W: Waiter> Queue<W> {
    pub fn len(&self) -> usize {
        self.with_priority.len() + self.others.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many clients have joined it in all.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// How many lanes have a client waiting.
    pub fn lanes(&self) -> usize {
        self.with_priority.lanes() + self.others.lanes()
    }

    /// The lane whose turn is next, its first client, and whether it goes before those without priority.
    pub fn next_lane(&self) -> Option<(&Arc<str>, &WaitingClient<W>, bool)> {
        let first = |class: &'_ Class<W>| class.next_lane().is_some();
        let has_priority = first(&self.with_priority);
        let class = if has_priority { &self.with_priority } else { &self.others };
        class.next_lane().map(|(name, first)| (name, first, has_priority))
    }

    /// This lane has had a turn through another weir.
    pub fn had_turn_elsewhere(&mut self, name: &str) {
        self.with_priority.had_turn_elsewhere(name);
        self.others.had_turn_elsewhere(name);
    }

    /// A server has named the account of a credential that nobody knew.
    pub fn account_is_named(&mut self, credential: CredentialKey) {
        self.with_priority.account_is_named(credential);
        self.others.account_is_named(credential);
    }

    /// This lane could not have its turn for want of a place that others may use meanwhile: it is the first again.
    pub fn keeps_turn(&mut self, ticket: &Ticket) {
        self.fair_lanes(ticket).keeps_turn(&ticket.lane);
    }

    fn class(&mut self, has_priority: bool) -> &mut Class<W> {
        if has_priority { &mut self.with_priority } else { &mut self.others }
    }

    fn fair_lanes(&mut self, ticket: &Ticket) -> &mut FairLanes<W> {
        self.class(ticket.has_priority).fair_lanes(ticket.is_leafnode)
    }

    /// A client joins the lane of its account.
    pub fn push(&mut self, client: WaitingClient<W>, seniority: Seniority) -> Ticket {
        self.arrivals += 1;
        let rank = QueueRank::of(seniority, &client.account, *self.began.get_or_insert(seniority.since));
        let ticket = client.ticket((rank, self.arrivals));
        self.fair_lanes(&ticket).push(ticket.order, client);
        ticket
    }

    /// A client, and about how many go before it.
    pub fn find(&self, ticket: &Ticket) -> Option<(&WaitingClient<W>, usize)> {
        if ticket.has_priority {
            return self.with_priority.find(ticket);
        }
        self.others.find(ticket).map(|(client, ahead)| (client, ahead + self.with_priority.not_passed_over()))
    }

    /// Sets or clears the scheduled retry of a client. Clients with one do not count as being ahead of others. Returns
    /// the previous value.
    pub fn set_scheduled_retry(&mut self, ticket: &Ticket, retry: Option<ScheduledRetry>) -> Option<ScheduledRetry> {
        self.fair_lanes(ticket).set_scheduled_retry(ticket, retry)
    }

    /// A client leaves the queue; `None` when it has left before: its turn has come, or the queue has dropped it.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<WaitingClient<W>> {
        self.fair_lanes(ticket).remove(ticket)
    }

    /// The next client to go, still in its place. Accounts for whose first client `may_go` is false are passed over;
    /// clients that have gone, or whose time is up, are dropped on the way.
    pub fn peek(
        &mut self,
        now: Instant,
        mut may_go: impl FnMut(&mut WaitingClient<W>) -> bool,
    ) -> Option<(Ticket, &WaitingClient<W>)> {
        let first = self.with_priority.peek(now, &mut may_go);
        let ticket = first.or_else(|| self.others.peek(now, &mut may_go))?;
        let client = self.fair_lanes(&ticket).get(&ticket)?;
        Some((ticket, client))
    }

    /// A client that waits.
    pub fn get_mut(&mut self, ticket: &Ticket) -> Option<&mut WaitingClient<W>> {
        self.fair_lanes(ticket).get_mut(ticket)
    }

    /// Takes the client that [`Queue::peek`] named out of the queue.
    pub fn take(&mut self, next: &Ticket) -> Option<WaitingClient<W>> {
        self.class(next.has_priority).take(next)
    }

    /// Drops all clients.
    pub fn clear(&mut self) {
        (self.with_priority, self.others) = (Class::default(), Class::default());
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        admission::{
            AccountLimits, Source,
            client::{Claim, Proof},
            quota::accounts::Accounts,
        },
        client_library::returns::Return,
        identity::{ClientKey, UNKNOWN_ACCOUNT},
    };

    /// A client that stays, and the account that a server names for its login meanwhile.
    #[derive(Default)]
    struct StayingClient(Option<Arc<str>>, Option<CredentialKey>);

    impl Waiter for StayingClient {
        fn has_left(&self) -> bool {
            false
        }

        fn account_by_now(&self) -> Option<Arc<str>> {
            self.0.clone()
        }

        fn credential(&self) -> Option<CredentialKey> {
            self.1
        }
    }

    struct TestQueue {
        queue: Queue<StayingClient>,
        accounts: Accounts,
        start: Instant,
        /// Of those that come.
        proof: Proof,
    }

    impl TestQueue {
        fn new(weights: &[(&str, u32)]) -> Self {
            let limits = |weight: u32| AccountLimits { weight: weight.try_into().unwrap(), ..AccountLimits::default() };
            let configured = weights.iter().map(|&(name, w)| (name.to_owned(), limits(w)));
            let priority = ["X", "Y"].map(|name| (name.to_owned(), AccountLimits { priority: true, ..limits(1) }));
            let configured: HashMap<_, _> = configured.chain(priority).collect();
            let accounts = Accounts::new(limits(1), configured, Arc::default());
            let start = Instant::now();
            let queue = Queue { began: Some(start), ..Queue::default() };
            Self { queue, accounts, start, proof: Proof::Known }
        }

        fn push(&mut self, account: &str, since: u64, flapping: bool) -> Ticket {
            self.push_one(account, since, flapping, false)
        }

        fn push_leafnode(&mut self, account: &str, since: u64) -> Ticket {
            self.push_one(account, since, false, true)
        }

        fn push_with(&mut self, credential: CredentialKey, account: &str, since: u64) -> Ticket {
            self.push_waiter(account, since, false, false, StayingClient(None, Some(credential)))
        }

        fn push_one(&mut self, account: &str, since: u64, flapping: bool, is_leafnode: bool) -> Ticket {
            self.push_waiter(account, since, flapping, is_leafnode, StayingClient::default())
        }

        fn push_waiter(
            &mut self,
            account: &str,
            since: u64,
            flapping: bool,
            is_leafnode: bool,
            waiter: StayingClient,
        ) -> Ticket {
            let account = self.accounts.enter(&account.into(), self.proof, self.start).unwrap();
            let has_priority = account.account().has_priority();
            let client = WaitingClient {
                waiter,
                account,
                source_lane: None,
                has_priority,
                is_leafnode,
                account_paid: false,
                came: self.start,
                hold_until: self.start + Duration::from_secs(10),
                answer_by: self.start + Duration::from_secs(11),
                client: ClientKey::from_raw(since),
                returns: Return::Unknown,
                scheduled_retry: None,
            };
            self.queue.push(client, Seniority { flapping, since: self.start + Duration::from_secs(since) })
        }

        fn next(&mut self, may_go: impl Fn(&str) -> bool) -> Option<String> {
            let (ticket, _) = self.queue.peek(self.start, |client| may_go(client.account.account().name()))?;
            let client = self.queue.take(&ticket).unwrap();
            Some(format!("{}{}", client.account.account().name(), client.client.raw()))
        }

        fn order(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.next(|_| true)).collect()
        }
    }

    #[test]
    fn accounts_take_turns_by_weight() {
        let mut queue = TestQueue::new(&[("A", 1), ("B", 2)]);
        for n in 0..6 {
            queue.push("A", n, false);
        }
        for n in 0..6 {
            queue.push("B", n, false);
        }
        let order = queue.order().concat();
        assert_eq!(order, "A0B0B1A1B2B3A2B4B5A3A4A5");
        assert!(queue.queue.is_empty());
    }

    #[test]
    fn accounts_with_priority_go_first_and_take_turns_among_each_other() {
        let mut queue = TestQueue::new(&[("A", 1000)]);
        for n in 0..3 {
            queue.push("A", n, false);
        }
        let last = queue.push("A", 3, false);
        for n in 0..3 {
            queue.push("X", n, false);
            queue.push("Y", n, n == 0);
        }
        assert_eq!(queue.queue.find(&last).map(|(_, ahead)| ahead), Some(3 + 6));
        let first = queue.push("Y", 0, false);
        assert_eq!(queue.queue.find(&first).map(|(_, ahead)| ahead), Some(4), "two of its own, and as many of X");
        assert!(queue.queue.remove(&first).is_some() && queue.queue.remove(&first).is_none());
        assert_eq!(queue.order().concat(), "X0Y1X1Y2X2Y0A0A1A2A3");
        assert!(queue.queue.is_empty() && queue.queue.remove(&last).is_none());
    }

    /// A reload changes the priority of an account of which a client waits already.
    #[test]
    fn whoever_waits_stays_in_its_class_whatever_priority_its_account_has_by_now() {
        for (account, is_first) in [("A", false), ("X", true)] {
            let mut queue = TestQueue::new(&[]);
            let [ticket, gone] = [0, 1].map(|n| queue.push(account, n, false));
            queue.push("B", 0, false);
            let turned = AccountLimits { priority: !is_first, ..AccountLimits::default() };
            queue.accounts.set_limits(AccountLimits::default(), HashMap::from([(account.into(), turned)]), queue.start);
            let (next, _) = queue.queue.peek(queue.start, |_| true).expect("somebody may go");
            assert_eq!((&*next.lane, next.has_priority), (account, is_first));
            queue.queue.keeps_turn(&next);
            assert!(queue.queue.find(&next).is_some() && queue.queue.remove(&gone).is_some());
            let later = queue.push(account, 2, false);
            assert_eq!(later.has_priority, !is_first, "whoever comes from now on");
            assert!(queue.queue.remove(&ticket).is_some() && queue.queue.remove(&ticket).is_none());
            assert!(queue.queue.remove(&later).is_some());
            assert_eq!(queue.order(), ["B0"]);
        }
    }

    #[test]
    fn leafnodes_go_first_and_leave_one_turn_in_four_to_clients() {
        let mut queue = TestQueue::new(&[]);
        for n in 0..4 {
            queue.push("a", n, false);
        }
        for n in 0..4 {
            queue.push_leafnode("L", n);
            queue.push_leafnode("M", n);
        }
        queue.push("X", 0, false);
        assert_eq!(queue.next(|_| true).as_deref(), Some("X0"), "priority of the account is more");
        assert_eq!(queue.order().concat(), "L0M0L1a0M1L2M2a1L3M3a2a3");
        // However many have gone before the clients came.
        (0..9).for_each(|n| drop(queue.push_leafnode("L", n)));
        (0..5).for_each(|_| drop(queue.next(|_| true)));
        queue.push("a", 0, false);
        assert_eq!(queue.order().concat(), "a0L5L6L7L8");
    }

    #[test]
    fn leafnodes_that_may_not_go_hold_no_client_up_and_clients_no_leafnode() {
        let mut queue = TestQueue::new(&[]);
        (0..5).for_each(|n| drop(queue.push_leafnode("L", n)));
        (0..5).for_each(|n| drop(queue.push("a", n, false)));
        assert_eq!(queue.next(|name| name == "a"), Some("a0".into()));
        let leafnodes: Vec<_> = (0..5).filter_map(|_| queue.next(|name| name == "L")).collect();
        assert_eq!(leafnodes.concat(), "L0L1L2L3L4");
        assert_eq!(queue.order().concat(), "a1a2a3a4");
    }

    /// Clients of account A that came before a server had named it wait in the lane of unknown accounts, those that
    /// come later in a lane of their own.
    #[test]
    fn an_account_that_was_unknown_at_first_has_the_turns_of_one() {
        let mut queue = TestQueue::new(&[]);
        for n in 0..4 {
            let ticket = queue.push(UNKNOWN_ACCOUNT, n, false);
            queue.queue.get_mut(&ticket).unwrap().waiter = StayingClient(Some("A".into()), None);
        }
        for n in 0..6 {
            queue.push("A", n, false);
            queue.push("B", n, false);
        }
        queue.push("A", 9, false);
        assert_eq!(queue.next(|_| true).as_deref(), Some("default0"));
        queue.queue.had_turn_elsewhere("A");
        let order = queue.order().concat();
        assert_eq!(order, "B0default1B1default2B2default3B3A0B4A1B5A2A3A4A5A9");
    }

    /// Clients of two credentials that nobody knows, one of which storms.
    #[test]
    fn a_storm_of_one_credential_does_not_delay_another_where_nobody_knows_their_accounts() {
        let mut queue = TestQueue::new(&[]);
        let push = |queue: &mut TestQueue, n: u64, credential: u64| {
            let ticket = queue.push_with(CredentialKey::from_raw(credential), UNKNOWN_ACCOUNT, n);
            (queue.queue.find(&ticket).unwrap().1, ticket)
        };
        (0..1000).for_each(|n| drop(push(&mut queue, n / 100, 1)));
        (0..10).for_each(|_| drop(queue.next(|_| true)));
        let (ahead, quiet) = push(&mut queue, 2000, 2);
        assert_eq!(ahead, 1);
        let (ahead, _) = push(&mut queue, 2000, 1);
        assert_eq!(ahead, 991, "with its own credential, and one with the other");
        let first: Vec<_> = (0..2).filter_map(|_| queue.next(|_| true)).collect();
        assert!(first.contains(&"default2000".to_owned()), "{first:?}");
        assert!(queue.queue.remove(&quiet).is_none());
    }

    /// In front of servers that send a nonce each source is a lane, mostly of one client.
    #[test]
    fn ten_thousand_lanes_of_one_client_are_served_in_order() {
        let mut queue = TestQueue::new(&[]);
        let lanes: Vec<_> = (0..10_000).map(|n| format!("source {n} ")).collect();
        let tickets: Vec<_> = lanes.iter().map(|lane| queue.push(lane, 0, false)).collect();
        // Every tenth leaves.
        let began = Instant::now();
        tickets.iter().step_by(10).for_each(|ticket| drop(queue.queue.remove(ticket)));
        let order = queue.order();
        println!("9,000 turns and 1,000 leaves took {:?}", began.elapsed());
        let stay = lanes.iter().enumerate().filter(|(n, _)| n % 10 != 0).map(|(_, lane)| format!("{lane}0"));
        assert!(order.iter().eq(stay.collect::<Vec<_>>().iter()));
    }

    #[test]
    fn an_account_with_priority_that_may_not_go_holds_nobody_up() {
        let mut queue = TestQueue::new(&[]);
        queue.push("X", 0, false);
        queue.push("A", 0, false);
        assert_eq!(queue.next(|name| name == "A"), Some("A0".into()));
        assert_eq!(queue.order(), ["X0"]);
    }

    #[test]
    fn a_storm_of_one_account_does_not_delay_another() {
        let mut queue = TestQueue::new(&[]);
        for n in 0..1000 {
            queue.push("storm", n, false);
        }
        queue.next(|_| true);
        queue.push("quiet", 2000, false);
        let first: Vec<_> = (0..2).filter_map(|_| queue.next(|_| true)).collect();
        assert!(first.contains(&"quiet2000".to_owned()), "{first:?}");
    }

    #[test]
    fn within_an_account_the_longest_refused_go_first_and_the_flapping_last() {
        let mut queue = TestQueue::new(&[]);
        for (since, flapping) in [(15, false), (1, true), (3, false), (9, false)] {
            queue.push("A", since, flapping);
        }
        assert_eq!(queue.order(), ["A3", "A9", "A15", "A1"]);
    }

    #[test]
    fn an_account_that_may_not_go_is_passed_over() {
        let mut queue = TestQueue::new(&[]);
        queue.push("A", 1, false);
        queue.push("B", 2, false);
        assert_eq!(queue.next(|name| name == "B"), Some("B2".into()));
        assert_eq!(queue.next(|name| name == "B"), None);
        assert_eq!(queue.queue.len(), 1);
    }

    #[test]
    fn one_who_waits_knows_about_how_many_go_before_it() {
        let mut queue = TestQueue::new(&[]);
        let new: Vec<_> = (0..100).map(|n| queue.push("A", 50 + n / 50, false)).collect();
        let ahead = |queue: &TestQueue, ticket: &Ticket| queue.queue.find(ticket).map(|(_, ahead)| ahead);
        assert_eq!([0, 50, 99].map(|n| ahead(&queue, &new[n])), [Some(0), Some(50), Some(99)]);
        let senior = queue.push("A", 40, false);
        assert_eq!((ahead(&queue, &senior), ahead(&queue, &new[99])), (Some(0), Some(100)), "it goes before them all");
        let flapping = queue.push("A", 10, true);
        assert_eq!(ahead(&queue, &flapping), Some(101));
        let quiet = queue.push("B", 60, false);
        assert_eq!((ahead(&queue, &quiet), ahead(&queue, &senior)), (Some(0), Some(0)));
        assert_eq!(ahead(&queue, &new[99]), Some(101), "one of the other lane goes before it");
        (80..99).for_each(|n| drop(queue.queue.remove(&new[n])));
        assert_eq!(ahead(&queue, &new[99]), Some(82));
        (0..40).for_each(|_| drop(queue.next(|_| true)));
        assert!(ahead(&queue, &new[0]).is_none());
        assert!(ahead(&queue, &new[99]).is_some_and(|ahead| (41..=43).contains(&ahead)));
    }

    proptest! {
        /// The estimate of every client beside the order in which clients do go. Both are about the same rounds, in
        /// which the lanes take turns; the estimate does not know how far the round of today is.
        #[test]
        fn how_many_go_before_is_right_to_one_round_by_weight_and_without_those_who_may_not_go(
            lanes in prop::collection::btree_map(1u32..200, (0usize..60, 1usize..30, any::<bool>()), 1..6),
        ) {
            let names: Vec<_> = lanes.keys().map(|weight| (format!("{weight} "), *weight)).collect();
            let mut queue = TestQueue::new(&names.iter().map(|(name, weight)| (&**name, *weight)).collect::<Vec<_>>());
            let may_go = |name: &str| lanes[&name.trim().parse::<u32>().unwrap()].2;
            let mut tickets = HashMap::new();
            for (name, weight) in &names {
                let (clients, leave_every, _) = lanes[weight];
                for n in 0..clients as u64 {
                    tickets.insert(format!("{name}{n}"), queue.push(name, n, false));
                }
                for n in (0..clients).step_by(leave_every).skip(1) {
                    queue.queue.remove(&tickets.remove(&format!("{name}{n}")).unwrap());
                }
            }
            // After it, every lane has had its turn once.
            let all: usize = lanes.values().map(|(clients, ..)| clients).sum();
            for _ in 0..all.min(lanes.keys().sum::<u32>() as usize) {
                queue.next(may_go);
            }
            let ahead: HashMap<_, _> =
                tickets.iter().filter_map(|(name, ticket)| Some((name, queue.queue.find(ticket)?.1))).collect();
            let order: Vec<_> = std::iter::from_fn(|| queue.next(may_go)).collect();
            for (went_before, name) in order.iter().enumerate() {
                let own = name.split(' ').next().unwrap().parse::<u32>().unwrap();
                let others = lanes.iter().filter(|(weight, (.., goes))| **weight != own && *goes);
                let round: usize = others.map(|(weight, (clients, ..))| (*weight as usize).min(*clients)).sum();
                prop_assert!(ahead[name].abs_diff(went_before) <= round, "{name}: {} and {went_before}", ahead[name]);
            }
        }
    }

    proptest! {
        /// Leafnodes that wait in clients' midst: how many go before each one, and who is ahead in each part of the
        /// order.
        #[test]
        fn leafnodes_and_clients_know_how_many_go_before_them_and_neither_starves(
            leafnodes in 0u64..60, clients in 0u64..60, gone in 0usize..20,
        ) {
            let mut queue = TestQueue::new(&[]);
            let mut tickets = HashMap::new();
            (0..leafnodes).for_each(|n| drop(tickets.insert(format!("L{n}"), queue.push_leafnode("L", n))));
            (0..clients).for_each(|n| drop(tickets.insert(format!("a{n}"), queue.push("a", n, false))));
            (0..gone).filter_map(|_| queue.next(|_| true)).for_each(|name| drop(tickets.remove(&name)));
            let ahead: HashMap<_, _> =
                tickets.iter().map(|(name, ticket)| (name.clone(), queue.queue.find(ticket).unwrap().1)).collect();
            let order = queue.order();
            prop_assert_eq!(order.len(), tickets.len());
            for (went_before, name) in order.iter().enumerate() {
                prop_assert!(ahead[name].abs_diff(went_before) <= 1, "{}: {} and {}", name, ahead[name], went_before);
            }
            let is_leafnode: Vec<_> = order.iter().map(|name| name.starts_with('L')).collect();
            let last = |kind: bool| is_leafnode.iter().rposition(|one| *one == kind);
            if let (Some(leafnode), Some(client)) = (last(true), last(false)) {
                // As long as both wait.
                for four in is_leafnode[..=leafnode.min(client)].windows(4) {
                    let leafnodes = four.iter().filter(|one| **one).count();
                    prop_assert_eq!(leafnodes, 3, "{:?}", &order);
                }
            }
        }
    }

    proptest! {
        /// Known clients and others, of which some have gone: how many go before each, and who goes when.
        #[test]
        fn one_turn_in_ten_is_for_those_who_are_not_known(known in 0u64..90, unknown in 0u64..30, gone in 0usize..20) {
            let mut queue = TestQueue::new(&[]);
            let mut tickets = HashMap::new();
            queue.proof = Proof::Missing(Claim { source: Source::NOWHERE, credential: CredentialKey::from_raw(1) });
            (0..unknown).for_each(|n| drop(tickets.insert(format!("A{n}"), queue.push("A", n, false))));
            queue.proof = Proof::Known;
            (100..100 + known).for_each(|n| drop(tickets.insert(format!("A{n}"), queue.push("A", n, false))));
            (0..gone).filter_map(|_| queue.next(|_| true)).for_each(|name| drop(tickets.remove(&name)));
            let ahead: HashMap<_, _> =
                tickets.iter().map(|(name, ticket)| (name.clone(), queue.queue.find(ticket).unwrap().1)).collect();
            let order = queue.order();
            for (went_before, name) in order.iter().enumerate() {
                prop_assert_eq!(ahead[name], went_before, "{} of {:?}", name, &order);
            }
            let is_known = |name: &String| name.len() == 4;
            let last = |known| order.iter().rposition(|name| is_known(name) == known).map_or(0, |last| last + 1);
            for ten in order[..last(true).min(last(false))].windows(10) {
                prop_assert_eq!(ten.iter().filter(|name| is_known(name)).count(), 9, "{:?}", &order);
            }
        }
    }

    #[test]
    fn an_account_of_little_weight_knows_how_many_of_a_heavy_one_go_before_it() {
        let mut queue = TestQueue::new(&[("light", 1), ("heavy", 1000)]);
        let heavy: Vec<_> = (0..5000).map(|n| queue.push("heavy", n / 5000, false)).collect();
        let light: Vec<_> = (0..10).map(|_| queue.push("light", 0, false)).collect();
        let ahead = |ticket: &Ticket| queue.queue.find(ticket).map(|(_, ahead)| ahead);
        assert_eq!([0, 1, 3, 9].map(|n| ahead(&light[n])), [0, 1001, 3003, 5009].map(Some));
        assert_eq!([500, 1000, 4999].map(|n| ahead(&heavy[n])), [501, 1001, 5004].map(Some));
    }

    #[test]
    fn those_who_may_not_go_are_not_waited_for() {
        let mut queue = TestQueue::new(&[]);
        for n in 0..50 {
            ["A", "B", "X"].iter().for_each(|account| drop(queue.push(account, n, false)));
        }
        let last = queue.push("C", 50, false);
        let last_but = queue.push("C", 51, false);
        let ahead = |queue: &TestQueue| [&last, &last_but].map(|ticket| queue.queue.find(ticket).unwrap().1);
        assert_eq!(ahead(&queue), [50, 50 + 1 + 2], "two lanes send as many, and the one with priority all");
        assert_eq!(queue.next(|account| account == "B"), Some("B0".into()));
        assert_eq!(ahead(&queue), [0, 1 + 1]);
        for name in ["A0", "A1"] {
            assert_eq!(queue.next(|account| account == "A"), Some(name.into()));
        }
        assert_eq!(ahead(&queue), [0, 1 + 1], "B is passed over, and A no more");
    }

    #[test]
    fn whoever_leaves_gives_everything_back() {
        let mut queue = TestQueue::new(&[]);
        let ticket = queue.push("A", 1, false);
        assert_eq!(queue.accounts.connections().len(), 1);
        assert!(queue.queue.remove(&ticket).is_some());
        assert!(queue.queue.remove(&ticket).is_none());
        assert!(queue.accounts.connections().is_empty() && queue.queue.is_empty());
    }

    #[test]
    fn nobody_gets_a_turn_after_the_deadline() {
        let mut queue = TestQueue::new(&[]);
        queue.push("A", 1, false);
        let late = queue.start + Duration::from_secs(10);
        assert!(queue.queue.peek(late, |_| true).is_none());
        assert!(queue.queue.is_empty() && queue.accounts.connections().is_empty());
    }
}
