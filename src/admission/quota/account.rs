//! One account: what it may have, what it holds, what its logins take. Its counts change only by guards, so they are
//! exact whatever happens at the same time.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    admission::{
        params::AccountLimits,
        quota::{rate::TokenBucket, users_and_names::UserAndNameSlots, warned::Warned},
    },
    outcome::Refusal,
    upstream::{
        concurrency::baseline::{BaselineLatency, MeasuredFrom},
        reconciled_count::ReconciledCount,
    },
};

/// An account in use.
#[derive(Debug)]
pub struct Account {
    name: Arc<str>,
    pub(super) limits: AccountLimits,
    pub(super) connections: ReconciledCount,
    /// The most connections as the cluster says; `u32::MAX` while it has said nothing.
    pub(super) by_cluster: AtomicU32,
    /// Handshakes under way.
    pub(super) handshakes: AtomicU32,
    tokens: Option<TokenBucket>,
    warned: Arc<Warned>,
    /// The least that a login takes, by what it counts from.
    baselines: Mutex<[BaselineLatency; 2]>,
    /// What a login takes, in nanoseconds: readable without the lock.
    login_time: AtomicU64,
}

impl Account {
    pub(super) fn new(name: Arc<str>, limits: AccountLimits, warned: Arc<Warned>) -> Self {
        Self {
            name,
            limits,
            connections: ReconciledCount::default(),
            by_cluster: AtomicU32::new(u32::MAX),
            handshakes: AtomicU32::new(0),
            tokens: limits.quota.rate.map(TokenBucket::new),
            warned,
            baselines: Mutex::default(),
            login_time: AtomicU64::new(0),
        }
    }

    /// The most connections it may have: as configured, else as the cluster says; `u32::MAX` is no limit.
    pub(super) fn max_connections(&self) -> u32 {
        self.limits.quota.max_connections.unwrap_or_else(|| self.by_cluster.load(Relaxed))
    }

    /// Whether its connections are limited.
    pub(super) fn is_limited(&self) -> bool {
        self.max_connections() != u32::MAX
    }

    /// A login has ended after it `took` so long; weir's own tasks ran `late` by so much meanwhile. `undisturbed` says
    /// whether no other handshake was under way on its server. Returns how long such a login should take.
    pub fn logged_in(
        &self,
        now: Instant,
        took: Duration,
        since: MeasuredFrom,
        late: Duration,
        undisturbed: bool,
    ) -> Duration {
        let mut baselines = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = took.max(self.login_time().mul_f64(0.95) + took.mul_f64(0.05));
        self.login_time.store(u64::try_from(takes.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        baselines[since as usize].record(now, took, late, undisturbed)
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
        self.tokens.is_some()
    }

    /// Takes a token for a new connection; `false` when there is none, and the rate does more than warn.
    pub fn take_token(&self, now: Instant) -> bool {
        let has = self.tokens.as_ref().is_none_or(|tokens| tokens.take(now).is_ok());
        if !has && self.limits.quota.warn_only {
            self.warned.note(Refusal::AccountRate);
        }
        has || self.limits.quota.warn_only
    }

    /// Begins a handshake, if fewer are under way than it may have.
    pub fn begin_handshake(&self) -> bool {
        let most = self.limits.max_handshakes.map_or(u32::MAX, NonZeroU32::get);
        self.handshakes.fetch_update(Relaxed, Relaxed, |n| (n < most).then(|| n + 1)).is_ok()
    }

    /// A handshake is over, well or not.
    pub fn end_handshake(&self) {
        self.handshakes.fetch_sub(1, Relaxed);
    }

    /// Whether a handshake could begin.
    pub fn has_room_for_handshake(&self) -> bool {
        self.limits.max_handshakes.is_none_or(|most| self.handshakes.load(Relaxed) < most.get())
    }

    /// Whether its clients go before those of other accounts.
    pub fn has_priority(&self) -> bool {
        self.limits.priority
    }

    /// Its share of the pace.
    pub fn weight(&self) -> NonZeroU32 {
        self.limits.weight
    }
}

/// One connection of an account, given back on drop.
#[derive(Debug)]
pub struct AccountSlot {
    account: Arc<Account>,
    state: SlotState,
    /// What its client holds of the quotas by user and name.
    other_quotas: UserAndNameSlots,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Waiting,
    /// Between the verdict and the server's word.
    Handshake,
    /// Its client has its PONG, so the servers count it.
    Session,
}

impl AccountSlot {
    /// For a connection that its account has counted.
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), state: SlotState::Waiting, other_quotas: UserAndNameSlots::default() }
    }

    /// A slot of no account, with a name for a lane of the queue, for a client that has not said yet who it is. Nothing
    /// is counted.
    pub fn of_nobody(lane_name: Arc<str>) -> Self {
        let account = Account::new(lane_name, AccountLimits::default(), Arc::default());
        account.connections.reserve(1);
        Self::new(&Arc::new(account))
    }

    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether no quota that it counts for limits connections.
    pub fn is_unlimited(&self) -> bool {
        !self.account.is_limited() && self.other_quotas.is_empty()
    }

    /// The server has let the client in.
    pub fn session_began(&mut self) {
        self.end_handshake();
        if std::mem::replace(&mut self.state, SlotState::Session) != SlotState::Session {
            self.account.connections.opened();
        }
    }

    /// Begins the handshake, if its account may have one more.
    pub fn begin_handshake(&mut self) -> bool {
        let begun = self.state != SlotState::Waiting || self.account.begin_handshake();
        if begun {
            self.handshake_begun();
        }
        begun
    }

    /// [`Account::begin_handshake`] was called for it.
    pub fn handshake_begun(&mut self) {
        if self.state == SlotState::Waiting {
            self.state = SlotState::Handshake;
        }
    }

    /// The handshake is over, or there is none after all.
    pub fn end_handshake(&mut self) {
        if self.state == SlotState::Handshake {
            self.state = SlotState::Waiting;
            self.account.end_handshake();
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
        std::mem::swap(&mut self.other_quotas, &mut before.other_quotas);
    }
}

impl Drop for AccountSlot {
    fn drop(&mut self) {
        self.end_handshake();
        self.account.connections.release(self.state == SlotState::Session);
    }
}
