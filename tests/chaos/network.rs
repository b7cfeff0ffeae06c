//! What is between weir, its servers and its clients breaks: ways that are silent, lose packets, or lead to machines
//! that have vanished. In a network namespace of the test, since loopback loses nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use weir_testkit::{
    network::{self, Link, Node},
    *,
};

use crate::scene::{EAGER, LONGEST, ORDERS, QUOTA, REST, Scene, all_come, nothing, rest};

/// The ways of weir, each to be cut by itself.
pub struct Ways {
    /// From clients to weir; its endpoints are there too.
    pub clients: Arc<Link>,
    /// To the client port of each server.
    pub servers: Vec<Link>,
    /// To the monitoring port of each server.
    pub monitors: Vec<Link>,
}

/// Servers, weir and clients with a link on each way between them.
pub async fn behind_links(habit: Habit) -> (Scene, Ways) {
    behind_links_with(habit, "").await
}

/// The same with more keys of `[cluster]`.
async fn behind_links_with(habit: Habit, keys: &str) -> (Scene, Ways) {
    let mut ways = None;
    let configure = |config: WeirConfig, cluster: &Cluster| over_links(config.cluster(keys), cluster, &mut ways);
    let scene = Scene::start_with(ServerOptions::everywhere, configure, habit).await;
    (scene, ways.expect("links"))
}

/// The same with accounts that are re-homed.
pub async fn rehomed_behind_links() -> (Scene, Ways) {
    let mut ways = None;
    let configure = |config: WeirConfig, cluster: &Cluster| over_links(config, cluster, &mut ways);
    let scene = Scene::start_rehomed(ServerOptions::everywhere, configure).await;
    (scene, ways.expect("links"))
}

fn over_links(config: WeirConfig, cluster: &Cluster, ways: &mut Option<Ways>) -> WeirConfig {
    let node = Node::new();
    let link = || Link::to(&node);
    let of_each = || cluster.servers.iter().map(|_| link()).collect::<Vec<_>>();
    let (clients, servers, monitors) = (Arc::new(link()), of_each(), of_each());
    let mut config = config.behind(&clients);
    for (n, server) in cluster.servers.iter().enumerate() {
        let over = |address: &str, link: &Link| address.replace("127.0.0.1", &link.near_address);
        config = config.replacing(&server.address, &over(&server.address, &servers[n]));
        config = config.replacing(&server.monitor, &over(&server.monitor, &monitors[n]));
    }
    *ways = Some(Ways { clients, servers, monitors });
    config
}

