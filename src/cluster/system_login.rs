//! Whether weir's login to the system account is one: a server must let it in, and must answer it there. What is wrong
//! is told once, with the key of the configuration and the cure, and again when it changes; weir keeps trying.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{Event, RequestErrorKind};
use serde::Deserialize;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::{
    cluster::{
        own_client::{OwnClient, is_refusal},
        system_account::Response,
    },
    tally::shown,
};

/// The longest pause between two tries to connect, while servers do not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The same while they refuse the login, and between two checks of a login that is not one of the system account.
const LONGEST_PAUSE_OF_WRONG_LOGIN: Duration = Duration::from_secs(30);
/// For how long a lost connection may be on its way back, and its servers without a reading, before that is news.
const RECONNECTS_WITHIN: Duration = Duration::from_secs(3);
/// What it says, in lower case, where the login may not subscribe to requests to the servers.
const MAY_NOT_ANSWER: &str = "permissions violation for subscription to \"$sys.req.server.";

/// How far the login has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No server has answered it yet, for good or ill.
    Unknown,
    /// A server has let it in, and weir has yet to see what it may ask.
    Unchecked,
    Good,
    /// A server refuses it.
    Refused,
    /// It is let in, and is of another account; that has been found so many times.
    OfAnotherAccount(u32),
    /// The connection is gone, or does not come about, since then.
    Lost(Instant),
}

/// What is wrong, as the log was told last.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    /// It is let in, and its requests to the servers reach nobody.
    OtherAccount(Option<UserInfo>),
    /// It is let in, and nobody answers its requests in time.
    NoAnswer(Option<UserInfo>),
    Unreachable(String),
}

/// `$SYS.REQ.USER.INFO`, which every account has (nats-server 2.9 and later).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct UserInfo {
    user: Option<String>,
    account: Option<String>,
}

/// What is known of the login.
#[derive(Debug)]
pub(super) struct SystemLogin {
    /// The key of the configuration that names it.
    key: &'static str,
    /// How many servers there are to try.
    servers: AtomicU32,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Times in a row that it was refused.
    refusals: u32,
    told: Option<Fault>,
    /// It was told that the login may not answer requests.
    told_of_requests: bool,
}

impl SystemLogin {
    pub(super) fn new(key: &'static str, servers: usize) -> Self {
        let inner = Mutex::new(Inner { state: State::Unknown, refusals: 0, told: None, told_of_requests: false });
        let login = Self { key, servers: AtomicU32::new(0), inner, changed: Notify::new() };
        login.set_servers(servers);
        login
    }

