//! Observe mode: whatever weir would do, nobody is held or refused but by the servers, and what weir would have done is
//! counted and told.

use nkeys::KeyPair;
use rustix::process::Signal;
use serde_json::Value;
use weir_testkit::*;

const OBSERVE: &str = "mode = \"observe\"";

/// Nobody has been held or refused by weir.
fn is_open(metrics: &metrics::Metrics) {
    assert_eq!(metrics.sum("weir_refused_total"), 0.0);
    assert_eq!(metrics.sum("weir_hold_seconds_count"), 0.0);
    assert_eq!(metrics.sum("weir_observing"), 1.0);
}

fn would(metrics: &metrics::Metrics, what: &str, reason: &str) -> f64 {
    metrics.sum_where(&format!("weir_would_{what}_total"), "reason", reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_reported_and_not_enforced() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server])
        .admission(&format!("{OBSERVE}\n[admission.per_source]\nmax_connections = 8"))
        .account("\"$G\"", "max_connections = 3")
        .table("[names.\"batch\"]\nmax_connections = 1")
        .log_level("info")
        .start()
        .await;
    let (plain, batch) = (Login::nobody(), Login::nobody().name("batch"));
    let mut clients = Vec::new();
    for login in [&batch, &batch, &plain, &plain, &plain, &plain] {
        let mut client = RawClient::connect(&weir.address, login).await;
        client.round_trip().await.unwrap(); // weir has seen the server's INFO, which names the account
        clients.push(client);
    }
    let metrics = weir.metrics().await;
    is_open(&metrics);
    // The second of the name takes no place of its account: two more are within its quota.
    assert_eq!((would(&metrics, "refuse", "name_quota"), would(&metrics, "refuse", "account_quota")), (1.0, 2.0));
    assert_eq!(metrics.get("weir_account_connections{account=\"$G\"}"), Some(6.0), "all are connections all the same");
    // Those who would have been refused count for no source either.
    for _ in 0..6 {
        let mut client = RawClient::connect(&weir.address, &plain).await;
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    let metrics = weir.metrics().await;
    is_open(&metrics);
    assert_eq!(would(&metrics, "refuse", "source_quota"), 0.0);
    assert_eq!(would(&metrics, "refuse", "account_quota"), 8.0);
    let told = |log: &str| log.lines().any(|line| line.contains("observing: ") && line.contains("accounts=\"$G "));
    eventually(PATIENCE, "the log tells", async || if told(&weir.log()) { Ok(()) } else { Err(weir.log()) }).await;
    weir.says("admission.mode: weir holds and refuses nobody").await;
    // One that leaves makes room for one within the quota.
    drop(clients.drain(2..3));
    weir.until("it has left", |metrics| metrics.sum("weir_account_connections") == 11.0).await;
    clients.push(RawClient::connect(&weir.address, &plain).await);
    assert_eq!(would(&weir.metrics().await, "refuse", "account_quota"), 8.0);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_servers_answer_for_themselves() {
    let cluster = Cluster::start(2, |server| server.with("max_connections: 5")).await;
    let weir = WeirConfig::of(&cluster).default_settings().cluster("reserve = 1").admission(OBSERVE).start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    weir.agrees_with(&cluster).await;
    let metrics = weir.metrics().await;
    is_open(&metrics);
    assert_eq!(would(&metrics, "hold", "server_capacity"), 2.0, "the reserve of each");
    for _ in 0..3 {
        let refused = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
        assert_eq!(refused.refusal(), Some("maximum connections exceeded"));
    }
    let by_servers =
        |metrics: &metrics::Metrics| metrics.sum_where("weir_closed_total", "reason", "server_error") == 3.0;
    let metrics = weir.until("they are counted as the servers' refusals", by_servers).await;
    is_open(&metrics);
    // A server that dies lets its clients go at once, and they get in on the other as far as that has room.
    drop(clients.split_off(3));
    weir.until("they have left", |metrics| metrics.sum("weir_sessions_active") == 3.0).await;
    clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pace_holds_nobody_and_a_storm_says_what_it_would_have_done() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let config = WeirConfig::of_servers(&[&server]).default_settings();
    let weir = config.admission(&format!("{OBSERVE}\nrate = 1\nburst = 1")).start().await;
    let clients = at_once(40, |_| {
        let address = weir.address.clone();
        async move { RawClient::connect(&address, &Login::nobody()).await }
    })
    .await;
    let metrics = weir.metrics().await;
    is_open(&metrics);
    let (held, in_vain) = (would(&metrics, "hold", "hold_expired"), would(&metrics, "refuse", "hold_expired"));
    assert!(held >= 1.0 && in_vain >= 30.0 && held + in_vain <= 40.0, "{held} {in_vain}");
    let storm = eventually(PATIENCE, "it is a storm", async || {
        let (_, body) = http::get(&weir.monitor, "/storms").await.unwrap();
        let report: Value = serde_json::from_str(&body).unwrap();
        let one = if report["running"].is_null() { report["storms"][0].clone() } else { report["running"].clone() };
        if one["would_refuse"].as_u64() >= Some(30) { Ok(one) } else { Err(body) }
    })
    .await;
    assert_eq!((storm["held"].as_u64(), storm["refused"].as_array().map(Vec::len)), (Some(0), Some(0)), "{storm}");
    drop(clients);
    weir.assert_nothing_leaked().await;
}

/// Where servers send a nonce they are dialled before CONNECT, and the account is asked later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_sign_are_observed_too() {
    let user = KeyPair::new_user();
    let accounts = format!("accounts {{ A {{ users: [{{ nkey: {} }}] }} }}", user.public_key());
    let server = NatsServer::start(ServerOptions::default().with(&accounts)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .admission(OBSERVE)
        .account("A", &format!("users = [{:?}]\nmax_connections = 1\nmax_handshakes = 1", user.public_key()))
        .start()
        .await;
    let login = Login::nkey(&user);
    let clients = at_once(6, |_| {
        let (address, login) = (weir.address.clone(), login.clone());
        async move { RawClient::connect(&address, &login).await }
    })
    .await;
    let metrics = weir.metrics().await;
    is_open(&metrics);
    assert_eq!(would(&metrics, "refuse", "account_quota"), 5.0);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_ends_the_trial_and_nobody_is_disconnected() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let dir = tempfile::TempDir::with_prefix("weir-test-").unwrap();
    let path = dir.path().join("weir.toml");
    let toml = WeirConfig::of_servers(&[&server]).admission(OBSERVE).account("\"$G\"", "max_connections = 1");
    let toml = toml.toml(&dir.path().join("ports.json").display().to_string());
    let mut weir = Weir::spawn(&toml, dir).await;
    let mut clients = [
        RawClient::connect(&weir.address, &Login::nobody()).await,
        RawClient::connect(&weir.address, &Login::nobody()).await,
    ];
    std::fs::write(&path, toml.replace(OBSERVE, "")).unwrap();
    weir.signal(Signal::HUP);
    weir.until("it enforces", |metrics| metrics.sum("weir_observing") == 0.0).await;
    let refused = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert_eq!(refused.refusal(), Some("maximum account active connections exceeded"));
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
}
