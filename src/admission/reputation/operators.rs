//! The sources that clients of the system account come from, and the credentials with which. An operator's tools get in
//! when everything else is full: past a full listener, and by the slots that are kept free on each server.
//!
//! Anybody can say that it is an operator, so only a login that a server has put into the system account is evidence:
//! for a day, for the same credential from the same source. Where a server is dialled before the client has said who it
//! is, the source stands for its clients, with a bounded part of those slots. Everybody else who says so is tried: one
//! at a time in all, and no source often.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    admission::{
        client::Claim,
        quota::{
            counted_map::CountedMap,
            limit::{Limit, Permit},
            sources::Source,
        },
    },
    lapse::{self, Lapse},
    upstream::leaky_bucket::LeakyBucket,
};

/// For so long after a claim the next try from its source may be dialled before it has said who it is.
const CLAIMED_FOR: Duration = Duration::from_secs(60);
/// A source and a credential are remembered for so long after a login to the system account.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// The most sources, and credentials, that are remembered of those that have logged in, and of those that have not.
/// Beyond it a client that claims the system account is tried each time.
const MOST_REMEMBERED: usize = 1024;
/// How many clients without evidence are tried at a time, whatever their sources.
const TRIED_AT_ONCE: u32 = 1;
/// A source may be tried so often in short order,
const TRIES: u32 = 4;
/// and once in this time after that.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How many clients of one source that have not said who they are may be on their way to a server at a time.
const SILENT_OF_A_SOURCE: usize = 2;

/// The sources and credentials that are remembered.
#[derive(Debug)]
pub struct Operators {
    known: CountedMap<Claim, Instant>,
    known_sources: CountedMap<Source, Instant>,
    claimed: CountedMap<Source, Claimed>,
    unproven: Arc<Limit>,
    /// The sources of [`OperatorPermit::Silent`], once for each.
    silent: Arc<Mutex<Vec<Source>>>,
}

/// A source without evidence.
#[derive(Debug, Clone, Copy)]
struct Claimed {
    until: Instant,
    tries: LeakyBucket,
}

/// The operators as another process recalls them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedOperators {
    #[serde(default, deserialize_with = "lapse::or_default")]
    known: Vec<(Claim, Lapse)>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    known_sources: Vec<(Source, Lapse)>,
    /// Until when each may be tried before CONNECT, and what its tries have used.
    #[serde(default, deserialize_with = "lapse::or_default")]
    claimed: Vec<(Source, Lapse, Lapse)>,
}

/// Lets its client use what is kept for operators; given back on drop.
#[derive(Debug)]
pub enum OperatorPermit {
    /// It has logged in before, with this credential and from there.
    Known,
    /// It says so, and is tried.
    Unproven { _permit: Permit },
    /// It has said nothing yet, and clients from there have logged in before.
    Silent { _place: SilentPlace },
}

/// One of a source's places on the way to a server.
#[derive(Debug)]
pub struct SilentPlace {
    of: Arc<Mutex<Vec<Source>>>,
    source: Source,
}

impl Drop for SilentPlace {
    fn drop(&mut self) {
        let mut silent = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = silent.iter().position(|source| *source == self.source) {
            silent.swap_remove(at);
        }
    }
}

impl Default for Operators {
    fn default() -> Self {
        Self {
            known: CountedMap::default(),
            known_sources: CountedMap::default(),
            claimed: CountedMap::default(),
            unproven: Limit::new(TRIED_AT_ONCE),
            silent: Arc::default(),
        }
    }
}

impl Operators {
    /// A client from this source says that it belongs to the system account, and had no server that could check it.
    pub fn claimed(&self, source: IpAddr, now: Instant) {
        let source = Source::from(source);
        if self.claimed.len() < MOST_REMEMBERED || self.claimed.contains_key(&source) {
            let new = || Claimed { until: now, tries: LeakyBucket::default() };
            let mut claimed = self.claimed.get_or_insert_with(source, new);
            claimed.until = claimed.until.max(now + CLAIMED_FOR);
        }
    }

    /// A server has let this client into the system account.
    pub fn verified(&self, claim: Claim, now: Instant) {
        self.claimed.remove(&claim.source);
        let until = now + KNOWN_FOR;
        if self.known.len() < MOST_REMEMBERED || self.known.contains_key(&claim) {
            self.known.insert(claim, until);
        }
        if self.known_sources.len() < MOST_REMEMBERED || self.known_sources.contains_key(&claim.source) {
            self.known_sources.insert(claim.source, until);
        }
    }

