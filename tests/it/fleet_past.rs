//! Connections that came past all weirs count in a quota that the weirs share, where the system account tells of them.

use weir_testkit::*;

use crate::fleet_quota::{QUOTA, attempts, never_over, with_quota};
use crate::fleet_servers::orders;

const SYSTEM: &str = "[cluster.system]\nuser = \"admin\"\npassword = \"s3cr3t-adm1n\"";
const PAST: usize = 20;

/// Waits until every weir shows that so many connections came past all weirs.
async fn are_past(fleet: &Fleet, n: usize) {
    for weir in &fleet.weirs {
        eventually(PATIENCE, &format!("{n} connections came past weir"), async || {
            let quotas = fleet::fleetz(weir).await["quotas"].clone();
            if quotas[0]["past"] == n { Ok(()) } else { Err(quotas) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_past_all_weirs_counts_and_leaves_room_to_them() {
    let system = "SYS { users: [{user: admin, password: s3cr3t-adm1n}] }";
    let all = fleet::accounts(&format!("{system}, ORDERS {{ users: [{{user: o, password: p}}] }}"));
    let accounts = format!("system_account: SYS\n{all}");
    let cluster = Cluster::start(3, |server| server.jetstream().with(&accounts)).await;
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
