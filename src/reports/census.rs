//! Counts the sessions of one moment: by name, user and source, by account and server, idle ones and unnamed ones.

use std::{collections::HashMap, time::Duration};

use crate::admission::Source;

/// A session without a message either way for as long as this is idle.
pub const IDLE_AFTER: Duration = Duration::from_secs(600);

/// What a session counts by. A text that is not known is empty.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    pub account: &'a str,
    pub user: &'a str,
    pub name: &'a str,
    pub source: Source,
    /// The name of its server.
    pub server: &'a str,
    /// The time since the last message, or since a subscription came or went.
    pub idle: Duration,
}

/// The connections of a group.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub connections: u32,
    /// Of these, those that are idle.
    pub idle: u32,
    /// The longest time that one of them has been idle.
    pub longest_idle: Duration,
}

impl Group {
    fn add(&mut self, idle: Duration) {
        self.connections += 1;
        self.idle += u32::from(idle >= IDLE_AFTER);
        self.longest_idle = self.longest_idle.max(idle);
    }
}

/// All of one account with the same text.
pub type OfAccount<'a> = (&'a str, &'a str);

/// Account, user, name and source.
pub type OneClient<'a> = (&'a str, &'a str, &'a str, Source);

/// The counts. Of what is not said there is no group.
#[derive(Debug, Default)]
pub struct Census<'a> {
    pub all: Group,
    pub unnamed: u32,
    pub names: HashMap<OfAccount<'a>, Group>,
    pub users: HashMap<OfAccount<'a>, Group>,
    pub sources: HashMap<Source, Group>,
    pub clients: HashMap<OneClient<'a>, Group>,
    /// Sessions by account and server.
    pub placed: HashMap<OfAccount<'a>, u32>,
}

impl<'a> Census<'a> {
    pub fn add(&mut self, fact: Fact<'a>) {
        let Fact { account, user, name, source, server, idle } = fact;
        self.all.add(idle);
        self.unnamed += u32::from(name.is_empty());
        for (groups, text) in [(&mut self.names, name), (&mut self.users, user)] {
            if !text.is_empty() {
                groups.entry((account, text)).or_default().add(idle);
            }
        }
        self.sources.entry(source).or_default().add(idle);
        self.clients.entry((account, user, name, source)).or_default().add(idle);
        *self.placed.entry((account, server)).or_default() += 1;
    }
}

/// The `most` entries with the highest rank, the highest first; equal ones by key.
pub fn largest<K: Ord, V, R: Ord>(
    all: impl IntoIterator<Item = (K, V)>,
    most: usize,
    rank: impl Fn(&V) -> R,
) -> Vec<(K, V)> {
    let mut all: Vec<_> = all.into_iter().collect();
    let order = |(a, x): &(K, V), (b, y): &(K, V)| rank(y).cmp(&rank(x)).then_with(|| a.cmp(b));
    if all.len() > most {
        all.select_nth_unstable_by(most, order);
        all.truncate(most);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn each_session_is_in_the_groups_that_it_belongs_to() {
        let source = |n: u8| Source::from(IpAddr::from([192, 0, 2, n]));
        let fact = |name, user, n, idle| Fact {
            account: "A",
            user,
            name,
            source: source(n),
            server: "n1",
            idle: Duration::from_secs(idle),
        };
        let mut census = Census::default();
        for one in [fact("orders", "app", 1, 5), fact("orders", "app", 1, 900), fact("", "app", 2, 600)] {
            census.add(one);
        }
        let group =
            |connections, idle, longest| Group { connections, idle, longest_idle: Duration::from_secs(longest) };
        assert_eq!((census.all, census.unnamed), (group(3, 2, 900), 1));
        assert_eq!(census.names, HashMap::from([(("A", "orders"), group(2, 1, 900))]));
        assert_eq!(census.users, HashMap::from([(("A", "app"), group(3, 2, 900))]));
        assert_eq!(census.sources[&source(2)], group(1, 1, 600));
        assert_eq!(census.clients[&("A", "app", "orders", source(1))], group(2, 1, 900));
        assert_eq!(census.placed[&("A", "n1")], 3);
    }

    #[test]
    fn the_largest_come_first_and_no_more_than_asked_for() {
        let all = [("a", 1), ("d", 7), ("b", 7), ("c", 3)];
        assert_eq!(largest(all, 3, |n| *n), [("b", 7), ("d", 7), ("c", 3)]);
        assert_eq!(largest(all, 9, |n| *n).len(), 4);
        assert!(largest(all, 0, |n| *n).is_empty());
    }
}
