//! Which weir of a fleet moves clients for balance: one at a time. Each weir plans for the whole cluster, as it sees
//! that; if all did so at once, they would together move too many, and plan again, without end.
//!
//! A weir announces a rebalance in its beats, and begins it some beats later, where no other weir does one and none
//! with a lower id has announced one.

use serde::{Deserialize, Serialize};

use crate::fleet::member::MemberId;

/// How far a rebalance of a weir is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Announced,
    Running,
    /// What a later version says.
    #[serde(other)]
    Unknown,
}

/// The weir whose rebalance goes before the one of this weir, which is at the stage `own`, or at none. `others` are the
/// weirs that are heard.
pub fn goes_first<'a>(
    me: &MemberId,
    own: Option<Stage>,
    others: impl IntoIterator<Item = (&'a MemberId, Stage)>,
) -> Option<&'a MemberId> {
    let goes_first = |(id, stage): &(&MemberId, Stage)| match own {
        // Both may have begun before they heard of each other.
        Some(Stage::Running) => *stage == Stage::Running && *id < me,
        Some(_) => *stage == Stage::Running || *stage == Stage::Announced && *id < me,
        None => *stage == Stage::Running,
    };
    others.into_iter().find(goes_first).map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> MemberId {
        MemberId::new(name).unwrap()
    }

    #[test]
    fn of_those_who_announce_the_first_begins_and_nobody_comes_between() {
        let ids = ["a", "b", "c"].map(id);
        let others = |stages: [Option<Stage>; 3], me: usize| {
            let of = |at: usize| stages[at].filter(|_| at != me).map(|stage| (&ids[at], stage));
            goes_first(&ids[me], stages[me], (0..3).filter_map(of).collect::<Vec<_>>()).cloned()
        };
        let (announced, running) = (Some(Stage::Announced), Some(Stage::Running));
        assert_eq!(others([announced; 3], 0), None);
        assert_eq!(others([announced; 3], 1), Some(id("a")));
        assert_eq!(others([announced, None, running], 0), Some(id("c")), "who has begun goes on");
        assert_eq!(others([None, announced, None], 1), None);
        assert_eq!(others([announced, None, None], 1), None, "who has not announced anything yet may do so");
        assert_eq!(others([None, None, running], 1), Some(id("c")));
        assert_eq!((others([running; 3], 0), others([running; 3], 2)), (None, Some(id("a"))));
        assert_eq!(others([Some(Stage::Unknown), announced, None], 1), None);
        let later: Stage = serde_json::from_str("\"another\"").unwrap();
        assert_eq!(later, Stage::Unknown);
    }
}
