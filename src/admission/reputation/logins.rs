//! What weir remembers of logins: which of them a server has let in, and which a server has refused lately. So it knows
//! when a refusal says more of the server than of the client, and whom it may try elsewhere.
//!
//! A refusal is evidence against its server only when another server lets the same login in within a short time. A
//! login that was let in before and is refused now may as well have been revoked.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    admission::quota::{counted_map::CountedMap, sources::Source},
    identity::{ClientKey, CredentialKey},
    lapse::{self, Lapse},
    upstream::{Addresses, ServerId, leaky_bucket::LeakyBucket},
};

/// The most logins that are remembered as good (about 5 MiB). Beyond it half of them are forgotten, and learned again
/// at their next login.
const MOST_GOOD: usize = 100_000;
/// The most refused logins that are remembered, and the most sources that are kept from a server.
const MOST_REFUSED: usize = 16_384;
/// A client that was refused comes back within this time: the slowest library (JavaScript) takes 20 s.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(20);
/// The most servers that are tried for a login that a server has let in before.
const MOST_TRIES: usize = 3;
/// A login that no server has let in yet may be tried once more, at another server, at this rate in the whole cluster,
/// however many are refused: a wrong password costs the servers a hash (docs/decisions/0031-refused-logins.md).
const SECOND_TRY_EVERY: Duration = Duration::from_secs(1);
/// So many of these tries may come at once.
const SECOND_TRIES_AT_ONCE: u32 = 10;

/// Who logs in, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Login {
    pub client: ClientKey,
    /// The key of the credential with its secret: a wrong password has another one.
    pub key: CredentialKey,
}

/// A server has refused a login.
#[derive(Debug, Clone, Copy)]
struct RefusedAt {
    server: ServerId,
    at: Instant,
}

impl RefusedAt {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= COMES_BACK_WITHIN
    }
}

/// A refused login as another process recalls it; `server` is an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RememberedRefusal {
    client: ClientKey,
    key: CredentialKey,
    server: String,
    at: Lapse,
}

/// A server that the clients of a lane are kept from, as another process recalls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RememberedAvoided {
    lane: String,
    server: String,
    at: Lapse,
}

/// The logins as another process recalls them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedLogins {
    #[serde(default, deserialize_with = "lapse::or_default")]
    good: Vec<CredentialKey>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    refused: Vec<RememberedRefusal>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    avoided: Vec<RememberedAvoided>,
    #[serde(default, deserialize_with = "lapse::or_default")]
    second_tries: Lapse,
}

/// What is known of a login that a server has just refused.
#[derive(Debug, Clone, Copy)]
pub struct RefusedLogin {
    /// How many servers have refused it, one after another.
    pub servers: usize,
    /// The server fails logins that others let in, as is known already.
    pub server_fails_logins: bool,
    /// Logins from its source have been refused lately.
    pub source_fails: bool,
}

/// The logins that are remembered.
#[derive(Debug, Default)]
pub struct LoginHistory {
    /// Some server has let these in.
    good: CountedMap<CredentialKey, ()>,
    refused: CountedMap<Login, RefusedAt>,
    /// Clients that signed for a server and were refused there come back to weir before it knows who they are: it
    /// dials another server for their source first.
    avoided: CountedMap<Arc<str>, RefusedAt>,
    second_tries: Mutex<LeakyBucket>,
}

/// Logins that a server refuses.
impl LoginHistory {
    /// Whether a login that a server has refused may be tried at another server at once. A yes may take one of the
    /// second tries that the cluster has for logins that no server has let in yet.
    pub fn may_try_elsewhere(&self, key: CredentialKey, refused: RefusedLogin, now: Instant) -> bool {
        if self.is_good(key) {
            return refused.servers < MOST_TRIES;
        }
        refused.servers == 1 && (refused.server_fails_logins || !refused.source_fails && self.take_second_try(now))
    }

    /// Whether some server has let this login in.
    pub fn is_good(&self, key: CredentialKey) -> bool {
        self.good.contains_key(&key)
    }

    fn take_second_try(&self, now: Instant) -> bool {
        let mut tries = self.second_tries.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = tries.level(now) + SECOND_TRY_EVERY <= SECOND_TRY_EVERY * SECOND_TRIES_AT_ONCE;
        if is_free {
            *tries = tries.add(now, SECOND_TRY_EVERY);
        }
        is_free
    }

    /// A second try was right: it takes nothing from the next ones.
    fn give_second_try_back(&self) {
        let mut tries = self.second_tries.lock().unwrap_or_else(PoisonError::into_inner);
        *tries = tries.without(SECOND_TRY_EVERY);
    }

