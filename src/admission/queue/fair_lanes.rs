//! A lane for each account, or for each source where nobody but the clients has said who they are, served by deficit
//! round robin: each lane in its turn sends as many clients as its weight. Within a lane clients go by rank, then by
//! arrival, but for the turns that [`KnownFirst`] leaves to those who are not known.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use crate::{
    admission::{
        queue::{
            known_first::KnownFirst,
            position::Positions,
            turns_by_credential::TurnsByCredential,
            waiting::{QueueOrder, QueueRank, Ticket, Waiter, WaitingClient},
        },
        retry_schedule::ScheduledRetry,
    },
    identity::{CredentialKey, UNKNOWN_ACCOUNT},
};

/// So many lanes are passed over at a time, some 0.1 ms under the lock of the queue. The next look goes on behind them.
const MOST_PASSED_OVER: usize = 1000;

/// The clients of one account.
#[derive(Debug)]
struct Lane<W> {
    /// Each with its position among the clients of its rank.
    waiting: BTreeMap<QueueOrder, (u64, WaitingClient<W>)>,
    ranks: BTreeMap<QueueRank, SameRank>,
    /// Where nobody knows whose clients they are: their credentials take turns.
    by_credential: Option<Box<TurnsByCredential>>,
    /// Where they are clients of one account: how those that are known and the others take turns.
    known_first: KnownFirst,
    /// How many clients it may send before the next lane's turn.
    weight: NonZeroU32,
    /// How many of these are left.
    deficit: u32,
    /// Its account could not go when the lane's turn last came: nobody waits for its clients.
    is_passed_over: bool,
    /// Its place in the sequence of the lanes.
    place: i64,
}

impl<W> Lane<W> {
    /// Its next client to go, and the order of that.
    fn first(&self) -> Option<(QueueOrder, &WaitingClient<W>)> {
        let by_credential = self.by_credential.as_ref().and_then(|turns| turns.first());
        let order = match by_credential {
            Some((_, order)) => order,
            None => self
                .known_first
                .next(self.first_of_all()?, |from| self.waiting.range(from..).next().map(|(order, _)| *order)),
        };
        self.waiting.get(&order).map(|(_, client)| (order, client))
    }

    fn first_of_all(&self) -> Option<QueueOrder> {
        self.waiting.first_key_value().map(|(order, _)| *order)
    }

    /// The known client that goes where it is the turn of this one that is not known, and it may not: what it lacks,
    /// such as a token that is for known clients alone, keeps nobody else out.
    fn known_instead_of(&self, unknown: QueueOrder) -> Option<QueueOrder> {
        let known = match &self.by_credential {
            Some(turns) => turns.first_known(),
            None => self.first_of_all(),
        };
        known.filter(|known| unknown.0.is_unknown() && !known.0.is_unknown() && known.0.is_like(unknown.0))
    }

    /// How many of its clients go before one of this rank that has this position there.
    fn before(&self, rank: QueueRank, position: u64) -> usize {
        let own = self.ranks.get(&rank).map_or(0, |same_rank| same_rank.positions.before(position));
        let (mut better, mut known, mut unknown) = (0, 0, 0);
        for (other, same_rank) in self.ranks.range(..rank) {
            let clients = match (other.is_like(rank), other.is_unknown()) {
                (false, _) => &mut better,
                (true, false) => &mut known,
                (true, true) => &mut unknown,
            };
            *clients += same_rank.positions.len();
        }
        better
            + match rank.is_unknown() {
                true => self.known_first.before_unknown(unknown + own, known),
                false => {
                    let unknown = self.ranks.range(rank.first_unknown()..).take_while(|(other, _)| other.is_like(rank));
                    let unknown = unknown.map(|(_, same_rank)| same_rank.positions.len()).sum();
                    self.known_first.before_known(known + own, unknown)
                }
            }
    }
}

/// The clients of one rank in a lane.
#[derive(Debug, Default)]
struct SameRank {
    waiting: usize,
    /// The positions of clients without a scheduled retry. The others leave before their turn, so nobody waits for
    /// theirs.
    positions: Positions,
}

/// The lanes of one weight, without those that are passed over.
#[derive(Debug, Default, Clone, Copy)]
struct SameWeight {
    lanes: usize,
    waiting: usize,
}

