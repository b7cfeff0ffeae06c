//! Servers' connections that wait on this worker for a client.
//!
//! Where clients sign, they are those whose client left without a word: they go to the next one, whose signature will be the first
//! for their nonce, so that a health check costs a server one connection now and then, and not one each time. Where nobody signs,
//! they are dialled ahead of the clients: `keeper.rs`, which looks after both.

use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::Notify, time::Instant};

use crate::{
    advertised_info::Shape,
    dial::{DialError, Dialled},
    session::{Shared, dial_first::Opened},
    upstream::{
        Slot,
        placement::Rank,
        preconnect::{Demand, life, may_dial, may_stay},
    },
};

/// A connection with less time left than this for its CONNECT is of no use to anybody who has yet to be greeted.
const LEAST: Duration = Duration::from_millis(500);
/// Each worker keeps so many whose client has left, at most: probes come one by one.
const MOST_LEFT_BEHIND: usize = 16;

/// What waits on this worker.
#[derive(Default)]
struct Room {
    /// The oldest first.
    waiting: Vec<Opened>,
    /// By server, as far as clients have come there.
    to: Vec<Towards>,
}

/// What is dialled ahead to one server.
struct Towards {
    demand: Demand,
    dialling: usize,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
    static CHANGED: Arc<Notify> = Arc::default();
}

/// Notified when the keeper of this worker's room has something to do.
pub(super) fn changed() -> Arc<Notify> {
    CHANGED.with(Arc::clone)
}

/// Keeps a connection until somebody takes it, its server ends it, or its time is up. Gives it back when it is not worth it.
pub(super) fn keep(mut opened: Box<Opened>) -> Option<Box<Opened>> {
    if opened.slot.is_in_lane() || opened.expires < Instant::now() + 2 * LEAST {
        return Some(opened);
    }
    ROOM.with_borrow_mut(|room| {
        if room.waiting.iter().filter(|one| !one.slot.is_ahead()).count() >= MOST_LEFT_BEHIND {
            return Some(opened);
        }
        opened.slot.waits();
        opened.expires -= LEAST;
        room.waiting.push(*opened);
        CHANGED.with(|changed| changed.notify_one());
        None
    })
}

/// The connection with the most time left of those whose client has left.
pub(super) fn take() -> Option<Box<Opened>> {
    ROOM.with_borrow_mut(|room| {
        let now = Instant::now();
        while let Some(at) = room.waiting.iter().rposition(|one| !one.slot.is_ahead() && is_good(one, now)) {
            let mut taken = room.waiting.remove(at);
            if !is_lost(&mut taken) {
                taken.expires += LEAST;
                taken.slot.goes_on();
                return Some(Box::new(taken));
            }
        }
        None
    })
}

/// A connection that was dialled ahead to the server of `slot`, which it replaces. Whoever asks has come to that server: the next
/// one's may be dialled.
pub(super) fn take_ahead(shared: &Shared, slot: &mut Slot) -> Option<Dialled> {
    if shared.dial_ahead == 0 || shared.advertised_info.shape() != Shape::ConnectFirst {
        return None;
    }
    ROOM.with_borrow_mut(|room| {
        let (now, index) = (Instant::now(), slot.server().index());
        room.of(shared, index).demand.came(now.into_std());
        CHANGED.with(|changed| changed.notify_one());
        while let Some(at) = room.waiting.iter().position(|one| is_ahead_to(one, index) && is_good(one, now)) {
            let mut taken = room.waiting.remove(at);
            if is_lost(&mut taken) {
                count(shared, index, Outcome::Lost);
                continue;
            }
            taken.slot.goes_on();
            *slot = taken.slot;
            return Some(taken.dialled);
        }
        None
    })
}

/// A connection that was dialled ahead is there, or nothing came of it.
pub(super) fn dialled_ahead(shared: &Shared, index: usize, opened: Option<Opened>) {
    ROOM.with_borrow_mut(|room| {
        room.of(shared, index).dialling -= 1;
        room.waiting.extend(opened);
    });
}

