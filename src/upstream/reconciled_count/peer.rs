//! What one peer has said lately of one count.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::fleet::peers::PeerReport;

/// Most reports that are kept of a peer. Those of a reading that took longer than they reach back are judged by the
/// oldest.
const MOST_REPORTS: usize = 16;

/// A report that is followed so soon by two others is not kept: its neighbours say the same less exactly.
const APART: Duration = Duration::from_millis(150);

/// When a report was sent is known up to the way that the quickest one took, and to how clocks drift apart.
pub const UNSURE: Duration = Duration::from_millis(100);

/// What a peer held for some time.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// When it first said so.
    from: Instant,
    /// When it last did.
    until: Instant,
    held: u32,
    open: u32,
    taken: u64,
    released: u64,
}

/// What a peer had while the server was asked.
#[derive(Debug, Clone, Copy)]
pub struct Had {
    /// The server has counted at least so many.
    pub least: u32,
    /// The server has counted at most so many.
    pub most: u32,
    /// No later report changes that.
    pub is_certain: bool,
}

/// The reports of one peer.
#[derive(Debug)]
pub struct PeerHistory {
    run: u64,
    began: Instant,
    /// It has ended.
    ended: bool,
    /// Oldest first; never empty.
    reports: VecDeque<Held>,
    last: Held,
}

impl PeerHistory {
    pub fn new(report: &PeerReport) -> Self {
        let &PeerReport { run, sent, began, held, open, taken, released } = report;
        let last = Held { from: sent, until: sent, held, open, taken, released };
        Self { run, began, ended: false, reports: VecDeque::new(), last }
    }

    pub fn run(&self) -> u64 {
        self.run
    }

    /// What it holds by its last report.
    pub fn held(&self) -> u32 {
        self.last.held
    }

    /// Whether a reading that was asked for at `asked` has nothing to do with it.
    pub fn says_nothing_at(&self, asked: Instant, after: Duration) -> bool {
        let after = if self.ended { Duration::ZERO } else { after };
        self.last.held == 0 && asked.saturating_duration_since(self.last.until) > after
    }

    pub fn push(&mut self, report: &PeerReport) {
        let &PeerReport { sent, began, held, open, taken, released, .. } = report;
        let sent = sent.max(self.last.until);
        let is_same =
            |last: &Held| (last.held, last.open) == (held, open) && (last.taken, last.released) == (taken, released);
        (self.began, self.ended) = (began, false);
        if is_same(&self.last) {
            self.last.until = sent;
            return;
        }
        let last = std::mem::replace(&mut self.last, Held { from: sent, until: sent, held, open, taken, released });
        if self.reports.back().is_some_and(|before| last.until.saturating_duration_since(before.from) < APART) {
            return;
        }
        if self.reports.len() + 1 >= MOST_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(last);
    }

    /// It has given back all that it held.
    pub fn end(&mut self, now: Instant) {
        let Held { held, taken, released, .. } = self.last;
        let (run, began, released) = (self.run, self.began, released.saturating_add(held.into()));
        self.push(&PeerReport { run, sent: now, began, held: 0, open: 0, taken, released });
        self.ended = true;
    }

    /// What it has said all the while since then to have open, and to hold: the least of it.
    pub fn said_since(&self, asked: Instant) -> (u32, u32) {
        if self.last.from <= asked {
            return (self.last.open, self.last.held);
        }
        let before = self.reports.iter().rev().find(|one| one.from <= asked);
        let since = self.reports.iter().filter(|one| one.from > asked).chain([&self.last]);
        // It may have opened all of them since.
        let Some(before) = before else { return (0, 0) };
        std::iter::once(before)
            .chain(since)
            .fold((u32::MAX, u32::MAX), |(open, held), one| (open.min(one.open), held.min(one.held)))
    }

    /// What it had between `asked` and `answered`. What it took and gave back meanwhile may have been counted or not.
    pub fn had(&self, asked: Instant, answered: Instant) -> Had {
        let sure = answered + UNSURE;
        if self.began >= sure {
            return Had { least: 0, most: 0, is_certain: true };
        }
        // Where the first report came later, it is taken for what was so before.
        let reports = || self.reports.iter().chain([&self.last]);
        let first = reports().take_while(|one| one.from <= asked).last().or_else(|| reports().next());
        let first = first.unwrap_or(&self.last);
        let after = reports().find(|one| one.until >= sure);
        let last = after.unwrap_or(&self.last);
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let taken = count(last.taken.saturating_sub(first.taken));
        let released = count(last.released.saturating_sub(first.released));
        let is_certain = after.is_some() || self.ended;
        Had { least: first.open.saturating_sub(released), most: first.held.saturating_add(taken), is_certain }
    }
}
