//! This process's own membership: the key in the bucket by which the others see that it lives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    fleet::lease::{Answer, MARK_STAYS, What, allowance::Standing, record::Membership},
    lapse::Lapse,
};

/// How often a membership is written, give or take a fifth.
pub const EVERY: Duration = Duration::from_millis(400);

/// How long after the sending of the last acknowledged write of the membership this weir's leases are in force.
pub const VALID: Duration = Duration::from_millis(2500);

/// A membership of which no new revision has been seen for this long is ended. With clocks that run 20 % apart it is
/// longer than [`VALID`]: 4 s / 1.2 > 2.5 s / 0.8.
pub const EXPIRE: Duration = Duration::from_secs(4);

/// So long without a look at the clock is a pause: the process, or its machine, was stopped.
const PAUSE: Duration = Duration::from_millis(1000);

/// Who cannot write its membership for so long, without a pause, cannot reach the bucket and goes by its floors.
const IN_VAIN: Duration = Duration::from_millis(1000);

/// A process that had this membership for a few seconds has had fewer terms.
const TERMS_OF_OTHER: u32 = 1000;

/// This process's own membership.
#[derive(Debug)]
pub(super) struct OwnMembership {
    standing: Arc<Standing>,
    /// The last term that was tried.
    term: u32,
    /// The revision that the next write expects; `None`: it has to be read.
    revision: Option<u64>,
    is_member: bool,
    /// Whether it ever was.
    was_member: bool,
    next_at: Instant,
    /// Since when writes are tried without a pause, and without an answer that one is stored.
    trying_since: Instant,
    last_look: Instant,
    /// When it was found to run again after a pause; else since when it is there.
    awake_since: Instant,
    /// When the machine was found to run again after it was suspended last: the clock stood still meanwhile.
    woke_at: Option<Instant>,
    /// The revision and the sending time of the last acknowledged write.
    stored: Option<(u64, Instant)>,
}

/// The own membership, as another process goes on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnState {
    term: u32,
    revision: Option<u64>,
    is_member: bool,
    was_member: bool,
    next_in: Lapse,
    /// `None`: the time has not come.
    tried_for: Option<Lapse>,
    awake_for: Lapse,
    stored: Option<(u64, Lapse)>,
}

/// What an answer about the own membership has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The term has ended: its leases are not this weir's any more.
    Ended,
    /// It is in force until then, once what it had before has been put away.
    InForce(Instant),
}

impl OwnMembership {
    pub fn new(standing: Arc<Standing>, now: Instant) -> Self {
        Self {
            standing,
            term: 0,
            revision: Some(0),
            is_member: false,
            was_member: false,
            next_at: now,
            trying_since: now,
            last_look: now,
            awake_since: now,
            woke_at: None,
            stored: None,
        }
    }

