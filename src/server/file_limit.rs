//! The process's limit of open files. Every client takes two, so a large fleet reaches this limit before any other.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Config;

/// Descriptors of one client: its own socket, and the socket to its server.
const PER_CLIENT: u64 = 2;

/// Descriptors of one server apart from its clients: a connection for readings, and one more while that is replaced.
const PER_SERVER: u64 = 2;

/// Descriptors of one worker: epoll, its waker, the signal pipe, a listening socket for each of a few listeners.
const PER_WORKER: u64 = 8;

/// Descriptors of the process: standard streams, the admin socket and its scrapers, a name being resolved.
const BASE: u64 = 48;

/// The fewest descriptors that are kept for clients which are being refused.
const FEWEST_REFUSALS: u64 = 4;

/// The limit of open files of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimit {
    /// The limit in force; `u64::MAX` is no limit.
    pub soft: u64,
    /// The most that the process may raise the soft limit to; `u64::MAX` is no limit.
    pub hard: u64,
}

/// Raises the soft limit to the hard limit, and returns the limits in force afterwards. Where the system refuses,
/// `soft` stays below `hard`; [`carries`] tells whether that matters.
pub fn raise() -> FileLimit {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // macOS refuses "no limit" here. The old limit then stays in force, and is what the return value says.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    let limit = getrlimit(Resource::Nofile);
    FileLimit { soft: limit.current.unwrap_or(u64::MAX), hard: limit.maximum.unwrap_or(u64::MAX) }
}

/// The limit to which [`raise`] would raise the limit of this process.
pub fn hard() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// A limit of open files that is too low for the configured clients. Displays as one sentence for the log, with what to
/// set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// The limit in force, in descriptors.
    pub limit: u64,
    /// What `max_clients` clients take, in descriptors.
    pub needed: u64,
    /// What one client takes, in descriptors.
    pub needed_for_one: u64,
    /// As configured.
    pub max_clients: u32,
    /// The clients that the limit is enough for.
    pub carried: u32,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, needed, needed_for_one, max_clients, carried } = self;
        if *carried == 0 {
            return write!(
                f,
                "the limit of {limit} open files carries no client: weir needs {needed_for_one} for the first one and \
                 {needed} for max_clients = {max_clients} (`ulimit -n {needed}`, or LimitNOFILE={needed} in a systemd \
                 unit)"
            );
        }
        write!(
            f,
            "the limit of {limit} open files carries {carried} clients, not max_clients = {max_clients}: \
             raise it to {needed} (`ulimit -n {needed}`, or LimitNOFILE={needed} in a systemd unit), \
             or set max_clients = {carried}"
        )
    }
}

impl std::error::Error for Shortfall {}

/// Checks whether a limit (`FileLimit::soft`) is enough for `max_clients` clients: two descriptors each, and a few
/// dozen for the rest. Returns how many descriptors there are for clients that are being refused.
///
/// # Errors
/// The limit is too low; weir then serves fewer clients and refuses the others.
pub fn carries(limit: u64, max_clients: u32, servers: usize, workers: usize) -> Result<u64, Shortfall> {
    let of = |each: u64, count: usize| each.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
    let rest = BASE.saturating_add(of(PER_SERVER, servers)).saturating_add(of(PER_WORKER, workers));
    let clients = PER_CLIENT * u64::from(max_clients);
    let needed = rest.saturating_add(FEWEST_REFUSALS).saturating_add(clients);
    if needed <= limit {
        return Ok(limit - rest - clients);
    }
    let needed_for_one = rest.saturating_add(FEWEST_REFUSALS + PER_CLIENT);
    let carried = limit.saturating_sub(rest.saturating_add(FEWEST_REFUSALS)) / PER_CLIENT;
    Err(Shortfall {
        limit,
        needed,
        needed_for_one,
        max_clients,
        // It fits: a shortfall means fewer than max_clients.
        carried: u32::try_from(carried).unwrap_or(max_clients),
    })
}

/// How many clients the limit of open files has room for. Without a descriptor for one more connection `accept` pauses,
/// and clients wait unseen in the kernel's queue; refusing a client so that it can read why takes one descriptor.
#[derive(Debug)]
pub struct ClientBudget {
    /// The clients that are served at once, of all listeners together; `u32::MAX` where their `max_clients` is less.
    pub clients: u32,
    /// The most clients that may be in the middle of being refused at once.
    pub refusals: u32,
}

