//! Takeovers with all kinds of sessions and clients, and in the middle of a storm.

use std::time::{Duration, Instant};

use futures::future::join_all;
use nkeys::KeyPair;
use tokio::task::JoinSet;
use weir_testkit::{
    admin::AdminSocket,
    history::History,
    tls::{Authority, TlsClient, pair},
    *,
};

use crate::{
    rehome::{REHOME, gets},
    slow_server::PASSWORD,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehomable_session_goes_on_with_another_server_afterwards() {
    let mut cluster = Cluster::start(3, |server| server).await;
    let admin = AdminSocket::default();
    let mut weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.send(b"SUB orders.> 1\r\nSUB few 3\r\nUNSUB 3 5\r\nSUB gone 4\r\nUNSUB 4\r\n").await.unwrap();
    for n in 0..2 {
        client.publish("few", format!("{n}").as_bytes()).await.unwrap();
    }
    assert_eq!(gets(&mut client).await, ["few 0", "few 1"]);
    assert!(weir.is_taken_over_whole().await.success());
    client.publish("few", b"2").await.unwrap();
    assert_eq!(gets(&mut client).await, ["few 2"]);
    let counts = cluster.settles_at(1).await;
    let lost = counts.iter().position(|n| *n == 1).expect("a server with the client");
    cluster.servers[lost].kill9();
    weir.until("it is re-homed", |metrics| crate::moves::moved(metrics, "server_lost", "rehomed") == 1.0).await;
    for n in 3..8 {
        client.publish("few", format!("{n}").as_bytes()).await.unwrap();
    }
    for subject in ["orders.eu", "gone"] {
        client.publish(subject, b"x").await.unwrap();
    }
    assert_eq!(gets(&mut client).await, ["few 3", "few 4", "orders.eu x"]);
    drop(client);
    weir.until("all are gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_of_a_server_goes_on_in_the_new_process() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let top = "lame_duck_grace_period = \"0s\"\nlame_duck_duration = \"20s\"";
    let mut weir = WeirConfig::of(&cluster).top(top).table(&admin.toml()).start().await;
    let login = Login::nobody();
    let clients = join_all((0..20).map(|_| RawClient::connect(&weir.address, &login))).await;
    cluster.settles_at(20).await;
    admin.does(&["drain", "n1"]).await;
    assert!(weir.is_taken_over_whole().await.success());
    let metrics = weir.metrics().await;
    assert!(metrics.get("weir_sessions_active{server=\"n1\"}") > Some(0.0), "it has only begun");
    weir.until("n1 is empty", |metrics| metrics.get("weir_sessions_active{server=\"n1\"}") == Some(0.0)).await;
    weir.says("server is drained: no sessions left").await;
    drop(clients);
    weir.until("all are gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_that_weir_ends_is_drained_and_counts_until_it_ends() {
    let authority = Authority::new("weir tests");
    let server = NatsServer::start(ServerOptions::named("n1")).await;
    let own = authority.issue("weir", &["localhost", "127.0.0.1"]);
    let admin = AdminSocket::default();
    let second = format!("[[listeners]]\nlisten = \"127.0.0.1:0\"\n[listeners.tls]\n{}", pair(&own));
    let config =
        WeirConfig::of_servers(&[&server]).default_settings().account("\"$G\"", "users = []\nmax_connections = 3");
    let mut weir = config.table(&second).table(&admin.toml()).start().await;
    let mut plain = RawClient::connect(&weir.address, &Login::nobody()).await;
    let at = weir.other_listeners[0].clone();
    let mut secret = TlsClient::connect(&at, "localhost", false, authority.client(None)).await.unwrap();
    assert_eq!(secret.enter().await.unwrap(), "PONG\r\n");
    let mut before = weir.is_taken_over().await;
    weir.says("stay=1").await;
    plain.round_trip().await.expect("the plain session has gone");
    // It is drained: its client hears so, and the process ends.
    while secret.line().await.is_ok_and(|line| !line.is_empty()) {}
    assert!(before.wait(PATIENCE).await.success(), "nothing is left");
    weir.says("the weir that was taken over from is gone").await;
    weir.until("it counts no more", |metrics| metrics.sum("weir_account_connections") == 1.0).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await.expect_in());
    }
    let refused = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert_eq!(refused.refusal(), Some("maximum account active connections exceeded"), "{refused:?}");
    drop((plain, others));
    weir.until("all are gone", |metrics| metrics.sum("weir_account_connections") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_that_its_server_ends_goes_along() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("server", &["localhost", "127.0.0.1"]);
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30 }}", own.cert, own.key);
    let server = NatsServer::start(ServerOptions::named("n1").with(&tls)).await;
    let admin = AdminSocket::default();
    let listener =
        "kind = \"passthrough\"\nhandshake_timeout = \"30s\"\n[listeners.passthrough]\nhandshake_first = false";
    let mut weir = WeirConfig::of_servers(&[&server]).listener(listener).table(&admin.toml()).start().await;
    let mut client = TlsClient::connect(&weir.address, "localhost", false, authority.client(None)).await.unwrap();
    assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
    client.line().await.unwrap();
    weir.until("the login is over", |metrics| metrics.sum("weir_admitted_total") == 1.0).await;
    assert!(weir.is_taken_over_whole().await.success());
    client.say("PING\r\n").await.unwrap();
    assert_eq!(client.line().await.unwrap(), "PONG\r\n");
    drop(client);
    weir.until("all are gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_wait_for_a_nonce_go_along() {
    let key = KeyPair::new_user();
    let accounts = format!("authorization: {{ users: [{{nkey: {}}}] }}", key.public_key());
    let server = NatsServer::start(ServerOptions::named("n1").with(&accounts)).await;
    let admin = AdminSocket::default();
    let mut weir = WeirConfig::of_servers(&[&server]).table(&admin.toml()).start().await;
    admin.does(&["pause"]).await;
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let (address, login) = (weir.address.clone(), Login::nkey(&key));
        waiting.spawn(async move { RawClient::attempt(&address, &login, PATIENCE).await.expect_in() });
    }
    weir.until("they wait", |metrics| metrics.sum("weir_held") == 4.0).await;
    assert!(weir.is_taken_over_whole().await.success());
    weir.until("they wait there", |metrics| metrics.sum("weir_held") == 4.0).await;
    admin.does(&["resume"]).await;
    for mut client in waiting.join_all().await {
        client.round_trip().await.expect("it is in");
    }
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_slow_logins_all_get_in_and_no_quota_is_exceeded() {
    const CLIENTS: usize = 150;
    const QUOTA: usize = 100;
    let accounts = format!(
        "accounts: {{ ORDERS: {{ users: [{{user: o, password: {PASSWORD:?}}}] }}, SYS: {{ users: [{{user: s, password: s}}] }} }}\n\
         system_account: SYS"
    );
    let server = NatsServer::start(ServerOptions::named("n1").with(&accounts)).await;
    let admin = AdminSocket::default();
    let config = WeirConfig::of_servers(&[&server]);
    let config = config.account("ORDERS", &format!("users = [\"o\"]\nmax_connections = {QUOTA}"));
    let mut weir = config.table(&admin.toml()).start().await;
    let login = Login::user("o", "p").lang("test");
    let began = Instant::now();
    let crowd = Crowd::start_each(&weir.address, CLIENTS, Habit::NATS_GO, |n| login.clone().name(&n.to_string()));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let mut before = weir.is_taken_over().await;
        assert!(before.wait(PATIENCE).await.success());
    }
    crowd.settles_at(QUOTA).await;
    say(&format!("a storm of {CLIENTS} onto {QUOTA} places with three takeovers: {:?}", began.elapsed()));
    assert_eq!(crowd.lost(), 0, "nobody who was in has been closed: {:?}", crowd.ends());
    let history = History::of_servers([&server].into_iter(), "ORDERS").await;
    assert!(history.most() <= QUOTA as i64, "{} of {QUOTA} at once", history.most());
    crowd.end().await;
    weir.until("all are gone", |metrics| metrics.sum("weir_account_connections") == 0.0).await;
}
