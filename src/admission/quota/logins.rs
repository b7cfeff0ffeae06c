//! The logins of one account: what they take, and how many of them are under way on each server.
//!
//! The handshake limit of a server is about logins that the server works on. A login that is overdue there waits for
//! somebody else, most likely: an auth callout, a resolver. It leaves that limit, and its account gets a limit of its
//! own on that server, which bounds all of the account's logins there and is found in the same way. So an account whose
//! logins are slow is given as many at a time as do not delay each other, and one whose logins hang has a few that
//! hang, and keeps nobody else out.
//!
//! Clients whose account no server has named are of many accounts, and strangers are among them. Each of their sources
//! is given as many as one account would be, and all together twice that: a source may have one more there while it has
//! fewer than are free (a dynamic threshold, as switches share their buffers). So one source takes half of the places
//! at most, two take a third each, and one is left for the next.
//!
//! A login that hangs is evidence about its server only where logins of the same account succeed elsewhere meanwhile
//! (docs/contract.md, towards servers 7). Where nobody of the account gets in anywhere, the account is to blame.

mod remembered;

use std::time::{Duration, Instant};

pub use self::remembered::RememberedLoginTimes;
use crate::{
    admission::quota::sources::SourceKey,
    upstream::{
        ServerId,
        concurrency::{
            baseline::{BaselineLatency, MayTake, MeasuredFrom},
            limit::ConcurrencyLimit,
            usual::UsualLatency,
        },
    },
};

/// The own limit of an account on a server begins with at least this many logins.
pub const FIRST_LIMIT: u32 = 4;
/// A login hangs once it has taken this many times the longest of the account's of late.
const HANGS_TIMES_LONGEST: u32 = 4;
/// A login of the account that has ended well so long ago shows that its logins do.
const LATELY: Duration = Duration::from_secs(60);
/// A server on which a login of the account has hung is avoided by the account for so long, where there is another:
/// until the client has come back.
const AVOIDED_FOR: Duration = Duration::from_secs(10);
/// The log tells of a login that has waited for its answer for so long.
const LONG: Duration = Duration::from_secs(1);
/// The log tells of an account again after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What logins of accounts that are not known yet usually take, by what they count from.
pub type UsualLatencies = [UsualLatency; MeasuredFrom::ALL.len()];

/// The logins of one account on one server.
#[derive(Debug, Default)]
struct AtServer {
    under_way: u32,
    /// Of those, how many each source has, where they are counted by source.
    by_source: Vec<(SourceKey, u32)>,
    /// Of those, the ones that are overdue.
    overdue: u32,
    /// `None` before the first that was overdue.
    own_limit: Option<Box<ConcurrencyLimit>>,
    succeeded_at: Option<Instant>,
    /// How long the last one took that succeeded.
    took: Duration,
    /// When the last one has ended that hung, if none has succeeded since.
    hung_at: Option<Instant>,
    /// A client waits for the place of one of them.
    is_wanted: bool,
}

impl AtServer {
    /// Whether the account, or this source of it, has as many under way as it may have, where a single source may have
    /// `most`.
    fn is_full(&self, source: Option<SourceKey>, most: u32) -> bool {
        match source {
            None => self.under_way >= most,
            Some(source) => self.of(source) >= most.saturating_mul(2).saturating_sub(self.under_way),
        }
    }

    fn of(&self, source: SourceKey) -> u32 {
        self.by_source.iter().find(|(key, _)| *key == source).map_or(0, |(_, n)| *n)
    }

    fn has_succeeded_lately(&self, now: Instant) -> bool {
        self.succeeded_at.is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }
}

/// The servers that a client of an account is not sent to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Avoided {
    /// Not now: the account has as many logins under way there as it may have.
    pub barred: Vec<ServerId>,
    /// Not while there is another one: logins of the account hang there, or have.
    pub disliked: Vec<ServerId>,
}

/// What a login shows that has ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// Other logins of the account have ended well meanwhile, on this server or another one.
    pub others_succeed: bool,
    /// It was overdue, and others have ended well meanwhile on another server.
    pub is_servers_fault: bool,
    /// It has waited for long, and the log has not told of the account lately.
    pub tell: bool,
}

/// The logins of one account.
#[derive(Debug, Default)]
pub struct Logins {
    /// The least that a login takes, by what it counts from.
    baselines: [BaselineLatency; MeasuredFrom::ALL.len()],
    /// The servers on which it has had some.
    at: Vec<(ServerId, AtServer)>,
    told_at: Option<Instant>,
}

