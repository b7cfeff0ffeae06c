//! The flight recorder: what each storm was like, told when it is over.
//!
//! A storm begins with a second in which [`BEGINS`] or more clients had to wait for their turn or were refused for want of
//! room. It is over after [`QUIET`] calm seconds in a row: fewer of those, and nobody who waits then. So clients that
//! were refused, most of which come back within 4 s, belong to the storm that refused them; JavaScript after its 20 s may not.

mod flight;
mod parties;
mod series;

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;

use crate::outcome::Refusal;

pub use self::{
    flight::Flight,
    parties::{Fate, Parties, Party},
    series::{Point, Series},
};
/// So many clients in a second that waited or were refused for want of room make a storm.
pub const BEGINS: u64 = 10;
/// So many calm seconds in a row end it.
pub const QUIET: u32 = 5;
/// Those who were refused are back within so many seconds, mostly, and belong to the storm though they need not wait any more.
const AWAY: u32 = 4;
/// Storms that are kept.
pub const KEPT: usize = 16;

/// All counters at one moment. What counts events counts them since weir's start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Connections that were accepted.
    pub arrived: u64,
    /// Clients that got in.
    pub admitted: u64,
    /// Clients that had to wait for their turn.
    pub held: u64,
    /// Clients that were refused, by [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Clients that wait now, for their turn or for a refusal's moment.
    pub waiting: u64,
    /// Sessions now.
    pub sessions: u64,
    /// The pace in force now, in clients a second, as far as it is known.
    pub pace: Option<f64>,
}

impl Sample {
    fn refused_in_all(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Those that had to wait, or were refused since there was no room for them this moment.
    fn troubled(&self) -> u64 {
        let reasons = [Refusal::ServerCapacity, Refusal::HoldExpired, Refusal::QueueFull, Refusal::ListenerFull];
        self.held + reasons.iter().map(|&reason| self.refused[reason as usize]).sum::<u64>()
    }
}

/// Refusals for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// As in the log and the metrics.
    pub reason: &'static str,
    /// How many.
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
    /// The most of them in one second.
    pub peak_arrivals: u64,
    /// Clients that got in.
    pub admitted: u64,
    /// Clients that had to wait for their turn, whatever became of them.
    pub held: u64,
    /// The most that waited at the end of a second.
    pub most_waiting: u64,
    /// Refusals by reason, none that did not occur.
    pub refused: Vec<Refused>,
    /// Clients a second that got in while others waited: what the servers can do. When nobody waited for a whole second, the pace
    /// that was in force when somebody did last; unknown when there was none.
    pub pace: Option<f64>,
    /// Sessions when it began.
    pub sessions_before: u64,
    /// The fewest sessions since.
    pub sessions_least: u64,
    /// Sessions when it ended.
    pub sessions_after: u64,
    /// Clients that were refused as often in a row as their library tries before it gives up for good, at its defaults.
    pub lost: u64,
    /// Clients that used up four fifths of those tries, the lost ones included.
    pub in_danger: u64,
    /// What became of those who waited or were refused, by account: the largest first, and `other`.
    pub accounts: Vec<Party>,
    /// The same by the `lang` of their CONNECT.
    pub languages: Vec<Party>,
    /// What happened when.
    pub series: Series,
}

/// What a second has shown.
#[derive(Debug)]
pub enum Told {
    /// A storm has begun.
    Began,
    /// It is over.
    Over(Arc<Storm>),
}

#[derive(Debug)]
struct Running {
    storm: Storm,
    began: Sample,
    /// Calm seconds in a row.
    calm: u32,
    /// Seconds that began and ended with somebody waiting, and clients that got in meanwhile.
    busy: (u32, u64),
    /// The pace in force when somebody waited last.
    pace: Option<f64>,
    elapsed: u32,
    /// Those who were refused and have not come back, as far as arrivals tell, and the last second in which one was refused.
    away: (u64, u32),
    /// At the end of the last second that was not calm, or in which some of those came back.
    at_last: Sample,
}

/// Watches the counters second by second.
#[derive(Debug, Default)]
pub struct Recorder {
    last: Option<Sample>,
    running: Option<Running>,
    over: VecDeque<Arc<Storm>>,
}

