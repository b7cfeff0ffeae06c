//! The last minutes, and the course of a storm, as columns: a list of numbers for each thing that is drawn.

use serde::{Deserialize, Serialize};

use crate::telemetry::storms::{Point, Recent, Second, Series};

/// The last minutes, second by second, the oldest first: at most [`Recent::KEPT`] of them, or those that came after
/// the second that the request names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The number of the last second since weir's start: a request with it as `since` gets the seconds after it.
    pub second: u64,
    /// When the last second ended.
    pub unix_ms: u64,
    /// Connections that were accepted in each second.
    pub arrived: Vec<u64>,
    pub admitted: Vec<u64>,
    pub refused: Vec<u64>,
    /// Clients that began to wait for their turn.
    pub held: Vec<u64>,
    /// Clients that waited at the end of each second.
    pub waiting: Vec<u64>,
    /// Sessions at the end of each second.
    pub sessions: Vec<u64>,
    /// Clients per second, to a tenth; null where it was unknown.
    pub pace: Vec<Option<f64>>,
    pub bytes_up: Vec<u64>,
    pub bytes_down: Vec<u64>,
    pub messages_up: Vec<u64>,
    pub messages_down: Vec<u64>,
}

impl History {
    /// The seconds after this one.
    pub(super) fn since(recent: &Recent, second: u64) -> Self {
        let seconds: Vec<_> = recent.seconds().filter(|one| one.number > second).collect();
        let column = |value: fn(&Second) -> u64| seconds.iter().map(|one| value(one)).collect();
        Self {
            second: recent.number(),
            unix_ms: recent.seconds().next_back().map_or(0, |last| last.unix_ms),
            arrived: column(|one| one.arrived),
            admitted: column(|one| one.admitted),
            refused: column(Second::refused_in_all),
            held: column(|one| one.held),
            waiting: column(|one| one.waiting),
            sessions: column(|one| one.sessions),
            pace: seconds.iter().map(|one| one.pace.map(tenths)).collect(),
            bytes_up: column(|one| one.relayed.bytes_up),
            bytes_down: column(|one| one.relayed.bytes_down),
            messages_up: column(|one| one.relayed.messages_up),
            messages_down: column(|one| one.relayed.messages_down),
        }
    }

    /// Takes in the seconds that came later; the oldest make room.
    pub fn append(&mut self, later: Self) {
        fn put<T>(column: &mut Vec<T>, later: Vec<T>) {
            column.extend(later);
            column.drain(..column.len().saturating_sub(Recent::KEPT));
        }
        (self.second, self.unix_ms) = (later.second, later.unix_ms);
        put(&mut self.arrived, later.arrived);
        put(&mut self.admitted, later.admitted);
        put(&mut self.refused, later.refused);
        put(&mut self.held, later.held);
        put(&mut self.waiting, later.waiting);
        put(&mut self.sessions, later.sessions);
        put(&mut self.pace, later.pace);
        put(&mut self.bytes_up, later.bytes_up);
        put(&mut self.bytes_down, later.bytes_down);
        put(&mut self.messages_up, later.messages_up);
        put(&mut self.messages_down, later.messages_down);
    }
}

/// A pace to a tenth: more digits say nothing, and are longer.
pub(super) fn tenths(pace: f64) -> f64 {
    (pace * 10.0).round() / 10.0
}

/// The course of a storm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StormCurve {
    /// How many seconds each number is of; the last one may be of fewer.
    pub seconds_per_point: u32,
    /// Connections that were accepted.
    pub arrived: Vec<u64>,
    pub admitted: Vec<u64>,
    pub refused: Vec<u64>,
    /// The most clients that waited at the end of a second.
    pub waiting: Vec<u64>,
    /// Sessions at the end.
    pub sessions: Vec<u64>,
}

impl StormCurve {
    /// The most points. A storm of up to so many seconds is shown second by second.
    pub const MOST: usize = 150;

    pub(super) fn of(series: &Series) -> Self {
        let per_point = series.points.len().div_ceil(Self::MOST).max(1);
        let points: Vec<Point> =
            series.points.chunks(per_point).filter_map(|some| some.iter().copied().reduce(Point::and)).collect();
        let column = |value: fn(&Point) -> u64| points.iter().map(value).collect();
        Self {
            seconds_per_point: series.seconds_per_point * u32::try_from(per_point).unwrap_or(u32::MAX),
            arrived: column(|point| point.arrived),
            admitted: column(|point| point.admitted),
            refused: column(|point| point.refused),
            waiting: column(|point| point.waiting),
            sessions: column(|point| point.sessions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::storms::Sample;

    #[test]
    fn a_request_gets_the_seconds_that_it_does_not_have() {
        let mut recent = Recent::default();
        for n in 0..=20 {
            recent.second(Sample { arrived: n * n, pace: Some(0.125), unix_ms: n, ..Sample::default() });
        }
        let all = History::since(&recent, 0);
        assert_eq!((all.second, all.unix_ms, all.arrived.len()), (20, 20, 20));
        assert_eq!((all.arrived[0], all.arrived[19], all.pace[0]), (1, 39, Some(0.1)));
        let later = History::since(&recent, 18);
        assert_eq!((later.second, &later.arrived[..]), (20, &[37, 39][..]));
        // A number of another process says nothing: there is nothing after it.
        assert_eq!((History::since(&recent, 99).second, History::since(&recent, 99).arrived.len()), (20, 0));
    }

    #[test]
    fn a_long_storm_has_few_points_and_loses_nobody() {
        let mut series = Series::default();
        for second in 1..=1000 {
            series.push(Point { second, arrived: 3, admitted: 2, held: 0, refused: 1, waiting: 5, sessions: 9 });
        }
        let curve = StormCurve::of(&series);
        assert!(curve.arrived.len() <= StormCurve::MOST && curve.arrived.len() > StormCurve::MOST / 2);
        assert_eq!((curve.arrived.iter().sum::<u64>(), curve.refused.iter().sum::<u64>()), (3000, 1000));
        assert_eq!((curve.waiting[0], curve.sessions[0]), (5, 9));
        assert_eq!(StormCurve::of(&Series::default()), StormCurve { seconds_per_point: 1, ..StormCurve::default() });
    }
}
