//! A full server accepts and refuses faster than the others serve. A load balancer that counts only its own connections
//! therefore sends all clients to the full server. weir must not send any client there.

use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";

/// Two servers: A (n1) takes 20 clients, B (n2) takes 5,000.
async fn a_and_b() -> Cluster {
    let max = |server: ServerOptions| if server.name == "n1" { 20 } else { 5000 };
    Cluster::start(2, |server| server.clone().max_connections(max(server))).await
}

async fn two_hundred_one_by_one(weir: &Weir) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_full_of_direct_clients_is_not_chosen() {
    let cluster = a_and_b().await;
    let a = &cluster.servers[0];
    let direct = at_once(20, |_| {
        let address = a.address.clone();
        async move { RawClient::connect(&address, &Login::nobody()).await }
    })
    .await;
    a.settles_at(20).await;

    let weir = WeirConfig::of(&cluster).start().await;
    let refused = a.log().matches(FULL).count(); // weir may have connected to read INFO
    let clients = two_hundred_one_by_one(&weir).await; // every client must get in
    assert_eq!(cluster.settles_at(220).await, [20, 200]);
    assert_eq!(a.log().matches(FULL).count(), refused, "nobody was even sent to the full server");
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);

    drop(clients);
    weir.assert_nothing_leaked().await;
    drop(direct);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_filled_through_weir_is_not_chosen() {
    let mut cluster = a_and_b().await;
    cluster.servers[1].stop().await;
    let weir = WeirConfig::of(&cluster).cluster("reserve = 0").start_before(1).await;

    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    cluster.servers[0].settles_at(20).await;

    cluster.servers[1].restart().await;
    weir.sees(2).await;
    clients.extend(two_hundred_one_by_one(&weir).await); // every client must get in
    assert_eq!(cluster.settles_at(220).await, [20, 200]);
    assert!(!cluster.log_contains(FULL));
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    weir.agrees_with(&cluster).await;

    drop(clients);
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}
