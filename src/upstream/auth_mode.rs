//! Whether a server trusts an operator, so that it looks at the JWTs of clients and not at their NKeys. Its readings
//! say so. Where there are none, or where the configuration names the operator by its key only, the accounts say so:
//! those of an operator are called by their public keys.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::identity::is_account_key;

const READ_NO: u8 = 1;
const READ_YES: u8 = 2;
const NAMED_A_KEY: u8 = 4;
const NAMED_ANOTHER: u8 = 8;

/// The same as another process recalls it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RememberedAuthMode {
    #[serde(skip_serializing_if = "Option::is_none")]
    trusts_operator: Option<bool>,
    named_account_key: bool,
    named_another: bool,
}

/// What is known of it; nothing at first.
#[derive(Debug, Default)]
pub struct AuthMode {
    known: AtomicU8,
}

impl AuthMode {
    /// A reading says whether the server trusts an operator. A server that has `restarted` may have another
    /// configuration.
    pub fn read(&self, trusts_operator: bool, restarted: bool) {
        let read = if trusts_operator { READ_YES } else { READ_NO };
        let named = if restarted { 0 } else { self.known.load(Relaxed) & (NAMED_A_KEY | NAMED_ANOTHER) };
        self.known.store(read | named, Relaxed);
    }

    /// The server has put a client into this account.
    pub fn named_account(&self, account: &str) {
        let named = if is_account_key(account) { NAMED_A_KEY } else { NAMED_ANOTHER };
        if self.known.load(Relaxed) & named == 0 {
            self.known.fetch_or(named, Relaxed);
        }
    }

    /// Whether it trusts an operator; `None` while that is not known.
    pub fn trusts_operator(&self) -> Option<bool> {
        match self.known.load(Relaxed) {
            0 => None,
            known => Some(known & (READ_YES | NAMED_A_KEY) != 0),
        }
    }

    /// What is known, for a process that takes over.
    pub fn remembered(&self) -> RememberedAuthMode {
        let known = self.known.load(Relaxed);
        let read = known & (READ_NO | READ_YES) != 0;
        RememberedAuthMode {
            trusts_operator: read.then_some(known & READ_YES != 0),
            named_account_key: known & NAMED_A_KEY != 0,
            named_another: known & NAMED_ANOTHER != 0,
        }
    }

    /// What another process knew. A reading of this one counts more.
    pub fn recall(&self, remembered: RememberedAuthMode) {
        let read = match remembered.trusts_operator {
            None => 0,
            Some(false) => READ_NO,
            Some(true) => READ_YES,
        };
        let named = if remembered.named_account_key { NAMED_A_KEY } else { 0 };
        let named = named | if remembered.named_another { NAMED_ANOTHER } else { 0 };
        let is_read = self.known.load(Relaxed) & (READ_NO | READ_YES) != 0;
        self.known.fetch_or(if is_read { named } else { read | named }, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_and_accounts_tell() {
        let key = format!("A{}", "B".repeat(55));
        let mode = AuthMode::default();
        assert_eq!(mode.trusts_operator(), None);
        mode.named_account("ORDERS");
        assert_eq!(mode.trusts_operator(), Some(false));
        mode.read(true, false);
        assert_eq!(mode.trusts_operator(), Some(true));
        mode.read(false, false);
        assert_eq!(mode.trusts_operator(), Some(false));
        mode.named_account(&key);
        mode.read(false, false);
        assert_eq!(mode.trusts_operator(), Some(true), "it trusts a key, which no reading shows");
        mode.read(false, true);
        assert_eq!(mode.trusts_operator(), Some(false), "another process");
    }

    #[test]
    fn another_process_knows_what_was_said() {
        let key = format!("A{}", "B".repeat(55));
        for (read, account) in [(None, None), (Some(true), None), (Some(false), Some("ORDERS")), (None, Some(&*key))] {
            let (old, new) = (AuthMode::default(), AuthMode::default());
            read.into_iter().for_each(|read| old.read(read, false));
            account.into_iter().for_each(|account| old.named_account(account));
            let text = serde_json::to_string(&old.remembered()).unwrap();
            new.recall(serde_json::from_str(&text).unwrap());
            assert_eq!(old.trusts_operator(), new.trusts_operator(), "{text}");
            let later = AuthMode::default();
            later.read(false, false);
            later.recall(serde_json::from_str(&text).unwrap());
            let named_key = account == Some(&*key);
            assert_eq!(later.trusts_operator(), Some(named_key), "a reading of its own counts more");
        }
    }
}
