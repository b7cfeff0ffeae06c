//! Connections that come past weir at the servers, and how weirs see them: by readings, which are late, stale or lost,
//! and judged by what beats tell of the other weirs.

use std::time::Instant;

use crate::fleet::lease::{
    LeaseKey, Place,
    record::Record,
    simulation::{
        event::Event,
        weir::{Network, Role, Time, key},
        world::{MS, SECOND, World},
    },
};

/// A weir that has not been heard for so long is silent.
const SILENT: Time = 3 * SECOND;

/// Connections at the servers that no weir knows, by server.
#[derive(Debug, Default)]
pub struct Direct {
    pub now: [u32; 2],
    /// The fewest of each server since the record said another number.
    least: [u32; 2],
    /// Whether any come in this history.
    pub come: bool,
}

impl Direct {
    pub fn all(&self) -> u32 {
        self.now.iter().sum()
    }

    pub fn set(&mut self, now: [u32; 2]) {
        self.now = now;
        self.least = [0, 1].map(|server| self.least[server].min(now[server]));
    }
}

/// What a weir holds: the bounds of a reading follow from it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub open: u32,
    pub held: u32,
    pub taken: u64,
    pub released: u64,
}

/// A reading that has been answered.
#[derive(Debug, Clone)]
pub struct Reading {
    began: Instant,
    answered: Time,
    counted: u32,
    /// What each weir had before and after it.
    before: Vec<Counts>,
    after: Vec<Counts>,
}

/// What one weir knows of the others by beats, and of the servers by readings.
#[derive(Debug, Clone, Default)]
pub struct Senses {
    /// When the last beat of each other weir was sent, and when it came.
    heard: std::collections::BTreeMap<usize, (Time, Time)>,
    /// Those of them that have told what they have of the account: no beat has all accounts.
    told: std::collections::BTreeSet<usize>,
    /// The last reading, as long as not all who are heard have told since.
    reading: Option<Reading>,
}

impl Senses {
    /// What another process has begun to read is of no use to this one.
    pub fn forget_reading(&mut self) {
        self.reading = None;
    }
}

impl World {
    pub(super) fn counts(&self) -> Vec<Counts> {
        self.weirs.iter().map(super::weir::Weir::counts).collect()
    }

    /// A weir publishes what it holds.
    pub(super) fn beats(&mut self, weir: usize) {
        self.within(150 * MS..500 * MS, Event::Beats(weir));
        if self.weirs[weir].network == Network::Nothing || self.weirs[weir].role != Role::Member {
            return;
        }
        let one = &self.weirs[weir];
        let (held, leased) = (one.allowance.usage().held, one.standing.is_valid(one.now(self.at)));
        for other in (0..self.weirs.len()).filter(|other| *other != weir) {
            if self.weirs[other].is_alive
                && self.weirs[other].role == Role::Member
                && self.weirs[other].network != Network::Nothing
                && let Some(after) = self.way()
            {
                let is_full = !self.has_many_accounts || self.rng.u32(..if self.is_healed { 4 } else { 16 }) == 0;
                self.later(after, Event::Hears(other, weir, self.at, (held, leased, is_full)));
            }
        }
    }

    pub(super) fn hears(&mut self, weir: usize, of: usize, sent: Time, (held, leased, is_full): (u32, bool, bool)) {
        let holder = self.weirs[of].holder.clone();
        let (at, one) = (self.at, &mut self.weirs[weir]);
        if one.senses.heard.get(&of).is_some_and(|(last, _)| *last >= sent) {
            return;
        }
        one.senses.heard.insert(of, (sent, at));
        let now = one.now(at);
        one.ledger.heard(now, &holder);
        // What has been told once is told again as it changes.
        if is_full {
            one.senses.told.insert(of);
        }
        if one.senses.told.contains(&of) {
            one.ledger.reported(now, &holder, key(), held, leased);
        }
        self.judge(weir);
    }

