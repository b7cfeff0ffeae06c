//! What logins of an account take and where they hang, for a process that takes over. Those that are under way stay,
//! and with them what waits for their places.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{AVOIDED_FOR, Logins};
use crate::{
    lapse::{self, Lapse},
    upstream::{
        Addresses,
        concurrency::{
            baseline::RememberedBaseline,
            limit::{ConcurrencyLimit, RememberedLimit},
        },
    },
};

/// The most servers that are recalled for one account.
const MOST_SERVERS: usize = 1024;

/// The logins of one account as another process recalls them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedLoginTimes {
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "is_default")]
    baselines: [RememberedBaseline; 3],
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Vec::is_empty")]
    at: Vec<RememberedAtServer>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    told: Option<Lapse>,
}

impl RememberedLoginTimes {
    /// Leaves the servers out where there are more of them than are `left`; else fewer are left by as many.
    pub fn bound_servers(&mut self, left: &mut usize) {
        match left.checked_sub(self.at.len()) {
            Some(fewer) => *left = fewer,
            None => self.at.clear(),
        }
    }
}

fn is_default(baselines: &[RememberedBaseline; 3]) -> bool {
    *baselines == [RememberedBaseline::default(); 3]
}

/// The same on one server; `server` is its address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RememberedAtServer {
    server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own_limit: Option<RememberedLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    succeeded: Option<Lapse>,
    #[serde(default)]
    took: Lapse,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hung: Option<Lapse>,
}

impl Logins {
    /// What is known of the account's logins; the servers are those where that is of use.
    pub fn remembered(&self, servers: &Addresses, now: Instant) -> RememberedLoginTimes {
        let at = self.at.iter().filter_map(|(id, at)| {
            let remembered = RememberedAtServer {
                server: servers.of(*id)?.to_owned(),
                own_limit: at.own_limit.as_ref().and_then(|limit| limit.remembered(now)),
                succeeded: at.succeeded_at.filter(|_| at.has_succeeded_lately(now)).map(|at| Lapse::since(at, now)),
                took: at.took.into(),
                hung: at.hung_at.map(|at| Lapse::since(at, now)).filter(|ago| ago.duration() < AVOIDED_FOR),
            };
            let is_of_use = remembered.own_limit.is_some() || remembered.succeeded.or(remembered.hung).is_some();
            is_of_use.then_some(remembered)
        });
        RememberedLoginTimes {
            baselines: self.baselines.map(|baseline| baseline.remembered(now)),
            at: at.collect(),
            told: self.told_at.map(|at| Lapse::since(at, now)),
        }
    }

    /// Recalls what another process knew at `then`. What has been seen since counts more.
    pub fn recall(&mut self, remembered: &RememberedLoginTimes, servers: &Addresses, then: Instant) {
        for (baseline, remembered) in self.baselines.iter_mut().zip(remembered.baselines) {
            baseline.recall(remembered, then);
        }
        self.told_at = self.told_at.or(remembered.told.map(|ago| ago.before(then)));
        for one in remembered.at.iter().take(MOST_SERVERS) {
            let Some(server) = servers.id(&one.server) else { continue };
            let at = self.at(server);
            if let (Some(limit), None) = (&one.own_limit, &at.own_limit) {
                at.own_limit = Some(Box::new(ConcurrencyLimit::recalled(limit, then)));
            }
            if at.succeeded_at.is_none() {
                at.succeeded_at = one.succeeded.map(|ago| ago.before(then));
                at.took = one.took.duration();
                at.hung_at = at.hung_at.or(one.hung.map(|ago| ago.before(then)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        admission::quota::{logins::UsualLatencies, sources::SourceKey},
        upstream::{ServerId, concurrency::baseline::MeasuredFrom},
    };

    #[test]
    fn beyond_a_bound_the_servers_are_left_out() {
        let at = |n| vec![serde_json::from_str(r#"{"server":"a:1"}"#).unwrap(); n];
        let mut left = 5;
        for (has, keeps, is_left) in [(3, 3, 2), (3, 0, 2), (2, 2, 0), (1, 0, 0), (0, 0, 0)] {
            let mut one = RememberedLoginTimes { at: at(has), ..RememberedLoginTimes::default() };
            one.bound_servers(&mut left);
            assert_eq!((one.at.len(), left), (keeps, is_left));
        }
    }

    /// In another process the servers have other ids. What a login should take, where the account is not sent, and on
    /// which servers it is compared are the same.
    #[test]
    fn another_process_knows_what_logins_take_and_where_they_hang() {
        let (ms, now) = (Duration::from_millis, Instant::now());
        let id = ServerId::from_raw;
        let here: Addresses =
            [(id(0), "a:1".to_owned()), (id(1), "b:1".to_owned()), (id(2), "c:1".to_owned())].into_iter().collect();
        let other: Addresses = [(id(7), "b:1".to_owned()), (id(9), "a:1".to_owned())].into_iter().collect();
        let (mut old, mut new, usual) = (Logins::default(), Logins::default(), UsualLatencies::default());
        let from = (MeasuredFrom::Dial, Duration::ZERO);
        for n in 0..10_u32 {
            let server = id(n % 3);
            old.began(server, None::<SourceKey>);
            old.succeeded(server, &usual, now + ms(10 * u64::from(n)), ms(20 + u64::from(n)), from, true);
            old.ended(server, None, false);
        }
        for _ in 0..6 {
            old.began(id(1), None);
            old.became_overdue(id(1), 4);
            old.unanswered(id(1), now, now + ms(100), true);
            old.ended(id(1), None, true);
        }
        old.measured(id(1), now + ms(100), ms(30), ms(10));
        let (then, there) = (now + ms(500), now + ms(900_000));
        let text = serde_json::to_string(&old.remembered(&here, then)).unwrap();
        new.recall(&serde_json::from_str(&text).unwrap(), &other, there);
        assert_eq!(new.at.len(), 2, "what the configuration does not have is left out");
        let disliked = |logins: &Logins, at| logins.avoided(None, at, |_| 1).disliked;
        assert_eq!((disliked(&old, then), disliked(&new, there)), (vec![id(1)], vec![id(7)]));
        assert_eq!(disliked(&new, there + AVOIDED_FOR), []);
        assert_eq!((old.elsewhere(id(1), then), new.elsewhere(id(7), there)), (Some(ms(28)), Some(ms(29))));
        assert_eq!(old.measured_alone(MeasuredFrom::Dial), new.measured_alone(MeasuredFrom::Dial));
        let limit = |logins: &mut Logins, server| logins.at(server).own_limit.as_ref().map(|limit| limit.limit());
        assert_eq!(limit(&mut old, id(1)), limit(&mut new, id(7)));
        let later = (
            old.succeeded(id(0), &usual, then, ms(70), from, false),
            new.succeeded(id(9), &usual, there, ms(70), from, false),
        );
        assert_eq!(later.0, later.1);
    }
}
