//! Somebody else's nats-server at a known address, and servers that say odd things of themselves: neither takes clients
//! that others would serve.

use weir_testkit::*;

async fn connect(weir: &Weir, n: usize) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..n {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    clients
}

async fn says(weir: &Weir, told: &str) {
    eventually(PATIENCE, told, async || if weir.log().contains(told) { Ok(()) } else { Err(weir.log()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_server_at_a_known_address_gets_no_client() {
    let mut cluster = Cluster::start(3, ServerOptions::default_timeouts).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let mut clients = connect(&weir, 12).await;
    cluster.servers[1].stop().await;
    cluster.servers[1].reconfigure("weir-test", "strangers");
    cluster.servers[1].restart().await;
    says(&weir, "a server of another cluster answers").await;
    weir.says("cluster=\"strangers\"").await;
    clients.extend(connect(&weir, 60).await);
    // It has seen weir's own dials, which say nothing.
    assert_eq!(weir.metrics().await.get("weir_sessions_active{server=\"n2\"}").unwrap_or_default(), 0.0);
    weir.sees(2).await;
    assert_eq!(weir.health().await, 200);

    cluster.servers[1].stop().await;
    cluster.servers[1].reconfigure("strangers", "weir-test");
    cluster.servers[1].restart().await;
    weir.sees(3).await;
    says(&weir, "the name of its cluster is accepted").await;
    connect(&weir, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_names_leave_a_server_of_no_cluster_out_from_the_start() {
    let cluster = Cluster::start(1, ServerOptions::default_timeouts).await;
    let alone = NatsServer::start(ServerOptions::named("alone").default_timeouts()).await;
    let config = WeirConfig::of_servers(&[&cluster.servers[0], &alone]).default_settings();
    let weir = config.clone().cluster("names = [\"weir-test\"]").start_before(1).await;
    says(&weir, "a server of another cluster answers").await;
    let _clients = connect(&weir, 10).await;
    cluster.servers[0].settles_at(10).await;
    alone.settles_at(0).await; // weir's own dials come and go
    drop(weir);

    // Without names both are used, and the log says that they differ.
    let weir = config.start().await;
    says(&weir, "the servers belong to several clusters").await;
    weir.says("clusters=none (alone), weir-test (n1)").await;
    let _clients = connect(&weir, 10).await;
    alone.settles_at(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_connect_keeps_nobody_from_another_one() {
    let good = NatsServer::start(ServerOptions::named("good").default_timeouts()).await;
    let odd = ServerOptions::named("odd").default_timeouts().with("max_control_line: 16");
    let odd = NatsServer::start(odd).await;
    let weir = WeirConfig::of_servers(&[&good, &odd]).default_settings().start().await;
    let _clients = connect(&weir, 20).await;
    good.settles_at(20).await;
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
}
