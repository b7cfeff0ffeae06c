//! The moves that are under way, in a line each.

use std::time::Duration;

use humantime::format_duration;

use crate::rebalance::{
    run::Progress,
    under_way::{Emptied, Status, UnderWay},
};

/// A line for each thing that is under way; none once all is done.
pub fn in_words(under_way: &UnderWay) -> Vec<String> {
    let rebalance = under_way.rebalance.iter().filter(|one| one.state != "ended").map(of_rebalance);
    rebalance.chain(under_way.emptied.iter().map(of_emptied)).collect()
}

fn of_rebalance(status: &Status) -> String {
    let Progress { planned, landed, elsewhere, late, on_their_way, .. } = status.progress;
    let moved = landed + elsewhere + late;
    let state = match (&*status.state, &status.stopped) {
        ("running", _) => format!("about {} left", whole(status.seconds_left)),
        (state, None) => state.to_owned(),
        (state, Some(why)) => format!("{state}: {why}"),
    };
    format!("rebalance by {}: {moved} of {planned} clients moved, {on_their_way} on their way, {state}", status.by)
}

fn of_emptied(Emptied { server, cause, sessions, left, seconds_left }: &Emptied) -> String {
    let cause = cause.replace('_', " ");
    let time = if *left > 0 { format!(", for {}", whole(*seconds_left)) } else { String::new() };
    format!("emptying {server} ({cause}): {left} of {sessions} sessions left{time}")
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
        assert_eq!(in_words(&now), [format!("{moving}, about 1m 2s left"), emptied.to_owned()]);
        let status = now.rebalance.as_mut().unwrap();
        status.state = "paused".into();
        assert_eq!(in_words(&now)[0], format!("{moving}, paused"));
        let status = now.rebalance.as_mut().unwrap();
        (status.state, status.stopped) = ("stopping".into(), Some("n3: it shuts down".into()));
        assert_eq!(in_words(&now)[0], format!("{moving}, stopping: n3: it shuts down"));
        now.rebalance.as_mut().unwrap().state = "ended".into();
        assert_eq!(in_words(&now), [emptied]);
        assert!(in_words(&UnderWay::default()).is_empty());
    }
}
