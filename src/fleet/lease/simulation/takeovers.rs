//! Processes that take over from those that run, on the same machines: the ledger goes along as its text at any moment,
//! also with writes under way, and the takeover may be off before that, or the new process dead right after it.
//!
//! A process that takes over gets the number of the one before, which gets the new number: for the others nothing
//! changes. What is under way of each process goes with it.

use std::{cmp::Reverse, mem};

use crate::fleet::lease::{
    ledger::LedgerState,
    simulation::{
        event::{Due, Event},
        weir::{Role, Stage, Time, Weir},
        world::{MS, SECOND, World},
    },
};

/// The process before waits for answers no longer than this.
const ANSWERS_WITHIN: Time = 300 * MS;

/// The process before goes on if the new one is gone so soon.
const TAKES_BACK_WITHIN: Time = 2 * SECOND;

impl World {
    /// Some weir is taken over, now and then.
    pub(super) fn someone_takes_over(&mut self) {
        if self.is_healed || !self.has_takeovers {
            return;
        }
        self.within(..4 * SECOND, Event::TakesOver);
        let can = |weir: &Weir| {
            let is_here = weir.is_alive && weir.role == Role::Member && !weir.is_stopped();
            // As long as the process before may go on it is not taken over itself.
            is_here && !weir.is_paused && self.at >= weir.taken_over_until
        };
        let able: Vec<usize> = (0..self.weirs.len()).filter(|weir| can(&self.weirs[*weir])).collect();
        if able.is_empty() || self.weirs.len() >= 20 {
            return;
        }
        let (old, new) = (able[self.rng.usize(..able.len())], self.weirs.len());
        let taker = Weir::taking_over(&self.weirs[old], self.at, &mut self.rng);
        self.weirs.push(taker);
        self.stopped_at.push(0);
        self.starts(new);
        // Nobody is let in from now on, and whoever waits goes to the new process.
        self.weirs[old].is_paused = true;
        self.weirs[old].waiting.clear();
        self.tells(&format!("{old} is to be taken over by {new}"));
        match self.rng.u32(..4) {
            0 => self.within(..4 * SECOND, Event::BreaksOff(old, new)),
            _ => self.within(..3 * SECOND, Event::Stops(old, new)),
        }
    }

    pub(super) fn breaks_off(&mut self, old: usize, new: usize) {
        self.tells(&format!("{old} goes on"));
        self.weirs[new].is_alive = false;
        self.weirs[old].is_paused = false;
    }

    /// The process before begins no more writes.
    pub(super) fn stops(&mut self, old: usize, new: usize) {
        if !self.weirs[new].is_alive {
            return self.breaks_off(old, new);
        }
        // What an earlier process has is told by its successor alone.
        if self.rng.u32(..8) == 0 && self.weirs[old].counted.is_empty() {
            return self.dies_too_soon(old, new);
        }
        self.weirs[old].ledger.stop_writing();
        self.later(0, Event::Gives(old, new, self.at + ANSWERS_WITHIN));
    }

    pub(super) fn gives(&mut self, old: usize, new: usize, until: Time) {
        let (at, one) = (self.at, &mut self.weirs[old]);
        if one.ledger.awaits_answers() && at < until {
            return self.within(..5 * MS, Event::Gives(old, new, until));
        }
        let then = one.now(at);
        let state = serde_json::to_string(&one.ledger.give(then)).unwrap();
        self.weirs[old].has_given = true;
        self.tells(&format!("{old} gives {state}"));
        match self.rng.u32(..8) {
            0 => self.within(..100 * MS, Event::IsAloneAgain(old, new)),
            _ => self.within(..50 * MS, Event::Adopts(new, old, then, state)),
        }
    }

    /// The process before dies when some of its connections are the new one's, and none of its leases. Its kernel
    /// closes the others.
    fn dies_too_soon(&mut self, old: usize, new: usize) {
        // The new one has heard of its term at the beginning.
        let term = self.weirs[old].ledger.last_term().saturating_sub(self.rng.u32(..3));
        self.tells(&format!("{old} is killed, and {new} goes on behind term {term}"));
        self.swap(old, new);
        let (member, before) = (old, new);
        let at = self.at;
        let [one, other] = self.weirs.get_disjoint_mut([member, before]).unwrap();
        for (id, mut connection) in mem::take(&mut other.connections) {
            if connection.stage != Stage::Open || self.rng.u32(..4) == 0 {
                self.servers.remove(&(member, id));
                continue;
            }
            let mut place = one.allowance.take_over();
            place.opened();
            connection.place = place;
            one.connections.insert(id, connection);
        }
        one.ledger.begin_after(term, one.now(at));
        one.goes_on_from(other);
        (one.role, other.role) = (Role::Member, Role::Given);
        (one.is_paused, other.is_alive) = (false, false);
        other.backlog.clear();
        self.says_what_it_has(member);
    }

    /// The new process is gone before it has anything.
    pub(super) fn is_alone_again(&mut self, old: usize, new: usize) {
        self.breaks_off(old, new);
        let (at, one) = (self.at, &mut self.weirs[old]);
        one.has_given = false;
        one.ledger.take_back(one.now(at));
    }

