//! The leases of one quota as this weir knows them, and the next write that it makes.

mod lost;
mod takeover;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use self::lost::Lost;
pub(super) use self::takeover::QuotaState;
use crate::fleet::{
    key::Kind,
    lease::{
        Holder, What,
        allowance::{Allowance, Floor, Hints, InVain},
        past::{Around, Past},
        plan::{Own, Plan, plan},
        reclaim::Reading,
        record::{InvalidValue, Record},
        samples::Samples,
    },
};

/// A quota that nobody has used for so long needs no lease.
const UNUSED: Duration = Duration::from_secs(30);

/// Who has waited for so long, while not all others tell what they hold, waits in vain.
pub(super) const IN_VAIN: Duration = Duration::from_millis(1500);

/// A beat says what its weir held at most so long before it came.
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// A want that is told already is told anew after this, if it is another one by now.
const WANT_AGAIN: Duration = Duration::from_secs(1);

/// Weirs that share a server's slots by leases from some moment on have all written theirs by then. Until then one that
/// has not may have taken its equal part since it was last heard.
const ALL_COME: Duration = Duration::from_secs(2);

/// A record without leases, that says only what came past weir, is deleted when nothing has changed in it for so long.
/// Until then it keeps room for what a weir that is gone has left: servers close that when it does not answer PING.
const FORGET: Duration = Duration::from_secs(600);

/// What the last write of a lease has asked for.
#[derive(Debug, Clone)]
struct Asked {
    term: u32,
    lease: u32,
    floor: u32,
    record: Record,
}

/// What another weir says to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    pub held: u32,
    /// It has gone by the split while this weir had no leases either, so that no record tells of what it holds.
    pub by_split: bool,
    /// Since when it says that its leases are in force.
    pub leased_since: Option<Instant>,
}

/// One quota.
#[derive(Debug)]
pub(super) struct SharedQuota {
    /// Absent where this weir does not use it, and only takes back what ended terms have left.
    pub allowance: Option<Arc<Allowance>>,
    pub record: Record,
    /// Of `record`; `None`: it has to be read.
    revision: Option<u64>,
    /// The last revision that was seen, and the same when the reading began that is under way or was the last.
    newest: u64,
    read_since: u64,
    /// What is there is no record: nothing is taken and nothing is written.
    pub is_foreign: bool,
    /// The lease of `term` that is certain: the lower one while it is open which one is stored.
    certain: u32,
    term: u32,
    /// The lease of the term before, until one of this term is stored.
    had: u32,
    /// What was known before the bucket was lost, until weirs have had the time to write what they have.
    lost: Option<Lost>,
    /// Whether a write of this weir has ever been stored.
    has_floor: bool,
    /// A write or a reading is under way.
    under_way: bool,
    asked: Option<Asked>,
    used_at: Instant,
    /// How many connections had been given back at the last look: who came and went between two looks used it.
    released: u64,
    wrote_at: Option<Instant>,
    /// What the others say to hold.
    pub reports: HashMap<Holder, Report>,
    pub samples: Option<Samples>,
    pub reading: Option<Reading>,
    /// What readings say of connections past weir.
    past: Past,
    /// Since when there has been a quota.
    limited_since: Option<Instant>,
    /// When what the record says of connections past weir changed last.
    pub past_changed_at: Instant,
    /// When the record changed last.
    changed_at: Instant,
    /// The record before it changed, for who counts what stands in records.
    pub replaced: Option<Record>,
    /// Ended terms have leases in it.
    pub has_ended: bool,
    /// It waits for the next look.
    pub is_due: bool,
}

/// What all quotas have in common at one moment.
#[derive(Debug)]
pub(super) struct Moment<'a> {
    pub now: Instant,
    /// Since when this weir runs without a pause.
    pub awake_since: Instant,
    pub me: &'a Holder,
    /// When each other weir has told last what it holds.
    pub heard: &'a HashMap<Holder, Instant>,
    pub term: u32,
    /// Weirs that live, this one included.
    pub live: u32,
    /// Those of them that the record does not name, without this one; of a server only.
    pub absent: u32,
    /// Whether this one is the first of them.
    pub is_first: bool,
    /// When one of the others was last found to be silent.
    pub silent_since: Option<Instant>,
    /// It hands back what it does not hold.
    pub is_leaving: bool,
    /// The bucket was lost lately: others may not have written yet what they had.
    pub was_lost: bool,
    /// Others may let clients in by the split of which this weir has not heard.
    pub is_after_split: bool,
}

