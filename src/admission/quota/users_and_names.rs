//! Quotas by user and by client name. The first pattern that fits counts.

use std::{sync::Arc, time::Instant};

use globset::{Glob, GlobMatcher};

use crate::{
    admission::{
        client::Proof,
        params::{PatternQuota, PatternQuotas, Quota},
        quota::{
            by_key::{Exceeded, KeySlot, QuotaByKey},
            warned::Warned,
        },
    },
    identity::CredentialKey,
    outcome::Refusal,
};

/// A client as the patterns see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaIdentity {
    /// A user name, or the public key of an NKey or JWT user, each with its key. Never a token, which is a secret.
    pub user: Option<(Arc<str>, CredentialKey)>,
    /// The name that the client gives itself.
    pub name: Option<Arc<str>>,
}

#[derive(Debug)]
struct Rules(Vec<(GlobMatcher, Quota)>);

impl Rules {
    fn new(quotas: &[PatternQuota]) -> Self {
        // A pattern that is no glob was refused with the configuration; here it would fit no client.
        let rule = |one: &PatternQuota| Some((Glob::new(&one.pattern).ok()?.compile_matcher(), one.quota));
        Self(quotas.iter().filter_map(rule).collect())
    }

    fn of(&self, text: &str) -> Option<(usize, Quota)> {
        self.0.iter().position(|(glob, _)| glob.is_match(text)).map(|at| (at, self.0[at].1))
    }
}

/// Every user in use, and every pattern of names.
#[derive(Debug)]
pub struct UserAndNameQuotas {
    users: Rules,
    names: Rules,
    by_user: Arc<QuotaByKey<CredentialKey>>,
    by_name: Arc<QuotaByKey<usize>>,
}

/// The slots of one client, given back on drop. There are none where no pattern fits.
#[derive(Debug, Default)]
pub struct UserAndNameSlots {
    both: Option<Box<Both>>,
}

impl UserAndNameSlots {
    /// Whether no pattern fits.
    pub fn is_empty(&self) -> bool {
        self.both.is_none()
    }

    /// When the promised tokens are there; `None` where there is nothing to wait for.
    pub fn ready_at(&self) -> Option<Instant> {
        let both = self.both.as_deref()?;
        let (user, name) = (both.user.as_ref().and_then(|(_, at)| *at), both.name.as_ref().and_then(|(_, at)| *at));
        user.max(name)
    }

    /// The quota that has no room for its client any more, since known ones have come.
    pub fn displaced(&self) -> Option<Refusal> {
        let both = self.both.as_deref()?;
        if both.user.as_ref().is_some_and(|(slot, _)| slot.is_displaced()) {
            return Some(Refusal::UserQuota);
        }
        both.name.as_ref().is_some_and(|(slot, _)| slot.is_displaced()).then_some(Refusal::NameQuota)
    }

    /// A server has let its client in: what it only claimed until now is its own.
    ///
    /// # Errors
    /// The quota that has no room for it, since known clients have come meanwhile.
    pub fn prove(&mut self, now: Instant) -> Result<(), Refusal> {
        let Some(both) = self.both.as_deref_mut() else { return Ok(()) };
        if let Some((slot, _)) = &mut both.user {
            slot.prove(now).map_err(|_| Refusal::UserQuota)?;
        }
        if let Some((slot, _)) = &mut both.name {
            slot.prove(now).map_err(|_| Refusal::NameQuota)?;
        }
        Ok(())
    }

    /// Takes the promised tokens.
    pub fn redeem(&self, now: Instant) {
        let Some(both) = &self.both else { return };
        if let Some((slot, Some(_))) = &both.user {
            slot.redeem(now);
        }
        if let Some((slot, Some(_))) = &both.name {
            slot.redeem(now);
        }
    }
}

#[derive(Debug)]
struct Both {
    /// Each slot with the time of a token that is still to come.
    user: Option<(KeySlot<CredentialKey>, Option<Instant>)>,
    name: Option<(KeySlot<usize>, Option<Instant>)>,
}

