//! What goes wrong in the first part of a history, and what must be when it is well again.

use std::{
    ops::{RangeBounds, RangeTo},
    sync::atomic::Ordering::SeqCst,
};

use crate::fleet::{
    lease::{
        Place,
        record::Record,
        simulation::{
            event::Event,
            weir::{Network, Role, Time, key},
            world::{MS, SECOND, World},
        },
    },
    share,
};

impl World {
    fn stop(&mut self, weir: usize, long: RangeTo<Time>) {
        let long = self.rng.u64(long);
        if self.weirs[weir].is_stopped() {
            return;
        }
        self.weirs[weir].stopped_until = Some(self.at + long);
        self.stopped_at[weir] = self.at;
        self.later(long, Event::Wakes(weir));
    }

    fn members(&self) -> Vec<usize> {
        let is_alive = |weir: &usize| self.weirs[*weir].is_alive && self.weirs[*weir].role == Role::Member;
        (0..self.weirs.len()).filter(is_alive).collect()
    }

    fn one_alive(&mut self) -> Option<usize> {
        let alive = self.members();
        (!alive.is_empty()).then(|| alive[self.rng.usize(..alive.len())])
    }

    fn crash(&mut self, weir: usize) {
        let one = &mut self.weirs[weir];
        one.is_alive = false;
        one.backlog.clear();
        // Of a process that is killed the servers are told by its kernel; of a machine that is gone by nobody.
        let after = if self.rng.bool() { self.rng.u64(..10 * MS) } else { self.rng.u64(..30 * SECOND) };
        self.later(after, Event::Gone(weir));
        // Others of the same machine: it is gone, or a process that has nothing yet.
        for other in 0..self.weirs.len() {
            if other != weir && self.weirs[other].holder == self.weirs[weir].holder && self.weirs[other].is_alive {
                self.weirs[other].is_alive = false;
                self.later(after, Event::Gone(other));
            }
        }
    }

    /// Something goes wrong, or is well again.
    pub(super) fn wrong(&mut self) {
        if self.is_healed {
            return;
        }
        self.within(..2 * SECOND, Event::Wrong);
        let Some(weir) = self.one_alive() else { return };
        let what = self.rng.u32(0..16);
        self.tells(&format!("{weir} has {what}"));
        match what {
            0 | 1 => self.stop(weir, ..3 * SECOND),
            2 => self.stop(weir, ..25 * SECOND),
            3 | 4 => {
                self.weirs[weir].network = Network::Nothing;
                self.weirs[weir].was_cut = true;
            }
            5 | 6 => self.weirs[weir].network = Network::NoBucket,
            7..9 => self.weirs[weir].network = Network::All,
            9 => self.has_quorum = !self.has_quorum,
            10 => {
                let id = self.weirs[weir].holder.id().to_owned();
                let (is_same, is_started) = (self.rng.bool(), self.weirs.len() < 9);
                self.crash(weir);
                if is_started {
                    let id = if is_same { id } else { format!("weir-{}", self.weirs.len()) };
                    self.begins(&id, self.weirs[weir].quota);
                }
            }
            11 => {
                let quota = [1, 3, 7, 20, 60][self.rng.usize(..5)];
                self.in_force(self.weirs[weir].quota);
                self.in_force(quota);
                self.weirs[weir].quota = quota;
                self.weirs[weir].allowance.set_quota(Some(quota));
            }
            _ => {
                let quota = self.weirs[weir].quota;
                self.weirs[weir].wants = [0, quota / 2, quota, 2 * quota][self.rng.usize(..4)];
            }
        }
    }

    fn goes_on_for(&mut self, long: impl RangeBounds<Time>) {
        let long = self.rng.u64(long);
        self.until(self.at + long, |_| false);
    }

    /// The first part of a history.
    pub fn go_wrong(&mut self) {
        for weir in 0..self.weirs.len() {
            let quota = self.weirs[weir].quota;
            self.weirs[weir].wants = self.rng.u32(..=quota);
        }
        self.within(..3 * SECOND, Event::Wrong);
        let long = self.rng.u64(10..30) * SECOND;
        self.until(long, |_| false);
    }

    /// The first part of a history in which nothing goes wrong but that the bucket is lost, or is as it was a while
    /// before, in the midst of clients that come and go.
    pub fn lose_bucket(&mut self) {
        (self.loss, self.late) = (0.0, 0.0);
        let alive = self.members();
        for _ in 0..self.rng.u32(1..4) {
            let mut before = None;
            for step in 0..20 {
                for weir in &alive {
                    self.weirs[*weir].wants = self.rng.u32(..=self.weirs[*weir].quota);
                }
                self.goes_on_for(100 * MS..SECOND);
                if step == self.rng.u32(..20) {
                    before = Some(self.bucket.clone());
                }
            }
            // Of the loss of what was written in the last moment no revision tells.
            self.goes_on_for(800 * MS..SECOND);
            match before {
                Some(bucket) => self.goes_back_to(bucket),
                None => self.other_bucket(),
            }
            self.all_want(&alive, 60);
            self.goes_on_for(SECOND..20 * SECOND);
        }
        self.until(self.at + 18 * SECOND, |_| false);
    }

