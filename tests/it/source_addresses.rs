//! `cluster.source_addresses`: with several source addresses weir can open more sessions to one server than one address
//! has ports.

use std::collections::BTreeMap;

use weir_testkit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_server_come_from_each_address_in_turn() {
    let cluster = Cluster::start(1, |server| server).await;
    let weir = WeirConfig::of(&cluster).cluster("source_addresses = [\"127.0.0.2\", \"127.0.0.3\"]").start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    cluster.settles_at(10).await; // without weir's own dials
    let connz = cluster.servers[0].monitoring("/connz").await.unwrap();
    let mut from = BTreeMap::new();
    for connection in connz["connections"].as_array().unwrap() {
        *from.entry(connection["ip"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(from.keys().collect::<Vec<_>>(), ["127.0.0.2", "127.0.0.3"]);
    // weir's connection to read the server's INFO also uses one of the two addresses.
    assert!(from.values().all(|&n| (4..=6).contains(&n)), "{from:?}");
    drop(clients);
    weir.assert_nothing_leaked().await;
}
