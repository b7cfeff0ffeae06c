//! The accounts over the system account: what their JWTs allow, and how many connections the servers count, those included
//! that did not come through weir.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    cluster::{
        PollError,
        account_events::Events,
        system_account::{Response, SystemAccount},
    },
    dispatch::SessionAdmission,
    upstream::{Servers, reconciled_count::ReadingEpoch},
};

/// Accounts that are asked for in one round; the others' turn comes with the next.
const MOST_ASKED: usize = 200;
/// Accounts that are counted: their names make a question of some 300 KiB.
const MOST_COUNTED: usize = 5000;
/// How long the servers' counts may take to come in.
const COUNTING: Duration = Duration::from_millis(500);
/// And how long once every server that weir knows has answered.
const THE_OTHERS: Duration = Duration::from_millis(50);

/// `$SYS.REQ.ACCOUNT.<name>.INFO`.
#[derive(Debug, Deserialize)]
struct Account {
    decoded_jwt: Option<Jwt>,
}

#[derive(Debug, Deserialize)]
struct Jwt {
    nats: JwtNats,
}

#[derive(Debug, Deserialize)]
struct JwtNats {
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Deserialize, Default)]
struct Limits {
    /// -1 is no limit, and so is none at all.
    conn: Option<i64>,
}

/// `$SYS.REQ.ACCOUNT.PING.STATZ`.
#[derive(Debug, Deserialize)]
struct Statz {
    #[serde(rename = "account_statz", default)]
    accounts: Vec<Stat>,
}

#[derive(Debug, Deserialize)]
struct Stat {
    acc: String,
    conns: u32,
}

/// Asks until `stop`.
pub async fn watch(
    system: SystemAccount,
    admission: Arc<SessionAdmission>,
    servers: Arc<Servers>,
    interval: Duration,
    stop: CancellationToken,
) {
    let asking = async {
        let (mut counting, mut events) = (false, Events::default());
        loop {
            let next = Instant::now() + interval.mul_f64(0.9 + 0.2 * fastrand::f64());
            limits(&system, &admission).await;
            events.begin(&system, &admission).await;
            let counted = count(&system, &admission, admission.accounts().to_count(MOST_COUNTED), servers.len()).await;
            if let Err(err) = &counted {
                debug!(%err, "accounts are not counted");
            }
            if std::mem::replace(&mut counting, counted.is_ok()) && counted.is_err() {
                admission.accounts().not_counted();
            }
            while let Some(changed) = events.changed(&admission, next).await {
                let changed = admission.accounts().to_count_of(&changed);
                if let Err(err) = count(&system, &admission, changed, servers.len()).await {
                    debug!(%err, "accounts that have changed are not counted");
                }
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = stop.cancelled() => {}
    }
}

/// Takes over the connection limits of the accounts' JWTs.
async fn limits(system: &SystemAccount, admission: &SessionAdmission) {
    for name in admission.accounts().to_ask(Instant::now().into_std(), MOST_ASKED) {
        // Only accounts with a JWT have a limit to tell, and only a key makes a subject as it is.
        if !crate::identity::is_account_key(&name) {
            continue;
        }
        match system.ask::<Account>(format!("$SYS.REQ.ACCOUNT.{name}.INFO"), "".into()).await {
            Ok(account) => {
                let limit = account.decoded_jwt.and_then(|jwt| jwt.nats.limits.conn);
                admission.accounts().limited_by_cluster(&name, limit.and_then(|n| u32::try_from(n).ok()));
            }
            // A claimed account need not exist.
            Err(err) => debug!(account = &*name, %err, "its limit is not known"),
        }
    }
}

/// Has the servers count accounts.
async fn count(
    system: &SystemAccount,
    admission: &SessionAdmission,
    asked: Vec<(Arc<str>, ReadingEpoch)>,
    servers: usize,
) -> Result<(), PollError> {
    if asked.is_empty() {
        return if system.is_up() { Ok(()) } else { Err(PollError::NoSystem) };
    }
    let names: Vec<&str> = asked.iter().map(|(name, _)| &**name).collect();
    let question = serde_json::json!({ "accounts": names, "include_unused": true }).to_string();
    let mut answers = system.ask_all("$SYS.REQ.ACCOUNT.PING.STATZ", question.into()).await?;
    let mut deadline = Instant::now() + COUNTING;
    let (mut counts, mut answered) = (HashMap::<String, u32>::new(), HashSet::new());
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        let answer: Response<Statz> = serde_json::from_slice(&answer.payload)?;
        if let Some(statz) = answer.data
            && answered.insert(answer.server.id)
        {
            for one in statz.accounts {
                *counts.entry(one.acc).or_default() += one.conns;
            }
        }
        // A cluster may have more servers than weir knows.
        if answered.len() >= servers {
            deadline = deadline.min(Instant::now() + THE_OTHERS);
        }
    }
    if answered.is_empty() {
        return Err(PollError::NoAnswer);
    }
    for (name, mark) in asked {
        admission.accounts().counted(&name, mark, counts.get(&*name).copied().unwrap_or(0));
    }
    Ok(())
}
