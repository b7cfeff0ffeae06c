//! `cluster.dial_ahead`: clients get in on connections that weir has dialled in advance, and no client loses anything
//! by it.

use std::{collections::HashSet, time::Duration};

use rustix::process::Signal;
use weir_testkit::client::End;
use weir_testkit::metrics::Metrics;
use weir_testkit::*;

const AHEAD: &str = "weir_ahead";

fn ended(metrics: &Metrics, outcome: &str) -> f64 {
    metrics.sum_where("weir_dialled_ahead_total", "outcome", outcome)
}

/// weir with one worker in front of these servers. With one worker each client can use the connection that weir dialled
/// when the client before it arrived.
fn config(cluster: &Cluster) -> WeirConfig {
    WeirConfig::of(cluster).top("workers = 1").cluster("dial_ahead = 4")
}

/// Connects clients one after the other, and keeps them, until `shown` accepts the metrics.
async fn until(weir: &Weir, login: &Login, what: &str, shown: impl Fn(&Metrics) -> bool) -> Vec<RawClient> {
    let mut clients = Vec::new();
    eventually(PATIENCE, what, async || {
        for _ in 0..4 {
            clients.push(RawClient::connect(&weir.address, login).await);
        }
        let now = weir.metrics().await;
        if shown(&now) { Ok(()) } else { Err(now.excerpt(&[AHEAD, "weir_dialled_ahead_total"])) }
    })
    .await;
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_get_in_on_them_and_none_is_left_when_nobody_comes() {
    let cluster = Cluster::start(2, |server| server).await;
    let weir = config(&cluster).start().await;
    assert_eq!(weir.gauge(AHEAD).await, 0.0);
    let mut clients = until(&weir, &Login::nobody(), "20 clients used one", |now| ended(now, "used") >= 20.0).await;

    // Each client has an upstream connection of its own and is told that connection's `client_id`.
    let mut told = HashSet::new();
    for (n, client) in clients.iter_mut().enumerate() {
        let info = client.info_after_pong().await;
        assert!(told.insert((info["server_id"].to_string(), info["client_id"].to_string())), "{info} came twice");
        let own = format!("own.{n}");
        client.subscribe(&own, 1).await.expect("SUB");
        client.publish(&own, b"hello").await.expect("PUB");
        assert_eq!(client.next_msg().await, (own, b"hello".to_vec()));
    }

    // No more clients come, so weir closes the unused connections. The clients stay.
    weir.until("none waits", |now| now.sum("weir_server_connections") == clients.len() as f64).await;
    assert_eq!(cluster.settles_at(clients.len() as u64).await.len(), 2);
    assert_eq!(weir.gauge(AHEAD).await, 0.0);
    drop(clients);
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_over_and_every_slot_filled() {
    let cluster = Cluster::start(3, |server| server.max_connections(100)).await;
    let weir = WeirConfig::of(&cluster).cluster("reserve = 5\ndial_ahead = 16").start().await;
    let mut clients = until(&weir, &Login::nobody(), "some were used", |now| ended(now, "used") >= 10.0).await;
    let n = clients.len();

    let fleet = Fleet::start(&weir.address, 600, &Login::nobody(), Habit::NATS_GO);
    fleet.settles_at(285 - n).await;
    assert_eq!(cluster.settles_at(285).await, [95, 95, 95]);
    weir.until("none waits", |now| now.sum(AHEAD) == 0.0).await;

    // As many waiting clients get in as have left.
    for client in clients.drain(..) {
        drop(client);
    }
    fleet.settles_at(285).await;
    assert_eq!((fleet.most_connected(), fleet.lost()), (285, 0));
    assert_eq!(cluster.settles_at(285).await, [95, 95, 95]);
    assert!(!cluster.log_contains("maximum connections exceeded"), "no server ever had to refuse");
    fleet.end().await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_while_they_wait_costs_no_client_anything() {
    let mut cluster = Cluster::start(2, |server| server).await;
    let weir = config(&cluster).start().await;
    for _ in 0..2 {
        let there = |now: &Metrics| now.sum_where(AHEAD, "server", "n1") >= 1.0;
        let clients = until(&weir, &Login::nobody(), "one waits for n1's next client", there).await;
        cluster.servers[0].kill9();
        for _ in 0..8 {
            RawClient::connect(&weir.address, &Login::nobody()).await;
        }
        drop(clients);
        cluster.servers[0].restart().await;
        weir.sees(2).await;
    }
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_while_they_wait_leaves_its_clients_to_the_other() {
    let mut cluster = Cluster::start(2, |server| server).await;
    let weir = config(&cluster).start().await;
    let there = |now: &Metrics| now.sum_where(AHEAD, "server", "n1") >= 1.0;
    let clients = until(&weir, &Login::nobody(), "one waits for n1's next client", there).await;
    cluster.servers[0].signal(Signal::STOP);
    let late = at_once(8, |_| {
        let address = weir.address.clone();
        async move { RawClient::connect(&address, &Login::nobody()).await }
    });
    for mut client in late.await {
        assert_eq!(client.info_after_pong().await["server_name"], "n2");
    }
    cluster.servers[0].signal(Signal::CONT);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_meets_the_end_of_a_short_auth_timer() {
    let users = "authorization { user: u, password: p, timeout: 1.0 }";
    let cluster = Cluster::start(1, |server| server.with(users)).await;
    let weir = config(&cluster).start().await;
    let login = Login::user("u", "p");
    drop(until(&weir, &login, "some were used", |now| ended(now, "used") >= 3.0).await);
    // The pauses vary, so that clients use connections of every age.
    let mut last = None;
    for pause in (0..30).map(|n| Duration::from_millis(n * 29 % 400)) {
        last = Some(RawClient::connect(&weir.address, &login).await);
        tokio::time::sleep(pause).await;
    }
    drop(last);
    weir.until("none waits", |now| now.sum(AHEAD) == 0.0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_logins_and_quotas_are_what_they_are_without() {
    let users = "authorization { users: [{user: u, password: p}] }";
    let cluster = Cluster::start(1, |server| server.with(users)).await;
    let weir = config(&cluster).account("default", "max_connections = 30").start().await;
    let login = Login::user("u", "p");
    let mut clients = until(&weir, &login, "some were used", |now| ended(now, "used") >= 3.0).await;
    while clients.len() < 30 {
        clients.push(RawClient::connect(&weir.address, &login).await);
    }
    let attempt = RawClient::attempt(&weir.address, &login, PATIENCE).await;
    assert_eq!(attempt.refusal(), Some("maximum account active connections exceeded"));
    drop(clients.pop());
    cluster.settles_at(29).await;
    let wrong = Login::user("u", "no").lang("python3");
    let attempt = RawClient::attempt(&weir.address, &wrong, PATIENCE).await;
    assert!(
        matches!(&attempt, Attempt::Refused { text, end: End::Eof, .. } if text == "Authorization Violation"),
        "{attempt:?}"
    );
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_go_before_a_lame_duck_and_before_weir_itself() {
    let mut cluster = Cluster::start(2, |server| server).await;
    let top = "workers = 1\nlame_duck_grace_period = \"300s\"\nlame_duck_duration = \"600s\"";
    let mut weir = config(&cluster).top(top).start().await;
    let there = |server: &'static str| move |now: &Metrics| now.sum_where(AHEAD, "server", server) >= 1.0;
    let mut clients = until(&weir, &Login::nobody(), "one waits for n1's next client", there("n1")).await;
    cluster.servers[0].signal(Signal::USR2);
    weir.until("n1 is not used any more", |now| now.sum("weir_server_up") == 1.0).await;
    weir.until("none waits for its clients", |now| now.sum_where(AHEAD, "server", "n1") == 0.0).await;

    clients.extend(until(&weir, &Login::nobody(), "one waits for n2's next client", there("n2")).await);
    weir.signal(Signal::TERM);
    cluster.servers[1].settles_at(weir.gauge("weir_sessions_active{server=\"n2\"}").await as u64).await;
    drop(clients);
    assert!(weir.wait(PATIENCE).await.success(), "exit code 0");
    cluster.servers[1].settles_at(0).await;
}
