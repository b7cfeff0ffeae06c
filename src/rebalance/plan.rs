//! The plan: how many clients go from which server to which, so that all servers are filled to the same share.
//!
//! It fills servers as placement does, one client after another to the server with the lowest share of its ceiling, so
//! that what a rebalance has evened out no placement undoes. A server either gives clients or gets some, never both.

use std::cmp::Ordering;

/// What a server may do in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It gives clients, or gets some.
    Shares,
    /// It gives clients and gets none: it is full, or has enough to do.
    Gives,
    /// It gives all its clients: it is drained, or shuts down.
    Leaves,
    /// It is left alone: weir does not know how it is, or it is unwell.
    Stays,
}

/// One server as the plan sees it.
#[derive(Debug, Clone, Copy)]
pub struct ServerNow {
    pub role: Role,
    /// weir's sessions there.
    pub sessions: u32,
    /// Of these, those that may be moved.
    pub movable: u32,
    /// Connections there that are not weir's sessions.
    pub others: u32,
    /// Connections that it may have.
    pub ceiling: u32,
}

/// So many clients go from one server to another; servers are named by their position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub from: usize,
    pub to: usize,
    pub clients: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// No server is in `from` of one flow and in `to` of another.
    pub flows: Vec<Flow>,
    /// Sessions of each server once all have moved.
    pub after: Vec<u32>,
    /// The highest share of a server over the lowest one, now. Infinite where a server is empty and another is not.
    pub ratio: f64,
    /// Clients that should go and for which no other server has room.
    pub without_room: u32,
}

impl Plan {
    /// Clients that move.
    pub fn clients(&self) -> u32 {
        self.flows.iter().map(|flow| flow.clients).sum()
    }
}

/// The share of a ceiling, compared without rounding.
#[derive(Debug, Clone, Copy)]
struct Share {
    load: u64,
    ceiling: u64,
}

impl Share {
    fn of(load: u32, ceiling: u32) -> Self {
        Self { load: load.into(), ceiling: u64::from(ceiling.max(1)) }
    }

    fn compare(self, other: Self) -> Ordering {
        // Both factors are below 2^33: the product fits in 128 bits, and mostly in 64.
        let of = |load: u64, ceiling: u64| u128::from(load) * u128::from(ceiling);
        of(self.load, other.ceiling).cmp(&of(other.load, self.ceiling))
    }

    fn value(self) -> f64 {
        self.load as f64 / self.ceiling as f64
    }
}

impl ServerNow {
    fn share_with(&self, sessions: u32) -> Share {
        Share::of(self.others.saturating_add(sessions), self.ceiling)
    }

    /// The most sessions that the plan gives it.
    fn most(&self) -> u32 {
        match self.role {
            Role::Shares => self.ceiling.saturating_sub(self.others).max(self.sessions),
            Role::Gives | Role::Stays => self.sessions,
            Role::Leaves => 0,
        }
    }

    fn takes_part(&self) -> bool {
        matches!(self.role, Role::Shares | Role::Gives)
    }
}

/// The highest share over the lowest one of the servers that share clients. One client more on a server counts for
/// nothing: three clients on two servers are as even as they can be.
pub fn ratio(servers: &[ServerNow]) -> f64 {
    let shares = || servers.iter().filter(|one| one.takes_part());
    let most = shares().map(|one| one.share_with(one.sessions.saturating_sub(1)).value()).fold(0.0, f64::max);
    let least = shares().filter(|one| one.role == Role::Shares);
    let least = least.map(|one| one.share_with(one.sessions).value()).fold(f64::INFINITY, f64::min);
    if most <= least { 1.0 } else { most / least }
}

