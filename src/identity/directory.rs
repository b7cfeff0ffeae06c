//! The account of each credential: as a server named it, else as the operator configured it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::identity::{AccountRule, Credential, CredentialKey};

/// The account of a credential that neither a server nor the configuration has assigned to one.
pub const UNKNOWN_ACCOUNT: &str = "default";

/// The most credentials that are remembered. Beyond it half of them are forgotten, and learned again at their next
/// login.
const MOST_LEARNED: usize = 100_000;

/// What a server has said is certain for so long. After that it is asked for again, as after a change of a server's
/// configuration: an auth callout may put a user into another account without one. A server of before 2.12 is asked as
/// often for each credential; and so often a full account has one client more for the length of a login, which only
/// looks whether its own is another one by now.
const CERTAIN_FOR: Duration = Duration::from_secs(600);

/// Where a server may name an account anew within this time, that is not noted: it would be a write for each login.
const NOTED_EVERY: Duration = Duration::from_secs(1);

/// Which users, in the order of the configuration, belong to which account.
pub type Rules = Vec<(Arc<str>, GlobSet)>;

/// What servers have said of one credential.
#[derive(Debug, Clone)]
struct Learned {
    account: Arc<str>,
    /// When a server last said so.
    named_at: Instant,
    /// When that was another account than before.
    changed_at: Option<Instant>,
    /// Whether it was another one twice within [`CERTAIN_FOR`]. Then it is no user that has been moved: one user name
    /// stands for many accounts, as an auth callout may have it, and none of them is assumed.
    is_of_several: bool,
}

impl Learned {
    fn new(account: &Arc<str>, named_at: Instant) -> Self {
        Self { account: Arc::clone(account), named_at, changed_at: None, is_of_several: false }
    }

    fn is_to_note(&self, account: &str, now: Instant) -> bool {
        *self.account != *account || now.saturating_duration_since(self.named_at) >= NOTED_EVERY
    }

    /// A server has named this account. Returns whether that is news.
    fn named(&mut self, account: &Arc<str>, now: Instant) -> bool {
        let changed_lately = self.changed_at.is_some_and(|at| now.saturating_duration_since(at) < CERTAIN_FOR);
        self.named_at = now;
        if self.account == *account {
            self.is_of_several &= changed_lately;
            return false;
        }
        self.is_of_several = changed_lately;
        (self.account, self.changed_at) = (Arc::clone(account), Some(now));
        !self.is_of_several
    }
}

/// A map from credential to account.
#[derive(Debug)]
pub struct Directory {
    rules: ArcSwap<Rules>,
    learned: DashMap<CredentialKey, Learned>,
    unknown: Arc<str>,
}

impl Directory {
    /// A directory of the configured accounts.
    ///
    /// # Errors
    /// A pattern is not a valid glob.
    pub fn new(rules: &[AccountRule]) -> Result<Self, globset::Error> {
        let rules = ArcSwap::from_pointee(Self::compile(rules)?);
        Ok(Self { rules, learned: DashMap::new(), unknown: UNKNOWN_ACCOUNT.into() })
    }

    /// The configuration has these accounts by now. What servers named stays.
    pub fn set_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Rules as a directory reads them.
    ///
    /// # Errors
    /// A pattern is not a valid glob.
    pub fn compile(rules: &[AccountRule]) -> Result<Rules, globset::Error> {
        let rules = rules.iter().map(|rule| {
            let mut set = GlobSetBuilder::new();
            for pattern in &rule.users {
                set.add(Glob::new(pattern)?);
            }
            Ok((Arc::from(rule.account.as_str()), set.build()?))
        });
        rules.collect()
    }

    /// The account of a credential. What a server named counts more than the configuration.
    pub fn account(&self, credential: Credential<'_>, key: CredentialKey) -> Arc<str> {
        if let Some(learned) = self.learned(key) {
            return learned;
        }
        if let Credential::Jwt { account, .. } = credential {
            return account.into();
        }
        let rules = self.rules.load();
        let rule = rules.iter().find(|(_, users)| users.is_match(credential.text()));
        Arc::clone(rule.map_or(&self.unknown, |(account, _)| account))
    }

    /// Whether a server has named the account of a credential.
    pub fn has_learned(&self, key: CredentialKey) -> bool {
        self.learned.get(&key).is_some_and(|learned| !learned.is_of_several)
    }

