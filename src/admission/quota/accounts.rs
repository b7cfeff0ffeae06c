//! The accounts in use.

mod named;
mod peers;
mod remembered;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use self::peers::ByKey;
use crate::{
    admission::{
        client::Proof,
        params::AccountLimits,
        quota::{
            account::{Account, AccountSlot},
            counted_map::CountedMap,
            warned::Warned,
        },
    },
    fleet::lease::book::LeaseBook,
    identity::UNKNOWN_ACCOUNT,
    upstream::{ServerId, reconciled_count::ReadingEpoch},
};

/// An account that nobody uses is forgotten after this, and its token bucket with it: once that is full again, so that
/// there is no second burst.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The most accounts that are in use at once or were lately. Clients choose what they claim: beyond it those of
/// accounts that are neither configured nor known already count for one account together.
const MOST_ACCOUNTS: usize = 100_000;

/// With more accounts than this, those that nobody uses are forgotten although they lack tokens: the names that clients
/// make up keep no others out for longer than [`FORGET_AFTER`].
const MOST_LACKING: usize = MOST_ACCOUNTS / 2;

/// The cluster is asked again for the limit of an account after this: the limit changes with the account's JWT.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The account has as many connections as its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaReached;

#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    used_at: Instant,
    /// When the cluster was last asked for its limit.
    asked_at: Option<Instant>,
}

/// Every account in use. Unlike [`QuotaByKey`](super::by_key::QuotaByKey), whose entries hold a count each, an entry
/// here shares its account with the slots: a session reads and changes it without the table.
#[derive(Debug)]
pub struct Accounts {
    warned: Arc<Warned>,
    configured: ArcSwap<Configured>,
    /// See [`Accounts::are_named`].
    named: AtomicBool,
    /// Whether a server has an account that is called as those are that no server has named.
    default_is_one: AtomicBool,
    map: CountedMap<Arc<str>, Entry>,
    /// Where weir is one of a fleet.
    by_key: OnceLock<ByKey>,
    /// Where the fleet shares quotas.
    book: OnceLock<Arc<LeaseBook>>,
}

/// The limits of accounts by name, and of all others.
#[derive(Debug)]
struct Configured {
    default: AccountLimits,
    by_name: HashMap<String, AccountLimits>,
}

impl Configured {
    fn of(&self, name: &str) -> AccountLimits {
        self.by_name.get(name).copied().unwrap_or(self.default)
    }
}

impl Accounts {
    pub fn new(default: AccountLimits, by_name: HashMap<String, AccountLimits>, warned: Arc<Warned>) -> Self {
        let configured = ArcSwap::from_pointee(Configured { default, by_name });
        let [named, default_is_one] = [(); 2].map(|()| AtomicBool::new(false));
        let (map, by_key, book) = (CountedMap::default(), OnceLock::new(), OnceLock::new());
        Self { warned, configured, named, default_is_one, map, by_key, book }
    }

    /// The configuration has these limits by now. Accounts in use keep what they hold, also where that is more than
    /// they may have: they get no further connection until it is less.
    pub fn set_limits(&self, default: AccountLimits, by_name: HashMap<String, AccountLimits>, now: Instant) {
        // First those of accounts to come: one that is made meanwhile gets them either way.
        self.configured.store(Arc::new(Configured { default, by_name }));
        self.map.iter().for_each(|one| one.account.set_limits(self.limits_of(one.key()), now));
    }

    /// The names of all accounts that are known: those that have limits of their own in the configuration, and those
    /// that have had a client of late.
    pub fn names(&self) -> HashSet<Arc<str>> {
        let configured = self.configured.load();
        let configured = configured.by_name.keys().map(|name| Arc::from(name.as_str()));
        self.map.iter().map(|one| Arc::clone(one.key())).chain(configured).collect()
    }

