//! The state of admission, shared by all workers, and what servers and sessions report to it.

use std::{
    collections::HashSet,
    hash::RandomState,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::{
    admission::{
        client::Pass,
        deadlines::DeadlinePolicy,
        fleet_rates::SharedRates,
        moving::Moving,
        observe::{Mode, WouldHold},
        params::Params,
        queue::{Queue, waiting::Waiter},
        quota::{
            account::{Account, LIMIT_OF_UNKNOWN, LoginOf},
            accounts::Accounts,
            leafnodes::LeafnodeQuotas,
            limit::Limit,
            logins::{Unanswered, UsualLatencies},
            rate::TokenBucket,
            sources::{Source, SourceKey, Sources},
            users_and_names::UserAndNameQuotas,
            warned::Warned,
        },
        reputation::{
            clients::ClientHistory, kicked::Kicked, logins::LoginHistory, operators::Operators,
            sources::SourceReputation,
        },
        retry_schedule::RetrySchedule,
        throughput::Throughput,
    },
    fleet::{key::Kind, lease::book::LeaseBook},
    identity::ClientKey,
    upstream::{
        Placement, Server, ServerId, Servers, Slot, Urgency,
        concurrency::{baseline::MeasuredFrom, login_speed::ComparedLogin},
    },
};

/// Where accounts have priority, this part of the places to wait in is theirs: another account's storm cannot take
/// them.
const KEPT_FOR_PRIORITY: usize = 16;

fn kept_for_priority(params: &Params) -> usize {
    let has_priorities = params.accounts.values().chain([&params.default_account]).any(|limits| limits.priority);
    if has_priorities { params.max_held.div_ceil(KEPT_FOR_PRIORITY) } else { 0 }
}

/// The queue and what is known of how fast it moves, under one lock.
#[derive(Debug)]
pub(super) struct QueueState<W> {
    pub(super) queue: Queue<W>,
    /// The configured pace has no token before this.
    pub(super) pace_ready_at: Option<Instant>,
    pub(super) throughput: Throughput,
    pub(super) retry_schedule: RetrySchedule,
}

/// How many clients wait, by what they wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingClients {
    /// In the queue, for a turn.
    pub queued: usize,
    /// For the token of a rate by user or name that was promised to them; they join the queue then.
    pub reserved: usize,
    /// Refused, and not told yet.
    pub answered_later: usize,
}

impl WaitingClients {
    /// Those that may still be admitted.
    pub fn held(self) -> usize {
        self.queued + self.reserved
    }

    /// All of them: what `max_held` bounds.
    pub fn all(self) -> usize {
        self.held() + self.answered_later
    }
}

/// Both checks, and the clients that wait for their turn. `W` is the far end of such a client.
#[derive(Debug)]
pub struct Admission<W> {
    pub(super) servers: Arc<Servers>,
    pub(super) sources: Sources,
    source_seed: RandomState,
    pub(super) users_and_names: UserAndNameQuotas,
    pub(super) leafnodes: LeafnodeQuotas,
    pub(super) warned: Arc<Warned>,
    pub(super) accounts: Accounts,
    /// The configured pace.
    pub(super) pace: TokenBucket,
    /// How the rates are shared, where weir is one of a fleet.
    pub(super) shared_rates: OnceLock<SharedRates>,
    deadline_policy: ArcSwap<DeadlinePolicy>,
    pub(super) client_history: ClientHistory,
    source_reputation: SourceReputation,
    pub(super) login_history: LoginHistory,
    /// [`Servers::forgotten`] when accounts last forgot all servers that have gone.
    swept_servers: AtomicU64,
    pub(super) operators: Operators,
    kicked: Kicked,
    moving: Arc<Moving>,
    max_held: AtomicUsize,
    /// Of `max_held`, the places that only clients with priority may have.
    kept_for_priority: AtomicUsize,
    refusal_spread_ms: AtomicU64,
    /// The length of the queue, readable without its lock.
    pub(super) queued: AtomicUsize,
    pub(super) reserved: Arc<Limit>,
    pub(super) answered_later: Arc<Limit>,
    /// What logins take, for accounts of which none was ever alone on its server.
    pub(super) usual_latencies: UsualLatencies,
    /// Handshakes that ended with PONG, in all.
    pub(super) finished: AtomicU64,
    queue_state: Mutex<QueueState<W>>,
    paused: AtomicBool,
    /// See [`Mode::Observe`].
    pub(super) observing: AtomicBool,
    pub(super) would_hold: WouldHold,
    /// In observe mode, the clients that would wait now.
    pub(super) would_wait: Arc<Limit>,
    lame_duck: AtomicBool,
    draining: AtomicBool,
    /// Within how many milliseconds a drain tells those who waited.
    drain_spread_ms: AtomicU64,
}

