//! Watches how full everything is, look by look: says what is to be told, and keeps for each thing its level and its
//! growth, for metrics and reports. Bounded, whatever accounts there are.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    events::{
        Thing, Usage,
        fullness::{Change, Fullness, Level, Thresholds},
    },
    growth::{Confidence, Growth, History},
    upstream::ServerId,
};

/// The accounts that are watched: those that use the largest part of their limit. Each takes some 1000 bytes.
const MOST_ACCOUNTS: usize = 1000;

/// When those to watch are chosen, an account at a level counts as fuller than it is, by one in so many: more than lies
/// between full and 90 %.
const ADVANTAGE: u64 = 8;

/// What a look finds.
#[derive(Debug, Clone)]
pub struct Sample {
    pub of: Thing,
    /// Of servers: two of them may have one name, one after the other.
    pub id: Option<ServerId>,
    /// No other of its kind has it at this moment.
    pub name: Arc<str>,
    pub connections: u32,
    /// `None` is no limit, or an unknown one: only its growth is measured.
    pub limit: Option<Limit>,
}

/// How many connections something may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub max_connections: u32,
    /// What of it may be filled: all but the reserve.
    pub fillable: u32,
}

/// What is known of one thing after a look.
#[derive(Debug, Clone)]
pub struct Row {
    pub of: Thing,
    pub id: Option<ServerId>,
    pub name: Arc<str>,
    pub connections: u32,
    pub limit: Option<Limit>,
    pub level: Option<Level>,
    /// `None` where it does not grow, or nobody can tell.
    pub growth: Option<Growth>,
}

impl Row {
    /// The row of what nobody has watched.
    pub fn unwatched(sample: Sample) -> Self {
        let Sample { of, id, name, connections, limit } = sample;
        Self { of, id, name, connections, limit, level: None, growth: None }
    }

    /// When it is full at its present growth; `None` where it does not grow, or that may be chance.
    pub fn full_in(&self) -> Option<Duration> {
        let forecast = self.growth?.reaches(self.limit?.fillable.into(), self.connections.into())?;
        (forecast.confidence > Confidence::Low).then_some(forecast.at)
    }
}

/// What a look says.
#[derive(Debug, Default)]
pub struct Look {
    /// What is to be told.
    pub told: Vec<Usage>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Default)]
struct State {
    fullness: Fullness,
    history: History,
    growth: Option<Growth>,
    seen_at: u64,
}

/// Watches everything that may be full.
#[derive(Debug, Default)]
pub struct Watch {
    looks: u64,
    /// Of servers by id, of all else by name.
    states: HashMap<(Thing, Option<ServerId>, Arc<str>), State>,
}

impl Watch {
    /// To be called once a second with everything there is; what is not there any more is forgotten. `warn_at` is
    /// the part of a limit (0.0 to 1.0) from which on it is told; `time_ago` shows the moment that lies so far back.
    pub fn look(
        &mut self,
        now: Instant,
        warn_at: f64,
        samples: impl IntoIterator<Item = Sample>,
        time_ago: impl Fn(Duration) -> String,
    ) -> Look {
        self.looks += 1;
        let mut look = Look::default();
        for Sample { of, id, name, connections, limit } in samples {
            // The name of a server may change.
            let key = if id.is_some() { Arc::default() } else { Arc::clone(&name) };
            let state = self.states.entry((of, id, key)).or_default();
            state.seen_at = self.looks;
            if state.history.note(now, connections) {
                state.growth = state.history.growth();
            }
            let growth = state.growth;
            let since = state.fullness.since();
            let change = limit.and_then(|limit| {
                let thresholds = Thresholds::new(limit.max_connections, limit.fillable, warn_at);
                Some((limit, state.fullness.look(now, connections, &thresholds)?))
            });
            let level = state.fullness.level();
            if limit.is_none() {
                state.fullness = Fullness::default();
            }
            if let Some((limit, change)) = change {
                // What has fallen below all levels was at one since then.
                let since = state.fullness.since().or(since).unwrap_or(now);
                look.told.push(Usage {
                    of,
                    name: name.to_string(),
                    connections,
                    max_connections: limit.max_connections,
                    full: limit.fillable,
                    level: match change {
                        Change::Rose(level) => Some(level),
                        Change::Fell(level) => level,
                    },
                    rises: matches!(change, Change::Rose(_)),
                    since: time_ago(now.saturating_duration_since(since)),
                    growth,
                });
            }
            look.rows.push(Row { of, id, name, connections, limit, level, growth });
        }
        let looks = self.looks;
        self.states.retain(|_, state| state.seen_at == looks);
        look
    }

    /// Of all accounts, those to watch at the next look. One that is at a level keeps its place beside others that are
    /// somewhat fuller: what is forgotten at a level is told once more when it comes back.
    pub fn largest(&self, accounts: Vec<Sample>) -> Vec<Sample> {
        if accounts.len() <= MOST_ACCOUNTS {
            return accounts;
        }
        let part = |one: &Sample| {
            let most = one.limit.map_or(u32::MAX, |limit| limit.fillable).max(1);
            let part = u64::from(one.connections) * u64::from(u32::MAX) / u64::from(most);
            if self.is_at_a_level(one) { part + part / ADVANTAGE } else { part }
        };
        let mut by_part: Vec<_> = accounts.into_iter().map(|one| (part(&one), one)).collect();
        by_part.select_nth_unstable_by_key(MOST_ACCOUNTS, |(part, _)| std::cmp::Reverse(*part));
        by_part.truncate(MOST_ACCOUNTS);
        by_part.into_iter().map(|(_, one)| one).collect()
    }

