//! Quotas are exact through several weirs: however many clients come to whichever weir, and whatever becomes of the
//! weirs, the servers never have one connection of the account too many, and no place stays empty for long.

use futures::future::join_all;
use weir_testkit::client::End;
use weir_testkit::history::History;
use weir_testkit::*;

use crate::fleet_servers::{holds, orders, three_servers};

/// For the quota, or since weir saw that the client's time to wait would be over before a place was free.
const REFUSED: [&str; 2] = ["maximum account active connections exceeded", "maximum connections exceeded"];
pub(crate) const QUOTA: usize = 100;

/// A quota for the clients' account.
pub(crate) fn with_quota(config: WeirConfig) -> WeirConfig {
    config.account("ORDERS", &format!("users = [\"o\"]\nmax_connections = {QUOTA}"))
}

/// Clients of the account that go on trying, at these weirs, as nats.go does.
pub(crate) fn come(addresses: &[String], n: usize) -> Crowd {
    Crowd::spread(addresses, n, Habit::NATS_GO, |_| orders())
}

/// Makes `n` attempts at the same time, spread over these weirs, and returns the clients that got in. All others must
/// be refused with INFO, one of two texts and a FIN. Each has a name of its own: they read nothing once they are in,
/// and would be taken for ghosts of those who come later.
pub(crate) async fn attempts(addresses: &[String], n: usize) -> Vec<RawClient> {
    let all = at_once(n, |i| {
        let address = addresses[i % addresses.len()].clone();
        let login = orders().lang("test").name(&fastrand::u64(..).to_string());
        async move { RawClient::attempt(&address, &login, 2 * PATIENCE).await }
    })
    .await;
    let mut clients = Vec::new();
    for attempt in all {
        match attempt {
            Attempt::In(client) => clients.push(client),
            Attempt::Refused { text, info: Some(_), end: End::Eof } if REFUSED.contains(&text.as_str()) => {}
            other => panic!("neither in nor refused politely for the quota: {other:?}"),
        }
    }
    clients
}

/// The servers have never had more connections of the account than the quota.
pub(crate) async fn never_over(cluster: &Cluster) {
    let history = History::of(cluster, "ORDERS").await;
    assert!(history.most() <= QUOTA as i64, "{} of {QUOTA} at once, {} in all", history.most(), history.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_quota_gets_in_through_three_weirs_and_whoever_leaves_makes_room_at_any() {
    let cluster = three_servers(|server| server).await;
    let fleet = Fleet::start(3, &with_quota(WeirConfig::of(&cluster))).await;
    let all = fleet.addresses();

    let mut clients = attempts(&all, 1500).await;
    assert_eq!(clients.len(), QUOTA, "exactly the quota");
    holds(&fleet, &cluster, QUOTA).await;
    // All that come now come to one weir, whichever weir those who left were at.
    for one in &all {
        clients.drain(..50).for_each(RawClient::abandon);
        holds(&fleet, &cluster, QUOTA - 50).await;
        let more = attempts(std::slice::from_ref(one), 300).await;
        assert_eq!(more.len(), 50, "exactly the places given back");
        clients.extend(more);
        holds(&fleet, &cluster, QUOTA).await;
    }
    never_over(&cluster).await;
    drop(clients);
    fleet.assert_idle().await;

    // Again from the beginning, with all leases where they were.
    let clients = attempts(&all, 600).await;
    assert_eq!(clients.len(), QUOTA, "exactly the quota again");
    never_over(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_is_killed_leaves_its_places_to_the_others() {
    let cluster = three_servers(|server| server).await;
    let of_all = with_quota(WeirConfig::of(&cluster).default_settings());
    let mut fleet = Fleet::start(3, &of_all).await;
    let crowd = come(&fleet.addresses(), 150);
    crowd.settles_at(QUOTA).await;

    let mut killed = fleet.weirs.remove(2);
    killed.kill9();
    eventually(PATIENCE, "its clients have lost it", async || if crowd.lost() > 0 { Ok(()) } else { Err(()) }).await;
    crowd.settles_at(QUOTA).await;
    fleet.is_whole().await;
    never_over(&cluster).await;

    // It comes back under its name, and gets its share only as others give it.
    fleet.weirs.push(fleet::config(&of_all, 3).start().await);
    fleet.is_whole().await;
    let there = come(&[fleet.weirs[2].address.clone()], 20);
    crowd.end_some(75);
    eventually(PATIENCE, "its clients are in", async || match there.connected() {
        20 => Ok(()),
        n => Err((n, there.ends())),
    })
    .await;
    join_all([there.end(), crowd.end()]).await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_through_three_weirs_while_clients_come_and_go() {
    let cluster = three_servers(|server| server).await;
    let fleet = Fleet::start(3, &with_quota(WeirConfig::of(&cluster))).await;
    let eager = Habit { retry: Some(std::time::Duration::from_millis(200)), ..Habit::PATIENT };
    let come = || Crowd::spread(&fleet.addresses(), 200, eager, |_| orders());
    let mut here = come();
    here.settles_at(QUOTA).await;
    for _ in 0..3 {
        let next = come();
        here.end().await; // 100 clients leave while 200 others try to connect
        next.settles_at(QUOTA).await;
        assert_eq!((next.most_connected(), next.lost()), (QUOTA, 0), "never one too many, and nobody thrown out");
        here = next;
    }
    here.end().await;
    fleet.assert_idle().await;
}
