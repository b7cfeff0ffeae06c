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
        http_client::MonitorClient,
        system_account::{Response, SystemAccount},
    },
    upstream::Servers,
};

/// How long the servers may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The connections of each account that has any, over all servers; `None` where not every server has told.
pub async fn account_counts(servers: &Servers, access: &ClusterAccess) -> Option<HashMap<String, u32>> {
    let all = match access.system.as_ref().filter(|system| system.is_up()) {
        Some(system) => over_system_account(system, servers.len()).await,
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

async fn over_system_account(system: &SystemAccount, servers: usize) -> Option<Vec<Stat>> {
    let mut answers = system.ask_all("$SYS.REQ.ACCOUNT.PING.STATZ", "{}".into()).await.ok()?;
    let (deadline, mut answered, mut all) = (Instant::now() + ANSWER_TIMEOUT, HashSet::new(), Vec::new());
    while answered.len() < servers
        && let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await
    {
        let answer: Response<Statz> = serde_json::from_slice(&answer.payload).ok()?;
        if answered.insert(answer.server.id) {
            all.extend(answer.data?.accounts);
        }
    }
    (answered.len() >= servers).then_some(all)
}

async fn over_monitors(servers: &Servers, access: &ClusterAccess) -> Option<Vec<Stat>> {
    let asked = servers.iter().map(async |server| {
        let mut client = MonitorClient::new(&server, access.tls.clone())?;
        timeout(ANSWER_TIMEOUT, client.get::<Statz>("/accstatz")).await.ok()?.ok()
    });
    let answers: Option<Vec<Statz>> = join_all(asked).await.into_iter().collect();
    Some(answers?.into_iter().flat_map(|answer| answer.accounts).collect())
}
