//! What weir remembers of sources: whose logins the servers keep refusing, and whose clients keep servers waiting.
//!
//! Each refused login has taken a turn of the pace, and a place in the quota of whatever account it claims. A source
//! with too many of them is damped ([`damping`](super::damping)): most of its clients are refused, and the accounts
//! that they claim notice nothing. Not so a client whose credential has logged in from there. Where that is seen only
//! after the dial, since the client signs the server's nonce or its TLS ends there, clients of a source from which
//! somebody has logged in are dialled at a small rate.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    admission::{
        client::Claim,
        quota::{counted_map::CountedMap, sources::Source},
        reputation::damping::Damping,
    },
    identity::CredentialKey,
    lapse::{self, Lapse},
};

/// The most sources that are remembered. Others are not damped until a sweep.
const MOST_SOURCES: usize = 65_536;
/// The most credentials that are remembered as good from their source.
const MOST_KNOWN: usize = 100_000;
/// The most sources that are remembered as those of a good login.
const MOST_GOOD: usize = 100_000;

/// A source whose client kept a server waiting for its CONNECT is not waited for again for so long.
const NOT_PROMPT_FOR: Duration = Duration::from_secs(10);

/// The sources that are remembered.
#[derive(Debug, Default)]
pub struct SourceReputation {
    /// Those with refused logins that are not forgiven yet.
    failures: Arc<CountedMap<Source, Damping>>,
    /// Which credential last logged in well from which source: a client that shares an address with a bad one is not
    /// damped with it.
    known: CountedMap<(Source, CredentialKey), ()>,
    /// From which sources somebody has logged in well.
    good: CountedMap<Source, ()>,
    /// When a client from this source last kept a server waiting.
    silent: CountedMap<Source, Instant>,
}

/// The sources as another process recalls them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedSources {
    /// Refused logins, by how long they take to be forgiven.
    #[serde(default, deserialize_with = "lapse::or_default")]
    failures: Vec<(Source, Lapse)>,
    /// The tries that damped ones have used, by how long they take to come back.
    #[serde(default, deserialize_with = "lapse::or_default")]
    tries: Vec<(Source, Lapse)>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    known: Vec<Claim>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    good: Vec<Source>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    silent: Vec<(Source, Lapse)>,
}

impl RememberedSources {
    /// Forgets what is known by the keys of credentials.
    pub fn forget_keys(&mut self) {
        self.known.clear();
    }
}

/// What a client of a source may cost before weir knows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeConnect {
    /// As much as any other.
    Free,
    /// Its source is damped, and somebody has logged in well from there: a dial, at a small rate.
    Paced,
    /// Its source is damped, and nobody is known from there: nothing.
    Damped,
}

/// The leave to log in of a client that is not known, or of one that needs none. If its source is damped it holds a
/// try, and what becomes of that depends on what becomes of the client:
///
/// | the client | the try | why |
/// |---|---|---|
/// | is let in by a server | comes back | it has guessed nothing |
/// | is refused by a server, for its credentials | is used | it may be a guess |
/// | is told to come back, since a server that has let it in before refuses it now | is used | so did a server say |
/// | leaves while its login is under way | is used | else who never waits for an answer tries without end |
/// | is refused by weir: a quota, a policy, no turn, no server, a drain | comes back | no server was asked |
/// | is refused by a server for another reason, or gets no answer in time | comes back | nobody has judged it |
/// | loses its server, and finds no other one | comes back | the same |
/// | leaves before its turn | comes back | no server was asked |
/// | goes to another process of weir | comes back | it takes one there |
#[derive(Debug, Default)]
pub struct LoginTry {
    taken: Option<Box<TakenTry>>,
}

#[derive(Debug)]
struct TakenTry {
    of: Arc<CountedMap<Source, Damping>>,
    source: Source,
    at: Instant,
}

impl LoginTry {
    /// It does not come back.
    pub fn use_up(mut self) {
        self.taken = None;
    }
}

impl Drop for LoginTry {
    fn drop(&mut self) {
        let Some(taken) = self.taken.take() else { return };
        if let Some(mut damping) = taken.of.get_mut(&taken.source) {
            damping.give_back(taken.at);
        }
    }
}