impl SharedQuota {
    pub fn new(now: Instant) -> Self {
        Self {
            allowance: None,
            record: Record::default(),
            revision: None,
            newest: 0,
            read_since: 0,
            is_foreign: false,
            certain: 0,
            term: 0,
            had: 0,
            lost: None,
            has_floor: false,
            under_way: false,
            asked: None,
            used_at: now,
            released: 0,
            wrote_at: None,
            reports: HashMap::new(),
            samples: None,
            reading: None,
            past: Past::new(now),
            limited_since: None,
            past_changed_at: now,
            changed_at: now,
            replaced: None,
            has_ended: false,
            is_due: false,
        }
    }

    /// The bucket has, or had, this value; `None`: none. Returns why it is not used, the first time.
    pub fn seen(&mut self, now: Instant, me: &Holder, revision: u64, value: Option<&[u8]>) -> Option<InvalidValue> {
        if revision < self.newest || self.revision == Some(revision) {
            return None;
        }
        (self.revision, self.newest) = (Some(revision), revision);
        match value.map_or(Ok(Record::default()), Record::decode) {
            Ok(record) => {
                self.is_foreign = false;
                self.becomes(now, record);
                if let Some(lost) = &mut self.lost {
                    lost.is_found(&self.record);
                }
                // Whatever is missing there is not this weir's any more.
                let own = self.record.l.get(me).filter(|entry| entry.t == self.term).map_or(0, |entry| entry.n);
                self.lower(own);
                None
            }
            Err(invalid) => (!std::mem::replace(&mut self.is_foreign, true)).then_some(invalid),
        }
    }

    /// Nothing was ever stored there, or no trace is left of it: what was known of it is written there again. Returns
    /// whether there was something.
    #[must_use]
    pub fn is_absent(&mut self, now: Instant, me: &Holder, revision: u64) -> bool {
        let was_there = revision == 0 && self.newest == self.read_since && !self.record.is_empty();
        if was_there {
            self.forget_bucket();
            self.revision = Some(0);
        } else if revision > 0 || self.newest == self.read_since {
            // Of what came meanwhile the reading tells nothing.
            if revision == 0 {
                (self.newest, self.revision) = (0, None);
            }
            self.seen(now, me, revision, None);
        }
        was_there
    }

    /// Whether a reading has found an older revision than the one that there was when it began.
    pub fn is_older(&self, revision: u64) -> bool {
        revision < self.read_since
    }

    fn becomes(&mut self, now: Instant, record: Record) {
        if record.past != self.record.past {
            self.past_changed_at = now;
        }
        self.changed_at = now;
        let before = std::mem::replace(&mut self.record, record);
        self.replaced.get_or_insert(before);
    }

    fn lower(&mut self, to: u32) {
        self.certain = self.certain.min(to);
        if let Some(allowance) = &self.allowance {
            allowance.lower_lease(to);
        }
    }

    /// The term is over: nothing is certain of what was written in it. Floors stay.
    pub fn term_ended(&mut self) {
        self.had = self.had.max(std::mem::take(&mut self.certain));
        if let Some(allowance) = &self.allowance {
            allowance.set_lease(0);
        }
    }

    /// While this weir goes by the split it may have this, unless it has had a lease.
    pub fn splits(&self, part: Floor, is_split_only: bool, in_vain: InVain) {
        let Some(allowance) = &self.allowance else { return };
        if !self.has_floor || is_split_only {
            allowance.set_floor(part);
        }
        // Who waits gets the places that there are before anybody is refused for want of one.
        let in_vain = if allowance.held() < allowance.floor() { InVain::Nobody } else { in_vain };
        allowance.set_hints(Hints { cap: u32::MAX, wake_at: u32::MAX, is_wanted: false, in_vain });
    }

    /// What was under way is done without effect, or without an answer.
    pub fn not_done(&mut self) {
        (self.under_way, self.asked, self.revision) = (false, None, None);
    }

    /// What was written is stored.
    pub fn stored(&mut self, now: Instant, me: &Holder, term: Option<u32>, revision: u64) {
        self.under_way = false;
        let Some(Asked { term: written_in, lease, floor, record }) = self.asked.take() else { return };
        let mut lease = lease;
        let (is_there, of) = (record.l.contains_key(me), record.q);
        if revision > self.newest {
            (self.revision, self.newest) = (Some(revision), revision);
            self.is_foreign = false;
            self.becomes(now, record);
        } else {
            // A later record has been seen meanwhile: what was taken back there is gone.
            let own = self.record.l.get(me).filter(|entry| entry.t == written_in);
            lease = lease.min(own.map_or(0, |entry| entry.n));
        }
        if term != Some(written_in) {
            return;
        }
        (self.term, self.certain, self.had, self.has_floor) = (written_in, lease, 0, is_there);
        if let Some(allowance) = &self.allowance {
            allowance.set_lease(lease);
            allowance.set_floor(Floor { most: floor.min(lease), of });
        }
    }