/// The lanes of all accounts that have a client waiting.
#[derive(Debug)]
pub struct FairLanes<W> {
    lanes: HashMap<Arc<str>, Lane<W>>,
    /// Every lane exactly once, by its place; the first one is served. A tree, since in front of servers that send a
    /// nonce each source is a lane, which comes and goes with one client.
    sequence: BTreeMap<i64, Arc<str>>,
    /// The place before all others, and the one behind them.
    first_place: i64,
    next_place: i64,
    waiting: usize,
    /// As few as there are weights in the configuration, so that an estimate need not look at every lane.
    by_weight: BTreeMap<NonZeroU32, SameWeight>,
}

impl<W> Default for FairLanes<W> {
    fn default() -> Self {
        let (lanes, sequence, by_weight) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { lanes, sequence, first_place: -1, next_place: 0, waiting: 0, by_weight }
    }
}

impl<W: Waiter> FairLanes<W> {
    /// How many clients wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// How many clients wait in lanes that are not passed over.
    pub fn not_passed_over(&self) -> usize {
        self.by_weight.values().map(|same_weight| same_weight.waiting).sum()
    }

    /// A client joins the lane of its account, in this order.
    pub fn push(&mut self, order: QueueOrder, client: WaitingClient<W>) {
        let rank = order.0;
        let (name, weight) = (client.lane(), client.weight());
        let lane = match self.lanes.get_mut(name) {
            Some(lane) => lane,
            None => {
                let place = self.next_place;
                self.next_place += 1;
                self.sequence.insert(place, Arc::clone(name));
                self.by_weight.entry(weight).or_default().lanes += 1;
                let (waiting, ranks) = (BTreeMap::new(), BTreeMap::new());
                let by_credential = (**name == *UNKNOWN_ACCOUNT).then(Box::default);
                let (known_first, deficit, is_passed_over) = (KnownFirst::default(), 0, false);
                let lane = Lane { waiting, ranks, by_credential, known_first, weight, deficit, is_passed_over, place };
                self.lanes.entry(Arc::clone(name)).or_insert(lane)
            }
        };
        let before = std::mem::replace(&mut lane.weight, weight);
        if before != weight && !lane.is_passed_over {
            // The configuration has another weight for the account by now.
            let waiting = lane.waiting.len();
            if let Some(same_weight) = self.by_weight.get_mut(&before) {
                same_weight.lanes -= 1;
                same_weight.waiting -= waiting;
            }
            let same_weight = self.by_weight.entry(weight).or_default();
            same_weight.lanes += 1;
            same_weight.waiting += waiting;
        }
        if !lane.is_passed_over {
            self.by_weight.entry(lane.weight).or_default().waiting += 1;
        }
        let same_rank = lane.ranks.entry(rank).or_default();
        same_rank.waiting += 1;
        if let Some(turns) = &mut lane.by_credential {
            turns.push(client.waiter.credential(), order);
        }
        lane.waiting.insert(order, (same_rank.positions.take(), client));
        if same_rank.positions.are_many()
            && let Some((_, (first, _))) = lane.waiting.range((rank, 0)..).next()
        {
            same_rank.positions.forget(*first);
        }
        self.waiting += 1;
    }

    /// How many lanes have a client waiting.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The lane whose turn is next, and its first client.
    pub fn next_lane(&self) -> Option<(&Arc<str>, &WaitingClient<W>)> {
        let (_, name) = self.sequence.first_key_value()?;
        let (_, first) = self.lanes.get(name)?.first()?;
        Some((name, first))
    }

    /// This lane has had a turn through another weir: it goes behind all others. So do, before it, the clients in the
    /// lane of unknown accounts whose turn is next there and who are of the same account by now: behind those of other
    /// credentials, or with that lane where there are no others.
    pub fn had_turn_elsewhere(&mut self, name: &str) {
        let unknown = self
            .lanes
            .get_mut(UNKNOWN_ACCOUNT)
            .filter(|lane| lane.first().and_then(|(_, first)| first.lane_by_now()).is_some_and(|lane| *lane == *name));
        if let Some(lane) = unknown {
            match lane.by_credential.as_mut().filter(|turns| turns.len() > 1) {
                Some(turns) => {
                    if let Some((credential, (rank, _))) = turns.first() {
                        turns.had_turn(credential, rank);
                    }
                }
                None => self.goes_behind(UNKNOWN_ACCOUNT),
            }
        }
        self.goes_behind(name);
    }

