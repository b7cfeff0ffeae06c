//! Estimates a connection count that weir shares with others, of a server or of an account:
//! `total = direct + peers + held`.
//!
//! `held` is exact: everything that weir has taken and not given back. `peers` is what the other weirs of the fleet say
//! that they hold. `direct` is what came through no weir. A reading bounds `direct` from both sides, since nobody knows
//! which of the weirs' connections in flight the server had counted when it answered. The estimate moves only as far as
//! those bounds force it, so a burst through weirs never looks like a burst of others (docs/contract.md, towards
//! servers 2).
//!
//! What no reading shows is not believed for long ([`doubt`]).
//!
//! What a peer held when the server counted is known for certain only once a later beat of it has come: until then its
//! last one counts, and with the later one the reading is judged anew.

mod doubt;
mod peer;
#[cfg(test)]
mod simulation;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub use self::peer::UNSURE;
use self::{doubt::Doubt, peer::PeerHistory};
use crate::fleet::peers::PeerReport;

/// A peer that holds nothing and has said nothing for this long is forgotten here.
const FORGET_PEER_AFTER: Duration = Duration::from_secs(30);

/// What weir itself had when it asked for a reading. [`ReconciledCount::reconcile`] compares the answer with it.
#[derive(Debug, Clone, Copy)]
pub struct ReadingEpoch {
    asked: Instant,
    held: u32,
    open: u32,
    reserved_total: u64,
    released_total: u64,
}

/// What weir holds, as it tells its peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnCounts {
    /// Taken and not given back.
    pub held: u32,
    /// Of those, the ones that readings count for certain.
    pub open: u32,
    /// Taken since weir began.
    pub taken: u64,
    /// Given back since weir began.
    pub released: u64,
}

/// What a reading has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCount {
    /// When it was asked for.
    pub asked: Instant,
    pub counted: u32,
    /// Those that came through no weir; `None` while a later beat may say otherwise.
    pub direct: Option<u32>,
}

/// The counts of one server or account, shared by all workers.
#[derive(Debug, Default)]
pub struct ReconciledCount {
    /// Taken by weir and not given back.
    held: AtomicU32,
    /// Of those held, the ones that the next reading will count for certain.
    open: AtomicU32,
    reserved_total: AtomicU64,
    released_total: AtomicU64,
    /// Connections that are not weir's: those of `shared`, readable without its lock.
    others: AtomicU32,
    /// Locked when a reading or a beat comes, never on the way of a client.
    shared: Mutex<Others>,
}

/// Connections that are not weir's own.
#[derive(Debug, Default)]
struct Others {
    /// The estimate of those that came through no weir.
    direct: u32,
    peers: Vec<PeerHistory>,
    /// How far what these say is believed.
    doubt: Doubt,
    /// The last reading, as long as it says anything.
    reading: Option<LastReading>,
    /// A reading that waits until all peers have told what they had in it; see [`ReconciledCount::keep_reading`].
    kept: Option<LastReading>,
}

#[derive(Debug, Clone, Copy)]
struct LastReading {
    asked: Instant,
    answered: Instant,
    counted: u32,
    least_own: u32,
    most_own: u32,
    /// Where it lacks servers: the most that were not weir's, by the last one that lacked none.
    lacking: Option<u32>,
    /// The estimate before it, as far as it is certain.
    before: u32,
    /// Whether no later beat can say more about it.
    is_settled: bool,
}

impl LastReading {
    /// The most that were not weir's.
    fn shown(&self) -> u32 {
        self.counted.saturating_sub(self.least_own).max(self.lacking.unwrap_or(0))
    }

    /// The least and the most that came through no weir, if the peers had so many.
    fn bounds(&self, least_peers: u32, most_peers: u32) -> (u32, u32) {
        let most = match self.lacking {
            None => self.counted.saturating_sub(self.least_own.saturating_add(least_peers)),
            Some(_) => u32::MAX,
        };
        let least = self.counted.saturating_sub(self.most_own.saturating_add(most_peers)).min(most);
        (least, most)
    }
}

impl Others {
    /// The least and the most that came through no weir, by a reading and what is known of the peers, and whether no
    /// later beat can say more about it.
    fn bounds(&self, reading: &LastReading) -> ((u32, u32), bool) {
        let (mut least_peers, mut most_peers, mut is_settled) = (0_u32, 0_u32, true);
        for peer in &self.peers {
            let had = peer.had(reading.asked, reading.answered);
            least_peers = least_peers.saturating_add(had.least);
            most_peers = most_peers.saturating_add(had.most);
            is_settled &= had.is_certain;
        }
        (reading.bounds(least_peers, most_peers), is_settled)
    }