    /// This weir uses it from now on, if it did not.
    pub fn opened(&mut self, now: Instant, allowance: Arc<Allowance>) {
        if self.allowance.is_none() {
            self.allowance = Some(allowance);
            self.past.opened(now);
        }
    }

    /// See [`super::ledger::Ledger::beyond_live`]: at least and at most so many.
    pub fn beyond_live(&mut self, now: Instant, many: (u32, u32), began: Instant, untold: Vec<Holder>) {
        let lease = |holder: &Holder| self.record.l.get(holder).map_or(0, |entry| entry.n);
        let untold = untold.into_iter().map(|holder| (lease(&holder), holder)).collect();
        self.past.told(now, many, began, untold);
    }

    /// Whether this weir knows from the servers what came past weir.
    pub fn knows_past(&self, now: Instant) -> bool {
        self.past.is_known(now)
    }

    /// Whether something may be decided at the next look that nobody tells of before.
    pub fn is_unsettled(&self, me: &Holder, term: u32) -> bool {
        let Some(allowance) = &self.allowance else { return false };
        let Some(quota) = allowance.quota() else { return false };
        let (used, own_entry) = (allowance.usage(), self.record.l.get(me));
        let certain = if self.term == term { self.certain } else { 0 };
        let is_first_user = self.record.l.keys().next().is_none_or(|first| first >= me);
        let is_in_use = used.held > 0 || own_entry.is_some();
        let is_over = || u64::from(certain) + u64::from(self.record.past) + self.record.of_others(me) > quota.into();
        // Clients come and go without a word as long as there is enough for all: where any weir wants more than it has,
        // each of them may change everybody's share.
        used.waiting > 0
            || used.held > certain
            || self.record.l.values().any(|entry| entry.want > entry.n)
            || is_in_use && is_first_user && self.differs_past()
            || self.is_of_server()
            || is_over()
    }

    /// Whether readings say otherwise than the record of what came past weir.
    pub fn differs_past(&self) -> bool {
        self.past.differs(self.record.past)
    }

    pub fn is_of_server(&self) -> bool {
        self.allowance.as_ref().is_some_and(|allowance| allowance.key().kind == Kind::Server)
    }

    /// Whether a write or a reading is under way.
    pub fn is_busy(&self) -> bool {
        self.under_way
    }

