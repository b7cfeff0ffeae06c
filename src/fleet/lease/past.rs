//! Connections of a quota that came past all weirs: what a record is to say of them, by readings of the servers.
//!
//! A reading shows how many connections are neither of this weir nor of the weirs that it hears. Those of weirs that it
//! does not hear are among them, and have leases: so the record may say less by as much as those leases are. And what a
//! weir holds beyond its lease, since that was taken back while the weir could not be heard, is no other's: the record
//! says no less than that. Between these bounds the record stays as it is.
//!
//! So leases and what came past weir are together never fewer than what the servers have, whichever of both a
//! connection is counted in: what a weir that is gone has left at the servers counts as past weir too, if readings
//! come.

use std::time::{Duration, Instant};

use crate::fleet::lease::Holder;

/// Readings are gathered for this long before a record is changed by them, and only as far as none of them says
/// otherwise: it does not flap while clients come and go.
const PAST_STAYS: Duration = Duration::from_millis(300);

/// After so long without a reading nobody knows what came past weir, and nothing counts as such.
const PAST_KEPT: Duration = Duration::from_secs(30);

/// What readings have told one after the other.
#[derive(Debug, Clone, Copy)]
struct Told {
    least: u32,
    most: u32,
    /// By the last of them: at most so many.
    last: u32,
    /// When the first one was told, and when it and the last one began.
    since: Instant,
    began: Instant,
    last_began: Instant,
}

/// What one weir knows of the connections that came past weir under one quota.
#[derive(Debug)]
pub(super) struct Past {
    told: Option<Told>,
    /// Weirs that are heard and have not told what they had in those readings, and the leases that they had then.
    untold: Vec<(u32, Holder)>,
    /// When a reading was told last, or could not have been before.
    known_at: Instant,
    /// The term in which that was.
    term: u32,
    /// Since when this weir has its present term, where it had another one before: between the two the record may have
    /// become another one and the same again, unseen.
    term_since: Instant,
}

/// What the weirs have beside, at the moment of the question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    pub now: Instant,
    /// Since when this weir runs without a pause: while it was stopped it heard of no reading.
    pub awake_since: Instant,
    /// This weir's term.
    pub term: u32,
    /// Readings from before this say nothing of how few there are: the record has changed since, or the connections
    /// of a weir counted as that weir's until then.
    pub sure_after: Instant,
    /// The leases of weirs that are not heard, or have not told what they had.
    pub unheard: u32,
    /// What weirs hold beyond their leases.
    pub uncovered: u32,
}

impl Past {
    pub fn new(now: Instant) -> Self {
        Self { told: None, untold: Vec::new(), known_at: now, term: 0, term_since: now }
    }

    /// Readings may come from now on.
    pub fn opened(&mut self, now: Instant) {
        self.known_at = now;
    }

    /// A reading that began at `began` has shown so many connections that are neither of this weir nor of those that it
    /// hears: at least and at most, since nobody knows which of those under way it has counted. Among them is what
    /// `untold` weirs have, which it hears.
    pub fn told(&mut self, now: Instant, (least, most): (u32, u32), began: Instant, untold: Vec<(u32, Holder)>) {
        let before = self.told.filter(|told| told.last_began < began);
        if before.is_none() && self.told.is_some() {
            // It was overtaken.
            return;
        }
        self.known_at = now;
        let new = Told { least, most, last: most, since: now, began, last_began: began };
        let gathered = before.filter(|told| now.saturating_duration_since(told.since) < PAST_STAYS);
        if gathered.is_none() {
            self.untold.clear();
        }
        for (lease, holder) in untold {
            match self.untold.iter_mut().find(|(_, one)| *one == holder) {
                Some((most, _)) => *most = lease.max(*most),
                None => self.untold.push((lease, holder)),
            }
        }
        self.told = Some(gathered.map_or(new, |told| Told {
            least: told.least.min(least),
            most: told.most.max(most),
            last: most,
            last_began: began,
            ..told
        }));
    }

    /// The lease that a weir had that has not told what it had in those readings; `None`: it has.
    pub fn untold(&self, holder: &Holder) -> Option<u32> {
        self.untold.iter().find(|(_, one)| one == holder).map(|(lease, _)| *lease)
    }

    /// By the last reading, so many at most.
    pub fn last(&self) -> Option<u32> {
        self.told.map(|told| told.last)
    }

    /// Whether readings say otherwise than a record that says `recorded`, so that it may change.
    pub fn differs(&self, recorded: u32) -> bool {
        let untold = self.untold.iter().map(|(lease, _)| *lease).fold(0, u32::saturating_add);
        self.told.is_some_and(|told| !(told.least.saturating_sub(untold)..=told.most).contains(&recorded))
    }

    /// Whether readings come.
    pub fn is_known(&self, now: Instant) -> bool {
        self.told.is_some() && now.saturating_duration_since(self.known_at) < PAST_KEPT
    }