impl Logins {
    fn at(&mut self, server: ServerId) -> &mut AtServer {
        let known = self.at.iter().position(|(id, _)| *id == server);
        let place = known.unwrap_or_else(|| {
            self.at.push((server, AtServer::default()));
            self.at.len() - 1
        });
        &mut self.at[place].1
    }

    /// Forgets the servers that have gone, except those of which a login still counts. Returns whether all are
    /// forgotten.
    pub fn forget_gone(&mut self, is_there: impl Fn(ServerId) -> bool) -> bool {
        self.at.retain(|(id, at)| at.under_way > 0 || is_there(*id));
        self.at.iter().all(|(id, _)| is_there(*id))
    }

    /// One has begun; from this source, where the account counts them by source.
    pub fn began(&mut self, server: ServerId, source: Option<SourceKey>) {
        let at = self.at(server);
        at.under_way += 1;
        if let Some(source) = source {
            match at.by_source.iter_mut().find(|(key, _)| *key == source) {
                Some((_, n)) => *n += 1,
                None => at.by_source.push((source, 1)),
            }
        }
    }

    /// One is over, well or not.
    pub fn ended(&mut self, server: ServerId, source: Option<SourceKey>, was_overdue: bool) {
        let at = self.at(server);
        at.under_way -= 1;
        at.overdue -= u32::from(was_overdue);
        if let Some(source) = source
            && let Some(place) = at.by_source.iter().position(|(key, _)| *key == source)
        {
            at.by_source[place].1 -= 1;
            if at.by_source[place].1 == 0 {
                at.by_source.swap_remove(place);
            }
        }
    }

    /// Whether one of this source is under way anywhere.
    pub fn has_of(&self, source: SourceKey) -> bool {
        self.at.iter().any(|(_, at)| at.of(source) > 0)
    }

    /// The account's own limit there begins with at least `first`.
    pub fn became_overdue(&mut self, server: ServerId, first: u32) {
        let at = self.at(server);
        at.overdue += 1;
        let first = at.under_way.max(first);
        at.own_limit.get_or_insert_with(|| Box::new(ConcurrencyLimit::starting_at(first)));
    }

    /// Whether no other than this one is under way on its server.
    pub fn is_alone(&mut self, server: ServerId) -> bool {
        self.at(server).under_way <= 1
    }

    /// One has ended well; see [`BaselineLatency::record_beside`].
    pub fn succeeded(
        &mut self,
        server: ServerId,
        usual: &UsualLatencies,
        now: Instant,
        took: Duration,
        (since, late): (MeasuredFrom, Duration),
        undisturbed: bool,
    ) -> MayTake {
        let at = self.at(server);
        (at.succeeded_at, at.took, at.hung_at) = (Some(now), took, None);
        self.baselines[since as usize].record_beside(&usual[since as usize], now, (took, late), undisturbed)
    }

    /// See [`BaselineLatency::measured_alone`].
    pub fn measured_alone(&self, since: MeasuredFrom) -> Option<Duration> {
        self.baselines[since as usize].measured_alone()
    }

    /// See [`BaselineLatency::heard`].
    pub fn hear_baseline(&mut self, since: MeasuredFrom, least: Duration) {
        self.baselines[since as usize].heard(least);
    }

    /// The least that the last ones took on other servers; `None` where there were none lately.
    pub fn elsewhere(&self, server: ServerId, now: Instant) -> Option<Duration> {
        let others = self.at.iter().filter(|(id, at)| *id != server && at.has_succeeded_lately(now));
        others.map(|(_, at)| at.took).min()
    }

    /// One that is still counted on its server took so long, and should have taken `expected`.
    pub fn measured(&mut self, server: ServerId, now: Instant, took: Duration, expected: Duration) {
        let at = self.at(server);
        if let Some(limit) = &mut at.own_limit {
            limit.finished(now, took, expected, at.under_way);
        }
    }

    /// One has ended without an answer that began `began`: its client has left, or could not wait longer.
    pub fn unanswered(&mut self, server: ServerId, began: Instant, now: Instant, was_overdue: bool) -> Unanswered {
        let since = |at: &AtServer| at.succeeded_at.is_some_and(|succeeded| succeeded >= began);
        let succeeds_elsewhere = self.at.iter().any(|(id, at)| *id != server && since(at));
        let is_servers_fault = was_overdue && succeeds_elsewhere;
        if was_overdue {
            let at = self.at(server);
            at.hung_at = Some(now);
            if let Some(limit) = &mut at.own_limit {
                limit.timed_out();
            }
        }
        let others_succeed = self.at.iter().any(|(_, at)| since(at));
        let is_due = self.told_at.is_none_or(|told| now.saturating_duration_since(told) >= TELL_AGAIN);
        let tell = is_due && now.saturating_duration_since(began) >= LONG;
        if tell {
            self.told_at = Some(now);
        }
        Unanswered { others_succeed, is_servers_fault, tell }
    }

