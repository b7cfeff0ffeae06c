//! How many leafnodes an account, or a source, may have at once.

use weir_testkit::operator::Operator;
use weir_testkit::tls::Authority;
use weir_testkit::*;

use crate::leafnodes::{Hub, before, connected, leafnode, url};

const FULL: &str = "maximum account active connections exceeded";
const USERS: &str = "authorization { users: [ { user: edge, password: pw } ] }";

async fn refused(weir: &Weir, reason: &str, n: f64) {
    let what = format!("{n} refused for {reason}");
    weir.until(&what, |now| now.sum_where("weir_refused_total", "reason", reason) >= n).await;
}

/// Waits until exactly `n` of these leafnodes have a hub.
async fn so_many(leafnodes: &[&NatsServer], n: usize) {
    eventually(PATIENCE, &format!("{n} have a hub"), async || {
        let mut with_hub = 0;
        for one in leafnodes {
            with_hub += one.varz().await["leafnodes"].as_u64().unwrap_or_default() as usize;
        }
        if with_hub == n { Ok(()) } else { Err(with_hub) }
    })
    .await;
}

/// The place of one that is killed, and of one whose hub is killed, is there for the next one, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_so_many_and_each_place_is_given_back_once() {
    let mut hubs = [Hub::start("n1", USERS, "").await, Hub::start("n2", USERS, "").await];
    let weir = before(&[&hubs[0], &hubs[1]]).account("default", "max_leafnodes = 2").start().await;
    let at_weir = url(&weir.address, "edge:pw");
    let mut first = leafnode("edge1", &at_weir).await;
    let second = leafnode("edge2", &at_weir).await;
    so_many(&[&first, &second], 2).await;
    let third = leafnode("edge3", &at_weir).await;
    third.says(FULL).await;
    refused(&weir, "account_leafnode_quota", 2.0).await;
    assert_eq!(weir.metrics().await.sum_where("weir_refused_total", "reason", "account_quota"), 0.0);
    connected(&third, 0).await;
    first.kill9();
    connected(&third, 1).await;
    first.restart().await;
    first.says(FULL).await;
    // One hub is lost: its leafnode may come back, or the one that waits gets its place.
    hubs[0].server.kill9();
    so_many(&[&first, &second, &third], 2).await;
    refused(&weir, "account_leafnode_quota", 6.0).await;
    assert_eq!(hubs[1].count().await, 2);
    // Both are lost, and come back.
    hubs[1].server.kill9();
    weir.until("no session", |now| now.sum("weir_sessions_active") == 0.0).await;
    hubs[1].server.restart().await;
    so_many(&[&first, &second, &third], 2).await;
    drop((first, second, third));
    weir.assert_nothing_leaked().await;
    let again = [leafnode("edge1", &at_weir).await, leafnode("edge2", &at_weir).await];
    so_many(&[&again[0], &again[1]], 2).await;
    drop(again);
    weir.assert_nothing_leaked().await;
}

/// Clients of the source are not counted among its leafnodes, and a reload changes both limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_has_so_many_and_a_reload_changes_that() {
    let hub = Hub::start("n1", USERS, "").await;
    let config = before(&[&hub]).admission("[admission.per_source]\nmax_leafnodes = 1");
    let mut weir = config.account("default", "max_leafnodes = 7").start().await;
    let at_weir = url(&weir.address, "edge:pw");
    let (first, second) = (leafnode("edge1", &at_weir).await, leafnode("edge2", &at_weir).await);
    so_many(&[&first, &second], 1).await;
    refused(&weir, "source_leafnode_quota", 2.0).await;
    assert!(first.log_contains("maximum connections exceeded") || second.log_contains("maximum connections exceeded"));
    weir.reconfigure("max_leafnodes = 1", "max_leafnodes = 2");
    weir.reloads().await;
    so_many(&[&first, &second], 2).await;
    // Who is in stays in; who comes is told.
    weir.reconfigure("max_leafnodes = 7", "max_leafnodes = 0");
    weir.reloads().await;
    so_many(&[&first, &second], 2).await;
    let told = weir.metrics().await.sum_where("weir_refused_total", "reason", "account_leafnode_quota");
    assert_eq!(told, 0.0);
    drop(first);
    let third = leafnode("edge3", &at_weir).await;
    third.says(FULL).await;
    weir.reconfigure("max_leafnodes = 0", "warn_only = true\nmax_leafnodes = 0");
    weir.reloads().await;
    connected(&third, 1).await;
    let would = weir.metrics().await.sum_where("weir_would_refuse_total", "reason", "account_leafnode_quota");
    assert_eq!(would, 1.0);
    drop((second, third));
    weir.assert_nothing_leaked().await;
}