    /// What is to be done next. `reclaim` takes back in a record what ended terms have left, and returns whether
    /// anything has changed; `is_ended` says which leases are of such terms.
    pub fn next(
        &mut self,
        moment: &Moment<'_>,
        is_ended: impl Fn(&Holder, &super::record::Entry) -> bool + Copy,
        reclaim: impl FnOnce(&Self, &mut Record) -> bool,
    ) -> Option<What> {
        let &Moment { now, me, term, live, is_first, is_leaving, .. } = moment;
        if self.under_way || self.is_foreign {
            return None;
        }
        let quota = self.allowance.as_ref().and_then(|allowance| allowance.quota());
        let own_entry = self.record.l.get(me).cloned();
        let is_mine = quota.is_some() || own_entry.is_some();
        let has_ended = self.has_ended;
        let is_left = is_first
            && self.record.l.is_empty()
            && self.record.past > 0
            && now.saturating_duration_since(self.changed_at) >= FORGET;
        if !is_mine && !has_ended && !is_left {
            return None;
        }
        let Some(expected) = self.revision else {
            (self.under_way, self.read_since) = (true, self.newest);
            return Some(What::Read);
        };
        let used = self.allowance.as_ref().map(|allowance| allowance.usage()).unwrap_or_default();
        // What a server has left is shared by all who live, so that nobody is taken for one who is still to come.
        let was_used = std::mem::replace(&mut self.released, used.released) != used.released;
        if used.held > 0 || used.waiting > 0 || was_used || self.is_of_server() {
            self.used_at = now;
        }
        self.limited_since = quota.and(self.limited_since.or(Some(now)));
        let is_used = quota.is_some() && !is_leaving && now.saturating_duration_since(self.used_at) < UNUSED;
        let certain = if self.term == term { self.certain } else { 0 };
        // Most looks change nothing: the record is copied only where one may.
        let mut record = Cow::Borrowed(&self.record);
        let needs_room = used.held + used.waiting > certain;
        let mut is_changed = (is_first || needs_room) && has_ended && reclaim(self, record.to_mut());
        let is_in_use = is_used || used.held > 0;
        let is_first_user = !record.l.iter().any(|(holder, entry)| holder < me && !is_ended(holder, entry));
        if quota.is_some() && is_in_use && is_first_user {
            let past = self.past.should_be(record.past, self.around(moment, used.held, &record));
            if past != record.past {
                (record.to_mut().past, is_changed) = (past, true);
            }
        }
        let (mut lease, mut floor) = (0, 0);
        let record = if let Some(quota) = quota {
            let of_server = match self.is_of_server() {
                true => self.beyond_of_server(moment, quota, &record, is_ended),
                false => 0,
            };
            let beyond = self.beyond(&record, me).saturating_add(of_server);
            let own = Own { quota, lease: certain, held: used.held, waiting: used.waiting, is_used, live, beyond };
            let planned = plan(&record, me, own, is_ended);
            self.hint(moment, &planned, own, &record);
            let most = match (moment.was_lost, moment.is_after_split) {
                (true, _) => self.most_unsettled(used.held),
                (false, true) => certain.max(used.held),
                (false, false) => u32::MAX,
            };
            (lease, floor) = (planned.lease.min(most), planned.floor.min(most));
            let recorded = own_entry.as_ref().filter(|entry| entry.t == term);
            let is_told = recorded.is_some_and(|entry| {
                let (was_met, is_met) = (entry.want <= entry.n, planned.want <= lease);
                let may_tell = self.wrote_at.is_none_or(|at| now.saturating_duration_since(at) >= WANT_AGAIN);
                // While another lacks a place, who has said less than it uses seems to have some to give: the others
                // would wait for it to do so, instead of for one that has more than its share.
                let tells_less = planned.is_wanted && entry.want < planned.want;
                was_met == is_met && !(may_tell && if is_met { tells_less } else { entry.want != planned.want })
            });
            is_changed |= lease != certain
                // A floor from when fewer weirs lived keeps the others out if this one is cut off.
                || is_in_use && recorded.is_some_and(|entry| entry.f > floor)
                || is_in_use && (recorded.is_none_or(|entry| entry.n != lease) || !is_told)
                || !is_in_use && own_entry.is_some();
            if !is_changed {
                return None;
            }
            let mut record = record.into_owned();
            if lease < certain {
                // In this order: nobody takes a place above the lower lease that is not seen here.
                self.lower(lease);
                let held = self.allowance.as_ref().map_or(0, |allowance| allowance.usage().held);
                lease = lease.max(held.min(certain));
                if let Some(allowance) = &self.allowance {
                    allowance.set_lease(lease);
                }
                self.certain = lease;
            }
            floor = floor.min(lease);
            record.q = quota;
            match is_in_use {
                true => record.set(me, (term, lease, floor, planned.want)),
                false => drop(record.l.remove(me)),
            }
            record
        } else {
            let is_left = is_left && record.l.is_empty();
            if !is_changed && !is_left && !record.l.contains_key(me) {
                return None;
            }
            let mut record = record.into_owned();
            // Nothing is limited any more.
            if record.l.remove(me).is_none() && is_left {
                record.past = 0;
            }
            record
        };
        // While the write is under way the lower of both holds.
        self.lower(lease);
        if let Some(allowance) = &self.allowance {
            allowance.lower_floor(Floor { most: floor, of: record.q });
        }
        let what = match record.is_empty() {
            true => What::Delete { expected },
            false => What::Write { value: record.encode()?, expected },
        };
        self.asked = Some(Asked { term, lease, floor, record });
        (self.under_way, self.wrote_at) = (true, Some(now));
        Some(what)
    }

    /// What weirs say to hold, or may hold, of which the record does not know.
    fn beyond(&self, record: &Record, me: &Holder) -> u32 {
        if self.lost.is_some() {
            return self.beyond_lost(record, me);
        }
        let unknown = self.reports.iter().filter(|(holder, one)| one.by_split && !record.l.contains_key(*holder));
        unknown.map(|(_, one)| one.held).fold(0, u32::saturating_add)
    }

