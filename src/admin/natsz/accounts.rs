//! `/accountz` and `/accstatz`: the accounts that clients of this weir are in.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use serde::Serialize;

use crate::{
    admin::natsz::{arguments::BadArgument, go_text},
    session::Shared,
    telemetry::counters::Totals,
};

/// `/accountz`.
#[derive(Debug, Serialize)]
pub struct Accountz {
    server_id: String,
    now: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accounts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_detail: Option<AccountDetail>,
}

#[derive(Debug, Serialize)]
struct AccountDetail {
    account_name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_system: bool,
    expired: bool,
    complete: bool,
    jetstream_enabled: bool,
    leafnode_connections: u32,
    client_connections: u32,
    subscriptions: u32,
    /// Its limit, by the configuration or by the cluster, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
}

/// The accounts, or what is known of the one called `asked` where that is not empty.
///
/// # Errors
/// There is no such account.
pub fn accountz(shared: &Shared, asked: &str) -> Result<Accountz, BadArgument> {
    let leafnodes_of = |name: &str| {
        let all = shared.admission.accounts().leafnodes();
        all.into_iter().find(|(one, ..)| **one == *name).map_or(0, |(_, leafnodes, _)| leafnodes)
    };
    let mut known = shared.admission.accounts().connections();
    known.sort();
    let system_account = known.iter().find(|(name, _)| shared.servers.is_system_account(name));
    let system_account = system_account.map(|(name, _)| name.to_string());
    let account_detail = match asked {
        "" => None,
        asked => match known.iter().find(|(name, _)| &**name == asked) {
            None => return Err(BadArgument(format!("Account {asked} does not exist"))),
            Some((name, connections)) => Some(AccountDetail {
                account_name: name.to_string(),
                is_system: system_account.as_deref() == Some(asked),
                expired: false,
                complete: true,
                jetstream_enabled: false,
                leafnode_connections: leafnodes_of(name),
                client_connections: connections.saturating_sub(leafnodes_of(name)),
                subscriptions: 0,
                max_connections: shared.admission.accounts().max_connections(name),
            }),
        },
    };
    Ok(Accountz {
        server_id: shared.advertised_info.own_server_id().to_owned(),
        now: go_text::time(SystemTime::now()),
        system_account,
        accounts: account_detail.is_none().then(|| known.into_iter().map(|(name, _)| name.to_string()).collect()),
        account_detail,
    })
}

/// `/accstatz`.
#[derive(Debug, Serialize)]
pub struct Accstatz {
    server_id: String,
    now: String,
    account_statz: Vec<AccountStat>,
}

#[derive(Debug, Serialize)]
struct AccountStat {
    acc: String,
    name: String,
    conns: u32,
    leafnodes: u32,
    total_conns: u32,
    num_subscriptions: u32,
    sent: DataStats,
    received: DataStats,
    slow_consumers: u64,
}

/// Messages, and the bytes of their headers and payloads.
#[derive(Debug, Default, Serialize)]
pub struct DataStats {
    pub msgs: u64,
    pub bytes: u64,
}

/// The sessions of an account, and what they and earlier ones have moved.
#[derive(Debug, Default)]
struct OfAccount {
    clients: u32,
    leafnodes: u32,
    totals: Totals,
}

/// The statistics of each account that has sessions, and with `unused` also of those that had some.
pub async fn accstatz(shared: &Shared, unused: bool) -> Accstatz {
    // Sessions that end meanwhile may be missing in both; what was shown before never becomes less.
    let ended = shared.sessions.ended_traffic().totals();
    let mut all: BTreeMap<Arc<str>, OfAccount> =
        ended.into_iter().map(|(name, totals)| (name, OfAccount { totals, ..OfAccount::default() })).collect();
    shared
        .sessions
        .for_each(|session| {
            if let Some(account) = session.account() {
                let one = all.entry(account).or_default();
                let count = if session.is_leafnode() { &mut one.leafnodes } else { &mut one.clients };
                *count = count.saturating_add(1);
                one.totals = one.totals.plus(session.traffic().totals());
            }
        })
        .await;
    shared.sessions.ended_traffic().show(all.iter_mut().map(|(name, one)| (name, &mut one.totals)));
    let stat = |(acc, OfAccount { clients, leafnodes, totals }): (Arc<str>, OfAccount)| AccountStat {
        acc: acc.to_string(),
        name: acc.to_string(),
        conns: clients,
        leafnodes,
        total_conns: clients.saturating_add(leafnodes),
        num_subscriptions: 0,
        sent: DataStats { msgs: totals.messages_down, bytes: totals.payload_down },
        received: DataStats { msgs: totals.messages_up, bytes: totals.payload_up },
        slow_consumers: 0,
    };
    let account_statz =
        all.into_iter().filter(|(_, one)| unused || one.clients > 0 || one.leafnodes > 0).map(stat).collect();
    Accstatz {
        server_id: shared.advertised_info.own_server_id().to_owned(),
        now: go_text::time(SystemTime::now()),
        account_statz,
    }
}
