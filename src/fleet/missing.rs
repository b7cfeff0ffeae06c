//! Weirs that have gone without a word: an operator wants to hear of them for a while, and then no more.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::fleet::member::MemberId;

/// For how long a weir counts as missing.
pub const SHOWN_FOR: Duration = Duration::from_secs(600);

/// The most that are remembered. Whoever may publish can make up ids.
const MOST: usize = 64;

/// The weirs whose beats have stopped.
#[derive(Debug, Default)]
pub struct Missing(BTreeMap<MemberId, Instant>);

impl Missing {
    /// A weir is heard no more.
    pub fn gone(&mut self, now: Instant, id: MemberId) {
        self.forget(now);
        if self.0.len() < MOST || self.0.contains_key(&id) {
            self.0.insert(id, now);
        }
    }

    /// A weir is heard again, or has said that it ends.
    pub fn found(&mut self, id: &MemberId) {
        self.0.remove(id);
    }

    /// Those that have gone within [`SHOWN_FOR`], with the time since then.
    pub fn list(&mut self, now: Instant) -> Vec<(MemberId, Duration)> {
        self.forget(now);
        self.0.iter().map(|(id, at)| (id.clone(), now.saturating_duration_since(*at))).collect()
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < SHOWN_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weir_is_missing_until_it_is_back_or_ten_minutes_have_passed() {
        let (mut missing, start) = (Missing::default(), Instant::now());
        let id = |n: usize| MemberId::new(&format!("w{n}")).unwrap();
        missing.gone(start, id(1));
        missing.gone(start + Duration::from_secs(1), id(2));
        assert_eq!(missing.list(start + Duration::from_secs(9))[0], (id(1), Duration::from_secs(9)));
        missing.found(&id(1));
        assert_eq!(missing.list(start + Duration::from_secs(600)).len(), 1);
        assert_eq!(missing.list(start + Duration::from_secs(601)), []);
        (0..1000).for_each(|n| missing.gone(start, id(n)));
        assert_eq!(missing.list(start).len(), MOST, "ids that are made up take bounded memory");
    }
}
