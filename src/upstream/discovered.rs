//! The servers that stand for the addresses of a name.
//!
//! An answer that names nothing is taken for a failure of whoever was asked, and changes nothing. An address that is
//! missing from one answer may be back in the next: a name server may leave some out, and a server that restarts may
//! be left out for a moment. Only one that is missing from some in a row has moved. One at which another server turns
//! out to be, which has a table of its own in the configuration, is treated as missing.

use std::collections::BTreeMap;

use crate::upstream::ServerId;

/// An address that has been missing from so many answers in a row stands for no server any more.
const ABSENCES: u32 = 2;
/// The most servers that one name may stand for.
pub const MOST_DISCOVERED: usize = 512;

/// What an answer changes.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// This address is to be a server: the caller adds it, and says so by [`Discovered::added`].
    Add(String),
    /// The server is no longer where the name leads: it is to be removed.
    Remove(ServerId),
}

/// The addresses of a name, each `host:port`, with the servers that stand for them.
#[derive(Debug, Default)]
pub struct Discovered {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    server: ServerId,
    /// The answers in a row that it was missing from.
    absences: u32,
}

impl Discovered {
    /// Takes in an answer. Addresses beyond [`MOST_DISCOVERED`] are passed over, and so are those that are `taken` by
    /// servers that do not stand for an address.
    pub fn answered(&mut self, found: &[String], is_taken: impl Fn(&str) -> bool) -> Vec<Change> {
        if found.is_empty() {
            return Vec::new();
        }
        let found: Vec<_> = found.iter().filter(|address| !is_taken(address)).collect();
        let mut changes = Vec::new();
        self.known.retain(|address, known| {
            known.absences = if found.contains(&address) { 0 } else { known.absences + 1 };
            let stays = known.absences < ABSENCES;
            if !stays {
                changes.push(Change::Remove(known.server));
            }
            stays
        });
        let mut new: Vec<_> = found.into_iter().filter(|address| !self.known.contains_key(*address)).collect();
        new.sort();
        new.dedup();
        new.truncate(MOST_DISCOVERED.saturating_sub(self.known.len()));
        changes.extend(new.into_iter().cloned().map(Change::Add));
        changes
    }

    /// Whether this server stands for an address.
    pub fn stands(&self, server: ServerId) -> bool {
        self.known.values().any(|known| known.server == server)
    }

    /// The addresses with the servers that stand for them.
    pub fn iter(&self) -> impl Iterator<Item = (&String, ServerId)> {
        self.known.iter().map(|(address, known)| (address, known.server))
    }

    /// This server stands for an address now.
    pub fn added(&mut self, address: String, server: ServerId) {
        self.known.insert(address, Known { server, absences: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// The addresses that are added and the ids that are removed by an answer.
    fn answer(discovered: &mut Discovered, next: &mut u32, found: &[&str]) -> (Vec<String>, Vec<usize>) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for change in discovered.answered(&addresses(found), |_| false) {
            match change {
                Change::Add(address) => {
                    discovered.added(address.clone(), ServerId::from_raw(*next));
                    *next += 1;
                    added.push(address);
                }
                Change::Remove(server) => removed.push(server.number()),
            }
        }
        (added, removed)
    }

    #[test]
    fn an_address_is_a_server_until_it_is_missing_from_two_answers_in_a_row() {
        let (mut discovered, mut next) = (Discovered::default(), 0);
        let mut answer = |found: &[&str]| answer(&mut discovered, &mut next, found);
        assert_eq!(answer(&["b:1", "a:1", "a:1"]), (addresses(&["a:1", "b:1"]), vec![]));
        assert_eq!(answer(&["a:1"]), (vec![], vec![]));
        assert_eq!(answer(&["b:1", "a:1"]), (vec![], vec![]), "it was left out once");
        assert_eq!(answer(&["a:1", "c:1"]), (addresses(&["c:1"]), vec![]));
        assert_eq!(answer(&["a:1", "c:1"]), (vec![], vec![1]));
        assert_eq!(answer(&["b:1", "a:1", "c:1"]), (addresses(&["b:1"]), vec![]), "another server");
    }

    #[test]
    fn an_empty_answer_removes_nothing() {
        let (mut discovered, mut next) = (Discovered::default(), 0);
        answer(&mut discovered, &mut next, &["a:1"]);
        for _ in 0..10 {
            assert_eq!(answer(&mut discovered, &mut next, &[]), (vec![], vec![]));
        }
        assert_eq!(answer(&mut discovered, &mut next, &["b:1"]).1, [] as [usize; 0]);
        assert_eq!(answer(&mut discovered, &mut next, &["b:1"]).1, [0]);
    }

    #[test]
    fn an_address_that_turns_out_to_be_another_servers_stands_for_none() {
        let (mut discovered, mut next) = (Discovered::default(), 0);
        answer(&mut discovered, &mut next, &["a:1", "b:1"]);
        let mut all_taken = |found: &[&str]| discovered.answered(&addresses(found), |_| true);
        assert_eq!(all_taken(&["a:1", "b:1"]), []);
        let removed: Vec<_> = [0, 1].map(|n| Change::Remove(ServerId::from_raw(n))).into();
        assert_eq!(all_taken(&["a:1", "b:1"]), removed, "an answer that is all of such is one");
        assert_eq!(all_taken(&["a:1", "b:1"]), []);
    }

    #[test]
    fn the_servers_of_a_name_are_bounded() {
        let (mut discovered, mut next) = (Discovered::default(), 0);
        let many: Vec<_> = (0..MOST_DISCOVERED + 9).map(|n| format!("n{n}:4222")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(answer(&mut discovered, &mut next, &many).0.len(), MOST_DISCOVERED);
        assert_eq!(answer(&mut discovered, &mut next, &many).0.len(), 0);
    }
}
