//! Placement: clients are spread evenly over the servers, and again after one was away, without a stampede onto it.

use std::time::Instant;

use weir_testkit::*;

const RATE: u64 = 150;
const BURST: u64 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_on_three_servers_and_one_restarts() {
    let mut cluster = Cluster::start(3, |server| server.max_connections(2000)).await;
    let pace = format!("rate = {RATE}\nburst = {BURST}\nmax_hold = \"1500ms\"\nrefusal_spread = \"1500ms\"");
    let weir = WeirConfig::of(&cluster).admission(&pace).start().await;

    let crowd = Crowd::start(&weir.address, 3000, &Login::nobody(), Habit::PATIENT);
    crowd.settles_at(3000).await;
    let shares = cluster.settles_at(3000).await;
    assert!(unevenness(&shares) <= 1.05, "{shares:?}");
    weir.agrees_with(&cluster).await;
    assert_eq!(crowd.lost(), 0);

    let away = Instant::now();
    cluster.servers[1].restart().await;
    // While the clients come back, the restarted server gets no more of them than the pace of the whole cluster allows.
    let newcomer = &cluster.servers[1];
    eventually(2 * PATIENCE, "all clients are back", async || {
        let (arrived, allowed) =
            (newcomer.total_connections().await, BURST + (away.elapsed().as_secs_f64() * RATE as f64) as u64 + 1);
        assert!(arrived <= allowed, "a stampede: {arrived} arrived on the newcomer, {allowed} were allowed");
        match crowd.connected() {
            3000 => Ok(()),
            now => Err((now, arrived)),
        }
    })
    .await;
    let shares = cluster.settles_at(3000).await;
    assert!(unevenness(&shares) <= 1.1, "after the restart of n2: {shares:?}");
    assert!(crowd.lost() <= 1050, "only its own clients lost their connection: {}", crowd.lost());
    weir.agrees_with(&cluster).await;

    crowd.end().await;
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_of_unequal_size_are_filled_to_the_same_share() {
    let max = |server: &ServerOptions| if server.name == "n1" { 200 } else { 800 };
    let cluster = Cluster::start(2, |server| server.clone().max_connections(max(&server))).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let crowd = Crowd::start(&weir.address, 500, &Login::nobody(), Habit::PATIENT);
    crowd.settles_at(500).await;
    let shares = cluster.settles_at(500).await;
    assert!(shares[0].abs_diff(100) <= 5, "half of each: {shares:?}");
    weir.agrees_with(&cluster).await;
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_others_count() {
    let cluster = Cluster::start(2, |server| server.max_connections(1000)).await;
    let direct = Crowd::start(&cluster.servers[0].address, 200, &Login::nobody(), Habit::ONCE);
    direct.settles_at(200).await;
    cluster.servers[0].settles_at(200).await;

    let weir = WeirConfig::of(&cluster).start().await;
    let crowd = Crowd::start(&weir.address, 300, &Login::nobody(), Habit::PATIENT);
    crowd.settles_at(300).await;
    let shares = cluster.settles_at(500).await;
    assert!(unevenness(&shares) <= 1.05, "50 beside the 200 direct ones, 250 on the other: {shares:?}");
    crowd.end().await;
    weir.assert_nothing_leaked().await;
    direct.end().await;
}