/// In front of a hub by itself and in front of weir the same: `leaf` of the account's JWT limits leafnodes, each of
/// which counts as a connection, and `conn` refuses none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_accounts_jwt_says_of_leafnodes_and_of_connections() {
    let authority = Authority::new("weir tests");
    let operator = Operator::with_accounts([2, -1]).with_leafnode_limit(0, 2);
    let (account, system) = (operator.account(0), operator.account(1));
    let file = |name: &str, creds: String| {
        let path = authority.file(name);
        std::fs::write(&path, creds).unwrap();
        path
    };
    let creds = file("edge.creds", account.user().creds());
    let of_weir = file("system.creds", system.user().creds());
    let hub = Hub::start("n1", "", &operator.server_config_with_system(1)).await;
    let login = format!("[cluster.system]\ncreds_file = {of_weir:?}");
    let weir = before(&[&hub]).cluster(&login).start().await;
    let clients = WeirConfig::of_servers(&[&hub.server]).cluster(&login).start().await;
    let user = account.user();
    let client_login = Login::jwt(&user.jwt, &user.key);
    for (at, for_clients, is_weir) in
        [(&hub.leafnodes, &hub.server.address, false), (&weir.address, &clients.address, true)]
    {
        let edge = async |name: &str| leafnode(name, &format!("{}, credentials: {creds:?}", url(at, ""))).await;
        let in_use = [
            RawClient::connect(for_clients, &client_login).await,
            RawClient::connect(for_clients, &client_login).await,
        ];
        let first = edge("edge1").await;
        connected(&first, 1).await;
        let refused_client = RawClient::attempt(for_clients, &client_login, PATIENCE).await;
        assert_eq!(refused_client.refusal(), Some(FULL), "{at}");
        let second = edge("edge2").await;
        connected(&second, 1).await;
        // A leafnode takes a client's place.
        drop(in_use);
        // The hub counts leafnodes apart from these.
        eventually(PATIENCE, "they have left", async || match hub.server.account_connections(&account.name()).await {
            0 => Ok(()),
            n => Err(n),
        })
        .await;
        let refused_client = RawClient::attempt(for_clients, &client_login, PATIENCE).await;
        assert_eq!(refused_client.refusal(), Some(FULL), "{at}");
        if is_weir {
            let name = account.name();
            let sample = format!("weir_account_max_connections{{account=\"{name}\"}}");
            weir.until("the limits are known", |now| now.get(&sample) == Some(2.0)).await;
        }
        let third = edge("edge3").await;
        eventually(PATIENCE, "it has been refused twice", async || match third.log().matches(FULL).count() {
            0..2 => Err(()),
            _ => Ok(()),
        })
        .await;
        if is_weir {
            refused(&weir, "account_leafnode_quota", 1.0).await;
        }
        drop(second);
        connected(&third, 1).await;
        drop((first, third));
        eventually(PATIENCE, "they have left", async || match hub.count().await {
            0 => Ok(()),
            n => Err(n),
        })
        .await;
    }
    weir.assert_nothing_leaked().await;
}

/// The hub counts an account's leafnodes apart from its clients: weir adds both up, since it has let in both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_past_weir_count_beside_its_leafnodes() {
    let accounts = "accounts { SITES { users: [ { user: edge, password: pw } ] }, \
                    SYS { users: [ { user: admin, password: a } ] } }\nsystem_account: SYS";
    let hub =
        Hub::start("n1", "authorization { users: [ { user: edge, password: pw, account: SITES } ] }", accounts).await;
    let weir = before(&[&hub])
        .account("SITES", "users = [\"edge\"]\nmax_connections = 5")
        .cluster("[cluster.system]\nuser = \"admin\"\npassword = \"a\"")
        .start()
        .await;
    let leafnodes = [
        leafnode("edge1", &url(&weir.address, "edge:pw")).await,
        leafnode("edge2", &url(&weir.address, "edge:pw")).await,
    ];
    so_many(&[&leafnodes[0], &leafnodes[1]], 2).await;
    let mut past_weir = Vec::new();
    for _ in 0..3 {
        past_weir.push(RawClient::connect(&hub.server.address, &Login::user("edge", "pw")).await);
    }
    weir.until("weir has read it", |now| now.get("weir_events_total{event=\"account_full\"}") == Some(1.0)).await;
    let third = leafnode("edge3", &url(&weir.address, "edge:pw")).await;
    third.says(FULL).await;
    connected(&third, 0).await;
    drop(past_weir);
    connected(&third, 1).await;
    drop((leafnodes, third));
    weir.assert_nothing_leaked().await;
}

async fn refused_by_some(fleet: &Fleet, reason: &str) {
    eventually(PATIENCE, &format!("one is refused for {reason}"), async || {
        for weir in &fleet.weirs {
            if weir.metrics().await.sum_where("weir_refused_total", "reason", reason) >= 1.0 {
                return Ok(());
            }
        }
        Err("none")
    })
    .await;
}

