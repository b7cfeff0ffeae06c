//! All leases of this weir: what is to be done in the bucket, and what the answers mean.
//!
//! One task has the ledger. It calls [`Ledger::next`] every [`LOOK_EVERY`] and whenever
//! [`Standing::on_need`](super::allowance::Standing::on_need) says so (not more often than every 5 ms), does what that
//! returns, all at the same time, and tells each answer by [`Ledger::answered`]. What is watched in the bucket goes to
//! [`Ledger::seen`].
//!
//! A look is for the quotas to which something has happened, and a few more; see [`due`]. It is for all of them when a
//! term begins or ends, other weirs live, leases begin or end to be in force, or this weir leaves.

mod beats;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod counts;
mod due;
mod looks;
mod recovery;
mod remains;
mod shown;
mod split;
mod takeover;

pub use self::takeover::LedgerState;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::fleet::{
    addresses::Addresses,
    beat_key::BeatKey,
    key as of,
    lease::{
        Answer, Holder, LeaseKey, Operation, Place, What,
        allowance::Standing,
        book::LeaseBook,
        ledger::{
            due::{Due, Quotas, Terms},
            recovery::Recovery,
            split::{AfterSplit, Split},
        },
        membership::{Change, OwnMembership},
        quota::{Moment, SharedQuota},
        reclaim::{Connections, Reading, SETTLE_OF_SERVERS},
        record::{Entry, InvalidValue, MOST_TOLD, Membership, Record},
        sights::{Sights, Status},
        surroundings::{Settings, Surroundings},
    },
};

/// How often to call [`Ledger::next`] at least.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An operation without an answer for so long has none.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The most operations under way at once.
const MOST_UNDER_WAY: usize = 256;

/// The most quotas that are known.
const MOST_QUOTAS: usize = 500_000;

/// After this a reading is used although not everybody has told what it had open.
const NOT_TOLD: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct UnderWay {
    place: Place,
    sent: Instant,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    Ask,
}

/// How far this weir is with leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    No,
    /// It hands back what it does not hold.
    HandsBack,
    /// Everything is handed back, and its next write says so.
    SaysBye,
    /// That is stored.
    Left,
}

/// All leases of this weir.
#[derive(Debug)]
pub struct Ledger {
    me: Holder,
    book: Arc<LeaseBook>,
    standing: Arc<Standing>,
    settings: Settings,
    surroundings: Surroundings,
    own: OwnMembership,
    own_under_way: bool,
    /// What is under way says that it has left.
    says_bye: bool,
    leaves: Leaves,
    /// Another process goes on as this holder.
    is_given: bool,
    sights: Sights,
    /// Memberships that are to be read, since they were not as expected.
    to_read: Vec<Holder>,
    connections: Connections,
    /// When each other weir has told last what it holds.
    heard: HashMap<Holder, Instant>,
    /// When one of them was found to be silent.
    silent_since: Option<Instant>,
    quotas: Quotas,
    due: Due,
    terms: Terms,
    /// The quotas in which ended terms have leases.
    ended: BTreeSet<LeaseKey>,
    /// Those whose connections are sampled since.
    sampled: BTreeSet<LeaseKey>,
    /// Those that lived at the last look, in their order.
    live: Vec<Holder>,
    /// The term in whose name the last look could write leases.
    wrote_in: Option<u32>,
    /// By what the last look split.
    split_by: Option<Split>,
    after_split: AfterSplit,
    /// When some weir had leases, or may have had.
    leases_seen_at: Instant,
    under_way: BTreeMap<u64, UnderWay>,
    serial: u64,
    rng: fastrand::Rng,
    invalid: Vec<(LeaseKey, InvalidValue)>,
    /// The highest revision that was seen.
    newest: u64,
    /// The bucket has shown an older revision than it had before.
    has_gone_back: bool,
    recovery: Option<Recovery>,
    /// Whether leases may not rise, at the last look.
    is_recovering: bool,
    /// Those at which clients reach this weir, for the other weirs.
    addresses: Arc<Addresses>,
    /// What the beats of this process are signed with.
    key: Option<BeatKey>,
}

impl Ledger {
    /// The ledger of the process `me`, for the allowances of `book`.
    pub fn new(me: Holder, book: Arc<LeaseBook>, settings: Settings, now: Instant, rng: fastrand::Rng) -> Self {
        let standing = Arc::clone(book.standing());
        let own = OwnMembership::new(Arc::clone(&standing), now);
        Self {
            me,
            book,
            standing,
            settings,
            surroundings: Surroundings::default(),
            own,
            own_under_way: false,
            says_bye: false,
            leaves: Leaves::No,
            is_given: false,
            to_read: Vec::new(),
            sights: Sights::default(),
            connections: Connections::default(),
            heard: HashMap::new(),
            silent_since: None,
            quotas: Quotas::new(),
            due: Due::new(now),
            terms: Terms::default(),
            ended: BTreeSet::new(),
            sampled: BTreeSet::new(),
            live: Vec::new(),
            wrote_in: None,
            split_by: None,
            after_split: AfterSplit::Over,
            leases_seen_at: now,
            under_way: BTreeMap::new(),
            serial: 0,
            rng,
            invalid: Vec::new(),
            newest: 0,
            has_gone_back: false,
            recovery: None,
            is_recovering: false,
            addresses: Arc::default(),
            key: None,
        }
    }

