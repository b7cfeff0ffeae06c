//! `/connz`: connections, those that are open or wait to get in, and those that ended last.
//!
//! The sessions are looked through in slices on the control thread, so no worker waits for an answer, however many
//! sessions there are. What is shown is limited by `limit`, and so is what is kept while they are looked through.

mod connection;
mod options;

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::task::yield_now;

use crate::{
    admin::natsz::go_text,
    relay::registry::{ClosedSession, SessionHandle},
    session::Shared,
    telemetry::moment::Moment,
};

pub use self::{
    connection::Connection,
    options::{Options, Sort, State},
};

/// Ended connections that are looked through under one lock.
const SLICE: usize = 256;
/// Connections of one piece of an answer.
const PIECE: usize = 64;

/// A connection that may be shown.
#[derive(Debug, Clone)]
pub struct Entry {
    session: Arc<SessionHandle>,
    /// When and how it ended.
    ended: Option<ClosedSession>,
    /// It waits for its turn, and is no session yet.
    is_held: bool,
}

/// What connections are ordered by, the smallest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Number(u64),
    Text(&'static str),
}

/// What is shown.
#[derive(Debug)]
pub struct Connz {
    head: Head,
    connections: Vec<Entry>,
    now: Moment,
    auth: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Head {
    server_id: String,
    now: String,
    num_connections: usize,
    total: usize,
    offset: usize,
    limit: usize,
}

/// Keeps the first entries of those that it is given.
struct First {
    sort: Sort,
    most: usize,
    now: Moment,
    entries: Vec<(SortKey, u64, Entry)>,
}

impl First {
    fn add(&mut self, entry: Entry) {
        let key = self.sort.key(&entry, self.now);
        self.entries.push((key, entry.session.facts().id, entry));
        // Half of them go at a time, so that each costs little.
        if self.entries.len() >= self.most.saturating_mul(2).max(SLICE) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.entries.len() > self.most {
            self.entries.select_nth_unstable_by(self.most, Self::order);
            self.entries.truncate(self.most);
        }
    }

    fn order(a: &(SortKey, u64, Entry), b: &(SortKey, u64, Entry)) -> Ordering {
        (&a.0, a.1).cmp(&(&b.0, b.1))
    }

    fn into_sorted(mut self) -> Vec<Entry> {
        self.cut();
        self.entries.sort_unstable_by(Self::order);
        self.entries.into_iter().map(|(_, _, entry)| entry).collect()
    }
}

impl Connz {
    /// Selects what these options ask for.
    pub async fn select(shared: &Shared, options: Options) -> Self {
        let now = Moment::now();
        let Options { offset, limit, .. } = options;
        let mut first = First { sort: options.sort, most: offset.saturating_add(limit), now, entries: Vec::new() };
        let mut total = 0_usize;
        let mut look = |entry: Entry| {
            if options.counts(&entry) {
                total += 1;
                if options.shows(&entry) {
                    first.add(entry);
                }
            }
        };
        let (open, ended) = (options.state != State::Closed, options.state != State::Open);
        let sessions = &shared.sessions;
        // Who waits is open too: nats-server shows connections before they have logged in.
        let of = |session: &Arc<SessionHandle>, is_held| Entry { session: Arc::clone(session), ended: None, is_held };
        let of_cid = || {
            let session = sessions.get(options.cid).map(|session| of(&session, false));
            session.or_else(|| shared.held.get(options.cid).map(|session| of(&session, true)))
        };
        let found = of_cid().filter(|_| open);
        if let Some(entry) = &found {
            look(entry.clone());
        } else if open && options.cid == 0 {
            if !options.held {
                sessions.for_each(|session| look(of(session, false))).await;
            }
            shared.held.for_each(|session| look(of(session, true))).await;
        }
        let mut before = u64::MAX;
        while ended && found.is_none() {
            let some = shared.sessions.closed().before(before, SLICE);
            let Some((last, _)) = some.last() else { break };
            before = *last;
            for (_, closed) in some {
                look(Entry { session: Arc::clone(&closed.session), ended: Some(closed), is_held: false });
            }
            yield_now().await;
        }
        if options.cid > 0 && options.account.is_empty() {
            let counts = [(open, sessions.len() + shared.held.len()), (ended, sessions.closed().len())];
            total = counts.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, count)| count).sum();
        }
        let connections: Vec<_> = first.into_sorted().into_iter().skip(offset).collect();
        let head = Head {
            server_id: shared.advertised_info.own_server_id().to_owned(),
            now: go_text::time(SystemTime::now()),
            num_connections: connections.len(),
            total,
            offset,
            limit,
        };
        Self { head, connections, now, auth: options.auth }
    }

    /// The answer in pieces, as JSON.
    pub fn pieces(self) -> impl Iterator<Item = Bytes> + Send {
        let Self { head, connections, now, auth } = self;
        let mut head = serde_json::to_string_pretty(&head).unwrap_or_default();
        head.truncate(head.trim_end_matches(['\n', '}']).len());
        head.push_str(",\n  \"connections\": [");
        let (mut rest, mut begun, mut ended) = (connections.into_iter(), false, false);
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let mut piece = if begun { String::new() } else { std::mem::take(&mut head) };
            for entry in rest.by_ref().take(PIECE) {
                let connection = Connection::new(&entry, now, auth);
                let text = serde_json::to_string_pretty(&connection).unwrap_or_default().replace('\n', "\n    ");
                piece.push_str(if begun { ",\n    " } else { "\n    " });
                piece.push_str(&text);
                begun = true;
            }
            if rest.as_slice().is_empty() {
                ended = true;
                piece.push_str(if begun { "\n  ]\n}" } else { "]\n}" });
            }
            Some(Bytes::from(piece))
        })
    }
}

impl Entry {
    /// How long it has lived.
    fn lived(&self, now: Moment) -> Duration {
        self.ended.as_ref().map_or(now, |ended| ended.stop).since(self.session.facts().accepted)
    }
}

#[cfg(test)]
mod tests;