    /// A client reads that `server` has refused its login. `others_too` says that other servers did so on the same
    /// connection.
    pub fn refused(&self, login: Login, server: ServerId, others_too: bool, now: Instant) {
        let before = self.refused_before(login, now);
        if others_too || before.is_some_and(|before| before != server) {
            self.good.remove(&login.key);
            self.refused.remove(&login);
        } else if self.refused.len() < MOST_REFUSED {
            self.refused.insert(login, RefusedAt { server, at: now });
        }
    }

    /// The server that has refused the same login shortly before.
    fn refused_before(&self, login: Login, now: Instant) -> Option<ServerId> {
        self.refused.get(&login).filter(|before| !before.is_over(now)).map(|before| before.server)
    }

    /// The same for a login that cannot be tried elsewhere on this connection: its client has signed the nonce of
    /// `server`, or no other server has room. Returns whether the client is to come back for that: some server has let
    /// it in before, and it has not come back for it yet, or the server is known to fail logins.
    pub fn is_to_come_back(
        &self,
        login: Login,
        source: IpAddr,
        server: ServerId,
        server_fails_logins: bool,
        now: Instant,
    ) -> bool {
        let before = self.refused_before(login, now);
        let comes_back = self.is_good(login.key) && before.is_none_or(|before| before == server && server_fails_logins);
        self.refused(login, server, false, now);
        if comes_back && self.avoided.len() < MOST_REFUSED {
            self.avoided.insert(Source::from(source).lane_name(), RefusedAt { server, at: now });
        }
        comes_back
    }

    /// A server that clients in the lane of a source should not be given first.
    pub fn avoided_by(&self, lane: &str, now: Instant) -> Option<ServerId> {
        if self.avoided.is_empty() {
            return None;
        }
        self.avoided.get(lane).filter(|avoided| !avoided.is_over(now)).map(|avoided| avoided.server)
    }
}

/// Logins that a server lets in.
impl LoginHistory {
    /// `server` has let a login in, perhaps at its second try. Returns the other server that has refused the same login
    /// on a connection shortly before.
    pub fn succeeded(&self, login: Login, server: ServerId, second_try: bool, now: Instant) -> Option<ServerId> {
        if second_try && !self.is_good(login.key) {
            self.give_second_try_back();
        }
        self.remember_good(login.key);
        if self.refused.is_empty() {
            return None;
        }
        let before = self.refused_before(login, now);
        self.refused.remove(&login);
        before.filter(|before| *before != server)
    }

    fn remember_good(&self, key: CredentialKey) {
        if self.good.contains_key(&key) {
            return;
        }
        if self.good.len() >= MOST_GOOD {
            // Every other one is dropped, in no order. That is cheap and rare.
            let mut keep = false;
            self.good.retain(|_, ()| {
                keep = !keep;
                keep
            });
        }
        self.good.insert(key, ());
    }

    /// Forgets refusals that are over.
    pub fn sweep(&self, now: Instant) {
        self.refused.retain(|_, refused| !refused.is_over(now));
        self.avoided.retain(|_, avoided| !avoided.is_over(now));
    }
}

/// For a process that takes over.
impl LoginHistory {
    /// The logins that are remembered.
    pub fn remembered(&self, servers: &Addresses, now: Instant) -> RememberedLogins {
        let of = |refused: &RefusedAt| Some((servers.of(refused.server)?.to_owned(), Lapse::since(refused.at, now)));
        let refused = self.refused.iter().filter_map(|one| {
            let (&Login { client, key }, (server, at)) = (one.key(), of(one.value())?);
            Some(RememberedRefusal { client, key, server, at })
        });
        let avoided = self.avoided.iter().filter_map(|one| {
            let (server, at) = of(one.value())?;
            Some(RememberedAvoided { lane: one.key().to_string(), server, at })
        });
        RememberedLogins {
            good: self.good.iter().map(|one| *one.key()).collect(),
            refused: refused.collect(),
            avoided: avoided.collect(),
            second_tries: self.second_tries.lock().unwrap_or_else(PoisonError::into_inner).level(now).into(),
        }
    }