    /// Who this process is.
    pub fn me(&self) -> &Holder {
        &self.me
    }

    /// The configuration or the servers have other settings by now.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The addresses at which the other weirs have their clients find this one, from the next write of the membership
    /// on.
    pub fn advertise(&mut self, addresses: Arc<Addresses>) {
        self.addresses = addresses;
    }

    /// The beats of this process are signed with this key, as its membership shows from its next write on.
    pub fn shows_key(&mut self, key: BeatKey) {
        self.key = Some(key);
    }

    /// To be called when any of it has changed.
    pub fn surroundings(&mut self, surroundings: Surroundings) {
        self.surroundings = surroundings;
    }

    /// The servers have been read, all of them: they had so many connections under a quota at some time since `began`.
    pub fn counted(&mut self, now: Instant, key: LeaseKey, began: Instant, connections: u32) {
        let settle = self.settle(key);
        let Some(quota) = self.quotas.get_mut(&key) else { return };
        let is_open = quota.reading.is_some_and(|reading| now.saturating_duration_since(reading.ended) < NOT_TOLD);
        let is_settled = quota.record.l.iter().any(|(holder, entry)| match self.sights.status(holder, entry) {
            Status::Ended(since) => began >= since + settle,
            Status::Lives | Status::Left => false,
        });
        if !is_open && is_settled {
            quota.reading = Some(Reading { began, ended: now, connections, after: None });
        }
    }

    /// The servers have so many connections under a quota that are neither of this weir nor of those that it
    /// [hears](Self::heard), by a reading that `began` then. To be called when it is known what those had meanwhile.
    pub fn beyond_live(&mut self, now: Instant, key: LeaseKey, many: u32, began: Instant) {
        self.beyond_live_within(now, key, (many, many), began, Vec::new());
    }

    /// The same, where it is known that they are at least and at most so many, and that `untold` have not told what
    /// they had under this quota: what they had is among them.
    pub fn beyond_live_within(
        &mut self,
        now: Instant,
        key: LeaseKey,
        many: (u32, u32),
        began: Instant,
        untold: Vec<Holder>,
    ) {
        let Some(quota) = self.quotas.get_mut(&key) else { return };
        quota.beyond_live(now, many, began, untold);
        if quota.differs_past() || quota.is_of_server() {
            self.due.mark(key, quota);
        }
    }

    /// The quotas in which ended terms have leases: the servers are to be read for them, again and again.
    pub fn to_count(&self) -> Vec<LeaseKey> {
        if !self.sights.have_changed() {
            return self.ended.iter().copied().collect();
        }
        // The next look has not found them yet.
        let with_ended = self.quotas.iter().filter(|(_, quota)| self.ended_in(quota).next().is_some());
        with_ended.map(|(key, _)| *key).collect()
    }

    /// The quotas whose values in the bucket are not used, and why; each is told once.
    pub fn take_invalid(&mut self) -> Vec<(LeaseKey, InvalidValue)> {
        std::mem::take(&mut self.invalid)
    }

    /// How long after the end of a term the servers are read.
    fn settle(&self, key: LeaseKey) -> Duration {
        match key.kind {
            of::Kind::Server => SETTLE_OF_SERVERS.min(self.settings.settle),
            _ => self.settings.settle,
        }
    }

    fn is_ended(&self, holder: &Holder, entry: &Entry) -> bool {
        *holder != self.me && self.sights.status(holder, entry) != Status::Lives
    }

