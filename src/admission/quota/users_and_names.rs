//! Quotas by user and by client name. The first pattern that fits counts.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use arc_swap::ArcSwap;
use globset::{Glob, GlobMatcher};

use crate::{
    admission::{
        client::Proof,
        params::{PatternQuota, PatternQuotas, Quota},
        quota::{
            by_key::{Exceeded, KeySlot, QuotaByKey, RememberedKey},
            lease::{Lease, Share},
            rate::RateUse,
            warned::Warned,
        },
    },
    fleet::{
        Fleet,
        key::{Key, Kind},
        lease::book::LeaseBook,
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

/// One pattern.
#[derive(Debug)]
struct Rule {
    pattern: String,
    glob: GlobMatcher,
    quota: Quota,
    /// The same as long as the pattern stands in the configuration, wherever it stands there.
    id: u64,
}

/// The patterns of users and of names, in the order of the configuration.
#[derive(Debug, Default)]
struct Rules {
    users: Vec<Rule>,
    names: Vec<Rule>,
    next_id: u64,
}

impl Rules {
    /// These patterns; those that `earlier` ones had keep their ids.
    fn new(quotas: &PatternQuotas, earlier: &Self) -> Self {
        let mut next_id = earlier.next_id;
        let mut rules = |quotas: &[PatternQuota], earlier: &[Rule]| {
            // A pattern that is no glob was refused with the configuration; here it would fit no client.
            let rule = |one: &PatternQuota| {
                let known = earlier.iter().find(|rule| rule.pattern == one.pattern);
                let id = known.map_or(next_id, |rule| rule.id);
                next_id += u64::from(known.is_none());
                let glob = Glob::new(&one.pattern).ok()?.compile_matcher();
                Some(Rule { pattern: one.pattern.clone(), glob, quota: one.quota, id })
            };
            quotas.iter().filter_map(rule).collect()
        };
        let (users, names) = (rules(&quotas.users, &earlier.users), rules(&quotas.names, &earlier.names));
        Self { users, names, next_id }
    }

    fn first<'r>(rules: &'r [Rule], text: &str) -> Option<&'r Rule> {
        rules.iter().find(|rule| rule.glob.is_match(text))
    }
}

/// Every user in use, and every pattern of names.
#[derive(Debug)]
pub struct UserAndNameQuotas {
    rules: ArcSwap<Rules>,
    by_user: Arc<QuotaByKey<CredentialKey>>,
    by_name: Arc<QuotaByKey<u64>>,
    /// Where the fleet shares quotas.
    book: OnceLock<Arc<LeaseBook>>,
}

/// The slots of one client, given back on drop. There are none where no pattern fits.
#[derive(Debug, Default)]
pub struct UserAndNameSlots {
    both: Option<Box<Both>>,
}

impl UserAndNameSlots {
    /// The key of the user for whom one is held.
    pub fn user(&self) -> Option<CredentialKey> {
        Some(self.both.as_ref()?.user.as_ref()?.0.key())
    }

    fn leases(&self) -> impl Iterator<Item = (&Lease, Refusal)> {
        let both = self.both.as_deref();
        let user = both.and_then(|both| both.user.as_ref()?.0.lease()).map(|lease| (lease, Refusal::UserQuota));
        let name = both.and_then(|both| both.name.as_ref()?.0.lease()).map(|lease| (lease, Refusal::NameQuota));
        user.into_iter().chain(name)
    }

    /// The quota of whose lease its client waits for a place.
    pub fn waits_for(&self) -> Option<Refusal> {
        self.leases().find(|(lease, _)| lease.waits()).map(|(_, reason)| reason)
    }

    /// Whether what it waits for will not come.
    pub fn waits_in_vain(&self) -> bool {
        self.leases().any(|(lease, _)| lease.waits_in_vain())
    }

    /// Whether the fleet shares one of the quotas.
    pub fn is_shared(&self) -> bool {
        self.leases().any(|(lease, _)| lease.is_shared())
    }

