//! What servers remember of an account's connections: from when to when each of them was.
//!
//! That is exact where samples of a count are not: between two samples there may be one connection too many, and a sum
//! over several servers, asked one after the other, may count a connection twice that has moved. Servers remember the
//! last 10,000 connections that ended, and forget all of them when they are started again. They count a connection from
//! its accept on, before its login.

use crate::{Cluster, NatsServer};

/// The connections of an account, open and ended, of these servers.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// When each began, and when it ended, in text that sorts by time; an open one has no end.
    connections: Vec<(String, Option<String>)>,
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
                let time = |key: &str| one[key].as_str().map(sortable);
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
        let begins = self.connections.iter().map(|(begin, _)| (begin.as_str(), 1));
        let ends = self.connections.iter().filter_map(|(_, end)| Some((end.as_deref()?, -1)));
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

/// A time such as `2026-11-26T17:31:18.398Z`, with as many digits behind the point as any other: Go leaves out zeros at
/// the end. All times of one machine are of one zone.
fn sortable(time: &str) -> String {
    let (seconds, rest) = time.split_at(19);
    let digits: String = rest.trim_start_matches('.').chars().take_while(char::is_ascii_digit).collect();
    format!("{seconds}.{digits:0<9}")
}
