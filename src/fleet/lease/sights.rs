//! Which other processes live, by what is seen of their memberships in the bucket.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    fleet::{
        beat_key::BeatKey,
        lease::{
            Answer, Holder, LeaseKey, What,
            membership::EXPIRE,
            record::{Entry, Membership},
        },
    },
    lapse::Lapse,
};

/// The most memberships of other processes that are looked at.
const MOST: usize = 1024;

/// Of one process, those that have ended are forgotten after this.
const FORGET: Duration = Duration::from_secs(600);
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
    /// What its beats are signed with, also after the value is deleted.
    key: Option<BeatKey>,
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

    /// What processes sign their beats with.
    pub fn keys(&self) -> Vec<(Holder, BeatKey)> {
        self.all.iter().filter_map(|(holder, sight)| Some((holder.clone(), sight.key?))).collect()
    }

    /// Another process has seen these keys. What this one has seen itself is no older.
    pub fn have_keys(&mut self, keys: &[(Holder, BeatKey)], now: Instant) {
        for (holder, key) in keys {
            if let Some(sight) = self.of(holder, now).filter(|sight| sight.revisions[0] == 0) {
                sight.key = Some(*key);
            }
        }
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
            key: None,
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

    /// Whether the bucket has shown that this process is a weir of the fleet, or was one whose beats can be told from
    /// others': a mark that there was one is no proof of who speaks.
    pub fn knows(&self, holder: &Holder) -> bool {
        self.all.get(holder).is_some_and(|sight| sight.lives() || sight.key.is_some())
    }

    /// What the beats of this process are signed with, as its membership has shown.
    pub fn key(&self, holder: &Holder) -> Option<BeatKey> {
        self.all.get(holder)?.key
    }

    /// Those that live, as far as anybody can tell.
    pub fn live(&self) -> impl Iterator<Item = &Holder> {
        self.all.iter().filter(|(_, sight)| sight.lives()).map(|(holder, _)| holder)
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
            Answer::Responds | Answer::Silent | Answer::NoResponders => {}
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
    /// Whether a value was seen, and not that it is deleted.
    fn lives(&self) -> bool {
        self.revisions[0] > 0 && self.term.is_some()
    }

    /// A value was seen, or a marker of deletion.
    fn is_seen(&mut self, now: Instant, revision: u64, value: Option<&[u8]>) {
        if revision <= self.revisions[0] {
            return;
        }
        self.revisions = [revision, self.revisions[0]];
        (self.seen_at, self.expected) = (now, revision);
        let Some(value) = value else { return self.end_known(now) };
        // One of a later version lives all the same.
        let Ok(Membership { t, bye, o, k, .. }) = Membership::decode(value) else { return };
        let before = t.saturating_sub(1);
        if before > self.ended.0 {
            self.ended = (before, now);
        }
        (self.term, self.bye, self.told, self.key) = (Some(t), bye, o, k);
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
    use crate::fleet::beat_key::BeatSigner;

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
    fn a_process_that_has_ended_is_known_by_its_key_only() {
        let (now, mut sights) = (Instant::now(), Sights::default());
        let holder = |run: u32| Holder::parse(&format!("w.{run:016x}")).unwrap();
        let key = BeatSigner::generate().key();
        let (mut signs, plain) = (Membership::new(1), Membership::new(1));
        signs.k = Some(key);
        sights.seen(now, &holder(1), 1, Some(&signs.encode()));
        sights.seen(now, &holder(2), 2, Some(&plain.encode()));
        let known = |sights: &Sights| [1, 2, 3, 4].map(|run| (sights.knows(&holder(run)), sights.key(&holder(run))));
        assert_eq!(known(&sights), [(true, Some(key)), (true, None), (false, None), (false, None)]);
        // Both end; of the third one nothing is seen but that it has ended, and of the fourth one but a lease.
        (1..4).for_each(|run| sights.seen(now, &holder(run), 10 + u64::from(run), None));
        sights.has_lease(now, &holder(4));
        assert_eq!(known(&sights), [(true, Some(key)), (false, None), (false, None), (false, None)]);
    }

    #[test]
    fn a_key_that_the_process_before_has_seen_is_known_until_the_membership_is_seen() {
        let (now, holder) = (Instant::now(), Holder::parse("w.0000000000000001").unwrap());
        let (mut before, mut sights) = (Sights::default(), Sights::default());
        let mut signs = Membership::new(1);
        signs.k = Some(BeatSigner::generate().key());
        before.seen(now, &holder, 1, Some(&signs.encode()));
        sights.have_keys(&before.keys(), now);
        assert!(sights.knows(&holder) && sights.key(&holder) == signs.k && sights.live().count() == 0);
        // It has begun to sign with another one, or with none, meanwhile.
        sights.seen(now, &holder, 2, Some(&Membership::new(1).encode()));
        sights.have_keys(&before.keys(), now);
        assert!(sights.knows(&holder) && sights.key(&holder).is_none());
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
}