    /// See [`AccountSlot::may_go_on`](super::account::AccountSlot::may_go_on).
    ///
    /// # Errors
    /// The quota whose lease has no place any more.
    pub fn may_go_on(&self, now: Instant) -> Result<(), Refusal> {
        self.leases().find(|(lease, _)| !lease.may_go_on(now)).map_or(Ok(()), |(_, reason)| Err(reason))
    }

    /// See [`AccountSlot::has_places_or_room`](super::account::AccountSlot::has_places_or_room).
    pub fn has_places_or_room(&self, now: Instant) -> bool {
        self.leases().all(|(lease, _)| lease.has_place_or_room(now))
    }

    /// Takes the places of leases that it waits for: all of them, or none and `false`.
    pub fn take_places(&mut self, now: Instant) -> bool {
        let Some(both) = self.both.as_deref_mut() else { return true };
        let user = both.user.as_mut().and_then(|(slot, _)| slot.lease_mut());
        let name = both.name.as_mut().and_then(|(slot, _)| slot.lease_mut());
        let (Some(first), second) = (match user {
            None => (name, None),
            user => (user, name),
        }) else {
            return true;
        };
        match second {
            Some(second) => first.take_with(second, now),
            None => first.take(now),
        }
    }

    /// The server has let its client in.
    pub fn opened(&mut self) {
        let Some(both) = self.both.as_deref_mut() else { return };
        let user = both.user.as_mut().and_then(|(slot, _)| slot.lease_mut());
        let name = both.name.as_mut().and_then(|(slot, _)| slot.lease_mut());
        user.into_iter().chain(name).for_each(Lease::opened);
    }

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

    /// When the promised tokens are there, and the reason to refuse with if that is too late; `None` where there is
    /// nothing to wait for.
    pub fn promised(&self) -> Option<(Instant, Refusal)> {
        let both = self.both.as_deref()?;
        let user = both.user.as_ref().and_then(|(_, at)| Some(((*at)?, Refusal::UserRate)));
        let name = both.name.as_ref().and_then(|(_, at)| Some(((*at)?, Refusal::NameRate)));
        [user, name].into_iter().flatten().max_by_key(|(at, _)| *at)
    }

    /// The promised tokens count as taken at that time.
    pub fn redeem_at(&self, at: Instant) {
        let Some(both) = &self.both else { return };
        if let Some((slot, Some(_))) = &both.user {
            slot.redeem_at(at);
        }
        if let Some((slot, Some(_))) = &both.name {
            slot.redeem_at(at);
        }
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
    name: Option<(KeySlot<u64>, Option<Instant>)>,
}

impl UserAndNameQuotas {
    pub fn new(quotas: &PatternQuotas) -> Self {
        Self {
            rules: ArcSwap::from_pointee(Rules::new(quotas, &Rules::default())),
            by_user: Arc::new(QuotaByKey::default()),
            by_name: Arc::new(QuotaByKey::default()),
            book: OnceLock::new(),
        }
    }

    /// The configuration has these patterns by now. Clients that were counted stay counted: by user, and by the pattern
    /// of their name as long as it stands in the configuration. Those that no pattern fitted when they came are not.
    pub fn set(&self, quotas: &PatternQuotas) {
        self.rules.store(Arc::new(Rules::new(quotas, &self.rules.load())));
    }

    /// From now on the fleet shares the quotas, by the leases of `book`.
    pub fn share_quotas(&self, book: Arc<LeaseBook>) {
        let _ = self.book.set(book);
    }

    /// Weir is one of a fleet, which shares the rates. To be called before the first client comes.
    pub fn join(&self, fleet: &Arc<Fleet>) {
        self.by_user.join(fleet);
        self.by_name.join(fleet);
    }

    /// At most `most` rates of patterns of names and of users, by what the fleet calls them, and how they are used.
    pub fn rates(&self, most: usize, now: Instant) -> Vec<(Key, RateUse)> {
        let mut rates = self.by_name.rates(most, now);
        rates.extend(self.by_user.rates(most - rates.len(), now));
        rates
    }

    /// What the fleet calls the users and patterns of names that have a rate.
    pub fn rate_keys(&self) -> Vec<Key> {
        [self.by_name.rate_keys(), self.by_user.rate_keys()].concat()
    }

