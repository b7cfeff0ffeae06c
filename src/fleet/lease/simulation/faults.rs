//! What goes wrong in the first part of a history, and what must be when it is well again.

use std::{ops::RangeTo, sync::atomic::Ordering::SeqCst};

use crate::fleet::lease::{
    Place,
    record::Record,
    simulation::{
        weir::{Network, Time, key},
        world::{Event, MS, SECOND, World},
    },
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

    fn one_alive(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.weirs.len()).filter(|weir| self.weirs[*weir].is_alive).collect();
        (!alive.is_empty()).then(|| alive[self.rng.usize(..alive.len())])
    }

    fn crash(&mut self, weir: usize) {
        let one = &mut self.weirs[weir];
        one.is_alive = false;
        one.backlog.clear();
        // Of a process that is killed the servers are told by its kernel; of a machine that is gone by nobody.
        let after = if self.rng.bool() { self.rng.u64(..10 * MS) } else { self.rng.u64(..30 * SECOND) };
        self.later(after, Event::Gone(weir));
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
        self.until(self.at + 8 * SECOND, |_| false);
        let alive: Vec<usize> = (0..self.weirs.len()).filter(|weir| self.weirs[*weir].is_alive).collect();
        for weir in &alive {
            self.weirs[*weir].wants = quota;
            self.weirs[*weir].needs_look.store(true, SeqCst);
        }
        // What a machine that is gone has left at the servers goes within 30 s.
        let left_by_dead = |world: &Self| world.servers.keys().any(|(weir, _)| !world.weirs[*weir].is_alive);
        self.until(self.at + 30 * SECOND, |world| !left_by_dead(world));
        let has_ended = |record: &Record, world: &Self| {
            record.l.iter().any(|(holder, entry)| entry.n > 0 && world.alive().all(|weir| weir.holder != *holder))
        };
        let is_filled = |world: &Self| {
            let record = world.bucket.get(&Place::Leases(key())).map(|value| Record::decode(value).unwrap());
            world.open() == quota && record.is_none_or(|record| !has_ended(&record, world))
        };
        if !self.until(self.at + 25 * SECOND, is_filled) {
            self.fails(&format!("{} connections of a quota of {quota} in the end", self.open()));
        }
        let of = |world: &Self, weir: usize| world.servers.keys().filter(|(of, _)| *of == weir).count() as u32;
        // They go from one weir, and come to another.
        if let [first, .., last] = alive[..] {
            self.weirs[first].wants = 0;
            let others = quota;
            if !self.until(self.at + 4 * SECOND, |world| of(world, first) == 0 && world.open() == others) {
                self.fails(&format!("{} of {quota} are in after others have left", self.open()));
            }
            // All leave and come again: each weir gets its share.
            alive.iter().for_each(|weir| self.weirs[*weir].wants = 0);
            self.until(self.at + 3 * SECOND, |world| world.open() == 0);
            let wants: Vec<u32> = alive.iter().map(|_| self.rng.u32(..=quota)).collect();
            alive.iter().zip(&wants).for_each(|(weir, wants)| self.weirs[*weir].wants = *wants);
            let all = quota.min(wants.iter().sum());
            if !self.until(self.at + 4 * SECOND, |world| world.open() == all) {
                self.fails(&format!("{} of {all} are in when all come again, to {wants:?}", self.open()));
            }
            let _ = last;
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
}