    /// What a client from this source may use that has said nothing yet.
    pub fn before_connect(&self, source: IpAddr, now: Instant) -> Option<OperatorPermit> {
        if self.known_sources.is_empty() && self.claimed.is_empty() {
            return None;
        }
        let source = Source::from(source);
        if self.known_sources.get(&source).is_some_and(|until| now < *until) {
            let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
            if silent.iter().filter(|other| **other == source).count() >= SILENT_OF_A_SOURCE {
                return None;
            }
            silent.push(source);
            return Some(OperatorPermit::Silent { _place: SilentPlace { of: Arc::clone(&self.silent), source } });
        }
        let has_claimed = self.claimed.get(&source).is_some_and(|claimed| now < claimed.until);
        if has_claimed { self.try_once(source, now) } else { None }
    }

    /// What a client may use that says now that it belongs to the system account. `held` is what it was let in with
    /// before it said so.
    pub fn at_connect(&self, claim: Claim, held: Option<OperatorPermit>, now: Instant) -> Option<OperatorPermit> {
        if self.known.get(&claim).is_some_and(|until| now < *until) {
            return Some(OperatorPermit::Known);
        }
        match held {
            Some(unproven @ OperatorPermit::Unproven { .. }) => Some(unproven),
            _ => self.try_once(claim.source, now),
        }
    }

    fn try_once(&self, source: Source, now: Instant) -> Option<OperatorPermit> {
        if self.claimed.len() >= MOST_REMEMBERED && !self.claimed.contains_key(&source) {
            return None;
        }
        let _permit = self.unproven.try_acquire()?;
        let new = || Claimed { until: now, tries: LeakyBucket::default() };
        let mut claimed = self.claimed.get_or_insert_with(source, new);
        if claimed.tries.level(now) > TRIED_AGAIN_AFTER * (TRIES - 1) {
            return None;
        }
        claimed.tries = claimed.tries.add(now, TRIED_AGAIN_AFTER);
        Some(OperatorPermit::Unproven { _permit })
    }