/// Plans the moves that make the servers even, if their [`ratio`] is above `to`; those of servers that leave in any
/// case.
pub fn plan(servers: &[ServerNow], to: f64) -> Plan {
    let ratio = ratio(servers);
    let leaves = |one: &ServerNow| one.role == Role::Leaves && one.sessions > 0;
    let mut plan = Plan { ratio, after: servers.iter().map(|one| one.sessions).collect(), ..Plan::default() };
    let is_due = ratio > to;
    if !is_due && !servers.iter().any(leaves) {
        return plan;
    }
    let targets = targets(servers, is_due);
    // What each gives: as many as it has too many, of those that may go.
    let mut gives: Vec<u32> = servers
        .iter()
        .zip(&targets)
        .map(|(one, target)| one.sessions.saturating_sub(*target).min(one.movable))
        .collect();
    let wanted: u32 = gives.iter().sum();
    let gets = fill(servers, &targets, wanted);
    plan.without_room = wanted - gets.iter().sum::<u32>();
    let mut gets_left = gets;
    // The largest with the largest: few pairs.
    loop {
        let largest = |left: &[u32]| (0..left.len()).max_by_key(|&at| (left[at], usize::MAX - at));
        let (Some(from), Some(to)) = (largest(&gives), largest(&gets_left)) else { break };
        let clients = gives[from].min(gets_left[to]);
        if clients == 0 {
            break;
        }
        gives[from] -= clients;
        gets_left[to] -= clients;
        plan.after[from] -= clients;
        plan.after[to] += clients;
        plan.flows.push(Flow { from, to, clients });
    }
    plan
}

/// How many sessions each server would have if all sessions were placed anew, those of servers that are left alone
/// excepted. Where only servers leave, the others keep what they have.
fn targets(servers: &[ServerNow], is_due: bool) -> Vec<u32> {
    let keeps = |one: &ServerNow| match one.role {
        Role::Stays => one.sessions,
        Role::Leaves => 0,
        // What may not move stays.
        Role::Shares | Role::Gives if is_due => one.sessions.saturating_sub(one.movable),
        Role::Shares | Role::Gives => one.sessions,
    };
    let mut targets: Vec<u32> = servers.iter().map(keeps).collect();
    let all: u32 = servers.iter().map(|one| one.sessions).sum();
    let left = all - targets.iter().sum::<u32>();
    for _ in 0..left {
        let Some(at) = lowest(servers, &targets, |at, one| targets[at] < one.most()) else { break };
        targets[at] += 1;
    }
    targets
}

/// How many of `wanted` clients each server gets that has fewer than its target.
fn fill(servers: &[ServerNow], targets: &[u32], wanted: u32) -> Vec<u32> {
    let mut has: Vec<u32> = servers.iter().map(|one| one.sessions).collect();
    for _ in 0..wanted {
        let Some(at) = lowest(servers, &has, |at, _| has[at] < targets[at]) else { break };
        has[at] += 1;
    }
    has.iter().zip(servers).map(|(has, one)| has - one.sessions).collect()
}

