//! Placement through several weirs: servers are filled evenly and never beyond their limit, nobody is refused while
//! there is room, and the clients of a weir that dies are back through another.

use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";

pub(crate) fn orders() -> Login {
    Login::user("o", "p").lang("go")
}

/// The weirs' account, and one with clients.
pub(crate) fn accounts() -> String {
    fleet::accounts("ORDERS { users: [{user: o, password: p}] }")
}

/// Three servers with JetStream.
pub(crate) async fn three_servers(options: impl Fn(ServerOptions) -> ServerOptions) -> Cluster {
    let cluster = Cluster::start(3, |server| options(server.jetstream().with(&accounts()))).await;
    cluster.has_jetstream().await;
    cluster
}

/// Waits until the servers and the weirs count `n` clients.
pub(crate) async fn holds(fleet: &Fleet, cluster: &Cluster, n: usize) {
    eventually(PATIENCE, &format!("weirs and servers count {n} in ORDERS"), async || {
        let seen = (fleet.sum("weir_sessions_active").await, cluster.account_connections("ORDERS").await);
        if seen == (n as f64, n as u64) { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// How many clients each server has, without the weirs' own connections.
pub(crate) async fn shares(cluster: &Cluster) -> Vec<u64> {
    let of = |server| NatsServer::account_connections(server, "ORDERS");
    futures::future::join_all(cluster.servers.iter().map(of)).await
}

/// Connects `n` clients at the same time through all weirs. Each must get in.
async fn all_get_in(fleet: &Fleet, n: usize) -> Vec<RawClient> {
    let addresses = fleet.addresses();
    at_once(n, |i| {
        let address = addresses[i % addresses.len()].clone();
        async move { RawClient::connect(&address, &orders().lang("test")).await }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_through_three_weirs_are_spread_evenly() {
    let cluster = three_servers(|server| server.max_connections(5000)).await;
    let fleet = Fleet::start(3, &WeirConfig::of(&cluster).default_settings().cluster("slow_start = \"0s\"")).await;
    let crowd = Crowd::spread(&fleet.addresses(), 3000, Habit::NATS_GO, |_| orders());
    crowd.settles_at(3000).await;
    holds(&fleet, &cluster, 3000).await;
    let shares = shares(&cluster).await;
    assert!(unevenness(&shares) <= 1.05, "{shares:?}");
    assert_eq!(crowd.lost(), 0, "{:?}", crowd.ends());
    crowd.end().await;
    fleet.assert_idle().await;
}

/// A full server accepts and refuses faster than the others serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_gets_nobody_from_any_weir_and_nobody_is_refused() {
    let max = |server: &ServerOptions| if server.name == "n1" { 20 } else { 5000 };
    let cluster = three_servers(|server| server.clone().max_connections(max(&server))).await;
    let small = &cluster.servers[0];
    let fleet = Fleet::start(3, &WeirConfig::of(&cluster)).await;
    let free = 20 - small.connections().await as usize;
    let direct = Crowd::start(&small.address, free, &orders(), Habit::ONCE);
    direct.settles_at(free).await;
    for weir in &fleet.weirs {
        weir.until("weir sees that it is full", |metrics| {
            metrics.get("weir_server_headroom{server=\"n1\"}").is_some_and(|room| room <= 0.0)
        })
        .await;
    }
    let refused = small.log().matches(FULL).count();
    let clients = all_get_in(&fleet, 300).await;
    let [on_small, others @ ..] = &shares(&cluster).await[..] else { unreachable!() };
    assert_eq!((*on_small, others.iter().sum::<u64>()), (free as u64, 300));
    assert_eq!(small.log().matches(FULL).count(), refused, "nobody was even sent to the full server");
    assert_eq!(fleet.refused().await, 0.0);
    drop(clients);
    fleet.assert_idle().await;
    direct.end().await;
}

/// Waits until a weir shows who has how many of each server's slots, which are this many.
async fn shows_leases_of_slots(weir: &Weir, slots: u64) {
    eventually(PATIENCE, "the leases of the slots of each server are shown by its name", async || {
        let seen = fleet::fleetz(weir).await;
        let quotas = seen["quotas"].as_array().cloned().unwrap_or_default();
        let of_servers = quotas.iter().filter(|one| one["of"] == "server" && one["limit"] == slots);
        let named = of_servers.filter(|one| one["weirs"].as_array().is_some_and(|weirs| weirs.len() == 3));
        let mut names: Vec<_> = named.filter_map(|one| one["name"].as_str()).collect();
        names.sort_unstable();
        if names == ["n1", "n2", "n3"] { Ok(()) } else { Err(seen) }
    })
    .await;
    eventually(PATIENCE, "they are in the metrics", async || {
        let metrics = weir.metrics().await;
        let of = |name, n| metrics.get(&format!("weir_fleet_server_{name}{{server=\"n{n}\"}}")).unwrap_or_default();
        let seen = [1, 2, 3].map(|n| ["lease", "leased", "past"].map(|name| of(name, n)));
        let is_leased = |[lease, leased, past]: &[f64; 3]| {
            // What is found to have come past all weirs may be in the reserve, as the weirs' own connections.
            *lease > 0.0 && lease <= leased && leased + past <= slots as f64 + 3.0
        };
        if seen.iter().all(is_leased) { Ok(()) } else { Err((seen, fleet::fleetz(weir).await["quotas"].to_string())) }
    })
    .await;
}

/// However many come at once, no server reaches its limit, and no slot that the weirs may fill stays empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_through_three_weirs_fill_the_servers_and_no_server_ever_refuses() {
    const EACH: usize = 100;
    let cluster = three_servers(|server| server.max_connections(EACH as u64)).await;
    let fleet = Fleet::start(3, &WeirConfig::of(&cluster).default_settings().cluster("reserve = 5")).await;
    // While leases are not in force a burst may use up the reserve, and more.
    for weir in &fleet.weirs {
        weir.until("leases are in force", |metrics| metrics.get("weir_fleet_mode{mode=\"lease\"}") == Some(1.0)).await;
    }
    let crowd = Crowd::spread(&fleet.addresses(), 1000, Habit::NATS_GO, |_| orders());
    // The weirs' own connections may be in the reserve or beside it.
    let most = 3 * (EACH - 5);
    eventually(2 * PATIENCE, "the servers are full", async || match crowd.connected() {
        n if n >= most - fleet.weirs.len() => Ok(()),
        n => Err((n, shares(&cluster).await, crowd.ends())),
    })
    .await;
    for weir in &fleet.weirs {
        shows_leases_of_slots(weir, EACH as u64 - 5).await;
    }
    let tried = crowd.attempts();
    eventually(2 * PATIENCE, "everyone outside has tried again", async || match crowd.attempts() {
        now if now >= tried + 1000 => Ok(()),
        now => Err(now),
    })
    .await;
    let at_once = crowd.most_connected();
    assert!(at_once <= 3 * EACH, "{at_once} at once: {most} and the reserve");
    assert_eq!(crowd.lost(), 0, "{:?}", crowd.ends());
    assert!(!cluster.log_contains(FULL), "no server ever had to refuse");
    crowd.end().await;
    fleet.assert_idle().await;

    // After all have left, all of these get in: nobody is refused while there is room.
    let clients = Crowd::spread(&fleet.addresses(), 240, Habit::NATS_GO, |_| orders());
    clients.settles_at(240).await;
    assert!(!cluster.log_contains(FULL), "no server ever had to refuse");
    clients.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_know_two_weirs_are_all_back_when_one_is_killed() {
    let cluster = three_servers(|server| server).await;
    let mut fleet = Fleet::start(2, &WeirConfig::of(&cluster).default_settings()).await;
    let crowd = Crowd::spread(&fleet.addresses(), 600, Habit::NATS_GO, |_| orders());
    crowd.settles_at(600).await;
    let mut killed = fleet.weirs.remove(0);
    // About half of them: whoever was late on a busy machine has tried the other weir.
    let its_own = killed.metrics().await.sum("weir_sessions_active") as usize;
    assert!(its_own > 0, "clients were at both weirs");
    killed.kill9();
    eventually(PATIENCE, "its clients have lost it", async || match crowd.lost() {
        n if n >= its_own => Ok(()),
        n => Err(n),
    })
    .await;
    crowd.settles_at(600).await;
    assert_eq!(crowd.lost(), its_own, "only its own clients lost their connection: {:?}", crowd.ends());
    holds(&fleet, &cluster, 600).await;
    crowd.end().await;
    fleet.assert_idle().await;
}

/// A fleet of one is as no fleet: the whole quota, and the same servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_of_one_has_the_whole_quota() {
    let server = NatsServer::start(ServerOptions::default().jetstream().with(&accounts())).await;
    let config = WeirConfig::of_servers(&[&server]).account("ORDERS", "users = [\"o\"]\nmax_connections = 20");
    let fleet = Fleet::start(1, &config).await;
    let clients = all_get_in(&fleet, 20).await;
    let more = RawClient::attempt(&fleet.weirs[0].address, &orders(), PATIENCE).await;
    assert_eq!(more.refusal(), Some("maximum account active connections exceeded"), "{more:?}");
    drop(clients);
    fleet.assert_idle().await;
}