    pub(super) fn adopts(&mut self, new: usize, old: usize, then: std::time::Instant, state: &str) {
        if !self.weirs[old].is_alive {
            self.weirs[new].is_alive = false;
            return;
        }
        self.swap(old, new);
        let (member, before) = (old, new);
        let at = self.at;
        let [one, other] = self.weirs.get_disjoint_mut([member, before]).unwrap();
        // Connections that the new process goes on with, and others that it counts: those under way, and some that
        // cannot go.
        let mut to_stay = Vec::new();
        for (id, mut connection) in mem::take(&mut other.connections) {
            let mut place = one.allowance.take_over();
            if connection.stage == Stage::Open && self.rng.u32(..4) > 0 {
                place.opened();
                connection.place = place;
                one.connections.insert(id, connection);
            } else {
                one.counted.insert(id, place);
                to_stay.push(id);
                other.connections.insert(id, connection);
            }
        }
        // What a process before that one has is counted as well.
        for id in other.counted.keys() {
            one.counted.insert(*id, one.allowance.take_over());
        }
        let state: LedgerState = serde_json::from_str(state).unwrap();
        let now = one.now(at);
        one.ledger.adopt(&state, then, now);
        one.goes_on_from(other);
        one.senses = other.senses.clone();
        one.senses.forget_reading();
        (one.role, other.role) = (Role::Member, Role::Given);
        (one.is_paused, other.is_paused) = (false, true);
        one.taken_over_until = at + TAKES_BACK_WITHIN + SECOND;
        self.tells(&format!("{before} was taken over, and {} stay", to_stay.len()));
        for id in to_stay {
            if let Some(is_excepted) = self.servers.remove(&(member, id)) {
                self.servers.insert((before, id), is_excepted);
            }
            self.within(SECOND..6 * SECOND, Event::Ends(before, id, member));
        }
        // It ends by itself, once nothing is left.
        self.within(TAKES_BACK_WITHIN..6 * SECOND, Event::Ends(before, 0, member));
        if !self.is_healed && self.rng.u32(..8) == 0 {
            self.within(..TAKES_BACK_WITHIN, Event::IsGone(member, before));
        }
    }

    /// A connection ends that has stayed in the process before; the new one hears of it.
    pub(super) fn ends(&mut self, before: usize, id: u64, member: usize) {
        if self.weirs[before].role != Role::Given {
            return;
        }
        let is_under_way = self.weirs[before].connections.get(&id).is_some_and(|one| one.stage != Stage::Open);
        if self.weirs[before].is_alive && (is_under_way || self.weirs[before].is_stopped()) {
            return self.within(SECOND..2 * SECOND, Event::Ends(before, id, member));
        }
        let has = |weir: &Weir| weir.is_alive && weir.connections.contains_key(&id);
        if !has(&self.weirs[before]) && self.weirs.iter().any(has) {
            // The process before has gone on since, and may have given it to another one.
            return;
        }
        self.servers.remove(&(before, id));
        self.weirs[before].connections.remove(&id);
        self.within(..200 * MS, Event::IsTold(member, id));
        if self.weirs[before].connections.is_empty() {
            self.weirs[before].is_alive = false;
        }
    }

    /// All processes of a weir that count it hear of the end.
    pub(super) fn is_told(&mut self, member: usize, id: u64) {
        let holder = self.weirs[member].holder.clone();
        self.weirs.iter_mut().filter(|weir| weir.holder == holder).for_each(|weir| drop(weir.counted.remove(&id)));
    }

    /// The new process is killed; its kernel closes its connections, and the process before sees that it is gone.
    pub(super) fn is_gone(&mut self, member: usize, before: usize) {
        let [one, other] = [&self.weirs[member], &self.weirs[before]];
        if !one.is_alive || one.role != Role::Member || one.is_paused || !other.is_alive || other.role != Role::Given {
            return;
        }
        self.tells(&format!("{member} is killed, and {before} goes on"));
        self.weirs[member].is_alive = false;
        self.weirs[member].backlog.clear();
        self.servers.retain(|(of, _), _| *of != member);
        self.within(..100 * MS, Event::TakesBack(before, member));
    }

    pub(super) fn takes_back(&mut self, before: usize, member: usize) {
        self.swap(before, member);
        let staying: Vec<_> = self.servers.keys().filter(|(of, _)| *of == before).copied().collect();
        for (_, id) in staying {
            let is_excepted = self.servers.remove(&(before, id)).unwrap_or_default();
            self.servers.insert((member, id), is_excepted);
        }
        let (at, [one, other]) = (self.at, self.weirs.get_disjoint_mut([member, before]).unwrap());
        one.goes_on_from(other);
        (one.role, other.role, one.is_paused) = (Role::Member, Role::Given, false);
        other.counted.clear();
        one.has_given = false;
        one.ledger.take_back(one.now(at));
        self.says_what_it_has(member);
        self.starts(member);
    }

    /// Both change their numbers, with all that is under way of each of them.
    fn swap(&mut self, one: usize, other: usize) {
        self.weirs.swap(one, other);
        self.stopped_at.swap(one, other);
        let rename = |event: &mut Event| {
            if let Some(weir) = event.process_only() {
                *weir = match *weir {
                    weir if weir == one => other,
                    weir if weir == other => one,
                    weir => weir,
                }
            }
        };
        for weir in [one, other] {
            self.weirs[weir].backlog.iter_mut().for_each(rename);
        }
        let due = mem::take(&mut self.due).into_iter().map(|Reverse(Due(at, serial, mut event))| {
            rename(&mut event);
            Reverse(Due(at, serial, event))
        });
        self.due = due.collect();
    }
}
