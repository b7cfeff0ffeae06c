//! What each account holds and may hold. Exact under concurrency: an account's count changes only by guards.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;

use crate::{
    admission::{
        params::AccountLimits,
        quota::{rate::TokenBucket, users_and_names::UserAndNameSlots, warned::Warned},
    },
    outcome::Refusal,
    upstream::{
        concurrency::baseline::{BaselineLatency, MeasuredFrom},
        reconciled_count::{ReadingEpoch, ReconciledCount},
    },
};

/// An account nobody uses is forgotten after this, its token bucket with it (any bucket that matters is full by then).
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The limit of an account is asked for again after this: it changes when its JWT does.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// One account.
#[derive(Debug)]
pub struct Account {
    name: Arc<str>,
    limits: AccountLimits,
    connections: ReconciledCount,
    /// Its limit by the cluster's own word; `u32::MAX` while there is none.
    by_cluster: AtomicU32,
    /// Handshakes under way.
    handshakes: AtomicU32,
    tokens: Option<TokenBucket>,
    warned: Arc<Warned>,
    /// What a login takes at the least, by what it counts from.
    baselines: Mutex<[BaselineLatency; 2]>,
    /// What one takes, in nanoseconds: readable without the lock.
    login_time: AtomicU64,
}

impl Account {
    fn new(name: Arc<str>, limits: AccountLimits, tokens: Option<TokenBucket>, warned: Arc<Warned>) -> Self {
        Self {
            name,
            limits,
            connections: ReconciledCount::default(),
            by_cluster: AtomicU32::new(u32::MAX),
            handshakes: AtomicU32::new(0),
            tokens,
            warned,
            baselines: Mutex::default(),
            login_time: AtomicU64::new(0),
        }
    }

    /// The most connections it may have: as configured, else as the cluster says; `u32::MAX` is no limit.
    fn max_connections(&self) -> u32 {
        self.limits.quota.max_connections.unwrap_or_else(|| self.by_cluster.load(Relaxed))
    }

    /// Takes in what a login took while weir itself was so `late`, and whether its server was `undisturbed`; returns what one of its
    /// kind may take.
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

    /// What a login has taken lately, the longest more than others; zero while unknown. Who is given a turn needs so much time for it:
    /// a login that is cut off has cost its server as much as one that is not.
    pub fn login_time(&self) -> Duration {
        Duration::from_nanos(self.login_time.load(Relaxed))
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it opens connections at a limited rate.
    pub fn has_rate(&self) -> bool {
        self.tokens.is_some()
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

impl Account {
    /// Takes a token for a new connection; `false` when there is none, and the rate does more than warn.
    pub fn take_token(&self, now: Instant) -> bool {
        let has = self.tokens.as_ref().is_none_or(|tokens| tokens.take(now).is_ok());
        if !has && self.limits.quota.warn_only {
            self.warned.note(Refusal::AccountRate);
        }
        has || self.limits.quota.warn_only
    }
}

/// One connection of an account, given back on drop.
#[derive(Debug)]
pub struct AccountSlot {
    account: Arc<Account>,
    state: SlotState,
    /// What its client holds of other quotas.
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
    /// For one that its account has counted.
    fn new(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), state: SlotState::Waiting, other_quotas: UserAndNameSlots::default() }
    }

    /// Whose it is.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether nothing that it counts for has a limit of connections.
    pub fn is_unlimited(&self) -> bool {
        self.account.max_connections() == u32::MAX && self.other_quotas.is_empty()
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

    /// A handshake was begun for it.
    pub fn handshake_begun(&mut self) {
        if self.state == SlotState::Waiting {
            self.state = SlotState::Handshake;
        }
    }

    /// There is no handshake after all.
    pub fn end_handshake(&mut self) {
        if self.state == SlotState::Handshake {
            self.state = SlotState::Waiting;
            self.account.end_handshake();
        }
    }

    /// Holds what its client holds of other quotas.
    pub fn with_other_quotas(mut self, other_quotas: UserAndNameSlots) -> Self {
        self.other_quotas = other_quotas;
        self
    }

    /// What its client holds of other quotas.
    pub fn other_quotas(&self) -> &UserAndNameSlots {
        &self.other_quotas
    }

    /// Goes over to another account, with what it holds of other quotas.
    pub fn move_to(&mut self, other: Self) {
        let mut before = std::mem::replace(self, other);
        std::mem::swap(&mut self.other_quotas, &mut before.other_quotas);
    }

    /// A slot of no account, under a name to queue by: for a client that has not said yet who it is. Nothing is counted.
    pub fn of_nobody(name: Arc<str>) -> Self {
        let account = Account::new(name, AccountLimits::default(), None, Arc::default());
        account.connections.reserve(1);
        Self::new(&Arc::new(account))
    }
}

impl Drop for AccountSlot {
    fn drop(&mut self) {
        self.end_handshake();
        self.account.connections.release(self.state == SlotState::Session);
    }
}

/// The account has as many connections as its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaReached;

#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    used_at: Instant,
    /// When its limit was last asked for.
    asked_at: Option<Instant>,
}

/// Every account in use.
#[derive(Debug)]
pub struct Accounts {
    warned: Arc<Warned>,
    default: AccountLimits,
    configured: HashMap<String, AccountLimits>,
    map: DashMap<Arc<str>, Entry>,
}

impl Accounts {
    /// No account in use.
    pub fn new(default: AccountLimits, configured: HashMap<String, AccountLimits>, warned: Arc<Warned>) -> Self {
        Self { warned, default, configured, map: DashMap::new() }
    }

