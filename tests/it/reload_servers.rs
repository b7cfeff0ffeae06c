//! A reload adds, renames and removes servers: a new one takes its share, the sessions of one that is removed move.

use std::{collections::HashSet, time::Instant};

use async_nats::ConnectOptions;
use futures::StreamExt;
use weir_testkit::{client::End, *};

fn table(server: &NatsServer) -> String {
    let NatsServer { name, address, monitor, .. } = server;
    format!("[[cluster.servers]]\nname = \"{name}\"\naddress = \"{address}\"\nmonitor = \"http://{monitor}\"\n")
}

async fn connect(weir: &Weir) -> RawClient {
    RawClient::connect(&weir.address, &Login::nobody()).await
}

fn sessions(name: &str) -> String {
    format!("weir_sessions_active{{server=\"{name}\"}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_added_takes_its_share() {
    let cluster = Cluster::start(2, |server| server).await;
    let [first, second] = &cluster.servers[..] else { panic!("two servers") };
    let mut weir = WeirConfig::of_servers(&[first]).cluster("slow_start = \"0s\"").start().await;
    let mut clients = vec![];
    for _ in 0..10 {
        clients.push(connect(&weir).await);
    }
    weir.reconfigure(&table(first), &(table(first) + &table(second)));
    weir.reloads().await;
    let began = Instant::now();
    let mut new = 0;
    while weir.gauge(&sessions("n2")).await < 5.0 {
        clients.push(connect(&weir).await);
        new += 1;
        assert!(new < 500, "it gets none within {:?}", began.elapsed());
    }
    println!("n2 has five sessions after {new} new clients and {:?}", began.elapsed());
    weir.says("server added server=\"n2\"").await;
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
    // Another name and a cap below what it has.
    weir.reconfigure("name = \"n2\"", "name = \"second\"\nmax_connections = 1");
    let metrics = weir.reloads().await;
    assert!(metrics.get(&sessions("second")) >= Some(5.0) && metrics.get(&sessions("n2")).is_none());
    for _ in 0..5 {
        clients.push(connect(&weir).await);
    }
    weir.until("the other one is full", |metrics| metrics.get(&sessions("n1")) >= Some(15.0)).await;
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
    drop(clients);
}

/// What the clients of a removed server notice is a plain end of stream, and every library comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sessions_of_a_server_that_is_removed_move() {
    let cluster = Cluster::start(2, |server| server).await;
    let [first, second] = &cluster.servers[..] else { panic!("two servers") };
    let top = "workers = 2\nlame_duck_grace_period = \"0s\"\nlame_duck_duration = \"2s\"";
    let mut weir = WeirConfig::of_servers(&[first, second]).top(top).start().await;
    let mut raw = vec![];
    for _ in 0..10 {
        raw.push(connect(&weir).await);
    }
    let official = ConnectOptions::new().connection_timeout(PATIENCE).connect(weir.url()).await.unwrap();
    let mut inbox = official.subscribe("there").await.unwrap();
    official.flush().await.unwrap();
    weir.until("both have some", |metrics| metrics.get(&sessions("n1")).is_some_and(|n| n > 3.0)).await;

    weir.reconfigure(&table(first), "");
    weir.reloads().await;
    let leaves = async |mut client: RawClient| match client.end(PATIENCE).await {
        End::Eof => 1,
        other => panic!("{other:?}"),
    };
    weir.until("n1 has gone", |metrics| metrics.get(&sessions("n1")).is_none()).await;
    let on_second = |n: f64| move |metrics: &metrics::Metrics| metrics.get(&sessions("n2")) == Some(n);
    let (mut stayed, mut left) = (vec![], 0);
    for mut client in raw {
        match client.round_trip().await {
            Ok(()) => stayed.push(client),
            Err(_) => left += leaves(client).await,
        }
    }
    assert!(left > 3 && stayed.len() > 3, "{left} left, {} stayed", stayed.len());
    // The official client is there, wherever it was.
    let said = async || {
        official.publish("there", "and back".into()).await.map_err(|err| err.to_string())?;
        official.flush().await.map_err(|err| err.to_string())?;
        let got = tokio::time::timeout(std::time::Duration::from_secs(1), inbox.next()).await;
        got.ok().flatten().map(|_| ()).ok_or("no message".to_owned())
    };
    let mut said = said;
    eventually(PATIENCE, "the official client is back", async || said().await).await;
    weir.until("all that are there are on n2", on_second(stayed.len() as f64 + 1.0)).await;
    let servers: HashSet<_> = stayed.iter().map(|client| client.info["server_name"].to_string()).collect();
    assert!(servers.len() <= 1, "{servers:?}");

    // It comes back as another one.
    weir.reconfigure(&table(second), &(table(second) + &table(first)));
    weir.reloads().await;
    weir.sees(2).await;
    drop((stayed, official));
}
