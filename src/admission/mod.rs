//! Whether and when a client gets in: the accept door, the connect door, the pace and the hold.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use crate::identity::AccountRule;

/// New connections per second, with the burst that may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// New connections per second, sustained.
    pub per_second: NonZeroU32,
    /// New connections at once after a quiet time.
    pub burst: NonZeroU32,
}

/// A quota: `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// The most connections at once.
    pub max_connections: Option<u32>,
    /// The most new connections per second.
    pub rate: Option<Rate>,
}

/// What one account may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountLimits {
    /// Connections and new connections per second.
    pub quota: Quota,
    /// Its share of the pace while others wait, relative to the others' (default 1).
    pub weight: NonZeroU32,
}

/// Everything the doors need to know.
#[derive(Debug, Clone)]
pub struct Params {
    /// The pace: new clients per second onto the whole cluster; `None` is no limit.
    pub pace: Option<Rate>,
    /// The most clients that may wait at once, for a turn or for a refusal's delay.
    pub max_held: usize,
    /// How long a client may be held, from accept to PONG, while its kind is unknown.
    pub max_hold: Duration,
    /// The same by the `lang` of CONNECT, over the defaults of `hold::patience`.
    pub max_hold_by_lang: HashMap<String, Duration>,
    /// A refusal is sent after a random delay up to this, inside the client's deadline.
    pub refusal_spread: Duration,
    /// The most clients of all listeners together.
    pub max_clients: u32,
    /// Quota of each source address (IPv6: /64).
    pub per_source: Quota,
    /// Limits of any account without an entry of its own.
    pub default_account: AccountLimits,
    /// Limits by account name.
    pub accounts: HashMap<String, AccountLimits>,
    /// Which credentials belong to which account, first match wins.
    pub rules: Vec<AccountRule>,
}
