//! Whether and when a client gets in: the accept door, the connect door, the pace and the hold.

pub mod connect_check;
pub mod deadlines;
#[cfg(test)]
mod fairness;
pub mod queue;
pub mod quota;
pub mod reputation;
pub mod retry_schedule;
#[cfg(test)]
mod simulation;
pub mod throughput;
pub mod wait;

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    admission::{
        queue::Queue,
        quota::{
            rate::TokenBucket,
            sources::{SourceSlot, Sources},
            users_and_names::{PatternQuotas, UserAndNameQuotas},
            warned::Warned,
        },
        reputation::{clients::ClientHistory, operators::Operators, sources::SourceReputation},
        throughput::Throughput,
    },
    identity::AccountRule,
    outcome::Refusal,
    upstream::{Servers, Slot, concurrency::baseline::MeasuredFrom},
};

pub use self::connect_check::{Client, Pass, Reservation, Verdict};
pub use crate::{
    admission::{
        deadlines::{DeadlinePolicy, Deadlines},
        queue::{
            Ticket, Waiter,
            release::{Failover, WaitEstimate},
        },
        quota::{
            accounts::{AccountSlot, Accounts},
            limit::{Limit, Permit},
            rate::Rate,
            users_and_names::QuotaIdentity,
        },
        retry_schedule::RetrySchedule,
        wait::{Step, Wait},
    },
    client_library::returns::Return,
};
/// A quota: `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// The most connections at once.
    pub max_connections: Option<u32>,
    /// The most new connections per second.
    pub rate: Option<Rate>,
    /// Whoever is over it is let in all the same, and counted as one that would have been refused.
    pub warn_only: bool,
}

/// What one account may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountLimits {
    /// Connections and new connections per second.
    pub quota: Quota,
    /// Its share of the pace while others wait, relative to the others' (default 1).
    pub weight: NonZeroU32,
    /// Whether its clients take their turns before those of all accounts that have none.
    pub priority: bool,
    /// Its handshakes with servers under way at once: what asks an auth callout, say, is not to be flooded. `None` leaves that to
    /// what the servers are seen to do.
    pub max_handshakes: Option<NonZeroU32>,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self { quota: Quota::default(), weight: NonZeroU32::MIN, priority: false, max_handshakes: None }
    }
}

/// Everything the doors need to know.
#[derive(Debug, Clone)]
pub struct Params {
    /// The pace: new clients per second onto the whole cluster; `None` is no limit.
    pub pace: Option<Rate>,
    /// The most clients that may wait at once, for a turn or for a refusal's delay. Where accounts have priority, a sixteenth of these
    /// places is theirs alone.
    pub max_held: usize,
    /// How long a client may be held, from accept to PONG, while its kind is unknown.
    pub max_hold: Duration,
    /// The same by the `lang` of CONNECT, over the defaults of [`DeadlinePolicy`].
    pub max_hold_by_lang: HashMap<String, Duration>,
    /// A refusal is sent after a random delay up to this, inside the client's deadline.
    pub refusal_spread: Duration,
    /// The most clients of all listeners together.
    pub max_clients: u32,
    /// Quota of each source address (IPv6: /64).
    pub per_source: Quota,
    /// Limits of any account without an entry of its own.
    pub default_account: AccountLimits,
    /// Limits by account name.
    pub accounts: HashMap<String, AccountLimits>,
    /// Which credentials belong to which account, first match wins.
    pub rules: Vec<AccountRule>,
    /// Quotas by user and by client name.
    pub patterns: PatternQuotas,
}

/// Where accounts have priority, this part of the places to wait in is theirs: another account's storm cannot take them.
const KEPT_FOR_PRIORITY: usize = 16;

/// What the accept door hands out; given back on drop.
#[derive(Debug)]
pub struct AcceptPermit {
    _client: Permit,
    _source: SourceSlot,
}

