//! How much of a limit is used, and how long the rest lasts.

use crate::reports::{
    answer::{Rate, Room, TimeLeft},
    growth::{Forecast, Growth},
    history::History,
};

/// What there is of one server or account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `max_connections`; `None` where there is none, or it is not known.
    pub limit: Option<u32>,
    /// What of that may be filled.
    pub usable: Option<u32>,
}

/// The room of one server or account, whose numbers of connections are in `history`.
pub fn room(name: &str, limits: Limits, history: &History) -> Room {
    let Limits { limit, usable } = limits;
    let (used, growth) = (history.last(), history.growth());
    let reaches = |at: Option<f64>| time_left(at?, used, growth);
    Room {
        name: name.to_owned(),
        used,
        limit,
        usable,
        growth: growth.and_then(rate),
        at_80_percent: reaches(limit.map(|limit| 0.8 * f64::from(limit))),
        full: reaches(usable.map(f64::from)),
    }
}

fn rate(growth: Growth) -> Option<Rate> {
    let sure = growth.sure()?;
    let Growth { per_second, error, over } = growth;
    Some(Rate { per_minute: per_second * 60.0, error: error * 60.0, over_seconds: over.as_secs(), sure })
}

fn time_left(at: f64, used: u32, growth: Option<Growth>) -> Option<TimeLeft> {
    if f64::from(used) >= at {
        return Some(TimeLeft { seconds: 0, earliest: 0, latest: 0 });
    }
    let Forecast { at, earliest, latest, sure: _ } = growth?.reaches(at, used.into())?;
    Some(TimeLeft { seconds: at.as_secs(), earliest: earliest.as_secs(), latest: latest.as_secs() })
}

/// How full it is, for sorting: the share of what may be filled, in millionths.
pub fn fullness(room: &Room) -> u64 {
    room.usable.map_or(0, |usable| u64::from(room.used) * 1_000_000 / u64::from(usable.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::growth::Sure;

    fn limits(limit: u32, usable: u32) -> Limits {
        Limits { limit: Some(limit), usable: Some(usable) }
    }

    fn history(samples: impl IntoIterator<Item = u32>) -> History {
        let mut history = History::default();
        samples.into_iter().for_each(|n| history.push(n));
        history
    }

    #[test]
    fn a_server_that_fills_says_when() {
        // One in five seconds, from 100: 160 after five minutes.
        let room = room("n1", limits(1000, 980), &history((0..=60).map(|n| 100 + n)));
        assert_eq!((room.used, room.limit, room.usable), (160, Some(1000), Some(980)));
        let growth = room.growth.unwrap();
        assert_eq!((growth.per_minute.round(), growth.sure, growth.over_seconds), (12.0, Sure::High, 300));
        let (at_80, full) = (room.at_80_percent.unwrap(), room.full.unwrap());
        assert_eq!((at_80.seconds, full.seconds), (640 * 5, 820 * 5));
        assert!(full.earliest < full.seconds && full.seconds < full.latest);
        assert_eq!(fullness(&room), 160 * 1_000_000 / 980);
    }

    #[test]
    fn nothing_is_foretold_without_a_limit_or_a_growth_and_what_has_come_is_told() {
        let still = room("n1", limits(100, 98), &history([50; 300]));
        assert!(still.growth.is_none() && still.at_80_percent.is_none() && still.full.is_none());
        let unlimited = room("n1", Limits { limit: None, usable: None }, &history(0..100));
        assert!(unlimited.growth.is_some() && unlimited.full.is_none());
        let full = room("n1", limits(100, 98), &history([98; 10]));
        assert_eq!((full.at_80_percent.unwrap().seconds, full.full.unwrap().seconds), (0, 0));
        assert_eq!(room("n1", limits(100, 98), &History::default()).used, 0);
    }
}
