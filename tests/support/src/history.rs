//! What servers remember of an account's connections: from when to when each of them was.
//!
//! That is exact where samples of a count are not: between two samples there may be one connection too many, and a sum
//! over several servers, asked one after the other, may count a connection twice that has moved. Servers remember the
//! last 10,000 connections that ended, and forget all of them when they are started again. They count a connection from
//! its accept on, before its login.
//!
//! Its end is less exact: nats-server takes that time in a goroutine of its own (`saveClosedClient`), which may run
//! after the connection's socket was closed, so when the place has rightly been given to somebody else. Where 100
//! connections end at once, up to 84 were seen to end later by that time than by their sockets, up to 1.2 ms on an idle
//! machine; and once, on a busy one, all 100 of a quota later than the begin of five others. So each end counts
//! [`END_IS_LATE`] earlier.

use std::time::{Duration, UNIX_EPOCH};

use crate::{Cluster, NatsServer};

/// How much later than a connection's end its server may remember it. Connections too many are there for longer: they
/// stay until their clients leave. One that stays for less counts as none.
pub const END_IS_LATE: Duration = Duration::from_millis(100);

/// The connections of an account, open and ended, of these servers.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// When each began, and when it ended; an open one has no end.
    connections: Vec<(Duration, Option<Duration>)>,
}

impl History {
    /// What all servers of a cluster remember of this account.
    pub async fn of(cluster: &Cluster, account: &str) -> Self {
        Self::of_servers(cluster.servers.iter(), account).await
    }

    /// The same of these servers.
    pub async fn of_servers(servers: impl Iterator<Item = &NatsServer>, account: &str) -> Self {
        let mut all = Self::default();
        for server in servers {
            let path = format!("/connz?state=all&acc={account}&limit=100000");
            let Some(connz) = server.monitoring(&path).await else { continue };
            let listed = connz["connections"].as_array().expect("a list of connections");
            assert_eq!(connz["total"].as_u64(), Some(listed.len() as u64), "{} lists all", server.name);
            all.connections.extend(listed.iter().map(|one| {
                let time = |key: &str| one[key].as_str().map(since_epoch);
                (time("start").expect("a begin"), time("stop"))
            }));
        }
        all
    }

    /// How many connections there have been.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there has been none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// How many were open at the same moment, at most.
    pub fn most(&self) -> i64 {
        // At the same moment an end comes before a begin.
        let begins = self.connections.iter().map(|(begin, _)| (*begin, 1));
        let ends = self.connections.iter().filter_map(|(begin, end)| {
            let end = (*end)?;
            Some((end.saturating_sub(END_IS_LATE).max(*begin), -1))
        });
        let mut changes: Vec<_> = begins.chain(ends).collect();
        changes.sort_unstable();
        let (mut now, mut most) = (0, 0);
        for (_, change) in changes {
            now += change;
            most = most.max(now);
        }
        most
    }
}

/// From a connection's times in text, such as `2026-11-26T17:31:18.398Z`, with digits behind the point as needed.
impl<'a> FromIterator<(&'a str, Option<&'a str>)> for History {
    fn from_iter<I: IntoIterator<Item = (&'a str, Option<&'a str>)>>(times: I) -> Self {
        let connections = times.into_iter().map(|(begin, end)| (since_epoch(begin), end.map(since_epoch)));
        Self { connections: connections.collect() }
    }
}

/// All times of one machine are of one zone, whichever: it is left out.
fn since_epoch(time: &str) -> Duration {
    let (seconds, rest) = time.split_at("2026-11-26T17:31:18".len());
    let fraction: String = rest.chars().take_while(|one| one.is_ascii_digit() || *one == '.').collect();
    let time = humantime::parse_rfc3339(&format!("{seconds}{fraction}Z")).expect("a time of nats-server");
    time.duration_since(UNIX_EPOCH).expect("a time of today")
}