    /// The same of a server, whose slots are taken without a lease while it has room: those who have not written their
    /// first leases yet may have taken their parts, and what came past all weirs is counted before it is written.
    fn beyond_of_server(
        &self,
        moment: &Moment<'_>,
        quota: u32,
        record: &Record,
        is_ended: impl Fn(&Holder, &super::record::Entry) -> bool,
    ) -> u32 {
        let &Moment { now, live, absent, .. } = moment;
        let is_early = self.limited_since.is_some_and(|since| now.saturating_duration_since(since) < ALL_COME);
        let to_come = if is_early { absent.saturating_mul(quota / live.max(1)) } else { 0 };
        let past = self.past.last().map_or(0, |many| past_of(many, record, is_ended));
        to_come.saturating_add(past.saturating_sub(record.past))
    }

    /// What the weirs have beside what came past weir. Only the first of those who use the quota writes that: others
    /// may see a little more or less at the same moment.
    fn around(&self, moment: &Moment<'_>, held: u32, record: &Record) -> Around {
        let &Moment { now, awake_since, me, heard, term, silent_since, .. } = moment;
        let lease = |holder: &Holder| record.l.get(holder).map_or(0, |entry| entry.n);
        // What a weir may have had in a reading of which it has told nothing: it may have given back since.
        let may_have_had = |(holder, entry): (&Holder, &super::record::Entry)| match self.past.untold(holder) {
            Some(lease) => lease.max(entry.n),
            None if heard.contains_key(holder) => 0,
            None => entry.n,
        };
        let others = record.l.iter().filter(|(holder, _)| *holder != me);
        let unheard = others.map(may_have_had).fold(0, u32::saturating_add);
        let others = self.reports.iter().map(|(holder, one)| (holder, one.held));
        let uncovered = others.chain([(me, held)]).map(|(holder, held)| held.saturating_sub(lease(holder)));
        let uncovered = uncovered.fold(0, u32::saturating_add);
        let sure_after = silent_since.map_or(self.past_changed_at, |since| since.max(self.past_changed_at));
        Around { now, awake_since, term, sure_after, unheard, uncovered }
    }

    /// Tells the connect path what does not make the lease larger.
    fn hint(&self, moment: &Moment<'_>, planned: &Plan, own: Own, record: &Record) {
        let Some(allowance) = &self.allowance else { return };
        let is_met = planned.want <= planned.lease;
        allowance.set_hints(Hints {
            cap: planned.cap,
            wake_at: planned.wake_at,
            is_wanted: planned.is_wanted,
            in_vain: if is_met { InVain::Nobody } else { self.in_vain(moment, own, record) },
        });
    }

    /// Who waits in vain while this weir wants more than it has. Nobody is refused by what others held before the
    /// client came: they may have given back since.
    fn in_vain(&self, moment: &Moment<'_>, own: Own, record: &Record) -> InVain {
        let Moment { now, me, heard, .. } = *moment;
        let before = |since: Duration| now.checked_sub(since).map_or(InVain::Nobody, InVain::Since);
        if record.l.keys().any(|holder| holder != me && !self.reports.contains_key(holder)) {
            return before(IN_VAIN);
        }
        // Nobody holds more than its lease, whatever it says.
        let of_leased = |(holder, entry): (&Holder, &super::record::Entry)| {
            self.reports.get(holder).map_or(0, |one| u64::from(one.held.min(entry.n)))
        };
        let leased = record.l.iter().filter(|(holder, _)| *holder != me);
        let reported = leased.map(of_leased).sum::<u64>() + u64::from(self.beyond(record, me));
        if u64::from(record.past) + reported + u64::from(own.held) < u64::from(own.quota) {
            return InVain::Nobody;
        }
        // What this weir holds itself it knows now.
        let oldest = self.reports.keys().map(|holder| heard.get(holder).copied()).min();
        match oldest {
            None => InVain::Since(now),
            Some(Some(heard)) => heard.checked_sub(ON_THE_WAY).map_or(InVain::Nobody, InVain::Since),
            Some(None) => before(IN_VAIN),
        }
    }
}

/// How many of the connections that live weirs do not have came past all weirs.
fn past_of(many: u32, record: &Record, is_ended: impl Fn(&Holder, &super::record::Entry) -> bool) -> u32 {
    let of_ended = record.l.iter().filter(|(holder, entry)| is_ended(holder, entry)).map(|(_, entry)| entry.n);
    many.saturating_sub(of_ended.fold(0, u32::saturating_add))
}

#[cfg(test)]
mod tests;