impl<W: Waiter> Admission<W> {
    /// Admission to `servers`.
    pub fn new(params: &Params, servers: Arc<Servers>) -> Self {
        let warned = Arc::<Warned>::default();
        Self {
            servers,
            sources: Sources::new(params.per_source, params.max_leafnodes_per_source),
            source_seed: RandomState::new(),
            accounts: Accounts::new(params.default_account, params.accounts.clone(), Arc::clone(&warned)),
            users_and_names: UserAndNameQuotas::new(&params.patterns),
            leafnodes: LeafnodeQuotas::default(),
            warned,
            pace: TokenBucket::new(params.pace),
            shared_rates: OnceLock::new(),
            deadline_policy: ArcSwap::from_pointee(params.deadline_policy()),
            client_history: ClientHistory::default(),
            source_reputation: SourceReputation::default(),
            login_history: LoginHistory::default(),
            swept_servers: AtomicU64::new(0),
            operators: Operators::default(),
            kicked: Kicked::default(),
            moving: Arc::default(),
            max_held: AtomicUsize::new(params.max_held),
            kept_for_priority: AtomicUsize::new(kept_for_priority(params)),
            refusal_spread_ms: AtomicU64::new(params.refusal_spread.as_millis() as u64),
            queued: AtomicUsize::new(0),
            reserved: Limit::none(),
            answered_later: Limit::none(),
            usual_latencies: UsualLatencies::default(),
            finished: AtomicU64::new(0),
            queue_state: Mutex::new(QueueState {
                queue: Queue::default(),
                pace_ready_at: None,
                throughput: Throughput::default(),
                retry_schedule: RetrySchedule::default(),
            }),
            paused: AtomicBool::new(false),
            observing: AtomicBool::new(params.mode == Mode::Observe),
            would_hold: WouldHold::default(),
            would_wait: Limit::none(),
            lame_duck: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drain_spread_ms: AtomicU64::new(0),
        }
    }

    /// The configuration has these params by now. Whoever is counted stays counted, whoever waits keeps the place and
    /// the deadline, and who is in stays in, also beyond a limit that is lower now.
    pub fn set_params(&self, params: &Params, now: Instant) {
        self.observing.store(params.mode == Mode::Observe, Relaxed);
        self.sources.set_quota(params.per_source, params.max_leafnodes_per_source);
        self.accounts.set_limits(params.default_account, params.accounts.clone(), now);
        self.users_and_names.set(&params.patterns);
        self.deadline_policy.store(Arc::new(params.deadline_policy()));
        self.max_held.store(params.max_held, Relaxed);
        self.kept_for_priority.store(kept_for_priority(params), Relaxed);
        self.refusal_spread_ms.store(params.refusal_spread.as_millis() as u64, Relaxed);
        // Under the lock, since the next token was expected at the old pace.
        let mut state = self.queue_state();
        self.pace.set_rate(params.pace, now);
        state.pace_ready_at = None;
    }

    /// From now on the fleet shares the quotas of accounts, users and names, by the leases of `book`. To be called
    /// before any client comes.
    pub fn share_quotas(&self, book: &Arc<LeaseBook>) {
        self.accounts.share_quotas(Arc::clone(book));
        self.users_and_names.share_quotas(Arc::clone(book));
        self.leafnodes.share_quotas(Arc::clone(book));
    }

