//! A client in the queue, and its place there.

use std::{num::NonZeroU32, sync::Arc, time::Instant};

use crate::{
    admission::{
        deadlines::last_turn, quota::account::AccountSlot, reputation::clients::Seniority,
        retry_schedule::ScheduledRetry,
    },
    client_library::returns::Return,
    identity::{ClientKey, CredentialKey},
    outcome::Refusal,
};

/// The far end of a client in the queue: a session, or its like in a simulation.
pub trait Waiter {
    /// Whether the client has gone: a turn would be wasted on it.
    fn has_left(&self) -> bool;

    /// What it has shown to say who it is. Clients whose account nobody knows take turns by it.
    fn credential(&self) -> Option<CredentialKey> {
        None
    }

    /// The account that a server has named for its login since the client began to wait.
    fn account_by_now(&self) -> Option<Arc<str>> {
        None
    }
}

/// A client in the queue.
#[derive(Debug)]
pub struct WaitingClient<W> {
    /// Gets the pass when its turn comes.
    pub waiter: W,
    /// Its slot in its account's quota, taken at the connect check.
    pub account: AccountSlot,
    /// The lane of its source, where it does not wait in that of its account.
    pub source_lane: Option<Arc<str>>,
    /// Whether it waits among those who go first. Its place in the queue is there, so this stays as it was when the
    /// client came, whatever priority a reload gives its account.
    pub has_priority: bool,
    /// Whether it is a leafnode: it goes before clients.
    pub is_leafnode: bool,
    /// Whether it has taken its token of the account's rate.
    pub account_paid: bool,
    /// When it began to wait.
    pub came: Instant,
    /// It is admitted no later than this.
    pub hold_until: Instant,
    /// It must have its PONG by then.
    pub answer_by: Instant,
    pub client: ClientKey,
    /// When it comes back once it is refused.
    pub returns: Return,
    /// Where it is to be refused at its next check, unless its turn comes in time after all: when its retry is
    /// expected.
    pub scheduled_retry: Option<ScheduledRetry>,
}

impl<W> WaitingClient<W> {
    /// The last moment at which a turn is of use to it: the login must end in time too, however long logins of its
    /// account take by now.
    pub fn last_turn(&self) -> Instant {
        last_turn(self.came, self.hold_until, self.answer_by, self.account.account().login_time())
    }

    /// The lane in which it waits.
    pub fn lane(&self) -> &Arc<str> {
        self.source_lane.as_ref().unwrap_or_else(|| self.account.account().name())
    }

    /// How many clients its lane sends in a turn.
    pub fn weight(&self) -> NonZeroU32 {
        if self.source_lane.is_none() { self.account.account().weight() } else { NonZeroU32::MIN }
    }

    /// The ticket of its place.
    pub fn ticket(&self, order: QueueOrder) -> Ticket {
        let account = self.account.account();
        Ticket {
            lane: Arc::clone(self.lane()),
            has_priority: self.has_priority,
            is_leafnode: self.is_leafnode,
            order,
            client: self.client,
            unpaid: !self.account_paid && account.has_rate(),
            waits_for: self.account.waits_for(),
            hold_until: self.hold_until,
        }
    }
}

impl<W: Waiter> WaitingClient<W> {
    /// The lane of its account by now, where it waits in another one: in that of clients whose account nobody knows, or
    /// in that of its source.
    pub fn lane_by_now(&self) -> Option<Arc<str>> {
        self.waiter.account_by_now().filter(|account| account != self.lane())
    }
}

/// A client's place in its lane: by rank, then by arrival.
pub type QueueOrder = (QueueRank, u64);

/// Who goes first: those that have their places in all quotas, since whoever waits for a place of a lease would keep
/// them out with the places that they hold. Then by [`Seniority`]: non-flapping clients first, then those that are
/// known (others get [one turn in ten](super::known_first)), then by how long they have been retrying, in steps of 4 s.
/// Clients of one step go in the order of their arrival. So a waiting client is not displaced by each one that comes
/// back meanwhile, and its turn can be estimated in time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueRank {
    pub(super) waits_for_place: bool,
    flapping: bool,
    unknown: bool,
    step: u64,
}

const RANK_STEP_MILLIS: u128 = 4000;

impl QueueRank {
    /// Steps count from when the first client came.
    pub fn of(seniority: Seniority, account: &AccountSlot, began: Instant) -> Self {
        let since = seniority.since.saturating_duration_since(began).as_millis();
        Self {
            waits_for_place: account.waits_for().is_some(),
            flapping: seniority.flapping,
            unknown: !account.is_known(),
            step: (since / RANK_STEP_MILLIS) as u64,
        }
    }

    /// Whether its client is not known.
    pub fn is_unknown(self) -> bool {
        self.unknown
    }

    /// The first rank of clients that are like those of this one but for not being known.
    pub fn first_unknown(self) -> Self {
        Self { unknown: true, step: 0, ..self }
    }

    /// Whether clients of the other rank are like those of this one but for being known, and for how long they have
    /// been retrying.
    pub fn is_like(self, other: Self) -> bool {
        self.first_unknown() == other.first_unknown()
    }
}

/// Names a place in the queue.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub lane: Arc<str>,
    pub has_priority: bool,
    pub is_leafnode: bool,
    pub order: QueueOrder,
    pub client: ClientKey,
    /// It waited for a token of its account's rate when it came.
    pub unpaid: bool,
    /// It waited for a place of the lease of this quota when it came.
    pub waits_for: Option<Refusal>,
    /// It is admitted no later than this.
    pub hold_until: Instant,
}
