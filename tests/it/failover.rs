//! Failover: a server dies, or fills up with clients that bypass weir, and weir's clients get in on the others.

use std::time::Duration;

use weir_testkit::{client::End, *};

const FULL: &str = "maximum connections exceeded";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_killed_server_are_back_on_the_others() {
    let mut cluster = Cluster::start(3, |server| server.max_connections(1000)).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let crowd = Crowd::start(&weir.address, 300, &Login::nobody(), Habit::NATS_GO);
    crowd.settles_at(300).await;
    let on_n2 = cluster.settles_at(300).await[1];
    assert!(on_n2 > 0);

    cluster.servers[1].kill9();
    weir.sees(2).await;
    eventually(PATIENCE, "its clients have lost it", async || {
        if crowd.lost() as u64 >= on_n2 { Ok(()) } else { Err(crowd.lost()) }
    })
    .await;
    crowd.settles_at(300).await;
    let shares = cluster.settles_at(300).await;
    assert_eq!(shares[1], 0);
    weir.agrees_with(&cluster).await;
    assert_eq!(crowd.lost() as u64, on_n2, "only its own clients lost their connection");

    cluster.servers[1].restart().await;
    weir.sees(3).await;
    crowd.end().await;
    cluster.settles_at(0).await;
    let next = Crowd::start(&weir.address, 30, &Login::nobody(), Habit::PATIENT);
    next.settles_at(30).await;
    assert_eq!(cluster.settles_at(30).await.iter().sum::<u64>(), 30);
    weir.agrees_with(&cluster).await;
    next.end().await;
    weir.assert_nothing_leaked().await;
}

async fn still_connected(clients: &mut [RawClient]) -> usize {
    let mut still = 0;
    for client in clients {
        still += usize::from(client.end(Duration::from_millis(1)).await == End::StillOpen);
    }
    still
}

/// When a server with many clients dies, weir closes those clients one after another, at the pace of admission. A
/// client that publishes meanwhile is closed at once, since its messages would be lost. The server's slots are free at
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_killed_server_are_not_let_go_in_one_moment() {
    let mut cluster = Cluster::start(2, |server| server).await;
    let weir = WeirConfig::of(&cluster)
        .cluster("close_spread = \"20s\"")
        .admission("rate = 1\nburst = 100\nmax_hold = \"19s\"")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    let on_n1 = cluster.settles_at(60).await[0] as usize;
    assert!((25..35).contains(&on_n1), "{on_n1}");
    cluster.servers[0].kill9();
    weir.until("its slots are free", |metrics| metrics.get("weir_sessions_active{server=\"n1\"}") == Some(0.0)).await;

    // weir closes eight at once and then one per second, so most of them are still connected.
    let still = eventually(PATIENCE, "some are let go", async || match still_connected(&mut clients).await {
        still if still <= 52 => Ok(still),
        still => Err(still),
    })
    .await;
    assert!(still > 60 - on_n1, "all of them at once");
    for client in &mut clients {
        let _ = client.send(b"PUB a 0\r\n\r\n").await;
    }
    eventually(PATIENCE, "whoever speaks is told at once", async || match still_connected(&mut clients).await {
        still if still == 60 - on_n1 => Ok(()),
        still => Err(still),
    })
    .await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_not_chosen() {
    let mut cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).cluster("reserve = 0").start().await;
    cluster.servers[0].kill9();

    // These come before weir can have noticed. weir's dial to the dead server fails, and weir dials another server
    // without the client seeing it.
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    weir.sees(2).await;
    let dialled = weir.metrics().await;
    for _ in 0..50 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    let shares = cluster.settles_at(100).await;
    assert_eq!(shares[0], 0);
    assert!(unevenness(&shares[1..]) <= 1.2, "{shares:?}");
    let admitted = |metrics: &metrics::Metrics| metrics.get("weir_admitted_total{server=\"n1\"}").unwrap_or(0.0);
    assert_eq!(admitted(&weir.metrics().await), admitted(&dialled), "nobody is admitted to a dead server");
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_filled_behind_weirs_back_is_left_unseen() {
    let max = |server: &ServerOptions| if server.name == "n1" { 20 } else { 2000 };
    let cluster = Cluster::start(2, |server| server.clone().max_connections(max(&server))).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let (n1, n2) = (&cluster.servers[0], &cluster.servers[1]);

    // Direct clients come and go on n1 while weir still trusts its last reading. weir's clients must not see n1's
    // refusals.
    // The case is that n1 is full and weir does not know it yet; on a slow machine weir may have read it in time.
    for round in 0..60 {
        if round >= 10 && n1.log_contains(FULL) {
            break;
        }
        let room =
            |metrics: &metrics::Metrics| metrics.get("weir_server_headroom{server=\"n1\"}").unwrap_or(0.0) > 10.0;
        weir.until("weir believes that n1 has room", room).await;
        let direct = Crowd::start(&n1.address, 20, &Login::nobody(), Habit::ONCE);
        direct.decided().await;
        let clients = at_once(40, |_| {
            let address = weir.address.clone();
            async move { RawClient::connect(&address, &Login::nobody()).await } // every client must get in
        })
        .await;
        assert!(n2.connections().await >= 20);
        direct.end().await;
        drop(clients);
        cluster.settles_at(0).await;
    }
    assert!(n1.log_contains(FULL), "the case did happen: n1 refused somebody");
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_at_all_is_said_politely_and_passes() {
    let mut cluster = Cluster::start(2, |server| server).await;
    for server in &mut cluster.servers {
        server.stop().await;
    }
    let weir = WeirConfig::of(&cluster)
        .admission("rate = 1000\nburst = 1000\nmax_hold = \"500ms\"\nrefusal_spread = \"200ms\"")
        .start_before(0)
        .await;
    assert_eq!(weir.health().await, 503);
    let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert!(matches!(&attempt, Attempt::Refused { text, info: Some(_), .. } if text == FULL), "{attempt:?}");

    let crowd = Crowd::start(&weir.address, 50, &Login::nobody(), Habit::NATS_GO);
    for server in &mut cluster.servers {
        server.restart().await;
    }
    crowd.settles_at(50).await;
    weir.sees(2).await;
    assert_eq!(weir.health().await, 200);
    weir.agrees_with(&cluster).await;
    crowd.end().await;
    cluster.settles_at(0).await;
}
