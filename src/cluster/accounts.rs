//! What weir learns about accounts over the system account: the connection limits in their JWTs, and how many
//! connections the servers count, including those that did not come through weir.

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
        account_events::AccountEvents,
        account_limits,
        answerers::Answerers,
        error::PollError,
        system_account::{Response, SystemAccount},
    },
    dispatch::SessionAdmission,
    net::timer,
    upstream::{Servers, reconciled_count::ReadingEpoch},
};

/// The most accounts that weir has counted: their names make a request of about 300 KiB.
const MAX_COUNTED: usize = 5000;
/// How long weir waits for the servers' counts.
const COUNT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long weir waits for other servers once as many have answered as it knows.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(50);

/// `$SYS.REQ.ACCOUNT.PING.STATZ`, and `/accstatz`.
#[derive(Debug, Deserialize)]
pub(super) struct Statz {
    #[serde(rename = "account_statz", default)]
    pub(super) accounts: Vec<Stat>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Stat {
    pub(super) acc: String,
    conns: u32,
    #[serde(default)]
    leafnodes: u32,
}

impl Stat {
    /// Clients and leafnodes: what counts for the limit of an account, which nats-server tells apart here.
    pub(super) fn connections(&self) -> u32 {
        self.conns.saturating_add(self.leafnodes)
    }
}

/// Keeps the limits and counts of the accounts up to date, until `stop`.
pub async fn watch(
    system: SystemAccount,
    admission: Arc<SessionAdmission>,
    servers: Arc<Servers>,
    interval: Duration,
    stop: CancellationToken,
) {
    let watching = async {
        let (mut counting, mut events, mut answerers) = (false, AccountEvents::default(), Answerers::default());
        loop {
            let next = Instant::now() + interval.mul_f64(0.9 + 0.2 * fastrand::f64());
            account_limits::read(&system, &admission, &servers).await;
            events.begin(&system, &admission).await;
            let asked = admission.accounts().to_count(MAX_COUNTED, timer::now());
            let counted = count(&system, &admission, asked, (&servers, &mut answerers)).await;
            if let Err(err) = &counted {
                debug!(%err, "accounts are not counted");
            }
            if std::mem::replace(&mut counting, counted.is_ok()) && counted.is_err() {
                admission.accounts().not_counted();
            }
            while let Some(changed) = events.changed(&admission, next).await {
                let changed = admission.accounts().to_count_of(&changed, timer::now());
                if let Err(err) = count(&system, &admission, changed, (&servers, &mut answerers)).await {
                    debug!(%err, "accounts that have changed are not counted");
                }
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

/// Asks the servers to count the connections of accounts.
async fn count(
    system: &SystemAccount,
    admission: &SessionAdmission,
    asked: Vec<(Arc<str>, ReadingEpoch)>,
    (servers, answerers): (&Servers, &mut Answerers),
) -> Result<(), PollError> {
    if asked.is_empty() {
        return if system.is_up() { Ok(()) } else { Err(PollError::NoSystem) };
    }
    let names: Vec<&str> = asked.iter().map(|(name, _)| &**name).collect();
    let request = serde_json::json!({ "accounts": names, "include_unused": true }).to_string();
    let mut answers = system.ask_all("$SYS.REQ.ACCOUNT.PING.STATZ", request.into()).await?;
    let mut deadline = Instant::now() + COUNT_TIMEOUT;
    let (mut counts, mut answered) = (HashMap::<String, u32>::new(), HashSet::new());
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        let answer: Response<Statz> = serde_json::from_slice(&answer.payload)?;
        if let Some(statz) = answer.data
            && answered.insert(answer.server.id)
        {
            for one in statz.accounts {
                let connections = one.connections();
                *counts.entry(one.acc).or_default() += connections;
            }
        }
        // A cluster may have more servers than weir knows.
        if answered.len() >= servers.len() {
            deadline = deadline.min(Instant::now() + OTHERS_TIMEOUT);
        }
    }
    if answered.is_empty() {
        return Err(PollError::NoAnswer);
    }
    let now = timer::now();
    let are_all = answerers.answered(servers, &answered, now);
    for (name, epoch) in asked {
        let connections = counts.get(&*name).copied().unwrap_or(0);
        if are_all {
            admission.accounts().counted(&name, epoch, now, connections);
        } else {
            admission.accounts().counted_in_part(&name, epoch, now, connections);
        }
    }
    admission.accounts().tell_past(now);
    Ok(())
}
