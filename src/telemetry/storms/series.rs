//! The course of a storm, second by second, in bounded memory.

use serde::Serialize;

/// One second, or [`Series::seconds_per_point`] of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Point {
    /// The end of the point, in seconds since the storm began.
    pub second: u32,
    /// Connections that were accepted.
    pub arrived: u64,
    /// Clients that were admitted.
    pub admitted: u64,
    /// Clients that began to wait for their turn.
    pub held: u64,
    /// Clients that were refused, for any reason.
    pub refused: u64,
    /// The most clients that waited at the end of a second.
    pub waiting: u64,
    /// Sessions at the end of the point.
    pub sessions: u64,
}

/// All points of a storm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Series {
    /// 1 at first, doubled each time there are too many points.
    pub seconds_per_point: u32,
    pub points: Vec<Point>,
    /// The seconds that the last point covers so far.
    #[serde(skip)]
    filled: u32,
}

impl Default for Series {
    fn default() -> Self {
        Self { seconds_per_point: 1, points: Vec::new(), filled: 1 }
    }
}

impl Point {
    /// This one and the one behind it as one point.
    pub fn and(self, later: Self) -> Self {
        Self {
            second: later.second,
            arrived: self.arrived + later.arrived,
            admitted: self.admitted + later.admitted,
            held: self.held + later.held,
            refused: self.refused + later.refused,
            waiting: self.waiting.max(later.waiting),
            sessions: later.sessions,
        }
    }
}

impl Series {
    /// The most points: ten minutes by the second.
    pub const MOST: usize = 600;

    /// Adds a second.
    pub fn push(&mut self, second: Point) {
        if self.filled < self.seconds_per_point
            && let Some(last) = self.points.last_mut()
        {
            *last = last.and(second);
            self.filled += 1;
            return;
        }
        if self.points.len() == Self::MOST {
            self.points = self.points.chunks(2).map(|pair| pair[0].and(pair[1])).collect();
            self.seconds_per_point *= 2;
        }
        self.points.push(second);
        self.filled = 1;
    }
}
