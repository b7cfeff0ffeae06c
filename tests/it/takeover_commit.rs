//! Takeovers of which one process dies, or stands still, in the middle: at each moment exactly one of both serves.

use std::time::Duration;

use futures::future::join_all;
use weir_testkit::{admin::AdminSocket, history::History, takeover::Between, *};

use crate::verbs::own_user;

/// Longer than the old process waits for an answer.
const LONGER_THAN_ANSWERS: Duration = Duration::from_secs(7);
const QUOTA: usize = 10;

/// weir with an admin socket, and a server whose account A has a quota.
async fn weir() -> (NatsServer, Weir, AdminSocket) {
    let options = ServerOptions::named("n1").with("accounts: { A: { users: [{user: a, password: p}] } }");
    let (server, admin) = (NatsServer::start(options).await, AdminSocket::default());
    let quota = format!("[accounts.A]\nusers = [\"a\"]\nmax_connections = {QUOTA}");
    let config = WeirConfig::of_servers(&[&server]).table(&quota).table(&admin.toml()).log_level("info");
    let weir = config.start().await;
    (server, weir, admin)
}

fn login() -> Login {
    Login::user("a", "p")
}

async fn connect(weir: &Weir, n: usize) -> Vec<RawClient> {
    let login = login();
    join_all((0..n).map(|_| RawClient::connect(&weir.address, &login))).await
}

