//! One account: what it may have, what it holds, what its logins take. Its counts change only by guards, so they are
//! exact whatever happens at the same time.

mod shared;

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    admission::{
        client::{Claim, Proof},
        observe::{Observed, Would},
        params::{AccountLimits, RehomeLimits},
        quota::{
            accounts::QuotaReached,
            leafnodes::LeafnodeSlot,
            lease::Lease,
            live::LiveLimits,
            logins::{Avoided, FIRST_LIMIT, Logins, Unanswered, UsualLatencies},
            rate::TokenBucket,
            sources::SourceKey,
            unproven::UnprovenClaims,
            users_and_names::UserAndNameSlots,
            warned::Warned,
        },
    },
    fleet::lease::{allowance::Allowance, book::LeaseBook},
    identity::UNKNOWN_ACCOUNT,
    outcome::Refusal,
    upstream::{
        ServerId,
        concurrency::baseline::{MayTake, MeasuredFrom},
        reconciled_count::ReconciledCount,
    },
};

mod handshake;
mod leafnode;
mod learns_anew;
mod leased;
mod observed;
pub(in crate::admission) mod remembered;

pub use learns_anew::LearnsAnew;

/// Clients of whom no server has named the account are of many accounts. So many of their logins may be under way on
/// one server, although some hang there.
pub const LIMIT_OF_UNKNOWN: u32 = 8;

/// An account in use.
#[derive(Debug)]
pub struct Account {
    name: Arc<str>,
    limits: LiveLimits,
    pub(super) connections: ReconciledCount,
    /// The most connections as the cluster says; `u32::MAX` while it has said nothing.
    pub(super) by_cluster: AtomicU32,
    /// The most leafnodes as the cluster says; `u32::MAX` while it has said nothing.
    pub(super) leafnodes_by_cluster: AtomicU32,
    /// Of its connections, those of leafnodes.
    pub(super) leafnodes: AtomicU32,
    /// Whether a leafnode has ever asked for a place.
    had_leafnode: AtomicBool,
    /// Of its connections, those that count beyond its quota, since only observe mode has let them in.
    extra: AtomicU32,
    /// Handshakes under way.
    pub(super) handshakes: AtomicU32,
    tokens: TokenBucket,
    /// The same for clients that are known; what others have used counts once a server has let them in.
    known_tokens: TokenBucket,
    pub(super) unproven: UnprovenClaims,
    warned: Arc<Warned>,
    logins: Mutex<Logins>,
    /// Whether it has had a session: a server knows it, and it is not only claimed.
    pub(super) had_session: AtomicBool,
    /// Whether a login of it has ever been overdue.
    had_overdue: AtomicBool,
    /// Whether a client, one that is not known or one that is, is let through to a server although there is no room.
    learns_anew: [AtomicBool; 2],
    /// Its clients have not said yet who they are: nothing is measured.
    is_nobody: bool,
    /// What a login takes, in nanoseconds: readable without the lock.
    login_time: AtomicU64,
    /// What this weir may have of the quota, where the fleet shares it.
    allowance: OnceLock<Arc<Allowance>>,
}

impl Account {
    pub(super) fn new(name: Arc<str>, limits: AccountLimits, warned: Arc<Warned>) -> Self {
        Self {
            name,
            limits: LiveLimits::new(limits),
            connections: ReconciledCount::default(),
            by_cluster: AtomicU32::new(u32::MAX),
            leafnodes_by_cluster: AtomicU32::new(u32::MAX),
            leafnodes: AtomicU32::new(0),
            had_leafnode: AtomicBool::new(false),
            extra: AtomicU32::new(0),
            handshakes: AtomicU32::new(0),
            tokens: TokenBucket::new(limits.quota.rate),
            known_tokens: TokenBucket::new(limits.quota.rate),
            unproven: UnprovenClaims::default(),
            warned,
            logins: Mutex::default(),
            had_session: AtomicBool::new(false),
            had_overdue: AtomicBool::new(false),
            learns_anew: Default::default(),
            is_nobody: false,
            login_time: AtomicU64::new(0),
            allowance: OnceLock::new(),
        }
    }

