//! Rates and quotas: of the cluster, of a source, of an account.

use std::{collections::HashMap, num::NonZeroU32};

use crate::{
    admission::{AccountLimits, PatternQuota, Quota, Rate},
    config::{
        effective::Line,
        error::{Wrong, quote},
        leaf::{Leaf, any, within},
        node::Node,
        section::{Found, Section},
    },
    identity::AccountRule,
};

/// More than any cluster takes; catches a slipped digit.
const FASTEST: u32 = 1_000_000;

/// New connections per second.
pub(super) trait PerSecond: Leaf {
    /// The number; `None` is none that is written down.
    fn number(&self) -> Option<u32>;
}

impl PerSecond for u32 {
    fn number(&self) -> Option<u32> {
        Some(*self)
    }
}

/// The rate of the whole cluster, which weir also finds by itself.
#[derive(PartialEq)]
pub(super) enum Pace {
    /// What the servers finish is what they are given.
    Adaptive,
    /// No more than this.
    Number(u32),
}

const ADAPTIVE: &str = "adaptive";

impl Leaf for Pace {
    fn read(node: &Node) -> Result<Self, Wrong> {
        if *node == Node::String(ADAPTIVE.into()) { Ok(Self::Adaptive) } else { u32::read(node).map(Self::Number) }
    }
    fn show(&self) -> String {
        match self {
            Self::Adaptive => format!("{ADAPTIVE:?}"),
            Self::Number(n) => n.show(),
        }
    }
}

impl PerSecond for Pace {
    fn number(&self) -> Option<u32> {
        match self {
            Self::Adaptive => None,
            Self::Number(n) => Some(*n),
        }
    }
}

