//! How much of a limit is used, and how long the rest lasts.

use std::cmp::Reverse;

use crate::{
    events::{Thing, watch::Row},
    growth::{Forecast, Growth},
    reports::answer::{Headroom, Rate, Room, TimeLeft},
};

/// How much room there is on `servers`, in their order, and in the accounts of `rows`: `most` of them, those that have
/// a limit first, the fullest first.
pub fn headroom<'a>(servers: impl IntoIterator<Item = &'a Row>, rows: &[Row], most: usize) -> Headroom {
    let accounts = rows.iter().filter(|row| row.of == Thing::Account && row.connections > 0);
    let mut accounts: Vec<_> = accounts.map(room).collect();
    accounts.sort_by_key(|one| Reverse((one.limit.is_some(), fullness(one), one.used)));
    accounts.truncate(most);
    Headroom { servers: servers.into_iter().map(room).collect(), accounts }
}

fn room(row: &Row) -> Room {
    let (limit, usable) = (row.limit.map(|limit| limit.max_connections), row.limit.map(|limit| limit.fillable));
    Room {
        name: row.name.to_string(),
        used: row.connections,
        limit,
        usable,
        growth: rate(row.growth),
        at_80_percent: limit.and_then(|limit| time_left(0.8 * f64::from(limit), row.connections, row.growth)),
        full: full(row),
    }
}

/// How fast it grows; `None` where it does not.
pub fn rate(growth: Option<Growth>) -> Option<Rate> {
    let Growth { per_second, error, over } = growth?;
    let confidence = growth?.confidence()?;
    Some(Rate { per_minute: per_second * 60.0, error: error * 60.0, over_seconds: over.as_secs(), confidence })
}

/// When all that may be filled of a row is used; `None` without a limit or a growth.
pub fn full(row: &Row) -> Option<TimeLeft> {
    time_left(f64::from(row.limit?.fillable), row.connections, row.growth)
}

fn time_left(at: f64, used: u32, growth: Option<Growth>) -> Option<TimeLeft> {
    if f64::from(used) >= at {
        return Some(TimeLeft { seconds: 0, earliest: 0, latest: 0 });
    }
    let Forecast { at, earliest, latest, .. } = growth?.reaches(at, used.into())?;
    Some(TimeLeft { seconds: at.as_secs(), earliest: earliest.as_secs(), latest: latest.as_secs() })
}

/// How full it is, for sorting: the share of what may be filled, in millionths.
fn fullness(room: &Room) -> u64 {
    room.usable.map_or(0, |usable| u64::from(room.used) * 1_000_000 / u64::from(usable.max(1)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{events::watch::Limit, growth::Confidence};

    fn row(connections: u32, limit: Option<(u32, u32)>, per_second: Option<f64>) -> Row {
        let growth = per_second.map(|per_second| Growth { per_second, error: 0.002, over: Duration::from_secs(300) });
        let limit = limit.map(|(max_connections, fillable)| Limit { max_connections, fillable });
        Row { of: Thing::Account, id: None, name: "n1".into(), connections, limit, level: None, growth }
    }

    #[test]
    fn a_server_that_fills_says_when() {
        let room = room(&row(160, Some((1000, 980)), Some(0.2)));
        assert_eq!((room.used, room.limit, room.usable), (160, Some(1000), Some(980)));
        let growth = room.growth.unwrap();
        let Rate { per_minute, confidence, over_seconds, .. } = growth;
        assert_eq!((per_minute.round(), confidence, over_seconds), (12.0, Confidence::High, 300));
        let (at_80, full) = (room.at_80_percent.unwrap(), room.full.unwrap());
        assert_eq!((at_80.seconds, full.seconds), (640 * 5, 820 * 5));
        assert!(full.earliest < full.seconds && full.seconds < full.latest);
        assert_eq!(fullness(&room), 160 * 1_000_000 / 980);
    }

    #[test]
    fn nothing_is_foretold_without_a_limit_or_a_growth_and_what_has_come_is_told() {
        let still = room(&row(50, Some((100, 98)), None));
        assert!(still.growth.is_none() && still.at_80_percent.is_none() && still.full.is_none());
        let unlimited = room(&row(99, None, Some(0.2)));
        assert!(unlimited.growth.is_some() && unlimited.full.is_none());
        let full = room(&row(98, Some((100, 98)), None));
        assert_eq!((full.at_80_percent.unwrap().seconds, full.full.unwrap().seconds), (0, 0));
    }

    #[test]
    fn the_fullest_accounts_come_first_and_those_without_a_limit_last() {
        let named = |name: &str, row: Row| Row { name: name.into(), ..row };
        let rows = [
            named("unlimited", row(500, None, None)),
            named("half", row(50, Some((100, 100)), None)),
            named("empty", row(0, Some((100, 100)), None)),
            named("nearly", row(9, Some((10, 10)), None)),
        ];
        let names = |most| headroom([], &rows, most).accounts.into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(
            (names(9), names(1)),
            (vec!["nearly".into(), "half".into(), "unlimited".into()], vec!["nearly".into()])
        );
    }
}
