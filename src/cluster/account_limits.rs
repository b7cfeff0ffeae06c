//! The connection limits in the accounts' JWTs, read over the system account.
//!
//! Every server answers for an account, and not all of them know it: one that no client of the account has come to says
//! that there is none, and one that has only heard of it by a route knows no JWT and says that it is not `complete`.
//! So the servers' answers are taken together.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::{
    cluster::{
        answerers::have_all_answered,
        error::PollError,
        system_account::{Response, SystemAccount},
    },
    dispatch::SessionAdmission,
    net::timer,
    upstream::Servers,
};

/// The most accounts whose limit weir asks for in one round; the others follow in the next rounds.
const MAX_ASKED: usize = 200;
/// So many of them at a time: for one that does not exist weir waits until all servers have said so.
const ASKED_AT_A_TIME: usize = 16;
/// How long the first answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long weir waits for a JWT once a server has answered without one.
const JWT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long weir waits for other servers once it has a JWT, or once all have answered that it knows.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(50);

/// `$SYS.REQ.ACCOUNT.<name>.INFO`.
#[derive(Debug, Deserialize)]
struct Account {
    /// Whether the server knows all of the account.
    #[serde(default)]
    complete: bool,
    decoded_jwt: Option<Jwt>,
}

#[derive(Debug, Deserialize)]
struct Jwt {
    /// When it was issued, in seconds since 1970.
    #[serde(default)]
    iat: i64,
    nats: JwtNats,
}

#[derive(Debug, Deserialize)]
struct JwtNats {
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Deserialize, Default, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// -1 or absent is no limit.
    conn: Option<i64>,
    /// The same of leafnodes.
    leaf: Option<i64>,
}

/// What the servers have said of one account.
#[derive(Debug, Default)]
struct Said {
    newest: Option<Jwt>,
    is_known_without: bool,
}

impl Said {
    fn add(&mut self, account: Account) {
        match account.decoded_jwt {
            // While a new JWT spreads the servers have different ones.
            Some(jwt) if self.newest.as_ref().is_none_or(|newest| jwt.iat > newest.iat) => self.newest = Some(jwt),
            Some(_) => {}
            None => self.is_known_without |= account.complete,
        }
    }

    /// `None` where no server has said it: a limit that is known stays.
    fn limits(&self) -> Option<Limits> {
        let of_jwt = self.newest.as_ref().map(|jwt| jwt.nats.limits);
        of_jwt.or_else(|| self.is_known_without.then(Limits::default))
    }
}

/// Asks for the limits of connections and leafnodes of the accounts in use.
pub(super) async fn read(system: &SystemAccount, admission: &SessionAdmission, servers: &Servers) {
    let due = admission.accounts().to_ask(timer::now(), MAX_ASKED);
    // Only accounts with a JWT have a limit there. Their names are keys, which can stand in a subject as they are.
    let due = due.into_iter().filter(|name| crate::identity::is_account_key(name));
    stream::iter(due)
        .for_each_concurrent(ASKED_AT_A_TIME, async |name| match ask(system, servers, &name).await {
            Ok(limits) => {
                let most = |limit: Option<i64>| limit.and_then(|n| u32::try_from(n).ok());
                admission.accounts().limited_by_cluster(&name, most(limits.conn), most(limits.leaf));
            }
            // Clients may claim an account that does not exist.
            Err(err) => debug!(account = &*name, %err, "the limit of the account is not known"),
        })
        .await;
}

async fn ask(system: &SystemAccount, servers: &Servers, name: &str) -> Result<Limits, PollError> {
    let mut answers = system.ask_all(format!("$SYS.REQ.ACCOUNT.{name}.INFO"), "".into()).await?;
    let mut deadline = Instant::now() + ANSWER_TIMEOUT;
    let (mut said, mut answered) = (Said::default(), HashSet::new());
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        // What no nats-server sends does not spoil the others' answers.
        let Ok(answer) = serde_json::from_slice::<Response<Account>>(&answer.payload) else { continue };
        answered.insert(answer.server.id);
        answer.data.into_iter().for_each(|account| said.add(account));
        let are_all = said.newest.is_some() || have_all_answered(servers, &answered, timer::now());
        deadline = deadline.min(Instant::now() + if are_all { OTHERS_TIMEOUT } else { JWT_TIMEOUT });
    }
    said.limits().ok_or(PollError::NoAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers of servers in turn.
    fn limits(answers: &[&str]) -> Option<Limits> {
        let mut said = Said::default();
        for answer in answers {
            let answer: Response<Account> = serde_json::from_str(answer).unwrap();
            answer.data.into_iter().for_each(|account| said.add(account));
        }
        said.limits()
    }

    fn with_jwt(iat: i64, conn: i64) -> String {
        let jwt = serde_json::json!({ "iat": iat, "nats": { "limits": { "conn": conn, "leaf": -1 } } });
        serde_json::json!({ "server": { "id": "A" }, "data": { "complete": true, "decoded_jwt": jwt } }).to_string()
    }

    #[test]
    fn a_server_that_knows_no_jwt_takes_no_limit_away() {
        let by_route = r#"{"server":{"id":"B"},"data":{"complete":false}}"#;
        let unknown = r#"{"server":{"id":"C"},"error":{"code":500,"description":"Account X does not exist"}}"#;
        let four = Some(Limits { conn: Some(4), leaf: Some(-1) });
        let jwt = with_jwt(10, 4);
        for others in [by_route, unknown] {
            assert_eq!(limits(&[others]), None);
            assert_eq!(limits(&[others, &jwt]), four);
            assert_eq!(limits(&[&jwt, others]), four);
        }
        assert_eq!(limits(&[]), None);
    }

    #[test]
    fn the_newest_jwt_counts_and_an_account_of_a_configuration_has_none() {
        let (older, newer) = (with_jwt(10, 4), with_jwt(11, -1));
        for answers in [[&*older, &newer], [&newer, &older]] {
            assert_eq!(limits(&answers), Some(Limits { conn: Some(-1), leaf: Some(-1) }));
        }
        let configured = r#"{"server":{"id":"A"},"data":{"complete":true}}"#;
        assert_eq!(limits(&[configured]), Some(Limits::default()));
        assert_eq!(limits(&[configured, &older]).unwrap().conn, Some(4));
    }
}
