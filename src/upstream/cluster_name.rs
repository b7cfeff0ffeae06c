//! Whether a server is one of the cluster that weir is in front of, by the name of its cluster in INFO. A nats-server
//! of somebody else that comes up at a known address is the emptiest of all: it would take every new client, and the
//! passwords of all.
//!
//! Where the configuration has the names, they decide. Else a server belongs to the cluster by whose name weir knew it
//! first, and one that changes its name is left out until the name turns out to be the cluster's: another server has
//! it, or most have. Where nobody else is left it is used, since the cluster may have been renamed.

/// The name of a cluster; `None` where a server is in none.
pub type ClusterName = Option<Box<str>>;

/// The length of a name that nats-server makes up where the configuration has none (a NUID).
const MADE_UP_LENGTH: usize = 22;

/// What one server has said of its cluster.
#[derive(Debug, Default)]
pub struct Membership {
    /// The name that weir goes by; the outer `None` is before its first INFO.
    known: Option<ClusterName>,
    /// What it says now, where that is another name.
    other: Option<ClusterName>,
    /// It is used all the same.
    is_last_resort: bool,
}

/// Servers make names up anew at each start, until they hear another server's.
fn is_made_up(name: &ClusterName) -> bool {
    name.as_ref().is_some_and(|name| name.len() == MADE_UP_LENGTH && name.bytes().all(|b| b.is_ascii_alphanumeric()))
}

impl Membership {
    /// Its INFO has this name. `expected` are the names in the configuration, if there are any.
    pub fn says(&mut self, name: ClusterName, expected: &[Box<str>]) {
        let fits = match &self.known {
            _ if !expected.is_empty() => name.as_ref().is_some_and(|name| expected.contains(name)),
            None => true,
            Some(known) => *known == name || is_made_up(known) && is_made_up(&name),
        };
        if fits {
            (self.known, self.other) = (Some(name), None);
        } else {
            self.other = Some(name);
        }
        self.is_last_resort = false;
    }

    /// Whether no client is to be sent there.
    pub fn is_stranger(&self) -> bool {
        self.other.is_some() && !self.is_last_resort
    }

    /// What it says of its cluster, where that does not fit.
    pub fn other(&self) -> Option<&ClusterName> {
        self.other.as_ref()
    }

    /// What it says of its cluster now; the outer `None` is before its first INFO.
    pub fn name(&self) -> Option<&ClusterName> {
        self.other.as_ref().or(self.known.as_ref())
    }

    /// Carries out the verdict.
    pub fn judged(&mut self, verdict: Verdict) {
        self.is_last_resort = verdict == Verdict::LastResort;
        if verdict == Verdict::Belongs
            && let Some(name) = self.other.take()
        {
            self.known = Some(name);
        }
    }
}

/// What is to become of a server whose cluster's name does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is left out.
    Stranger,
    /// Nobody else is there.
    LastResort,
    /// The cluster has this name by now.
    Belongs,
}

/// One server, for [`judge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// What it says of its cluster, if its INFO is known.
    pub name: Option<ClusterName>,
    /// Whether that fits.
    pub fits: bool,
    /// Whether it answers.
    pub is_reachable: bool,
}