/// The weirs of a fleet share the limit: all of them together have as many leafnodes, wherever these come.
async fn a_fleet_has_so_many(limit: &str, of: &str, reason: &str) {
    let accounts = fleet::accounts("SITES { users: [{user: core, password: p}] }");
    let of_hub = "authorization { users: [ { user: edge, password: pw, account: SITES } ] }";
    let hubs = crate::leafnodes::cluster_with(2, of_hub, &accounts, ServerOptions::jetstream).await;
    let config = before(&hubs.iter().collect::<Vec<_>>()).account("SITES", limit);
    let mut fleet = Fleet::start(2, &config).await;
    let addresses = fleet.addresses();
    let mut leafnodes = Vec::new();
    for n in 0..6 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url(&addresses[n % 2], "edge:pw")).await);
    }
    so_many(&leafnodes.iter().collect::<Vec<_>>(), 3).await;
    refused_by_some(&fleet, reason).await;
    eventually(PATIENCE, "it is shown", async || {
        let quotas = fleet::fleetz(&fleet.weirs[0]).await["quotas"].clone();
        match quotas
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["of"] == of && one["limit"] == 3 && one["name"] == "SITES")
        {
            true => Ok(()),
            false => Err(quotas),
        }
    })
    .await;
    // One weir is gone: those at the other have all the places.
    fleet.weirs[1].kill9();
    let at_first: Vec<_> = leafnodes.iter().step_by(2).collect();
    so_many(&at_first, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_shares_the_limit_of_leafnodes() {
    a_fleet_has_so_many("max_leafnodes = 3", "leafnodes", "account_leafnode_quota").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_shares_the_limit_of_connections_with_leafnodes() {
    a_fleet_has_so_many("max_connections = 3", "account", "account_quota").await;
}

/// Servers that are nearly full, behind two weirs: leafnodes take slots of leases as clients do, and no server gets
/// more than its limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_is_filled_beyond_its_limit_by_the_leafnodes_of_two_weirs() {
    const MOST: u64 = 8;
    let accounts = fleet::accounts("SITES { users: [{user: core, password: p}] }");
    let of_hub = "authorization { users: [ { user: edge, password: pw, account: SITES } ] }";
    let small = |options: ServerOptions| options.jetstream().max_connections(MOST);
    let hubs = crate::leafnodes::cluster_with(2, of_hub, &accounts, small).await;
    let config = before(&hubs.iter().collect::<Vec<_>>()).cluster("reserve = 1");
    let fleet = Fleet::start(2, &config).await;
    let addresses = fleet.addresses();
    // One server with many remotes, each in an account of its own, is many leafnodes.
    let of_edge = |n: usize| {
        let own: Vec<String> = (0..10).map(|n| format!("A{n} {{}}")).collect();
        let at = url(&addresses[n], "edge:pw");
        let remotes: Vec<String> = (0..10).map(|n| format!("{{ {at}, account: A{n} }}")).collect();
        format!("accounts {{ {} }}\nleafnodes {{ remotes: [ {} ] }}", own.join("\n"), remotes.join("\n"))
    };
    let mut edges = Vec::new();
    for n in 0..2 {
        edges.push(NatsServer::start(ServerOptions::named(&format!("edge{n}")).with(&of_edge(n))).await);
    }
    refused_by_some(&fleet, "server_capacity").await;
    let mut most = 0;
    for _ in 0..30 {
        let mut all = 0;
        for hub in &hubs {
            let varz = hub.server.varz().await;
            let has = varz["leafnodes"].as_u64().unwrap() + varz["connections"].as_u64().unwrap();
            assert!(has <= MOST, "{has} at {}", hub.server.name);
            all += varz["leafnodes"].as_u64().unwrap();
        }
        most = most.max(all);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    eprintln!("{most} leafnodes at two servers with room for {MOST} each");
    assert!(most >= MOST, "{most}");
}

/// An edge server that has vanished without a FIN does not keep out the one that takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leafnode_gets_the_place_of_its_ghost() {
    let hub = Hub::start("n1", USERS, "").await;
    let weir = before(&[&hub]).account("default", "max_leafnodes = 1").start().await;
    let mut vanished = leafnode("edge1", &url(&weir.address, "edge:pw")).await;
    connected(&vanished, 1).await;
    vanished.signal(rustix::process::Signal::STOP);
    let other = leafnode("edge2", &url(&weir.address, "edge:pw")).await;
    other.says(FULL).await;
    let again = leafnode("edge1", &url(&weir.address, "edge:pw")).await;
    let ghosts = |now: &metrics::Metrics| now.sum_where("weir_closed_total", "reason", "ghost");
    weir.until("the ghost is found", |now| ghosts(now) == 1.0).await;
    so_many(&[&other, &again], 1).await;
    drop((vanished, other, again));
    weir.assert_nothing_leaked().await;
}
