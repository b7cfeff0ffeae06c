//! Account quotas are exact: weir never admits one client too many, and every kind of end gives the slot back.

use weir_testkit::client::End;
use weir_testkit::*;

const QUOTA: &str = "maximum account active connections exceeded";
const ACCOUNTS: &str = "accounts { ORDERS { users: [{user: orders-1, password: secret}] }, REST { users: [{user: rest, password: secret}] } }";

fn orders() -> Login {
    Login::user("orders-1", "secret")
}

fn config(cluster: &Cluster, max: usize) -> WeirConfig {
    WeirConfig::of(cluster).account("ORDERS", &format!("users = [\"orders-*\"]\nmax_connections = {max}"))
}

/// Makes `n` attempts at the same time and returns the admitted clients. All others must be refused for the quota, with
/// INFO, the text and a FIN.
async fn attempts(weir: &Weir, n: usize) -> Vec<RawClient> {
    let all = at_once(n, |_| {
        let address = weir.address.clone();
        async move { RawClient::attempt(&address, &orders(), 2 * PATIENCE).await }
    })
    .await;
    let mut clients = Vec::new();
    for attempt in all {
        match attempt {
            Attempt::In(client) => clients.push(client),
            Attempt::Refused { text, info: Some(_), end: End::Eof } if text == QUOTA => {}
            other => panic!("neither in nor refused politely for the quota: {other:?}"),
        }
    }
    clients
}

async fn holds(weir: &Weir, cluster: &Cluster, n: u64) {
    let what = format!("weir and the servers count {n} in ORDERS");
    eventually(PATIENCE, &what, async || {
        let seen = (
            weir.gauge("weir_account_connections{account=\"ORDERS\"}").await,
            cluster.account_connections("ORDERS").await,
        );
        if seen == (n as f64, n) { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_attempts_on_a_quota_of_100() {
    let cluster = Cluster::start(3, |server| server.max_connections(1000).with(ACCOUNTS)).await;
    let weir = config(&cluster, 100).start().await;

    let mut clients = attempts(&weir, 2000).await;
    assert_eq!(clients.len(), 100, "exactly the quota");
    holds(&weir, &cluster, 100).await;
    let refused = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "account_quota");
    weir.until("all others are counted as refused for the quota", |metrics| refused(metrics) == 1900.0).await;

    clients.drain(..50).for_each(RawClient::abandon);
    holds(&weir, &cluster, 50).await;
    let more = attempts(&weir, 2000).await;
    assert_eq!(more.len(), 50, "exactly the slots given back");
    holds(&weir, &cluster, 100).await;

    // The quota does not touch another account.
    let other = RawClient::connect(&weir.address, &Login::user("rest", "secret")).await;
    drop((clients, more, other));
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_end_gives_the_slot_back() {
    let mut cluster = Cluster::start(3, |server| server.with(ACCOUNTS)).await;
    let weir = config(&cluster, 10).start().await;

    for kind in ["close", "reset", "half-close", "second CONNECT", "garbage", "death of the servers"] {
        let mut clients = attempts(&weir, 30).await;
        assert_eq!(clients.len(), 10, "before {kind}");
        holds(&weir, &cluster, 10).await;
        match kind {
            "close" => clients.clear(),
            "reset" => clients.drain(..).for_each(RawClient::abandon),
            "half-close" => {
                for client in &mut clients {
                    client.shut_writing().await.unwrap();
                    assert_ne!(client.end(PATIENCE).await, End::StillOpen, "{kind}");
                }
            }
            "second CONNECT" => {
                for client in &mut clients {
                    let other = Login::user("orders-1", "another");
                    client.send(other.connect_line().as_bytes()).await.unwrap();
                    assert_ne!(client.end(PATIENCE).await, End::StillOpen, "{kind}");
                }
            }
            "garbage" => {
                for client in &mut clients {
                    client.send(b"GARBAGE after PONG\r\n").await.unwrap();
                    assert_ne!(client.end(PATIENCE).await, End::StillOpen, "{kind}");
                }
            }
            _ => {
                cluster.servers.iter_mut().for_each(NatsServer::kill9);
                for client in &mut clients {
                    assert_ne!(client.end(PATIENCE).await, End::StillOpen, "{kind}");
                }
                weir.sees(0).await;
                for server in &mut cluster.servers {
                    server.restart().await;
                }
                weir.sees(3).await;
            }
        }
        holds(&weir, &cluster, 0).await;
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_never_get_in_give_the_slot_back() {
    let cluster = Cluster::start(3, |server| server.with(ACCOUNTS)).await;
    let weir = config(&cluster, 50).start().await;
    for _ in 0..3 {
        for _ in 0..10 {
            let wrong = RawClient::attempt(&weir.address, &Login::user("orders-1", "wrong"), PATIENCE).await;
            assert_eq!(wrong.refusal(), Some("Authorization Violation"), "{wrong:?}");
            let mut gone = RawClient::greeted(&weir.address).await.unwrap();
            gone.send(orders().connect_line().as_bytes()).await.unwrap(); // no PING after CONNECT, so no PONG comes
            gone.abandon();
        }
        holds(&weir, &cluster, 0).await;
        let clients = attempts(&weir, 100).await;
        assert_eq!(clients.len(), 50);
        drop(clients);
        holds(&weir, &cluster, 0).await;
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_while_clients_come_and_go() {
    let cluster = Cluster::start(3, |server| server.with(ACCOUNTS)).await;
    let weir = config(&cluster, 50).start().await;
    let eager = Habit { retry: Some(std::time::Duration::from_millis(200)), ..Habit::PATIENT };

    let mut here = Crowd::start(&weir.address, 120, &orders(), eager);
    here.settles_at(50).await;
    for _ in 0..5 {
        let next = Crowd::start(&weir.address, 120, &orders(), eager);
        here.end().await; // 50 clients leave while 120 others try to connect
        next.settles_at(50).await;
        holds(&weir, &cluster, 50).await;
        assert_eq!((next.most_connected(), next.lost()), (50, 0), "never one too many, and nobody thrown out");
        here = next;
    }
    here.end().await;
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}
