//! What weir remembers of sources: whose logins the servers keep refusing, and whose clients keep servers waiting.
//!
//! Each refused login has taken a turn of the pace, and a place in the quota of whatever account it claims. A source
//! with too many of them is damped: its clients are refused, and the accounts that they claim notice nothing. Not so a
//! client whose credential has logged in from there. Where that is seen only after the dial, since the client signs the
//! server's nonce or its TLS ends there, clients of a source from which somebody has logged in are dialled at a small
//! rate.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    admission::{
        client::Claim,
        quota::{counted_map::CountedMap, sources::Source},
    },
    identity::CredentialKey,
    lapse::{self, Lapse},
    upstream::leaky_bucket::LeakyBucket,
};

/// So many refused logins in short order are taken for mistakes: of a misconfigured fleet behind one address, say.
const TOLERATED: u32 = 100;
/// One refused login is forgiven in this time: a damped source goes on trying at this rate.
const FORGIVEN_IN: Duration = Duration::from_millis(200);
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
    /// Refused logins that are not forgiven yet.
    failures: CountedMap<Source, LeakyBucket>,
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
    /// A server has refused a login.
    pub fn failed(&self, source: IpAddr, credential: CredentialKey, now: Instant) {
        let source = Source::from(source);
        self.known.remove(&(source, credential));
        if self.failures.len() >= MOST_SOURCES && !self.failures.contains_key(&source) {
            return;
        }
        let mut failures = self.failures.get_or_insert_with(source, LeakyBucket::default);
        *failures = failures.add(now, FORGIVEN_IN);
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

    /// Whether a source is damped, before its client has said who it is.
    pub fn is_damped(&self, source: IpAddr, now: Instant) -> bool {
        let failures = self.failures.get(&Source::from(source));
        failures.is_some_and(|failures| failures.level(now) >= FORGIVEN_IN * TOLERATED)
    }

    /// Whether this has last been good.
    pub fn is_known(&self, claim: Claim) -> bool {
        self.known.contains_key(&(claim.source, claim.credential))
    }

    /// Whether a login from this source has failed and is not forgiven yet.
    pub fn fails(&self, source: IpAddr, now: Instant) -> bool {
        self.failures.get(&Source::from(source)).is_some_and(|failures| failures.empty_at(now).is_some())
    }

    /// Whether a source is damped for a client with this credential.
    pub fn is_damped_as(&self, source: IpAddr, credential: CredentialKey, now: Instant) -> bool {
        self.is_damped(source, now) && !self.known.contains_key(&(source.into(), credential))
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
        self.failures.retain(|_, failures| failures.empty_at(now).is_some());
    }

    /// The sources that are remembered, for a process that takes over.
    pub fn remembered(&self, now: Instant) -> RememberedSources {
        let claim = |&(source, credential): &_| Claim { source, credential };
        RememberedSources {
            failures: self.failures.iter().map(|one| (*one.key(), one.value().level(now).into())).collect(),
            known: self.known.iter().map(|one| claim(one.key())).collect(),
            good: self.good.iter().map(|one| *one.key()).collect(),
            silent: self.silent.iter().map(|one| (*one.key(), Lapse::since(*one.value(), now))).collect(),
        }
    }

    /// Recalls what another process remembered at `then`. A source that has failed since is known better.
    pub fn recall(&self, remembered: RememberedSources, then: Instant) {
        let RememberedSources { failures, known, good, silent } = remembered;
        for (source, level) in failures.into_iter().take(MOST_SOURCES.saturating_sub(self.failures.len())) {
            self.failures.get_or_insert_with(source, || LeakyBucket::until(level.after(then)));
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
    use crate::identity::{Credential, Keys};

    #[test]
    fn a_source_that_fails_too_often_waits_and_nobody_else() {
        let (source_reputation, keys, now) = (SourceReputation::default(), Keys::default(), Instant::now());
        let [bad, good] = ["192.0.2.66", "192.0.2.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let [mine, claimed] = ["mine", "claimed"].map(|user| keys.credential(Credential::User(user)));
        source_reputation.succeeded(bad, mine);
        for n in 0..TOLERATED {
            assert!(!source_reputation.is_damped(bad, now), "{n}");
            source_reputation.failed(bad, claimed, now);
        }
        assert!(source_reputation.is_damped(bad, now) && source_reputation.is_damped_as(bad, claimed, now));
        assert!(!source_reputation.is_damped_as(bad, mine, now), "its neighbour, who logged in before");
        assert!(!source_reputation.is_damped(good, now) && !source_reputation.is_damped_as(good, claimed, now));
        // Its own good name is lost with one bad try.
        source_reputation.failed(bad, mine, now);
        assert!(source_reputation.is_damped_as(bad, mine, now));
        assert_eq!(source_reputation.before_connect(bad, now), BeforeConnect::Paced);
        assert_eq!(source_reputation.before_connect(good, now), BeforeConnect::Free);

        let tries = (0..1000).filter(|n| {
            let at = now + Duration::from_millis(10 * n);
            let tried = !source_reputation.is_damped(bad, at);
            if tried {
                source_reputation.failed(bad, claimed, at);
            }
            tried
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
            source_reputation.failed(source, keys.credential(Credential::User("claimed")), now);
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
            source_reputation.failed(source, credential, now);
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
        (0..TOLERATED + 10).for_each(|_| old.failed(bad, theirs, now));
        (0..10 * TOLERATED).for_each(|_| old.failed(worse, theirs, now));
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
                    let was = old.is_damped_as(source, credential, then);
                    assert_eq!(was, new.is_damped_as(source, credential, there));
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
        third.failed(bad, theirs, now);
        assert!(third.is_damped(bad, now) && third.known.len() == 1);
    }
}
