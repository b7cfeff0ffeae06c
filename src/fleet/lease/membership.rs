//! Who lives, by the keys that processes write in the bucket: this one's own membership, and what is seen of others'.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    fleet::lease::{
        Answer, Holder, LeaseKey, What,
        allowance::Standing,
        record::{Entry, Membership},
    },
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

/// The most memberships of other processes that are looked at.
const MOST: usize = 1024;

/// Of one process, those that have ended are forgotten after this.
const FORGET: Duration = Duration::from_secs(600);

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
    /// end a membership leave a mark.
    pub fn is_older(&self, answer: &Answer) -> bool {
        let last = self.stored.map_or(0, |(revision, _)| revision);
        match answer {
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
                Change::InForce(sent + VALID)
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
            Answer::Responds | Answer::NoResponders => Change::None,
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

/// What is known of another process's membership. All of it are facts of the bucket; what was missed does no harm.
#[derive(Debug)]
pub(super) struct Sight {
    /// The last revision that was seen, and the one before.
    revisions: [u64; 2],
    seen_at: Instant,
    /// Of the last value; `None`: it is deleted.
    term: Option<u32>,
    bye: bool,
    told: BTreeMap<String, Vec<(u32, u32)>>,
    /// All terms up to this have ended; known since.
    ended: (u32, Instant),
    /// What a deletion expects as the last revision.
    expected: u64,
    /// A deletion is under way: when it is done, all terms up to this have ended.
    ends: Option<u32>,
    /// A record had a lease of it.
    had_lease: bool,
}

/// What is known of the term of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Lives,
    /// It has ended; known since.
    Ended(Instant),
    /// It has ended, and its process has said that it left no connection.
    Left,
}

/// What is known of the memberships of all other processes.
#[derive(Debug, Default)]
pub(super) struct Sights {
    all: BTreeMap<Holder, Sight>,
    /// Other terms have ended than when this was taken last.
    has_changed: bool,
}

impl Sights {
    /// Up to which terms memberships have ended, and for how long that has been known.
    pub fn ended(&self, now: Instant) -> Vec<(Holder, u32, Lapse)> {
        let ended = self.all.iter().filter(|(_, sight)| sight.ended.0 > 0);
        ended.map(|(holder, sight)| (holder.clone(), sight.ended.0, Lapse::since(sight.ended.1, now))).collect()
    }

    /// Another process has known that these terms have ended: that is a fact.
    pub fn have_ended(&mut self, ended: &[(Holder, u32, Lapse)], then: Instant, now: Instant) {
        for (holder, term, known_for) in ended {
            if let Some(sight) = self.of(holder, now) {
                sight.end(*term, known_for.before(then));
            }
        }
        self.has_changed = true;
    }

    /// Whether other terms have ended since [`Self::take_changed`] was called last.
    pub fn have_changed(&self) -> bool {
        self.has_changed
    }

    /// Whether other terms have ended since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Looks at a holder from now on, if there is room: processes that have ended, and had no lease, make room.
    fn of(&mut self, holder: &Holder, now: Instant) -> Option<&mut Sight> {
        if !self.all.contains_key(holder) && self.all.len() >= MOST {
            let has_ended =
                self.all.iter().filter(|(_, sight)| sight.term.is_none() && sight.ends.is_none() && !sight.had_lease);
            let oldest = has_ended.min_by_key(|(_, sight)| sight.seen_at)?.0.clone();
            self.all.remove(&oldest);
        }
        Some(self.all.entry(holder.clone()).or_insert_with(|| Sight {
            revisions: [0; 2],
            seen_at: now,
            term: Some(0),
            bye: false,
            told: BTreeMap::new(),
            ended: (0, now),
            expected: 0,
            ends: None,
            had_lease: false,
        }))
    }

    /// The bucket has, or had, this value; `None`: a marker of deletion.
    pub fn seen(&mut self, now: Instant, holder: &Holder, revision: u64, value: Option<&[u8]>) {
        // Servers before 2.11 keep the marks of all processes that ever were: those take no room from any that lives.
        if value.is_none() && self.all.len() >= MOST && !self.all.contains_key(holder) {
            return;
        }
        let Some(sight) = self.of(holder, now) else { return };
        let ended = sight.ended.0;
        sight.is_seen(now, revision, value);
        self.has_changed |= ended != sight.ended.0;
    }

    /// A lease of this holder stands in a record.
    pub fn has_lease(&mut self, now: Instant, holder: &Holder) {
        if let Some(sight) = self.of(holder, now) {
            sight.had_lease = true;
        }
    }

    /// Whether the bucket has shown that this process is or was a weir of the fleet.
    pub fn knows(&self, holder: &Holder) -> bool {
        self.all.contains_key(holder)
    }

    /// Those that live, as far as anybody can tell.
    pub fn live(&self) -> impl Iterator<Item = &Holder> {
        self.all.iter().filter(|(_, sight)| sight.revisions[0] > 0 && sight.term.is_some()).map(|(holder, _)| holder)
    }

    pub fn status(&self, holder: &Holder, entry: &Entry) -> Status {
        match self.all.get(holder) {
            Some(sight) if entry.t <= sight.ended.0 && sight.bye => Status::Left,
            Some(sight) if entry.t <= sight.ended.0 => Status::Ended(sight.ended.1),
            _ => Status::Lives,
        }
    }

    /// The next membership that is to be ended, with the revision that its deletion expects. `term_of` says up to which
    /// term a holder has leases; it is asked for those whose key is deleted.
    pub fn next_to_end(&mut self, now: Instant, term_of: impl Fn(&Holder) -> u32) -> Option<(Holder, What)> {
        let many = self.all.len();
        self.all.retain(|holder, sight| {
            let is_old = now.saturating_duration_since(sight.seen_at) > FORGET;
            sight.ends.is_some() || sight.term.is_some() || !is_old || term_of(holder) > 0
        });
        self.has_changed |= many != self.all.len();
        let is_due = |holder: &Holder, sight: &Sight| {
            let is_silent = now.saturating_duration_since(sight.seen_at) >= EXPIRE;
            // A deletion of a key that is deleted already ends, for certain, what was seen before.
            let is_known = sight.term.is_none() && term_of(holder) <= sight.ended.0;
            sight.ends.is_none() && !is_known && (is_silent || sight.bye && sight.term.is_some())
        };
        let (holder, sight) = self.all.iter_mut().find(|(holder, sight)| is_due(holder, sight))?;
        sight.ends = Some(term_of(holder).max(sight.term.unwrap_or_default()));
        Some((holder.clone(), What::Delete { expected: sight.expected }))
    }

    /// A deletion, or the reading after it, has had this answer. Returns whether the key is to be read.
    pub fn answered(&mut self, now: Instant, holder: &Holder, answer: &Answer) -> bool {
        let Some(ends) = self.all.get_mut(holder).and_then(|sight| sight.ends.take()) else { return false };
        match answer {
            Answer::Found { revision, value } => self.seen(now, holder, *revision, Some(value)),
            Answer::Stored { revision } => self.seen(now, holder, *revision, None),
            _ => {}
        }
        let Some(sight) = self.all.get_mut(holder) else { return false };
        match answer {
            // Whatever has been seen since, these terms were there before.
            Answer::Stored { .. } => {
                let ended = sight.ended.0;
                sight.end(ends, now);
                self.has_changed |= ended != sight.ended.0;
            }
            // No fact, since whoever answers may lag behind: a deletion that expects this makes it one.
            Answer::Absent { revision } | Answer::Found { revision, .. } => sight.expected = *revision,
            Answer::Refused | Answer::Unknown => {
                sight.ends = Some(ends);
                return true;
            }
            Answer::Responds | Answer::NoResponders => {}
        }
        false
    }

    /// The reading could not be done.
    pub fn not_read(&mut self, holder: &Holder) {
        if let Some(sight) = self.all.get_mut(holder) {
            sight.ends = None;
        }
    }

    /// The fewest connections that a holder had open at any time since `since`, by what it wrote after our own revision
    /// `after`; `None`: it has written nothing like that.
    pub fn told(&self, now: Instant, holder: &Holder, key: LeaseKey, since: Instant, after: u64) -> Option<u32> {
        let sight = self.all.get(holder)?;
        let told = sight.told.get(&key.to_string())?;
        // A value is made before it is stored: the second one after ours was made after ours.
        let is_later = sight.revisions[1] > after;
        // Its clock may run slower, and ours faster.
        let needed = now.saturating_duration_since(since).mul_f64(1.5).as_millis();
        let far_enough = told.iter().filter(|(_, milliseconds)| u128::from(*milliseconds) >= needed);
        far_enough.map(|(least, _)| *least).max().filter(|_| is_later)
    }

    /// The bucket is another one.
    pub fn forget_bucket(&mut self) {
        self.all.clear();
        self.has_changed = true;
    }
}

impl Sight {
    /// A value was seen, or a marker of deletion.
    fn is_seen(&mut self, now: Instant, revision: u64, value: Option<&[u8]>) {
        if revision <= self.revisions[0] {
            return;
        }
        self.revisions = [revision, self.revisions[0]];
        (self.seen_at, self.expected) = (now, revision);
        let Some(value) = value else { return self.end_known(now) };
        // One of a later version lives all the same.
        let Ok(Membership { t, bye, o, .. }) = Membership::decode(value) else { return };
        let before = t.saturating_sub(1);
        if before > self.ended.0 {
            self.ended = (before, now);
        }
        (self.term, self.bye, self.told) = (Some(t), bye, o);
    }

    /// The key was deleted: the last term that was seen there has ended.
    fn end_known(&mut self, now: Instant) {
        if let Some(term) = self.term.take() {
            self.end(term, now);
        }
    }

    fn end(&mut self, term: u32, now: Instant) {
        if term > self.ended.0 {
            self.ended = (term, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::lease::{Place, book::LeaseBook, ledger::Ledger, surroundings::Settings};

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
    fn a_membership_is_ended_when_nothing_of_it_was_seen_for_long_enough_and_not_before() {
        let began = Instant::now();
        let holder = Holder::parse("w.0000000000000002").unwrap();
        let mut sights = Sights::default();
        sights.seen(began, &holder, 7, Some(&Membership::new(1).encode()));
        let mut to_end = |milliseconds: u64| sights.next_to_end(began + Duration::from_millis(milliseconds), |_| 1);
        assert_eq!(to_end(3999), None);
        assert_eq!(to_end(4000), Some((holder, What::Delete { expected: 7 })));
        assert_eq!(to_end(9000), None, "it is under way");
    }

    #[test]
    fn processes_that_have_ended_take_no_room_from_those_that_live() {
        let (now, mut sights) = (Instant::now(), Sights::default());
        let holder = |run: u32| Holder::parse(&format!("w.{run:016x}")).unwrap();
        for run in 0..2 * MOST as u32 {
            sights.seen(now, &holder(run), u64::from(run) + 1, None);
        }
        let living = holder(1_000_000);
        sights.seen(now, &living, 10_000, Some(&Membership::new(1).encode()));
        assert!(sights.knows(&living) && sights.live().eq([&living]) && sights.all.len() == MOST);
        // Those that live make room for nobody.
        for run in 0..2 * MOST as u32 {
            sights.seen(now, &holder(2_000_000 + run), 20_000, Some(&Membership::new(1).encode()));
        }
        assert!(sights.knows(&living) && sights.all.len() == MOST && sights.live().count() == MOST);
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