/// Clients come and are served by the other servers, and those of the silent one wait for it.
async fn one_server_is_silent(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, ways) = behind_links(EAGER).await;
    ways.servers[0].cut();
    ways.monitors[0].cut();
    all_come(&scene, 10).await;
    scene.weir.sees(2).await;
    meanwhile(&mut scene).await;
    ways.servers[0].heal();
    ways.monitors[0].heal();
    scene.recovers("weir cut off from one server", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_cut_off_from_one_server() {
    if network::is_own() {
        one_server_is_silent(nothing).await;
    }
}

/// weir gives the places of who leaves to others, seconds after it could tell their server that they have left. A
/// silent server still has their connections then, so that the servers together have more than the quota until it hears
/// of the end: the quota is exact for clients, and not for what a server keeps that nobody can reach.
async fn clients_leave_a_silent_server(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, ways) = behind_links(EAGER).await;
    scene.servers_keep_ends = true;
    ways.servers[0].cut();
    ways.monitors[0].cut();
    scene.orders.end_some(ORDERS - QUOTA);
    eventually(LONGEST, "others have their places", async || {
        let metrics = scene.weir.metrics().await;
        let of_quota = metrics.get("weir_account_connections{account=\"ORDERS\"}");
        assert!(of_quota <= Some(QUOTA as f64), "{of_quota:?}");
        if scene.orders.connected() == QUOTA { Ok(()) } else { Err(scene.orders.connected()) }
    })
    .await;
    say(&format!("{} connections of a quota of {QUOTA} at the servers", scene.watch.most().await));
    meanwhile(&mut scene).await;
    ways.servers[0].heal();
    ways.monitors[0].heal();
    scene.recovers("clients left while weir was cut off from their server", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_leave_while_weir_is_cut_off_from_their_server() {
    if network::is_own() {
        clients_leave_a_silent_server(nothing).await;
    }
}

/// Nobody gets in, and whoever is in waits for it.
async fn all_servers_are_silent(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, ways) = behind_links(EAGER).await;
    ways.servers.iter().chain(&ways.monitors).for_each(Link::cut);
    scene.weir.sees(0).await;
    let attempt = RawClient::attempt(&scene.weir.address, &rest("too-early"), PATIENCE).await;
    assert_eq!(attempt.refusal(), Some("maximum connections exceeded"), "{attempt:?}");
    meanwhile(&mut scene).await;
    ways.servers.iter().chain(&ways.monitors).for_each(Link::heal);
    scene.recovers("weir cut off from all servers", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_cut_off_from_all_servers() {
    if network::is_own() {
        all_servers_are_silent(nothing).await;
    }
}

/// Readings are old then, and clients get in all the same.
async fn all_monitors_are_silent(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, ways) = behind_links(EAGER).await;
    ways.monitors.iter().for_each(Link::cut);
    scene.weir.sees(0).await;
    all_come(&scene, 10).await;
    meanwhile(&mut scene).await;
    ways.monitors.iter().for_each(Link::heal);
    scene.recovers("weir cut off from all monitoring ports", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_cut_off_from_all_monitoring_ports() {
    if network::is_own() {
        all_monitors_are_silent(nothing).await;
    }
}

/// Servers ask their clients for a sign of life meanwhile, in vain.
async fn clients_are_silent(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, ways) = behind_links(Habit::NATS_GO).await;
    ways.clients.cut();
    sleep(Duration::from_secs(4)).await;
    meanwhile(&mut scene).await;
    ways.clients.heal();
    scene.recovers("clients cut off from weir for 4 s", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cut_off_from_weir() {
    if network::is_own() {
        clients_are_silent(nothing).await;
    }
}

/// How many segments of TCP the kernel has sent once more, at the servers' and the clients' ends.
fn sent_again() -> u64 {
    let table = std::fs::read_to_string("/proc/net/snmp").expect("the counters of this namespace");
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(str::split_whitespace);
    let (names, mut values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.into_iter().position(|name| name == "RetransSegs").expect("the counter");
    values.nth(at).and_then(|value| value.parse().ok()).expect("a number")
}

/// Every way loses all packets for some milliseconds again and again: bursts of loss, about a fifth in all.
async fn packets_are_lost(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, ways) = behind_links(EAGER).await;
    let all: Vec<_> = ways.servers.iter().chain(&ways.monitors).chain([&*ways.clients]).collect();
    let (before, began) = (sent_again(), Instant::now());
    let (mut rounds, mut came) = (0, 0);
    while began.elapsed() < Duration::from_secs(6) {
        all.iter().for_each(|link| {
            if fastrand::u8(..5) == 0 {
                link.cut()
            }
        });
        sleep(Duration::from_millis(fastrand::u64(20..60))).await;
        all.iter().for_each(|link| link.heal());
        rounds += 1;
        let login = rest("comes");
        let attempt = RawClient::attempt(&scene.weir.address, &login, Duration::from_millis(200));
        came += usize::from(matches!(attempt.await, Attempt::In(_)));
    }
    assert!(came > 0, "nobody of {rounds} got in");
    assert!(sent_again() > before, "the kernel has sent nothing again");
    meanwhile(&mut scene).await;
    scene.recovers("packets lost in bursts on every way", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packet_loss() {
    if network::is_own() {
        packets_are_lost(nothing).await;
    }
}

/// The machine of a server loses its power and comes back, and no packet tells weir that the connections are gone. A
/// reading shows another process, so weir has the sessions ask; else it learns it by its keepalive (`[cluster]
/// tcp_keepalive`).
async fn a_servers_machine_vanishes(fault: &str, keys: &str, meanwhile: impl AsyncFnOnce(&mut Scene)) {
    // What a process leaves behind is then forgotten after a few seconds, before the links are back.
    std::fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1").expect("a key of this namespace");
    let (mut scene, ways) = behind_links_with(Habit::NATS_GO, keys).await;
    scene.watch.look().await;
    ways.servers[0].cut();
    ways.monitors[0].cut();
    scene.cluster.servers[0].kill9();
    scene.weir.sees(2).await;
    sleep(Duration::from_secs(3)).await;
    scene.cluster.servers[0].restart().await;
    meanwhile(&mut scene).await;
    ways.servers[0].heal();
    ways.monitors[0].heal();
    scene.recovers(fault, Instant::now()).await;
    assert!(scene.lost() > 0, "its clients have had to come back");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_vanishes_without_a_fin() {
    if network::is_own() {
        let fault = "a server's machine vanished without a FIN and is back; tcp_keepalive = \"off\"";
        a_servers_machine_vanishes(fault, "tcp_keepalive = \"off\"", nothing).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_vanishes_without_a_fin_and_weir_asks_often() {
    if network::is_own() {
        let fault = "a server's machine vanished; tcp_keepalive = \"1s\"";
        a_servers_machine_vanishes(fault, "tcp_keepalive = \"1s\"", nothing).await;
    }
}

/// The machine of all clients loses its power. The first PING of each server is on its way meanwhile; once the machine
/// is back its kernel answers that with a reset, and the clients have their places again. (`ghosts` of tests/it shows
/// what happens where nothing is on its way.)
async fn the_clients_machine_vanishes(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    std::fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1").expect("a key of this namespace");
    let (mut scene, ways) = behind_links(Habit::NATS_GO).await;
    ways.clients.cut();
    scene.come_anew().await;
    sleep(Duration::from_secs(5)).await;
    meanwhile(&mut scene).await;
    ways.clients.heal();
    scene.recovers("the machine of all clients vanished without a FIN and is back", Instant::now()).await;
    let resets = scene.weir.metrics().await.sum_where("weir_closed_total", "reason", "socket_error");
    // On a busy machine some of them have had their PING before: it comes 2 s after they have.
    assert!(resets > ((QUOTA + REST) / 2) as f64, "ends of connections have not arrived: {resets} resets");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_vanish_without_a_fin() {
    if network::is_own() {
        the_clients_machine_vanishes(nothing).await;
    }
}
