//! How many connections the servers have of each account, read from all of them at once: over the system account, else
//! from their monitoring ports.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    cluster::{
        ClusterAccess,
        accounts::{Stat, Statz},
        answerers::have_all_answered,
        http_client::MonitorClient,
        system_account::{Response, SystemAccount},
    },
    net::timer,
    upstream::Servers,
};

/// How long the servers may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long weir waits for the others once all have answered that may have connections.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(50);

/// The connections of each account that has any, over all servers; `None` where one that may have any has not told.
pub async fn account_counts(servers: &Servers, access: &ClusterAccess) -> Option<HashMap<String, u32>> {
    let all = match access.system.as_ref().filter(|system| system.is_up()) {
        Some(system) => over_system_account(system, servers).await,
        None => over_monitors(servers, access).await,
    }?;
    let mut counts = HashMap::<String, u32>::new();
    for one in all {
        let connections = one.connections();
        let count = counts.entry(one.acc).or_default();
        *count = count.saturating_add(connections);
    }
    Some(counts)
}

async fn over_system_account(system: &SystemAccount, servers: &Servers) -> Option<Vec<Stat>> {
    let mut answers = system.ask_all("$SYS.REQ.ACCOUNT.PING.STATZ", "{}".into()).await.ok()?;
    let (deadline, mut answered, mut all) = (Instant::now() + ANSWER_TIMEOUT, HashSet::new(), Vec::new());
    // One that is gone by what weir sees may answer all the same, so weir waits a moment for as many as there are.
    let mut until = deadline;
    while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
        let answer: Response<Statz> = serde_json::from_slice(&answer.payload).ok()?;
        if answered.insert(answer.server.id) {
            all.extend(answer.data?.accounts);
        }
        if have_all_answered(servers, &answered, timer::now()) {
            if answered.len() >= servers.len() {
                break;
            }
            until = deadline.min(Instant::now() + OTHERS_TIMEOUT);
        }
    }
    have_all_answered(servers, &answered, timer::now()).then_some(all)
}

async fn over_monitors(servers: &Servers, access: &ClusterAccess) -> Option<Vec<Stat>> {
    let asked = servers.iter().map(async |server| {
        let told = async {
            let mut client = MonitorClient::new(&server, access.tls.clone())?;
            timeout(ANSWER_TIMEOUT, client.get::<Statz>("/accstatz")).await.ok()?.ok()
        };
        let nothing = || server.is_gone(timer::now()).then(|| Statz { accounts: Vec::new() });
        told.await.or_else(nothing)
    });
    let answers: Option<Vec<Statz>> = join_all(asked).await.into_iter().collect();
    Some(answers?.into_iter().flat_map(|answer| answer.accounts).collect())
}