    /// A server has named the account of a credential that nobody knew.
    pub fn account_is_named(&mut self, credential: CredentialKey) {
        if let Some(turns) = self.lanes.get_mut(UNKNOWN_ACCOUNT).and_then(|lane| lane.by_credential.as_mut()) {
            turns.account_is_named(Some(credential));
        }
    }

    /// This lane goes behind all others.
    fn goes_behind(&mut self, name: &str) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        if let Some(name) = self.sequence.remove(&lane.place) {
            (lane.place, lane.deficit) = (self.next_place, 0);
            self.next_place += 1;
            self.sequence.insert(lane.place, name);
        }
    }

    /// This lane could not have its turn for want of a place that others may use meanwhile: it is the first again.
    pub fn keeps_turn(&mut self, name: &str) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        if let Some(name) = self.sequence.remove(&lane.place) {
            lane.place = self.first_place;
            self.first_place -= 1;
            self.sequence.insert(lane.place, name);
        }
    }

    pub fn get(&self, ticket: &Ticket) -> Option<&WaitingClient<W>> {
        Some(&self.lanes.get(&ticket.lane)?.waiting.get(&ticket.order)?.1)
    }

    pub fn get_mut(&mut self, ticket: &Ticket) -> Option<&mut WaitingClient<W>> {
        Some(&mut self.lanes.get_mut(&ticket.lane)?.waiting.get_mut(&ticket.order)?.1)
    }

    /// A client, and about how many clients of these lanes go before it: those of its lane with a better rank, those of
    /// its rank that came before it, and of each other lane as many as it sends meanwhile by its weight, if it has so
    /// many. Lanes that are passed over do not count, nor do clients with a scheduled retry: they leave before their
    /// turn.
    pub fn find(&self, ticket: &Ticket) -> Option<(&WaitingClient<W>, usize)> {
        let lane = self.lanes.get(&ticket.lane)?;
        let (position, client) = lane.waiting.get(&ticket.order)?;
        let in_lane = lane.before(ticket.order.0, *position);
        let most = lane.by_credential.as_ref().map(|turns| turns.most_before(client.waiter.credential()));
        let in_lane = most.map_or(in_lane, |most| most.min(in_lane));
        let of_weight = |(weight, same_weight): (&NonZeroU32, &SameWeight)| {
            let is_own = !lane.is_passed_over && *weight == lane.weight;
            let lanes = same_weight.lanes - usize::from(is_own);
            let waiting = same_weight.waiting - if is_own { lane.waiting.len() } else { 0 };
            let sends = in_lane.saturating_mul(lanes).saturating_mul(weight.get() as usize);
            waiting.min(sends.div_ceil(lane.weight.get() as usize))
        };
        Some((client, in_lane + self.by_weight.iter().map(of_weight).sum::<usize>()))
    }

    /// Sets or clears the scheduled retry of a client. Clients with one do not count as being ahead of others. Returns
    /// the previous value.
    pub fn set_scheduled_retry(&mut self, ticket: &Ticket, retry: Option<ScheduledRetry>) -> Option<ScheduledRetry> {
        let lane = self.lanes.get_mut(&ticket.lane)?;
        let (position, client) = lane.waiting.get_mut(&ticket.order)?;
        let before = std::mem::replace(&mut client.scheduled_retry, retry);
        if let Some(same_rank) = lane.ranks.get_mut(&ticket.order.0) {
            match (before, retry) {
                (None, Some(_)) => same_rank.positions.give_back(*position),
                (Some(_), None) => same_rank.positions.take_again(*position),
                _ => {}
            }
        }
        before
    }

    /// A client leaves its lane; `None` when it has left before.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<WaitingClient<W>> {
        let rank = ticket.order.0;
        let lane = self.lanes.get_mut(&ticket.lane)?;
        let (position, client) = lane.waiting.remove(&ticket.order)?;
        if let Some(turns) = &mut lane.by_credential {
            turns.remove(client.waiter.credential(), ticket.order);
        }
        if let Some(same_rank) = lane.ranks.get_mut(&rank) {
            same_rank.waiting -= 1;
            if client.scheduled_retry.is_none() {
                same_rank.positions.give_back(position);
            }
            if same_rank.waiting == 0 {
                lane.ranks.remove(&rank);
            }
        }
        self.waiting -= 1;
        let is_empty = lane.waiting.is_empty();
        if !lane.is_passed_over
            && let Some(same_weight) = self.by_weight.get_mut(&lane.weight)
        {
            same_weight.waiting -= 1;
            same_weight.lanes -= usize::from(is_empty);
        }
        if is_empty {
            self.sequence.remove(&lane.place);
            self.lanes.remove(&ticket.lane);
        }
        Some(client)
    }

    /// The next client to go, still in its place. Lanes for whose first client `may_go` is false are passed over;
    /// clients that have gone, or whose time is up, are dropped on the way.
    pub fn peek(&mut self, now: Instant, mut may_go: impl FnMut(&mut WaitingClient<W>) -> bool) -> Option<Ticket> {
        let mut passed_over = 0;
        loop {
            if passed_over >= self.sequence.len().min(MOST_PASSED_OVER) {
                return None;
            }
            let (_, account) = self.sequence.first_key_value()?;
            let lane = self.lanes.get_mut(account)?;
            let (order, _) = lane.first()?;
            let (_, first) = lane.waiting.get_mut(&order)?;
            let is_gone = |client: &WaitingClient<W>| client.waiter.has_left() || now >= client.last_turn();
            if is_gone(first) {
                let ticket = first.ticket(order);
                self.remove(&ticket);
                continue;
            }
            let mut next = may_go(first).then(|| first.ticket(order));
            if next.is_none()
                && let Some(order) = lane.known_instead_of(order)
                && let Some((_, known)) = lane.waiting.get_mut(&order)
            {
                if is_gone(known) {
                    let ticket = known.ticket(order);
                    self.remove(&ticket);
                    continue;
                }
                next = may_go(known).then(|| known.ticket(order));
            }
            if let Some(next) = next {
                if lane.deficit == 0 {
                    lane.deficit = lane.weight.get();
                }
                if std::mem::take(&mut lane.is_passed_over) {
                    let same_weight = self.by_weight.entry(lane.weight).or_default();
                    same_weight.lanes += 1;
                    same_weight.waiting += lane.waiting.len();
                }
                return Some(next);
            } else {
                lane.deficit = 0;
                if !std::mem::replace(&mut lane.is_passed_over, true)
                    && let Some(same_weight) = self.by_weight.get_mut(&lane.weight)
                {
                    same_weight.lanes -= 1;
                    same_weight.waiting -= lane.waiting.len();
                }
                self.rotate();
                passed_over += 1;
            }
        }
    }

    /// Takes the client that [`FairLanes::peek`] named out of its lane, and counts it against the lane's deficit. Where
    /// a server has named its account since, those of the account that come now wait in the account's own lane: that
    /// lane has had a turn with this client, so that one account has not the turns of two.
    pub fn take(&mut self, next: &Ticket) -> Option<WaitingClient<W>> {
        let lane = self.lanes.get_mut(&next.lane)?;
        lane.deficit = lane.deficit.saturating_sub(1);
        lane.known_first.had_turn(next.order.0);
        if let Some(turns) = &mut lane.by_credential
            && let Some((_, client)) = lane.waiting.get(&next.order)
        {
            turns.had_turn(client.waiter.credential(), next.order.0);
        }
        let round_over = lane.deficit == 0;
        let client = self.remove(next);
        if round_over && self.sequence.first_key_value().is_some_and(|(_, first)| *first == next.lane) {
            self.rotate();
        }
        if let Some(lane) = client.as_ref().and_then(WaitingClient::lane_by_now) {
            self.goes_behind(&lane);
        }
        client
    }

    /// The first lane goes behind all others.
    fn rotate(&mut self) {
        if let Some(first) = self.sequence.first_key_value().map(|(_, name)| Arc::clone(name)) {
            self.goes_behind(&first);
        }
    }
}