#[derive(Debug)]
struct QueueState<W> {
    queue: Queue<W>,
    /// The pace has no token before this.
    pace_ready_at: Option<Instant>,
    throughput: Throughput,
    retry_schedule: RetrySchedule,
}

/// Both doors, and those who wait at the second. Shared by all workers.
#[derive(Debug)]
pub struct Admission<W> {
    servers: Arc<Servers>,
    sources: Sources,
    users_and_names: UserAndNameQuotas,
    warned: Arc<Warned>,
    accounts: Accounts,
    pace: Option<TokenBucket>,
    deadline_policy: DeadlinePolicy,
    client_history: ClientHistory,
    source_reputation: SourceReputation,
    operators: Operators,
    max_held: usize,
    /// Of those, how many only clients with priority may be.
    kept_for_priority: usize,
    refusal_spread: Duration,
    /// Length of the queue, readable without its lock.
    queued: AtomicUsize,
    /// Refusals that wait for their random delay.
    answered_later: Arc<AtomicUsize>,
    /// Clients that wait for a token of a rate by user or name.
    reserved: Arc<AtomicUsize>,
    /// Handshakes that ended with PONG, in all.
    finished: AtomicU64,
    waiting: Mutex<QueueState<W>>,
    draining: AtomicBool,
}

impl<W: Waiter> Admission<W> {
    /// In front of `servers`.
    pub fn new(params: &Params, servers: Arc<Servers>) -> Self {
        let warned = Arc::<Warned>::default();
        let has_priorities = params.accounts.values().chain([&params.default_account]).any(|limits| limits.priority);
        Self {
            servers,
            sources: Sources::new(params.per_source),
            accounts: Accounts::new(params.default_account, params.accounts.clone(), Arc::clone(&warned)),
            users_and_names: UserAndNameQuotas::new(&params.patterns),
            warned,
            pace: params.pace.map(TokenBucket::new),
            deadline_policy: DeadlinePolicy::new(params.max_hold, params.max_hold_by_lang.clone()),
            client_history: ClientHistory::default(),
            source_reputation: SourceReputation::default(),
            operators: Operators::default(),
            max_held: params.max_held,
            kept_for_priority: if has_priorities { params.max_held.div_ceil(KEPT_FOR_PRIORITY) } else { 0 },
            refusal_spread: params.refusal_spread,
            queued: AtomicUsize::new(0),
            answered_later: Arc::default(),
            reserved: Arc::default(),
            finished: AtomicU64::new(0),
            waiting: Mutex::new(QueueState {
                queue: Queue::default(),
                pace_ready_at: None,
                throughput: Throughput::default(),
                retry_schedule: RetrySchedule::default(),
            }),
            draining: AtomicBool::new(false),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, QueueState<W>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The accept door: only the source is known, and nothing has been read yet. Narrowest limit first.
    ///
    /// # Errors
    /// The reason to refuse with; nothing is taken then.
    pub fn at_accept(&self, limit: &Arc<Limit>, source: IpAddr, now: Instant) -> Result<AcceptPermit, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let source = self.sources.enter(source, now, &self.warned)?;
        let client = limit.try_acquire().ok_or(Refusal::ListenerFull)?;
        Ok(AcceptPermit { _client: client, _source: source })
    }

    /// How long clients wait.
    pub fn deadline_policy(&self) -> &DeadlinePolicy {
        &self.deadline_policy
    }

    /// Connections by account.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Quotas by user and by client name.
    pub fn users_and_names(&self) -> &UserAndNameQuotas {
        &self.users_and_names
    }

    /// What would have been refused.
    pub fn warned(&self) -> &Warned {
        &self.warned
    }

    /// Who keeps failing to log in.
    pub fn source_reputation(&self) -> &SourceReputation {
        &self.source_reputation
    }

    /// Where the system account's clients come from.
    pub fn operators(&self) -> &Operators {
        &self.operators
    }

    /// How many wait for their turn.
    pub fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    /// How many wait for a token of a rate by user or name; they join the others then.
    pub fn reserved(&self) -> usize {
        self.reserved.load(Relaxed)
    }

    /// Whether one more client may wait.
    fn may_wait(&self, has_priority: bool) -> bool {
        let most = if has_priority { self.max_held } else { self.max_held - self.kept_for_priority };
        self.queued() + self.reserved() + self.answered_later() < most
    }

    /// How many wait for a refusal's delay to pass.
    pub fn answered_later(&self) -> usize {
        self.answered_later.load(Relaxed)
    }

    /// The pace in force, in new clients per second: the configured one, or what the servers have been seen to do while
    /// clients wait, whichever is lower; `None` while neither is known.
    pub fn pace(&self, now: Instant) -> Option<f64> {
        let seen = self.waiting().throughput.rate(now);
        self.pace_seeing(seen)
    }

    fn pace_seeing(&self, seen: Option<f64>) -> Option<f64> {
        let configured = self.pace.as_ref().map(|tokens| f64::from(tokens.per_second().get()));
        match (configured, seen) {
            (Some(configured), Some(seen)) => Some(configured.min(seen)),
            (one, other) => one.or(other),
        }
    }

    /// A handshake has ended with the server's PONG after it `took` so long `since` then, while weir itself was so `late`: what servers
    /// are given next follows from that. There is room for the next one; whoever waits for it is given its turn by [`Admission::next_turns`].
    pub fn handshake_finished(
        &self,
        pass: &mut Pass,
        took: Duration,
        since: MeasuredFrom,
        late: Duration,
        now: Instant,
    ) {
        let undisturbed = pass.server.server().is_uncontended();
        let should = pass.account.account().logged_in(now, took, since, late, undisturbed);
        self.passthrough_handshake_finished(&pass.server, took, should, now);
        pass.account.end_handshake();
        pass.server.session_began();
    }

    /// The same where the account stays unknown: such a handshake `should` not take longer than that.
    pub fn passthrough_handshake_finished(&self, server: &Slot, took: Duration, should: Duration, now: Instant) {
        server.server().handshake_finished(now, took, should);
        self.finished.fetch_add(1, Relaxed);
    }

    /// A handshake was cut off by its client's deadline after it `took` so long. That says something of its server only where logins
    /// are quicker than that.
    pub fn handshake_cut_off(&self, pass: &Pass, took: Duration) {
        if took > pass.account.account().login_time() {
            pass.server.server().handshake_timed_out();
        }
    }

    /// A server has ended a session: how long its client may be kept before it is let go, so that the clients of a server
    /// that has died do not all come back in the same moment.
    pub fn session_lost(&self, now: Instant, rng: &mut fastrand::Rng) -> Duration {
        self.servers.close_delay(now, self.pace(now), rng)
    }

    /// How often a client has been refused since it last got in, as far as it is remembered.
    pub fn refusals(&self, client: crate::identity::ClientKey) -> u32 {
        self.client_history.refusals(client)
    }

    /// Remembers how long a client's session `lived`; those that flap go behind the others.
    pub fn session_ended(&self, client: crate::identity::ClientKey, lived: Duration, now: Instant) {
        self.client_history.session_ended(client, lived, now);
    }

    /// No new clients from now on; those who wait are sent away.
    pub fn begin_drain(&self) {
        self.draining.store(true, Relaxed);
        let mut waiting = self.waiting();
        waiting.queue.clear();
        self.queued.store(0, Relaxed);
    }

    /// Whether weir is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Forgets what is no longer needed. Once a second is often enough.
    pub fn sweep(&self, now: Instant) {
        self.sources.sweep(now);
        self.accounts.sweep(now);
        self.users_and_names.sweep(now);
        self.client_history.sweep(now);
        self.source_reputation.sweep(now);
        self.operators.sweep(now);
    }
}