impl ClientBudget {
    /// Of what a limit that is too low leaves for clients, this part is kept for refusing those beyond it.
    const KEPT: u64 = 10;

    /// Raises the limit as far as it goes, and warns where that is too low for the configuration.
    ///
    /// # Errors
    /// It is enough for nobody.
    pub fn of(config: &Config, workers: usize) -> Result<Self, Shortfall> {
        let (max_clients, servers) = (config.admission.max_clients, config.most_servers());
        match carries(raise().soft, max_clients, servers, workers) {
            Ok(spare) => Ok(Self { clients: u32::MAX, refusals: u32::try_from(spare).unwrap_or(u32::MAX) }),
            Err(shortfall) if shortfall.carried == 0 => Err(shortfall),
            Err(shortfall) => {
                let (served, refusals) = shortfall.shares();
                shortfall.tell(served, config.chooses_max_clients());
                Ok(Self { clients: served, refusals })
            }
        }
    }
}

impl Shortfall {
    /// Tells how many clients are served at once, and what to set. It is a warning to whoever has asked for more.
    fn tell(&self, clients: u32, are_chosen: bool) {
        let advice = format!("set LimitNOFILE={0} in the systemd unit, or `ulimit -n {0}`", self.needed);
        match are_chosen {
            true => warn!(clients, advice, "the limit of open files serves so many clients at once; more are refused"),
            false => info!(clients, advice, "the limit of open files serves so many clients at once; more are refused"),
        }
    }

    /// How many clients are served at once, and how many may be in the middle of being refused.
    fn shares(&self) -> (u32, u32) {
        let left = u64::from(self.carried) * PER_CLIENT + FEWEST_REFUSALS;
        let refusals = (left / ClientBudget::KEPT).max(FEWEST_REFUSALS);
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        (number((left - refusals) / PER_CLIENT), number(refusals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_a_client_and_a_few_dozen() {
        // 3 servers and 2 workers take 48 + 6 + 16 = 70.
        assert_eq!(carries(2070 + FEWEST_REFUSALS, 1000, 3, 2), Ok(FEWEST_REFUSALS));
        assert_eq!(carries(2170, 1000, 3, 2), Ok(100));
        let short = carries(2073, 1000, 3, 2).unwrap_err();
        assert_eq!((short.needed, short.carried), (2074, 999));
    }

    #[test]
    fn a_part_is_kept_for_refusals_and_everybody_is_served_who_can_be() {
        for (limit, shares) in [(76, (1, 4)), (100, (13, 4)), (1024, (429, 95))] {
            assert_eq!(carries(limit, 65_536, 3, 2).unwrap_err().shares(), shares, "{limit} descriptors");
        }
    }

    #[test]
    fn a_tiny_limit_carries_nobody_and_a_missing_one_everybody() {
        let short = carries(10, 1, 1, 1).unwrap_err();
        assert_eq!((short.carried, short.needed_for_one, short.needed), (0, 64, 64));
        assert_eq!(carries(75, 65_536, 3, 2).unwrap_err().carried, 0);
        assert!(carries(u64::MAX, u32::MAX, 100, 64).is_ok());
    }

    #[test]
    fn the_sentence_says_what_to_set() {
        let short = carries(1024, 65_536, 3, 2).unwrap_err();
        assert_eq!(
            short.to_string(),
            "the limit of 1024 open files carries 475 clients, not max_clients = 65536: \
             raise it to 131146 (`ulimit -n 131146`, or LimitNOFILE=131146 in a systemd unit), \
             or set max_clients = 475"
        );
        assert_eq!(
            carries(64, 65_536, 3, 2).unwrap_err().to_string(),
            "the limit of 64 open files carries no client: weir needs 76 for the first one and 131146 for \
             max_clients = 65536 (`ulimit -n 131146`, or LimitNOFILE=131146 in a systemd unit)"
        );
    }

    #[test]
    fn raising_ends_at_the_hard_limit() {
        let limit = raise();
        assert_eq!(limit.soft, limit.hard);
        assert_eq!(raise(), limit);
    }
}
