//! The account of each credential: as a server named it, else as the operator configured it.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::identity::{AccountRule, Credential, CredentialKey};

/// The account of a credential that neither a server nor the configuration has assigned to one.
pub const UNKNOWN_ACCOUNT: &str = "default";

/// The most credentials that are remembered. Beyond it half of them are forgotten, and learned again at their next
/// login.
const MOST_LEARNED: usize = 100_000;

/// Which users, in the order of the configuration, belong to which account.
pub type Rules = Vec<(Arc<str>, GlobSet)>;

/// A map from credential to account.
#[derive(Debug)]
pub struct Directory {
    rules: ArcSwap<Rules>,
    learned: DashMap<CredentialKey, Arc<str>>,
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
        if let Some(learned) = self.learned.get(&key) {
            return Arc::clone(&learned);
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
        self.learned.contains_key(&key)
    }

    /// The account of a credential, if a server has named it.
    pub fn learned(&self, key: CredentialKey) -> Option<Arc<str>> {
        self.learned.get(&key).map(|account| Arc::clone(&account))
    }

    /// Remembers the account that a server named for a credential. Returns whether that is news.
    pub fn learn(&self, key: CredentialKey, account: &Arc<str>) -> bool {
        if self.learned.get(&key).is_some_and(|known| *known == *account) {
            return false;
        }
        if self.learned.len() >= MOST_LEARNED {
            // Every other one is dropped, in no order. That is cheap and rare.
            let mut keep = false;
            self.learned.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        self.learned.insert(key, Arc::clone(account));
        true
    }

    /// What it has learned, by account, for a process that takes over.
    pub fn remembered(&self) -> BTreeMap<String, Vec<CredentialKey>> {
        // A shard of the map is locked while it is walked through: the names are made later.
        let learned: Vec<_> = self.learned.iter().map(|one| (*one.key(), Arc::clone(one.value()))).collect();
        let mut by_account = BTreeMap::<Arc<str>, Vec<_>>::new();
        for (key, account) in learned {
            by_account.entry(account).or_default().push(key);
        }
        by_account.into_iter().map(|(account, keys)| (account.to_string(), keys)).collect()
    }

    /// Learns what another process has learned, unless it has learned better since.
    pub fn recall(&self, remembered: BTreeMap<String, Vec<CredentialKey>>) {
        let keys = |(account, keys): (String, Vec<_>)| {
            let account = Arc::<str>::from(account);
            keys.into_iter().map(move |key| (key, Arc::clone(&account)))
        };
        let room = MOST_LEARNED.saturating_sub(self.learned.len());
        for (key, account) in remembered.into_iter().flat_map(keys).take(room) {
            self.learned.entry(key).or_insert(account);
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
        directory.learn(key, &"ELSEWHERE".into());
        assert_eq!(&*directory.account(credential, key), "ELSEWHERE");
    }

    #[test]
    fn learned_accounts_are_bounded() {
        let (directory, keys) = (directory(), Keys::default());
        let account = "A".into();
        for n in 0..MOST_LEARNED + 10 {
            directory.learn(keys.credential(Credential::User(&n.to_string())), &account);
        }
        assert!(directory.learned.len() <= MOST_LEARNED);
    }

    #[test]
    fn what_servers_have_said_is_recalled_by_another_process() {
        let (old, new, keys) = (directory(), directory(), Keys::default());
        let key = |n: u64| keys.credential(Credential::User(&n.to_string()));
        for n in 0..1000 {
            old.learn(key(n), &format!("A{}", n % 3).into());
        }
        new.learn(key(7), &"NEWER".into());
        let text = serde_json::to_string(&old.remembered()).unwrap();
        new.recall(serde_json::from_str(&text).unwrap());
        assert!((0..1000).filter(|n| *n != 7).all(|n| new.learned(key(n)) == old.learned(key(n))));
        assert_eq!(new.learned(key(7)).as_deref(), Some("NEWER"));
        let too_many = (0..2 * MOST_LEARNED as u64).map(CredentialKey::from_raw).collect();
        new.recall(BTreeMap::from([("X".to_owned(), too_many)]));
        assert!(new.learned.len() <= MOST_LEARNED);
    }

    #[test]
    fn a_user_and_a_token_of_the_same_text_differ() {
        let keys = Keys::default();
        assert!(keys.credential(Credential::User("x")) != keys.credential(Credential::Token("x")));
    }
}
