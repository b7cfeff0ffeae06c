//! Which nats-server process answers at an address. Each process has a `server_id` of its own, so another one is
//! another process: the server has been restarted, or several servers share the address.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How many processes that have answered before are remembered.
const MOST_FORMER: usize = 8;
/// An address at which several processes answer in turn counts as that of several servers until only one has answered
/// for this long.
const SEVERAL_FOR: Duration = Duration::from_secs(60);

/// What the `server_id` of an answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The process that answered last, or the first at all.
    Known,
    /// A process that has not answered before: the server has been restarted.
    New,
    /// One of several that answer in turn. It says nothing of what the others are.
    OneOfSeveral,
}

/// The processes that have answered at one address.
#[derive(Debug, Default)]
pub struct Process {
    id: Option<Box<str>>,
    /// The last comes last.
    former: VecDeque<Box<str>>,
    /// When a process last answered again that another one had taken the place of. No process returns after its end.
    returned_at: Option<Instant>,
}

impl Process {
    /// The process `id` has answered.
    pub fn answered(&mut self, now: Instant, id: &str) -> Seen {
        if self.id.as_deref() == Some(id) {
            return Seen::Known;
        }
        let Some(before) = self.id.replace(id.into()) else { return Seen::Known };
        let returned = self.former.iter().position(|former| **former == *id).map(|at| self.former.remove(at)).is_some();
        if returned {
            self.returned_at = Some(now);
        }
        if self.former.len() == MOST_FORMER {
            self.former.pop_front();
        }
        self.former.push_back(before);
        if returned || self.is_one_of_several(now) { Seen::OneOfSeveral } else { Seen::New }
    }

    /// The one that answered last.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether this process has answered there, last or before.
    pub fn has_been(&self, id: &str) -> bool {
        self.id.as_deref() == Some(id) || self.former.iter().any(|former| **former == *id)
    }

    /// Whether several servers answer at the address.
    pub fn is_one_of_several(&self, now: Instant) -> bool {
        self.returned_at.is_some_and(|at| now.saturating_duration_since(at) < SEVERAL_FOR)
    }

    /// Whether what the process `id` says of itself is true of the server: it is the one that answered last, and not
    /// one of several.
    pub fn speaks_for_server(&self, now: Instant, id: &str) -> bool {
        self.id.as_deref().is_none_or(|known| known == id) && !self.is_one_of_several(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_process_is_a_restart_and_one_that_returns_is_one_of_several() {
        let (mut process, now) = (Process::default(), Instant::now());
        assert_eq!(process.answered(now, "a"), Seen::Known, "the first");
        assert_eq!(process.answered(now, "a"), Seen::Known);
        assert_eq!(process.answered(now, "b"), Seen::New);
        assert!(process.speaks_for_server(now, "b") && !process.speaks_for_server(now, "a"));
        assert_eq!(process.answered(now, "a"), Seen::OneOfSeveral, "no process returns after its end");
        assert_eq!(process.answered(now, "c"), Seen::OneOfSeveral, "a third one of them");
        assert!(!process.speaks_for_server(now, "c"));
        let later = now + SEVERAL_FOR;
        assert!(process.speaks_for_server(later, "c"), "no other one has answered for a minute");
        assert_eq!(process.answered(later, "d"), Seen::New);
    }

    #[test]
    fn restarts_without_end_are_restarts() {
        let (mut process, now) = (Process::default(), Instant::now());
        process.answered(now, "0");
        for n in 1..100 {
            assert_eq!(process.answered(now, &n.to_string()), Seen::New);
            assert!(process.former.len() <= MOST_FORMER);
        }
    }
}