    /// The patterns of users and of names that have quotas.
    pub fn user_and_name_patterns(&self) -> Vec<(Kind, String)> {
        self.users_and_names.patterns()
    }

    pub(super) fn refusal_spread(&self) -> Duration {
        Duration::from_millis(self.refusal_spread_ms.load(Relaxed))
    }

    pub(super) fn queue_state(&self) -> MutexGuard<'_, QueueState<W>> {
        self.queue_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn source_key(&self, source: Source) -> SourceKey {
        SourceKey::of(source, &self.source_seed)
    }

    /// How long clients wait.
    pub fn deadline_policy(&self) -> impl Deref<Target = Arc<DeadlinePolicy>> {
        self.deadline_policy.load()
    }

    /// Connections and limits by account.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Whether any quota is by user or by client name.
    pub fn has_user_or_name_quotas(&self) -> bool {
        !self.users_and_names.is_empty()
    }

    /// How many leafnodes each account has.
    pub fn leafnodes(&self) -> &LeafnodeQuotas {
        &self.leafnodes
    }

    /// The clients that quotas which only warn would have refused.
    pub fn warned(&self) -> &Warned {
        &self.warned
    }

    /// The sources whose logins keep failing, or that keep servers waiting.
    pub fn source_reputation(&self) -> &SourceReputation {
        &self.source_reputation
    }

    /// The logins that servers have let in or refused.
    pub fn login_history(&self) -> &LoginHistory {
        &self.login_history
    }

    /// The sources that clients of the system account come from.
    pub fn operators(&self) -> &Operators {
        &self.operators
    }

    /// The clients that an operator has kicked for a time.
    pub fn kicked(&self) -> &Kicked {
        &self.kicked
    }

    /// The clients that weir moves to another server.
    pub fn moving(&self) -> &Arc<Moving> {
        &self.moving
    }

    /// The length of the queue.
    pub fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    /// How many clients wait.
    pub fn waiting(&self) -> WaitingClients {
        WaitingClients {
            queued: self.queued(),
            reserved: self.reserved.in_use() as usize,
            answered_later: self.answered_later.in_use() as usize,
        }
    }

    /// The most clients that may wait, in any way.
    pub fn max_held(&self) -> usize {
        self.max_held.load(Relaxed)
    }

    /// Whether one more client may wait.
    pub(super) fn may_wait(&self, has_priority: bool) -> bool {
        let kept = if has_priority { 0 } else { self.kept_for_priority.load(Relaxed) };
        let most = self.max_held.load(Relaxed).saturating_sub(kept);
        self.waiting().all() + (self.would_wait.in_use() as usize) < most
    }

    /// The pace in force, in new clients per second: the configured one, or the rate at which the servers have been
    /// seen to take clients while others wait, whichever is lower; `None` while neither is known.
    pub fn pace(&self, now: Instant) -> Option<f64> {
        let seen = self.queue_state().throughput.rate(now);
        self.pace_with(seen)
    }

    /// The configured pace or this service rate, whichever is lower.
    pub(super) fn pace_with(&self, service_rate: Option<f64>) -> Option<f64> {
        let configured = self.pace.per_second();
        match (configured, service_rate) {
            (Some(configured), Some(seen)) => Some(configured.min(seen)),
            (one, other) => one.or(other),
        }
    }

    /// A handshake has ended with the server's PONG, after it `took` so long `since` then; weir's own tasks ran `late`
    /// by so much meanwhile. The account's login time and the server's concurrency limit follow from that. There is
    /// room for the next handshake: [`Admission::next_turns`] says whose.
    ///
    /// The server may have `named` the account: then what the login took is what logins of that account take, whatever
    /// account the client was counted for before.
    pub fn handshake_finished(
        &self,
        pass: &mut Pass,
        took: Duration,
        (since, late): (MeasuredFrom, Duration),
        named: Option<&str>,
        now: Instant,
    ) {
        let (server, claimed) = (Arc::clone(pass.server.server()), Arc::clone(pass.account.account()));
        let named = named.filter(|named| **claimed.name() != **named).map(|named| self.accounts.of_name(named, now));
        let account = named.as_deref().unwrap_or(&claimed);
        let undisturbed = server.was_alone(now, took) && claimed.is_alone_at(server.id());
        let (may_take, elsewhere) =
            account.logged_in(server.id(), &self.usual_latencies, now, took, (since, late), undisturbed);
        self.share_baseline(account, since);
        claimed.login_measured(server.id(), now, took, may_take.own);
        let login = ComparedLogin { took, under_way: pass.server.most_under_way(), elsewhere };
        if pass.server.is_overdue() {
            server.overdue_finished(now, login);
        } else {
            server.handshake_finished(now, login, may_take.at_server);
        }
        self.finished.fetch_add(1, Relaxed);
        self.observed_login_ended(&mut pass.account, now);
        pass.account.end_handshake();
        pass.server.session_began();
    }