/// Adds to what is remembered. Beyond `most` entries half go, without order; what is still in use comes back with its
/// next login.
fn remember<K: std::hash::Hash + Eq>(map: &CountedMap<K, ()>, key: K, most: usize) {
    if map.contains_key(&key) {
        return;
    }
    if map.len() >= most {
        let mut keep = false;
        map.retain(|_, ()| {
            keep = !keep;
            keep
        });
    }
    map.insert(key, ());
}

/// Refused logins.
impl SourceReputation {
    /// A server has refused a login. The first refusal of one that was known is no guess, since the same secret was
    /// good before: it does not count, and its client is not known any more.
    pub fn failed(&self, source: IpAddr, credential: CredentialKey, login_try: LoginTry, now: Instant) {
        let source = Source::from(source);
        if self.known.remove(&(source, credential)) {
            return;
        }
        let took_try = login_try.taken.is_some();
        login_try.use_up();
        if self.failures.len() >= MOST_SOURCES && !self.failures.contains_key(&source) {
            return;
        }
        self.failures.get_or_insert_with(source, Damping::default).refused(took_try, now);
    }

    /// A server has let a client in.
    pub fn succeeded(&self, source: IpAddr, credential: CredentialKey) {
        let source = Source::from(source);
        remember(&self.known, (source, credential), MOST_KNOWN);
        remember(&self.good, source, MOST_GOOD);
    }

    /// A session that weir cannot read has lived longer than a server waits for a login.
    pub fn passed_through(&self, source: IpAddr) {
        remember(&self.good, source.into(), MOST_GOOD);
    }

    /// What a client of this source may cost before it has said who it is.
    pub fn before_connect(&self, source: IpAddr, now: Instant) -> BeforeConnect {
        match self.is_damped(source, now) {
            false => BeforeConnect::Free,
            true if self.good.contains_key(&source.into()) => BeforeConnect::Paced,
            true => BeforeConnect::Damped,
        }
    }

    /// Whether a source is damped and has no try, before its client has said who it is.
    pub fn is_damped(&self, source: IpAddr, now: Instant) -> bool {
        self.failures.get(&Source::from(source)).is_some_and(|damping| damping.has_no_try(now))
    }

    /// The leave to log in for a client that claims this; `None` where its source is damped and has no try for it.
    pub fn may_try(&self, claim: Claim, now: Instant) -> Option<LoginTry> {
        let Claim { source, .. } = claim;
        let takes_tries = self.failures.get(&source).is_some_and(|damping| damping.takes_tries(now));
        if !takes_tries || self.is_known(claim) {
            return Some(LoginTry::default());
        }
        let took_try = match self.failures.get_mut(&source) {
            Some(mut damping) => damping.may_try(now)?,
            None => false,
        };
        let taken = || Box::new(TakenTry { of: Arc::clone(&self.failures), source, at: now });
        Some(LoginTry { taken: took_try.then(taken) })
    }

    /// Whether this has last been good.
    pub fn is_known(&self, claim: Claim) -> bool {
        self.known.contains_key(&(claim.source, claim.credential))
    }

    /// Whether a login from this source has failed and is not forgiven yet.
    pub fn fails(&self, source: IpAddr, now: Instant) -> bool {
        self.failures.get(&Source::from(source)).is_some_and(|damping| !damping.is_forgiven(now))
    }
}

/// Clients that keep servers waiting.
impl SourceReputation {
    /// A client was given a server and did not send its CONNECT soon.
    pub fn kept_silent(&self, source: IpAddr, now: Instant) {
        if self.silent.len() < MOST_SOURCES {
            self.silent.insert(source.into(), now);
        }
    }

    /// Whether other clients may be made to wait until a client from this source has sent its CONNECT.
    pub fn is_prompt(&self, source: IpAddr, now: Instant) -> bool {
        let silent_at = self.silent.get(&Source::from(source)).map(|at| *at);
        silent_at.is_none_or(|at| now.saturating_duration_since(at) >= NOT_PROMPT_FOR)
    }
}

impl SourceReputation {
    /// Forgets the sources that are forgiven.
    pub fn sweep(&self, now: Instant) {
        self.silent.retain(|_, at| now.saturating_duration_since(*at) < NOT_PROMPT_FOR);
        self.failures.retain(|_, damping| !damping.is_forgiven(now));
    }

