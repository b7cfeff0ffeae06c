//! Sessions that are to go to another server while theirs works, and stay: nobody notices that it was tried.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};
use weir_testkit::{admin::AdminSocket, client::Op, *};

use crate::{moves::moved, planned_moves::subscriptions, rehome::REHOME};

/// Two servers, weir, and a client with this subscription. Returns the positions of its server and of the other one.
async fn one_client(sub: &str) -> (Cluster, AdminSocket, Weir, RawClient, (usize, usize)) {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.info_after_pong().await;
    client.send(sub.as_bytes()).await.unwrap();
    client.round_trip().await.unwrap();
    let from = usize::from(cluster.settles_at(1).await[1] == 1);
    (cluster, admin, weir, client, (from, 1 - from))
}

async fn until_servers_have(cluster: &Cluster, expected: usize) {
    let what = format!("{expected} subscriptions");
    eventually(PATIENCE, &what, async || match subscriptions(cluster).await {
        all if all.len() == expected => Ok(()),
        all => Err(format!("{all:?}")),
    })
    .await;
}

/// Both servers give messages to a member of a queue group while it is tried, and nobody else gets those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_of_a_queue_group_that_stays_has_all_messages() {
    let (cluster, admin, weir, mut client, (from, to)) = one_client("SUB jobs workers 1\r\n").await;
    let mut publisher = RawClient::connect(&cluster.servers[to].address, &Login::nobody()).await;
    let payload = |n: u64| format!("{n} {}", "x".repeat(8_000));
    // Far more than the buffers on the way hold.
    let mut sent = 0;
    while sent < 3_000 {
        publisher.publish("jobs", payload(sent).as_bytes()).await.unwrap();
        sent += 1;
    }
    publisher.round_trip().await.unwrap();
    let is_slow = Arc::new(AtomicBool::new(true));
    let slow = Arc::clone(&is_slow);
    let (done, mut is_done) = tokio::sync::oneshot::channel::<u64>();
    let reads = tokio::spawn(async move {
        let (mut had, mut all) = (Vec::new(), None);
        while all.is_none_or(|all| (had.len() as u64) < all) {
            if let Ok(n) = is_done.try_recv() {
                all = Some(n);
            }
            match timeout(Duration::from_secs(10), client.next()).await {
                Ok(Ok(Some(Op::Msg { payload, .. }))) => {
                    let text = String::from_utf8(payload).unwrap();
                    had.push(text.split(' ').next().unwrap().parse::<u64>().unwrap());
                }
                Ok(Ok(Some(Op::Ping))) => client.send(b"PONG\r\n").await.unwrap(),
                Ok(Ok(Some(_))) => {}
                Err(_) if all.is_some() => break,
                Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
            if slow.load(Relaxed) {
                sleep(Duration::from_millis(50)).await;
            }
        }
        (client, had)
    });
    admin.does(&["drain", &cluster.servers[from].name]).await;
    until_servers_have(&cluster, 2).await;
    // It is too slow to be moved, and the other server gives it messages meanwhile.
    while subscriptions(&cluster).await.len() == 2 {
        publisher.publish("jobs", payload(sent).as_bytes()).await.unwrap();
        sent += 1;
        sleep(Duration::from_millis(10)).await;
    }
    admin.does(&["undrain", &cluster.servers[from].name]).await;
    is_slow.store(false, Relaxed);
    publisher.round_trip().await.unwrap();
    done.send(sent).expect("it still reads");
    let (client, had) = reads.await.unwrap();
    let distinct: BTreeSet<_> = had.iter().collect();
    assert_eq!((had.len() as u64, distinct.len() as u64), (sent, sent), "messages had, different ones");
    weir.until("it has stayed", |metrics| moved(metrics, "drain", "stayed") >= 1.0).await;
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// It has two minutes to take what the new server has given it, and the drain has 12 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_of_a_server_does_not_wait_for_a_member_of_a_queue_group_that_takes_nothing() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let top = "lame_duck_grace_period = \"0s\"\nlame_duck_duration = \"12s\"";
    let weir = WeirConfig::of(&cluster).top(top).account("default", REHOME).table(&admin.toml()).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.subscribe("jobs", 1).await.unwrap();
    client.send(b"SUB jobs workers 2\r\n").await.unwrap();
    client.round_trip().await.unwrap();
    let from = usize::from(cluster.settles_at(1).await[1] == 1);
    let mut publisher = RawClient::connect(&cluster.servers[1 - from].address, &Login::nobody()).await;
    // More than the buffers on the way hold.
    for _ in 0..3_000 {
        publisher.publish("jobs", &[b'x'; 8_000]).await.unwrap();
    }
    publisher.round_trip().await.unwrap();
    let name = &cluster.servers[from].name;
    admin.does(&["drain", name]).await;
    weir.until("it has left", |metrics| {
        metrics.get(&format!("weir_sessions_active{{server=\"{name}\"}}")) == Some(0.0)
    })
    .await;
    drop(client);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_read_while_the_new_server_stands_still() {
    let (mut cluster, admin, weir, mut client, (from, to)) = one_client("SUB here 1\r\n").await;
    admin.does(&["drain", &cluster.servers[from].name]).await;
    until_servers_have(&cluster, 2).await;
    cluster.servers[to].signal(Signal::STOP);
    let mut answered = Vec::new();
    let mut looked = Instant::now();
    let stayed = loop {
        client.round_trip().await.unwrap();
        answered.push(Instant::now());
        sleep(Duration::from_millis(20)).await;
        if looked.elapsed() > Duration::from_millis(200) {
            looked = Instant::now();
            if moved(&weir.metrics().await, "drain", "stayed") > 0.0 {
                break looked;
            }
        }
    };
    cluster.servers[to].signal(Signal::CONT);
    admin.does(&["undrain", &cluster.servers[from].name]).await;
    // It is given up 8 s after it began. weir read nothing of the client in the last 5 of them.
    let late = answered.iter().filter(|at| **at + Duration::from_secs(4) > stayed).count();
    assert!(late > 5, "{late} of {} answers", answered.len());
    drop(client);
    weir.assert_nothing_leaked().await;
}
