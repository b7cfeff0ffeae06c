//! Which sessions are asked for a sign of life. A client that lacks a place, and whose last login from the same source
//! was good, may be back from a machine or a path that vanished without a FIN: its old session has the place still.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use crate::identity::ClientKey;

/// A client of which nothing has come for so long may be gone. One that has been heard of since is there.
const SILENT: Duration = Duration::from_secs(3);

/// No session is asked again before this: whoever knows a login makes no client wake up more often.
const ASKED_AGAIN: Duration = Duration::from_secs(30);

/// The most sessions that are asked for one client that lacks a place.
const MOST_ASKED: usize = 8;

/// The most clients that are looked for at a time. Others come back, and are looked for then.
const MOST_CLIENTS: usize = 4096;

/// The clients that lack a place, and how often each has come.
#[derive(Debug, Default)]
pub struct WithoutPlace(HashMap<ClientKey, usize>);

impl WithoutPlace {
    /// This client has come, and lacks a place.
    pub fn note(&mut self, client: ClientKey) {
        if self.0.len() < MOST_CLIENTS || self.0.contains_key(&client) {
            let came = self.0.entry(client).or_default();
            *came = came.saturating_add(1);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Begins to look for sessions of these clients.
    pub fn look<S>(self) -> Suspects<S> {
        let most = |came: usize| came.saturating_mul(MOST_ASKED);
        Suspects(self.0.into_iter().map(|(client, came)| (client, (most(came), Vec::new()))).collect())
    }
}

/// A session, as it is judged whether its client is to be asked for a sign of life.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// For how long nothing has come from the client.
    pub silent_for: Duration,
    /// How long ago it was asked last.
    pub asked_ago: Option<Duration>,
}

impl Silence {
    fn is_suspect(self) -> bool {
        self.silent_for >= SILENT && self.asked_ago.is_none_or(|ago| ago >= ASKED_AGAIN)
    }
}

/// Sessions that may be ghosts, by client, and how many of each are asked at most.
#[derive(Debug)]
pub struct Suspects<S>(HashMap<ClientKey, (usize, Vec<(Duration, S)>)>);

impl<S> Suspects<S> {
    /// Looks at a session of this client.
    pub fn look_at(&mut self, client: ClientKey, silence: impl FnOnce() -> Silence, session: impl FnOnce() -> S) {
        if let Some((_, suspects)) = self.0.get_mut(&client) {
            let silence = silence();
            if silence.is_suspect() {
                suspects.push((silence.silent_for, session()));
            }
        }
    }

    /// Those that are to be asked: of each client those that have been silent for longest.
    pub fn into_sessions(self) -> impl Iterator<Item = S> {
        self.0.into_values().flat_map(|(most, mut suspects)| {
            suspects.sort_unstable_by_key(|(silent_for, _)| Reverse(*silent_for));
            suspects.truncate(most);
            suspects.into_iter().map(|(_, session)| session)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> ClientKey {
        ClientKey::from_raw(n)
    }

    /// Who is asked of sessions (client, seconds of silence, seconds since it was asked) when these clients come.
    fn asked(come: &[u64], sessions: &[(u64, u64, Option<u64>)]) -> Vec<usize> {
        let mut without = WithoutPlace::default();
        come.iter().for_each(|n| without.note(key(*n)));
        let mut suspects = without.look();
        for (n, (client, silent, asked)) in sessions.iter().enumerate() {
            let silence =
                Silence { silent_for: Duration::from_secs(*silent), asked_ago: asked.map(Duration::from_secs) };
            suspects.look_at(key(*client), || silence, || n);
        }
        let mut all: Vec<_> = suspects.into_sessions().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn only_silent_sessions_of_the_same_client_are_asked_and_not_again_soon() {
        let sessions =
            [(1, 3, None), (1, 2, None), (2, 100, None), (1, 100, Some(29)), (1, 100, Some(30)), (3, 100, None)];
        assert_eq!(asked(&[1], &sessions), [0, 4]);
        assert_eq!(asked(&[1, 3], &sessions), [0, 4, 5]);
        assert!(asked(&[4], &sessions).is_empty() && asked(&[], &sessions).is_empty());
    }

    #[test]
    fn for_each_client_that_comes_the_most_silent_few_are_asked() {
        let sessions: Vec<_> = (0..100).map(|n| (1, 10 + (n * 37) % 100, None)).collect();
        let silent_for = |asked: Vec<usize>| asked.into_iter().map(|n| sessions[n].1).collect::<Vec<_>>();
        for came in [1, 2, 5] {
            let mut silent = silent_for(asked(&vec![1; came], &sessions));
            silent.sort_unstable();
            let longest = 110 - 8 * came as u64..110;
            assert_eq!(silent, longest.collect::<Vec<_>>(), "{came}");
        }
        assert_eq!(asked(&[1; 1000], &sessions).len(), 100);
    }

    #[test]
    fn no_more_clients_are_looked_for_than_the_table_holds() {
        let mut without = WithoutPlace::default();
        (0..2 * MOST_CLIENTS as u64).for_each(|n| without.note(key(n)));
        without.note(key(7));
        assert_eq!((without.0.len(), without.0[&key(7)]), (MOST_CLIENTS, 2));
    }
}
