//! Faults of a fleet: a weir that stands still and wakes up with old leases, one that is cut off from the bucket, from
//! all servers or from one, a cluster whose JetStream has lost its quorum or that has none. No quota is exceeded, the
//! sessions stay, and once the fault is over the whole quota is in use again.

use std::sync::Arc;

use futures::future::join_all;
use weir_testkit::history::History;
use weir_testkit::network::{self, Link, Node};
use weir_testkit::*;

use crate::fleet_quota::{QUOTA, come, never_over, with_quota};
use crate::fleet_servers::{accounts, orders, three_servers};

/// What one of three weirs keeps at most of the quota, when the others no longer hear of it.
const SHARE: usize = QUOTA.div_ceil(3);

/// A few clients, connected one by one to this weir. They have a name: nobody reads them, so that they would be taken
/// for the ghosts of nameless ones that lack a place.
async fn few(weir: &Weir, n: usize) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..n {
        clients.push(RawClient::connect(&weir.address, &orders().name("few")).await);
    }
    clients
}

/// Waits until at least `n` clients of a crowd are in. How many more there are is the weirs' matter.
async fn reaches(crowd: &Crowd, n: usize) {
    eventually(PATIENCE, &format!("{n} clients are in"), async || match crowd.connected() {
        now if now >= n => Ok(()),
        now => Err((now, crowd.ends())),
    })
    .await;
}

/// The lease of the third weir, once its floor is a third: it may have taken the lease before it saw the others in the
/// bucket, and keeps what nobody wants.
async fn lease_of_third(fleet: &Fleet) -> usize {
    let mut lease = 0;
    eventually(PATIENCE, "its floor is a third", async || {
        let shown = fleet::fleetz(&fleet.weirs[2]).await["quotas"][0]["weirs"].clone();
        let own = shown.as_array().and_then(|all| all.iter().find(|one| one["id"] == "weir-3"));
        match own.and_then(|one| Some((one["lease"].as_u64()?, one["floor"].as_u64()?))) {
            Some((now, floor)) if floor <= SHARE as u64 => {
                lease = now as usize;
                Ok(())
            }
            _ => Err(shown),
        }
    })
    .await;
    lease
}

/// Waits until the servers have the whole quota, and never had more.
async fn fills(cluster: &Cluster) {
    eventually(PATIENCE, "the whole quota is in use", async || match cluster.account_connections("ORDERS").await {
        n if n == QUOTA as u64 => Ok(()),
        n => Err(n),
    })
    .await;
    never_over(cluster).await;
}

