//! Weirs of a fleet are killed and started again with their ids, one after another and all at once: what they had
//! leased is theirs or others', and never both.

use std::time::Instant;

use futures::future::join_all;
use weir_testkit::*;

use crate::{
    scene::{EAGER, LONGEST, QUOTA, tell},
    watch::Watch,
};

/// Waits until the clients have the whole quota, at the servers too.
async fn fills(cluster: &Cluster, crowd: &Crowd) {
    eventually(LONGEST, "the quota is full", async || {
        let now = (crowd.connected(), cluster.account_connections("ORDERS").await as usize);
        if now == (QUOTA, QUOTA) { Ok(()) } else { Err((now, crowd.ends())) }
    })
    .await;
}

async fn never_over(watch: &Watch) {
    let most = watch.most().await;
    assert!(most <= QUOTA as i64, "{most} connections of a quota of {QUOTA} at the same moment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: leases of weirs that are killed are taken back once it is sure that they are gone"]
async fn weirs_of_a_fleet_killed_and_started_again() {
    let accounts = fleet::accounts("ORDERS { users: [{user: orders, password: p}] }");
    let cluster = Cluster::start(3, |server| server.default_timeouts().jetstream().with(&accounts)).await;
    cluster.has_jetstream().await;
    let quota = format!("users = [\"orders\"]\nmax_connections = {QUOTA}");
    let of_all = WeirConfig::of(&cluster).default_settings().account("ORDERS", &quota);
    let configs: Vec<_> = (1..=3).map(|n| fleet::config(&of_all, n)).collect();
    let mut fleet = Fleet::start_each(configs.clone().into_iter()).await;
    let watch = Watch::start(&cluster.servers, "ORDERS");
    let login = |i| Login::user("orders", "p").name(&format!("orders-{i}")).lang("go");
    let crowd = Crowd::spread(&fleet.addresses(), QUOTA + 30, EAGER, login);
    fills(&cluster, &crowd).await;
    for (n, config) in configs.iter().enumerate() {
        fleet.weirs[n].kill9();
        let killed = Instant::now();
        fleet.weirs[n].start_again(config).await;
        fleet.is_whole().await;
        fills(&cluster, &crowd).await;
        tell("one weir of a fleet killed and started again", killed.elapsed());
        never_over(&watch).await;
    }
    fleet.weirs.iter_mut().for_each(Weir::kill9);
    let killed = Instant::now();
    join_all(fleet.weirs.iter_mut().zip(&configs).map(|(weir, config)| weir.start_again(config))).await;
    fleet.is_whole().await;
    fills(&cluster, &crowd).await;
    tell("all weirs of a fleet killed and started again", killed.elapsed());
    never_over(&watch).await;
    crowd.end().await;
    fleet.assert_idle().await;
    never_over(&watch).await;
}