    /// The same where the account stays unknown, since TLS is passed through. Such a handshake should take no longer
    /// than `should_take`.
    pub fn passthrough_handshake_finished(&self, server: &Slot, took: Duration, should_take: Duration, now: Instant) {
        server.server().handshake_finished(now, ComparedLogin::uncompared(took), should_take);
        self.finished.fetch_add(1, Relaxed);
    }

    /// A handshake that began `began` has ended without an answer: its client has left, or could not wait longer. A
    /// server may have `named` the account to others with the same credential meanwhile. It lowers the server's limit
    /// only where logins of the account are quicker than that, and others of them end well meanwhile: else the account
    /// is to blame, whose auth callout may be down.
    pub fn login_unanswered(
        &self,
        account: &Account,
        server: &Server,
        (began, was_overdue): (Instant, bool),
        named: Option<&Arc<str>>,
        now: Instant,
    ) -> Unanswered {
        let mut unanswered = account.login_unanswered(server.id(), began, now, was_overdue);
        let named = named.filter(|named| **named != *account.name()).and_then(|named| self.accounts.find(named));
        if let Some(named) = &named {
            let of_named = named.login_unanswered(server.id(), began, now, was_overdue);
            unanswered = Unanswered { tell: unanswered.tell, ..of_named };
        }
        let account = named.as_deref().unwrap_or(account);
        let usual = account.login_time();
        let is_longer = !usual.is_zero() && now.saturating_duration_since(began) > usual;
        if account.is_known() && is_longer && unanswered.others_succeed {
            server.handshake_timed_out();
        }
        unanswered
    }

    /// Whether a login of this account that is under way on a server since `began` hangs there, while others of the
    /// account end well elsewhere.
    pub fn hangs_here_only(&self, account: &Arc<str>, server: &Server, began: Instant, now: Instant) -> bool {
        self.accounts.find(account).is_some_and(|account| account.hangs_here_only(server.id(), began, now))
    }

