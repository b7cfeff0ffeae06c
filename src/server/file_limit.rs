//! The process's limit of open files. Every client takes two, so a large fleet reaches this limit before any other.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;

/// Descriptors of one client: its own socket, and the socket to its server.
const PER_CLIENT: u64 = 2;

/// Descriptors of one server apart from its clients: a connection for readings, and one more while that is replaced.
const PER_SERVER: u64 = 2;

/// Descriptors of one worker: epoll, its waker, the signal pipe, a listening socket for each of a few listeners.
const PER_WORKER: u64 = 8;

/// Descriptors of the process: standard streams, the admin socket and its scrapers, a name being resolved.
const BASE: u64 = 48;

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

/// A limit of open files that is too low for the configured clients. Displays as one sentence for the log, with what to
/// set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// The limit in force, in descriptors.
    pub limit: u64,
    /// What `max_clients` clients take, in descriptors.
    pub needed: u64,
    /// As configured.
    pub max_clients: u32,
    /// The clients that the limit is enough for.
    pub carried: u32,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, needed, max_clients, carried } = self;
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
/// dozen for the rest. Returns how many descriptors are left over.
///
/// # Errors
/// The limit is too low; weir then serves fewer clients and refuses the others.
pub fn carries(limit: u64, max_clients: u32, servers: usize, workers: usize) -> Result<u64, Shortfall> {
    let of = |each: u64, count: usize| each.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
    let rest = BASE.saturating_add(of(PER_SERVER, servers)).saturating_add(of(PER_WORKER, workers));
    let needed = rest.saturating_add(PER_CLIENT * u64::from(max_clients));
    if needed <= limit {
        return Ok(limit - needed);
    }
    let carried = limit.saturating_sub(rest) / PER_CLIENT;
    Err(Shortfall {
        limit,
        needed,
        max_clients,
        // It fits: a shortfall means fewer than max_clients.
        carried: u32::try_from(carried).unwrap_or(max_clients),
    })
}

/// How many clients the limit of open files has room for. Without descriptors `accept` would stop, and clients would
/// wait unseen in the kernel's queue; refusing a client so that it can read why takes one descriptor.
#[derive(Debug)]
pub struct ClientBudget {
    /// The part of each listener's `max_clients` that is served.
    pub share: f64,
    /// The most clients that may be in the middle of being refused at once.
    pub refusals: u32,
}

impl ClientBudget {
    /// The part of a limit that is too low which is kept for refusing the clients beyond it.
    const KEPT: f64 = 0.1;

    /// Raises the limit as far as it goes, and warns where that is too low for the configuration.
    pub fn of(config: &Config, workers: usize) -> Self {
        let limit = raise();
        let (max_clients, servers) = (config.admission.max_clients, config.upstream.servers.len());
        let refusals = |descriptors: u64| u32::try_from(descriptors).unwrap_or(u32::MAX);
        match carries(limit.soft, max_clients, servers, workers) {
            Ok(spare) => Self { share: 1.0, refusals: refusals(spare) },
            Err(shortfall) => {
                let served = f64::from(shortfall.carried) * (1.0 - Self::KEPT);
                warn!("{shortfall}; until then {} are served and the others refused", served as u32);
                let kept = f64::from(shortfall.carried) * Self::KEPT * 2.0;
                Self { share: served / f64::from(max_clients), refusals: refusals(kept as u64) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_a_client_and_a_few_dozen() {
        // 3 servers and 2 workers take 48 + 6 + 16 = 70.
        assert_eq!(carries(2070, 1000, 3, 2), Ok(0));
        assert_eq!(carries(2170, 1000, 3, 2), Ok(100));
        let short = carries(2069, 1000, 3, 2).unwrap_err();
        assert_eq!((short.needed, short.carried), (2070, 999));
    }

    #[test]
    fn a_tiny_limit_carries_nobody_and_a_missing_one_everybody() {
        assert_eq!(carries(10, 1, 1, 1).unwrap_err().carried, 0);
        assert_eq!(carries(u64::MAX, u32::MAX, usize::MAX, 1), Ok(0));
        assert!(carries(u64::MAX, u32::MAX, 100, 64).is_ok());
    }

    #[test]
    fn the_sentence_says_what_to_set() {
        let short = carries(1024, 65_536, 3, 2).unwrap_err();
        assert_eq!(
            short.to_string(),
            "the limit of 1024 open files carries 477 clients, not max_clients = 65536: \
             raise it to 131142 (`ulimit -n 131142`, or LimitNOFILE=131142 in a systemd unit), \
             or set max_clients = 477"
        );
    }

    #[test]
    fn raising_ends_at_the_hard_limit() {
        let limit = raise();
        assert_eq!(limit.soft, limit.hard);
        assert_eq!(raise(), limit);
    }
}
