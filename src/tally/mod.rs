//! Counts who did not get in and why, for the log and for reports: by reason, and the largest accounts, users, names
//! and sources, in bounded memory whatever clients say of themselves.

mod last_hour;
mod shown;
mod space_saving;

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    admission::Source,
    outcome::{BadLogin, Refusal},
    tally::shown::shown_in_list,
};

pub use self::{
    last_hour::{Client, Clients, Counted, LastHour, Summary},
    shown::{MOST_SHOWN, show, shown},
    space_saving::SpaceSaving,
};

/// The accounts, users, names and sources that are counted apart, of each kind. Beyond them counts are lower bounds.
const MOST: usize = 64;
/// The most characters of a text that is counted: another account with the same beginning is the same one here.
const LONGEST: usize = 80;
/// How many entries of a list are shown.
const SHOWN: usize = 3;
/// How many failed logins are told one by one between two calls of [`Tallies::take`].
const TOLD_ONE_BY_ONE: u64 = 5;

/// Who did not get in, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub account: Option<&'a str>,
    pub user: Option<&'a str>,
    /// The `name` of its CONNECT.
    pub name: Option<&'a str>,
    pub source: Source,
}

/// Counts of a time, by reason and of each kind of name the largest; `KINDS` counts for each name.
#[derive(Debug)]
pub struct Tally<const KINDS: usize = 1> {
    total: u64,
    /// There are as many as the code has reasons, so it is short.
    reasons: Vec<(&'static str, u64)>,
    accounts: Texts<KINDS>,
    users: Texts<KINDS>,
    names: Texts<KINDS>,
    sources: SpaceSaving<Source, MOST, KINDS>,
}

type Texts<const KINDS: usize = 1> = SpaceSaving<Box<str>, MOST, KINDS>;

impl<const KINDS: usize> Default for Tally<KINDS> {
    fn default() -> Self {
        Self {
            total: 0,
            reasons: Vec::new(),
            accounts: Texts::default(),
            users: Texts::default(),
            names: Texts::default(),
            sources: SpaceSaving::default(),
        }
    }
}

impl<const KINDS: usize> Tally<KINDS> {
    /// Counts one more of a kind, for a reason where there is one.
    fn note(&mut self, reason: Option<&'static str>, who: &Who<'_>, kind: usize) {
        self.total += 1;
        if let Some(reason) = reason {
            match self.reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => self.reasons.push((reason, 1)),
            }
        }
        let texts = [(&mut self.accounts, who.account), (&mut self.users, who.user), (&mut self.names, who.name)];
        for (counts, text) in texts {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                counts.note(beginning(text), kind, |text| text.into());
            }
        }
        self.sources.note(&who.source, kind, |&source| source);
    }
}

impl Tally {
    /// How many in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The reasons with the most, as `account_quota 3, user_rate 1`.
    pub fn reasons(&self) -> Option<String> {
        let mut reasons = self.reasons.clone();
        reasons.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
        list(reasons.into_iter().take(SHOWN))
    }

    /// The reason with the most.
    pub fn main_reason(&self) -> Option<&'static str> {
        self.reasons.iter().max_by_key(|&&(name, count)| (count, std::cmp::Reverse(name))).map(|&(name, _)| name)
    }

    /// The accounts with the most, as `ORDERS 3, BATCH 1`; `None` where no account is known.
    pub fn accounts(&self) -> Option<String> {
        texts(&self.accounts)
    }

    /// The users with the most.
    pub fn users(&self) -> Option<String> {
        texts(&self.users)
    }

    /// The client names with the most.
    pub fn names(&self) -> Option<String> {
        texts(&self.names)
    }

    /// The sources with the most.
    pub fn sources(&self) -> Option<String> {
        list(self.sources.largest(SHOWN).into_iter().map(|(source, [count])| (source, count)))
    }
}

/// The beginning of a long text.
fn beginning(text: &str) -> &str {
    // A text has no more characters than bytes.
    let cut = if text.len() > LONGEST { text.char_indices().nth(LONGEST) } else { None };
    cut.map_or(text, |(end, _)| &text[..end])
}

fn texts(counts: &Texts) -> Option<String> {
    list(counts.largest(SHOWN).into_iter().map(|(text, [count])| (shown_in_list(text), count)))
}

fn list(entries: impl Iterator<Item = (impl Display, u64)>) -> Option<String> {
    let entries: Vec<_> = entries.map(|(name, count)| format!("{name} {count}")).collect();
    (!entries.is_empty()).then(|| entries.join(", "))
}

/// What has come since the last call of [`Tallies::take`].
#[derive(Debug, Default)]
pub struct Taken {
    /// Clients that weir refused.
    pub refused: Tally,
    /// Clients whose login a server refused.
    pub failed_logins: Tally,
    /// Those of them that were not told one by one.
    pub left_out: u64,
    /// Clients that weir would have refused, and only observed.
    pub would_refuse: Tally,
}

/// What became of a client, for [`Tallies::churn`]. The number of a variant is the kind under which it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Turn {
    /// It got in.
    Began,
    /// Its session has ended.
    Ended,
    /// Its session has ended within [`SHORT_LIFE`] of its beginning.
    EndedSoon,
}

/// How many kinds of [`Turn`] there are.
pub const TURNS: usize = 3;