    /// The account of a credential, if a server has named it, and not several.
    pub fn learned(&self, key: CredentialKey) -> Option<Arc<str>> {
        let learned = self.learned.get(&key).filter(|learned| !learned.is_of_several)?;
        Some(Arc::clone(&learned.account))
    }

    /// The same, if a server has said so lately, and after a server was `reconfigured`.
    pub fn certain(&self, key: CredentialKey, reconfigured: Option<Instant>, now: Instant) -> Option<Arc<str>> {
        let learned = self.learned.get(&key).filter(|learned| !learned.is_of_several)?;
        let is_certain = now.saturating_duration_since(learned.named_at) < CERTAIN_FOR
            && reconfigured.is_none_or(|at| at < learned.named_at);
        is_certain.then(|| Arc::clone(&learned.account))
    }

    /// A server has named this account for a credential. Returns whether something else was known; `None` where
    /// nothing was.
    pub fn named(&self, key: CredentialKey, account: &Arc<str>, now: Instant) -> Option<bool> {
        let is_to_note = self.learned.get(&key)?.is_to_note(account, now);
        Some(is_to_note && self.learned.get_mut(&key)?.named(account, now))
    }

    /// Remembers the account that a server named for a credential. Returns whether that is news.
    pub fn learn(&self, key: CredentialKey, account: &Arc<str>, now: Instant) -> bool {
        if let Some(is_news) = self.named(key, account, now) {
            return is_news;
        }
        if self.learned.len() >= MOST_LEARNED {
            // Every other one is dropped, in no order. That is cheap and rare.
            let mut keep = false;
            self.learned.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        self.learned.insert(key, Learned::new(account, now));
        true
    }

    /// What it has learned, by account, for a process that takes over.
    pub fn remembered(&self) -> BTreeMap<String, Vec<CredentialKey>> {
        // A shard of the map is locked while it is walked through: the names are made later.
        let learned = self.learned.iter().filter(|one| !one.is_of_several);
        let learned: Vec<_> = learned.map(|one| (*one.key(), Arc::clone(&one.account))).collect();
        let mut by_account = BTreeMap::<Arc<str>, Vec<_>>::new();
        for (key, account) in learned {
            by_account.entry(account).or_default().push(key);
        }
        by_account.into_iter().map(|(account, keys)| (account.to_string(), keys)).collect()
    }

    /// Learns what another process has learned, unless it has learned better since.
    pub fn recall(&self, remembered: BTreeMap<String, Vec<CredentialKey>>, now: Instant) {
        let keys = |(account, keys): (String, Vec<_>)| {
            let account = Arc::<str>::from(account);
            keys.into_iter().map(move |key| (key, Arc::clone(&account)))
        };
        let room = MOST_LEARNED.saturating_sub(self.learned.len());
        for (key, account) in remembered.into_iter().flat_map(keys).take(room) {
            self.learned.entry(key).or_insert_with(|| Learned::new(&account, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Keys;

    fn directory() -> Directory {
        let rule = |account: &str, users: &[&str]| AccountRule {
            account: account.into(),
            users: users.iter().map(|&u| u.into()).collect(),
        };
        Directory::new(&[rule("ORDERS", &["orders-*"]), rule("BILLING", &["bill", "orders-special", "t0ken?"])])
            .unwrap()
    }

    fn account(directory: &Directory, credential: Credential<'_>) -> String {
        directory.account(credential, Keys::default().credential(credential)).to_string()
    }

    #[test]
    fn globs_first_match_wins() {
        let directory = directory();
        assert_eq!(account(&directory, Credential::User("orders-7")), "ORDERS");
        assert_eq!(account(&directory, Credential::User("orders-special")), "ORDERS");
        assert_eq!(account(&directory, Credential::User("bill")), "BILLING");
        assert_eq!(account(&directory, Credential::Token("t0kenX")), "BILLING");
        assert_eq!(account(&directory, Credential::User("billy")), UNKNOWN_ACCOUNT);
        assert_eq!(account(&directory, Credential::Nothing), UNKNOWN_ACCOUNT);
    }

    #[test]
    fn the_servers_word_counts_more() {
        let (directory, keys) = (directory(), Keys::default());
        let credential = Credential::User("orders-7");
        let key = keys.credential(credential);
        directory.learn(key, &"ELSEWHERE".into(), Instant::now());
        assert_eq!(&*directory.account(credential, key), "ELSEWHERE");
    }

    #[test]
    fn learned_accounts_are_bounded() {
        let (directory, keys) = (directory(), Keys::default());
        let account = "A".into();
        for n in 0..MOST_LEARNED + 10 {
            directory.learn(keys.credential(Credential::User(&n.to_string())), &account, Instant::now());
        }
        assert!(directory.learned.len() <= MOST_LEARNED);
    }

    #[test]
    fn what_servers_have_said_is_recalled_by_another_process() {
        let (old, new, keys) = (directory(), directory(), Keys::default());
        let key = |n: u64| keys.credential(Credential::User(&n.to_string()));
        for n in 0..1000 {
            old.learn(key(n), &format!("A{}", n % 3).into(), Instant::now());
        }
        new.learn(key(7), &"NEWER".into(), Instant::now());
        let text = serde_json::to_string(&old.remembered()).unwrap();
        new.recall(serde_json::from_str(&text).unwrap(), Instant::now());
        assert!((0..1000).filter(|n| *n != 7).all(|n| new.learned(key(n)) == old.learned(key(n))));
        assert_eq!(new.learned(key(7)).as_deref(), Some("NEWER"));
        let too_many = (0..2 * MOST_LEARNED as u64).map(CredentialKey::from_raw).collect();
        new.recall(BTreeMap::from([("X".to_owned(), too_many)]), Instant::now());
        assert!(new.learned.len() <= MOST_LEARNED);
    }

    #[test]
    fn what_a_server_said_is_certain_for_a_time_and_until_a_server_has_another_configuration() {
        let (directory, key, start) = (directory(), CredentialKey::from_raw(1), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let certain = |reconfigured: Option<u64>, now| {
            directory.certain(key, reconfigured.map(at), at(now)).as_deref().map(str::to_owned)
        };
        assert_eq!((directory.named(key, &"A".into(), start), certain(None, 0)), (None, None), "nothing was known");
        assert!(directory.learn(key, &"A".into(), at(10)));
        assert_eq!([9, 10, 11].map(|reconfigured| certain(Some(reconfigured), 20)), [Some("A".into()), None, None]);
        assert_eq!([609, 610].map(|now| certain(None, now)), [Some("A".into()), None]);
        assert_eq!(directory.learned(key).as_deref(), Some("A"), "it is still the best that is known");
        assert_eq!(directory.named(key, &"A".into(), at(700)), Some(false));
        assert_eq!(certain(Some(20), 700).as_deref(), Some("A"));
        assert!(directory.learn(key, &"B".into(), at(701)));
        assert_eq!(certain(Some(20), 702).as_deref(), Some("B"), "it has been moved");
    }

    /// As an auth callout may have it: `app` is of the tenant whose password it comes with.
    #[test]
    fn of_a_credential_that_stands_for_several_accounts_none_is_assumed() {
        let (directory, keys, start) = (directory(), Keys::default(), Instant::now());
        let app = Credential::User("app");
        let key = keys.credential(app);
        let named = |account: &str, at| directory.learn(key, &account.into(), start + Duration::from_secs(at));
        assert!(named("A", 0) && named("B", 10) && directory.has_learned(key));
        assert!(!named("A", 20) && !named("A", 30) && !named("C", 40));
        let account = || directory.account(app, key).to_string();
        let assumed = || (directory.has_learned(key), directory.learned(key), account());
        assert_eq!(assumed(), (false, None, UNKNOWN_ACCOUNT.to_owned()));
        assert_eq!(directory.certain(key, None, start + Duration::from_secs(41)), None);
        assert!(directory.remembered().is_empty());
        named("C", 639);
        assert_eq!(assumed().2, UNKNOWN_ACCOUNT);
        named("C", 641);
        assert_eq!(assumed(), (true, Some("C".into()), "C".to_owned()), "it stands for one by now");
    }

    #[test]
    fn a_user_and_a_token_of_the_same_text_differ() {
        let keys = Keys::default();
        assert!(keys.credential(Credential::User("x")) != keys.credential(Credential::Token("x")));
    }
}