    /// Takes a connection slot of an account.
    ///
    /// # Errors
    /// [`QuotaReached`]; nothing is taken then.
    pub fn enter(&self, name: &Arc<str>, now: Instant) -> Result<AccountSlot, QuotaReached> {
        self.with(name, now, |account| {
            if !account.connections.reserve(account.max_connections()) {
                if !account.limits.quota.warn_only {
                    return Err(QuotaReached);
                }
                account.connections.reserve(u32::MAX);
                self.warned.note(Refusal::AccountQuota);
            }
            Ok(AccountSlot::new(account))
        })
    }

    /// The same for a client that is in already, whatever the account may have.
    pub fn enter_anyway(&self, name: &Arc<str>, now: Instant) -> AccountSlot {
        self.with(name, now, |account| {
            account.connections.reserve(u32::MAX);
            AccountSlot::new(account)
        })
    }

    /// Does something with an account, which is not forgotten meanwhile.
    fn with<T>(&self, name: &Arc<str>, now: Instant, enter: impl FnOnce(&Arc<Account>) -> T) -> T {
        // The slot is taken while the entry is locked, and `sweep` looks at an entry under the same lock: an account is
        // never forgotten between being found and being counted, so no second count of it can come into being.
        let mut entry = self.map.entry(Arc::clone(name)).or_insert_with(|| {
            let limits = self.configured.get(&**name).copied().unwrap_or(self.default);
            let tokens = limits.quota.rate.map(TokenBucket::new);
            Entry {
                account: Arc::new(Account::new(Arc::clone(name), limits, tokens, Arc::clone(&self.warned))),
                used_at: now,
                asked_at: None,
            }
        });
        entry.used_at = now;
        enter(&entry.account)
    }

    /// Forgets the accounts that nobody uses.
    pub fn sweep(&self, now: Instant) {
        self.map.retain(|_, entry| {
            entry.account.connections.held() > 0 || now.saturating_duration_since(entry.used_at) < FORGET_AFTER
        });
    }

    /// Connections through weir of every account that has any.
    pub fn connections(&self) -> Vec<(Arc<str>, u32)> {
        let count = |entry: &Entry| entry.account.connections.held();
        self.map.iter().filter(|one| count(one) > 0).map(|one| (Arc::clone(one.key()), count(&one))).collect()
    }