    /// The sources that are remembered, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> RememberedSources {
        let claim = |&(source, credential): &_| Claim { source, credential };
        RememberedSources {
            failures: self.failures.iter().map(|one| (*one.key(), one.value().forgiven_in(now).into())).collect(),
            tries: self.failures.iter().filter_map(|one| Some((*one.key(), one.used_tries(now)?.into()))).collect(),
            known: self.known.iter().map(|one| claim(one.key())).collect(),
            good: self.good.iter().map(|one| *one.key()).collect(),
            silent: self.silent.iter().map(|one| (*one.key(), Lapse::since(*one.value(), now))).collect(),
        }
    }

    /// Recalls what another process remembered at `then`. A source that has failed since is known better.
    pub fn recall(&self, remembered: RememberedSources, then: Instant) {
        let RememberedSources { failures, tries, known, good, silent } = remembered;
        let tries: HashMap<Source, Lapse> = tries.into_iter().take(MOST_SOURCES).collect();
        for (source, refused) in failures.into_iter().take(MOST_SOURCES.saturating_sub(self.failures.len())) {
            let used = tries.get(&source).map(|used| used.duration());
            self.failures.get_or_insert_with(source, || Damping::recalled(refused.duration(), used, then));
        }
        for Claim { source, credential } in known.into_iter().take(MOST_KNOWN.saturating_sub(self.known.len())) {
            self.known.insert((source, credential), ());
        }
        for source in good.into_iter().take(MOST_GOOD.saturating_sub(self.good.len())) {
            self.good.insert(source, ());
        }
        for (source, ago) in silent.into_iter().take(MOST_SOURCES.saturating_sub(self.silent.len())) {
            self.silent.get_or_insert_with(source, || ago.before(then));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::reputation::damping::{FORGIVEN_IN, TOLERATED},
        identity::{Credential, Keys},
    };

    /// Whether a client with this credential is kept out.
    fn is_damped_as(reputation: &SourceReputation, source: IpAddr, credential: CredentialKey, now: Instant) -> bool {
        reputation.may_try(Claim { source: source.into(), credential }, now).is_none()
    }

    fn fails(reputation: &SourceReputation, source: IpAddr, credential: CredentialKey, now: Instant) {
        reputation.failed(source, credential, LoginTry::default(), now);
    }

    #[test]
    fn a_source_that_fails_too_often_waits_and_nobody_else() {
        let (source_reputation, keys, now) = (SourceReputation::default(), Keys::default(), Instant::now());
        let [bad, good] = ["192.0.2.66", "192.0.2.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let [mine, claimed] = ["mine", "claimed"].map(|user| keys.credential(Credential::User(user)));
        source_reputation.succeeded(bad, mine);
        for n in 0..TOLERATED {
            assert!(!source_reputation.is_damped(bad, now), "{n}");
            fails(&source_reputation, bad, claimed, now);
        }
        assert!(source_reputation.is_damped(bad, now) && is_damped_as(&source_reputation, bad, claimed, now));
        assert!(!is_damped_as(&source_reputation, bad, mine, now), "its neighbour, who logged in before");
        assert!(!source_reputation.is_damped(good, now) && !is_damped_as(&source_reputation, good, claimed, now));
        // Its own good name is lost with one bad try, which does not count among the others.
        let before = source_reputation.remembered(now).failures;
        fails(&source_reputation, bad, mine, now);
        assert_eq!(source_reputation.remembered(now).failures, before);
        assert!(is_damped_as(&source_reputation, bad, mine, now));
        assert_eq!(source_reputation.before_connect(bad, now), BeforeConnect::Paced);
        assert_eq!(source_reputation.before_connect(good, now), BeforeConnect::Free);

        let tries = (0..1000).filter(|n| {
            let at = now + Duration::from_millis(10 * n);
            let login_try = source_reputation.may_try(Claim { source: bad.into(), credential: claimed }, at);
            login_try.map(|login_try| source_reputation.failed(bad, claimed, login_try, at)).is_some()
        });
        let tries = tries.count();
        assert!((45..=55).contains(&tries), "{tries} in ten seconds");
        source_reputation.sweep(now + Duration::from_secs(60));
        assert!(source_reputation.failures.is_empty());
    }

    #[test]
    fn a_damped_source_is_dialled_only_where_somebody_has_logged_in() {
        let (source_reputation, keys, now) = (SourceReputation::default(), Keys::default(), Instant::now());
        let source = "192.0.2.66".parse::<IpAddr>().unwrap();
        for _ in 0..TOLERATED {
            assert_eq!(source_reputation.before_connect(source, now), BeforeConnect::Free);
            fails(&source_reputation, source, keys.credential(Credential::User("claimed")), now);
        }
        assert_eq!(source_reputation.before_connect(source, now), BeforeConnect::Damped);
        source_reputation.passed_through(source);
        assert_eq!(source_reputation.before_connect(source, now), BeforeConnect::Paced);
        assert_eq!(source_reputation.before_connect(source, now + FORGIVEN_IN), BeforeConnect::Free);
    }

    #[test]
    fn silence_is_remembered_for_a_while() {
        let (source_reputation, now) = (SourceReputation::default(), Instant::now());
        let [silent, other] = ["192.0.2.66", "192.0.2.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        source_reputation.kept_silent(silent, now);
        assert!(!source_reputation.is_prompt(silent, now) && source_reputation.is_prompt(other, now));
        assert!(source_reputation.is_prompt(silent, now + NOT_PROMPT_FOR));
        source_reputation.sweep(now + NOT_PROMPT_FOR);
        assert!(source_reputation.silent.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let (source_reputation, keys, now) = (SourceReputation::default(), Keys::default(), Instant::now());
        for n in 0..MOST_KNOWN as u32 + 10 {
            let source = IpAddr::from(n.to_be_bytes());
            let credential = keys.credential(Credential::Nothing);
            fails(&source_reputation, source, credential, now);
            source_reputation.succeeded(source, credential);
        }
        assert!(source_reputation.failures.len() <= MOST_SOURCES && source_reputation.known.len() <= MOST_KNOWN);
        assert!(source_reputation.good.len() <= MOST_GOOD);
    }

    #[test]
    fn another_process_damps_the_same_sources_and_knows_the_same_clients() {
        let (old, new, keys, now) =
            (SourceReputation::default(), SourceReputation::default(), Keys::default(), Instant::now());
        let [bad, worse, v6] = ["192.0.2.66", "192.0.2.67", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let [mine, theirs] = ["mine", "theirs"].map(|user| keys.credential(Credential::User(user)));
        old.succeeded(bad, mine);
        old.succeeded(v6, theirs);
        (0..TOLERATED + 10).for_each(|_| fails(&old, bad, theirs, now));
        (0..10 * TOLERATED).for_each(|_| fails(&old, worse, theirs, now));
        old.kept_silent(v6, now);
        let (then, there) = (now + Duration::from_secs(1), now + Duration::from_secs(1000));
        let text = serde_json::to_string(&old.remembered(then)).unwrap();
        assert!(!text.contains("mine") && text.contains("\"2001:db8::\""));
        new.recall(serde_json::from_str(&text).unwrap(), there);
        for seconds in 0..250 {
            let after = Duration::from_secs(seconds);
            let (then, there) = (then + after, there + after);
            for source in [bad, worse, v6] {
                assert_eq!(old.before_connect(source, then), new.before_connect(source, there), "{source} {seconds}");
                assert_eq!(old.is_prompt(source, then), new.is_prompt(source, there));
                assert_eq!(old.fails(source, then), new.fails(source, there));
                for credential in [mine, theirs] {
                    let was = is_damped_as(&old, source, credential, then);
                    assert_eq!(was, is_damped_as(&new, source, credential, there));
                    let claim = Claim { source: source.into(), credential };
                    assert_eq!(old.is_known(claim), new.is_known(claim));
                }
            }
        }
        let made_up = RememberedSources {
            failures: vec![(bad.into(), Duration::MAX.into())],
            known: vec![Claim { source: v6.into(), credential: mine }; 200_000],
            ..RememberedSources::default()
        };
        let third = SourceReputation::default();
        third.recall(made_up, now);
        fails(&third, bad, theirs, now);
        assert!(third.is_damped(bad, now) && third.known.len() == 1);
    }
}
