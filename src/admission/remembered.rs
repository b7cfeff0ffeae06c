//! What admission knows, for a process that takes over: so that whoever comes back is treated as before, and what was
//! found of the cluster's rate need not be found again.
//!
//! | goes along | why |
//! |---|---|
//! | `client_history`, `source_reputation`, `login_history` | who waits for longest goes first; who is known stays so |
//! | `operators`, `kicked` | who may use the reserve, or is kept away, stays so |
//! | the retry schedule | clients that were told when to come are expected then, and others are told other moments |
//! | the service rate | a storm is measured already: whoever comes too late is told so at once |
//! | the tokens of the pace, of accounts, sources, users and names | nobody gets a second burst |
//! | `accounts`: login times, baselines, the cluster's limits | what a login takes is the measure of waiting |
//! | a pause | its operator has not ended it |
//!
//! | stays | why |
//! |---|---|
//! | the queue, `queued`, `reserved`, `answered_later`, `would_wait` | their clients are gone, or come with a session |
//! | `moving`: kept slots | a kept slot is a slot of this process; whoever comes for it is placed as any other |
//! | `lame_duck`, `draining`, `drain_spread_ms` | the process leaves, and the one that takes over does not |
//! | limits, policies, mode, deadlines, `max_held`, `refusal_spread_ms` | the configuration has them |
//! | `finished`, `warned`, `would_hold` | counters begin at 0, as with any start |
//! | `shared_rates`, `swept_servers`, `source_seed`, `pace_ready_at` | bookkeeping of this process |

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{
    admission::{
        controller::Admission,
        queue::waiting::Waiter,
        quota::{
            account::remembered::RememberedAccount, by_key::RememberedKey, rate::RememberedTokens, sources::Source,
        },
        reputation::{
            clients::RememberedClient, logins::RememberedLogins, operators::RememberedOperators,
            sources::RememberedSources,
        },
        retry_schedule::{RememberedSchedule, RetrySchedule},
        throughput::RememberedRate,
    },
    identity::{ClientKey, CredentialKey},
    lapse::{self, Lapse},
};

/// What another process recalls. Of each kind there are at most as many as the process itself keeps; of tokens 16,384
/// for each kind of key, and 16,384 accounts with 65,536 pairs of account and server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedAdmission {
    #[serde(default, deserialize_with = "lapse::or_default")]
    is_paused: bool,
    #[serde(default, deserialize_with = "lapse::or_default")]
    rate: Option<RememberedRate>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    retry_schedule: RememberedSchedule,
    #[serde(default, deserialize_with = "lapse::or_default")]
    pace: Option<RememberedTokens>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    operators: RememberedOperators,
    #[serde(default, deserialize_with = "lapse::or_default")]
    kicked: Vec<(ClientKey, Lapse)>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    accounts: Vec<RememberedAccount>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    clients: Vec<RememberedClient>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    tokens_of_names: Vec<RememberedKey<String>>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    tokens_of_users: Vec<RememberedKey<CredentialKey>>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    tokens_of_sources: Vec<RememberedKey<Source>>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    logins: RememberedLogins,
    #[serde(default, deserialize_with = "lapse::or_default")]
    sources: RememberedSources,
}

impl RememberedAdmission {
    /// Forgets what is known by the keys of clients and credentials.
    pub fn forget_keys(&mut self) {
        (self.kicked, self.clients, self.tokens_of_users) = Default::default();
        (self.logins, self.operators) = Default::default();
        self.sources.forget_keys();
    }
}

impl<W: Waiter> Admission<W> {
    /// What it knows of clients.
    #[cfg(test)]
    pub fn client_history(&self) -> &crate::admission::reputation::clients::ClientHistory {
        &self.client_history
    }

    /// What it knows, for a process that takes over. No table is locked for longer than one of its shards takes to be
    /// copied.
    pub fn remembered(&self, now: Instant) -> RememberedAdmission {
        let addresses = self.servers.addresses();
        let (rate, retry_schedule) = {
            let mut state = self.queue_state();
            (state.throughput.remembered(now), state.retry_schedule.remembered(now))
        };
        let (tokens_of_users, tokens_of_names) = self.users_and_names.remembered(now);
        RememberedAdmission {
            is_paused: self.is_paused(),
            rate,
            retry_schedule,
            pace: self.pace.remembered(now),
            operators: self.operators.remembered(now),
            kicked: self.kicked().remembered(now),
            accounts: self.accounts.remembered(&addresses, now),
            clients: self.client_history.remembered(now),
            tokens_of_names,
            tokens_of_users,
            tokens_of_sources: self.sources.remembered(now),
            logins: self.login_history.remembered(&addresses, now),
            sources: self.source_reputation().remembered(now),
        }
    }

    /// Recalls what another process knew at `then`. To be called before clients come: what is known already counts
    /// more, and the retry schedule begins anew with what is recalled.
    pub fn recall(&self, remembered: RememberedAdmission, then: Instant) {
        let addresses = self.servers.addresses();
        {
            let mut state = self.queue_state();
            if let Some(rate) = &remembered.rate {
                state.throughput.recall(rate, then);
            }
            state.retry_schedule = RetrySchedule::recalled(remembered.retry_schedule, then);
            state.pace_ready_at = None;
        }
        if let Some(tokens) = &remembered.pace {
            self.pace.recall(tokens, then);
        }
        self.operators.recall(remembered.operators, then);
        self.kicked().recall(remembered.kicked, then);
        self.accounts.recall(&remembered.accounts, &addresses, then, &self.usual_latencies);
        self.client_history.recall(remembered.clients, then);
        self.users_and_names.recall(remembered.tokens_of_users, remembered.tokens_of_names, then);
        self.sources.recall(remembered.tokens_of_sources, then);
        self.login_history.recall(remembered.logins, &addresses, then);
        self.source_reputation().recall(remembered.sources, then);
        if remembered.is_paused {
            self.pause();
        }
    }
}