    /// Takes a connection slot of an account.
    ///
    /// # Errors
    /// [`QuotaReached`]; nothing is taken then.
    pub fn enter(&self, name: &Arc<str>, proof: Proof, now: Instant) -> Result<AccountSlot, QuotaReached> {
        self.with(name, now, |account| account.enter(proof, now))
    }

    /// The same for a client that can wait: where another weir of the fleet may give a place back the slot is one that
    /// [waits for it](AccountSlot::waits_for).
    ///
    /// # Errors
    /// [`QuotaReached`]; nothing is taken then.
    pub fn enter_or_wait(&self, name: &Arc<str>, proof: Proof, now: Instant) -> Result<AccountSlot, QuotaReached> {
        self.with(name, now, |account| {
            // Who came before goes first.
            let first = if account.is_waited_for() { account.wait_for_lease(proof, now) } else { None };
            let entered = first.map_or_else(|| account.enter(proof, now), Ok);
            entered.or_else(|reached| account.wait_for_lease(proof, now).ok_or(reached))
        })
    }

    /// Takes a connection slot for a leafnode, for which its account has none left as far as clients go.
    ///
    /// # Errors
    /// [`QuotaReached`]; nothing is taken then.
    pub fn enter_leafnode(&self, name: &Arc<str>, proof: Proof, now: Instant) -> Result<AccountSlot, QuotaReached> {
        self.with(name, now, |account| account.enter_leafnode(proof))
    }

    /// From now on the fleet shares the quotas, by the leases of `book`. To be called before any account is in use.
    pub fn share_quotas(&self, book: Arc<LeaseBook>) {
        let _ = self.book.set(book);
    }

    /// Takes a connection slot whatever the quota of the account, for a session that is about to end for it.
    pub fn enter_anyway(&self, name: &Arc<str>, now: Instant) -> AccountSlot {
        self.with(name, now, Account::enter_over)
    }

    /// Takes the slot of a session that another process of weir has had until now, whatever the quota of the account.
    pub fn adopt_session(&self, name: &Arc<str>, now: Instant) -> AccountSlot {
        self.with(name, now, Account::adopt_session)
    }

    /// An account, if it is in use.
    pub fn find(&self, name: &Arc<str>) -> Option<Arc<Account>> {
        self.map.get(&**name).map(|entry| Arc::clone(&entry.account))
    }

    /// An account, as a server has named it.
    pub fn of_name(&self, name: &str, now: Instant) -> Arc<Account> {
        if let Some(entry) = self.map.get(name) {
            return Arc::clone(&entry.account);
        }
        self.with(&name.into(), now, Arc::clone)
    }

    /// Calls `enter` with an account, which is not forgotten meanwhile.
    fn with<T>(&self, name: &Arc<str>, now: Instant, enter: impl FnOnce(&Arc<Account>) -> T) -> T {
        // The slot is taken while the entry is locked, and `sweep` looks at an entry under the same lock: an account is
        // never forgotten between being found and being counted, so no second count of it can come into being.
        let is_one_too_many = self.map.len() >= MOST_ACCOUNTS
            && !self.map.contains_key(name)
            && !self.configured.load().by_name.contains_key(&**name);
        let name = if is_one_too_many { Arc::from(UNKNOWN_ACCOUNT) } else { Arc::clone(name) };
        let mut entry = self.map.get_or_insert_with(Arc::clone(&name), || {
            let limits = self.limits_of(&name);
            let account = Arc::new(Account::new(Arc::clone(&name), limits, Arc::clone(&self.warned)));
            if let Some(book) = self.book.get() {
                account.join(book);
            }
            if let Some(by_key) = self.by_key.get() {
                by_key.add(&account, now);
            }
            Entry { account, used_at: now, asked_at: None }
        });
        entry.used_at = now;
        enter(&entry.account)
    }