impl Recorder {
    /// A second has passed. `parties` is emptied when what it holds belongs to no storm any more.
    pub fn second(&mut self, now: Sample, parties: &Parties) -> Option<Told> {
        let before = self.last.replace(now)?;
        let troubled = now.troubled() - before.troubled() >= BEGINS;
        let Some(running) = &mut self.running else {
            if !troubled {
                parties.forget();
                return None;
            }
            self.running = Some(Running::begin(before, now));
            return Some(Told::Began);
        };
        running.second(&before, &now, troubled);
        if running.calm < QUIET {
            return None;
        }
        let storm = Arc::new(self.running.take()?.so_far(parties, false));
        parties.forget();
        if self.over.len() == KEPT {
            self.over.pop_front();
        }
        self.over.push_back(Arc::clone(&storm));
        Some(Told::Over(storm))
    }

    /// The storm that goes on, if one does.
    pub fn running(&self, parties: &Parties) -> Option<Storm> {
        self.running.as_ref().map(|running| running.so_far(parties, true))
    }

    /// The last [`KEPT`] storms, the latest first.
    pub fn over(&self) -> Vec<Storm> {
        self.over.iter().rev().map(|storm| (**storm).clone()).collect()
    }
}

impl Running {
    fn begin(before: Sample, now: Sample) -> Self {
        let storm = Storm {
            began_unix_ms: before.unix_ms,
            sessions_before: before.sessions,
            sessions_least: before.sessions,
            ..Storm::default()
        };
        let mut running =
            Self { storm, began: before, calm: 0, busy: (0, 0), pace: None, elapsed: 0, away: (0, 0), at_last: now };
        running.second(&before, &now, true);
        running
    }

    fn second(&mut self, before: &Sample, now: &Sample, troubled: bool) {
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
        }
    }

    fn so_far(&self, parties: &Parties, goes_on: bool) -> Storm {
        let (from, to) = (&self.began, &self.at_last);
        let reasons = Refusal::ALL.into_iter().map(|reason| Refused {
            reason: reason.name(),
            count: to.refused[reason as usize] - from.refused[reason as usize],
        });
        let danger = parties.danger();
        Storm {
            goes_on,
            arrived: to.arrived - from.arrived,
            admitted: to.admitted - from.admitted,
            held: to.held - from.held,
            refused: reasons.filter(|one| one.count > 0).collect(),
            pace: (self.busy.0 > 0).then(|| self.busy.1 as f64 / f64::from(self.busy.0)).or(self.pace),
            sessions_after: to.sessions,
            lost: danger.lost,
            in_danger: danger.in_danger,
            accounts: parties.accounts(),
            languages: parties.languages(),
            ..self.storm.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// weir's counters, as a storm moves them.
    #[derive(Default)]
    struct Counters {
        now: Sample,
        recorder: Recorder,
        parties: Parties,
    }

    impl Counters {
        fn second(&mut self, arrived: u64, held: u64, admitted: u64, refused: u64, waiting: u64) -> Option<Told> {
            self.now.unix_ms += 1000;
            self.now.arrived += arrived;
            self.now.held += held;
            self.now.admitted += admitted;
            self.now.sessions += admitted;
            self.now.refused[Refusal::HoldExpired as usize] += refused;
            self.now.waiting = waiting;
            self.recorder.second(self.now, &self.parties)
        }

        fn calm(&mut self, seconds: u32) -> Option<Arc<Storm>> {
            (0..seconds).find_map(|_| match self.second(1, 0, 1, 0, 0) {
                Some(Told::Over(storm)) => Some(storm),
                _ => None,
            })
        }
    }

    #[test]
    fn a_storm_is_what_happened_from_the_first_wait_to_the_last() {
        let mut weir = Counters::default();
        for _ in 0..10 {
            assert!(weir.second(5, 3, 5, 0, 0).is_none(), "a few that wait a moment are no storm");
        }
        weir.parties.note("A", "go", Fate::Admitted);
        assert!(weir.calm(1).is_none() && weir.parties.accounts().is_empty(), "what belongs to no storm is forgotten");
        weir.parties.note("A", "go", Fate::Admitted);
        assert!(matches!(weir.second(1000, 990, 40, 0, 950), Some(Told::Began)));
        for _ in 0..3 {
            assert!(weir.second(100, 100, 100, 100, 850).is_none());
        }
        assert!(weir.recorder.running(&weir.parties).is_some_and(|storm| storm.goes_on && storm.pace == Some(100.0)));
        assert!(weir.second(0, 0, 850, 0, 0).is_none());
        // Somebody comes back after a pause: still the same storm.
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
        assert!(weir.parties.accounts().is_empty() && weir.recorder.running(&weir.parties).is_none());
        assert_eq!(weir.recorder.over().len(), 1);
    }

    /// Refused and away again before a second is over: nobody waits for a whole one.
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