/// The server with the lowest share of those that may have one more; of equals the one with the most sessions now, so
/// that as few move as possible.
fn lowest(servers: &[ServerNow], has: &[u32], may: impl Fn(usize, &ServerNow) -> bool) -> Option<usize> {
    let candidates = servers.iter().enumerate().filter(|(at, one)| one.takes_part() && may(*at, one));
    let by_share = |(a, one): &(usize, &ServerNow), (b, other): &(usize, &ServerNow)| {
        let shares = one.share_with(has[*a]).compare(other.share_with(has[*b]));
        shares.then(other.sessions.cmp(&one.sessions)).then(a.cmp(b))
    };
    candidates.min_by(by_share).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(sessions: u32) -> ServerNow {
        ServerNow { role: Role::Shares, sessions, movable: sessions, others: 0, ceiling: 10_000 }
    }

    fn flows(plan: &Plan) -> Vec<(usize, usize, u32)> {
        plan.flows.iter().map(|flow| (flow.from, flow.to, flow.clients)).collect()
    }

    #[test]
    fn one_full_server_and_two_empty_ones() {
        let plan = plan(&[server(900), server(50), server(50)], 1.1);
        assert_eq!(plan.after, [334, 333, 333]);
        assert_eq!(flows(&plan), [(0, 1, 283), (0, 2, 283)]);
        assert_eq!((plan.ratio > 17.9, plan.without_room), (true, 0));
    }

    #[test]
    fn what_is_even_enough_stays() {
        assert_eq!(plan(&[server(105), server(100), server(98)], 1.1).clients(), 0);
        assert_eq!(plan(&[server(1), server(0), server(0)], 1.0).clients(), 0, "no move could make it more even");
        assert_eq!(flows(&plan(&[server(45), server(27), server(0)], 1.1)), [(0, 2, 21), (1, 2, 3)]);
        assert!(plan(&[], 1.1).flows.is_empty());
    }

    #[test]
    fn shares_are_even_and_not_counts() {
        let large = ServerNow { ceiling: 20_000, ..server(0) };
        let direct = ServerNow { others: 100, ..server(0) };
        assert_eq!(plan(&[server(300), large, server(0)], 1.1).after, [75, 150, 75]);
        assert_eq!(plan(&[server(300), direct, server(0)], 1.1).after, [134, 33, 133]);
    }

    #[test]
    fn who_leaves_gives_all_and_who_is_unwell_is_left_alone() {
        let with = |role, sessions| ServerNow { role, ..server(sessions) };
        let plan = plan(&[with(Role::Leaves, 100), server(100), server(90), with(Role::Stays, 7)], 1.3);
        assert_eq!(plan.after, [0, 145, 145, 7]);
        let tight = ServerNow { ceiling: 110, ..server(100) };
        let plan = super::plan(&[with(Role::Leaves, 100), tight], 1.3);
        assert_eq!((flows(&plan), plan.without_room), (vec![(0, 1, 10)], 90));
    }

    fn any_server() -> impl Strategy<Value = ServerNow> {
        let role = prop_oneof![
            6 => Just(Role::Shares), 1 => Just(Role::Gives), 1 => Just(Role::Leaves), 1 => Just(Role::Stays)
        ];
        (role, 0..300_u32, 0..=100_u32, 0..50_u32, 1..400_u32).prop_map(|(role, sessions, part, others, ceiling)| {
            ServerNow { role, sessions, movable: sessions * part / 100, others, ceiling }
        })
    }

    proptest! {
        #[test]
        fn a_plan_keeps_all_limits_and_never_swaps(servers in prop::collection::vec(any_server(), 0..7), to in 1.0..2.0) {
            let plan = plan(&servers, to);
            let (from, into): (Vec<_>, Vec<_>) = plan.flows.iter().map(|flow| (flow.from, flow.to)).unzip();
            prop_assert!(from.iter().all(|server| !into.contains(server)), "{plan:?}");
            for (at, one) in servers.iter().enumerate() {
                let given: u32 = plan.flows.iter().filter(|flow| flow.from == at).map(|flow| flow.clients).sum();
                let got: u32 = plan.flows.iter().filter(|flow| flow.to == at).map(|flow| flow.clients).sum();
                prop_assert!(given <= one.movable);
                prop_assert!(got == 0 || one.role == Role::Shares && one.others + one.sessions + got <= one.ceiling);
                prop_assert!(given == 0 || one.role != Role::Stays);
                prop_assert_eq!(plan.after[at], one.sessions - given + got);
            }
            prop_assert_eq!(plan.after.iter().sum::<u32>(), servers.iter().map(|one| one.sessions).sum::<u32>());
        }

        #[test]
        fn after_a_plan_there_is_nothing_to_do(sessions in prop::collection::vec(0..2000_u32, 1..6)) {
            let servers: Vec<_> = sessions.into_iter().map(server).collect();
            let plan = plan(&servers, 1.05);
            let after: Vec<_> = plan.after.iter().map(|&sessions| server(sessions)).collect();
            prop_assert_eq!(super::plan(&after, 1.05).clients(), 0);
            if plan.clients() > 0 {
                prop_assert!(plan.after.iter().max().unwrap() - plan.after.iter().min().unwrap() <= 1);
            }
        }
    }
}