    /// Forgets the accounts that nobody uses.
    pub fn sweep(&self, now: Instant) {
        let may_lack = self.map.len() <= MOST_LACKING;
        self.map.retain(|_, entry| {
            let keep = entry.account.connections.held() > 0
                || now.saturating_duration_since(entry.used_at) < FORGET_AFTER
                || may_lack && entry.account.lacks_tokens(now);
            if let (false, Some(by_key)) = (keep, self.by_key.get()) {
                by_key.remove(&entry.account);
            }
            keep
        });
    }

    /// Forgets the servers that have gone. Returns whether nothing is left of them: a login may still count there.
    pub fn forget_gone(&self, is_there: impl Fn(ServerId) -> bool) -> bool {
        self.map.iter().filter(|one| !one.account.forget_gone(&is_there)).count() == 0
    }

    /// The connections through weir of every account that has any.
    pub fn connections(&self) -> Vec<(Arc<str>, u32)> {
        let count = |entry: &Entry| entry.account.connections.held();
        self.map.iter().filter(|one| count(one) > 0).map(|one| (Arc::clone(one.key()), count(&one))).collect()
    }

    /// The leafnodes through weir of every account that has any, and the most that it may have, where it has a limit.
    pub fn leafnodes(&self) -> Vec<(Arc<str>, u32, Option<u32>)> {
        let of = |name: &Arc<str>, account: &Account| {
            (Arc::clone(name), account.leafnodes.load(Relaxed), account.max_leafnodes())
        };
        self.map.iter().map(|one| of(one.key(), &one.account)).filter(|(_, leafnodes, _)| *leafnodes > 0).collect()
    }

    /// Every account that has had a session and is known to a server: its connections and its limit, where it has one.
    /// What did not come through weir counts where the servers count it.
    pub fn rooms(&self) -> Vec<(Arc<str>, u32, Option<u32>)> {
        let is_it = |account: &Account| account.is_known() && account.had_session.load(Relaxed);
        let room = |name: &Arc<str>, account: &Account| {
            let limit = account.is_limited().then(|| account.max_connections());
            (Arc::clone(name), account.connections.total(), limit)
        };
        self.map.iter().filter(|one| is_it(&one.account)).map(|one| room(one.key(), &one.account)).collect()
    }

    /// The most connections of an account that is in use, where it has a limit.
    pub fn max_connections(&self, name: &str) -> Option<u32> {
        let entry = self.map.get(name)?;
        entry.account.is_limited().then(|| entry.account.max_connections())
    }

