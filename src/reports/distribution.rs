//! How the sessions of each account are spread over the servers, and where too many are in one place.

use std::collections::BTreeMap;

/// A server with fewer sessions than this is no hot spot: some always have more than others.
const LEAST: u32 = 10;

/// The sessions of an account, or of all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread<'a> {
    pub sessions: u32,
    /// What each server would have of them.
    pub mean: f64,
    /// The servers and their sessions, by name.
    pub servers: BTreeMap<&'a str, u32>,
}

impl<'a> Spread<'a> {
    /// `servers` are those that take sessions; others count where they have some.
    pub fn over(servers: impl IntoIterator<Item = &'a str>, placed: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut all: BTreeMap<&str, u32> = servers.into_iter().map(|server| (server, 0)).collect();
        let mut sessions = 0;
        for (server, count) in placed {
            *all.entry(server).or_default() += count;
            sessions += count;
        }
        Self { sessions, mean: f64::from(sessions) / all.len().max(1) as f64, servers: all }
    }

    /// Whether a server with so many of them has twice what it would have, or more.
    pub fn is_hot(&self, sessions: u32) -> bool {
        self.servers.len() > 1 && sessions >= LEAST && f64::from(sessions) >= 2.0 * self.mean
    }

    /// How many times its share the server with the most has.
    pub fn peak(&self) -> f64 {
        let most = self.servers.values().max().copied().unwrap_or(0);
        if self.mean > 0.0 { f64::from(most) / self.mean } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_mean_is_a_hot_spot() {
        let spread = |counts: [u32; 3]| Spread::over(["a", "b", "c"], ["a", "b", "c"].into_iter().zip(counts));
        let uneven = spread([40, 10, 10]);
        assert_eq!((uneven.sessions, uneven.mean, uneven.peak()), (60, 20.0, 2.0));
        assert!(uneven.is_hot(40) && !uneven.is_hot(39));
        assert!(!spread([9, 0, 0]).is_hot(9), "a few are no hot spot");
        let dead = Spread::over(["a", "b"], [("gone", 30)]);
        assert_eq!((dead.mean, dead.is_hot(30)), (10.0, true));
        let only = Spread::over(["a"], [("a", 100)]);
        assert!(!only.is_hot(100), "where else should they be?");
        let two = Spread::over(["a", "b"], [("a", 100)]);
        assert!(two.is_hot(100));
        assert_eq!(Spread::over([], []).peak(), 0.0);
    }
}
