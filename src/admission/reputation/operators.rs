//! The sources that clients of the system account come from. An operator's tools get in when everything else is full,
//! by the slots that are kept free on each server.
//!
//! Where clients sign a server's nonce, the server is dialled before a client has said who it is; then its source
//! decides. A source whose client claimed the system account may use the kept slots for a minute, one whose client has
//! logged into it for a day.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use dashmap::DashMap;

use crate::admission::quota::sources::Source;

/// For so long after a claim the next try from its source may use the kept slots.
const CLAIMED_FOR: Duration = Duration::from_secs(60);
/// A source is remembered for so long after a login to the system account.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// The most sources that are remembered. A client of another source comes twice.
const MOST_SOURCES: usize = 1024;

/// The sources that are remembered.
#[derive(Debug, Default)]
pub struct Operators {
    until: DashMap<Source, Instant>,
}

impl Operators {
    fn note(&self, source: IpAddr, until: Instant) {
        let source = Source::from(source);
        if self.until.len() < MOST_SOURCES || self.until.contains_key(&source) {
            let mut remembered = self.until.entry(source).or_insert(until);
            *remembered = until.max(*remembered);
        }
    }

    /// A client from this source says that it belongs to the system account.
    pub fn claimed(&self, source: IpAddr, now: Instant) {
        self.note(source, now + CLAIMED_FOR);
    }

    /// A server has let a client from this source into the system account.
    pub fn verified(&self, source: IpAddr, now: Instant) {
        self.note(source, now + KNOWN_FOR);
    }

    /// Whether a client from this source, which has said nothing yet, may belong to the system account.
    pub fn is_likely(&self, source: IpAddr, now: Instant) -> bool {
        !self.until.is_empty() && self.until.get(&source.into()).is_some_and(|until| now < *until)
    }

    /// Forgets the sources whose time is over.
    pub fn sweep(&self, now: Instant) {
        self.until.retain(|_, until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_opens_it_for_a_moment_and_a_login_for_long() {
        let (operators, now) = (Operators::default(), Instant::now());
        let [claims, logs_in, other] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        operators.claimed(claims, now);
        operators.verified(logs_in, now);
        operators.claimed(logs_in, now);
        let likely = |at| [claims, logs_in, other].map(|source| operators.is_likely(source, at));
        assert_eq!(likely(now), [true, true, false]);
        assert_eq!(likely(now + CLAIMED_FOR), [false, true, false]);
        operators.sweep(now + KNOWN_FOR);
        assert!(operators.until.is_empty());
        for n in 0..5000u32 {
            operators.claimed(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(operators.until.len() <= MOST_SOURCES);
    }
}