    /// At most `most` accounts in use whose limits the cluster is to be asked for: the configuration has none, and the
    /// last answer is older than [`ASK_AGAIN`].
    pub fn to_ask(&self, now: Instant, most: usize) -> Vec<Arc<str>> {
        let is_due = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN);
        let due = self.map.iter_mut().filter(|one| {
            let account = &one.account;
            account.asks_cluster() && account.connections.held() > 0 && is_due(one.asked_at)
        });
        let due = due.take(most).map(|mut one| {
            one.asked_at = Some(now);
            Arc::clone(one.key())
        });
        due.collect()
    }

    /// The cluster has said how many connections an account may have, and how many leafnodes; `None` is no limit.
    pub fn limited_by_cluster(&self, name: &str, most: Option<u32>, leafnodes: Option<u32>) {
        if let Some(entry) = self.map.get(name) {
            entry.account.by_cluster.store(most.unwrap_or(u32::MAX), Relaxed);
            entry.account.leafnodes_by_cluster.store(leafnodes.unwrap_or(u32::MAX), Relaxed);
            entry.account.share_quota();
        }
    }

    /// Whether this account is in use and limited.
    pub fn is_limited(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|one| one.account.is_limited())
    }

    /// Whether any account in use is limited.
    pub fn any_limited(&self) -> bool {
        self.map.iter().any(|one| one.account.is_limited())
    }

    /// At most `most` accounts in use that are limited, each with its mark for [`Accounts::counted`]. Those that are
    /// only claimed come last.
    pub fn to_count(&self, most: usize, now: Instant) -> Vec<(Arc<str>, ReadingEpoch)> {
        let limited = |had_session| {
            let is_it =
                move |account: &Account| account.is_limited() && account.had_session.load(Relaxed) == had_session;
            self.map.iter().filter(move |one| is_it(&one.account))
        };
        limited(true)
            .chain(limited(false))
            .take(most)
            .map(|one| (Arc::clone(one.key()), one.account.connections.begin_reading(now)))
            .collect()
    }

    /// Like [`Accounts::to_count`], restricted to `names`.
    pub fn to_count_of(&self, names: &HashSet<String>, now: Instant) -> Vec<(Arc<str>, ReadingEpoch)> {
        let limited = names.iter().filter_map(|name| self.map.get(&**name));
        let limited = limited.filter(|one| one.account.is_limited());
        limited.map(|one| (Arc::clone(one.key()), one.account.connections.begin_reading(now))).collect()
    }

    /// The servers have counted so many connections of an account between `mark` and `now`, weir's among them.
    pub fn counted(&self, name: &str, mark: ReadingEpoch, now: Instant, connections: u32) {
        if let Some(entry) = self.map.get(name) {
            entry.account.connections.reconcile(mark, now, connections);
            self.await_peers(&entry.account, now);
        }
    }

    /// The same, where some server has not answered: there are at least so many.
    pub fn counted_in_part(&self, name: &str, mark: ReadingEpoch, now: Instant, connections: u32) {
        if let Some(entry) = self.map.get(name) {
            entry.account.connections.reconcile_partial(mark, now, connections);
            self.await_peers(&entry.account, now);
        }
    }

    /// The servers count no more: connections that did not come through weir are not known.
    pub fn not_counted(&self) {
        self.map.iter().for_each(|one| one.account.connections.forget_others());
    }
}

