//! Carries out a run: sees to it that each client has a slot before it is closed or its session goes along, and watches
//! where it lands.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{GOES_WITHIN, Mover, OnItsWay, RETURN_WITHIN, Way, movable};
use crate::{
    outcome::{MoveCause, MoveResult},
    rebalance::run::{Candidate, Landing, QUIET, Run, Step, Turn},
    session::move_orders::Done,
    telemetry::moment::Moment,
    upstream::{Server, ServerId, Slot},
};

/// How often it is looked who has landed.
const LOOK: Duration = Duration::from_millis(10);

/// A run in which so many clients in a row find no slot on their new server has no headroom.
const WITHOUT_ROOM: u32 = 20;

/// What a run is asked before each step.
pub(super) enum Go {
    On,
    /// Nobody is to be moved any more, for this reason.
    Stop(String),
    /// As [`Go::Stop`], and those on their way are not waited for.
    Leave,
}

impl Mover {
    /// Carries a run out that `with_run` gives access to. Returns once everybody has landed or is late. Sessions are
    /// not waited for after `asked_until`.
    pub(super) async fn carry_out(
        &self,
        servers: &[Arc<Server>],
        cause: MoveCause,
        asked_until: Option<Instant>,
        mut with_run: impl FnMut(&mut dyn FnMut(&mut Run) -> Step) -> Step,
        mut go: impl FnMut() -> Go,
    ) {
        let mut on_their_way: Vec<OnItsWay> = Vec::new();
        let (mut without_room, mut no_room) = (0, None::<String>);
        loop {
            let now = Instant::now();
            let mut landed = Vec::new();
            let mut stay = Vec::new();
            on_their_way.retain_mut(|one| match self.seen(one, cause, now) {
                Seen::OnItsWay if one.stays(now) => {
                    // The slot of an order that it has not seen is given back.
                    drop(self.shared().move_orders.take(one.session));
                    stay.push(one.flow);
                    false
                }
                Seen::OnItsWay => true,
                Seen::Stays => {
                    stay.push(one.flow);
                    false
                }
                Seen::Landed(landing) => {
                    landed.push((one.flow, landing));
                    false
                }
            });
            let must_stop = match go() {
                Go::On => no_room.clone(),
                Go::Stop(why) => Some(why),
                Go::Leave => {
                    let are_closed = on_their_way.iter().filter(|one| matches!(one.way, Way::Returns(_)));
                    are_closed.for_each(|_| self.count(cause, Landing::Late));
                    return;
                }
            };
            let step = with_run(&mut |run| {
                landed.drain(..).for_each(|(flow, landing)| run.ended(flow, landing));
                stay.drain(..).for_each(|flow| run.not_begun(flow));
                if must_stop.is_some() {
                    run.stop();
                }
                run.next(now, |candidate| self.look(candidate))
            });
            match step {
                Step::Done => return,
                Step::Wait(until) => {
                    let left = until.saturating_duration_since(now);
                    let longest = if on_their_way.is_empty() { QUIET } else { LOOK };
                    sleep(left.clamp(Duration::from_millis(1), longest)).await;
                }
                Step::Move { candidate, flow, to } => {
                    match self.begin(&candidate, servers[candidate.from].id(), &servers[to], cause, now) {
                        Begun::OnItsWay(way) => {
                            without_room = 0;
                            let (session, to) = (candidate.session, servers[to].id());
                            let until = match way {
                                Way::Asked(_) => asked_until.into_iter().fold(now + GOES_WITHIN, Instant::min),
                                _ => now + RETURN_WITHIN,
                            };
                            on_their_way.push(OnItsWay { session, to, way, flow, until });
                        }
                        not => {
                            if matches!(not, Begun::NoSlot) {
                                without_room += 1;
                                if without_room >= WITHOUT_ROOM {
                                    no_room = Some(format!("{} has no free slot", servers[to].name()));
                                }
                            }
                            with_run(&mut |run| {
                                run.not_begun(flow);
                                Step::Wait(now)
                            });
                        }
                    }
                }
            }
        }
    }

