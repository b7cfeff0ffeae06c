//! Connections that came past all weirs count in a quota that the weirs share, where the system account tells of them.

use rustix::process::Signal;
use weir_testkit::history::History;
use weir_testkit::*;

use crate::fleet_quota::{QUOTA, attempts, come, never_over, with_quota};
use crate::fleet_servers::orders;

pub(crate) const SYSTEM: &str = "[cluster.system]\nuser = \"admin\"\npassword = \"s3cr3t-adm1n\"";
const PAST: usize = 20;

/// Waits until every weir shows that so many connections came past all weirs.
pub(crate) async fn are_past(fleet: &Fleet, n: usize) {
    for weir in &fleet.weirs {
        eventually(PATIENCE, &format!("{n} connections came past weir"), async || {
            let quotas = fleet::fleetz(weir).await["quotas"].clone();
            if quotas[0]["past"] == n { Ok(()) } else { Err(quotas) }
        })
        .await;
    }
}

/// Accounts of the weirs, of the clients and of the system.
pub(crate) fn accounts() -> String {
    let system = "SYS { users: [{user: admin, password: s3cr3t-adm1n}] }";
    let all = fleet::accounts(&format!("{system}, ORDERS {{ users: [{{user: o, password: p}}] }}"));
    format!("system_account: SYS\n{all}")
}

/// Three servers that keep the bucket, and behind them `n` that have the clients.
async fn with_bucket_elsewhere(n: usize) -> Cluster {
    let keeps = |server: &ServerOptions| ["n1", "n2", "n3"].contains(&server.name.as_str());
    let cluster = Cluster::start(3 + n, |server| {
        let server = server.with(&accounts());
        if keeps(&server) { server.jetstream() } else { server }
    })
    .await;
    cluster.has_jetstream().await;
    cluster
}

/// Weirs before the servers of the clients.
async fn fleet_before(cluster: &Cluster, n: usize) -> Fleet {
    let config = WeirConfig::of_servers(&cluster.servers[3..].iter().collect::<Vec<_>>());
    let fleet = Fleet::start(n, &with_quota(config.default_settings().cluster(SYSTEM))).await;
    fleet.has_leases().await;
    fleet
}

