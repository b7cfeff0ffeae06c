//! Sources whose logins the servers keep refusing. Each try takes a turn of the pace, and a place in the quota of whatever
//! account it claims; so a source that fails too often waits, and the accounts it claims notice nothing.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    admission::quota::{counted_map::CountedMap, sources::Source},
    identity::CredentialKey,
};

/// Failures of one source in short order that are taken for mistakes: a misconfigured fleet behind one address, say.
const MISTAKES: f64 = 100.0;
/// So many failures are forgiven each second; a damped source goes on trying at this rate.
const FORGIVEN_PER_SECOND: f64 = 5.0;
/// Sources that are remembered at most. Those beyond go undamped until a sweep.
const MOST_SOURCES: usize = 65_536;
/// Credentials that are remembered at most as good from their source.
const MOST_KNOWN: usize = 100_000;

/// A source that kept a server waiting for a CONNECT is not waited for again for so long.
const NOT_PROMPT_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: f64,
    at: Instant,
}

impl Failures {
    fn at(self, now: Instant) -> f64 {
        let forgiven = now.saturating_duration_since(self.at).as_secs_f64() * FORGIVEN_PER_SECOND;
        (self.count - forgiven).max(0.0)
    }
}

/// The memory.
#[derive(Debug, Default)]
pub struct SourceReputation {
    failures: CountedMap<Source, Failures>,
    /// Who logged in well from where the last time: whoever shares an address with a bad one is not damped with it.
    known: CountedMap<(Source, CredentialKey), ()>,
    /// When a client from there last kept a server waiting.
    silent: CountedMap<Source, Instant>,
}

impl SourceReputation {
    /// A server has refused a login.
    pub fn failed(&self, source: IpAddr, credential: CredentialKey, now: Instant) {
        let source = Source::from(source);
        self.known.remove(&(source, credential));
        if self.failures.len() >= MOST_SOURCES && !self.failures.contains_key(&source) {
            return;
        }
        let mut failures = self.failures.get_or_insert_with(source, || Failures { count: 0.0, at: now });
        *failures = Failures { count: failures.at(now) + 1.0, at: now };
    }

    /// A server has let a client in.
    pub fn succeeded(&self, source: IpAddr, credential: CredentialKey) {
        let key = (Source::from(source), credential);
        if self.known.contains_key(&key) {
            return;
        }
        if self.known.len() >= MOST_KNOWN {
            // Half go, without order; what is still in use comes back with its next login.
            let mut keep = false;
            self.known.retain(|_, ()| {
                keep = !keep;
                keep
            });
        }
        self.known.insert(key, ());
    }

    /// Whether a source is to wait, as far as is known before its client has said who it is.
    pub fn is_damped(&self, source: IpAddr, now: Instant) -> bool {
        self.failures.get(&source.into()).is_some_and(|failures| failures.at(now) >= MISTAKES)
    }

    /// The same for a client that has said it.
    pub fn is_damped_as(&self, source: IpAddr, credential: CredentialKey, now: Instant) -> bool {
        self.is_damped(source, now) && !self.known.contains_key(&(source.into(), credential))
    }

    /// A client was given a server and did not say its CONNECT soon.
    pub fn kept_silent(&self, source: IpAddr, now: Instant) {
        if self.silent.len() < MOST_SOURCES {
            self.silent.insert(source.into(), now);
        }
    }

    /// Whether others may be made to wait until a client from there has said its CONNECT.
    pub fn is_prompt(&self, source: IpAddr, now: Instant) -> bool {
        let silent_at = self.silent.get(&source.into()).map(|at| *at);
        silent_at.is_none_or(|at| now.saturating_duration_since(at) >= NOT_PROMPT_FOR)
    }

    /// Forgets the sources that are forgiven.
    pub fn sweep(&self, now: Instant) {
        self.silent.retain(|_, at| now.saturating_duration_since(*at) < NOT_PROMPT_FOR);
        self.failures.retain(|_, failures| failures.at(now) > 0.0);
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
        for n in 0..MISTAKES as u32 {
            assert!(!source_reputation.is_damped(bad, now), "{n}");
            source_reputation.failed(bad, claimed, now);
        }
        assert!(source_reputation.is_damped(bad, now) && source_reputation.is_damped_as(bad, claimed, now));
        assert!(!source_reputation.is_damped_as(bad, mine, now), "its neighbour, who logged in before");
        assert!(!source_reputation.is_damped(good, now) && !source_reputation.is_damped_as(good, claimed, now));
        // Its own good name is lost with one bad try.
        source_reputation.failed(bad, mine, now);
        assert!(source_reputation.is_damped_as(bad, mine, now));

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
    }
}
