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

use crate::upstream::{
    census::{Census, Mark},
    pressure::Floor,
};

/// An account nobody uses is forgotten after this, its token bucket with it (any bucket that matters is full by then).
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The limit of an account is asked for again after this: it changes when its JWT does.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// One account.
#[derive(Debug)]
pub struct Account<C: Clock> {
    name: Arc<str>,
    limits: AccountLimits,
    census: Census,
    /// Its limit by the cluster's own word; `u32::MAX` while there is none.
    by_cluster: AtomicU32,
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
    fn new(name: Arc<str>, limits: AccountLimits, tokens: Option<Tokens<C>>) -> Self {
        let (census, by_cluster) = (Census::default(), AtomicU32::new(u32::MAX));
        Self { name, limits, census, by_cluster, tokens, login: Mutex::default() }
    }

    /// The most connections it may have: as configured, else as the cluster says; `u32::MAX` is no limit.
    fn most(&self) -> u32 {
        self.limits.quota.max_connections.unwrap_or_else(|| self.by_cluster.load(Relaxed))
    }

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
    /// Its client has its PONG, so the servers count it.
    is_session: bool,
}

impl<C: Clock> AccountSlot<C> {
    /// Whose it is.
    pub fn account(&self) -> &Arc<Account<C>> {
        &self.account
    }

    /// The server has let the client in.
    pub fn session_began(&mut self) {
        if !std::mem::replace(&mut self.is_session, true) {
            self.account.census.opened();
        }
    }

    /// A slot of no account, under a name to queue by: for a client that has not said yet who it is. Nothing is counted.
    pub(super) fn of_nobody(name: Arc<str>) -> Self {
        let limits = AccountLimits { quota: Quota::default(), weight: NonZeroU32::MIN };
        let account = Account::new(name, limits, None);
        account.census.reserve(1);
        Self { account: Arc::new(account), is_session: false }
    }
}

impl<C: Clock> Drop for AccountSlot<C> {
    fn drop(&mut self) {
        self.account.census.release(self.is_session);
    }
}

/// The account has as many connections as its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaReached;

#[derive(Debug)]
struct Entry<C: Clock> {
    account: Arc<Account<C>>,
    used_at: Instant,
    /// When its limit was last asked for.
    asked_at: Option<Instant>,
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
            Entry { account: Arc::new(Account::new(Arc::clone(name), limits, tokens)), used_at: now, asked_at: None }
        });
        entry.used_at = now;
        let account = &entry.account;
        if !account.census.reserve(account.most()) {
            return Err(QuotaReached);
        }
        Ok(AccountSlot { account: Arc::clone(account), is_session: false })
    }

    /// Forgets the accounts that nobody uses.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, entry| {
            entry.account.census.held() > 0 || now.saturating_duration_since(entry.used_at) < FORGET_AFTER
        });
    }

    /// Connections through weir of every account that has any.
    pub fn connections(&self) -> Vec<(Arc<str>, u32)> {
        let count = |entry: &Entry<C>| entry.account.census.held();
        self.map.iter().filter(|one| count(one) > 0).map(|one| (Arc::clone(one.key()), count(&one))).collect()
    }

    /// Accounts in use, at most so many, whose limit the cluster is to be asked for: the configuration has none, and what was
    /// last heard is old.
    pub fn to_ask(&self, now: Instant, most: usize) -> Vec<Arc<str>> {
        let is_due = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN);
        let due = self.map.iter_mut().filter(|one| {
            one.account.limits.quota.max_connections.is_none() && one.account.census.held() > 0 && is_due(one.asked_at)
        });
        let due = due.take(most).map(|mut one| {
            one.asked_at = Some(now);
            Arc::clone(one.key())
        });
        due.collect()
    }

    /// The cluster has said what an account may have; `None` is no limit.
    pub fn limited_by_cluster(&self, name: &str, most: Option<u32>) {
        if let Some(entry) = self.map.get(name) {
            entry.account.by_cluster.store(most.unwrap_or(u32::MAX), Relaxed);
        }
    }

    /// Accounts in use that have a limit, at most so many, each with its mark for [`Accounts::counted`].
    pub fn to_count(&self, most: usize) -> Vec<(Arc<str>, Mark)> {
        let limited = self.map.iter().filter(|one| one.account.most() != u32::MAX);
        limited.take(most).map(|one| (Arc::clone(one.key()), one.account.census.mark())).collect()
    }

    /// The servers counted so many connections of an account since `mark`, weir's among them.
    pub fn counted(&self, name: &str, mark: Mark, connections: u32) {
        if let Some(entry) = self.map.get(name) {
            entry.account.census.reading(mark, connections);
        }
    }

    /// The servers count no more: what did not come through weir is not known.
    pub fn not_counted(&self) {
        self.map.iter().for_each(|one| one.account.census.forget_others());
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const FREE: AccountLimits =
        AccountLimits { quota: Quota { max_connections: None, rate: None }, weight: NonZeroU32::MIN };

    fn accounts() -> Accounts<FakeRelativeClock> {
        let two = AccountLimits { quota: Quota { max_connections: Some(2), rate: None }, ..FREE };
        Accounts::new(FREE, HashMap::from([("OWN".to_owned(), two)]), FakeRelativeClock::default())
    }

    #[test]
    fn what_the_cluster_says_holds_where_the_configuration_is_silent() {
        let (accounts, now) = (accounts(), Instant::now());
        let [own, other] = ["OWN", "OTHER"].map(Arc::<str>::from);
        let _held = [&own, &other].map(|name| accounts.enter(name, now).unwrap());
        assert_eq!(accounts.to_ask(now, 10), [Arc::clone(&other)]);
        assert!(accounts.to_ask(now, 10).is_empty(), "asked already");
        assert_eq!(accounts.to_ask(now + ASK_AGAIN, 10).len(), 1);
        accounts.limited_by_cluster("OTHER", Some(1));
        accounts.limited_by_cluster("OWN", Some(1));
        assert!(accounts.enter(&other, now).is_err());
        let _second = accounts.enter(&own, now).unwrap();
        accounts.limited_by_cluster("OTHER", None);
        assert!(accounts.enter(&other, now).is_ok());
    }

    #[test]
    fn connections_that_came_another_way_count_too() {
        let (accounts, now) = (accounts(), Instant::now());
        let own: Arc<str> = "OWN".into();
        let mut first = accounts.enter(&own, now).unwrap();
        first.session_began();
        let [(_, mark)] = accounts.to_count(10).try_into().unwrap();
        accounts.counted("OWN", mark, 1);
        drop(accounts.enter(&own, now).unwrap());
        let [(_, mark)] = accounts.to_count(10).try_into().unwrap();
        accounts.counted("OWN", mark, 2);
        assert!(accounts.enter(&own, now).is_err(), "one of the two is not weir's");
        assert_eq!(accounts.connections(), [(Arc::clone(&own), 1)]);
        accounts.not_counted();
        assert!(accounts.enter(&own, now).is_ok());
    }
}
