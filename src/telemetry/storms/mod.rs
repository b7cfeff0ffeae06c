//! The flight recorder: describes each storm of clients while it goes on and when it is over.
//!
//! A storm begins with a second in which [`BEGINS`] or more clients had to wait for their turn or were refused for lack
//! of capacity. It is over after [`QUIET`] calm seconds in a row, in which fewer clients had to and none waits. Most
//! refused clients retry within 4 s, so they belong to the storm that refused them. JavaScript clients, which retry
//! after 20 s, may not.

mod flight;
mod groups;
mod recent;
mod series;

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;

use crate::{outcome::Refusal, telemetry::counters::Totals};

pub use self::{
    flight::Flight,
    groups::{Counts, Fate, Group, Groups},
    recent::{Recent, Second},
    series::{Point, Series},
};

/// A storm begins when this many clients in a second had to wait or were refused for lack of capacity.
pub const BEGINS: u64 = 10;
/// A storm is over after this many calm seconds in a row.
pub const QUIET: u32 = 5;
/// Refused clients that come back within this many seconds belong to the storm, though they need not wait any more.
const AWAY: u32 = 4;
/// The storms that are kept.
pub const KEPT: usize = 16;

/// All counters at one moment. Those of events count since weir's start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Connections that were accepted.
    pub arrived: u64,
    /// Clients that were admitted.
    pub admitted: u64,
    /// Clients that had to wait for their turn.
    pub held: u64,
    /// Clients that were refused, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Clients that would have been held, where weir only observes.
    pub would_hold: u64,
    /// Clients that would have been refused, in the order of [`Refusal::ALL`].
    pub would_refuse: [u64; Refusal::ALL.len()],
    /// Clients that wait for their turn now.
    pub waiting: u64,
    /// Sessions now.
    pub sessions: u64,
    /// The pace now, in clients per second, where it is known.
    pub pace: Option<f64>,
    /// What sessions have relayed.
    pub relayed: Totals,
}

impl Sample {
    fn refused_in_all(&self) -> u64 {
        self.refused.iter().sum()
    }

    fn would_refuse_in_all(&self) -> u64 {
        self.would_refuse.iter().sum()
    }

    /// Clients that had to wait, or were refused for lack of capacity; or would have been, where weir only observes.
    fn troubled(&self) -> u64 {
        let reasons = [
            Refusal::ServerCapacity,
            Refusal::NoServer,
            Refusal::HoldExpired,
            Refusal::QueueFull,
            Refusal::ListenerFull,
        ];
        let of = |reason: &Refusal| self.refused[*reason as usize] + self.would_refuse[*reason as usize];
        self.held + self.would_hold + reasons.iter().map(of).sum::<u64>()
    }
}

/// Refusals for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// As in the log and the metrics.
    pub reason: &'static str,
    pub count: u64,
}

/// One storm. While it goes on the figures are those so far.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Storm {
    /// Milliseconds since 1970.
    pub began_unix_ms: u64,
    /// From its beginning to the end of the last second that was not calm: the time to recover.
    pub seconds: u32,
    /// Whether it goes on.
    pub goes_on: bool,
    /// Connections that were accepted.
    pub arrived: u64,
    /// The most connections that were accepted in one second.
    pub peak_arrivals: u64,
    /// Clients that were admitted.
    pub admitted: u64,
    /// Clients that were admitted after they had waited: the sum of the accounts' `admitted`, and of the languages'.
    pub admitted_after_wait: u64,
    /// Clients that left while they waited: the sum of the accounts' `left`, and of the languages'.
    pub left: u64,
    /// Clients that had to wait for their turn, whatever became of them.
    pub held: u64,
    /// The most clients that waited at the end of a second.
    pub most_waiting: u64,
    /// Refusals by reason, without the reasons that did not occur. Their sum is that of the accounts' `refused`, and of
    /// the languages'.
    pub refused: Vec<Refused>,
    /// Clients that were let in and would have had to wait, where weir only observes.
    pub would_hold: u64,
    /// Clients that were let in and would have been refused, where weir or a quota only observes.
    pub would_refuse: u64,
    /// Clients per second that were admitted while others waited, which is what the servers can serve, or that were
    /// admitted after a wait in the seconds in which somebody waited, if these are more: at full servers a place that
    /// comes free often ends the wait of the last one. Where nobody waited for a whole second, the pace when somebody
    /// last waited; `None` where there was none.
    pub pace: Option<f64>,
    /// Sessions when it began.
    pub sessions_before: u64,
    /// The fewest sessions since.
    pub sessions_least: u64,
    /// Sessions when it ended.
    pub sessions_after: u64,
    /// What became of the clients that waited or were refused, by account: the largest first, then `other`.
    pub accounts: Vec<Group>,
    /// What became of them by the `lang` of their CONNECT.
    pub languages: Vec<Group>,
    pub series: Series,
}