impl UserAndNameQuotas {
    pub fn new(quotas: &PatternQuotas) -> Self {
        Self {
            users: Rules::new(&quotas.users),
            names: Rules::new(&quotas.names),
            by_user: Arc::new(QuotaByKey::default()),
            by_name: Arc::new(QuotaByKey::default()),
        }
    }

    /// Whether there is any pattern.
    pub fn is_empty(&self) -> bool {
        self.users.0.is_empty() && self.names.0.is_empty()
    }

    /// Takes a slot and a token of each pattern that fits; a token may be promised, to come until `latest`.
    ///
    /// # Errors
    /// The reason to refuse with. No slot is held then, but the user's token is spent when it is the name that has
    /// none.
    pub fn enter(
        &self,
        quota_identity: &QuotaIdentity,
        proof: Proof,
        (now, latest): (Instant, Instant),
        warned: &Warned,
    ) -> Result<UserAndNameSlots, Refusal> {
        let user = quota_identity.user.as_ref().and_then(|(text, key)| Some((*key, self.users.of(text)?.1)));
        let name = quota_identity.name.as_ref().and_then(|name| self.names.of(name));
        if user.is_none() && name.is_none() {
            return Ok(UserAndNameSlots::default());
        }
        let by_user = |over| if over == Exceeded::Quota { Refusal::UserQuota } else { Refusal::UserRate };
        let by_name = |over| if over == Exceeded::Quota { Refusal::NameQuota } else { Refusal::NameRate };
        let user = user.map(|(key, quota)| {
            self.by_user.enter_by(key, quota, proof, (now, latest), |over| warned.note(by_user(over))).map_err(by_user)
        });
        let user = user.transpose()?;
        let name = name.map(|(rule, quota)| {
            self.by_name.enter_by(rule, quota, proof, (now, latest), |over| warned.note(by_name(over))).map_err(by_name)
        });
        let name = name.transpose()?;
        Ok(UserAndNameSlots { both: Some(Box::new(Both { user, name })) })
    }

    /// Forgets the users and names that are as good as new.
    pub fn sweep(&self, now: Instant) {
        self.by_user.sweep(now);
        self.by_name.sweep(now);
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::identity::{Credential, Keys};

    #[test]
    fn each_user_for_itself_and_all_of_a_name_together() {
        let at_most = |n| Quota { max_connections: Some(n), ..Quota::default() };
        let quota = |pattern: &str, n| PatternQuota { pattern: pattern.into(), quota: at_most(n) };
        let quotas =
            PatternQuotas { users: vec![quota("batch-1", 1), quota("batch-*", 2)], names: vec![quota("report*", 3)] };
        let (patterns, keys, warned) = (UserAndNameQuotas::new(&quotas), Keys::default(), Warned::default());
        let (now, mut held) = (Instant::now(), Vec::new());
        let mut enter = |user: &str, name: &str| {
            let key = keys.credential(Credential::User(user));
            let quota_identity = QuotaIdentity { user: Some((user.into(), key)), name: Some(name.into()) };
            patterns.enter(&quota_identity, Proof::Known, (now, now), &warned).map(|slots| held.push(slots))
        };
        assert_eq!(enter("batch-1", ""), Ok(()));
        assert_eq!(enter("batch-1", ""), Err(Refusal::UserQuota), "the first that fits");
        for user in ["batch-2", "batch-3"] {
            assert_eq!(enter(user, "report a"), Ok(()));
        }
        assert_eq!(enter("batch-2", "report b"), Ok(()));
        assert_eq!(enter("batch-2", ""), Err(Refusal::UserQuota));
        assert_eq!(enter("x", "report c"), Err(Refusal::NameQuota));
        assert_eq!(enter("batch-3", "report c"), Err(Refusal::NameQuota));
        assert_eq!(enter("batch-3", ""), Ok(()), "what the name had no room for took nothing of the user");
        held.clear();
        patterns.sweep(now);
        assert!(patterns.by_user.is_empty() && patterns.by_name.is_empty());
    }
}
