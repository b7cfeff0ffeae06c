//! Sessions that go from server to server behind several weirs: no client loses its connection, and the quota that the
//! weirs share stays exact.

use futures::future::join_all;
use rustix::process::Signal;
use weir_testkit::*;

use crate::fleet_servers::{holds, orders, shares, three_servers};

const QUOTA: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_three_weirs_closes_nobody_and_keeps_a_full_quota() {
    let mut cluster = three_servers(|server| server).await;
    let account = format!("users = [\"o\"]\nmax_connections = {QUOTA}\nrehome = true");
    let fleet = Fleet::start(3, &WeirConfig::of(&cluster).account("ORDERS", &account)).await;
    let crowd = Crowd::spread(&fleet.addresses(), QUOTA, Habit::NATS_GO, |_| orders());
    crowd.settles_at(QUOTA).await;
    holds(&fleet, &cluster, QUOTA).await;
    for n in 0..3 {
        // What `nats-server --signal ldm` sends.
        cluster.servers[n].signal(Signal::USR2);
        for weir in &fleet.weirs {
            let name = format!("weir_sessions_active{{server=\"n{}\"}}", n + 1);
            weir.until("it is emptied", |metrics| metrics.get(&name) == Some(0.0)).await;
        }
        cluster.servers[n].kill9();
        cluster.servers[n].restart().await;
        cluster.whole().await;
        cluster.has_jetstream().await;
        join_all(fleet.weirs.iter().map(|weir| weir.sees(3))).await;
    }
    // The weirs do not all move so many as all together should. Their own connections count beside the clients.
    eventually(PATIENCE, "the servers are even", async || {
        let shares = shares(&cluster).await;
        let is_even = shares.iter().sum::<u64>() == QUOTA as u64
            && shares.iter().max().zip(shares.iter().min()).is_some_and(|(most, least)| most - least <= 4);
        if is_even { Ok(()) } else { Err(shares) }
    })
    .await;
    holds(&fleet, &cluster, QUOTA).await;
    assert_eq!((crowd.lost(), crowd.connected()), (0, QUOTA), "{:?}", crowd.ends());
    let rehomed = fleet.sum("weir_moves_total").await;
    assert!(rehomed >= QUOTA as f64, "each was moved: {rehomed}");
    fleet.is_whole().await;

    // Exactly the places that become free are there for others.
    crowd.end_some(10);
    let more = Crowd::spread(&fleet.addresses(), 30, Habit::NATS_GO, |_| orders());
    more.settles_at(10).await;
    holds(&fleet, &cluster, QUOTA).await;
    assert_eq!((crowd.lost(), more.lost()), (0, 0), "{:?}", crowd.ends());
    join_all([crowd.end(), more.end()]).await;
    fleet.assert_idle().await;
}