    /// The first part of a history in which nothing goes wrong but that the bucket answers nobody for long, while
    /// clients come to weirs that have no lease.
    pub fn lose_quorum(&mut self) {
        (self.loss, self.late) = (0.0, 0.0);
        let alive = self.members();
        for _ in 0..self.rng.u32(1..4) {
            for weir in &alive {
                self.weirs[*weir].wants = 0;
            }
            // Leases that nobody uses go.
            self.goes_on_for(SECOND..50 * SECOND);
            for weir in &alive {
                self.weirs[*weir].wants = if self.rng.bool() { self.rng.u32(..=self.weirs[*weir].quota) } else { 0 };
            }
            self.goes_on_for(SECOND..4 * SECOND);
            self.has_quorum = false;
            self.goes_on_for(..20 * SECOND);
            for weir in &alive {
                self.weirs[*weir].wants = self.rng.u32(..=self.weirs[*weir].quota);
            }
            self.until(self.at + 15 * SECOND, |_| false);
            self.have_their_parts(&alive);
            self.has_quorum = true;
            self.all_want(&alive, 60);
            self.goes_on_for(..20 * SECOND);
        }
    }

    /// While nobody has leases each weir has its part, where no other has more than its own.
    fn have_their_parts(&self, alive: &[usize]) {
        let quota = self.weirs[alive[0]].quota;
        let part = quota / alive.len() as u32;
        let has_more = |weir: &usize| {
            let lease = self.record().l.get(&self.weirs[*weir].holder).map_or(0, |entry| entry.n);
            self.of(*weir).max(lease) > part
        };
        if self.record().past > 0 || alive.iter().any(has_more) {
            return;
        }
        for weir in alive {
            let has_lease = self.record().l.contains_key(&self.weirs[*weir].holder);
            let (has, should) = (self.of(*weir), part.min(self.weirs[*weir].wants));
            if !has_lease && has < should {
                self.fails(&format!("{weir} has {has} of {should} while nobody has leases"));
            }
        }
    }

    /// The second part: everything is well again.
    pub fn heal(&mut self) {
        (self.is_healed, self.has_quorum) = (true, true);
        for weir in 0..self.weirs.len() {
            self.weirs[weir].network = Network::All;
            if let Some(until) = &mut self.weirs[weir].stopped_until {
                *until = self.at;
                self.later(0, Event::Wakes(weir));
            }
        }
        let quota = [2, 5, 24][self.rng.usize(..3)];
        if self.alive().count() == 0 {
            self.begins("weir-9", quota);
        }
        for weir in &mut self.weirs {
            (weir.quota, weir.wants) = (quota, 0);
            weir.allowance.set_quota(Some(quota));
        }
        if self.is_other_bucket {
            self.other_bucket();
            // Until all may have written what they have, nobody gets more.
            self.until(self.at + 18 * SECOND, |_| false);
        }
        let past = if self.direct.come { self.rng.u32(..=quota) } else { 0 };
        let on_first = self.rng.u32(..=past);
        self.are_past([on_first, past - on_first]);
        self.until(self.at + 8 * SECOND, |_| false);
        let alive = self.members();
        // What a machine that is gone has left at the servers goes within 30 s.
        let left_by_dead = |world: &Self| world.servers.keys().any(|(weir, _)| !world.weirs[*weir].is_alive);
        if self.is_other_bucket {
            // No lease tells of it any more.
            self.until(self.at + 30 * SECOND, |world| !left_by_dead(world));
        }
        // Of a quota that nobody uses nobody knows what came past weir.
        self.all_want(&alive, 1);
        self.until(self.at + 5 * SECOND, |_| false);
        let in_before: u32 = alive.iter().map(|weir| self.of(*weir)).sum();
        self.all_want(&alive, quota);
        self.until(self.at + 30 * SECOND, |world| !left_by_dead(world));
        let has_ended = |record: &Record, world: &Self| {
            record.l.iter().any(|(holder, entry)| entry.n > 0 && world.alive().all(|weir| weir.holder != *holder))
        };
        let room = quota.saturating_sub(past).max(in_before);
        let is_filled = |world: &Self| world.open() == room && !has_ended(&world.record(), world);
        if !self.until(self.at + 25 * SECOND, is_filled) {
            self.fails(&format!("{} connections of a quota of {quota} in the end, and {past} past weir", self.open()));
        }
        self.direct_leave_and_come(&alive, quota);
        if let [first, _, ..] = alive[..] {
            // They go from one weir, and come to another.
            self.weirs[first].wants = 0;
            if !self.until(self.at + 4 * SECOND, |world| world.of(first) == 0 && world.open() == quota) {
                self.fails(&format!("{} of {quota} are in after others have left", self.open()));
            }
            self.is_fair(&alive, quota);
        }
        alive.iter().for_each(|weir| self.weirs[*weir].wants = 0);
        for weir in &alive {
            self.weirs[*weir].ledger.leave();
        }
        if !self.until(self.at + 5 * SECOND, |world| world.alive().all(|weir| weir.ledger.has_left())) {
            self.fails("not everything is given back");
        }
        for weir in self.alive() {
            assert_eq!(weir.allowance.usage().held, 0, "seed {}", self.seed);
        }
        let record = self.bucket.get(&Place::Leases(key())).map(|value| Record::decode(value).unwrap());
        if let Some(record) = record.filter(|record| record.l.values().any(|entry| entry.n > 0)) {
            self.fails(&format!("leases are left: {record:?}"));
        }
    }