    /// A server for a login that hangs on another one, if there is one that would take it at once.
    pub fn place_hanging(
        &self,
        login: LoginOf<'_>,
        tried: &[ServerId],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Slot> {
        match self.servers.place_well(now, tried, Urgency::Urgent, rng) {
            Placement::Placed(slot) if !self.is_barred(login, slot.server().id(), now) => Some(slot),
            _ => None,
        }
    }

    /// Whether a client of this account had better go elsewhere than to this server, where its logins hang, or have.
    pub fn is_disliked(&self, account: &Arc<str>, server: ServerId, now: Instant) -> bool {
        let anywhere = SourceKey::default();
        let avoided = self.accounts.find(account).and_then(|account| account.avoided(anywhere, now, |_| 1));
        avoided.is_some_and(|avoided| avoided.disliked.contains(&server))
    }

    /// Whether an account, or this source of it, may have no further login on this server now. If so, it is noted that
    /// a client waits for it.
    pub fn is_barred(&self, login: LoginOf<'_>, server: ServerId, now: Instant) -> bool {
        if self.is_observing() {
            return false;
        }
        let avoided = self.avoided(login, now);
        let is_barred = avoided.is_some_and(|avoided| avoided.barred.contains(&server));
        if is_barred {
            login.account.want_place(&[server]);
        }
        is_barred
    }

    /// Whether others need what a login holds whose client should have given up.
    pub fn is_place_wanted(&self, account: &Account, server: &Server, now: Instant) -> bool {
        !self.is_observing() && self.do_others_want(account, server, now)
    }

    fn do_others_want(&self, account: &Account, server: &Server, now: Instant) -> bool {
        account.take_want(server.id()) || self.queued() > 0 && !self.servers.has_headroom(now)
    }

    /// How many logins of an account that are overdue a server may have however low the account's own limit is. Those
    /// of whom no server has named the account are many accounts. But a server on which nobody has logged in yet may
    /// just take long for each, and would take longer for several.
    pub(super) fn least_of_account(&self, account: &Account, server: ServerId) -> u32 {
        let is_slow = || self.servers.get(server).is_none_or(|server| !server.has_logged_in_any());
        if account.is_known() || is_slow() { 1 } else { LIMIT_OF_UNKNOWN }
    }

    /// Forgets what is remembered of servers that have gone.
    fn forget_servers(&self) {
        let forgotten = self.servers.forgotten();
        if self.swept_servers.load(Relaxed) == forgotten {
            return;
        }
        let there: HashSet<_> = self.servers.list().iter().map(|server| server.id()).collect();
        if self.accounts.forget_gone(|id| there.contains(&id)) {
            self.swept_servers.store(forgotten, Relaxed);
        }
    }

    /// A server has ended a session: how long its client is kept before it is let go too, so that the clients of a
    /// server that has died do not all come back in the same moment.
    pub fn session_lost(&self, now: Instant, rng: &mut fastrand::Rng) -> Duration {
        if self.is_observing() {
            return Duration::ZERO;
        }
        self.servers.close_delay(now, self.pace(now), rng)
    }

    /// A session that `lived` so long has ended: clients whose sessions are short go behind the others.
    pub fn session_ended(&self, client: ClientKey, lived: Duration, now: Instant) {
        self.client_history.session_ended(client, lived, now);
    }

    /// Gives nobody a turn from now on: who comes waits in the queue, as long as it may. Whoever has its turn already
    /// goes on. Returns whether turns were given before.
    pub fn pause(&self) -> bool {
        let was_paused = self.paused.swap(true, Relaxed);
        self.forget_window();
        !was_paused
    }

    /// Gives turns again: [`Admission::next_turns`] says whose. Returns whether none were given before.
    pub fn resume(&self) -> bool {
        self.forget_window();
        self.paused.swap(false, Relaxed)
    }

    /// How few clients get in during a pause says nothing of what the servers can take.
    fn forget_window(&self) {
        self.queue_state().throughput.rest();
    }

    /// Whether [`Admission::pause`] was called, and [`Admission::resume`] was not since.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// From now on weir says that it is leaving, and admits clients as before.
    pub fn begin_lame_duck(&self) {
        self.lame_duck.store(true, Relaxed);
    }

    /// Whether [`Admission::begin_lame_duck`] was called.
    pub fn is_lame_duck(&self) -> bool {
        self.lame_duck.load(Relaxed)
    }

    /// Admits no new clients from now on, and empties the queue. Those who waited there are told one by one
    /// `within` this: all at once they would be a storm for another weir.
    pub fn begin_drain(&self, within: Duration) {
        self.drain_spread_ms.store(within.as_millis() as u64, Relaxed);
        self.draining.store(true, Relaxed);
        let mut state = self.queue_state();
        state.queue.clear();
        self.queued.store(0, Relaxed);
    }

    /// Whether [`Admission::begin_drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(super) fn drain_spread(&self) -> Duration {
        Duration::from_millis(self.drain_spread_ms.load(Relaxed))
    }

    /// Forgets what is no longer needed. Once a second is often enough.
    pub fn sweep(&self, now: Instant) {
        self.sources.sweep(now);
        self.accounts.sweep(now);
        self.users_and_names.sweep(now);
        self.leafnodes.sweep(now);
        self.client_history.sweep(now);
        self.source_reputation.sweep(now);
        self.login_history.sweep(now);
        self.operators.sweep(now);
        self.kicked.sweep(now);
        self.forget_servers();
    }
}