/// A server of the clients that has no connection of the weirs' own.
async fn one_without_own(cluster: &Cluster) -> usize {
    for (n, server) in cluster.servers.iter().enumerate().skip(3) {
        let connz = server.monitoring("/connz?auth=1&limit=10000").await.expect("/connz");
        let of_weirs = |user: &str| user == "admin" || user.starts_with("weir-");
        let all = connz["connections"].as_array().expect("a list");
        if !all.iter().any(|one| one["authorized_user"].as_str().is_some_and(of_weirs)) {
            return n;
        }
    }
    panic!("there are more servers than connections of the weirs' own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_keeps_those_who_came_past_weir_in_the_count() {
    let mut cluster = with_bucket_elsewhere(5).await;
    let fleet = fleet_before(&cluster, 2).await;
    let weirs = fleet.addresses();
    let still = one_without_own(&cluster).await;
    // weir knows of an account what the servers count once somebody uses it.
    let mut clients = Vec::new();
    for address in &weirs {
        clients.push(RawClient::connect(address, &orders()).await);
    }
    let mut direct = Vec::new();
    for _ in 0..3 * PAST {
        direct.push(RawClient::connect(&cluster.servers[still].address, &orders()).await);
    }
    are_past(&fleet, 3 * PAST).await;
    cluster.servers[still].signal(Signal::STOP);
    // Several counts lack it.
    for _ in 0..4 {
        clients.extend(attempts(&weirs, QUOTA).await);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    cluster.servers[still].signal(Signal::CONT);
    let history = History::of_servers(cluster.servers[3..].iter(), "ORDERS").await;
    assert!(history.most() <= QUOTA as i64, "{} of {QUOTA} at once", history.most());
    for client in &mut direct {
        client.round_trip().await.expect("nobody is thrown out");
    }
    // It answers again, and what is left of the quota is in use.
    eventually(PATIENCE, "the rest of the quota is in use", async || {
        clients.extend(attempts(&weirs, QUOTA).await);
        if clients.len() == QUOTA - 3 * PAST { Ok(()) } else { Err(clients.len()) }
    })
    .await;
    are_past(&fleet, 3 * PAST).await;
    drop((direct, clients));
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_weir_had_is_free_though_a_server_is_gone_too() {
    let mut cluster = with_bucket_elsewhere(3).await;
    let mut fleet = fleet_before(&cluster, 2).await;
    let crowd = come(&fleet.addresses(), 150);
    crowd.settles_at(QUOTA).await;
    let mut dead = fleet.weirs.remove(1);
    dead.kill9();
    // What the other weir needs to hear of it is not lost.
    let gone = one_without_own(&cluster).await;
    cluster.servers[gone].kill9();
    let others = come(&fleet.addresses(), 150);
    eventually(PATIENCE, "the whole quota is in use", async || match crowd.connected() + others.connected() {
        QUOTA => Ok(()),
        n => Err(n),
    })
    .await;
    crowd.end().await;
    others.end().await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_past_all_weirs_counts_and_leaves_room_to_them() {
    let cluster = Cluster::start(3, |server| server.jetstream().with(&accounts())).await;
    cluster.has_jetstream().await;
    let fleet = Fleet::start(3, &with_quota(WeirConfig::of(&cluster).cluster(SYSTEM))).await;
    let weirs = fleet.addresses();

    // weir knows of an account what the servers count once somebody uses it.
    let mut clients = Vec::new();
    for address in &weirs {
        clients.push(RawClient::connect(address, &orders()).await);
    }
    let mut direct = Vec::new();
    for n in 0..PAST {
        direct.push(RawClient::connect(&cluster.servers[n % 3].address, &orders()).await);
    }
    are_past(&fleet, PAST).await;
    clients.extend(attempts(&weirs, 300).await);
    assert_eq!(clients.len(), QUOTA - PAST, "the quota, without those past weir");
    are_past(&fleet, PAST).await;
    for client in &mut direct {
        client.round_trip().await.expect("nobody is thrown out");
    }

    drop(direct);
    are_past(&fleet, 0).await;
    clients.extend(attempts(&weirs, 300).await);
    assert_eq!(clients.len(), QUOTA, "as many more as have left");
    never_over(&cluster).await;
    drop(clients);
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_weir_has_is_not_past_all_weirs_before_that_one_has_told_it() {
    let cluster = Cluster::start(3, |server| server.jetstream().with(&accounts())).await;
    cluster.has_jetstream().await;
    let of_all = with_quota(WeirConfig::of(&cluster).cluster(SYSTEM));
    let mut fleet = Fleet::start(2, &of_all).await;
    let mut clients = Vec::new();
    for _ in 0..2 * PAST {
        clients.push(RawClient::connect(&fleet.weirs[1].address, &orders()).await);
    }
    // The first weir of all writes what is past weir. It begins anew, and knows of no account of the other one.
    fleet.weirs[0].kill9();
    let first = fleet::config(&of_all, 1).start().await;
    clients.push(RawClient::connect(&first.address, &orders()).await);
    eventually(PATIENCE, "the other weir has told what it has", async || {
        let seen = fleet::fleetz(&first).await["quotas"].clone();
        let quota = &seen[0];
        assert!(quota.is_null() || quota["past"] == 0, "nobody came past weir: {seen}");
        let weirs = quota["weirs"].as_array().cloned().unwrap_or_default();
        let held = weirs.iter().find(|one| one["id"] == "weir-2").map(|one| one["held"].clone());
        if held == Some(serde_json::json!(2 * PAST)) { Ok(()) } else { Err(seen) }
    })
    .await;
    are_past(&Fleet { weirs: vec![first] }, 0).await;
}