/// Takes out what is not to wait any longer; what servers have ended meanwhile is gone.
pub(super) fn sort_out(shared: &Shared) -> Vec<Opened> {
    ROOM.with_borrow_mut(|room| {
        let now = Instant::now();
        room.waiting.retain_mut(|one| {
            let lost = is_lost(one);
            if lost && one.slot.is_ahead() {
                count(shared, one.slot.server().index(), Outcome::Lost);
            }
            !lost
        });
        let is_closing = shared.admission.is_draining();
        let has_nonces = shared.advertised_info.shape() != Shape::ConnectFirst;
        let is_over = |one: &mut Opened| is_closing || !is_good(one, now) || (one.slot.is_ahead() && has_nonces);
        let over: Vec<_> = room.waiting.extract_if(.., is_over).collect();
        over.iter().filter(|one| one.slot.is_ahead()).for_each(|one| {
            count(shared, one.slot.server().index(), Outcome::Unused);
        });
        over
    })
}

/// The servers that are to be dialled ahead, each as often as it lacks one; what is returned counts as being dialled.
pub(super) fn missing(shared: &Shared) -> Vec<usize> {
    // Those who wait need the slots, and the servers' time.
    let is_wanted = shared.dial_ahead > 0 && shared.admission.held() == 0 && !shared.admission.is_draining();
    ROOM.with_borrow_mut(|Room { waiting, to }| {
        let now = Instant::now().into_std();
        let mut missing = Vec::new();
        for (index, (to, server)) in to.iter_mut().zip(shared.servers.iter()).enumerate() {
            if to.demand.is_over() {
                continue;
            }
            let has = to.dialling + waiting.iter().filter(|one| is_ahead_to(one, index)).count();
            let lacks = to.demand.wanted(now, life(server.auth_timeout())).saturating_sub(has);
            if is_wanted && lacks > 0 && may_dial(&server.view(now)) {
                to.dialling += lacks;
                missing.extend(std::iter::repeat_n(index, lacks));
            }
        }
        missing
    })
}

/// Whether nothing waits, nor is wanted.
pub(super) fn is_quiet() -> bool {
    ROOM.with_borrow(|room| room.waiting.is_empty() && room.to.iter().all(|to| to.demand.is_over()))
}

/// Closes everything that waits.
pub(super) fn clear() {
    // Where the thread ends too, the room has gone.
    let _ = ROOM.try_with(|room| room.take());
}

/// What becomes of a connection that was dialled ahead.
pub(super) enum Outcome {
    /// A client got it.
    Used,
    /// Its time was up, or its slot was needed.
    Unused,
    /// Its server ended it.
    Lost,
}

/// Counts an end.
pub(super) fn count(shared: &Shared, server: usize, outcome: Outcome) {
    let ended = &shared.counters.servers[server].ahead;
    match outcome {
        Outcome::Used => &ended.used,
        Outcome::Unused => &ended.unused,
        Outcome::Lost => &ended.lost,
    }
    .fetch_add(1, Relaxed);
}

fn is_ahead_to(one: &Opened, server: usize) -> bool {
    one.slot.is_ahead() && one.slot.server().index() == server
}

/// Whether it may be used still.
fn is_good(one: &Opened, now: Instant) -> bool {
    let view = one.slot.server().view(now.into_std());
    now < one.expires && if one.slot.is_ahead() { may_stay(&view) } else { view.rank == Rank::Eligible }
}

/// Whether its server has ended it, as far as has been heard.
fn is_lost(one: &mut Opened) -> bool {
    let Some(lost) = one.dialled.lost().now_or_never() else { return false };
    if matches!(lost, DialError::Full) {
        one.slot.server().said_full(Instant::now().into_std());
    }
    true
}

impl Room {
    /// What goes to one server.
    fn of(&mut self, shared: &Shared, server: usize) -> &mut Towards {
        let new = || Towards { demand: Demand::new(shared.dial_ahead), dialling: 0 };
        self.to.resize_with(self.to.len().max(server + 1), new);
        &mut self.to[server]
    }
}
