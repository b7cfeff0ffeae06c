//! Rates and quotas: of the cluster, of sources, of accounts, of users and names.

use std::{collections::HashMap, num::NonZeroU32, path::PathBuf, time::Duration};

use crate::{
    admission::{AccountLimits, PatternQuota, Quota, Rate, RehomeLimits},
    config::{
        effective::{Line, Mark},
        finding::{Problem, quote},
        leaf::{Any, Leaf, Rule, Within, within, wrong_type},
        node::Node,
        secret,
        section::{Found, Section},
    },
    identity::AccountRule,
};

/// More than any cluster can take. Catches an extra digit.
const FASTEST: u32 = 1_000_000;

/// A rate of new connections per second.
pub(super) trait PerSecond: Leaf {
    /// `None` if weir is to find the rate itself.
    fn number(&self) -> Option<u32>;
}

impl PerSecond for u32 {
    fn number(&self) -> Option<u32> {
        Some(*self)
    }
}

/// The rate of the whole cluster.
#[derive(PartialEq)]
pub(super) enum Pace {
    /// As many as the servers finish.
    Adaptive,
    /// At most this many.
    Number(u32),
}

const ADAPTIVE: &str = "adaptive";

impl Leaf for Pace {
    fn kind() -> String {
        format!("{ADAPTIVE:?} or whole number")
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        if *node == Node::String(ADAPTIVE.into()) { Ok(Self::Adaptive) } else { u32::read(node).map(Self::Number) }
    }
    fn show(&self) -> String {
        match self {
            Self::Adaptive => format!("{ADAPTIVE:?}"),
            Self::Number(n) => n.show(),
        }
    }
}

impl Rule<Pace> for Within<u32> {
    fn read(&self, node: &Node) -> Result<Pace, Problem> {
        match node {
            Node::String(text) if text == ADAPTIVE => Ok(Pace::Adaptive),
            Node::Integer(_) => Rule::<u32>::read(self, node).map(Pace::Number),
            other => {
                let range = Rule::<u32>::range(self).unwrap_or_default();
                Err(wrong_type(other, format!("write {ADAPTIVE:?}, or a number without quotes, {range}")))
            }
        }
    }