/// The verdict on a server that says `name`, which does not fit, among all servers.
pub fn judge(name: &ClusterName, all: &[Voter], is_configured: bool) -> Verdict {
    if is_configured {
        return Verdict::Stranger;
    }
    let say_so = |voter: &&Voter| voter.name.as_ref() == Some(name);
    if all.iter().filter(say_so).any(|voter| voter.fits) || all.iter().filter(say_so).count() * 2 > all.len() {
        return Verdict::Belongs;
    }
    match all.iter().any(|voter| voter.fits && voter.is_reachable) {
        true => Verdict::Stranger,
        false => Verdict::LastResort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> ClusterName {
        (!name.is_empty()).then(|| name.into())
    }

    const NOBODY: [usize; 0] = [];

    /// A cluster whose servers say one after another what their clusters are called. Returns who is a stranger.
    fn strangers(servers: usize, said: &[(usize, &str)], dead: &[usize], expected: &[&str]) -> Vec<usize> {
        let expected: Vec<Box<str>> = expected.iter().map(|&name| name.into()).collect();
        let mut all: Vec<_> = (0..servers).map(|_| Membership::default()).collect();
        for &(server, name) in said {
            all[server].says(of(name), &expected);
            for at in 0..servers {
                let voters: Vec<_> = all
                    .iter()
                    .enumerate()
                    .map(|(n, one)| Voter {
                        name: one.name().cloned(),
                        fits: one.other().is_none() && one.name().is_some(),
                        is_reachable: !dead.contains(&n),
                    })
                    .collect();
                if let Some(name) = all[at].other().cloned() {
                    all[at].judged(judge(&name, &voters, !expected.is_empty()));
                }
            }
        }
        (0..servers).filter(|&n| all[n].is_stranger()).collect()
    }

    const ALL: [(usize, &str); 3] = [(0, "c"), (1, "c"), (2, "c")];

    #[test]
    fn a_server_that_says_another_name_is_a_stranger_until_it_is_back() {
        assert_eq!(strangers(3, &ALL, &[], &[]), NOBODY);
        for other in ["d", ""] {
            assert_eq!(strangers(3, &[&ALL[..], &[(1, other)]].concat(), &[], &[]), [1]);
            assert_eq!(strangers(3, &[&ALL[..], &[(1, other), (1, "c")]].concat(), &[], &[]), NOBODY);
        }
        assert_eq!(strangers(3, &[(0, ""), (1, ""), (2, ""), (2, "d")], &[], &[]), [2]);
    }

    #[test]
    fn clusters_with_names_of_their_own_are_joined_by_gateways() {
        let super_cluster = [(0, "east"), (1, "west"), (2, "west")];
        assert_eq!(strangers(3, &super_cluster, &[], &[]), NOBODY);
        assert_eq!(strangers(3, &[&super_cluster[..], &[(0, "west")]].concat(), &[], &[]), NOBODY, "it has moved");
        assert_eq!(strangers(3, &[&super_cluster[..], &[(0, "north")]].concat(), &[], &[]), [0]);
    }

    #[test]
    fn a_cluster_may_be_renamed() {
        assert_eq!(strangers(3, &[&ALL[..], &[(0, "d"), (1, "d")]].concat(), &[], &[]), NOBODY, "two of three");
        assert_eq!(strangers(2, &[(0, "c"), (1, "c"), (0, "d")], &[], &[]), [0]);
        assert_eq!(strangers(2, &[(0, "c"), (1, "c"), (0, "d")], &[1], &[]), NOBODY, "nobody else is there");
        assert_eq!(strangers(2, &[(0, "c"), (1, "c"), (0, "d"), (1, "d")], &[], &[]), NOBODY);
        assert_eq!(strangers(1, &[(0, "c"), (0, "")], &[], &[]), NOBODY);
    }

    #[test]
    fn names_that_servers_make_up_change_at_each_start() {
        let (one, other) = ("0123456789abcdefABCDEF", "ABCDEF0123456789abcdef");
        assert_eq!(strangers(2, &[(0, one), (1, one), (0, other)], &[], &[]), NOBODY);
        assert_eq!(strangers(2, &[(0, "c"), (1, "c"), (0, other)], &[], &[]), [0]);
        assert_eq!(strangers(2, &[(0, "c"), (1, "c"), (0, other), (0, "c")], &[], &[]), NOBODY);
    }

    #[test]
    fn configured_names_decide() {
        assert_eq!(strangers(3, &[(0, "c"), (1, "d"), (2, "")], &[], &["c"]), [1, 2]);
        assert_eq!(strangers(3, &[(0, "c"), (1, "d"), (2, "d")], &[0], &["c", "d"]), NOBODY);
        assert_eq!(strangers(2, &[(0, "d"), (1, "d")], &[], &["c"]), [0, 1], "nobody else is there");
    }
}