    fn is_at_a_level(&self, one: &Sample) -> bool {
        let state = self.states.get(&(one.of, one.id, Arc::clone(&one.name)));
        state.is_some_and(|state| state.fullness.level().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(of: Thing, name: &str, connections: u32, most: u32) -> Sample {
        let limit = (most > 0).then_some(Limit { max_connections: most, fillable: most });
        Sample { of, id: None, name: name.into(), connections, limit }
    }

    /// A reload gives a server another address: the one that leaves has another name from then on.
    #[test]
    fn a_server_in_the_place_of_another_has_a_history_of_its_own() {
        let (start, mut watch) = (Instant::now(), Watch::default());
        let server = |id, name, connections| Sample {
            id: Some(ServerId::from_raw(id)),
            ..sample(Thing::Server, name, connections, 100)
        };
        watch.look(start, 0.8, [server(0, "n1", 95)], ago);
        let look = watch.look(start + SECOND, 0.8, [server(1, "n1", 0), server(0, "n1#0", 95)], ago);
        assert!(
            look.told.is_empty(),
            "the one is as full as before, and the other one was never full: {:?}",
            look.told
        );
        let levels: Vec<_> = look.rows.iter().map(|row| (&*row.name, row.level)).collect();
        assert_eq!(levels, [("n1", None), ("n1#0", Some(Level::Ninety))]);
    }

    fn ago(time: Duration) -> String {
        format!("{} s ago", time.as_secs())
    }

    #[test]
    fn a_leak_is_told_with_its_growth_and_the_time_that_is_left() {
        let (start, mut watch) = (Instant::now(), Watch::default());
        let mut told = Vec::new();
        for second in 0..200_u32 {
            let samples = [sample(Thing::Server, "n1", second, 100), sample(Thing::Server, "n2", 5, 100)];
            let look = watch.look(start + SECOND * second, 0.8, samples, ago);
            for usage in &look.told {
                let row = look.rows.iter().find(|row| *row.name == *usage.name).unwrap();
                assert_eq!((usage.growth, usage.connections), (row.growth, row.connections), "one answer for all");
            }
            told.extend(look.told.into_iter().map(|usage| (second, usage)));
        }
        let said: Vec<_> = told.iter().map(|(second, usage)| (*second, usage.level, &*usage.since)).collect();
        let levels = [Level::WarnAt, Level::Ninety, Level::Full].map(Some);
        assert_eq!(said, [(80, levels[0], "0 s ago"), (90, levels[1], "10 s ago"), (100, levels[2], "20 s ago")]);
        let nearly = &told[0].1;
        assert_eq!((nearly.full_in(), nearly.percent()), (Some(SECOND * 20), 80));
        assert!(nearly.rises && nearly.growth.is_some_and(|growth| !growth.may_be_chance()));
    }

    #[test]
    fn what_has_gone_is_forgotten_and_no_limit_has_no_level() {
        let (now, mut watch) = (Instant::now(), Watch::default());
        let full = || sample(Thing::Account, "A", 10, 10);
        assert_eq!(watch.look(now, 0.8, [full()], ago).told.len(), 1);
        assert!(watch.look(now, 0.8, [full()], ago).told.is_empty());
        assert!(watch.look(now, 0.8, [], ago).told.is_empty() && watch.states.is_empty());
        assert_eq!(watch.look(now, 0.8, [full()], ago).told.len(), 1);
        let unlimited = watch.look(now, 0.8, [sample(Thing::Account, "A", 10, 0)], ago);
        assert!(unlimited.told.is_empty() && unlimited.rows[0].full_in().is_none());
        assert_eq!(watch.look(now, 0.8, [full()], ago).told.len(), 1);
    }

    #[test]
    fn the_accounts_nearest_to_their_limits_are_watched() {
        let all = (0..5000_u32).map(|n| sample(Thing::Account, &n.to_string(), n % 100, 100 + n / 100)).collect();
        let kept = Watch::default().largest(all);
        assert_eq!(kept.len(), MOST_ACCOUNTS);
        assert!(kept.iter().any(|one| &*one.name == "99") && !kept.iter().any(|one| one.connections < 30));
    }

    /// Three times as many accounts as are watched are nearly full or full, in another order and a connection more or
    /// less at each look.
    #[test]
    fn of_many_accounts_at_a_level_each_is_told_once() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let (start, mut watch, mut random) = (Instant::now(), Watch::default(), fastrand::Rng::with_seed(seed));
        let mut told = HashMap::<_, u32>::new();
        for second in 0..60 {
            let mut all: Vec<_> = (0..3 * MOST_ACCOUNTS)
                .map(|n| sample(Thing::Account, &n.to_string(), 92 + random.u32(..8), 100))
                .collect();
            random.shuffle(&mut all);
            let samples = watch.largest(all);
            for usage in watch.look(start + SECOND * second, 0.8, samples, ago).told {
                *told.entry(usage.name).or_default() += 1;
            }
        }
        let again = told.values().filter(|times| **times > 1).count();
        assert_eq!((told.len(), again), (MOST_ACCOUNTS, 0));
        // Those that are full come before those that are not.
        let full = (0..MOST_ACCOUNTS).map(|n| sample(Thing::Account, &format!("full-{n}"), 100, 100));
        let part = (0..MOST_ACCOUNTS).map(|n| sample(Thing::Account, &format!("part-{n}"), 85, 100));
        let mut watch = Watch::default();
        watch.look(start, 0.8, part.clone(), ago);
        assert!(watch.largest(part.chain(full).collect()).iter().all(|one| one.connections == 100));
    }
}
