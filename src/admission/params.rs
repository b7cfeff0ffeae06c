//! What the configuration says about admission: rates, quotas, holds.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use crate::{
    admission::{deadlines::DeadlinePolicy, observe::Mode, quota::rate::Rate},
    identity::AccountRule,
};

/// A quota of connections and of new connections per second; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// The most connections at once.
    pub max_connections: Option<u32>,
    /// New connections per second, and at once.
    pub rate: Option<Rate>,
    /// A client over the quota is let in all the same, and counted as one that would have been refused.
    pub warn_only: bool,
}

/// The limits of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountLimits {
    /// Of connections and of new connections per second.
    pub quota: Quota,
    /// The most leafnodes at once; `None` is no limit.
    pub max_leafnodes: Option<u32>,
    /// Its share of the pace while others wait, relative to the other accounts' (default 1).
    pub weight: NonZeroU32,
    /// Its clients go before those of all accounts without priority.
    pub priority: bool,
    /// The most handshakes with servers under way at once; an auth callout, say, is asked once for each. `None` leaves
    /// that to the concurrency limit of each server.
    pub max_handshakes: Option<NonZeroU32>,
    /// Whether its sessions go to another server when theirs is lost; `None` where they end then.
    pub rehome: Option<RehomeLimits>,
}

impl Default for AccountLimits {
    fn default() -> Self {
        let (quota, weight) = (Quota::default(), NonZeroU32::MIN);
        Self { quota, max_leafnodes: None, weight, priority: false, max_handshakes: None, rehome: None }
    }
}

/// What bounds the sessions of an account that go to another server when theirs is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RehomeLimits {
    /// The most bytes that the subscriptions of one session take, and what its client publishes meanwhile. A session
    /// whose subscriptions take more ends with its server.
    pub memory: NonZeroU32,
    /// A session that is on no other server by then ends.
    pub within: Duration,
}

/// A quota and the users or client names that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternQuota {
    /// A glob: `*` and `?`.
    pub pattern: String,
    /// What each user that fits may have, or all clients together whose name fits.
    pub quota: Quota,
}

/// The patterns of both kinds, in the order of the configuration; the first that fits counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatternQuotas {
    /// By user: each user has the quota for itself.
    pub users: Vec<PatternQuota>,
    /// By client name. Clients choose their names, so all clients whose name fits share one quota.
    pub names: Vec<PatternQuota>,
}

/// Everything that admission needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct Params {
    /// Whether clients are held and refused, or only watched.
    pub mode: Mode,
    /// The configured pace: new clients per second onto the whole cluster; `None` is no limit.
    pub pace: Option<Rate>,
    /// The most clients that may wait at once: for a turn, for a promised token, or for the moment of their refusal.
    /// Where accounts have priority, a sixteenth of these places is theirs alone.
    pub max_held: usize,
    /// How long a client of unknown kind may be held, from accept to PONG.
    pub max_hold: Duration,
    /// The same by the `lang` of CONNECT, over the defaults of [`DeadlinePolicy`].
    pub max_hold_by_lang: HashMap<String, Duration>,
    /// A refusal is sent after a random delay up to this, inside the client's deadline.
    pub refusal_spread: Duration,
    /// The most clients of all listeners together.
    pub max_clients: u32,
    /// Quota of each source address (IPv6: /64).
    pub per_source: Quota,
    /// The most leafnodes of each source at once.
    pub max_leafnodes_per_source: Option<u32>,
    /// Limits of any account without an entry of its own.
    pub default_account: AccountLimits,
    /// Limits by account name.
    pub accounts: HashMap<String, AccountLimits>,
    /// Which credentials belong to which account; the first match wins.
    pub rules: Vec<AccountRule>,
    /// Quotas by user and by client name.
    pub patterns: PatternQuotas,
}

impl Params {
    /// How long clients wait.
    pub(super) fn deadline_policy(&self) -> DeadlinePolicy {
        DeadlinePolicy::new(self.max_hold, self.max_hold_by_lang.clone())
    }
}