/// All sessions go on.
async fn go_on(clients: &mut [RawClient]) {
    for client in clients {
        client.round_trip().await.expect("a session goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_process_serves_with_all_that_it_has_when_the_old_one_dies() {
    for message in ["serve", "remember"] {
        let (server, mut weir, admin) = weir().await;
        let mut clients = connect(&weir, 4).await;
        admin.does(&["pause"]).await;
        let waiting = {
            let (address, login) = (weir.address.clone(), login().name("waits"));
            tokio::spawn(async move { RawClient::attempt(&address, &login, PATIENCE).await })
        };
        weir.until("it waits", |metrics| metrics.sum("weir_held") == 1.0).await;
        let (mut between, new) = Between::start(&weir, &admin).await;
        let held = between.passes_until(message).await;
        weir.kill9();
        weir.replace(new);
        // It dies at this message of its own, which the new process does not get.
        drop((held, between));
        weir.serves().await;
        weir.says("the weir that was taken over from is gone").await;
        let status = admin.answers(&["status"]).await;
        assert_eq!(status["pid"], weir.pid(), "it answers at the admin socket");
        if message == "remember" {
            // It has heard nothing but that there are sockets.
            drop((waiting, clients));
            connect(&weir, 1).await;
            continue;
        }
        go_on(&mut clients).await;
        assert_eq!((&status["state"], &status["paused"]["by"]), (&"paused".into(), &own_user().into()), "{status}");
        admin.does(&["resume"]).await;
        clients.push(waiting.await.unwrap().expect_in());
        clients.extend(connect(&weir, QUOTA - 5).await);
        let refused = RawClient::attempt(&weir.address, &login(), PATIENCE).await;
        assert_eq!(refused.refusal(), Some("maximum account active connections exceeded"), "{refused:?}");
        go_on(&mut clients).await;
        weir.agrees_with_servers(&[&server]).await;
        drop(clients);
        weir.until("all are gone", |metrics| metrics.sum("weir_account_connections") == 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_serves_late_is_the_only_one() {
    for message in ["serve", "serving"] {
        let (server, mut weir, admin) = weir().await;
        let mut clients = connect(&weir, 4).await;
        let (mut between, new) = Between::start(&weir, &admin).await;
        let held = between.passes_until(message).await;
        tokio::time::sleep(LONGER_THAN_ANSWERS).await;
        between.pass(held).await;
        between.passes_all();
        // Several times as many as may be in, so that each process that serves has more than it may let in.
        let crowd =
            join_all((0..4 * QUOTA).map(|_| async { RawClient::attempt(&weir.address, &login(), PATIENCE).await }));
        let crowd = crowd.await;
        let history = History::of_servers([&server].into_iter(), "A").await;
        assert!(history.most() <= QUOTA as i64, "{message} came late: {} of {QUOTA} are in", history.most());
        let mut before = weir.is_replaced_by(new).await;
        go_on(&mut clients).await;
        assert!(before.wait(PATIENCE).await.success(), "it has given all: {}", before.log());
        assert!(before.log().contains("the new process does not serve yet"), "{}", before.log());
        drop((crowd, clients));
        weir.until("all are gone", |metrics| metrics.sum("weir_account_connections") == 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_dies_before_it_serves_is_replaced_by_the_old_one() {
    for message in ["serve", "serving"] {
        let (_server, weir, admin) = weir().await;
        let (mut between, mut new) = Between::start(&weir, &admin).await;
        let held = between.passes_until(message).await;
        new.kill();
        drop((held, between));
        weir.says("a takeover is off").await;
        go_on(&mut connect(&weir, QUOTA).await).await;
        let status = admin.answers(&["status"]).await;
        assert_eq!(status["pid"], weir.pid());
    }
}

/// Who breaks off ends in order, and removes what is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_takeover_that_is_off_the_old_process_has_the_admin_socket() {
    let (_server, mut weir, admin) = weir().await;
    let (mut between, mut new) = Between::start(&weir, &admin).await;
    let mut clients = connect(&weir, 2).await;
    let held = between.passes_until("counted").await;
    weir.says("a takeover is off").await;
    drop(held);
    between.passes_all();
    assert_eq!(new.wait(PATIENCE).await.code(), Some(1), "{}", new.log());
    assert!(new.log().contains("the running weir has broken off"), "{}", new.log());
    let status = admin.answers(&["status"]).await;
    assert_eq!(status["pid"], weir.pid());
    go_on(&mut clients).await;
    // The next one is whole, and the end of the process before leaves the file.
    assert!(weir.is_taken_over_whole().await.success());
    let status = admin.answers(&["status"]).await;
    assert_eq!(status["pid"], weir.pid());
    go_on(&mut clients).await;
    weir.signal(rustix::process::Signal::INT);
    weir.signal(rustix::process::Signal::INT);
    weir.wait(PATIENCE).await;
    assert!(!admin.path().exists(), "the last process removes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_paused_and_since_when_goes_along() {
    let (_server, mut weir, admin) = weir().await;
    admin.does(&["pause"]).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..2 {
        assert!(weir.is_taken_over_whole().await.success());
    }
    let status = admin.answers(&["status"]).await;
    assert_eq!((&status["state"], &status["paused"]["by"]), (&"paused".into(), &own_user().into()), "{status}");
    assert!(status["paused"]["seconds"].as_u64() >= Some(1), "{status}");
    let said = admin.does(&["pause"]).await;
    assert!(said.starts_with("paused already, for ") && said.contains(&own_user()), "{said}");
    let said = admin.does(&["resume"]).await;
    assert!(said.contains(&format!("by {}", own_user())), "{said}");
    connect(&weir, 1).await;
    assert!(weir.is_taken_over_whole().await.success());
    let status = admin.answers(&["status"]).await;
    assert_eq!((&status["state"], &status["paused"]), (&"serving".into(), &serde_json::Value::Null), "{status}");
}

/// While sessions go the old process has the admin socket still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_or_resumed_in_the_middle_of_a_takeover_is_so_afterwards() {
    let (_server, mut weir, admin) = weir().await;
    let mut clients = connect(&weir, 2).await;
    for (verb, state) in [("pause", "paused"), ("resume", "serving")] {
        let (mut between, new) = Between::start(&weir, &admin).await;
        let held = between.passes_until("counted").await;
        let said = admin.does(&[verb]).await;
        assert!(said.starts_with(&format!("{verb}d: ")), "{said}");
        between.pass(held).await;
        between.passes_all();
        assert!(weir.is_replaced_by(new).await.wait(PATIENCE).await.success());
        let status = admin.answers(&["status"]).await;
        assert_eq!(status["state"], state, "{status}");
    }
    go_on(&mut clients).await;
    connect(&weir, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_servers_that_others_have_named_go_along() {
    let mut cluster = Cluster::start(3, |options| options).await;
    let admin = AdminSocket::default();
    let config = WeirConfig::of_servers(&[&cluster.servers[0]]).cluster("discover_connect_urls = true");
    let mut weir = config.table(&admin.toml()).log_level("info").start_before(3).await;
    let mut clients = Vec::new();
    eventually(PATIENCE, "all servers have clients", async || {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
        let counts = cluster.connections().await;
        if counts.iter().all(|&n| n > 2) { Ok(()) } else { Err(counts) }
    })
    .await;
    // The only server of the configuration is gone, so that the new process hears of the others from the old one alone.
    cluster.servers[0].kill9();
    let mut others = Vec::new();
    for mut client in clients {
        if client.round_trip().await.is_ok() {
            others.push(client);
        }
    }
    weir.until("who was there is gone", |metrics| metrics.sum("weir_sessions_active") == others.len() as f64).await;
    assert!(weir.is_taken_over_whole().await.success());
    go_on(&mut others).await;
    weir.says(&format!("sessions={} stay=0", others.len())).await;
    others.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    cluster.servers[0].restart().await;
    weir.sees(3).await;
    weir.until("they are counted", |metrics| metrics.sum("weir_sessions_active") == others.len() as f64).await;
    // Another takeover, of the process that has them from another one.
    assert!(weir.is_taken_over_whole().await.success());
    go_on(&mut others).await;
    assert_eq!(weir.metrics().await.of("weir_server_up").count(), 3, "none is there twice");
}