    /// Whether one that is under way on this server since `began` hangs, while others on other servers do not: it could
    /// be tried there. `longest` is the longest of late.
    pub fn hangs_here_only(&self, server: ServerId, began: Instant, now: Instant, longest: Duration) -> bool {
        !longest.is_zero()
            && now.saturating_duration_since(began) >= longest * HANGS_TIMES_LONGEST
            && self.at.iter().any(|(id, at)| *id != server && at.has_succeeded_lately(now))
    }

    /// Where clients of the account are not sent; those of this source, where logins are counted by source. However low
    /// its own limit is, it may have `least` logins under way.
    pub fn avoided(&self, source: Option<SourceKey>, now: Instant, least: impl Fn(ServerId) -> u32) -> Avoided {
        let mut avoided = Avoided::default();
        for &(server, ref at) in &self.at {
            if at.own_limit.as_ref().is_some_and(|limit| at.is_full(source, limit.limit().max(least(server)))) {
                avoided.barred.push(server);
            }
            if at.overdue > 0 || at.hung_at.is_some_and(|hung| now.saturating_duration_since(hung) < AVOIDED_FOR) {
                avoided.disliked.push(server);
            }
        }
        avoided
    }

    /// A client waits that could have a place on one of these servers.
    pub fn want_place(&mut self, servers: &[ServerId]) {
        servers.iter().for_each(|&server| self.at(server).is_wanted = true);
    }