    /// What the record should say that says `recorded`.
    pub fn should_be(&mut self, recorded: u32, around: Around) -> u32 {
        let Around { now, awake_since, term, sure_after, unheard, uncovered } = around;
        let before = std::mem::replace(&mut self.term, term);
        if before != term {
            // Without a membership it may have heard of no reading.
            self.known_at = now;
            if before != 0 {
                self.term_since = now;
            }
        }
        if now.saturating_duration_since(self.known_at.max(awake_since)) >= PAST_KEPT {
            return recorded.min(uncovered);
        }
        let Some(told) = self.told.filter(|told| now.saturating_duration_since(told.since) >= PAST_STAYS) else {
            return recorded;
        };
        let at_least = told.least.saturating_sub(unheard);
        let at_most = told.most.saturating_add(uncovered);
        let is_sure = told.began > sure_after.max(self.term_since).max(awake_since);
        if recorded < at_least {
            at_least
        } else if recorded > at_most && is_sure {
            at_most
        } else {
            recorded
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_of_an_earlier_term_lowers_nothing() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let around = |now, term| Around { now, awake_since: began, term, sure_after: began, unheard: 0, uncovered: 0 };
        let mut past = Past::new(began);
        assert_eq!(past.should_be(4, around(at(1), 1)), 4);
        past.told(at(3), (2, 2), at(2), Vec::new());
        assert_eq!(past.should_be(4, around(at(9), 2)), 4, "4 may have come since");
        past.told(at(11), (2, 2), at(10), Vec::new());
        assert_eq!(past.should_be(4, around(at(12), 2)), 2);
    }

    #[test]
    fn a_record_follows_what_all_readings_of_a_while_say() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let around =
            |ms| Around { now: at(ms), awake_since: began, term: 1, sure_after: began, unheard: 0, uncovered: 0 };
        let mut past = Past::new(began);
        assert_eq!(past.should_be(0, around(10)), 0, "nothing is known");
        past.told(at(100), (20, 20), at(50), Vec::new());
        past.told(at(150), (7, 7), at(40), Vec::new());
        assert_eq!((past.should_be(0, around(399)), past.should_be(0, around(400))), (0, 20));
        // They come and go: it moves only as far as none says otherwise.
        past.told(at(1000), (20, 25), at(900), Vec::new());
        past.told(at(1200), (18, 21), at(1100), Vec::new());
        assert_eq!(past.should_be(20, around(1300)), 20);
        assert_eq!((past.should_be(17, around(1300)), past.should_be(30, around(1300))), (18, 25));
        assert_eq!(past.last(), Some(21), "whoever must not be over a limit goes by what was seen last");
        past.told(at(1290), (20, 20), at(1280), Vec::new());
        assert_eq!(past.should_be(17, around(1300)), 18, "the fewest of them");
        let sure_after = at(950);
        assert_eq!(past.should_be(30, Around { sure_after, ..around(1300) }), 30, "the reading is older");
        assert_eq!(past.should_be(17, Around { sure_after, ..around(1300) }), 18);
    }

    #[test]
    fn what_leases_cover_is_not_past_and_what_they_do_not_is_not_free() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let around = Around { now: at(500), awake_since: began, term: 1, sure_after: began, unheard: 0, uncovered: 0 };
        let mut past = Past::new(began);
        past.told(at(100), (30, 30), at(50), Vec::new());
        let should_be = |past: &mut Past, recorded| {
            [(0, 0), (10, 0), (40, 0), (0, 5)]
                .map(|(unheard, uncovered)| past.should_be(recorded, Around { unheard, uncovered, ..around }))
        };
        assert_eq!(should_be(&mut past, 0), [30, 20, 0, 30]);
        assert_eq!(should_be(&mut past, 50), [30, 30, 30, 35]);
    }

    #[test]
    fn without_readings_nothing_is_past_weir() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let around = |seconds| Around {
            now: at(seconds),
            awake_since: began,
            term: 1,
            sure_after: began,
            unheard: 0,
            uncovered: 3,
        };
        let mut past = Past::new(began);
        assert_eq!((past.should_be(20, around(1)), past.should_be(20, around(31))), (20, 3));
        past.told(at(40), (20, 20), at(40), Vec::new());
        assert_eq!((past.should_be(20, around(69)), past.should_be(20, around(70))), (20, 3));
        let stopped = Around { term: 2, ..around(200) };
        assert_eq!(past.should_be(20, stopped), 20, "it did not run");
        let woke = |at_seconds| Around { term: 2, awake_since: at(300), ..around(at_seconds) };
        assert_eq!(past.should_be(20, woke(300)), 20, "it was stopped for so long that it heard of nothing");
        assert_eq!((past.should_be(20, woke(329)), past.should_be(20, woke(330))), (20, 3));
    }
}
