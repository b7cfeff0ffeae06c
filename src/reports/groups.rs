//! The groups of connections whose numbers are followed over time, in bounded memory.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::Instant,
};

use crate::{
    growth::History,
    reports::{
        census::{Group, largest},
        leaks::{Leak, leak},
    },
};

/// The groups of a kind that are followed: those with the most connections. One that leaks is soon among them.
const MOST: usize = 512;

/// Groups of one kind.
#[derive(Debug)]
pub struct Groups<K> {
    followed: HashMap<K, Followed>,
}

#[derive(Debug, Default)]
struct Followed {
    history: History,
    now: Group,
}

impl<K> Default for Groups<K> {
    fn default() -> Self {
        Self { followed: HashMap::new() }
    }
}

impl<K: Hash + Eq + Ord + Clone> Groups<K> {
    /// Takes in the groups that there are now. `owned` makes a key that is kept.
    pub fn sample<Q: Copy + Ord>(
        &mut self,
        now: Instant,
        groups: impl IntoIterator<Item = (Q, Group)>,
        owned: impl Fn(Q) -> K,
    ) {
        let largest = largest(groups, MOST, |group| group.connections);
        let largest: Vec<_> = largest.into_iter().map(|(key, group)| (owned(key), group)).collect();
        let names: HashSet<&K> = largest.iter().map(|(key, _)| key).collect();
        // One that is not among them any more has none, or is a small one among many.
        self.followed.retain(|key, _| names.contains(key));
        for (key, group) in largest {
            let followed = self.followed.entry(key).or_default();
            followed.history.note(now, group.connections);
            followed.now = group;
        }
    }

    /// The groups that look like leaks, those that grow fastest first.
    pub fn leaks(&self, most: usize) -> Vec<(K, (Group, Leak))> {
        let all = self.followed.iter().filter_map(|(key, one)| Some((key.clone(), (one.now, leak(&one.history)?))));
        largest(all, most, |(_, leak)| (leak.per_minute * 1e6) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::EVERY;

    fn group(connections: u32) -> Group {
        Group { connections, ..Group::default() }
    }

    #[test]
    fn a_leak_is_found_among_thousands_of_names_that_come_and_go() {
        let (mut groups, mut rng) = (Groups::<String>::default(), fastrand::Rng::with_seed(3));
        let (start, mut told_at) = (Instant::now(), None);
        for sample in 0..40u32 {
            let mut now: HashMap<String, Group> =
                (0..3000).map(|_| (format!("n{}", rng.u32(..)), group(rng.u32(1..4)))).collect();
            now.extend((0..300).map(|n| (format!("service {n}"), group(rng.u32(10..40)))));
            now.insert("the leak".into(), group(5 * sample));
            groups.sample(
                start + EVERY * sample,
                now.iter().map(|(name, group)| (name.as_str(), *group)),
                str::to_owned,
            );
            assert!(groups.followed.len() <= MOST);
            let leaks = groups.leaks(9);
            if let Some((name, (now, _))) = leaks.first() {
                assert_eq!((leaks.len(), &**name, now.connections), (1, "the leak", 5 * sample));
                told_at.get_or_insert(5 * sample);
            }
        }
        assert!(told_at.is_some_and(|seconds| seconds <= 60), "{told_at:?}");
        groups.sample(start + EVERY * 40, [("another", group(1))], str::to_owned);
        assert_eq!(groups.followed.len(), 1, "what is gone is forgotten");
    }
}
