//! One run: which client is moved next, and when. It is a closed loop: a pair of servers has more clients on their way
//! only as those before are seen to land.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{identity::ClientKey, rebalance::plan::Plan};

/// A client with activity this recently may be within a request.
pub const QUIET: Duration = Duration::from_millis(250);

/// A client that was busy each of so many times, [`QUIET`] apart, is left where it is, or moved last where all have to
/// go. One to which messages come all the while is moved then: it seems to be a subscriber, and within no request.
const ATTEMPTS: u32 = 20;

/// The most clients that are on their way from one server to another.
const WIDEST: u32 = 256;

/// A session that may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub session: u64,
    pub client: ClientKey,
    /// The position of its server.
    pub from: usize,
    /// Since its last activity.
    pub idle: Duration,
    /// It has been moved of late: others go first.
    pub goes_last: bool,
    /// How often it was its turn while it was busy.
    attempts: u32,
    /// Before that it is not its turn again, once it was busy.
    next_turn: Option<Instant>,
}

impl Candidate {
    pub fn new(session: u64, client: ClientKey, from: usize, idle: Duration) -> Self {
        Self { session, client, from, idle, goes_last: false, attempts: 0, next_turn: None }
    }
}

/// How a client is, when it is its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing has passed for [`QUIET`].
    Quiet,
    /// Messages come to it, and it has sent nothing for [`QUIET`].
    OnlyReceives,
    Busy,
    /// Its session has ended, or somebody else ends it.
    Gone,
}

/// What has become of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// It is where it should be.
    There,
    /// It came back, to another server.
    Elsewhere,
    /// It has not come back in its library's time.
    Late,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Move this client along this flow: tell [`Run::ended`] what has become of it, or [`Run::not_begun`].
    Move { candidate: Candidate, flow: usize, to: usize },
    /// Nothing before that time, unless a client lands.
    Wait(Instant),
    /// All is done: no client is left to be moved, and none is on its way.
    Done,
}

/// How a run treats those who are busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Busy clients stay where they are.
    ForBalance,
    /// All have to go: busy clients go last.
    Evacuation,
}

#[derive(Debug)]
struct FlowNow {
    from: usize,
    to: usize,
    left: u32,
    on_their_way: u32,
    /// How many may be on their way.
    width: u32,
}

/// What a run has done so far, in clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub planned: u32,
    pub landed: u32,
    pub elsewhere: u32,
    pub late: u32,
    pub on_their_way: u32,
    /// Those that are still to be moved.
    pub left: u32,
}

#[derive(Debug)]
pub struct Run {
    manner: Manner,
    flows: Vec<FlowNow>,
    candidates: Vec<VecDeque<Candidate>>,
    /// Busy ones, who go last.
    busy: Vec<VecDeque<Candidate>>,
    gap: Duration,
    next_at: Instant,
    is_paused: bool,
    progress: Progress,
    /// Clients that were still to be moved when it was stopped.
    left_behind: u32,
    /// The flow that is looked at first.
    turn: usize,
}

impl Run {
    /// A run of this plan with `rate` moves per second. `candidates` may be of any server, in any order.
    pub fn new(plan: &Plan, candidates: Vec<Candidate>, rate: f64, manner: Manner, now: Instant) -> Self {
        let mut of: Vec<Vec<Candidate>> = plan.after.iter().map(|_| Vec::new()).collect();
        for candidate in candidates {
            if let Some(of) = of.get_mut(candidate.from) {
                of.push(candidate);
            }
        }
        // Idle before busy.
        of.iter_mut().for_each(|of| of.sort_by_key(|one| (one.goes_last, std::cmp::Reverse(one.idle))));
        let width = match manner {
            Manner::ForBalance => 1,
            // It has to be over in time: each client has its slot before it is closed.
            Manner::Evacuation => u32::MAX,
        };
        let flow = |flow: &crate::rebalance::plan::Flow| FlowNow {
            from: flow.from,
            to: flow.to,
            left: flow.clients,
            on_their_way: 0,
            width,
        };
        Self {
            manner,
            flows: plan.flows.iter().map(flow).collect(),
            busy: of.iter().map(|_| VecDeque::new()).collect(),
            candidates: of.into_iter().map(VecDeque::from).collect(),
            gap: Duration::from_secs_f64(1.0 / rate.clamp(0.01, 1e6)),
            next_at: now,
            is_paused: false,
            progress: Progress { planned: plan.clients(), ..Progress::default() },
            left_behind: 0,
            turn: 0,
        }
    }