    fn ended_in<'a>(&'a self, quota: &'a SharedQuota) -> impl Iterator<Item = (&'a Holder, &'a Entry)> {
        quota.record.l.iter().filter(|(holder, entry)| self.is_ended(holder, entry))
    }

    /// The bucket has, or had, this value: from a watch, in any order. `None` is a marker of deletion.
    pub fn seen(&mut self, now: Instant, place: &Place, revision: u64, value: Option<&[u8]>) {
        self.newest = self.newest.max(revision);
        match place {
            Place::Member(holder) if *holder == self.me => {}
            Place::Member(holder) => self.sights.seen(now, holder, revision, value),
            Place::Leases(key) => {
                if self.quotas.len() >= MOST_QUOTAS && !self.quotas.contains_key(key) {
                    return;
                }
                let quota = self.quotas.entry(*key).or_insert_with(|| SharedQuota::new(now));
                if let Some(invalid) = quota.seen(now, &self.me, revision, value) {
                    self.invalid.push((*key, invalid));
                }
                for holder in quota.record.l.keys().filter(|holder| **holder != self.me) {
                    self.sights.has_lease(now, holder);
                }
                self.has_changed(*key);
            }
        }
    }

    /// This weir leaves: what it does not hold is handed back from now on, and so is the rest as its sessions end.
    pub fn leave(&mut self) {
        if self.leaves == Leaves::No {
            self.leaves = Leaves::HandsBack;
        }
    }

    /// Whether nothing of this weir is left in the bucket. To be waited for before the process ends.
    pub fn has_left(&self) -> bool {
        self.leaves == Leaves::Left
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Instant) -> Vec<Operation> {
        let late: Vec<_> = self
            .under_way
            .iter()
            .filter(|(_, one)| now.saturating_duration_since(one.sent) >= ANSWER_WITHIN)
            .map(|(serial, _)| *serial)
            .collect();
        late.into_iter().for_each(|serial| self.answered(now, serial, &Answer::Unknown));
        if self.is_given {
            return Vec::new();
        }
        self.open_quotas(now);
        self.look_for_leases(now);
        let to_look_at = self.due_now(now);
        self.look_after_split(now);
        self.close_quotas(&to_look_at);
        self.split(now, &to_look_at);
        self.own.look(now);
        let mut operations = Vec::new();
        if self.settings.is_split_only || self.leaves == Leaves::Left {
            return operations;
        }
        if self.leaves == Leaves::HandsBack {
            let is_left = |quota: &SharedQuota| {
                !quota.is_busy()
                    && !quota.record.l.contains_key(&self.me)
                    && quota.allowance.as_ref().is_none_or(|allowance| allowance.usage().held == 0)
            };
            if self.quotas.values().all(is_left) {
                self.leaves = Leaves::SaysBye;
            }
        }
        if !self.own_under_way {
            let bye = self.leaves == Leaves::SaysBye;
            let sampled = self.sampled.iter().filter_map(|key| Some((*key, self.quotas.get(key)?.samples.as_ref()?)));
            let (addresses, key) = (&self.addresses, self.key);
            let tell = |membership: &mut Membership| {
                (membership.a, membership.k) = (Addresses::clone(addresses), key);
                membership.bye = bye;
                sampled.take(MOST_TOLD).for_each(|(key, samples)| membership.tell(key, samples.least()));
            };
            if let Some(what) = self.own.next(now, &mut self.rng, tell) {
                self.own_under_way = true;
                self.says_bye = bye && what != What::Read;
                self.begin(now, Place::Member(self.me.clone()), what, &mut operations);
            }
        }
        let Some(term) = self.writes_in(now) else { return operations };
        for holder in std::mem::take(&mut self.to_read) {
            self.begin(now, Place::Member(holder), What::Read, &mut operations);
        }
        self.end_silent(now, &mut operations);
        self.ask(now, &mut operations);
        self.write_leases(now, term, to_look_at, &mut operations);
        operations
    }

    fn begin(&mut self, now: Instant, place: Place, what: What, operations: &mut Vec<Operation>) {
        self.serial += 1;
        let kind = match what {
            What::Write { .. } | What::Delete { .. } => Kind::Write,
            What::Read => Kind::Read,
            What::Ask => Kind::Ask,
        };
        self.under_way.insert(self.serial, UnderWay { place: place.clone(), sent: now, kind });
        operations.push(Operation { serial: self.serial, place, what });
    }

    fn end_silent(&mut self, now: Instant, operations: &mut Vec<Operation>) {
        let mut to_end = Vec::new();
        while let Some(one) = self.sights.next_to_end(now, |holder| self.terms.of(holder)) {
            to_end.push(one);
        }
        for (holder, what) in to_end {
            self.begin(now, Place::Member(holder), what, operations);
        }
    }

    fn ask(&mut self, now: Instant, operations: &mut Vec<Operation>) {
        let with_ended = self.ended.iter().filter_map(|key| self.quotas.get(key));
        let ended: BTreeSet<Holder> =
            with_ended.flat_map(|quota| self.ended_in(quota)).map(|(holder, _)| holder.clone()).collect();
        self.connections.keep(|holder| ended.contains(holder));
        for holder in ended {
            if self.connections.is_due(now, &holder) {
                self.begin(now, Place::Member(holder), What::Ask, operations);
            }
        }
    }

    fn write_leases(
        &mut self,
        now: Instant,
        term: u32,
        to_look_at: VecDeque<LeaseKey>,
        operations: &mut Vec<Operation>,
    ) {
        let (live, is_after_split) = (1 + self.live.len() as u32, self.is_after_split());
        let is_first = self.live.first().is_none_or(|first| self.me < *first);
        let mut room = MOST_UNDER_WAY.saturating_sub(self.under_way.len());
        let mut quotas = std::mem::take(&mut self.quotas);
        let mut writes = Vec::new();
        let stored = self.own.stored();
        for key in &to_look_at {
            let Some(quota) = quotas.get_mut(key) else { continue };
            let has_ended = quota.has_ended;
            match (has_ended, &quota.allowance) {
                (true, Some(allowance)) => {
                    quota.samples.get_or_insert_default().note(now, allowance.usage());
                    self.sampled.insert(*key);
                }
                _ => {
                    if quota.samples.take().is_some() {
                        self.sampled.remove(key);
                    }
                }
            }
            if let (Some(reading), Some((revision, sent))) = (&mut quota.reading, stored)
                && reading.after.is_none()
                && sent >= reading.ended
            {
                reading.after = Some(revision);
            }
            if room == 0 {
                self.due.mark(*key, quota);
                continue;
            }
            let is_leaving = self.leaves != Leaves::No;
            let (me, heard, silent_since) = (&self.me, &self.heard, self.silent_since);
            let absent = match key.kind {
                of::Kind::Server => {
                    self.live.iter().filter(|other| !quota.record.l.contains_key(*other)).count() as u32
                }
                _ => 0,
            };
            let awake_since = self.own.awake_since();
            let was_lost = self.is_recovering;
            let moment = Moment {
                now,
                awake_since,
                me,
                heard,
                term,
                live,
                absent,
                is_first,
                silent_since,
                is_leaving,
                was_lost,
                is_after_split,
            };
            let is_ended = |holder: &Holder, entry: &Entry| has_ended && self.is_ended(holder, entry);
            let is_read = Cell::new(false);
            let reclaim = |quota: &SharedQuota, record: &mut Record| {
                let counted = self.left_of(now, *key, quota);
                is_read.set(counted.is_some());
                self.reclaim(now, *key, quota, counted, record)
            };
            if let Some(what) = quota.next(&moment, is_ended, reclaim) {
                writes.push((*key, what));
                room -= 1;
            }
            if is_read.get() {
                // The next reading is of a later moment.
                quota.reading = None;
            }
            if quota.is_unsettled(&self.me, term) {
                self.due.mark(*key, quota);
            }
        }
        self.quotas = quotas;
        for (key, what) in writes {
            self.begin(now, Place::Leases(key), what, operations);
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Ended => {
                self.standing.end();
                self.quotas.values_mut().for_each(SharedQuota::term_ended);
            }
            Change::InForce(until) => self.standing.valid_until(until),
        }
    }

    /// The machine was suspended, and with it the clock by which `now` is told.
    pub fn was_suspended(&mut self, now: Instant) {
        self.own.was_suspended(now);
    }

    /// What became of an operation. Answers that come too late are ignored.
    pub fn answered(&mut self, now: Instant, serial: u64, answer: &Answer) {
        let Some(UnderWay { place, sent, kind }) = self.under_way.remove(&serial) else { return };
        if let Answer::Stored { revision } = answer {
            self.newest = self.newest.max(*revision);
        }
        match (place, kind) {
            (Place::Member(holder), Kind::Ask) => self.connections.answered(now, &holder, answer),
            (Place::Member(holder), _) if holder == self.me => {
                self.own_under_way = false;
                self.has_gone_back |= self.own.is_older(now, answer);
                let change = self.own.answered(sent, now, answer);
                self.change(change);
                if self.says_bye && matches!(answer, Answer::Stored { .. }) {
                    self.leaves = Leaves::Left;
                }
            }
            (Place::Member(holder), Kind::Read) if *answer == Answer::Unknown => self.sights.not_read(&holder),
            (Place::Member(holder), _) => {
                if self.sights.answered(now, &holder, answer) {
                    self.to_read.push(holder);
                }
            }
            (Place::Leases(key), _) => self.lease_answered(now, key, answer),
        }
    }

    fn lease_answered(&mut self, now: Instant, key: LeaseKey, answer: &Answer) {
        let term = self.own.term();
        let Some(quota) = self.quotas.get_mut(&key) else { return };
        match answer {
            Answer::Stored { revision } => quota.stored(now, &self.me, term, *revision),
            Answer::Found { revision, value } => {
                quota.not_done();
                self.has_gone_back |= quota.is_older(*revision);
                self.seen(now, &Place::Leases(key), *revision, Some(value));
            }
            Answer::Absent { revision } => {
                quota.not_done();
                if quota.is_absent(now, &self.me, *revision) {
                    self.recovers(now);
                }
            }
            _ => quota.not_done(),
        }
        self.has_changed(key);
    }
}