    /// Accounts in use, at most so many, whose limit the cluster is to be asked for: the configuration has none, and what was
    /// last heard is old.
    pub fn to_ask(&self, now: Instant, most: usize) -> Vec<Arc<str>> {
        let is_due = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN);
        let due = self.map.iter_mut().filter(|one| {
            one.account.limits.quota.max_connections.is_none()
                && one.account.connections.held() > 0
                && is_due(one.asked_at)
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

    /// Whether an account in use has a limit.
    pub fn is_limited(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|one| one.account.max_connections() != u32::MAX)
    }

    /// Whether any has.
    pub fn any_limited(&self) -> bool {
        self.map.iter().any(|one| one.account.max_connections() != u32::MAX)
    }

    /// Accounts in use that have a limit, at most so many, each with its mark for [`Accounts::counted`].
    pub fn to_count(&self, most: usize) -> Vec<(Arc<str>, ReadingEpoch)> {
        let limited = self.map.iter().filter(|one| one.account.max_connections() != u32::MAX);
        limited.take(most).map(|one| (Arc::clone(one.key()), one.account.connections.begin_reading())).collect()
    }

    /// The same of some.
    pub fn to_count_of(&self, names: &HashSet<String>) -> Vec<(Arc<str>, ReadingEpoch)> {
        let limited = names.iter().filter_map(|name| self.map.get(&**name));
        let limited = limited.filter(|one| one.account.max_connections() != u32::MAX);
        limited.map(|one| (Arc::clone(one.key()), one.account.connections.begin_reading())).collect()
    }

    /// The servers counted so many connections of an account since `mark`, weir's among them.
    pub fn counted(&self, name: &str, mark: ReadingEpoch, connections: u32) {
        if let Some(entry) = self.map.get(name) {
            entry.account.connections.reconcile(mark, connections);
        }
    }

    /// The servers count no more: what did not come through weir is not known.
    pub fn not_counted(&self) {
        self.map.iter().for_each(|one| one.account.connections.forget_others());
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::admission::Quota;

    fn accounts() -> Accounts {
        let two = Quota { max_connections: Some(2), ..Quota::default() };
        let two = AccountLimits { quota: two, ..AccountLimits::default() };
        let own = HashMap::from([("OWN".to_owned(), two)]);
        Accounts::new(AccountLimits::default(), own, Arc::default())
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
    fn a_server_that_was_dialled_before_is_no_measure_for_one_that_was_not() {
        let account = accounts().enter(&"A".into(), Instant::now()).unwrap();
        let (now, ms) = (Instant::now(), Duration::from_millis);
        for n in 0..200 {
            let at = now + Duration::from_secs(n);
            assert_eq!(account.account().logged_in(at, ms(300), MeasuredFrom::Dial, ms(0), true), ms(450));
            assert_eq!(account.account().logged_in(at, ms(100), MeasuredFrom::Connect, ms(0), true), ms(150));
        }
    }

    #[test]
    fn a_turn_leaves_time_for_a_login_that_takes_as_long_as_the_longest_of_late() {
        let account = accounts().enter(&"A".into(), Instant::now()).unwrap();
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let takes = |took| {
            account.account().logged_in(now, took, MeasuredFrom::Dial, ms(0), false);
            account.account().login_time()
        };
        assert_eq!((takes(ms(100)), takes(ms(300)), takes(ms(100))), (ms(100), ms(300), ms(290)));
        assert!((0..100).any(|_| takes(ms(100)) < ms(105)), "it is forgotten by and by");
    }

    #[test]
    fn handshakes_under_way_are_bounded_and_given_back() {
        let limits = AccountLimits { max_handshakes: NonZeroU32::new(2), ..AccountLimits::default() };
        let accounts = Accounts::new(limits, HashMap::new(), Arc::default());
        let (name, now) = ("A".into(), Instant::now());
        let [mut a, mut b, mut c] = [(); 3].map(|()| accounts.enter(&name, now).unwrap());
        assert!(a.begin_handshake() && a.begin_handshake() && b.begin_handshake() && !c.begin_handshake());
        a.session_began();
        assert!(c.begin_handshake() && !c.account().has_room_for_handshake());
        drop((b, c));
        let other = accounts.enter(&"B".into(), now).unwrap();
        a.move_to(other);
        a.session_began();
        assert_eq!(accounts.connections(), [("B".into(), 1)]);
        drop(a);
        accounts.map.iter().for_each(|one| assert_eq!(one.account.handshakes.load(Relaxed), 0));
    }

    #[test]
    fn what_only_warns_lets_in_and_counts() {
        let rate = crate::admission::Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN };
        let quota = Quota { max_connections: Some(1), rate: Some(rate), warn_only: true };
        let (warned, limits) = (Arc::<Warned>::default(), AccountLimits { quota, ..AccountLimits::default() });
        let accounts = Accounts::new(limits, HashMap::new(), Arc::clone(&warned));
        let slots: Vec<_> = (0..3).map(|_| accounts.enter(&"A".into(), Instant::now()).unwrap()).collect();
        assert!(slots.iter().all(|slot| slot.account().take_token(Instant::now())));
        assert_eq!((warned.of(Refusal::AccountQuota), warned.of(Refusal::AccountRate)), (2, 2));
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