/// A session that ends sooner than this has not done what it came for, or its client opens one for each message.
pub const SHORT_LIFE: Duration = Duration::from_secs(10);

/// Counts what has come since it was last asked, and what has come in the last hour.
#[derive(Debug, Default)]
pub struct Tallies {
    refused: Mutex<Tally>,
    failed_logins: Mutex<Tally>,
    would_refuse: Mutex<Tally>,
    /// Refusals and failed logins of the last hour.
    pub not_let_in: LastHour<1>,
    /// Sessions that began and ended in the last hour.
    pub churn: LastHour<TURNS>,
}

impl Tallies {
    /// Counts a client that weir refused.
    pub fn refused(&self, reason: Refusal, who: &Who<'_>, now: Instant) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).note(Some(reason.name()), who, 0);
        self.not_let_in.note(Some(reason.name()), who, 0, now);
    }

    /// Counts a client that weir would have refused, and only observed.
    pub fn would_refuse(&self, reason: Refusal, who: &Who<'_>) {
        self.would_refuse.lock().unwrap_or_else(PoisonError::into_inner).note(Some(reason.name()), who, 0);
    }

    /// Counts a client whose login a server refused; `None` is another error than one of the login. Returns whether
    /// the log should tell of this one: of a few in a second, so that nobody fills the log with them.
    pub fn login_failed(&self, why: Option<BadLogin>, who: &Who<'_>, now: Instant) -> bool {
        let reason = Some(login_failure_name(why));
        self.not_let_in.note(reason, who, 0, now);
        let mut failed = self.failed_logins.lock().unwrap_or_else(PoisonError::into_inner);
        failed.note(reason, who, 0);
        failed.total <= TOLD_ONE_BY_ONE
    }

    /// Counts a session that began.
    pub fn session_began(&self, who: &Who<'_>, now: Instant) {
        self.churn.note(None, who, Turn::Began as usize, now);
    }

    /// Counts a session that has ended after this time.
    pub fn session_ended(&self, who: &Who<'_>, lived: Duration, now: Instant) {
        let turn = if lived < SHORT_LIFE { Turn::EndedSoon } else { Turn::Ended };
        self.churn.note(None, who, turn as usize, now);
    }

    /// What has come since the last call.
    pub fn take(&self) -> Taken {
        let take = |tally: &Mutex<Tally>| std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
        let (refused, failed_logins) = (take(&self.refused), take(&self.failed_logins));
        let would_refuse = take(&self.would_refuse);
        let left_out = failed_logins.total.saturating_sub(TOLD_ONE_BY_ONE);
        Taken { refused, failed_logins, left_out, would_refuse }
    }
}

/// The reason of a login that a server refused; `None` is another error than one of the login.
pub fn login_failure_name(why: Option<BadLogin>) -> &'static str {
    why.map_or("server_error", BadLogin::name)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn who<'a>(account: &'a str, user: &'a str, last_byte: u8) -> Who<'a> {
        let source = IpAddr::from([192, 0, 2, last_byte]).into();
        Who { account: Some(account), user: Some(user), name: None, source }
    }

    #[test]
    fn the_largest_are_named() {
        let (tallies, now) = (Tallies::default(), Instant::now());
        for n in 0..10 {
            tallies.refused(Refusal::AccountQuota, &who("ORDERS", &format!("user {n}"), 1), now);
        }
        for (account, reason) in [("A", Refusal::NoServer), ("B", Refusal::NoServer), ("C, D 9", Refusal::Protocol)] {
            tallies.refused(reason, &who(account, "", 2), now);
        }
        let Taken { refused, failed_logins, left_out, .. } = tallies.take();
        assert_eq!((refused.total(), failed_logins.total(), left_out), (13, 0, 0));
        assert_eq!(refused.reasons().as_deref(), Some("account_quota 10, no_server 2, protocol 1"));
        assert_eq!(refused.main_reason(), Some("account_quota"));
        assert_eq!(refused.accounts().as_deref(), Some("ORDERS 10, A 1, B 1"));
        assert_eq!(refused.users().as_deref(), Some("user 0 1, user 1 1, user 2 1"));
        assert_eq!((refused.names(), refused.sources().as_deref()), (None, Some("192.0.2.1 10, 192.0.2.2 3")));
        assert_eq!(tallies.take().refused.total(), 0, "each is told once");
    }

    #[test]
    fn a_few_failed_logins_are_told_one_by_one_and_the_others_are_counted() {
        let (tallies, now) = (Tallies::default(), Instant::now());
        for round in 0..2 {
            let why = Some(BadLogin::Violation);
            let told = (0..20).filter(|_| tallies.login_failed(why, &who("ORDERS", "app", 1), now)).count();
            let taken = tallies.take();
            assert_eq!((told as u64, taken.left_out, taken.failed_logins.total()), (5, 15, 20), "round {round}");
        }
    }

    #[test]
    fn names_of_any_length_take_bounded_memory() {
        let mut tally = Tally::<1>::default();
        for n in 0..1000 {
            tally.note(Some("protocol"), &who(&format!("{}{n}", "é".repeat(5000)), &n.to_string(), 1), 0);
        }
        assert_eq!(tally.accounts.largest(9), [(&"é".repeat(LONGEST).into_boxed_str(), [1000])]);
        assert_eq!(tally.users.largest(1000).len(), MOST);
    }
}
