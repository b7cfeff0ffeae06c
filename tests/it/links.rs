//! Links to servers that are cut, in a network namespace of the test: nobody hears an error, packets are just lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use weir_testkit::network::{self, Link, Node};
use weir_testkit::*;

/// A server at the other end of a link, one beside it, and weir in front with its own settings.
async fn behind_a_link() -> (Arc<Link>, NatsServer, NatsServer, Weir) {
    let link = Arc::new(Link::new());
    let far = NatsServer::start(ServerOptions::named("far").behind(&link)).await;
    let near = NatsServer::start(ServerOptions::named("near")).await;
    let weir = WeirConfig::of_servers(&[&far, &near]).default_settings().start().await;
    (link, far, near, weir)
}

async fn connect(weir: &Weir) -> RawClient {
    RawClient::attempt(&weir.address, &Login::nobody().lang("go"), PATIENCE).await.expect_in()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_off_costs_nobody_the_connection_and_keeps_its_sessions() {
    if !network::is_own() {
        return;
    }
    let (link, far, near, weir) = behind_a_link().await;
    let mut before = Vec::new();
    for _ in 0..20 {
        before.push(connect(&weir).await);
    }
    tokio::join!(far.settles_at(10), near.settles_at(10));
    link.cut();
    let mut meanwhile = Vec::new();
    for _ in 0..30 {
        meanwhile.push(connect(&weir).await);
        sleep(Duration::from_millis(50)).await;
    }
    near.settles_at(40).await;
    weir.sees(1).await;
    link.heal();
    weir.sees(2).await;
    // The sessions outlived it, on both sides, with what was sent meanwhile.
    for client in &mut before {
        client.round_trip().await.unwrap();
    }
    tokio::join!(far.settles_at(10), near.settles_at(40)); // weir's own dials come and go
    // It is the emptiest by far.
    eventually(PATIENCE, "clients go there again", async || {
        meanwhile.push(connect(&weir).await);
        if far.connections().await > 12 { Ok(()) } else { Err(meanwhile.len()) }
    })
    .await;
    drop((before, meanwhile));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_comes_and_goes_costs_nobody_the_connection() {
    if !network::is_own() {
        return;
    }
    let (link, far, near, weir) = behind_a_link().await;
    let mut clients = Vec::new();
    for round in 0..12 {
        if round % 2 == 0 {
            link.cut()
        } else {
            link.heal()
        }
        for _ in 0..5 {
            clients.push(connect(&weir).await);
            sleep(Duration::from_millis(60)).await;
        }
    }
    weir.sees(2).await;
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    eventually(PATIENCE, "each has one connection", async || {
        let there = (far.connections().await, near.connections().await);
        if there.0 + there.1 == 60 { Ok(()) } else { Err(there) }
    })
    .await;
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
    drop(clients);
    weir.assert_nothing_leaked().await;
}

/// A weir of which each way to a server can be cut by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_is_cut_off_from_one_server_uses_the_other() {
    if !network::is_own() {
        return;
    }
    let first = NatsServer::start(ServerOptions::named("first").everywhere()).await;
    let second = NatsServer::start(ServerOptions::named("second").everywhere()).await;
    let node = Node::new();
    let (own, to_first, to_second) = (Arc::new(Link::to(&node)), Link::to(&node), Link::to(&node));
    let config = WeirConfig::of_servers(&[&first, &second]).default_settings().behind(&own);
    let config = config.reaching(&first, &to_first).reaching(&second, &to_second);
    let weir = config.start().await;
    let mut clients = vec![connect(&weir).await, connect(&weir).await];
    tokio::join!(first.settles_at(1), second.settles_at(1));
    to_first.cut();
    weir.sees(1).await;
    clients.push(connect(&weir).await);
    clients.push(connect(&weir).await);
    tokio::join!(first.settles_at(1), second.settles_at(3));
    to_first.heal();
    weir.sees(2).await;
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
    drop(clients);
    weir.assert_nothing_leaked().await;
}