    /// What to do now. `look` says how a client is at this moment.
    pub fn next(&mut self, now: Instant, mut look: impl FnMut(&Candidate) -> Turn) -> Step {
        if self.is_paused {
            return Step::Wait(now + QUIET);
        }
        if now < self.next_at {
            return Step::Wait(self.next_at);
        }
        for n in 0..self.flows.len() {
            let at = (self.turn + n) % self.flows.len();
            let flow = &self.flows[at];
            if flow.left == 0 || flow.on_their_way >= flow.width {
                continue;
            }
            let (from, to) = (flow.from, flow.to);
            if let Some(candidate) = self.candidate(from, now, &mut look) {
                self.turn = at + 1;
                let flow = &mut self.flows[at];
                flow.left -= 1;
                flow.on_their_way += 1;
                self.progress.on_their_way += 1;
                // No faster than the rate, however late the last one was.
                self.next_at = now + self.gap;
                return Step::Move { candidate, flow: at, to };
            }
        }
        let may_go = |flow: &FlowNow| flow.left > 0 && !self.candidates[flow.from].is_empty();
        if self.progress.on_their_way == 0 && !self.flows.iter().any(may_go) {
            return Step::Done;
        }
        Step::Wait(now + QUIET)
    }

    /// The next client of a server that may go now.
    fn candidate(&mut self, from: usize, now: Instant, look: &mut impl FnMut(&Candidate) -> Turn) -> Option<Candidate> {
        let (waiting, busy) = (&mut self.candidates[from], &mut self.busy[from]);
        // Those who were busy are behind the others, in the order of their next turns. A message to all makes all busy
        // at once: each is asked again when that is over, and not until it seems to be busy all the while.
        while waiting.front().is_some_and(|one| one.next_turn.is_none_or(|at| at <= now)) {
            let mut candidate = waiting.pop_front()?;
            match look(&candidate) {
                Turn::Gone => {}
                Turn::Quiet => return Some(candidate),
                Turn::Busy | Turn::OnlyReceives if candidate.attempts < ATTEMPTS => {
                    candidate.attempts += 1;
                    candidate.next_turn = Some(now + QUIET);
                    waiting.push_back(candidate);
                }
                Turn::OnlyReceives => return Some(candidate),
                Turn::Busy => busy.push_back(candidate),
            }
        }
        while waiting.is_empty() && self.manner == Manner::Evacuation {
            let candidate = busy.pop_front()?;
            if look(&candidate) != Turn::Gone {
                return Some(candidate);
            }
        }
        None
    }

