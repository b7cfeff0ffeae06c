//! Carries out a run: sees to it that each client has a slot before it is closed, and watches where it lands.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{Mover, OnItsWay, RETURN_WITHIN, movable, send_off};
use crate::{
    outcome::{MoveCause, MoveResult},
    rebalance::run::{Candidate, Landing, QUIET, Run, Step, Turn},
    telemetry::moment::Moment,
    upstream::{Server, Slot},
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
    /// Carries a run out that `with_run` gives access to. Returns once everybody has landed or is late.
    pub(super) async fn carry_out(
        &self,
        servers: &[Arc<Server>],
        cause: MoveCause,
        mut with_run: impl FnMut(&mut dyn FnMut(&mut Run) -> Step) -> Step,
        mut go: impl FnMut() -> Go,
    ) {
        let mut on_their_way: Vec<OnItsWay> = Vec::new();
        let (mut without_room, mut no_room) = (0, None::<String>);
        loop {
            let now = Instant::now();
            let mut landed = Vec::new();
            on_their_way.retain(|one| {
                let landing = landing(one, now);
                landed.extend(landing.map(|landing| (one.flow, landing)));
                landing.is_none()
            });
            for (_, landing) in &landed {
                self.count(cause, *landing);
            }
            let must_stop = match go() {
                Go::On => no_room.clone(),
                Go::Stop(why) => Some(why),
                Go::Leave => {
                    on_their_way.iter().for_each(|_| self.count(cause, Landing::Late));
                    return;
                }
            };
            let step = with_run(&mut |run| {
                landed.drain(..).for_each(|(flow, landing)| run.ended(flow, landing));
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
                Step::Move { candidate, flow, to } => match self.begin(&candidate, &servers[to], cause, now) {
                    Begun::OnItsWay(kept) => {
                        without_room = 0;
                        on_their_way.push(OnItsWay { kept, flow, until: now + RETURN_WITHIN });
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
                },
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
            Some(session) if Moment::now().since(session.traffic().last_activity()) < QUIET => Turn::Busy,
            Some(_) => Turn::Quiet,
            None => Turn::Gone,
        }
    }

    /// Keeps a slot for a client, and closes it.
    fn begin(&self, candidate: &Candidate, to: &Arc<Server>, cause: MoveCause, now: Instant) -> Begun {
        let Some(session) = self.shared().sessions.get(candidate.session) else { return Begun::Gone };
        let Some(slot) = Slot::promise(to, now) else { return Begun::NoSlot };
        let kept = self.shared().admission.moving().expect(candidate.client, slot);
        if !send_off(&session, cause) {
            return Begun::Gone;
        }
        if cause == MoveCause::Rebalance {
            self.state().history.moved(candidate.client, now);
        }
        Begun::OnItsWay(kept)
    }
}

enum Begun {
    OnItsWay(crate::admission::moving::Move),
    NoSlot,
    Gone,
}

fn landing(one: &OnItsWay, now: Instant) -> Option<Landing> {
    match one.kept.result() {
        Some(MoveResult::Landed) => Some(Landing::There),
        Some(_) => Some(Landing::Elsewhere),
        None => (now >= one.until).then_some(Landing::Late),
    }
}