    /// There are so many servers to try from now on.
    pub(super) fn set_servers(&self, servers: usize) {
        self.servers.store(u32::try_from(servers).unwrap_or(u32::MAX), Relaxed);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether servers answer it.
    pub(super) fn is_good(&self) -> bool {
        self.inner().state == State::Good
    }

    /// Whether it may be seen soon whether it is good: that a server is not read is no news until then.
    pub(super) fn is_open(&self) -> bool {
        match self.inner().state {
            State::Unknown | State::Unchecked => true,
            State::Lost(since) => since.elapsed() < RECONNECTS_WITHIN,
            State::Good | State::Refused | State::OfAnotherAccount(_) => false,
        }
    }

    /// How long to wait before try number `tries` to connect: longer and longer where the login is refused.
    pub(super) fn pause(&self, tries: usize) -> Duration {
        let refusals = self.inner().refusals;
        let tries = u32::try_from(tries).unwrap_or(u32::MAX);
        match refusals {
            0 => LONGEST_PAUSE.min(Duration::from_millis(100).saturating_mul(tries)),
            _ => pause_of_wrong_login(refusals),
        }
    }

    /// Something has happened to the connection.
    pub(super) fn heard(&self, event: &Event) {
        let mut inner = self.inner();
        match event {
            Event::Connected => (inner.state, inner.refusals) = (State::Unchecked, 0),
            Event::Disconnected => {
                if inner.state == State::Good {
                    warn!(key = self.key, "lost the connection to the system account");
                }
                inner.state = State::Lost(Instant::now());
            }
            Event::ClientError(error) => {
                if is_refusal(error) {
                    inner.refusals = inner.refusals.saturating_add(1);
                    inner.state = State::Refused;
                    // Another server may let it in.
                    if inner.refusals >= self.servers.load(Relaxed) {
                        self.tell(&mut inner, Fault::Refused);
                    }
                } else if !matches!(inner.state, State::Unchecked | State::Good) {
                    if !matches!(inner.state, State::Lost(_)) {
                        inner.state = State::Lost(Instant::now());
                    }
                    let error = error.to_string();
                    let why = error.strip_prefix("nats: ").unwrap_or(&error).to_owned();
                    self.tell(&mut inner, Fault::Unreachable(why));
                }
            }
            Event::ServerError(error)
                if error.to_string().to_lowercase().contains(MAY_NOT_ANSWER) && !inner.told_of_requests =>
            {
                inner.told_of_requests = true;
                warn!(
                    key = "cluster.system.answer_requests",
                    advice = "let it subscribe to $SYS.REQ.SERVER.>",
                    "the login may not answer requests to the servers"
                );
            }
            _ => {}
        }
        drop(inner);
        self.changed.notify_one();
    }

    fn tell(&self, inner: &mut Inner, fault: Fault) {
        if inner.told.as_ref() == Some(&fault) {
            return;
        }
        let key = self.key;
        match &fault {
            Fault::Refused => warn!(
                key,
                words = "Authorization Violation",
                advice = "write the login of a user of the servers' system_account",
                "the servers refuse the login to the system account; weir keeps trying"
            ),
            Fault::OtherAccount(info) => {
                let (user, account) = shown_info(info.as_ref());
                warn!(
                    key,
                    user,
                    account,
                    advice = "write the login of a user of the servers' system_account",
                    "the login is not one of the system account: servers tell it nothing"
                );
            }
            Fault::NoAnswer(info) => {
                let (user, account) = shown_info(info.as_ref());
                warn!(
                    key,
                    user,
                    account,
                    advice = "let it publish to $SYS.REQ.> and subscribe to $SYS.SERVER.> and _INBOX.>",
                    "no server answers the login to the system account: may it ask?"
                );
            }
            Fault::Unreachable(err) => warn!(key, err, "no connection to the system account; weir keeps trying"),
        }
        inner.told = Some(fault);
    }

    /// Checks the login each time that a server has let it in, and again while it is of another account. Never returns.
    pub(super) async fn watch(&self, client: &OwnClient) {
        let mut checks = 0;
        loop {
            let state = self.inner().state;
            match state {
                State::Unchecked => {
                    checks += 1;
                    self.conclude(check(client).await, checks);
                }
                State::OfAnotherAccount(checks) => {
                    let heard = timeout(pause_of_wrong_login(checks), self.changed.notified()).await;
                    if heard.is_err() {
                        self.inner().state.check_again();
                    }
                }
                _ => {
                    checks = 0;
                    self.changed.notified().await;
                }
            }
        }
    }

    fn conclude(&self, checked: Result<Option<UserInfo>, Fault>, checks: u32) {
        let mut inner = self.inner();
        // Meanwhile the connection may have gone.
        if inner.state != State::Unchecked {
            return;
        }
        match checked {
            Ok(info) => {
                let (user, account) = shown_info(info.as_ref());
                info!(user, account, "connected to the system account");
                (inner.state, inner.told) = (State::Good, None);
            }
            Err(fault @ Fault::OtherAccount(_)) => {
                inner.state = State::OfAnotherAccount(checks);
                self.tell(&mut inner, fault);
            }
            // It may be allowed to ask what weir needs, and not this.
            Err(fault) => {
                inner.state = State::Good;
                self.tell(&mut inner, fault);
            }
        }
    }
}

impl State {
    fn check_again(&mut self) {
        if let Self::OfAnotherAccount(_) = self {
            *self = Self::Unchecked;
        }
    }
}

/// Asks who the login is, and whether servers answer it.
async fn check(client: &OwnClient) -> Result<Option<UserInfo>, Fault> {
    let client = client.get().await;
    let (who, servers) = tokio::join!(
        client.request("$SYS.REQ.USER.INFO", "".into()),
        client.request("$SYS.REQ.SERVER.PING", "".into())
    );
    let who = who.ok().and_then(|answer| serde_json::from_slice::<Response<UserInfo>>(&answer.payload).ok()?.data);
    match servers.map_err(|err| err.kind()) {
        Ok(_) => Ok(who),
        Err(RequestErrorKind::NoResponders) => Err(Fault::OtherAccount(who)),
        Err(_) => Err(Fault::NoAnswer(who)),
    }
}

fn shown_info(info: Option<&UserInfo>) -> (Option<String>, Option<String>) {
    let text = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(shown);
    info.map_or((None, None), |info| (text(&info.user), text(&info.account)))
}

/// Doubles from 200 ms.
fn pause_of_wrong_login(times: u32) -> Duration {
    LONGEST_PAUSE_OF_WRONG_LOGIN.min(Duration::from_millis(100).saturating_mul(1 << times.min(16)))
}

#[cfg(test)]
mod tests {
    use async_nats::ClientError;

    use super::*;
    use crate::cluster::own_client::refusal;

    #[tokio::test(start_paused = true)]
    async fn a_login_that_every_server_refuses_is_told_once_and_tried_less_and_less_often() {
        let login = SystemLogin::new("cluster.system.password", 2);
        assert!(login.is_open() && !login.is_good());
        login.heard(&refusal());
        assert!(login.inner().told.is_none(), "the other server may let it in");
        let pauses: Vec<_> = (0..20)
            .map(|n| {
                login.heard(&refusal());
                assert_eq!(login.inner().told, Some(Fault::Refused));
                login.pause(n)
            })
            .collect();
        assert!(pauses.is_sorted() && pauses[0] < Duration::from_secs(1), "{pauses:?}");
        assert_eq!(pauses[19], LONGEST_PAUSE_OF_WRONG_LOGIN);
        assert!(!login.is_open());
        login.heard(&Event::Connected);
        assert_eq!(login.pause(1), Duration::from_millis(100), "it begins anew");
        login.conclude(Ok(None), 1);
        assert!(login.is_good() && login.inner().told.is_none(), "the next fault is told again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_no_news_of_the_servers_for_a_moment() {
        let login = SystemLogin::new("cluster.system.password", 1);
        login.heard(&Event::Connected);
        login.conclude(Ok(None), 1);
        login.heard(&Event::Disconnected);
        let unreachable = Event::ClientError(ClientError::Other("IO error".into()));
        login.heard(&unreachable);
        assert!(login.is_open() && !login.is_good());
        tokio::time::advance(RECONNECTS_WITHIN).await;
        login.heard(&unreachable);
        assert!(!login.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_of_a_connection_that_has_gone_says_nothing() {
        let login = SystemLogin::new("cluster.system.password", 1);
        login.heard(&Event::Connected);
        login.heard(&Event::Disconnected);
        login.conclude(Err(Fault::OtherAccount(None)), 1);
        assert!(login.is_open() && login.inner().told.is_none());
    }
}