    /// Judges the last reading by what is known of the peers.
    fn judge(&mut self) {
        let Some(reading) = self.reading else { return };
        let ((least, most), is_settled) = self.bounds(&reading);
        self.direct = reading.before.clamp(least, most);
        self.reading = Some(LastReading { is_settled, ..reading });
    }

    /// Believes what peers say, or not, by the last reading.
    fn compare(&mut self) {
        let Some(reading) = &self.reading else { return };
        let (mut open, mut held) = (0_u32, 0_u32);
        for peer in &self.peers {
            let (its_open, its_held) = peer.said_since(reading.asked);
            (open, held) = (open.saturating_add(its_open), held.saturating_add(its_held));
        }
        self.doubt.judge(reading.shown(), open, held);
    }

    /// What peers hold, as far as it is believed.
    fn held_by_peers(&self) -> u32 {
        let held = self.peers.iter().map(PeerHistory::held).fold(0, u32::saturating_add);
        self.doubt.believed(held, self.reading.as_ref().map(LastReading::shown))
    }

    fn sum(&self) -> u32 {
        self.direct.saturating_add(self.held_by_peers())
    }
}

impl ReconciledCount {
    /// Takes one, if the total is below `ceiling`.
    pub fn reserve(&self, ceiling: u32) -> bool {
        let room = ceiling.saturating_sub(self.others.load(Relaxed));
        if self.held.fetch_update(Relaxed, Relaxed, |n| (n < room).then(|| n + 1)).is_err() {
            return false;
        }
        self.reserved_total.fetch_add(1, Relaxed);
        true
    }

    /// Takes one over from another process of weir: whoever counts it counts it already, so that it was one of those
    /// that are not weir's. It is [open](Self::opened).
    pub fn adopt(&self) {
        self.change(|others| {
            others.direct = others.direct.saturating_sub(1);
            for reading in [&mut others.reading, &mut others.kept].into_iter().flatten() {
                reading.before = reading.before.saturating_sub(1);
                reading.least_own = reading.least_own.saturating_add(1);
                reading.most_own = reading.most_own.saturating_add(1);
                reading.lacking = reading.lacking.map(|shown| shown.saturating_sub(1));
            }
            // With the lock held, so that nobody sees it on both sides.
            self.held.fetch_add(1, Relaxed);
            self.open.fetch_add(1, Relaxed);
            self.reserved_total.fetch_add(1, Relaxed);
        });
    }

    /// From now on, readings count one of those taken for certain.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// Gives one back; `was_open` says whether [`ReconciledCount::opened`] was called for it.
    pub fn release(&self, was_open: bool) {
        if was_open {
            self.open.fetch_sub(1, Relaxed);
        }
        self.held.fetch_sub(1, Relaxed);
        self.released_total.fetch_add(1, Relaxed);
    }

    /// To be called before a reading is asked for.
    pub fn begin_reading(&self, now: Instant) -> ReadingEpoch {
        ReadingEpoch {
            asked: now,
            open: self.open.load(Relaxed),
            held: self.held.load(Relaxed),
            reserved_total: self.reserved_total.load(Relaxed),
            released_total: self.released_total.load(Relaxed),
        }
    }

    /// Takes in a reading: there were `counted` connections at some time between `epoch` and `now`.
    pub fn reconcile(&self, epoch: ReadingEpoch, now: Instant, counted: u32) {
        self.take_in(epoch, now, counted, true);
    }

    /// The same of a reading that lacks the connections of servers: there were at least so many.
    pub fn reconcile_partial(&self, epoch: ReadingEpoch, now: Instant, counted: u32) {
        self.take_in(epoch, now, counted, false);
    }