    /// Whether a client waits for a place on this server; it is told once.
    pub fn take_want(&mut self, server: ServerId) -> bool {
        std::mem::take(&mut self.at(server).is_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const ONE: ServerId = ServerId::from_raw(0);
    const OTHER: ServerId = ServerId::from_raw(1);
    const THIRD: ServerId = ServerId::from_raw(3);

    fn succeeds(logins: &mut Logins, server: ServerId, now: Instant) {
        logins.began(server, None);
        let expected =
            logins.succeeded(server, &UsualLatencies::default(), now, MS, (MeasuredFrom::Dial, Duration::ZERO), true);
        logins.measured(server, now, MS, expected.own);
        logins.ended(server, None, false);
    }

    fn hangs(logins: &mut Logins, server: ServerId, began: Instant, now: Instant) -> Unanswered {
        logins.began(server, None);
        logins.became_overdue(server, FIRST_LIMIT);
        let unanswered = logins.unanswered(server, began, now, true);
        logins.ended(server, None, true);
        unanswered
    }

    #[test]
    fn it_is_evidence_only_where_others_succeed_elsewhere_meanwhile() {
        let (mut logins, now) = (Logins::default(), Instant::now());
        let nobody = hangs(&mut logins, ONE, now, now + 1900 * MS);
        assert_eq!(nobody, Unanswered { others_succeed: false, is_servers_fault: false, tell: true });
        succeeds(&mut logins, ONE, now + 2000 * MS);
        let here = hangs(&mut logins, ONE, now + 1900 * MS, now + 3800 * MS);
        let expected = Unanswered { others_succeed: true, is_servers_fault: false, tell: false };
        assert_eq!(here, expected, "told lately");
        succeeds(&mut logins, OTHER, now + 4000 * MS);
        let before = hangs(&mut logins, ONE, now + 5000 * MS, now + 7000 * MS);
        assert!(!before.is_servers_fault, "that was before it began");
        assert!(hangs(&mut logins, ONE, now + 3900 * MS, now + 70_000 * MS).is_servers_fault);
    }

    #[test]
    fn what_hangs_is_tried_elsewhere_once_it_takes_far_longer_than_the_longest() {
        let (mut logins, now) = (Logins::default(), Instant::now());
        succeeds(&mut logins, ONE, now);
        assert!(!logins.hangs_here_only(ONE, now, now + 9000 * MS, 10 * MS), "nobody got in elsewhere");
        succeeds(&mut logins, OTHER, now);
        assert!(logins.hangs_here_only(ONE, now, now + 40 * MS, 10 * MS));
        assert!(!logins.hangs_here_only(ONE, now, now + 39 * MS, 10 * MS));
        assert!(!logins.hangs_here_only(ONE, now, now + 40 * MS, Duration::ZERO), "nothing is known");
        assert!(!logins.hangs_here_only(ONE, now, now + LATELY, 10 * MS), "long ago");
    }

    #[test]
    fn an_account_whose_logins_hang_has_few_under_way_and_goes_elsewhere() {
        let (mut logins, now, one) = (Logins::default(), Instant::now(), |_| 1);
        for _ in 0..10 {
            logins.began(ONE, None);
        }
        assert_eq!(logins.avoided(None, now, one), Avoided::default(), "none is overdue");
        logins.became_overdue(ONE, FIRST_LIMIT);
        assert_eq!(
            logins.avoided(None, now, one),
            Avoided { barred: vec![ONE], disliked: vec![ONE] },
            "no more than there are"
        );
        logins.unanswered(ONE, now, now, true);
        logins.ended(ONE, None, true);
        for _ in 0..9 {
            logins.became_overdue(ONE, FIRST_LIMIT);
            logins.unanswered(ONE, now, now, true);
            logins.ended(ONE, None, true);
        }
        assert_eq!(logins.avoided(None, now, one), Avoided { barred: vec![], disliked: vec![ONE] });
        logins.began(ONE, None);
        assert_eq!(logins.avoided(None, now, one).barred, [ONE], "one at a time");
        assert!(logins.avoided(None, now, |_| 8).barred.is_empty());
        logins.want_place(&[ONE]);
        assert!(logins.take_want(ONE) && !logins.take_want(ONE));
        succeeds(&mut logins, ONE, now);
        assert!(logins.avoided(None, now, one).disliked.is_empty());
    }

    /// How many places on a server each of these sources gets, of which each wants all, when they come in this order.
    fn shares(limit: u32, sources: &[u32]) -> Vec<u32> {
        let (mut logins, now) = (Logins::default(), Instant::now());
        let keys: Vec<_> = sources.iter().map(|&n| SourceKey::from_raw(n)).collect();
        logins.began(ONE, Some(keys[0]));
        logins.became_overdue(ONE, limit);
        for key in &keys {
            while logins.avoided(Some(*key), now, |_| limit).barred.is_empty() {
                logins.began(ONE, Some(*key));
            }
        }
        keys.iter().map(|key| logins.at(ONE).of(*key)).collect()
    }

    #[test]
    fn no_source_takes_the_places_of_the_next_one() {
        assert_eq!(shares(8, &[1]), [8], "as many as one account");
        assert_eq!(shares(8, &[1, 2, 3]), [8, 4, 2]);
        assert_eq!(shares(1, &[1, 2]), [1, 1]);
        assert_eq!(shares(8, &[1, 2, 3, 4, 5, 6]), [8, 4, 2, 1, 1, 0], "and all together twice that");
    }

    #[test]
    fn a_source_without_logins_is_forgotten() {
        let mut logins = Logins::default();
        let [a, b] = [1, 2].map(SourceKey::from_raw);
        [a, b, a].iter().for_each(|key| logins.began(THIRD, Some(*key)));
        assert!(logins.has_of(a) && logins.has_of(b));
        [a, b, a].iter().for_each(|key| logins.ended(THIRD, Some(*key), false));
        assert!(!logins.has_of(a) && logins.at(THIRD).by_source.is_empty() && logins.at(THIRD).under_way == 0);
    }

    #[test]
    fn an_account_whose_logins_are_slow_gets_as_many_as_do_not_delay_each_other() {
        let (mut logins, now) = (Logins::default(), Instant::now());
        for round in 0..20 {
            let at = now + 3000 * MS * round;
            let mut under_way = 0;
            while logins.avoided(None, at, |_| 1).barred.is_empty() && under_way < 64 {
                logins.began(ONE, None);
                under_way += 1;
                if round == 0 && under_way == 4 {
                    logins.became_overdue(ONE, FIRST_LIMIT);
                }
            }
            for n in 0..under_way {
                if round > 0 || n < 3 {
                    logins.became_overdue(ONE, FIRST_LIMIT);
                }
            }
            for _ in 0..under_way {
                let at = at + 3000 * MS;
                let expected = logins.succeeded(
                    ONE,
                    &UsualLatencies::default(),
                    at,
                    3000 * MS,
                    (MeasuredFrom::Dial, Duration::ZERO),
                    false,
                );
                logins.measured(ONE, at, 3000 * MS, expected.own);
                logins.ended(ONE, None, true);
            }
            assert!(under_way >= 4, "{under_way} in round {round}");
            assert!(round < 10 || under_way == 64, "{under_way} in round {round}");
        }
    }

    #[test]
    fn a_server_that_has_gone_is_forgotten_once_no_login_counts_there() {
        let (mut logins, now) = (Logins::default(), Instant::now());
        succeeds(&mut logins, ONE, now);
        logins.began(OTHER, None);
        assert!(!logins.forget_gone(|_| false), "one is under way");
        assert_eq!(logins.at.len(), 1);
        logins.ended(OTHER, None, false);
        assert!(logins.forget_gone(|_| false) && logins.at.is_empty());
    }
}