    fn count(&self, cause: MoveCause, landing: Landing) {
        let result = match landing {
            Landing::There => MoveResult::Landed,
            Landing::Elsewhere => MoveResult::Elsewhere,
            Landing::Late => MoveResult::Late,
        };
        self.shared().counters.moved(cause, result);
    }

    fn look(&self, candidate: &Candidate) -> Turn {
        match self.shared().sessions.get(candidate.session) {
            Some(session) if movable(&session).is_none() => Turn::Gone,
            // Its client notices nothing, whatever passes.
            Some(session) if session.is_rehomable() => Turn::Quiet,
            Some(session) => {
                let (now, traffic) = (Moment::now(), session.traffic());
                match (now.since(traffic.last_activity()) < QUIET, now.since(traffic.last_heard()) < QUIET) {
                    (false, _) => Turn::Quiet,
                    (true, false) => Turn::OnlyReceives,
                    (true, true) => Turn::Busy,
                }
            }
            None => Turn::Gone,
        }
    }

    /// Keeps a slot for a client, and closes it, or has its session go there.
    fn begin(&self, candidate: &Candidate, from: ServerId, to: &Arc<Server>, cause: MoveCause, now: Instant) -> Begun {
        let session = self.shared().sessions.get(candidate.session);
        // It may have gone to another server since it was counted.
        let Some(session) = session.filter(|session| session.server_id() == from) else { return Begun::Gone };
        if cause == MoveCause::Rebalance && !self.evens_out(&session, now) {
            return Begun::Gone;
        }
        let Some(slot) = Slot::promise(to, now) else { return Begun::NoSlot };
        let way = if session.is_rehomable() {
            let answer = self.shared().move_orders.give(candidate.session, from, slot, cause);
            session.request_move();
            Way::Asked(answer)
        } else {
            let kept = self.shared().admission.moving().expect(candidate.client, slot);
            if !session.end(cause.of_close()) {
                return Begun::Gone;
            }
            Way::Returns(kept)
        };
        if cause == MoveCause::Rebalance {
            self.state().history.moved(candidate.client, now);
        }
        Begun::OnItsWay(way)
    }

    /// Where a client is that is being moved.
    fn seen(&self, one: &mut OnItsWay, cause: MoveCause, now: Instant) -> Seen {
        if let Way::Asked(answer) = &one.way {
            match answer.take() {
                Some(Done::Rehomed(at)) if at == one.to => return Seen::Landed(Landing::There),
                Some(Done::Rehomed(_)) => return Seen::Landed(Landing::Elsewhere),
                Some(Done::Stays) => return Seen::Stays,
                Some(Done::Closes(kept)) => {
                    one.way = Way::Returns(kept);
                    one.until = now + RETURN_WITHIN;
                }
                None => {
                    if self.shared().sessions.get(one.session).is_none() {
                        // It has ended before it saw the order.
                        drop(self.shared().move_orders.take(one.session));
                    }
                    return Seen::OnItsWay;
                }
            }
        }
        let Way::Returns(kept) = &one.way else { return Seen::OnItsWay };
        let landing = match kept.result() {
            Some(MoveResult::Landed) => Landing::There,
            Some(_) => Landing::Elsewhere,
            None if now >= one.until => Landing::Late,
            None => return Seen::OnItsWay,
        };
        self.count(cause, landing);
        Seen::Landed(landing)
    }
}

impl OnItsWay {
    /// Whether it is a session that has not gone in its time.
    fn stays(&self, now: Instant) -> bool {
        matches!(self.way, Way::Asked(_)) && now >= self.until
    }
}

enum Begun {
    OnItsWay(Way),
    NoSlot,
    Gone,
}

enum Seen {
    OnItsWay,
    Landed(Landing),
    /// It stays where it is, or has left by itself.
    Stays,
}
