//! How far what peers say to hold is believed, by what readings show.
//!
//! What a peer says to hold is in the next reading, but for what it has just dialled or given back. Where the reading
//! shows clearly less, again and again, somebody forges beats: then no more is believed than the last reading shows
//! beyond what weir holds itself, and a few that may have come since.

/// What readings may show less than peers say: these and an eighth.
const TOLERATED: u32 = 2;

/// What a reading weighs that shows less than what servers count for certain by what peers say, and one that shows less
/// only than what they say to hold: that may be dialled and not let in yet.
const OF_OPEN: u8 = 2;
const OF_HELD: u8 = 1;

/// Peers are doubted from this weight on, and it does not grow beyond.
const DOUBTED_AT: u8 = 3;

/// Beyond so many that may have come since, all is believed again.
const BELIEVED: u32 = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Doubt {
    weight: u8,
    /// How many more than the last reading shows are believed; `None`: all.
    more: Option<u32>,
}

impl Doubt {
    /// A reading shows that others have at most `shown`, while peers have said to have `open` and `held`.
    pub fn judge(&mut self, shown: u32, open: u32, held: u32) {
        let most = shown.saturating_add(TOLERATED + shown / 8);
        let weight = match (open > most, held > most) {
            (true, _) => OF_OPEN,
            (false, true) => OF_HELD,
            (false, false) => {
                self.weight = self.weight.saturating_sub(1);
                self.more = self.more.map(|more| 2 * more + 2).filter(|more| *more < BELIEVED);
                return;
            }
        };
        self.weight = (self.weight + weight).min(DOUBTED_AT);
        if self.weight == DOUBTED_AT {
            self.more = Some(self.more.map_or(TOLERATED + shown / 8, |more| (more / 4).max(1)));
        }
    }

    /// What is believed of what peers say to `hold`, if the last reading shows at most `shown` of others.
    pub fn believed(&self, held: u32, shown: Option<u32>) -> u32 {
        match (self.more, shown) {
            (Some(more), Some(shown)) => held.min(shown.saturating_add(more)),
            _ => held,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_says_what_no_reading_shows_is_doubted_and_believed_again() {
        let mut doubt = Doubt::default();
        doubt.judge(10, 100, 100);
        assert_eq!(doubt.believed(100, Some(10)), 100, "a server that was restarted shows so once");
        doubt.judge(10, 100, 100);
        assert_eq!(doubt.believed(100, Some(10)), 13);
        (0..5).for_each(|_| doubt.judge(10, 100, 100));
        assert_eq!(doubt.believed(100, Some(10)), 11);
        assert_eq!(doubt.believed(100, None), 100, "there is no reading to go by");
        (0..12).for_each(|_| doubt.judge(10, 10, 11));
        assert_eq!(doubt.believed(100, Some(10)), 100);
    }

    #[test]
    fn logins_under_way_are_no_lie() {
        let mut doubt = Doubt::default();
        for _ in 0..50 {
            doubt.judge(50, 50, 90);
            doubt.judge(90, 90, 95);
        }
        assert_eq!(doubt.believed(200, Some(90)), 200);
        (0..3).for_each(|_| doubt.judge(50, 0, 90));
        assert_eq!(doubt.believed(200, Some(50)), 58, "none is let in");
    }

    proptest! {
        #[test]
        fn nobody_keeps_others_out_by_what_is_not_there(says in prop::collection::vec((0u32..20, any::<u32>()), 40)) {
            // The truth at one reading in twenty.
            let (mut doubt, mut kept_out) = (Doubt::default(), 0);
            let lies = says.iter().filter(|(lie, _)| *lie > 0).count();
            for (lie, much) in says {
                let said = if lie > 0 { much.max(1000) } else { 0 };
                doubt.judge(20, said, said);
                kept_out += u32::from(doubt.believed(u32::MAX, Some(20)) > 60);
            }
            // One that lies at all is believed for a few readings more than it tells the truth.
            prop_assert!(lies == 0 || kept_out as usize <= 6 + 3 * (40 - lies), "{kept_out} of 40");
        }
    }
}
