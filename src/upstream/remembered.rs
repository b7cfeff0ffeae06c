//! What is known of the servers, for a process that takes over. Each is found again by its address, wherever it stands
//! in the configuration; what the new configuration does not have is left out.
//!
//! | of the cluster | |
//! |---|---|
//! | closes of clients whose server has died | go along: their clients are still on their way back |
//! | `unseen`, `fleet`: what peers place and share | stays: their next beat says it |

use std::{sync::PoisonError, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    lapse::{self, Lapse},
    upstream::{Servers, server::remembered::RememberedServer},
};

/// The most servers that are recalled.
const MOST_SERVERS: usize = 10_000;

/// The servers as another process recalls them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedServers {
    #[serde(default, deserialize_with = "lapse::or_default")]
    servers: Vec<RememberedServer>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    closes: Lapse,
}

impl Servers {
    /// What is known of the servers.
    pub fn remembered(&self, now: Instant) -> RememberedServers {
        RememberedServers {
            servers: self.list().iter().filter_map(|server| server.remembered(now)).collect(),
            closes: self.staggered_close.lock().unwrap_or_else(PoisonError::into_inner).remembered(now),
        }
    }

    /// Recalls what another process knew of them at `then`. What this one has seen itself counts more.
    pub fn recall(&self, remembered: &RememberedServers, then: Instant) {
        let (list, addresses) = (self.list(), self.addresses());
        for one in remembered.servers.iter().take(MOST_SERVERS) {
            let id = addresses.id(&one.address);
            if let Some(server) = id.and_then(|id| list.iter().find(|server| server.id() == id)) {
                server.recall(one, then);
            }
        }
        self.staggered_close.lock().unwrap_or_else(PoisonError::into_inner).recall(remembered.closes, then);
    }
}