    /// To be called several times a second: floors are in force only while this is.
    pub fn look(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_look) > PAUSE {
            // It may have been stopped for so long that others have its floors too: first it is to try a while.
            self.trying_since = now + PAUSE;
            self.awake_since = now;
        }
        self.last_look = now;
        let in_vain = now.saturating_duration_since(self.trying_since) >= IN_VAIN;
        self.standing.floors_until(in_vain.then(|| now + PAUSE));
    }

    /// The machine was suspended, and the clock stood still with it: others may have ended this membership long ago.
    /// What is sent from now on says more.
    pub fn was_suspended(&mut self, now: Instant) {
        self.standing.end();
        (self.woke_at, self.awake_since) = (Some(now), now);
        self.trying_since = now + PAUSE;
        self.next_at = self.next_at.min(now);
    }

    /// Since when it runs without a pause.
    pub fn awake_since(&self) -> Instant {
        self.awake_since
    }

    /// The term in force; `None`: none is.
    pub fn term(&self) -> Option<u32> {
        self.is_member.then_some(self.term)
    }

    /// The last term that was tried.
    pub fn last_term(&self) -> u32 {
        self.term
    }

    /// Another process of this holder has tried the terms up to this one.
    pub fn have_tried(&mut self, term: u32) {
        self.term = self.term.max(term);
    }

    pub fn was_member(&self) -> bool {
        self.was_member
    }

    /// The revision of its last write that was acknowledged, and when that was sent.
    pub fn stored(&self) -> Option<(u64, Instant)> {
        self.stored
    }

    /// What is to be done, while nothing is under way.
    pub fn next(&mut self, now: Instant, rng: &mut fastrand::Rng, tell: impl FnOnce(&mut Membership)) -> Option<What> {
        if now < self.next_at {
            return None;
        }
        let Some(expected) = self.revision else { return Some(What::Read) };
        if !self.is_member {
            // A term is never tried twice: an attempt without an answer may have been stored, and ended by others.
            self.term += 1;
        }
        let mut value = Membership::new(self.term);
        tell(&mut value);
        self.next_at = now + EVERY.mul_f64(0.8 + 0.4 * rng.f64());
        Some(What::Write { value: value.encode(), expected })
    }

    /// Whether this answer shows that the bucket is not the one that had the last write, or has lost it. Others that
    /// end a membership leave a mark, for some time: that no trace is left shows nothing after that.
    pub fn is_older(&self, now: Instant, answer: &Answer) -> bool {
        let Some((last, sent)) = self.stored else { return false };
        match answer {
            Answer::Absent { revision: 0 } => now.saturating_duration_since(sent) < MARK_STAYS / 2,
            Answer::Found { revision, .. } | Answer::Absent { revision } => *revision < last,
            _ => false,
        }
    }

    /// Something that was begun at `sent` has had this answer.
    pub fn answered(&mut self, sent: Instant, now: Instant, answer: &Answer) -> Change {
        match answer {
            Answer::Stored { revision } => {
                self.revision = Some(*revision);
                (self.is_member, self.was_member) = (true, true);
                self.stored = Some((*revision, sent));
                self.trying_since = now;
                // How long ago it was sent nobody knows if the machine was suspended since.
                match self.woke_at.is_some_and(|woke| sent < woke) {
                    true => Change::None,
                    false => Change::InForce(sent + VALID),
                }
            }
            Answer::Refused | Answer::Unknown => {
                self.revision = None;
                // A write without an answer has waited long; one that was refused is tried again at once.
                self.next_at = self.next_at.min(now);
                Change::None
            }
            Answer::Found { revision, value } => {
                self.revision = Some(*revision);
                self.next_at = now;
                // Nobody else writes there.
                let is_own = Membership::decode(value).is_ok_and(|found| found.t == self.term);
                if is_own && self.was_member { Change::None } else { self.ended() }
            }
            Answer::Absent { revision } => {
                self.revision = Some(*revision);
                self.next_at = now;
                self.ended()
            }
            Answer::Responds | Answer::Silent | Answer::NoResponders => Change::None,
        }
    }

    fn ended(&mut self) -> Change {
        match std::mem::take(&mut self.is_member) {
            true => Change::Ended,
            false => Change::None,
        }
    }

    pub fn state(&self, now: Instant) -> OwnState {
        OwnState {
            term: self.term,
            revision: self.revision,
            is_member: self.is_member,
            was_member: self.was_member,
            next_in: Lapse::until(self.next_at, now),
            tried_for: (self.trying_since <= now).then(|| Lapse::since(self.trying_since, now)),
            awake_for: Lapse::since(self.awake_since, now),
            stored: self.stored.map(|(revision, sent)| (revision, Lapse::since(sent, now))),
        }
    }

    /// Goes on with the membership of another process, as it was `then`.
    pub fn adopt(&mut self, state: &OwnState, then: Instant, now: Instant) -> Change {
        (self.term, self.revision) = (state.term, state.revision);
        (self.is_member, self.was_member) = (state.is_member, state.was_member);
        self.next_at = state.next_in.after(then);
        // One that has been stopped for long is to try a while first, as after any pause.
        self.trying_since = state.tried_for.map_or(then + PAUSE, |tried| tried.before(then));
        (self.last_look, self.awake_since) = (then, state.awake_for.before(then));
        self.stored = state.stored.map(|(revision, sent)| (revision, sent.before(then)));
        self.look(now);
        match self.stored.filter(|_| self.is_member) {
            Some((_, sent)) => Change::InForce(sent + VALID),
            None => Change::None,
        }
    }

    /// Another process, which is gone, may have written it meanwhile, and may have had a few later terms that others
    /// have ended.
    pub fn take_back(&mut self, now: Instant) -> Change {
        (self.revision, self.next_at) = (None, now);
        self.term = self.term.saturating_add(TERMS_OF_OTHER);
        (self.last_look, self.trying_since) = (now, now);
        self.ended()
    }

    /// The bucket is another one.
    pub fn forget_bucket(&mut self, now: Instant) -> Change {
        (self.revision, self.next_at, self.stored) = (Some(0), now, None);
        self.ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::lease::{Holder, Place, book::LeaseBook, ledger::Ledger, surroundings::Settings};

    #[test]
    fn leases_are_in_force_from_the_sending_of_a_write_on_and_expire_later_on_any_clock() {
        let sent = Instant::now();
        let mut own = OwnMembership::new(Standing::new(sent), sent);
        let change = own.answered(sent, sent + Duration::from_millis(1900), &Answer::Stored { revision: 7 });
        assert_eq!(change, Change::InForce(sent + VALID), "others have seen it since then, not since the answer");
        // Clocks run 20 % apart.
        assert!(EXPIRE.div_f64(1.2) > VALID.div_f64(0.8));
    }

    #[test]
    fn after_a_suspension_leases_are_in_force_once_a_write_is_stored_that_was_sent_after_it() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let standing = Standing::new(began);
        let mut own = OwnMembership::new(Arc::clone(&standing), began);
        let (stored, mut rng) = (Answer::Stored { revision: 7 }, fastrand::Rng::with_seed(1));
        assert_eq!(own.answered(began, at(10), &stored), Change::InForce(began + VALID));
        standing.valid_until(began + VALID);
        own.next(at(10), &mut rng, |_| {});
        own.was_suspended(at(30));
        assert!(!standing.is_valid(at(30)) && !standing.is_by_floors(at(30)));
        assert!(own.next(at(30), &mut rng, |_| {}).is_some(), "it is written at once");
        assert_eq!(own.answered(at(20), at(40), &stored), Change::None, "it was sent before");
        assert_eq!(own.answered(at(30), at(50), &stored), Change::InForce(at(30) + VALID));
    }

    #[test]
    fn that_no_trace_of_a_membership_is_left_shows_a_loss_only_while_there_would_be_a_mark() {
        let began = Instant::now();
        let mut own = OwnMembership::new(Standing::new(began), began);
        let absent = |revision| Answer::Absent { revision };
        assert!(!own.is_older(began, &absent(0)), "nothing was stored");
        own.answered(began, began, &Answer::Stored { revision: 7 });
        let later = |seconds| began + Duration::from_secs(seconds);
        assert!(own.is_older(later(60), &absent(0)) && own.is_older(later(86_400), &absent(6)));
        assert!(!own.is_older(later(60), &absent(8)), "others have ended it");
        assert!(!own.is_older(later(3700), &absent(0)), "they have, and the mark of that is gone");
    }

    #[test]
    fn floors_are_in_force_only_after_a_while_in_vain_and_after_a_pause_later_still() {
        let began = Instant::now();
        let standing = Standing::new(began);
        let mut own = OwnMembership::new(Arc::clone(&standing), began);
        let mut look = |milliseconds: u64| {
            let now = began + Duration::from_millis(milliseconds);
            own.look(now);
            standing.is_by_floors(now)
        };
        assert_eq!([0, 500, 999, 1000].map(&mut look), [false, false, false, true]);
        assert_eq!([3000, 3900, 4900, 5000].map(&mut look), [false, false, false, true], "others may have its floors");
    }

    #[test]
    fn leases_of_a_term_that_has_ended_are_not_in_force() {
        let now = Instant::now();
        let keys = crate::fleet::key::Keys::of_fleet("edge");
        let book = LeaseBook::new(keys, Standing::new(now));
        let me = Holder::parse("w.0000000000000001").unwrap();
        let mut ledger = Ledger::new(me, Arc::clone(&book), Settings::default(), now, fastrand::Rng::with_seed(1));
        let allowance = book.allowance(crate::fleet::key::Kind::Account, "A", Some(10));
        let (mut now, mut revision) = (now, 0);
        let mut look = |ledger: &mut Ledger, is_ended: bool| {
            now += Duration::from_millis(600);
            for one in ledger.next(now) {
                revision += 1;
                let answer = match (&one.place, &one.what) {
                    (Place::Member(_), What::Write { .. }) if is_ended => Answer::Refused,
                    (_, What::Read) => Answer::Absent { revision },
                    _ => Answer::Stored { revision },
                };
                ledger.answered(now, one.serial, &answer);
            }
            (book.standing().is_valid(now), allowance.lease())
        };
        for _ in 0..5 {
            look(&mut ledger, false);
        }
        assert_eq!(look(&mut ledger, false), (true, 10));
        // Its write is refused, and the key is found to be deleted: others have ended the term.
        assert_eq!(look(&mut ledger, true), (true, 10), "nothing is known yet");
        assert_eq!(look(&mut ledger, true), (false, 0), "it is known, long before the leases would run out");
    }
}