/// What a sample has changed.
#[derive(Debug)]
pub enum Change {
    Began,
    Over(Arc<Storm>),
}

#[derive(Debug)]
struct Running {
    storm: Storm,
    began: Sample,
    /// Calm seconds in a row.
    calm: u32,
    /// Seconds that began and ended with somebody waiting, and the clients that were admitted in them.
    busy: (u32, u64),
    /// Seconds in which somebody waited.
    waited: u32,
    /// The pace when somebody last waited.
    pace: Option<f64>,
    elapsed: u32,
    /// Refused clients that have not come back, as far as arrivals tell, and the last second in which one was refused.
    away: (u64, u32),
    /// At the end of the last second that was not calm, or in which refused clients came back.
    at_last: Sample,
    counts_at_last: Counts,
}

/// Finds storms in the samples of each second.
#[derive(Debug, Default)]
pub struct Recorder {
    last: Option<Sample>,
    /// Samples so far.
    samples: u64,
    running: Option<Running>,
    /// Each with the number of samples when it was found to be over.
    over: VecDeque<(u64, Arc<Storm>)>,
}

impl Recorder {
    /// Takes in the sample at the end of a second. Clears `groups` when no storm goes on.
    pub fn second(&mut self, now: Sample, groups: &Groups) -> Option<Change> {
        self.samples += 1;
        let before = self.last.replace(now)?;
        let troubled = now.troubled() - before.troubled() >= BEGINS;
        let Some(running) = &mut self.running else {
            if !troubled {
                groups.forget();
                return None;
            }
            self.running = Some(Running::begin(before, now, groups));
            return Some(Change::Began);
        };
        running.second(&before, &now, troubled, groups);
        if running.calm < QUIET {
            return None;
        }
        let storm = Arc::new(self.running.take()?.so_far(false));
        groups.forget();
        if self.over.len() == KEPT {
            self.over.pop_front();
        }
        self.over.push_back((self.samples, Arc::clone(&storm)));
        Some(Change::Over(storm))
    }

    /// The storm that goes on, if one does.
    pub fn running(&self) -> Option<Storm> {
        self.running.as_ref().map(|running| running.so_far(true))
    }

    /// The last [`KEPT`] storms, the latest first.
    pub fn over(&self) -> Vec<Storm> {
        self.over.iter().rev().map(|(_, storm)| (**storm).clone()).collect()
    }

    /// Those of them that were not over yet at the end of this second, counted from weir's start on.
    pub fn over_since(&self, second: u64) -> Vec<Arc<Storm>> {
        // The first sample is the beginning of second 1.
        self.over.iter().rev().filter(|(at, _)| *at > second + 1).map(|(_, storm)| Arc::clone(storm)).collect()
    }
}

impl Running {
    fn begin(before: Sample, now: Sample, groups: &Groups) -> Self {
        let storm = Storm {
            began_unix_ms: before.unix_ms,
            sessions_before: before.sessions,
            sessions_least: before.sessions,
            ..Storm::default()
        };
        let mut running = Self {
            storm,
            began: before,
            calm: 0,
            busy: (0, 0),
            waited: 0,
            pace: None,
            elapsed: 0,
            away: (0, 0),
            at_last: now,
            counts_at_last: Counts::default(),
        };
        running.second(&before, &now, true, groups);
        running
    }

    fn second(&mut self, before: &Sample, now: &Sample, troubled: bool, groups: &Groups) {
        self.elapsed += 1;
        let admitted = now.admitted - before.admitted;
        let point = Point {
            second: self.elapsed,
            arrived: now.arrived - before.arrived,
            admitted,
            held: now.held - before.held,
            refused: now.refused_in_all() - before.refused_in_all(),
            waiting: now.waiting,
            sessions: now.sessions,
        };
        self.storm.peak_arrivals = self.storm.peak_arrivals.max(point.arrived);
        self.storm.most_waiting = self.storm.most_waiting.max(now.waiting);
        self.storm.sessions_least = self.storm.sessions_least.min(now.sessions);
        self.storm.series.push(point);
        if before.waiting > 0 && now.waiting > 0 {
            self.busy = (self.busy.0 + 1, self.busy.1 + admitted);
        }
        if before.waiting > 0 || now.waiting > 0 || point.held > 0 {
            self.waited += 1;
        }
        if before.waiting > 0 || now.waiting > 0 || troubled {
            self.pace = now.pace.or(self.pace);
        }
        let (away, refused_at) = self.away;
        let comes_back = away > 0 && point.arrived > 0 && self.elapsed - refused_at <= AWAY;
        let refused_at = if point.refused > 0 { self.elapsed } else { refused_at };
        self.away = (away.saturating_sub(point.arrived) + point.refused, refused_at);
        let calm = !troubled && before.waiting == 0 && now.waiting == 0;
        self.calm = if calm { self.calm + 1 } else { 0 };
        if !calm || comes_back {
            self.storm.seconds = self.elapsed;
            self.at_last = *now;
            self.counts_at_last = groups.so_far();
        }
    }