    /// Forgets those that are silent.
    pub(super) fn forget_silent(&mut self, weir: usize) {
        let (at, one) = (self.at, &self.weirs[weir]);
        let silent: Vec<usize> =
            one.senses.heard.iter().filter(|(_, (_, came))| at > came + SILENT).map(|(of, _)| *of).collect();
        for of in silent {
            let holder = self.weirs[of].holder.clone();
            let one = &mut self.weirs[weir];
            one.senses.heard.remove(&of);
            one.senses.told.remove(&of);
            one.ledger.silent(one.now(at), &holder);
        }
    }

    /// All servers have answered.
    pub(super) fn has_read(&mut self, weir: usize, began: Instant, counted: u32, before: Vec<Counts>) {
        if self.weirs[weir].role != Role::Member {
            return;
        }
        let (answered, after) = (self.at, self.counts());
        self.weirs[weir].senses.reading = Some(Reading { began, answered, counted, before, after });
        self.judge(weir);
    }

    /// What this weir has had in a reading is what its next beat says: that of a process that has none of what the dead
    /// one had.
    pub(super) fn says_what_it_has(&mut self, member: usize) {
        let counts = self.weirs[member].counts();
        let of_readings = self.weirs.iter_mut().filter_map(|weir| weir.senses.reading.as_mut()?.after.get_mut(member));
        of_readings.for_each(|after| *after = counts);
    }

    /// Once all weirs that are heard have told what they held in a reading, it is known how many came past weir.
    fn judge(&mut self, weir: usize) {
        let senses = &mut self.weirs[weir].senses;
        let is_settled = |reading: &Reading| senses.heard.values().all(|(sent, _)| *sent >= reading.answered);
        let Some(reading) = senses.reading.take_if(|reading| is_settled(reading)) else { return };
        let (mut least, mut most) = (0_u32, 0_u32);
        let (told, untold): (Vec<usize>, Vec<usize>) =
            senses.heard.keys().copied().partition(|of| senses.told.contains(of));
        for of in told.into_iter().chain([weir]) {
            let before = reading.before.get(of).copied().unwrap_or_default();
            let after = reading.after.get(of).copied().unwrap_or_default();
            least += before.open.saturating_sub((after.released - before.released) as u32);
            most += before.held + (after.taken - before.taken) as u32;
        }
        let high = reading.counted.saturating_sub(least);
        let low = reading.counted.saturating_sub(most).min(high);
        let (answered, counted) = (reading.answered as f64 / 1e6, reading.counted);
        let heard: Vec<usize> = self.weirs[weir].senses.heard.keys().copied().collect();
        self.tells(&format!(
            "{weir} hears {heard:?}: {low} to {high} of {counted} past weir, by a reading until {answered}"
        ));
        if let Some(after) = self.way() {
            let untold = untold.into_iter().map(|of| self.weirs[of].holder.clone()).collect();
            self.later(after, Event::IsPast(weir, reading.began, (low, high), untold));
        }
    }

    /// So many are past weir at each server from now on.
    pub(super) fn are_past(&mut self, now: [u32; 2]) {
        self.tells(&format!("{} past weir, {now:?}", now[0] + now[1]));
        self.direct.set(now);
    }

    /// Clients come to the servers themselves, go, or go from one server to the other.
    pub(super) fn direct_clients(&mut self) {
        if self.is_healed || !self.direct.come {
            return;
        }
        self.within(100 * MS..3 * SECOND, Event::Direct);
        let [a, b] = self.direct.now;
        let quota = self.highest_quota();
        let many = self.rng.u32(1..=1 + quota / 2);
        let now = match self.rng.u32(0..6) {
            0 | 1 => [(a + many).min(quota), b],
            2 => [0, b + many],
            3 => [b, a],
            4 => [a.saturating_sub(many), b.saturating_sub(many)],
            _ => [0; 2],
        };
        self.are_past(now);
    }

