//! The moves that are under way, as operators see them.

use std::time::Duration;

use humantime::format_duration;
use serde::{Deserialize, Serialize};

use crate::rebalance::run::Progress;

/// The moves that are under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnderWay {
    /// The rebalance that is under way, or the last one.
    pub rebalance: Option<Status>,
    /// Servers whose clients are being moved to the others.
    pub emptied: Vec<Emptied>,
}

/// How far a rebalance has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `running`, `paused`, `stopping` or `ended`.
    pub state: String,
    pub by: String,
    #[serde(flatten)]
    pub progress: Progress,
    /// Moves per second, at most.
    pub rate: f64,
    pub seconds: f64,
    /// How long it will take, if all goes on as it does.
    pub seconds_left: f64,
    /// Why it has stopped before all was done.
    pub stopped: Option<String>,
}

/// A server whose clients are being moved to the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Emptied {
    pub server: String,
    /// As in the log and the metrics.
    pub cause: String,
    /// Those that it had when it began.
    pub sessions: u32,
    /// Those that it still has.
    pub left: u32,
    /// Until when all shall have gone.
    pub seconds_left: f64,
}

impl UnderWay {
    /// A line for each thing that is under way; none once all is done.
    pub fn lines(&self) -> Vec<String> {
        let rebalance = self.rebalance.iter().filter(|one| one.state != "ended").map(Status::line);
        rebalance.chain(self.emptied.iter().map(Emptied::line)).collect()
    }
}

impl Status {
    fn line(&self) -> String {
        let Progress { planned, landed, elsewhere, late, on_their_way, .. } = self.progress;
        let moved = landed + elsewhere + late;
        let state = match (&*self.state, &self.stopped) {
            ("running", _) => format!("about {} left", whole(self.seconds_left)),
            (state, None) => state.to_owned(),
            (state, Some(why)) => format!("{state}: {why}"),
        };
        format!("rebalance by {}: {moved} of {planned} clients moved, {on_their_way} on their way, {state}", self.by)
    }
}

impl Emptied {
    fn line(&self) -> String {
        let Self { server, cause, sessions, left, seconds_left } = self;
        let cause = cause.replace('_', " ");
        let time = if *left > 0 { format!(", for {}", whole(*seconds_left)) } else { String::new() };
        format!("emptying {server} ({cause}): {left} of {sessions} sessions left{time}")
    }
}

/// Seconds in words, rounded up.
fn whole(seconds: f64) -> String {
    format_duration(Duration::from_secs(seconds.max(0.0).ceil() as u64)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_it_is_and_end_with_it() {
        let progress = Progress { planned: 400, landed: 119, late: 1, on_their_way: 3, ..Progress::default() };
        let (by, seconds_left) = ("ops".to_owned(), 61.2);
        let mut now = UnderWay {
            rebalance: Some(Status { state: "running".into(), by, progress, seconds_left, ..Status::default() }),
            emptied: vec![Emptied {
                server: "n1".into(),
                cause: "lame_duck".into(),
                sessions: 120,
                left: 30,
                seconds_left: 4.0,
            }],
        };
        let moving = "rebalance by ops: 120 of 400 clients moved, 3 on their way";
        let emptied = "emptying n1 (lame duck): 30 of 120 sessions left, for 4s";
        assert_eq!(now.lines(), [format!("{moving}, about 1m 2s left"), emptied.to_owned()]);
        let status = now.rebalance.as_mut().unwrap();
        status.state = "paused".into();
        assert_eq!(now.lines()[0], format!("{moving}, paused"));
        let status = now.rebalance.as_mut().unwrap();
        (status.state, status.stopped) = ("stopping".into(), Some("n3: it shuts down".into()));
        assert_eq!(now.lines()[0], format!("{moving}, stopping: n3: it shuts down"));
        now.rebalance.as_mut().unwrap().state = "ended".into();
        assert_eq!(now.lines(), [emptied]);
        assert!(UnderWay::default().lines().is_empty());
    }
}