    /// Admitted clients per second while others waited; `None` where nobody waited for a whole second.
    fn measured_pace(&self) -> Option<f64> {
        let (seconds, admitted) = self.busy;
        let while_others_wait = (seconds > 0).then(|| admitted as f64 / f64::from(seconds))?;
        let after_wait = self.counts_at_last.sum(Fate::Admitted) as f64 / f64::from(self.waited.max(1));
        Some(while_others_wait.max(after_wait))
    }

    fn so_far(&self, goes_on: bool) -> Storm {
        let (from, to, counts) = (&self.began, &self.at_last, &self.counts_at_last);
        let reasons =
            Refusal::ALL.into_iter().map(|reason| Refused { reason: reason.name(), count: counts.refused(reason) });
        Storm {
            goes_on,
            arrived: to.arrived - from.arrived,
            admitted: to.admitted - from.admitted,
            admitted_after_wait: counts.sum(Fate::Admitted),
            left: counts.sum(Fate::Left),
            held: to.held - from.held,
            refused: reasons.filter(|one| one.count > 0).collect(),
            would_hold: to.would_hold - from.would_hold,
            would_refuse: to.would_refuse_in_all() - from.would_refuse_in_all(),
            pace: self.measured_pace().or(self.pace),
            sessions_after: to.sessions,
            accounts: counts.accounts(),
            languages: counts.languages(),
            ..self.storm.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counters of a weir.
    #[derive(Default)]
    struct Counters {
        now: Sample,
        recorder: Recorder,
        groups: Groups,
    }

    impl Counters {
        fn second(&mut self, arrived: u64, held: u64, admitted: u64, refused: u64, waiting: u64) -> Option<Change> {
            self.now.unix_ms += 1000;
            self.now.arrived += arrived;
            self.now.held += held;
            self.now.admitted += admitted;
            self.now.sessions += admitted;
            self.now.refused[Refusal::HoldExpired as usize] += refused;
            (0..refused).for_each(|_| self.groups.refused("A", "go", Refusal::HoldExpired));
            self.now.waiting = waiting;
            self.recorder.second(self.now, &self.groups)
        }

        fn calm(&mut self, seconds: u32) -> Option<Arc<Storm>> {
            (0..seconds).find_map(|_| match self.second(1, 0, 1, 0, 0) {
                Some(Change::Over(storm)) => Some(storm),
                _ => None,
            })
        }
    }

    #[test]
    fn a_storm_is_what_happened_from_the_first_wait_to_the_last() {
        let mut weir = Counters::default();
        for _ in 0..10 {
            assert!(weir.second(5, 3, 5, 0, 0).is_none(), "a few clients that wait a moment are no storm");
        }
        weir.groups.note("A", "go", Fate::Admitted);
        assert!(
            weir.calm(1).is_none() && weir.groups.so_far().accounts().is_empty(),
            "clients outside of a storm are forgotten"
        );
        weir.groups.note("A", "go", Fate::Admitted);
        assert!(matches!(weir.second(1000, 990, 40, 0, 950), Some(Change::Began)));
        for _ in 0..3 {
            assert!(weir.second(100, 100, 100, 100, 850).is_none());
        }
        assert!(weir.recorder.running().is_some_and(|storm| storm.goes_on && storm.pace == Some(100.0)));
        assert!(weir.second(0, 0, 850, 0, 0).is_none());
        // Clients that come back after a pause belong to the same storm.
        assert!(weir.calm(QUIET - 2).is_none());
        assert!(weir.second(50, 50, 50, 0, 0).is_none());
        let storm = weir.calm(QUIET).expect("over");
        assert_eq!((storm.began_unix_ms, storm.seconds), (11_000, 9));
        assert_eq!((storm.arrived, storm.admitted, storm.held), (1353, 1243, 1340));
        assert_eq!(storm.refused, [Refused { reason: "hold_expired", count: 300 }]);
        assert_eq!((storm.peak_arrivals, storm.most_waiting), (1000, 950));
        assert_eq!((storm.sessions_before, storm.sessions_after), (51, 1294));
        assert_eq!((storm.accounts.len(), storm.accounts[0].admitted, storm.languages[0].name.as_str()), (1, 1, "go"));
        assert_eq!(storm.series.points.len() as u32, 9 + QUIET);
        assert!(weir.groups.so_far().accounts().is_empty() && weir.recorder.running().is_none());
        assert_eq!(weir.recorder.over().len(), 1);
    }

    /// Nobody waits for a turn, and the servers have room: the clients of one account only come back and back.
    #[test]
    fn a_quota_that_keeps_refusing_begins_no_storm_and_keeps_none_going() {
        let mut weir = Counters::default();
        let over_quota = |weir: &mut Counters| {
            weir.now.refused[Refusal::AccountQuota as usize] += 50;
            (0..50).for_each(|_| weir.groups.refused("Q", "go", Refusal::AccountQuota));
        };
        for _ in 0..10 {
            over_quota(&mut weir);
            assert!(weir.second(50, 0, 0, 0, 0).is_none());
        }
        over_quota(&mut weir);
        assert!(matches!(weir.second(150, 20, 10, 20, 30), Some(Change::Began)));
        over_quota(&mut weir);
        weir.second(50, 0, 30, 0, 0);
        let mut over = None;
        for _ in 0..20 {
            over_quota(&mut weir);
            if let Some(Change::Over(storm)) = weir.second(50, 0, 0, 0, 0) {
                over = Some(storm);
                break;
            }
        }
        let storm = over.expect("it ends although the quota goes on refusing");
        let refused: u64 = storm.refused.iter().map(|one| one.count).sum();
        for groups in [&storm.accounts, &storm.languages] {
            let sum = |count: fn(&Group) -> u64| groups.iter().map(count).sum::<u64>();
            assert_eq!(sum(|one| one.refused), refused);
            assert_eq!(sum(|one| one.admitted), storm.admitted_after_wait);
            assert_eq!(sum(|one| one.left), storm.left);
        }
    }

    /// Whoever waits is refused after one or two seconds, and a place that comes free goes to the only one who waits.
    #[test]
    fn full_servers_admit_as_places_come_free() {
        let mut weir = Counters::default();
        weir.second(0, 0, 0, 0, 0);
        weir.second(60, 58, 19, 16, 25);
        for _ in 0..10 {
            weir.second(20, 20, 0, 15, 10);
            (0..2).for_each(|_| weir.groups.note("A", "go", Fate::Admitted));
            weir.second(3, 3, 2, 11, 0);
        }
        let pace = weir.recorder.running().and_then(|storm| storm.pace);
        assert!(pace.is_some_and(|pace| (0.9..=1.0).contains(&pace)), "20 in 21 seconds: {pace:?}");
    }

    /// The clients are refused and gone before a second is over, so nobody waits for a whole one.
    #[test]
    fn the_pace_of_a_storm_of_a_moment_is_the_one_in_force() {
        let mut weir = Counters::default();
        weir.second(0, 0, 0, 0, 0);
        weir.now.pace = Some(120.0);
        weir.second(300, 290, 60, 230, 0);
        weir.now.pace = Some(7.0);
        let storm = weir.calm(QUIET).expect("over");
        assert_eq!(storm.pace, Some(120.0));
    }

    #[test]
    fn only_the_last_storms_are_kept_and_a_long_one_is_no_larger() {
        let mut weir = Counters::default();
        for n in 0..(KEPT as u64 + 4) {
            weir.second(1, 0, 1, 0, 0);
            weir.second(n + 100, 100, n, 0, 0);
            weir.calm(QUIET + 1).expect("over");
        }
        let over = weir.recorder.over();
        assert_eq!((over.len(), over[0].peak_arrivals), (KEPT, 100 + KEPT as u64 + 3));
        for _ in 0..100_000 {
            weir.second(20, 20, 10, 10, 5);
        }
        let storm = weir.calm(QUIET + 1).expect("over");
        assert_eq!((storm.seconds, storm.arrived), (100_000 + AWAY, 2_000_000 + u64::from(AWAY)));
        assert!(storm.series.points.len() <= Series::MOST);
        let in_points: u64 = storm.series.points.iter().map(|point| point.arrived).sum();
        assert_eq!(in_points, 2_000_001 + u64::from(QUIET));
    }
}