    fn take_in(&self, epoch: ReadingEpoch, now: Instant, counted: u32, is_whole: bool) {
        let opened = self.reserved_total.load(Relaxed).wrapping_sub(epoch.reserved_total) as u32;
        let closed = self.released_total.load(Relaxed).wrapping_sub(epoch.released_total) as u32;
        self.change(|others| {
            // What a reading has shown that no later beat has confirmed may be a peer's: it is no ground to stand on.
            // Nor may one that lacks servers take anything back.
            let unsettled = others.reading.filter(|last| is_whole && !last.is_settled);
            let before = unsettled.map_or(others.direct, |last| last.before);
            let lacking = (!is_whole).then(|| others.reading.map_or(0, |last| last.shown()));
            others.peers.retain(|peer| !peer.says_nothing_at(epoch.asked, FORGET_PEER_AFTER));
            others.reading = Some(LastReading {
                asked: epoch.asked,
                answered: now,
                counted,
                least_own: epoch.open.saturating_sub(closed),
                most_own: epoch.held.saturating_add(opened),
                lacking,
                before,
                is_settled: false,
            });
            // Peers may have what it lacks.
            if is_whole {
                others.compare();
            }
            others.judge();
        });
    }

    fn shared(&self) -> MutexGuard<'_, Others> {
        // Valid between any two statements.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Others)) {
        let mut others = self.shared();
        change(&mut others);
        self.others.store(others.sum(), Relaxed);
    }

    /// Readings have ended, so nothing is known any more of connections that came through no weir.
    pub fn forget_others(&self) {
        self.change(|others| (others.direct, others.reading, others.kept) = (0, None, None));
    }

    /// All connections, weir's own in flight included.
    #[inline]
    pub fn total(&self) -> u32 {
        self.others.load(Relaxed).saturating_add(self.held.load(Relaxed))
    }

    /// Those that weir holds.
    pub fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }
}

/// What weirs of a fleet tell each other.
impl ReconciledCount {
    /// What weir tells its peers.
    pub fn own(&self) -> OwnCounts {
        // Totals first: what is taken meanwhile makes bounds wider, never wrong.
        let (taken, released) = (self.reserved_total.load(Relaxed), self.released_total.load(Relaxed));
        OwnCounts { held: self.held.load(Relaxed), open: self.open.load(Relaxed), taken, released }
    }

    /// How many weir has taken since it began.
    pub fn taken(&self) -> u64 {
        self.reserved_total.load(Relaxed)
    }

    /// What a peer has told.
    pub fn peer_says(&self, report: &PeerReport) {
        self.change(|others| {
            match others.peers.iter_mut().find(|peer| peer.run() == report.run) {
                Some(peer) => peer.push(report),
                None => others.peers.push(PeerHistory::new(report)),
            }
            if others.reading.is_some_and(|reading| !reading.is_settled) {
                others.judge();
            }
        });
    }

    /// A peer has ended, and has given back all that it held.
    pub fn peer_ended(&self, run: u64, now: Instant) {
        self.change(|others| {
            if let Some(peer) = others.peers.iter_mut().find(|peer| peer.run() == run) {
                peer.end(now);
            }
        });
    }

    /// A peer is silent. What the last reading counted of it counts as direct until the next reading says otherwise:
    /// whoever is only cut off from the others still holds it.
    pub fn peer_lost(&self, run: u64) {
        self.change(|others| {
            let before = others.peers.len();
            others.peers.retain(|peer| peer.run() != run);
            if others.peers.len() < before
                && let Some(reading) = &mut others.reading
            {
                reading.before = others.direct;
                others.judge();
            }
        });
    }

    /// What peers hold, by their last beats, as far as that is believed.
    pub fn peers(&self) -> u32 {
        self.shared().held_by_peers()
    }

    /// What the last reading has said.
    pub fn last_reading(&self) -> Option<LastCount> {
        let others = self.shared();
        let reading = others.reading?;
        let direct = reading.is_settled.then_some(others.direct);
        Some(LastCount { asked: reading.asked, counted: reading.counted, direct })
    }

    /// Keeps the last reading, if none is kept, until it is known what the peers had in it: later readings may come
    /// faster than beats. Returns whether it is kept now and was not before.
    pub fn keep_reading(&self) -> bool {
        let mut others = self.shared();
        let is_new = others.kept.is_none() && others.reading.is_some();
        if is_new {
            others.kept = others.reading;
        }
        is_new
    }

    /// All peers have told what they had in the reading that is kept: how many it shows that came through no weir, at
    /// least and at most, and when it was asked for. `None` if none is kept.
    pub fn settle_reading(&self) -> Option<((u32, u32), Instant)> {
        let mut others = self.shared();
        let kept = others.kept.take()?;
        Some((others.bounds(&kept).0, kept.asked))
    }

    /// The estimate of those that came through no weir.
    pub fn direct(&self) -> u32 {
        self.shared().direct
    }
}
