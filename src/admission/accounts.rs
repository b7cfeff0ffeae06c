//! What each account holds and may hold. Exact under concurrency: an account's count changes only by guards.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use governor::clock::Clock;

use super::{AccountLimits, Quota, rate::Tokens};

use crate::upstream::pressure::Floor;

/// An account nobody uses is forgotten after this, its token bucket with it (any bucket that matters is full by then).
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// One account.
#[derive(Debug)]
pub struct Account<C: Clock> {
    name: Arc<str>,
    limits: AccountLimits,
    connections: AtomicU32,
    tokens: Option<Tokens<C>>,
    login: Mutex<Login>,
}

/// What a login of an account takes.
#[derive(Debug, Default)]
struct Login {
    floor: Floor,
    /// Smoothed over the last few.
    lately: Duration,
}

impl<C: Clock> Account<C> {
    /// Takes in what a login took; returns the least that one takes.
    pub fn logged_in(&self, now: Instant, took: Duration) -> Duration {
        let mut login = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        login.lately = if login.lately.is_zero() { took } else { login.lately.mul_f64(0.9) + took.mul_f64(0.1) };
        login.floor.sample(now, took)
    }

    /// What a login has taken lately; zero while unknown.
    pub fn login_takes(&self) -> Duration {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).lately
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its bucket of new connections, where its rate is limited.
    pub fn tokens(&self) -> Option<&Tokens<C>> {
        self.tokens.as_ref()
    }

    /// Its share of the pace.
    pub fn weight(&self) -> NonZeroU32 {
        self.limits.weight
    }
}

/// One connection of an account, given back on drop.
#[derive(Debug)]
pub struct AccountSlot<C: Clock> {
    account: Arc<Account<C>>,
}

impl<C: Clock> AccountSlot<C> {
    /// Whose it is.
    pub fn account(&self) -> &Arc<Account<C>> {
        &self.account
    }

    /// A slot of no account, under a name to queue by: for a client that has not said yet who it is. Nothing is counted.
    pub(super) fn of_nobody(name: Arc<str>) -> Self {
        let limits = AccountLimits { quota: Quota::default(), weight: NonZeroU32::MIN };
        Self {
            account: Arc::new(Account {
                name,
                limits,
                connections: AtomicU32::new(1),
                tokens: None,
                login: Mutex::default(),
            }),
        }
    }
}

impl<C: Clock> Drop for AccountSlot<C> {
    fn drop(&mut self) {
        self.account.connections.fetch_sub(1, Relaxed);
    }
}

/// The account has as many connections as its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaReached;

#[derive(Debug)]
struct Entry<C: Clock> {
    account: Arc<Account<C>>,
    used_at: Instant,
}

/// Every account in use.
#[derive(Debug)]
pub struct Accounts<C: Clock> {
    clock: C,
    default: AccountLimits,
    configured: HashMap<String, AccountLimits>,
    map: DashMap<Arc<str>, Entry<C>>,
}

impl<C: Clock + Clone> Accounts<C> {
    /// No account in use.
    pub fn new(default: AccountLimits, configured: HashMap<String, AccountLimits>, clock: C) -> Self {
        Self { clock, default, configured, map: DashMap::new() }
    }

    /// Takes a connection slot of an account.
    ///
    /// # Errors
    /// [`QuotaReached`]; nothing is taken then.
    pub fn enter(&self, name: &Arc<str>, now: Instant) -> Result<AccountSlot<C>, QuotaReached> {
        // The slot is taken while the entry is locked, and `sweep` looks at an entry under the same lock: an account is
        // never forgotten between being found and being counted, so no second count of it can come into being.
        let mut entry = self.map.entry(Arc::clone(name)).or_insert_with(|| {
            let limits = self.configured.get(&**name).copied().unwrap_or(self.default);
            let tokens = limits.quota.rate.map(|rate| Tokens::new(rate, &self.clock));
            let account = Account {
                name: Arc::clone(name),
                limits,
                connections: AtomicU32::new(0),
                tokens,
                login: Mutex::default(),
            };
            Entry { account: Arc::new(account), used_at: now }
        });
        entry.used_at = now;
        let account = &entry.account;
        let most = account.limits.quota.max_connections.unwrap_or(u32::MAX);
        let below = |n: u32| (n < most).then(|| n + 1);
        account.connections.fetch_update(Relaxed, Relaxed, below).map_err(|_| QuotaReached)?;
        Ok(AccountSlot { account: Arc::clone(account) })
    }

    /// Forgets the accounts that nobody uses.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, entry| {
            entry.account.connections.load(Relaxed) > 0 || now.saturating_duration_since(entry.used_at) < FORGET_AFTER
        });
    }

    /// Connections of every account that has any.
    pub fn connections(&self) -> Vec<(Arc<str>, u32)> {
        let count = |entry: &Entry<C>| entry.account.connections.load(Relaxed);
        self.map.iter().filter(|one| count(one) > 0).map(|one| (Arc::clone(one.key()), count(&one))).collect()
    }
}
