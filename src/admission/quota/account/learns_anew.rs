//! Clients that are let through to a server although their account has no room for them: a server has put their
//! credential there once, and it is in doubt whether it still would. Their account is learned anew, and where it is
//! the same they are refused. The servers may count such a client until then, so that there is one at a time: one that
//! is known, and one that is not, since strangers who name somebody's user are not to keep that one from it.

use std::{
    sync::{Arc, atomic::Ordering::AcqRel},
    time::Instant,
};

use super::{Account, Proof, Relaxed};

/// The one client of an account that is let through, until this is dropped.
#[derive(Debug)]
pub struct LearnsAnew {
    account: Arc<Account>,
    is_known: bool,
}

impl Account {
    /// Whether its quota has no room for a client with this proof.
    pub fn is_full(&self, proof: Proof, now: Instant) -> bool {
        if !self.is_limited() || self.limits.quota.warn_only() {
            return false;
        }
        if let Some(allowance) = self.allowance.get() {
            return !allowance.has_room(now);
        }
        let unproven = if proof.missing().is_none() { self.unproven.with_sum(|unproven| unproven) } else { 0 };
        self.connections.total().saturating_sub(unproven) >= self.most_in_all()
    }

    /// Lets a client through; `None` while there is another one.
    pub fn learn_anew(self: &Arc<Self>, proof: Proof) -> Option<LearnsAnew> {
        let is_known = proof.missing().is_none();
        let is_another = self.learns_anew[usize::from(is_known)].swap(true, AcqRel);
        (!is_another).then(|| LearnsAnew { account: Arc::clone(self), is_known })
    }
}

impl Drop for LearnsAnew {
    fn drop(&mut self) {
        self.account.learns_anew[usize::from(self.is_known)].store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{
            Source,
            client::Claim,
            params::{AccountLimits, Quota},
        },
        identity::CredentialKey,
    };

    #[test]
    fn one_client_of_each_kind_is_let_through_at_a_time() {
        let quota = Quota { max_connections: Some(1), ..Quota::default() };
        let limits = AccountLimits { quota, ..AccountLimits::default() };
        let (account, now) = (Arc::new(Account::new("A".into(), limits, Arc::default())), Instant::now());
        let stranger = Proof::Missing(Claim { source: Source::NOWHERE, credential: CredentialKey::from_raw(1) });
        let kinds = [Proof::Known, stranger];
        assert_eq!(kinds.map(|proof| account.is_full(proof, now)), [false, false]);
        let claims = account.enter(stranger, now).unwrap();
        assert_eq!(kinds.map(|proof| account.is_full(proof, now)), [false, true], "who is known takes its place");
        drop(claims);
        let _inside = account.enter(Proof::Known, now).unwrap();
        assert_eq!(kinds.map(|proof| account.is_full(proof, now)), [true, true]);
        let [known, other] = kinds.map(|proof| account.learn_anew(proof));
        assert!(known.is_some() && other.is_some() && account.learn_anew(Proof::Known).is_none());
        drop(known);
        assert!(account.learn_anew(Proof::Known).is_some() && account.learn_anew(stranger).is_none());
    }
}