async fn still_there(clients: &mut [RawClient]) {
    for client in clients {
        client.round_trip().await.expect("a session that outlives the fault");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_stood_still_admits_nobody_too_many_when_it_wakes() {
    let cluster = three_servers(|server| server).await;
    let mut fleet = Fleet::start(3, &with_quota(WeirConfig::of(&cluster).default_settings())).await;
    let all = fleet.addresses();
    let mut before = few(&fleet.weirs[2], 10).await;
    let lease = lease_of_third(&fleet).await;
    fleet.weirs[2].stand_still();
    for weir in &fleet.weirs[..2] {
        fleet::sees(weir, 2).await;
    }
    // These wait in the kernel's queue of the weir that stands still, with whatever it has leased.
    let late = come(&all[2..], 60);
    let others = come(&all[..2], 200);
    reaches(&others, QUOTA - lease.max(SHARE)).await;
    never_over(&cluster).await;
    fleet.weirs[2].go_on();
    fills(&cluster).await;
    fleet.is_whole().await;
    fills(&cluster).await;
    still_there(&mut before).await;
    drop(before);
    join_all([late.end(), others.end()]).await;
    never_over(&cluster).await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_is_kept_from_the_bucket_keeps_its_sessions_and_admits_nobody_too_many() {
    let mut cluster = three_servers(|server| server).await;
    let fleet = Fleet::start(3, &with_quota(WeirConfig::of(&cluster).default_settings())).await;
    let all = fleet.addresses();
    let mut before = few(&fleet.weirs[2], 10).await;
    let lease = lease_of_third(&fleet).await;
    fleet::cut_from_bucket(&mut cluster, 3).await;
    let own = come(&all[2..], 100);
    let others = come(&all[..2], 200);
    reaches(&others, QUOTA - lease.max(SHARE)).await;
    never_over(&cluster).await;
    still_there(&mut before).await;
    fleet::let_to_bucket(&mut cluster, 3).await;
    fills(&cluster).await;
    // It takes part again: what others give back, its own clients get.
    others.end().await;
    reaches(&own, QUOTA - 10).await;
    fills(&cluster).await;
    still_there(&mut before).await;
    drop(before);
    own.end().await;
    fleet.assert_idle().await;
}

/// Three servers that listen everywhere, and a fleet of three of which the last is behind links of its own: one for its
/// clients, which is never cut, and one to each server.
async fn with_one_behind_links() -> (Cluster, Fleet, Vec<Link>) {
    let cluster = three_servers(ServerOptions::everywhere).await;
    let of_all = with_quota(WeirConfig::of(&cluster).default_settings());
    let node = Node::new();
    let links: Vec<_> = cluster.servers.iter().map(|_| Link::to(&node)).collect();
    let behind = of_all.clone().behind(&Arc::new(Link::to(&node)));
    let behind =
        cluster.servers.iter().zip(&links).fold(behind, |config, (server, link)| config.reaching(server, link));
    let configs = [fleet::config(&of_all, 1), fleet::config(&of_all, 2), fleet::config(&behind, 3)];
    let fleet = Fleet::start_each(configs.into_iter()).await;
    (cluster, fleet, links)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_weir_holds_that_is_cut_off_from_all_servers_is_not_given_to_others() {
    if !network::is_own() {
        return;
    }
    let (cluster, fleet, links) = with_one_behind_links().await;
    let all = fleet.addresses();
    let mut before = few(&fleet.weirs[2], 40).await;
    links.iter().for_each(Link::cut);
    for weir in &fleet.weirs[..2] {
        fleet::sees(weir, 2).await;
    }
    let own = come(&all[2..], 50);
    let others = come(&all[..2], 200);
    // Its 40 sessions are silent, and the servers still have them.
    reaches(&others, 50).await;
    never_over(&cluster).await;
    links.iter().for_each(Link::heal);
    fleet.is_whole().await;
    fills(&cluster).await;
    still_there(&mut before).await;
    drop(before);
    join_all([own.end(), others.end()]).await;
    never_over(&cluster).await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_loses_the_server_of_its_fleet_connection_goes_on_over_another() {
    if !network::is_own() {
        return;
    }
    let (cluster, fleet, links) = with_one_behind_links().await;
    let all = fleet.addresses();
    for (server, link) in cluster.servers.iter().zip(&links) {
        let connz = server.monitoring("/connz?auth=1&limit=10000").await.expect("/connz");
        let has = connz["connections"].as_array().expect("a list").iter().any(|one| one["authorized_user"] == "weir-3");
        if !has {
            continue;
        }
        link.cut();
        let crowd = come(&all, 200);
        crowd.settles_at(QUOTA).await;
        never_over(&cluster).await;
        fleet.is_whole().await;
        link.heal();
        fleet.weirs[2].sees(3).await;
        never_over(&cluster).await;
        crowd.end().await;
        return fleet.assert_idle().await;
    }
    panic!("no server has the fleet connection of weir-3");
}

/// Three servers with JetStream and no clients, and two with clients and no JetStream: the first can be killed without
/// a client's losing anything.
async fn with_bucket_elsewhere() -> (Cluster, WeirConfig) {
    let keeps = |server: &ServerOptions| ["n1", "n2", "n3"].contains(&server.name.as_str());
    let cluster = Cluster::start(5, |server| {
        let server = server.with(&accounts());
        if keeps(&server) { server.jetstream() } else { server }
    })
    .await;
    cluster.has_jetstream().await;
    let config = WeirConfig::of_servers(&cluster.servers[3..].iter().collect::<Vec<_>>()).default_settings();
    (cluster, with_quota(config))
}

async fn never_over_at_the_others(cluster: &Cluster) {
    let history = History::of_servers(cluster.servers[3..].iter(), "ORDERS").await;
    assert!(history.most() <= QUOTA as i64, "{} of {QUOTA} at once, {} in all", history.most(), history.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_that_is_lost_in_mid_storm_lets_nobody_too_many_in_and_nobody_out() {
    let (mut cluster, of_all) = with_bucket_elsewhere().await;
    let fleet = Fleet::start_each((1..=3).map(|n| fleet::config_with(&of_all, n, "replicas = 3"))).await;
    let crowd = come(&fleet.addresses(), 300);
    reaches(&crowd, 20).await;
    for server in &mut cluster.servers[..2] {
        server.kill9();
    }
    for weir in &fleet.weirs {
        weir.says("quotas are split").await;
    }
    // By the split nobody would be refused while there are fewer than a third at each.
    reaches(&crowd, 20).await;
    never_over_at_the_others(&cluster).await;
    for server in &mut cluster.servers[..2] {
        server.restart().await;
    }
    crowd.settles_at(QUOTA).await;
    assert_eq!(crowd.lost(), 0, "nobody lost the connection: {:?}", crowd.ends());
    never_over_at_the_others(&cluster).await;
    crowd.end().await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_without_a_lease_has_its_part_of_the_quota_once_no_weir_has_leases() {
    let (mut cluster, of_all) = with_bucket_elsewhere().await;
    let fleet = Fleet::start_each((1..=3).map(|n| fleet::config_with(&of_all, n, "replicas = 3"))).await;
    fleet.has_leases().await;
    for server in &mut cluster.servers[..2] {
        server.kill9();
    }
    for weir in &fleet.weirs {
        weir.says("quotas are split").await;
    }
    // Nobody has used the quota before.
    let crowd = come(&fleet.addresses(), 200);
    reaches(&crowd, QUOTA).await;
    never_over_at_the_others(&cluster).await;
    for server in &mut cluster.servers[..2] {
        server.restart().await;
    }
    fleet.has_leases().await;
    crowd.settles_at(QUOTA).await;
    assert_eq!(crowd.lost(), 0, "nobody lost the connection: {:?}", crowd.ends());
    never_over_at_the_others(&cluster).await;
    crowd.end().await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_jetstream_each_weir_has_its_part_of_the_quota_and_says_so() {
    let cluster = Cluster::start(3, |server| server.with(&accounts())).await;
    let of_all = with_quota(WeirConfig::of(&cluster).default_settings());
    let fleet = Fleet::start_at_once((1..=3).map(|n| fleet::config(&of_all, n))).await;
    fleet.is_whole().await;
    for weir in &fleet.weirs {
        weir.says("quotas are split").await;
    }
    let crowd = come(&fleet.addresses(), 200);
    reaches(&crowd, QUOTA - 1).await; // a third of 100, three times
    never_over(&cluster).await;
    crowd.end().await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weirs_that_reach_nothing_at_their_start_serve_as_soon_as_servers_do() {
    let mut cluster = three_servers(|server| server).await;
    for server in &mut cluster.servers {
        server.stop().await;
    }
    let of_all = with_quota(WeirConfig::of(&cluster).default_settings());
    let start = async |n| fleet::config(&of_all, n).start_before(0).await;
    let fleet = Fleet { weirs: vec![start(1).await, start(2).await, start(3).await] };
    let crowd = come(&fleet.addresses(), 200);
    join_all(cluster.servers.iter_mut().map(NatsServer::restart)).await;
    crowd.settles_at(QUOTA).await;
    fleet.is_whole().await;
    crowd.settles_at(QUOTA).await;
    never_over(&cluster).await;
    crowd.end().await;
    fleet.assert_idle().await;
}