    /// Recalls what another process remembered at `then`. What has been seen since is known better.
    pub fn recall(&self, remembered: RememberedLogins, servers: &Addresses, then: Instant) {
        let RememberedLogins { good, refused, avoided, second_tries } = remembered;
        for key in good.into_iter().take(MOST_GOOD.saturating_sub(self.good.len())) {
            self.good.insert(key, ());
        }
        let refused_at =
            |server: &str, ago: Lapse| Some(RefusedAt { server: servers.id(server)?, at: ago.before(then) });
        for one in refused.into_iter().take(MOST_REFUSED.saturating_sub(self.refused.len())) {
            if let Some(refused) = refused_at(&one.server, one.at) {
                self.refused.get_or_insert_with(Login { client: one.client, key: one.key }, || refused);
            }
        }
        for one in avoided.into_iter().take(MOST_REFUSED.saturating_sub(self.avoided.len())) {
            if let Some(refused) = refused_at(&one.server, one.at) {
                self.avoided.get_or_insert_with(one.lane.into(), || refused);
            }
        }
        let used = second_tries.duration().min(SECOND_TRY_EVERY * SECOND_TRIES_AT_ONCE);
        let mut tries = self.second_tries.lock().unwrap_or_else(PoisonError::into_inner);
        *tries = LeakyBucket::until(tries.empty_at(then).map_or(then + used, |at| at.max(then + used)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ServerId = ServerId::from_raw(0);
    const OTHER: ServerId = ServerId::from_raw(1);
    const THIRD: ServerId = ServerId::from_raw(2);
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn login(n: u64) -> Login {
        Login { client: ClientKey::from_raw(n), key: CredentialKey::from_raw(n) }
    }

    fn refused(servers: usize) -> RefusedLogin {
        RefusedLogin { servers, server_fails_logins: false, source_fails: false }
    }

    #[test]
    fn a_login_that_was_let_in_is_tried_at_three_servers_until_all_refuse_it() {
        let (history, now) = (LoginHistory::default(), Instant::now());
        assert_eq!(history.succeeded(login(1), ONE, false, now), None);
        for n in 0..100 {
            let good = RefusedLogin { source_fails: true, ..refused(1) };
            assert!(history.may_try_elsewhere(login(1).key, good, now), "{n}: no budget for what is known");
        }
        assert!(history.may_try_elsewhere(login(1).key, refused(2), now));
        assert!(!history.may_try_elsewhere(login(1).key, refused(3), now));
        history.refused(login(1), THIRD, true, now);
        assert!(!history.is_good(login(1).key));
        assert!(history.may_try_elsewhere(login(1).key, refused(1), now));
        assert!(!history.may_try_elsewhere(login(1).key, refused(2), now), "an unknown one twice at most");
    }

    #[test]
    fn however_many_wrong_passwords_there_are_the_second_tries_are_few() {
        let (history, began) = (LoginHistory::default(), Instant::now());
        let tries = |from: u64, to: u64, source_fails| {
            (from..to)
                .filter(|&n| {
                    let now = began + Duration::from_millis(n);
                    history.may_try_elsewhere(login(n).key, RefusedLogin { source_fails, ..refused(1) }, now)
                })
                .count()
        };
        assert_eq!(tries(0, 60_000, true), 0, "its source fails");
        let in_a_minute = tries(0, 60_000, false);
        assert!((60..=70).contains(&in_a_minute), "{in_a_minute} of 60,000");
        let now = began + Duration::from_secs(60);
        let at_a_bad_server = RefusedLogin { server_fails_logins: true, source_fails: true, servers: 1 };
        assert!(history.may_try_elsewhere(login(1).key, at_a_bad_server, now));
        assert!(!history.may_try_elsewhere(login(1).key, RefusedLogin { servers: 2, ..at_a_bad_server }, now));
    }

    #[test]
    fn a_second_try_that_was_right_is_free() {
        let (history, now) = (LoginHistory::default(), Instant::now());
        for n in 0..1000 {
            assert!(history.may_try_elsewhere(login(n).key, refused(1), now), "{n}");
            history.succeeded(login(n), OTHER, true, now);
        }
    }

    #[test]
    fn only_the_same_login_let_in_elsewhere_soon_after_is_evidence() {
        let (history, now) = (LoginHistory::default(), Instant::now());
        history.refused(login(1), ONE, false, now);
        let other_password = Login { key: CredentialKey::from_raw(9), ..login(1) };
        let other_client = Login { client: ClientKey::from_raw(9), ..login(1) };
        assert_eq!(history.succeeded(other_password, OTHER, false, now), None);
        assert_eq!(history.succeeded(other_client, OTHER, false, now), None);
        assert_eq!(history.succeeded(login(1), OTHER, false, now + COMES_BACK_WITHIN / 2), Some(ONE));
        assert_eq!(history.succeeded(login(1), OTHER, false, now), None, "told once");
        history.refused(login(1), ONE, false, now);
        assert_eq!(history.succeeded(login(1), ONE, false, now), None, "the same server has changed its mind");
        history.refused(login(1), ONE, false, now);
        assert_eq!(history.succeeded(login(1), OTHER, false, now + COMES_BACK_WITHIN), None, "long ago");
    }

    #[test]
    fn who_signs_is_sent_away_once_for_another_server_and_reads_the_error_then() {
        let (history, now) = (LoginHistory::default(), Instant::now());
        assert!(!history.is_to_come_back(login(1), SOURCE, ONE, false, now), "nobody knows it");
        assert_eq!(history.avoided_by(&Source::from(SOURCE).lane_name(), now), None);
        history.succeeded(login(2), OTHER, false, now);
        assert!(history.is_to_come_back(login(2), SOURCE, ONE, false, now));
        assert_eq!(history.avoided_by(&Source::from(SOURCE).lane_name(), now), Some(ONE));
        assert_eq!(history.avoided_by(&Source::from(SOURCE).lane_name(), now + COMES_BACK_WITHIN), None);
        assert!(
            !history.is_to_come_back(login(2), SOURCE, OTHER, false, now),
            "revoked: the second server says so too"
        );
        assert!(!history.is_good(login(2).key));

        history.succeeded(login(3), OTHER, false, now);
        assert!(history.is_to_come_back(login(3), SOURCE, ONE, false, now));
        assert!(!history.is_to_come_back(login(3), SOURCE, ONE, false, now), "only this server has room");
        assert!(
            history.is_to_come_back(login(3), SOURCE, ONE, true, now),
            "which is known to refuse what others let in"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let (history, now) = (LoginHistory::default(), Instant::now());
        for n in 0..MOST_GOOD as u64 + 10 {
            history.succeeded(login(n), ONE, false, now);
            let source = IpAddr::from((n as u32).to_be_bytes());
            history.is_to_come_back(login(n), source, ONE, true, now);
        }
        assert!(history.good.len() <= MOST_GOOD && history.refused.len() <= MOST_REFUSED);
        assert!(history.avoided.len() <= MOST_REFUSED);
        history.sweep(now + COMES_BACK_WITHIN);
        assert!(history.refused.is_empty() && history.avoided.is_empty());
    }

    #[test]
    fn another_process_knows_the_same_logins_at_servers_with_other_ids() {
        let (old, new, now) = (LoginHistory::default(), LoginHistory::default(), Instant::now());
        let names = |ids: [ServerId; 2]| -> Addresses { ids.into_iter().zip(["a:1".into(), "b:1".into()]).collect() };
        let (here, other) = (names([ONE, OTHER]), names([THIRD, ONE]));
        old.succeeded(login(1), ONE, false, now);
        old.succeeded(login(2), ONE, false, now);
        old.refused(login(3), ONE, false, now);
        assert!(old.is_to_come_back(login(2), SOURCE, OTHER, false, now));
        for n in 100..200 {
            let _ = old.may_try_elsewhere(login(n).key, refused(1), now);
        }
        let (then, there) = (now + Duration::from_secs(5), now + Duration::from_secs(1000));
        let text = serde_json::to_string(&old.remembered(&here, then)).unwrap();
        new.recall(serde_json::from_str(&text).unwrap(), &other, there);
        assert!([1, 2].iter().all(|n| new.is_good(login(*n).key)) && !new.is_good(login(3).key));
        assert_eq!(new.refused_before(login(3), there), Some(THIRD), "the server at a:1");
        let lane = Source::from(SOURCE).lane_name();
        let left = COMES_BACK_WITHIN - Duration::from_secs(5);
        assert_eq!((old.avoided_by(&lane, then), new.avoided_by(&lane, there)), (Some(OTHER), Some(ONE)));
        assert_eq!(new.avoided_by(&lane, there + left), None);
        let tries = |history: &LoginHistory, at| {
            (200..300).filter(|n| history.may_try_elsewhere(login(*n).key, refused(1), at)).count()
        };
        assert_eq!((tries(&old, then), tries(&new, there)), (5, 5));
        let too_many = RememberedLogins {
            good: (1_000_000..1_300_000).map(CredentialKey::from_raw).collect(),
            second_tries: Duration::MAX.into(),
            ..RememberedLogins::default()
        };
        new.recall(too_many, &other, there);
        assert!(new.good.len() <= MOST_GOOD);
        assert_eq!(tries(&new, there + SECOND_TRY_EVERY * SECOND_TRIES_AT_ONCE), SECOND_TRIES_AT_ONCE as usize);
    }
}
