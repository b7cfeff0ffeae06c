//! Which process a reading, an INFO or a connection belongs to: several servers are never taken for one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use weir_testkit::*;

/// A monitoring URL behind which the servers' monitoring ports answer in turn, request by request. Returns its address.
async fn in_turn(servers: &[&NatsServer]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let monitors: Vec<_> = servers.iter().map(|server| server.monitor.clone()).collect();
    tokio::spawn(async move {
        let next = AtomicUsize::new(0);
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            while matches!(stream.read(&mut request).await, Ok(1..)) {
                let monitor = &monitors[next.fetch_add(1, SeqCst) % monitors.len()];
                let Ok((_, body)) = http::get(monitor, "/varz").await else { break };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                if stream.write_all((head + &body).as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitoring_url_of_two_servers_is_told_once_and_their_readings_are_not_mixed() {
    let (one, other) = (ServerOptions::named("n1").max_connections(100), ServerOptions::named("n2").max_connections(5));
    let (one, other) = (NatsServer::start(one).await, NatsServer::start(other).await);
    let weir = WeirConfig::of_servers(&[&one]).with_monitor(&in_turn(&[&one, &other]).await).start().await;
    let told = "leads to another server";
    eventually(PATIENCE, told, async || if weir.log().contains(told) { Ok(()) } else { Err(weir.log()) }).await;
    let headroom = |metrics: &metrics::Metrics| metrics.sum("weir_server_headroom");
    let mut polls = Vec::new();
    for _ in 0..20 {
        polls.push(headroom(&weir.until("it is up", |metrics| metrics.sum("weir_server_up") == 1.0).await));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(polls.iter().all(|room| (90.0..=100.0).contains(room)), "readings of the other: {polls:?}");
    let log = weir.log();
    assert_eq!((log.matches("server has restarted").count(), log.matches(told).count()), (0, 1), "{log}");
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_monitoring_urls_are_told_and_nobody_is_refused_beside_an_empty_server() {
    let (full, empty) = (ServerOptions::named("full").max_connections(20), ServerOptions::named("empty"));
    let (full, empty) = (NatsServer::start(full).await, NatsServer::start(empty.max_connections(300)).await);
    let mut direct = Vec::new();
    for _ in 0..20 {
        direct.push(RawClient::connect(&full.address, &Login::nobody()).await);
    }
    let config = WeirConfig::of_servers(&[&full, &empty]).default_settings();
    let config = config.replacing(&full.monitor, "x").replacing(&empty.monitor, &full.monitor);
    let weir = config.replacing("\"http://x\"", &format!("\"http://{}\"", empty.monitor)).start_before(0).await;
    let told = "leads to another server";
    eventually(PATIENCE, told, async || match weir.log().matches(told).count() {
        2 => Ok(()),
        _ => Err(weir.log()),
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    empty.settles_at(50).await;
    let log = weir.log();
    assert!(!log.contains("nearly full") && log.matches(told).count() == 2, "{log}");
    drop((clients, direct));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_behind_which_servers_take_turns_is_used_without_readings() {
    let (one, other) = (ServerOptions::named("n1").max_connections(8), ServerOptions::named("n2").max_connections(8));
    let servers = [NatsServer::start(one).await, NatsServer::start(other).await];
    let address = balanced(&servers.each_ref().map(|server| server.address.clone())).await;
    let weir = WeirConfig::of_servers(&[&servers[0]])
        .replacing(&servers[0].address, &address)
        .with_monitor(&in_turn(&[&servers[0], &servers[1]]).await)
        .start_before(1)
        .await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    let told = "several servers answer in turn";
    eventually(PATIENCE, told, async || if weir.log().contains(told) { Ok(()) } else { Err(weir.log()) }).await;
    assert!(weir.log().matches("server has restarted").count() <= 2);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

/// An address behind which each connection goes to the server with the fewest, and to the next one of several such, as
/// behind a Service of Kubernetes or another balancer.
pub async fn balanced(addresses: &[String]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("an address").to_string();
    let servers: Vec<_> = addresses.iter().map(|address| (address.clone(), Arc::new(()))).collect();
    tokio::spawn(async move {
        let mut next = 0;
        while let Ok((mut near, _)) = listener.accept().await {
            next += 1;
            let in_turn = (0..servers.len()).map(|i| &servers[(next + i) % servers.len()]);
            let (to, connections) = in_turn.min_by_key(|(_, connections)| Arc::strong_count(connections)).expect("one");
            let (to, connection) = (to.clone(), connections.clone());
            tokio::spawn(async move {
                let _connection = connection;
                let mut far = TcpStream::connect(to).await?;
                copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    own
}