    fn range(&self) -> Option<String> {
        Rule::<u32>::range(self)
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
pub(super) fn rate<T: PerSecond>(s: &mut Section<'_>, absence: &'static str) -> Option<Rate>
where
    Within<u32>: Rule<T>,
{
    const BURST: &str = "a tenth of the rate, at least 10";
    let rate = s.leaf::<T>("rate", absence, &within(1..=FASTEST).or_leave_out(absence));
    let burst = s.leaf::<u32>("burst", BURST, &within(1..=FASTEST));
    let rate = match rate {
        Found::Valid(rate) => rate,
        Found::Invalid => return None,
        Found::Absent => {
            if burst != Found::Absent {
                let problem = Problem::new("it does nothing without a rate", "write a rate beside it");
                s.report("burst", problem);
            }
            s.note("rate", absence, false);
            s.note("burst", BURST, false);
            return None;
        }
    };
    s.in_force("rate", &rate, true);
    let Some(per_second) = rate.number() else {
        if burst != Found::Absent {
            s.report(
                "burst",
                Problem::new("it does nothing without a number as rate", "leave it out, or write a number as rate"),
            );
        }
        return None;
    };
    // A tenth of a second's worth absorbs the jitter of arrivals. At least ten, so that small fleets start at once.
    let default_burst = (per_second / 10).max(10);
    let (burst, given) = match burst {
        Found::Valid(burst) => (burst, true),
        Found::Absent | Found::Invalid => (default_burst, false),
    };
    s.in_force("burst", &burst, given);
    Some(Rate { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
}

/// Reads `max_connections`, `rate`, `burst` and `warn_only`.
pub(super) fn quota(s: &mut Section<'_>) -> Quota {
    let most = within(1..=u32::MAX).or_leave_out("no limit");
    let max_connections = s.optional("max_connections", "no limit", most);
    let rate = rate::<u32>(s, "no limit");
    // Off: a limit that is configured is enforced.
    let warn_only = s.value("warn_only", false, Any);
    Quota { max_connections, rate, warn_only }
}

/// Reads `max_leafnodes`. None is a limit that an operator may want: an account without leafnodes.
fn max_leafnodes(s: &mut Section<'_>) -> Option<u32> {
    s.optional("max_leafnodes", "no limit", within(0..=u32::MAX).or_leave_out("no limit"))
}

/// Reads `[admission.per_source]`: the quota, and the most leafnodes.
pub(super) fn per_source(s: &mut Section<'_>) -> (Quota, Option<u32>) {
    (quota(s), max_leafnodes(s))
}

/// All tables under `accounts`.
pub(super) struct Accounts {
    pub(super) default: AccountLimits,
    pub(super) limits: HashMap<String, AccountLimits>,
    /// In the order of the file: the first that matches wins.
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

/// The table for accounts without one of their own.
const DEFAULT: &str = "default";

fn account_limits(s: &mut Section<'_>) -> AccountLimits {
    let quota = quota(s);
    let max_leafnodes = max_leafnodes(s);
    // 1: all accounts have the same share by default.
    let weight = s.value("weight", 1u32, within(1..=1000));
    // No: an account that goes first makes others wait, which only the operator can decide.
    let priority = s.value("priority", false, Any);
    // None: weir measures how many handshakes the servers can take, for all accounts together, and that is usually
    // enough.
    let most = s.optional("max_handshakes", "what the servers are seen to do", within(1..=1_000_000u32));
    AccountLimits {
        quota,
        max_leafnodes,
        weight: NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN),
        priority,
        max_handshakes: most.and_then(NonZeroU32::new),
        rehome: rehome(s),
    }
}

/// Reads `rehome`, `rehome_memory` and `rehome_within`.
fn rehome(s: &mut Section<'_>) -> Option<RehomeLimits> {
    // Off: a session that ends with its server tells its client that messages may be lost, and that is what clients
    // are made for.
    let is_on = s.value("rehome", false, Any);
    // Enough for over 1,000 subscriptions with subjects of 20 bytes.
    let memory = s.value("rehome_memory", 64 * 1024_u32, within(1024..=16 * 1024 * 1024));
    // Shorter than any library waits for the answer to its PINGs.
    let longest = s.value("rehome_within", Duration::from_secs(10), within(SECOND..=60 * SECOND));
    let memory = NonZeroU32::new(memory).filter(|_| is_on)?;
    Some(RehomeLimits { memory, within: longest })
}

const SECOND: Duration = Duration::from_secs(1);

/// Reads `[users.*]` or `[names.*]`: the name of each table is a pattern.
pub(super) fn patterns(s: &mut Section<'_>, key: &'static str) -> Vec<PatternQuota> {
    let named = s.named(key, |pattern, s| {
        if pattern.is_empty() || globset::Glob::new(pattern).is_err() {
            let what = format!("{} is no glob", quote(pattern));
            s.report_table(Problem::new(what, format!("write [{key}.\"…\"] with * and ? for what may be anything")));
        }
        let quota = quota(s);
        if quota.max_connections.is_none() && quota.rate.is_none() {
            s.report_table(Problem::new("it limits nothing", "write max_connections or rate"));
        }
        quota
    });
    named.into_iter().map(|(pattern, quota)| PatternQuota { pattern, quota }).collect()
}

/// Reads `users`. They may be tokens, so errors and the printed configuration show only how many there are.
fn users(s: &mut Section<'_>, account: &str, earlier: &[AccountRule]) -> Vec<String> {
    if account == DEFAULT {
        for key in ["users", "users_file"] {
            if s.take(key).is_some() {
                let problem = Problem::new(
                    "default has no users: it is for all whom no other account names",
                    "remove the key, or move it to the account it belongs to",
                );
                s.report(key, problem);
            }
        }
        return Vec::new();
    }
    if account.is_empty() {
        s.report("users", Problem::new("the account has no name", "write [accounts.NAME]"));
    }
    let users = s.list::<User>("users");
    let given = users.is_some();
    let (of_file, is_read) = users_of_file(s);
    let mut kept: Vec<String> = Vec::new();
    for (key, i, User(user)) in users.unwrap_or_default().into_iter().map(|(i, user)| ("users", i, user)).chain(of_file)
    {
        let owner = earlier.iter().find(|rule| rule.users.contains(&user));
        if let Some(rule) = owner {
            let what = format!("account {:?} has the same entry", rule.account);
            let problem = Problem::new(what, "leave it in one of the two");
            s.report_entry(key, i, problem);
        } else if kept.contains(&user) {
            let problem = Problem::new("the same entry is in this list before", "remove one");
            s.report_entry(key, i, problem);
        }
        kept.push(user);
    }
    let text = match kept.len() {
        0 => "none, only what the server itself names".to_owned(),
        1 => "1 entry, not shown".to_owned(),
        n => format!("{n} entries, not shown"),
    };
    s.hidden("users", &text, if is_read { Mark::of(&kept) } else { Mark::Unread }, given);
    kept
}

/// Reads `users_file`: one entry in each line. Lines that are empty count for the place of an entry, and are none.
/// Returns whether all are known, too.
fn users_of_file(s: &mut Section<'_>) -> (Vec<(&'static str, usize, User)>, bool) {
    const KEY: &str = "users_file";
    let Found::Valid(path) = s.leaf::<PathBuf>(KEY, "none", &Any) else { return (Vec::new(), true) };
    s.in_force(KEY, &path, true);
    let Found::Valid(text) = secret::read_file(s, KEY, &path) else { return (Vec::new(), false) };
    let mut users = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match User::read(&Node::String(line.trim().to_owned())) {
            Ok(user) => users.push((KEY, i, user)),
            Err(Problem { what, remedy }) => {
                s.report(KEY, Problem::new(format!("line {} of {}: {what}", i + 1, path.display()), remedy));
            }
        }
    }
    (users, true)
}

/// A user, an nkey or a token, or a glob of them. It is never shown, since it may be a secret.
#[derive(PartialEq)]
struct User(String);

impl Leaf for User {
    fn kind() -> String {
        "user, NKey or token".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a user, nkey or token in quotes; * and ? are globs";
        match node {
            Node::String(text) if text.is_empty() => Err(Problem::new("it is empty", REMEDY)),
            Node::String(text) if globset::Glob::new(text).is_err() => Err(Problem::new(
                "this entry (not shown) is no glob: a [ or { is not closed, or it ends in \\",
                "put such a character in brackets, as in [[]",
            )),
            Node::String(text) => Ok(Self(text.clone())),
            other => Err(Problem::new(format!("it is {}", other.kind()), REMEDY)),
        }
    }
    fn show(&self) -> String {
        "\"…\"".into()
    }
}