    /// How many connections a weir has at the servers, but those that it has let in by a floor while it was cut off.
    fn at_servers(&self, weir: usize) -> u32 {
        let holder = &self.weirs[weir].holder;
        let is_there =
            |((of, _), is_excepted): &(&(usize, u64), &bool)| self.weirs[*of].holder == *holder && !**is_excepted;
        self.servers.iter().filter(is_there).count() as u32
    }

    /// How many connections weirs have that no lease of this record covers.
    pub(super) fn uncovered(&self, record: &Record) -> u32 {
        let members = (0..self.weirs.len()).filter(|weir| self.weirs[*weir].role == Role::Member);
        let lease = |weir: usize| record.l.get(&self.weirs[weir].holder).map_or(0, |entry| entry.n);
        members.map(|weir| self.at_servers(weir).saturating_sub(lease(weir))).sum()
    }

    /// The record of leases changes. Nobody gets more while all together are over the quota of who writes; and what it
    /// says of connections past weir falls only to what they, and what weirs have that no lease covers, have been.
    pub(super) fn check_write(&mut self, before: Option<&[u8]>, after: Option<&[u8]>) {
        let decode = |value: Option<&[u8]>| value.map_or(Record::default(), |value| Record::decode(value).unwrap());
        let (before, after) = (decode(before), decode(after));
        let of = |record: &Record| record.l.values().map(|entry| entry.n).sum::<u32>() + record.past;
        let lease =
            |record: &Record, holder| record.l.get(holder).map_or(0, |entry: &super::super::record::Entry| entry.n);
        // What was in a bucket that is lost is written again, as far as who writes first knew it.
        let lost = self.lost.as_ref().filter(|(at, _)| self.at < at + 15 * SECOND);
        let had = |holder| lost.map_or(0, |(_, record)| lease(record, holder)).max(lease(&before, holder));
        let is_raised = after.l.iter().any(|(holder, entry)| entry.n > had(holder));
        let is_restored = lost.is_some() && before.is_empty();
        if is_raised && !is_restored && of(&after) > after.q {
            self.fails(&format!("somebody takes more than there is: {before:?}, {after:?}"));
        }
        if after.past < before.past {
            let there = self.uncovered(&after) + self.direct.least.iter().sum::<u32>();
            if after.past < there {
                self.fails(&format!("{} are past weir for the fleet, and {there} are: {after:?}", after.past));
            }
        }
        if after.past != before.past {
            self.direct.least = self.direct.now;
        }
        let leases = of(&after) - after.past;
        self.sums.push_back((self.at, leases, after.past));
    }

    /// One more connection is in: with those that the record says came past weir there are not more than the quota, or
    /// than they were with the leases of that time when that became known.
    pub(super) fn check_sum(&mut self, quota: u32, in_through_weirs: u32) {
        while self.sums.len() > 1 && self.sums[1].0 + 3 * SECOND < self.at {
            self.sums.pop_front();
        }
        let past = self.sums.iter().map(|(.., past)| *past).min().unwrap_or(0).min(self.direct.all());
        let most = self.sums.iter().map(|(_, leases, past)| leases + past).max().unwrap_or(0).max(quota);
        let is_covered = {
            let record = self.record();
            let lease = |weir: usize| record.l.get(&self.weirs[weir].holder).map_or(0, |entry| entry.n);
            (0..self.weirs.len()).all(|weir| self.at_servers(weir) <= lease(weir))
        };
        if is_covered && in_through_weirs + past > most {
            self.fails(&format!("{in_through_weirs} connections and {past} past weir of a quota of {quota}"));
        }
    }

    /// The record of the leases.
    pub(super) fn record(&self) -> Record {
        let key: LeaseKey = key();
        self.bucket.get(&Place::Leases(key)).map_or(Record::default(), |value| Record::decode(value).unwrap())
    }
}