    /// From now on this weir has this part of the rate of a user or a pattern of names.
    pub fn set_rate_part(&self, key: Key, part: f64, now: Instant) {
        self.by_name.set_rate_part(key, part, now);
        self.by_user.set_rate_part(key, part, now);
    }

    /// The patterns of the configuration, of users and of names. A pattern of users is shared under each user's own
    /// name: it is what the fleet knows a user by where it is one.
    pub fn patterns(&self) -> Vec<(Kind, String)> {
        let rules = self.rules.load();
        let of = |kind, rules: &[Rule]| rules.iter().map(|rule| (kind, rule.pattern.clone())).collect::<Vec<_>>();
        [of(Kind::User, &rules.users), of(Kind::Name, &rules.names)].concat()
    }

    /// Whether there is any pattern.
    pub fn is_empty(&self) -> bool {
        let rules = self.rules.load();
        rules.users.is_empty() && rules.names.is_empty()
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
        may_wait: bool,
        warned: &Warned,
    ) -> Result<UserAndNameSlots, Refusal> {
        let rules = self.rules.load();
        let user = quota_identity.user.as_ref();
        let user = user.and_then(|(text, key)| Some((text, *key, Rules::first(&rules.users, text)?.quota)));
        let name = quota_identity.name.as_ref().and_then(|name| Rules::first(&rules.names, name));
        if user.is_none() && name.is_none() {
            return Ok(UserAndNameSlots::default());
        }
        let by_user = |over| if over == Exceeded::Quota { Refusal::UserQuota } else { Refusal::UserRate };
        let by_name = |over| if over == Exceeded::Quota { Refusal::NameQuota } else { Refusal::NameRate };
        let book = self.book.get();
        let share = |kind, name| book.map(|book| Share { book, kind, name, may_wait });
        let user = user.map(|(text, key, quota)| {
            let share = share(Kind::User, &**text);
            let warn = |over| warned.note(by_user(over));
            self.by_user.enter_by(key, quota, proof, (now, latest), share, warn).map_err(by_user)
        });
        let user = user.transpose()?;
        let name = name.map(|rule| {
            let share = share(Kind::Name, rule.pattern.as_str());
            let warn = |over| warned.note(by_name(over));
            self.by_name.enter_by(rule.id, rule.quota, proof, (now, latest), share, warn).map_err(by_name)
        });
        let name = name.transpose()?;
        Ok(UserAndNameSlots { both: Some(Box::new(Both { user, name })) })
    }

    /// Takes the slots of a session that another process of weir has had until now, whatever the quotas, and no token.
    pub fn adopt(&self, quota_identity: &QuotaIdentity, now: Instant) -> UserAndNameSlots {
        let (rules, book) = (self.rules.load(), self.book.get());
        let share = |kind, name| book.map(|book| Share { book, kind, name, may_wait: false });
        let user = quota_identity.user.as_ref().and_then(|(text, key)| {
            let quota = Rules::first(&rules.users, text)?.quota;
            Some((self.by_user.adopt(*key, quota, share(Kind::User, text), now), None))
        });
        let name = quota_identity.name.as_ref().and_then(|name| {
            let rule = Rules::first(&rules.names, name)?;
            Some((self.by_name.adopt(rule.id, rule.quota, share(Kind::Name, &rule.pattern), now), None))
        });
        let has_any = user.is_some() || name.is_some();
        UserAndNameSlots { both: has_any.then(|| Box::new(Both { user, name })) }
    }

    /// How many tokens each user has, and each pattern of names, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> (Vec<RememberedKey<CredentialKey>>, Vec<RememberedKey<String>>) {
        let rules = self.rules.load();
        let pattern = |id: u64| rules.names.iter().find(|rule| rule.id == id).map(|rule| rule.pattern.clone());
        let names = self.by_name.remembered(now).into_iter().filter_map(|one| {
            let pattern = pattern(one.key)?;
            Some(one.with_key(pattern))
        });
        (self.by_user.remembered(now), names.collect())
    }