/// Reads `rate` and `burst`; without a rate there is no limit, and a burst means nothing.
pub(super) fn rate<T: PerSecond>(s: &mut Section<'_>, absence: &str) -> Option<Rate> {
    let rate = s.leaf::<T>("rate", |rate| match rate.number().unwrap_or(1) {
        0 => Err(Wrong::new("0 admits nobody", "write 1 or more, or leave the key out for no limit")),
        1..=FASTEST => Ok(()),
        n => Err(Wrong::new(
            format!("{n} is too large"),
            format!("write 1 to {FASTEST}, or leave the key out for no limit"),
        )),
    });
    let burst = s.leaf::<u32>("burst", within(1..=FASTEST));
    let rate = match rate {
        Found::Good(rate) => rate,
        Found::Wrong => return None,
        Found::Absent => {
            if burst != Found::Absent {
                let wrong = Wrong::new("it does nothing without a rate", "write a rate beside it");
                s.wrong("burst", wrong);
            }
            s.note("rate", absence, false);
            s.note("burst", "a tenth of the rate, at least 10", false);
            return None;
        }
    };
    s.in_force("rate", &rate, true);
    let Some(per_second) = rate.number() else {
        if burst != Found::Absent {
            s.wrong(
                "burst",
                Wrong::new("it does nothing without a number as rate", "leave it out, or write a number as rate"),
            );
        }
        return None;
    };
    // A tenth of a second's worth smooths the jitter of arrivals; ten, so that small fleets start at once.
    let default_burst = (per_second / 10).max(10);
    let (burst, given) = match burst {
        Found::Good(burst) => (burst, true),
        Found::Absent | Found::Wrong => (default_burst, false),
    };
    s.in_force("burst", &burst, given);
    Some(Rate { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
}

/// Reads `max_connections`, `rate`, `burst` and `warn_only`.
pub(super) fn quota(s: &mut Section<'_>) -> Quota {
    let max_connections = s.optional("max_connections", "no limit", |n: &u32| match n {
        0 => Err(Wrong::new("0 admits nobody", "write 1 or more, or leave the key out for no limit")),
        _ => Ok(()),
    });
    let rate = rate::<u32>(s, "no limit");
    // Off: a limit that is written down is meant.
    let warn_only = s.value("warn_only", false, any);
    Quota { max_connections, rate, warn_only }
}

/// All tables under `accounts`.
pub(super) struct Accounts {
    pub(super) default: AccountLimits,
    pub(super) limits: HashMap<String, AccountLimits>,
    /// In the order of the file: the first that fits wins.
    pub(super) rules: Vec<AccountRule>,
}

/// Reads `[accounts.*]`.
pub(super) fn accounts(s: &mut Section<'_>) -> Accounts {
    let mut rules: Vec<AccountRule> = Vec::new();
    let named = s.named("accounts", |name, s| {
        let users = users(s, name, &rules);
        if !users.is_empty() {
            rules.push(AccountRule { account: name.to_owned(), users });
        }
        account_limits(s)
    });
    let mut limits: HashMap<String, AccountLimits> = named.into_iter().collect();
    let default = limits.remove(DEFAULT).unwrap_or_else(|| {
        s.sink.lines.push(Line::Header { text: format!("[accounts.{DEFAULT}]"), given: false });
        let path = format!("accounts.{DEFAULT}");
        Section::read(s.sink, path, Vec::new(), account_limits)
    });
    Accounts { default, limits, rules }
}

/// The entry for any account without one of its own.
const DEFAULT: &str = "default";

fn account_limits(s: &mut Section<'_>) -> AccountLimits {
    let quota = quota(s);
    // 1: every account counts the same until somebody says otherwise.
    let weight = s.value("weight", 1u32, within(1..=1000));
    // No: whoever goes first makes others wait, which is for the operator to say.
    let priority = s.value("priority", false, any);
    // None: the servers' own limit, found out, is for all handshakes, and usually enough.
    let most = s.optional("max_handshakes", "what the servers are seen to do", within(1..=1_000_000u32));
    AccountLimits {
        quota,
        weight: NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN),
        priority,
        max_handshakes: most.and_then(NonZeroU32::new),
    }
}

/// Reads `[users.*]` or `[names.*]`: the name of each table is a pattern.
pub(super) fn patterns(s: &mut Section<'_>, key: &'static str) -> Vec<PatternQuota> {
    let named = s.named(key, |pattern, s| {
        if pattern.is_empty() || globset::Glob::new(pattern).is_err() {
            let what = format!("{} is no glob", quote(pattern));
            s.wrong_table(Wrong::new(what, format!("write [{key}.\"…\"] with * and ? for what may be anything")));
        }
        let quota = quota(s);
        if quota.max_connections.is_none() && quota.rate.is_none() {
            s.wrong_table(Wrong::new("it limits nothing", "write max_connections or rate"));
        }
        quota
    });
    named.into_iter().map(|(pattern, quota)| PatternQuota { pattern, quota }).collect()
}

/// Reads `users`. They may be tokens, so errors and the printed configuration say how many there are and never what.
fn users(s: &mut Section<'_>, account: &str, earlier: &[AccountRule]) -> Vec<String> {
    if account == DEFAULT {
        if s.take("users").is_some() {
            let wrong = Wrong::new(
                "default has no users: it is for all whom no other account names",
                "remove the key, or move it to the account it belongs to",
            );
            s.wrong("users", wrong);
        }
        return Vec::new();
    }
    if account.is_empty() {
        s.wrong("users", Wrong::new("the account has no name", "write [accounts.NAME]"));
    }
    let users = s.list::<User>("users");
    let given = users.is_some();
    let mut kept: Vec<String> = Vec::new();
    for (i, User(user)) in users.unwrap_or_default() {
        let owner = earlier.iter().find(|rule| rule.users.contains(&user));
        if let Some(rule) = owner {
            let what = format!("account {:?} has the same entry", rule.account);
            let wrong = Wrong::new(what, "leave it in one of the two");
            s.wrong_entry("users", i, wrong);
        } else if kept.contains(&user) {
            let wrong = Wrong::new("the same entry is in this list before", "remove one");
            s.wrong_entry("users", i, wrong);
        }
        kept.push(user);
    }
    let text = match kept.len() {
        0 => "none, only what the server itself names".to_owned(),
        1 => "1 entry, not shown".to_owned(),
        n => format!("{n} entries, not shown"),
    };
    s.note("users", &text, given);
    kept
}

/// A user, an nkey or a token, or a glob of such. Has no printable form: it may be a secret.
#[derive(PartialEq)]
struct User(String);

impl Leaf for User {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write a user, nkey or token in quotes; * and ? are globs";
        match node {
            Node::String(text) if text.is_empty() => Err(Wrong::new("it is empty", RIGHT)),
            Node::String(text) if globset::Glob::new(text).is_err() => Err(Wrong::new(
                "this entry (not shown) is no glob: a [ or { is not closed, or it ends in \\",
                "put such a character in brackets, as in [[]",
            )),
            Node::String(text) => Ok(Self(text.clone())),
            other => Err(Wrong::new(format!("it is {}", other.kind()), RIGHT)),
        }
    }
    fn show(&self) -> String {
        "\"…\"".into()
    }
}