    fn of(&self, weir: usize) -> u32 {
        self.servers.keys().filter(|(of, _)| *of == weir).count() as u32
    }

    fn all_want(&mut self, weirs: &[usize], many: u32) {
        for weir in weirs {
            self.weirs[*weir].wants = many;
            self.weirs[*weir].needs_look.store(true, SeqCst);
        }
    }

    /// Those that came past weir leave room for as many through weirs; as many as come again get in only later.
    fn direct_leave_and_come(&mut self, alive: &[usize], quota: u32) {
        if !self.direct.come {
            return;
        }
        self.are_past([0; 2]);
        if !self.until(self.at + 6 * SECOND, |world| world.open() == quota) {
            self.fails(&format!("{} of {quota} are in after those past weir have left", self.open()));
        }
        let past = self.rng.u32(..=quota);
        self.are_past([past, 0]);
        self.until(self.at + 6 * SECOND, |_| false);
        if self.open() != quota {
            self.fails("somebody is out for one who came past weir");
        }
        if let [first, _, ..] = *alive {
            let of_first = self.of(first);
            self.weirs[first].wants = 0;
            self.until(self.at + 6 * SECOND, |_| false);
            let room = quota - of_first + of_first.saturating_sub(past);
            if self.open() != room {
                self.fails(&format!("{} are in of {quota}, and {past} past weir, and {room} should be", self.open()));
            }
        }
        self.are_past([0; 2]);
        self.all_want(alive, quota);
        // Where nobody lacked a place for them it is the record alone that has to follow: with what it says of them no
        // quota can be filled by others within the time that is given for that.
        let have_left = |world: &Self| world.open() == quota && world.record().past == 0;
        if !self.until(self.at + 6 * SECOND, have_left) {
            self.fails(&format!("{} of {quota} are in after those past weir have left again", self.open()));
        }
    }

    /// All leave and come again, and clients change for a while: each weir gets its max-min fair part of the quota.
    fn is_fair(&mut self, alive: &[usize], quota: u32) {
        self.all_want(alive, 0);
        self.until(self.at + 3 * SECOND, |world| world.open() == 0);
        let wants: Vec<u32> = alive.iter().map(|_| self.rng.u32(..=quota)).collect();
        alive.iter().zip(&wants).for_each(|(weir, wants)| self.weirs[*weir].wants = *wants);
        let all = quota.min(wants.iter().sum());
        if !self.until(self.at + 4 * SECOND, |world| world.open() == all) {
            self.fails(&format!("{} of {all} are in when all come again, to {wants:?}", self.open()));
        }
        for _ in 0..8 * quota {
            self.one_leaves_later();
        }
        // Where two of a weir leave in the same moment others have their places before its next ones come: it gets them
        // back as others leave.
        let shares = share::max_min(quota, &wants);
        for _ in 0..quota {
            self.until(self.at + 4 * SECOND, |world| world.open() == all);
            if self.open() == all && self.has(alive, &shares) {
                return;
            }
            self.one_leaves_later();
        }
        let has: Vec<_> = alive.iter().map(|weir| self.of(*weir)).collect();
        self.fails(&format!("they have {has:?} of {quota}, want {wants:?} and should have {shares:?}"));
    }

    fn one_leaves_later(&mut self) {
        let after = self.rng.u64(..100 * MS);
        self.until(self.at + after, |_| false);
        self.one_leaves();
    }

    /// Whether each weir has its share. The last chunk is one.
    fn has(&self, alive: &[usize], shares: &[u32]) -> bool {
        alive.iter().zip(shares).all(|(weir, share)| self.of(*weir).abs_diff(*share) <= 1)
    }
}