    /// Recalls how many tokens each had at `then`. Patterns that the configuration does not have are left out.
    pub fn recall(&self, users: Vec<RememberedKey<CredentialKey>>, names: Vec<RememberedKey<String>>, then: Instant) {
        let rules = self.rules.load();
        if !rules.users.is_empty() {
            self.by_user.recall(users, then);
        }
        let names = names.into_iter().filter_map(|one| {
            let id = rules.names.iter().find(|rule| rule.pattern == one.key)?.id;
            Some(one.with_key(id))
        });
        self.by_name.recall(names.collect(), then);
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
            patterns.enter(&quota_identity, Proof::Known, (now, now), false, &warned).map(|slots| held.push(slots))
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

    #[test]
    fn a_pattern_of_names_keeps_its_count_wherever_it_stands() {
        let quota = |pattern: &str, n| {
            let quota = Quota { max_connections: Some(n), ..Quota::default() };
            PatternQuota { pattern: pattern.into(), quota }
        };
        let names = |names: &[(&str, u32)]| PatternQuotas {
            users: Vec::new(),
            names: names.iter().map(|(pattern, n)| quota(pattern, *n)).collect(),
        };
        let patterns = UserAndNameQuotas::new(&names(&[("report*", 2)]));
        let (now, warned) = (Instant::now(), Warned::default());
        let enter = |name: &str| {
            let quota_identity = QuotaIdentity { user: None, name: Some(name.into()) };
            patterns.enter(&quota_identity, Proof::Known, (now, now), false, &warned)
        };
        let held = [enter("report 1").unwrap(), enter("report 2").unwrap()];
        patterns.set(&names(&[("batch*", 1), ("report*", 3)]));
        let _batch = enter("batch").unwrap();
        assert_eq!(enter("batch").unwrap_err(), Refusal::NameQuota);
        let third = enter("report 3").unwrap();
        assert_eq!(enter("report 4").unwrap_err(), Refusal::NameQuota, "the first two are counted still");
        patterns.set(&PatternQuotas::default());
        assert!(patterns.is_empty() && enter("report 4").unwrap().is_empty());
        drop((held, third));
        patterns.set(&names(&[("report*", 1)]));
        let _one = enter("report 5").unwrap();
        assert_eq!(enter("report 6").unwrap_err(), Refusal::NameQuota);
    }

    #[test]
    fn where_the_fleet_shares_quotas_a_client_waits_for_both_places_and_takes_both_or_none() {
        use crate::fleet::{key::Keys as FleetKeys, lease::allowance::Standing};
        let quota = |pattern: &str| {
            let quota = Quota { max_connections: Some(5), ..Quota::default() };
            PatternQuota { pattern: pattern.into(), quota }
        };
        let quotas = PatternQuotas { users: vec![quota("batch*")], names: vec![quota("report*")] };
        let (patterns, keys, warned, now) =
            (UserAndNameQuotas::new(&quotas), Keys::default(), Warned::default(), Instant::now());
        let book = LeaseBook::new(FleetKeys::of_fleet("edge"), Standing::new(now));
        patterns.share_quotas(Arc::clone(&book));
        let key = keys.credential(Credential::User("batch"));
        let quota_identity = QuotaIdentity { user: Some(("batch".into(), key)), name: Some("report 1".into()) };
        let enter = |may_wait| patterns.enter(&quota_identity, Proof::Known, (now, now), may_wait, &warned);
        assert_eq!(enter(false).unwrap_err(), Refusal::UserQuota, "there is no lease yet");
        let mut waits = enter(true).unwrap();
        assert_eq!(waits.waits_for(), Some(Refusal::UserQuota));
        let until = now + std::time::Duration::from_secs(1);
        book.grant(Kind::User, "batch", 1, until);
        assert!(!waits.take_places(now));
        assert_eq!(waits.waits_for(), Some(Refusal::UserQuota), "the place that it had for a moment is free again");
        book.grant(Kind::Name, "report*", 1, until);
        assert!(waits.take_places(now) && waits.waits_for().is_none());
        assert_eq!((waits.may_go_on(now), waits.may_go_on(until)), (Ok(()), Err(Refusal::UserQuota)));
        assert_eq!(enter(false).unwrap_err(), Refusal::UserQuota);
        drop(waits);
        assert!(enter(false).is_ok());
    }
}