    /// The configuration has other limits for it: what it has counts under those from now on.
    pub(super) fn set_limits(&self, limits: AccountLimits, now: Instant) {
        self.limits.set(limits);
        self.tokens.set_rate(limits.quota.rate, now);
        self.known_tokens.set_rate(limits.quota.rate, now);
        self.share_quota();
    }

    /// Whether the configuration limits its connections.
    pub(super) fn has_configured_limit(&self) -> bool {
        self.limits.quota.max_connections().is_some()
    }

    /// The most connections it may have: as configured, else as the cluster says; `u32::MAX` is no limit.
    pub(super) fn max_connections(&self) -> u32 {
        self.limits.quota.max_connections().unwrap_or_else(|| self.by_cluster.load(Relaxed))
    }

    /// The most connections in all: those of its quota, and those that count beyond it.
    fn most_in_all(&self) -> u32 {
        self.max_connections().saturating_add(self.extra.load(Relaxed))
    }

    /// Whether its connections are limited.
    pub(super) fn is_limited(&self) -> bool {
        self.max_connections() != u32::MAX
    }

    fn logins(&self) -> MutexGuard<'_, Logins> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A login has ended on this server after it `took` so long; weir's own tasks ran `late` by so much meanwhile.
    /// `undisturbed` says whether no other handshake was under way there. Returns how long it may take, by what
    /// is `usual` while none of the account was undisturbed, and the least that the last ones of the account took on
    /// other servers, where there were any lately.
    pub fn logged_in(
        &self,
        server: ServerId,
        usual: &UsualLatencies,
        now: Instant,
        took: Duration,
        (since, late): (MeasuredFrom, Duration),
        undisturbed: bool,
    ) -> (MayTake, Option<Duration>) {
        let mut logins = self.logins();
        let takes = took.max(self.login_time().mul_f64(0.95) + took.mul_f64(0.05));
        self.login_time.store(u64::try_from(takes.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        let may_take = logins.succeeded(server, usual, now, took, (since, late), undisturbed);
        // Clients of whom no server has named the account are of many, and so are the kinds of their logins.
        (may_take, if self.is_known() { logins.elsewhere(server, now) } else { None })
    }

    /// Whether it is an account at all, and not all those of whom no server has named it.
    pub fn is_known(&self) -> bool {
        !self.is_nobody && *self.name != *UNKNOWN_ACCOUNT
    }

    /// Whether its clients have not said yet who they are.
    pub fn is_nobody(&self) -> bool {
        self.is_nobody
    }

    /// Whether a login on this server has no other of the account beside it.
    pub fn is_alone_at(&self, server: ServerId) -> bool {
        self.is_nobody || self.logins().is_alone(server)
    }

    /// A login that counts for it, if not in its baseline, took so long and should have taken `expected`.
    pub fn login_measured(&self, server: ServerId, now: Instant, took: Duration, expected: Duration) {
        if self.had_overdue() {
            self.logins().measured(server, now, took, expected);
        }
    }

    /// A login has ended without an answer that began `began`.
    pub fn login_unanswered(&self, server: ServerId, began: Instant, now: Instant, was_overdue: bool) -> Unanswered {
        let unanswered = self.logins().unanswered(server, began, now, was_overdue);
        self.had_overdue.fetch_or(was_overdue, Relaxed);
        // Clients of whom no server has named the account are of many.
        Unanswered { is_servers_fault: unanswered.is_servers_fault && self.is_known(), ..unanswered }
    }

    /// Whether a login under way on this server since `began` hangs, while others of the account end well elsewhere.
    pub fn hangs_here_only(&self, server: ServerId, began: Instant, now: Instant) -> bool {
        self.is_known() && self.logins().hangs_here_only(server, began, now, self.login_time())
    }

    /// Where its clients from this source are not sent; `None` while no login of it was ever overdue. However low its
    /// own limit is, it may have `least` logins under way.
    pub fn avoided(&self, source: SourceKey, now: Instant, least: impl Fn(ServerId) -> u32) -> Option<Avoided> {
        let source = self.counts_sources().then_some(source);
        self.had_overdue().then(|| self.logins().avoided(source, now, least))
    }

    /// Whether a login of it has ever been overdue.
    pub fn had_overdue(&self) -> bool {
        self.had_overdue.load(Relaxed)
    }

    /// Whether logins of it hang, or have lately.
    pub fn logins_hang(&self, now: Instant) -> bool {
        self.had_overdue() && !self.logins().avoided(None, now, |_| 0).disliked.is_empty()
    }

    /// Whether its logins are counted by source: those of clients whose account no server has named are.
    pub fn counts_sources(&self) -> bool {
        !self.is_nobody && !self.is_known()
    }

    /// Whether a source is kept out by others only, so that any other source without a login under way is, too.
    pub fn is_kept_out_by_others(&self, source: SourceKey) -> bool {
        !self.counts_sources() || !self.logins().has_of(source)
    }

    /// Forgets the servers that have gone; see [`Logins::forget_gone`].
    pub(super) fn forget_gone(&self, is_there: impl Fn(ServerId) -> bool) -> bool {
        self.logins().forget_gone(is_there)
    }

    /// A client of it waits that could have a place on one of these servers.
    pub fn want_place(&self, servers: &[ServerId]) {
        self.logins().want_place(servers);
    }

    /// Whether a client of it waits for a place on this server; it is told once.
    pub fn take_want(&self, server: ServerId) -> bool {
        self.had_overdue() && self.logins().take_want(server)
    }

    /// What a login of the account takes: the longest of late, forgotten by 5 % with each shorter one; zero while
    /// unknown. A turn leaves a client so much time, since a login that is cut off has cost its server as much as one
    /// that is not.
    pub fn login_time(&self) -> Duration {
        Duration::from_nanos(self.login_time.load(Relaxed))
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether its new connections per second are limited.
    pub fn has_rate(&self) -> bool {
        self.tokens.rate().is_some()
    }

    /// Whether tokens of its rate are missing.
    pub(super) fn lacks_tokens(&self, now: Instant) -> bool {
        !self.tokens.is_full(now) || !self.known_tokens.is_full(now)
    }

    /// Takes a token for a new connection; `false` when there is none, and the rate does more than warn. Clients that
    /// are `known` notice nothing of those that are not.
    pub fn take_token(&self, is_known: bool, now: Instant) -> bool {
        if !self.has_rate() {
            return true;
        }
        let has = match is_known {
            true => {
                let has = self.known_tokens.take(now).is_ok();
                if has {
                    self.tokens.charge(now);
                }
                has
            }
            false => self.tokens.take(now).is_ok(),
        };
        let warn_only = self.limits.quota.warn_only();
        if !has && warn_only {
            self.warned.note(Refusal::AccountRate);
        }
        has || warn_only
    }

    /// A server has let a client in that had a token, but none of those who are known.
    fn charge_known(&self, now: Instant) {
        self.known_tokens.charge(now);
    }

    /// A server has let a client in that had no token at all: another account was thought to be its own.
    pub fn charge(&self, now: Instant) {
        self.tokens.charge(now);
        self.charge_known(now);
    }

    /// Takes a connection slot.
    ///
    /// # Errors
    /// [`QuotaReached`]; nothing is taken then.
    pub(super) fn enter(self: &Arc<Self>, proof: Proof, now: Instant) -> Result<AccountSlot, QuotaReached> {
        if let Some(allowance) = self.allowance.get() {
            return self.enter_leased(allowance, proof, now);
        }
        let most = self.most_in_all();
        let reserve = |most| self.connections.reserve(most);
        let claim = proof.missing().filter(|_| self.is_limited() || self.has_rate());
        let has_room = match claim {
            Some(claim) => self.unproven.enter(claim, || reserve(most)),
            None => reserve(most) || self.unproven.with_sum(|unproven| reserve(most.saturating_add(unproven))),
        };
        if !has_room {
            if !self.limits.quota.warn_only() {
                return Err(QuotaReached);
            }
            reserve(u32::MAX);
            self.warned.note(Refusal::AccountQuota);
        }
        let mut slot = AccountSlot::of_client(self, proof);
        slot.claim = claim.map(Box::new);
        Ok(slot)
    }

    /// Begins a handshake, if fewer are under way than it may have.
    pub fn begin_handshake(&self) -> bool {
        let most = self.limits.max_handshakes().map_or(u32::MAX, NonZeroU32::get);
        self.handshakes.fetch_update(Relaxed, Relaxed, |n| (n < most).then(|| n + 1)).is_ok()
    }

    /// Begins a handshake, however many are under way.
    fn begin_handshake_over(&self) {
        self.handshakes.fetch_add(1, Relaxed);
    }

    /// A handshake is over, well or not.
    pub fn end_handshake(&self) {
        self.handshakes.fetch_sub(1, Relaxed);
    }

    /// Whether a handshake could begin.
    pub fn has_room_for_handshake(&self) -> bool {
        self.limits.max_handshakes().is_none_or(|most| self.handshakes.load(Relaxed) < most.get())
    }

    /// Whether its clients go before those of other accounts.
    pub fn has_priority(&self) -> bool {
        self.limits.priority()
    }

    /// Whether its sessions go to another server when theirs is lost, and what bounds that.
    pub fn rehome(&self) -> Option<RehomeLimits> {
        self.limits.rehome()
    }

    /// Its share of the pace.
    pub fn weight(&self) -> NonZeroU32 {
        self.limits.weight()
    }
}

/// What a login counts for while it is under way.
#[derive(Debug, Clone, Copy)]
pub struct LoginOf<'a> {
    pub account: &'a Account,
    /// Where it comes from, where the account counts logins by source.
    pub source: SourceKey,
}

/// One connection of an account, given back on drop.
#[derive(Debug)]
pub struct AccountSlot {
    account: Arc<Account>,
    state: SlotState,
    /// Where its client comes from, where its account counts logins by source.
    source: SourceKey,
    /// What its client holds of the quotas by user and name.
    other_quotas: UserAndNameSlots,
    /// Its place among the leafnodes of the account, where it is one.
    leafnode: Option<Box<LeafnodeSlot>>,
    /// What its client claims without proof, where that counts in a quota or a rate.
    claim: Option<Box<Claim>>,
    /// What enforce mode would have done with its client.
    observed: Option<Box<Observed>>,
    /// Its place in what this weir may have, where the fleet shares the quota.
    lease: Option<Box<Lease>>,
    /// Whether it is for the login of a session that goes to another server. That has a slot of its own, and stays the
    /// one connection that it is.
    is_of_move: bool,
    /// Whether its client is not known, whether or not the account has limits that this matters for.
    is_unproven: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Waiting,
    /// Between the verdict and the server's word, on no server yet.
    Handshake,
    /// The same, on this server.
    LogsIn {
        at: ServerId,
    },
    /// The same, and overdue there.
    Overdue {
        at: ServerId,
    },
    /// Its client has its PONG, so the servers count it.
    Session,
}

impl SlotState {
    fn is_handshake(self) -> bool {
        !matches!(self, Self::Waiting | Self::Session)
    }
}

impl AccountSlot {
    /// For a connection that its account has counted.
    pub(super) fn new(account: &Arc<Account>) -> Self {
        let other_quotas = UserAndNameSlots::default();
        let source = SourceKey::default();
        let (account, state) = (Arc::clone(account), SlotState::Waiting);
        let (leafnode, claim, observed, lease) = (None, None, None, None);
        let (is_of_move, is_unproven) = (false, false);
        Self { account, state, source, other_quotas, leafnode, claim, observed, lease, is_of_move, is_unproven }
    }

    /// The same, of a client with this proof.
    pub(super) fn of_client(account: &Arc<Account>, proof: Proof) -> Self {
        let mut slot = Self::new(account);
        slot.is_unproven = proof.missing().is_some();
        slot
    }

    /// For the login of a session of this account that goes to another server: a handshake, and no connection.
    pub fn of_move(account: &Arc<Account>) -> Self {
        let mut slot = Self::new(account);
        slot.is_of_move = true;
        slot
    }

    /// A slot of no account, with a name for a lane of the queue, for a client that has not said yet who it is. Nothing
    /// is counted.
    pub fn of_nobody(lane_name: Arc<str>) -> Self {
        let mut account = Account::new(lane_name, AccountLimits::default(), Arc::default());
        account.is_nobody = true;
        account.connections.reserve(1);
        Self::new(&Arc::new(account))
    }

    /// Whether it is for the login of a session that goes to another server.
    pub(in crate::admission) fn is_of_move(&self) -> bool {
        self.is_of_move
    }

    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// For a client from there.
    pub fn with_source(mut self, source: SourceKey) -> Self {
        self.source = source;
        self
    }

    /// What its login counts for.
    pub fn login(&self) -> LoginOf<'_> {
        LoginOf { account: &self.account, source: self.source }
    }

    /// Whether no quota that it counts for limits connections.
    pub fn is_unlimited(&self) -> bool {
        !self.account.is_limited() && self.other_quotas.is_empty() && self.leafnode.is_none()
    }

    /// Takes a token of the account's rate.
    pub fn take_token(&self, now: Instant) -> bool {
        self.is_of_move || self.account.take_token(self.is_known(), now)
    }

    /// Takes a token of the account's rate, or one that comes until `latest`; `false` if there is none in time.
    pub(in crate::admission) fn reserve_token(&self, now: Instant, latest: Instant) -> bool {
        let Account { tokens, known_tokens, .. } = &*self.account;
        if !self.is_known() {
            return tokens.reserve(now, latest);
        }
        let has = known_tokens.reserve(now, latest);
        if has {
            tokens.charge(now);
        }
        has
    }

    /// Whether its client is known.
    pub fn is_known(&self) -> bool {
        !self.is_unproven
    }

    /// The quota that has no room for its client any more, since known ones have come.
    pub fn displaced(&self) -> Option<Refusal> {
        let account = &self.account;
        let claim = self.claim.as_deref().filter(|_| self.lease.is_none() && self.is_bounded());
        let is_displaced = claim.is_some_and(|claim| {
            !account.limits.quota.warn_only()
                && account.unproven.is_displaced(*claim, account.connections.total(), account.most_in_all())
        });
        match is_displaced {
            true => Some(Refusal::AccountQuota),
            false => self.displaced_leafnode().or_else(|| self.other_quotas.displaced()),
        }
    }

    /// A server has let its client in: what it only claimed until now is its own.
    ///
    /// # Errors
    /// The quota that has no room for it, since known clients have come meanwhile.
    pub fn prove(&mut self, now: Instant) -> Result<(), Refusal> {
        self.prove_leafnode(now)?;
        if std::mem::take(&mut self.is_unproven) && !self.is_extra() {
            self.account.charge_known(now);
        }
        if let Some(claim) = self.claim.take() {
            let account = &self.account;
            if self.lease.is_some() || !self.is_bounded() {
                account.unproven.prove(*claim, |_| ());
                return self.other_quotas.prove(now);
            }
            let most = account.most_in_all();
            let is_over =
                account.unproven.prove(*claim, |left| account.connections.total().saturating_sub(left) > most);
            if is_over && !account.limits.quota.warn_only() {
                return Err(Refusal::AccountQuota);
            }
        }
        self.other_quotas.prove(now)
    }

    /// The server has let the client in.
    pub fn session_began(&mut self) {
        self.end_handshake();
        if std::mem::replace(&mut self.state, SlotState::Session) != SlotState::Session {
            self.account.connections.opened();
            self.lease_opened();
            self.account.had_session.store(true, Relaxed);
        }
    }

    /// Holds the slots of its client's quotas by user and name too.
    pub fn with_other_quotas(mut self, other_quotas: UserAndNameSlots) -> Self {
        self.other_quotas = other_quotas;
        self
    }

    pub fn other_quotas(&self) -> &UserAndNameSlots {
        &self.other_quotas
    }

    /// Goes over to another account, with its slots of quotas by user and name.
    pub fn move_to(&mut self, other: Self) {
        let mut before = std::mem::replace(self, other);
        if !self.is_extra() {
            std::mem::swap(&mut self.other_quotas, &mut before.other_quotas);
        }
    }
}

impl Drop for AccountSlot {
    fn drop(&mut self) {
        self.end_handshake();
        if let Some(claim) = self.claim.take().filter(|_| self.is_counted()) {
            self.account.unproven.leave(*claim);
        }
        if self.is_extra() {
            self.account.extra.fetch_sub(1, Relaxed);
        }
        if self.is_counted() {
            self.account.connections.release(self.state == SlotState::Session);
        }
    }
}
