//! What is known of an account, for a process that takes over.
//!
//! | goes along | why |
//! |---|---|
//! | `tokens`, `known_tokens` | nobody gets a second burst |
//! | `logins`, `login_time`, `had_overdue` | the measure of waiting; where logins hang no clients are sent |
//! | `by_cluster`, `leafnodes_by_cluster` | the limit holds from the first client on; the cluster is asked again |
//! | `had_session` | its limit is asked for before that of accounts that are only claimed |
//!
//! | stays | why |
//! |---|---|
//! | `connections`, `leafnodes`, `handshakes`, `extra`, `unproven` | guards count there, in the new process anew |
//! | `limits`, `allowance` | the configuration and the fleet have them |
//! | `warned` | a counter of metrics |
//! | `had_leafnode` | leafnodes come back |

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::Account;
use crate::{
    admission::quota::{logins::RememberedLoginTimes, rate::RememberedTokens},
    lapse::{self, Lapse},
    upstream::Addresses,
};

/// No login is known to take longer: a time that is made up is forgotten by and by.
const LONGEST_LOGIN: Duration = Duration::from_secs(60);

/// An account as another process recalls it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedAccount {
    pub(in crate::admission::quota) name: String,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    tokens: Option<RememberedTokens>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    known_tokens: Option<RememberedTokens>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    by_cluster: Option<u32>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    leafnodes_by_cluster: Option<u32>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    had_session: bool,
    #[serde(default, deserialize_with = "lapse::or_default")]
    had_overdue: bool,
    #[serde(default, deserialize_with = "lapse::or_default")]
    login_time: Lapse,
    #[serde(default, deserialize_with = "lapse::or_default")]
    pub(in crate::admission::quota) logins: RememberedLoginTimes,
}

impl Account {
    /// What is known of it.
    pub(in crate::admission::quota) fn remembered(&self, servers: &Addresses, now: Instant) -> RememberedAccount {
        RememberedAccount {
            name: self.name.to_string(),
            tokens: self.tokens.remembered(now),
            known_tokens: self.known_tokens.remembered(now),
            by_cluster: Some(self.by_cluster.load(Relaxed)).filter(|most| *most != u32::MAX),
            leafnodes_by_cluster: Some(self.leafnodes_by_cluster.load(Relaxed)).filter(|most| *most != u32::MAX),
            had_session: self.had_session.load(Relaxed),
            had_overdue: self.had_overdue(),
            login_time: self.login_time().into(),
            logins: self.logins().remembered(servers, now),
        }
    }

    /// Recalls what another process knew of it at `then`. What has been seen since counts more.
    pub(in crate::admission::quota) fn recall(
        &self,
        remembered: &RememberedAccount,
        servers: &Addresses,
        then: Instant,
    ) {
        for (bucket, tokens) in [(&self.tokens, &remembered.tokens), (&self.known_tokens, &remembered.known_tokens)] {
            if let Some(tokens) = tokens {
                bucket.recall(tokens, then);
            }
        }
        if let Some(most) = remembered.by_cluster {
            let told = self.by_cluster.compare_exchange(u32::MAX, most, Relaxed, Relaxed).is_ok();
            if told {
                self.share_quota();
            }
        }
        if let Some(most) = remembered.leafnodes_by_cluster {
            let _ = self.leafnodes_by_cluster.compare_exchange(u32::MAX, most, Relaxed, Relaxed);
        }
        self.had_session.fetch_or(remembered.had_session, Relaxed);
        self.had_overdue.fetch_or(remembered.had_overdue, Relaxed);
        let login_time = remembered.login_time.duration().min(LONGEST_LOGIN).as_nanos() as u64;
        let _ = self.login_time.compare_exchange(0, login_time, Relaxed, Relaxed);
        self.logins().recall(&remembered.logins, servers, then);
    }
}
