//! The reports of what `tally` has counted in the last hour: refusals and churn.

use crate::{
    outcome::Refusal,
    reports::answer::{Churn, ChurningClient, Count, Reason, Refusals, RefusedClient, Turnover},
    tally::{Client, Clients, Counted, SHORT_LIFE, TURNS, Turn},
};

/// Which clients a report is about: those in which each part that is given is the same, without regard to case.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Only {
    pub reason: Option<String>,
    pub account: Option<String>,
    pub user: Option<String>,
    pub name: Option<String>,
    pub source: Option<String>,
}

impl Only {
    pub fn holds(&self, client: &Client) -> bool {
        let Client { reason, account, user, name, source } = client;
        let asked = [&self.reason, &self.account, &self.user, &self.name, &self.source];
        asked
            .into_iter()
            .zip([reason, account, user, name, source])
            .all(|(asked, is)| asked.as_ref().is_none_or(|asked| is.to_lowercase() == asked.to_lowercase()))
    }
}

/// Who did not get in, and why: `most` rows of each list.
pub fn refusals(counted: &Clients<1>, only: &Only, most: usize) -> Refusals {
    let reason = |&(name, count): &(&'static str, u64)| Reason {
        reason: name.to_owned(),
        count,
        advice: Refusal::named(name).map(|refusal| refusal.advice().to_owned()),
    };
    let list = |all: &Counted<Box<str>, 1>| {
        let row = |one: &crate::tally::Summary<Box<str>, 1>| Count { name: one.key.to_string(), count: one.counts[0] };
        all.iter().take(most).map(row).collect()
    };
    let clients = counted.clients.iter().filter(|one| only.holds(&one.key)).take(most).map(|one| {
        let Client { reason, account, user, name, source } = one.key.clone();
        RefusedClient {
            reason: reason.into(),
            account: account.into(),
            user: user.into(),
            name: name.into(),
            source: source.into(),
            count: one.counts[0],
            minutes_ago: one.minutes_ago,
        }
    });
    Refusals {
        seconds: counted.covers.as_secs(),
        total: counted.total,
        reasons: counted.reasons.iter().map(reason).collect(),
        accounts: list(&counted.accounts),
        users: list(&counted.users),
        names: list(&counted.names),
        sources: list(&counted.sources),
        clients: clients.collect(),
    }
}

/// Who connects again and again: `most` rows of each list.
pub fn churn(counted: &Clients<TURNS>, only: &Only, most: usize) -> Churn {
    let began = |counts: &[u64; TURNS]| counts[Turn::Began as usize];
    let soon = |counts: &[u64; TURNS]| counts[Turn::EndedSoon as usize];
    let ended = |counts: &[u64; TURNS]| counts[Turn::Ended as usize] + soon(counts);
    let list = |all: &Counted<Box<str>, TURNS>| {
        let mut rows: Vec<_> = all.iter().filter(|one| began(&one.counts) > 0).collect();
        rows.sort_by_key(|one| std::cmp::Reverse(began(&one.counts)));
        let row = |one: &crate::tally::Summary<Box<str>, TURNS>| Turnover {
            name: one.key.to_string(),
            began: began(&one.counts),
            ended: ended(&one.counts),
            ended_soon: soon(&one.counts),
        };
        rows.into_iter().take(most).map(row).collect()
    };
    let mut clients: Vec<_> =
        counted.clients.iter().filter(|one| began(&one.counts) > 0 && only.holds(&one.key)).collect();
    clients.sort_by_key(|one| std::cmp::Reverse(began(&one.counts)));
    let clients = clients.into_iter().take(most).map(|one| {
        let Client { account, user, name, source, reason: _ } = one.key.clone();
        ChurningClient {
            account: account.into(),
            user: user.into(),
            name: name.into(),
            source: source.into(),
            began: began(&one.counts),
            ended: ended(&one.counts),
            ended_soon: soon(&one.counts),
            minutes_ago: one.minutes_ago,
        }
    });
    Churn {
        seconds: counted.covers.as_secs(),
        soon_seconds: SHORT_LIFE.as_secs(),
        accounts: list(&counted.accounts),
        users: list(&counted.users),
        names: list(&counted.names),
        sources: list(&counted.sources),
        clients: clients.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::tally::{Tallies, Who};

    fn who<'a>(name: &'a str, user: &'a str) -> Who<'a> {
        let source = IpAddr::from([192, 0, 2, 1]).into();
        Who { account: Some("ORDERS"), user: Some(user), name: Some(name), source }
    }

    #[test]
    fn a_refused_client_is_found_by_its_name() {
        let (tallies, now) = (Tallies::default(), Instant::now());
        (0..9).for_each(|_| tallies.refused(Refusal::NoServer, &who("many", "app"), now));
        tallies.refused(Refusal::AccountQuota, &who("One", "app"), now);
        tallies.login_failed(None, &who("one", "other"), now);
        let all = tallies.not_let_in.summary(now);
        let found = |only: Only| {
            let clients = refusals(&all, &only, 9).clients;
            clients.into_iter().map(|one| (one.reason, one.name, one.count)).collect::<Vec<_>>()
        };
        let name = Some("one".to_owned());
        assert_eq!(
            found(Only { name: name.clone(), ..Only::default() }),
            [("account_quota".to_owned(), "One".to_owned(), 1), ("server_error".to_owned(), "one".to_owned(), 1)]
        );
        let user = Some("app".to_owned());
        assert_eq!(found(Only { name, user, ..Only::default() }).len(), 1);
        assert!(found(Only { source: Some("192.0.2.9".to_owned()), ..Only::default() }).is_empty());
        let report = refusals(&all, &Only::default(), 1);
        assert_eq!((report.total, report.clients.len(), report.users.len(), report.reasons.len()), (11, 1, 1, 3));
        assert!(report.reasons[0].advice.as_ref().is_some_and(|advice| advice.contains("no server")));
    }

    #[test]
    fn who_reconnects_most_comes_first_and_not_who_ends_most() {
        let (tallies, now) = (Tallies::default(), Instant::now());
        for n in 0..5 {
            tallies.session_began(&who("flaps", "app"), now);
            tallies.session_ended(&who("flaps", "app"), Duration::from_secs(n * 4), now);
        }
        (0..20).for_each(|_| tallies.session_ended(&who("drained", "app"), Duration::from_secs(9000), now));
        tallies.session_began(&who("drained", "app"), now);
        let report = churn(&tallies.churn.summary(now), &Only::default(), 9);
        let names: Vec<_> = report.names.iter().map(|one| (&*one.name, one.began, one.ended, one.ended_soon)).collect();
        assert_eq!(names, [("flaps", 5, 5, 3), ("drained", 1, 20, 0)]);
        assert_eq!((report.clients.len(), report.clients[0].began, &*report.clients[0].user), (2, 5, "app"));
    }
}
