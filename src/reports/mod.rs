//! Answers the questions of those who are paged: who is refused, what leaks, who reconnects, where the sessions are,
//! how long the room lasts. What is judged here is judged from counts: `tally` counts clients, and samples of the
//! sessions come from outside.

pub mod answer;
pub mod census;
pub mod counted;
pub mod distribution;
pub mod groups;
pub mod headroom;
pub mod leaks;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    admission::Source,
    reports::{
        answer::{AccountOnServer, AccountSpread, GroupKind, Growing, IdleClients, Leaks, UnnamedClients},
        census::{Census, Group, IDLE_AFTER, OneClient, largest},
        distribution::Spread,
        groups::Groups,
        leaks::Leak,
    },
};

/// The most rows of a list that are kept of a census, and that an answer has.
pub const MOST_ROWS: usize = 1000;

/// The sources that are kept of a census.
const MOST_SOURCES: usize = 50;

/// What samples have shown.
#[derive(Debug, Default)]
pub struct Reports(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    names: Groups<OfAccount>,
    users: Groups<OfAccount>,
    sources: Groups<Source>,
    /// Of the last census.
    leaks: Leaks,
    largest_sources: Vec<(Source, u32)>,
    placed: Vec<(Box<str>, Placed)>,
}

type OfAccount = (Box<str>, Box<str>);

/// Servers, and the sessions of an account on each.
type Placed = Vec<(Box<str>, u32)>;

impl Reports {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the sessions: about every [`EVERY`](crate::growth::EVERY).
    pub fn sample_sessions(&self, now: Instant, census: &Census<'_>) {
        let owned = |(account, text): (&str, &str)| (account.into(), text.into());
        let mut state = self.state();
        state.names.sample(now, census.names.iter().map(|(&key, &group)| (key, group)), owned);
        state.users.sample(now, census.users.iter().map(|(&key, &group)| (key, group)), owned);
        state.sources.sample(now, census.sources.iter().map(|(&key, &group)| (key, group)), |source| source);
        state.leaks = Leaks { growing: state.growing(), ..standing(census) };
        let sources = census.sources.iter().map(|(&source, group)| (source, group.connections));
        state.largest_sources = largest(sources, MOST_SOURCES, |&connections| connections);
        state.placed = placed(census);
    }

    /// Which connections become more and more, are not used, or have no name: `most` rows of each.
    pub fn leaks(&self, most: usize) -> Leaks {
        self.some_leaks(most, most)
    }

    /// Which connections become more and more: `most` rows, and no rows of those that are not used or have no name.
    pub fn growing(&self, most: usize) -> Leaks {
        self.some_leaks(most, 0)
    }

    fn some_leaks(&self, most_growing: usize, most_others: usize) -> Leaks {
        fn first<T: Clone>(rows: &[T], most: usize) -> Vec<T> {
            rows.iter().take(most).cloned().collect()
        }
        let leaks = &self.state().leaks;
        Leaks {
            sessions: leaks.sessions,
            idle_after_seconds: IDLE_AFTER.as_secs(),
            idle_sessions: leaks.idle_sessions,
            unnamed_sessions: leaks.unnamed_sessions,
            growing: first(&leaks.growing, most_growing),
            idle: first(&leaks.idle, most_others),
            unnamed: first(&leaks.unnamed, most_others),
        }
    }

    /// The sources with the most sessions, the largest first.
    pub fn largest_sources(&self) -> Vec<(Source, u32)> {
        self.state().largest_sources.clone()
    }

    /// How the sessions of the largest accounts are spread over `servers`.
    pub fn spreads(&self, servers: &[&str], most: usize) -> Vec<AccountSpread> {
        let state = self.state();
        let spread = |(account, placed): &(Box<str>, Placed)| {
            let spread = Spread::over(servers.iter().copied(), placed.iter().map(|(server, n)| (&**server, *n)));
            let on = |(&server, &sessions): (&&str, &u32)| AccountOnServer {
                server: server.to_owned(),
                sessions,
                hot: spread.is_hot(sessions),
            };
            AccountSpread {
                account: account.to_string(),
                sessions: spread.sessions,
                mean: spread.mean,
                peak: spread.peak(),
                servers: spread.servers.iter().map(on).collect(),
            }
        };
        state.placed.iter().take(most).map(spread).collect()
    }
}

impl State {
    /// The groups that look like leaks now, the fastest first.
    fn growing(&self) -> Vec<Growing> {
        let mut growing = Vec::new();
        for (by, groups) in [(GroupKind::Name, &self.names), (GroupKind::User, &self.users)] {
            let rows = groups.leaks(MOST_ROWS).into_iter();
            growing.extend(rows.map(|((account, group), found)| row(by, account.into(), group.into(), found)));
        }
        let sources = self.sources.leaks(MOST_ROWS).into_iter();
        growing.extend(sources.map(|(source, found)| row(GroupKind::Source, String::new(), source.to_string(), found)));
        // The name says most, so it comes first among those that grow alike.
        growing.sort_by(|a: &Growing, b| b.per_minute.total_cmp(&a.per_minute));
        growing.truncate(MOST_ROWS);
        growing
    }
}

fn row(by: GroupKind, account: String, group: String, (now, leak): (Group, Leak)) -> Growing {
    let Leak { grown, over, per_minute, confidence } = leak;
    let Group { connections, idle, .. } = now;
    Growing { by, account, group, connections, idle, grown, over_seconds: over.as_secs(), per_minute, confidence }
}

/// What a census says by itself.
fn standing(census: &Census<'_>) -> Leaks {
    let clients = census.clients.iter().map(|(&client, &group)| (client, group));
    let idle = clients.clone().filter(|(_, group)| group.idle > 0);
    let idle = largest(idle, MOST_ROWS, |group| (group.idle, group.longest_idle));
    let unnamed = clients.filter(|((_, _, name, _), _)| name.is_empty());
    let unnamed = largest(unnamed, MOST_ROWS, |group| group.connections);
    let idle_row = |((account, user, name, source), group): (OneClient<'_>, Group)| IdleClients {
        account: account.to_owned(),
        user: user.to_owned(),
        name: name.to_owned(),
        source: source.to_string(),
        connections: group.connections,
        idle: group.idle,
        longest_idle_seconds: group.longest_idle.as_secs(),
    };
    let unnamed_row = |((account, user, _, source), group): (OneClient<'_>, Group)| UnnamedClients {
        account: account.to_owned(),
        user: user.to_owned(),
        source: source.to_string(),
        connections: group.connections,
    };
    Leaks {
        sessions: census.all.connections,
        idle_after_seconds: IDLE_AFTER.as_secs(),
        idle_sessions: census.all.idle,
        unnamed_sessions: census.unnamed,
        growing: Vec::new(),
        idle: idle.into_iter().map(idle_row).collect(),
        unnamed: unnamed.into_iter().map(unnamed_row).collect(),
    }
}

fn placed(census: &Census<'_>) -> Vec<(Box<str>, Placed)> {
    let mut by_account = HashMap::<&str, (u32, Placed)>::new();
    for (&(account, server), &sessions) in &census.placed {
        let (sum, placed) = by_account.entry(account).or_default();
        *sum += sessions;
        placed.push((server.into(), sessions));
    }
    let largest = largest(by_account, MOST_ROWS, |(sum, _)| *sum);
    largest.into_iter().map(|(account, (_, placed))| (account.into(), placed)).collect()
}