#[cfg(test)]
mod tests {

    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        admission::{Quota, Rate, client::Claim, quota::logins::UsualLatencies},
        outcome::Refusal,
        upstream::{Addresses, concurrency::baseline::MeasuredFrom},
    };

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
        let _held = [&own, &other].map(|name| accounts.enter(name, Proof::Known, now).unwrap());
        assert_eq!(accounts.to_ask(now, 10), [Arc::clone(&other)]);
        assert!(accounts.to_ask(now, 10).is_empty(), "asked already");
        assert_eq!(accounts.to_ask(now + ASK_AGAIN, 10).len(), 1);
        accounts.limited_by_cluster("OTHER", Some(1), None);
        accounts.limited_by_cluster("OWN", Some(1), None);
        assert!(accounts.enter(&other, Proof::Known, now).is_err());
        let _second = accounts.enter(&own, Proof::Known, now).unwrap();
        accounts.limited_by_cluster("OTHER", None, None);
        assert!(accounts.enter(&other, Proof::Known, now).is_ok());
    }

    #[test]
    fn what_is_counted_stays_counted_under_other_limits() {
        let (accounts, now) = (accounts(), Instant::now());
        let own: Arc<str> = "OWN".into();
        let enter = || accounts.enter(&own, Proof::Known, now);
        let of = |most, rate: Option<u32>| {
            let burst = NonZeroU32::MIN;
            let rate = rate.map(|n| Rate { per_second: n.try_into().unwrap(), burst });
            AccountLimits { quota: Quota { max_connections: most, rate, warn_only: false }, ..AccountLimits::default() }
        };
        let set = |limits| accounts.set_limits(AccountLimits::default(), HashMap::from([("OWN".into(), limits)]), now);
        let mut held = vec![enter().unwrap(), enter().unwrap()];
        assert!(enter().is_err());
        set(of(Some(3), None));
        held.push(enter().unwrap());
        assert!(enter().is_err());
        set(of(Some(1), Some(1)));
        held.pop();
        assert!(enter().is_err(), "two are more than it may have, and stay");
        assert!(held[0].take_token(now) && !held[0].take_token(now), "it has a rate by now");
        accounts.set_limits(AccountLimits::default(), HashMap::new(), now);
        held.extend([(); 9].map(|()| enter().unwrap()));
        assert!(held[0].take_token(now), "it has none any more");
        set(of(Some(11), None));
        assert!(enter().is_err(), "all were counted meanwhile");
        drop(held);
        assert!(accounts.connections().is_empty());
    }

    #[test]
    fn a_server_that_was_dialled_before_is_no_measure_for_one_that_was_not() {
        let account = accounts().enter(&"A".into(), Proof::Known, Instant::now()).unwrap();
        let (now, ms, usual) = (Instant::now(), Duration::from_millis, UsualLatencies::default());
        for n in 0..200 {
            let at = now + Duration::from_secs(n);
            assert_eq!(
                account
                    .account()
                    .logged_in(ServerId::from_raw(0), &usual, at, ms(300), (MeasuredFrom::Dial, ms(0)), true)
                    .0
                    .own,
                ms(450)
            );
            assert_eq!(
                account
                    .account()
                    .logged_in(ServerId::from_raw(0), &usual, at, ms(100), (MeasuredFrom::Connect, ms(0)), true)
                    .0
                    .own,
                ms(150)
            );
        }
    }

    #[test]
    fn another_process_knows_what_logins_usually_take() {
        let (old, new, usual) = (accounts(), accounts(), [(); 2].map(|()| UsualLatencies::default()));
        let (now, ms) = (Instant::now(), Duration::from_millis);
        for (name, took, undisturbed) in [("A", 100, true), ("B", 30, false), ("C", 80, true)] {
            let place = old.enter(&name.into(), Proof::Known, now).unwrap();
            let (server, dial) = (ServerId::from_raw(0), (MeasuredFrom::Dial, ms(0)));
            place.account().logged_in(server, &usual[0], now, ms(took), dial, undisturbed);
        }
        let nowhere = Addresses::default();
        new.recall(&old.remembered(&nowhere, now), &nowhere, now, &usual[1]);
        assert_eq!(usual.map(|usual| usual[MeasuredFrom::Dial as usize].get()), [Some(ms(80)); 2]);
    }

    #[test]
    fn a_turn_leaves_time_for_a_login_that_takes_as_long_as_the_longest_of_late() {
        let account = accounts().enter(&"A".into(), Proof::Known, Instant::now()).unwrap();
        let (now, ms, usual) = (Instant::now(), Duration::from_millis, UsualLatencies::default());
        let takes = |took| {
            account.account().logged_in(ServerId::from_raw(0), &usual, now, took, (MeasuredFrom::Dial, ms(0)), false);
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
        let [mut a, mut b, mut c] = [(); 3].map(|()| accounts.enter(&name, Proof::Known, now).unwrap());
        assert!(a.begin_handshake() && a.begin_handshake() && b.begin_handshake() && !c.begin_handshake());
        a.session_began();
        assert!(c.begin_handshake() && !c.account().has_room_for_handshake());
        drop((b, c));
        let other = accounts.enter(&"B".into(), Proof::Known, now).unwrap();
        a.move_to(other);
        a.session_began();
        assert_eq!(accounts.connections(), [("B".into(), 1)]);
        drop(a);
        accounts.map.iter().for_each(|one| assert_eq!(one.account.handshakes.load(Relaxed), 0));
    }

    #[test]
    fn what_only_warns_lets_in_and_counts() {
        let rate = Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN };
        let quota = Quota { max_connections: Some(1), rate: Some(rate), warn_only: true };
        let (warned, limits) = (Arc::<Warned>::default(), AccountLimits { quota, ..AccountLimits::default() });
        let accounts = Accounts::new(limits, HashMap::new(), Arc::clone(&warned));
        let slots: Vec<_> =
            (0..3).map(|_| accounts.enter(&"A".into(), Proof::Known, Instant::now()).unwrap()).collect();
        assert!(slots.iter().all(|slot| slot.take_token(Instant::now())));
        assert_eq!((warned.of(Refusal::AccountQuota), warned.of(Refusal::AccountRate)), (2, 2));
    }

    #[test]
    fn connections_that_came_another_way_count_too() {
        let (accounts, now) = (accounts(), Instant::now());
        let own: Arc<str> = "OWN".into();
        let mut first = accounts.enter(&own, Proof::Known, now).unwrap();
        first.session_began();
        let [(_, mark)] = accounts.to_count(10, now).try_into().unwrap();
        accounts.counted("OWN", mark, now, 1);
        drop(accounts.enter(&own, Proof::Known, now).unwrap());
        let [(_, mark)] = accounts.to_count(10, now).try_into().unwrap();
        accounts.counted("OWN", mark, now, 2);
        assert!(accounts.enter(&own, Proof::Known, now).is_err(), "one of the two is not weir's");
        assert_eq!(accounts.connections(), [(Arc::clone(&own), 1)]);
        accounts.not_counted();
        assert!(accounts.enter(&own, Proof::Known, now).is_ok());
    }

    #[test]
    fn an_account_that_nobody_uses_has_no_second_burst() {
        let rate = Rate { per_second: NonZeroU32::MIN, burst: 100.try_into().unwrap() };
        let limits =
            AccountLimits { quota: Quota { rate: Some(rate), ..Quota::default() }, ..AccountLimits::default() };
        let (accounts, began) = (Accounts::new(limits, HashMap::new(), Arc::default()), Instant::now());
        let second = Duration::from_secs(1);
        // Of the two buckets one alone may lack tokens.
        for proof in [Proof::Known, Proof::Missing(claim(1))] {
            let burst = |now| {
                let slot = accounts.enter(&"A".into(), proof, now).unwrap();
                (0..200).filter(|_| slot.take_token(now)).count()
            };
            assert_eq!(burst(began), 100);
            (1..=64).for_each(|n| accounts.sweep(began + n * second));
            assert_eq!(burst(began + 64 * second), 64);
            accounts.sweep(began + 164 * second);
            assert_eq!(accounts.map.len(), 0, "it is full again");
        }
    }

    fn claim(n: u64) -> Claim {
        let source = std::net::IpAddr::from([192, 0, 2, 1]).into();
        Claim { source, credential: crate::identity::CredentialKey::from_raw(n) }
    }

    #[test]
    fn who_is_known_takes_the_place_of_a_claim_and_nobody_is_over_the_quota() {
        let (accounts, own, now) = (accounts(), "OWN".into(), Instant::now());
        let enter = |proof| accounts.enter(&own, proof, now);
        let strangers = [1, 2].map(|n| enter(Proof::Missing(claim(n))).unwrap());
        assert!(enter(Proof::Missing(claim(3))).is_err(), "they count among each other");
        let known = [(); 2].map(|()| enter(Proof::Known).unwrap());
        assert!(enter(Proof::Known).is_err());
        let [mut first, second] = strangers;
        assert_eq!((first.displaced(), second.displaced()), (Some(Refusal::AccountQuota), Some(Refusal::AccountQuota)));
        assert_eq!(first.prove(now), Err(Refusal::AccountQuota), "its login was good, and there is no room");
        drop((first, known));
        assert!(second.displaced().is_none());
        let [mut third, fourth] = [second, enter(Proof::Missing(claim(2))).unwrap()];
        assert_eq!(third.prove(now), Ok(()));
        assert!(enter(Proof::Known).is_err(), "two of one claim, of which one is proven: so is the other");
        drop(fourth);
        assert!(enter(Proof::Known).is_ok());
        drop(third);
        accounts.map.iter().for_each(|one| {
            assert_eq!((one.account.connections.held(), one.account.unproven.with_sum(|sum| sum)), (0, 0));
        });
    }

    #[test]
    fn claims_spend_no_token_of_those_who_are_known() {
        let rate = Rate { per_second: NonZeroU32::MIN, burst: 3.try_into().unwrap() };
        let limits =
            AccountLimits { quota: Quota { rate: Some(rate), ..Quota::default() }, ..AccountLimits::default() };
        let (accounts, now) = (Accounts::new(limits, HashMap::new(), Arc::default()), Instant::now());
        let enter = |proof| accounts.enter(&"A".into(), proof, now).unwrap();
        let mut strangers: Vec<_> = (0..9).map(|n| enter(Proof::Missing(claim(n)))).collect();
        assert_eq!(strangers.iter().filter(|slot| slot.take_token(now)).count(), 3, "the rate is theirs too");
        let known = enter(Proof::Known);
        assert!(known.take_token(now) && known.take_token(now));
        // A login that was good counts for all.
        assert_eq!(strangers[0].prove(now), Ok(()));
        assert!(!known.take_token(now));
        // What the known have taken the others have not.
        let later = now + Duration::from_secs(1);
        assert!(known.take_token(later) && !strangers[1].take_token(later));
    }

    #[test]
    fn a_login_whose_account_a_server_names_counts_for_all() {
        let rate = Rate { per_second: NonZeroU32::MIN, burst: 3.try_into().unwrap() };
        let limits =
            AccountLimits { quota: Quota { rate: Some(rate), ..Quota::default() }, ..AccountLimits::default() };
        let (accounts, now) = (Accounts::new(limits, HashMap::new(), Arc::default()), Instant::now());
        let enter = |proof| accounts.enter(&"A".into(), proof, now).unwrap();
        let [named, known, stranger] = [Proof::Known, Proof::Known, Proof::Missing(claim(1))].map(enter);
        (0..3).for_each(|_| named.account().charge(now));
        assert!(!known.take_token(now) && !stranger.take_token(now));
    }

    #[test]
    fn made_up_accounts_are_bounded_and_displace_no_real_one() {
        let two =
            AccountLimits { quota: Quota { max_connections: Some(2), ..Quota::default() }, ..AccountLimits::default() };
        let configured = HashMap::from([("OWN".to_owned(), AccountLimits::default())]);
        let (accounts, now) = (Accounts::new(two, configured, Arc::default()), Instant::now());
        let made_up: Vec<_> =
            (0..MOST_ACCOUNTS).map(|n| accounts.enter(&format!("A{n}").into(), Proof::Known, now).unwrap()).collect();
        let of =
            |name: &str| accounts.enter(&name.into(), Proof::Known, now).map(|slot| slot.account().name().to_string());
        assert_eq!((of("ANOTHER").as_deref(), of("OWN").as_deref()), (Ok(UNKNOWN_ACCOUNT), Ok("OWN")));
        assert!(accounts.map.len() <= MOST_ACCOUNTS + 2);
        let mut real = accounts.enter(&"A7".into(), Proof::Known, now).unwrap();
        real.session_began();
        assert_eq!(accounts.to_count(1, now)[0].0, "A7".into(), "it has a session");
        drop((made_up, real));
        accounts.sweep(now + FORGET_AFTER);
        assert!(accounts.map.is_empty());
    }

    #[test]
    fn made_up_accounts_that_lack_tokens_keep_no_other_out() {
        let rate = Rate { per_second: NonZeroU32::MIN, burst: 1000.try_into().unwrap() };
        let limits =
            AccountLimits { quota: Quota { rate: Some(rate), ..Quota::default() }, ..AccountLimits::default() };
        let (accounts, now) = (Accounts::new(limits, HashMap::new(), Arc::default()), Instant::now());
        for n in 0..MOST_ACCOUNTS {
            let slot = accounts.enter(&format!("A{n}").into(), Proof::Missing(claim(1)), now).unwrap();
            (0..70).for_each(|_| assert!(slot.take_token(now)));
        }
        accounts.sweep(now + FORGET_AFTER);
        assert!(accounts.map.is_empty());
    }
}