    /// What is remembered, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> RememberedOperators {
        let claimed = |source, claimed: Claimed| {
            (source, Lapse::until(claimed.until, now), Lapse::from(claimed.tries.level(now)))
        };
        RememberedOperators {
            known: self.known.iter().map(|one| (*one.key(), Lapse::until(*one.value(), now))).collect(),
            known_sources: self.known_sources.iter().map(|one| (*one.key(), Lapse::until(*one.value(), now))).collect(),
            claimed: self.claimed.iter().map(|one| claimed(*one.key(), *one.value())).collect(),
        }
    }

    /// Recalls what another process remembered at `then`.
    pub fn recall(&self, remembered: RememberedOperators, then: Instant) {
        let RememberedOperators { known, known_sources, claimed } = remembered;
        let until = |left: Lapse| Lapse::from(left.duration().min(KNOWN_FOR)).after(then);
        for (claim, left) in known.into_iter().take(MOST_REMEMBERED.saturating_sub(self.known.len())) {
            self.known.get_or_insert_with(claim, || until(left));
        }
        for (source, left) in known_sources.into_iter().take(MOST_REMEMBERED.saturating_sub(self.known_sources.len())) {
            self.known_sources.get_or_insert_with(source, || until(left));
        }
        for (source, left, used) in claimed.into_iter().take(MOST_REMEMBERED.saturating_sub(self.claimed.len())) {
            let tries = LeakyBucket::until(then + used.duration().min(TRIED_AGAIN_AFTER * TRIES));
            let until = then + left.duration().min(CLAIMED_FOR);
            self.claimed.get_or_insert_with(source, || Claimed { until, tries });
        }
    }

    /// Forgets those whose time is over.
    pub fn sweep(&self, now: Instant) {
        self.known.retain(|_, until| now < *until);
        self.known_sources.retain(|_, until| now < *until);
        self.claimed.retain(|_, claimed| now < claimed.until || claimed.tries.empty_at(now).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CredentialKey;

    fn claim(source: &str, credential: u64) -> Claim {
        Claim { source: source.parse::<IpAddr>().unwrap().into(), credential: CredentialKey::from_raw(credential) }
    }

    fn ip(source: &str) -> IpAddr {
        source.parse().unwrap()
    }

    #[test]
    fn a_login_is_evidence_for_its_credential_from_its_source() {
        let (operators, now) = (Operators::default(), Instant::now());
        operators.verified(claim("192.0.2.1", 1), now);
        let known = |claim, at| matches!(operators.at_connect(claim, None, at), Some(OperatorPermit::Known));
        assert!(known(claim("192.0.2.1", 1), now));
        assert!(!known(claim("192.0.2.1", 2), now), "another password");
        assert!(!known(claim("192.0.2.2", 1), now), "another source");
        assert!(!known(claim("192.0.2.1", 1), now + KNOWN_FOR));
        operators.sweep(now + KNOWN_FOR);
        assert!(operators.known.is_empty() && operators.known_sources.is_empty() && !operators.claimed.is_empty());
        operators.sweep(now + KNOWN_FOR + CLAIMED_FOR);
        assert!(operators.claimed.is_empty());
    }

    #[test]
    fn who_merely_says_so_is_tried_one_at_a_time_and_no_source_often() {
        let (operators, now) = (Operators::default(), Instant::now());
        let first = operators.at_connect(claim("192.0.2.66", 1), None, now);
        assert!(matches!(first, Some(OperatorPermit::Unproven { .. })));
        assert!(operators.at_connect(claim("192.0.2.67", 1), None, now).is_none(), "one at a time");
        let held = operators.at_connect(claim("192.0.2.66", 1), first, now);
        assert!(matches!(held, Some(OperatorPermit::Unproven { .. })), "what it was let in with is enough");
        drop(held);
        let tries = (0..1000).filter(|n| {
            let at = now + Duration::from_millis(10 * n);
            operators.at_connect(claim("192.0.2.66", *n), None, at).is_some()
        });
        let tries = tries.count();
        assert!((7..=9).contains(&tries), "{tries} in ten seconds");
        assert!(operators.at_connect(claim("192.0.2.67", 1), None, now).is_some(), "others are tried meanwhile");
    }

    #[test]
    fn before_it_has_said_who_it_is_the_source_counts() {
        let (operators, now) = (Operators::default(), Instant::now());
        let [known, claims, other] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        operators.verified(claim(known, 1), now);
        operators.claimed(ip(claims), now);
        assert!(operators.before_connect(ip(other), now).is_none());
        let places: Vec<_> = (0..9).filter_map(|_| operators.before_connect(ip(known), now)).collect();
        assert_eq!(places.len(), SILENT_OF_A_SOURCE);
        let tries: Vec<_> = (0..9).filter_map(|_| operators.before_connect(ip(claims), now)).collect();
        assert_eq!(tries.len(), 1, "and the places of those who are known are not theirs");
        drop((places, tries));
        assert!(operators.before_connect(ip(known), now).is_some());
        assert!(operators.before_connect(ip(claims), now + CLAIMED_FOR).is_none());
    }

    #[test]
    fn claims_fill_no_table_of_those_who_are_known() {
        let (operators, now) = (Operators::default(), Instant::now());
        for n in 0..5000u32 {
            operators.claimed(IpAddr::from(n.to_be_bytes()), now);
            drop(operators.at_connect(
                Claim {
                    source: IpAddr::from((1 << 31 | n).to_be_bytes()).into(),
                    credential: CredentialKey::from_raw(1),
                },
                None,
                now,
            ));
        }
        assert!(operators.claimed.len() <= MOST_REMEMBERED);
        operators.verified(claim("192.0.2.1", 1), now);
        assert!(operators.before_connect(ip("192.0.2.1"), now).is_some());
    }

    #[test]
    fn another_process_knows_the_same_operators_and_tries_no_source_more_often() {
        let (old, new, now) = (Operators::default(), Operators::default(), Instant::now());
        old.verified(claim("192.0.2.1", 1), now);
        (0..TRIES).for_each(|_| drop(old.at_connect(claim("192.0.2.66", 1), None, now)));
        old.claimed(ip("192.0.2.67"), now);
        let there = now + Duration::from_secs(100_000);
        let text = serde_json::to_string(&old.remembered(now)).unwrap();
        new.recall(serde_json::from_str(&text).unwrap(), there);
        let known = |at| matches!(new.at_connect(claim("192.0.2.1", 1), None, at), Some(OperatorPermit::Known));
        assert!(known(there) && !known(there + KNOWN_FOR));
        assert!(matches!(new.before_connect(ip("192.0.2.1"), there), Some(OperatorPermit::Silent { .. })));
        assert!(new.at_connect(claim("192.0.2.66", 1), None, there).is_none(), "it has had its tries");
        assert!(new.before_connect(ip("192.0.2.67"), there).is_some());
        assert!(new.before_connect(ip("192.0.2.68"), there).is_none());
        let made_up = (0..100_000).map(|n| (claim("192.0.2.1", n), Lapse::from(Duration::MAX))).collect();
        new.recall(RememberedOperators { known: made_up, ..RememberedOperators::default() }, there);
        assert!(new.known.len() <= MOST_REMEMBERED);
        new.sweep(there + KNOWN_FOR);
        assert!(new.known.is_empty(), "nobody is known for longer than a day");
    }
}