    /// A client that was to be moved has not been closed: it was gone, or its destination had no slot. It is not asked
    /// again.
    pub fn not_begun(&mut self, flow: usize) {
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.on_their_way -= 1;
            flow.left += 1;
            self.progress.on_their_way -= 1;
        }
    }

    /// A move has ended.
    pub fn ended(&mut self, flow: usize, landing: Landing) {
        self.progress.on_their_way = self.progress.on_their_way.saturating_sub(1);
        match landing {
            Landing::There => self.progress.landed += 1,
            Landing::Elsewhere => self.progress.elsewhere += 1,
            Landing::Late => self.progress.late += 1,
        }
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.on_their_way = flow.on_their_way.saturating_sub(1);
            flow.width = match landing {
                Landing::There => flow.width.saturating_add(1).min(WIDEST.max(flow.width)),
                Landing::Elsewhere => flow.width,
                Landing::Late => (flow.width / 2).max(1),
            };
        }
    }

    /// Moves nobody until it is resumed. Those on their way go on.
    pub fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Moves nobody any more. Those on their way go on.
    pub fn stop(&mut self) {
        self.left_behind += self.left();
        self.flows.iter_mut().for_each(|flow| flow.left = 0);
        self.is_paused = false;
    }

    /// What has been done so far.
    pub fn progress(&self) -> Progress {
        Progress { left: self.left() + self.left_behind, ..self.progress }
    }

    /// Clients that it still moves.
    fn left(&self) -> u32 {
        self.flows.iter().map(|flow| flow.left).sum()
    }

    /// Moves per second, at most.
    pub fn rate(&self) -> f64 {
        1.0 / self.gap.as_secs_f64()
    }

    /// When the last one is expected to be moved, if all goes on as it does.
    pub fn time_left(&self, began: Instant, now: Instant) -> Duration {
        let Progress { landed, elsewhere, late, on_their_way, .. } = self.progress;
        let left = self.left();
        let at_the_rate = self.gap.saturating_mul(left);
        let done = landed + elsewhere + late;
        if done < 10 {
            return at_the_rate;
        }
        let each = now.saturating_duration_since(began) / done;
        each.saturating_mul(left + on_their_way).max(at_the_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rebalance::plan::Flow;

    /// A plan in which so many go from the first server to the second.
    fn plan(clients: u32) -> Plan {
        Plan { flows: vec![Flow { from: 0, to: 1, clients }], after: vec![0, clients], ..Plan::default() }
    }

    /// Plays a run in virtual time, in which each client lands at once. Returns how many have gone.
    fn play(clients: u32, turn: impl Fn(Duration) -> Turn) -> u32 {
        let began = Instant::now();
        let of = |n: u32| Candidate::new(n.into(), ClientKey::from_raw(n.into()), 0, Duration::ZERO);
        let mut run = Run::new(&plan(clients), (0..clients).map(of).collect(), 100.0, Manner::ForBalance, began);
        let mut now = began;
        while now < began + Duration::from_secs(60) {
            match run.next(now, |_| turn(now - began)) {
                Step::Move { flow, .. } => run.ended(flow, Landing::There),
                Step::Wait(until) => now = until.min(now + Duration::from_millis(10)),
                Step::Done => break,
            }
        }
        run.progress().landed
    }

    #[test]
    fn a_message_to_all_every_now_and_then_keeps_nobody_where_it_is() {
        let in_each_second = |passed: Duration| if passed.subsec_millis() < 250 { Turn::Busy } else { Turn::Quiet };
        assert_eq!(play(500, in_each_second), 500);
        assert_eq!(play(500, |_| Turn::Quiet), 500);
        assert_eq!(play(500, |_| Turn::Busy), 0, "who is busy all the while stays");
    }

    #[test]
    fn those_to_whom_messages_come_all_the_while_go_and_those_who_are_quiet_go_before_them() {
        assert_eq!(play(500, |_| Turn::OnlyReceives), 500);
        assert_eq!(play(500, |passed| if passed.as_secs() < 5 { Turn::OnlyReceives } else { Turn::Busy }), 0);
        let began = Instant::now();
        let of = |n: u32| Candidate::new(n.into(), ClientKey::from_raw(n.into()), 0, Duration::ZERO);
        let mut run = Run::new(&plan(1), (0..2).map(of).collect(), 100.0, Manner::ForBalance, began);
        let turn = |one: &Candidate| if one.session == 0 { Turn::OnlyReceives } else { Turn::Quiet };
        assert!(matches!(run.next(began, turn), Step::Move { candidate, .. } if candidate.session == 1));
    }

    #[test]
    fn those_who_were_still_to_be_moved_when_it_stopped_are_left() {
        let (began, n) = (Instant::now(), 5);
        let of = |n: u32| Candidate::new(n.into(), ClientKey::from_raw(n.into()), 0, Duration::ZERO);
        let mut run = Run::new(&plan(n), (0..n).map(of).collect(), 100.0, Manner::ForBalance, began);
        let Step::Move { flow, .. } = run.next(began, |_| Turn::Quiet) else { panic!("the first goes at once") };
        run.stop();
        run.stop();
        run.ended(flow, Landing::There);
        assert_eq!(run.next(began + QUIET, |_| Turn::Quiet), Step::Done);
        assert_eq!(run.progress(), Progress { planned: 5, landed: 1, left: 4, ..Progress::default() });
        assert_eq!(run.time_left(began, began + QUIET), Duration::ZERO);
    }
}
