//! What a fleet does where its bucket refuses what weirs need, and what becomes of the leases of a weir that is killed.

use async_nats::ConnectOptions;
use weir_testkit::*;

use crate::fleet_quota::{QUOTA, come, never_over, with_quota};
use crate::fleet_servers::three_servers;

async fn of_account(cluster: &Cluster) -> async_nats::Client {
    let options = ConnectOptions::with_user_and_password("weir-10".into(), "fl33t-10-s3cret".into());
    options.connect(&cluster.servers[0].address).await.expect("another client of the account")
}

/// The whole quota is in use through the first weir, once the others are killed.
async fn quota_of_the_dead_is_free(cluster: &Cluster, fleet: &mut Fleet) {
    let crowd = come(&fleet.addresses(), 150);
    crowd.settles_at(QUOTA).await;
    for mut dead in fleet.weirs.drain(1..) {
        dead.kill9();
    }
    let others = come(&fleet.addresses(), 150);
    eventually(PATIENCE, "the whole quota is in use", async || match crowd.connected() + others.connected() {
        QUOTA => Ok(()),
        n => Err(n),
    })
    .await;
    never_over(cluster).await;
    crowd.end().await;
    others.end().await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_subscribes_to_all_subjects_keeps_no_dead_weir_in_its_places() {
    let cluster = three_servers(|server| server).await;
    let mut fleet = Fleet::start(2, &with_quota(WeirConfig::of(&cluster).default_settings())).await;
    // As an operator looks at all messages.
    let looks = of_account(&cluster).await;
    let _all = looks.subscribe(">").await.expect("subscribed");
    looks.flush().await.expect("flushed");
    quota_of_the_dead_is_free(&cluster, &mut fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_of_a_dead_weir_are_free_though_a_server_counts_accounts_for_nobody_since_a_reload() {
    let cluster = three_servers(|server| server).await;
    let mut fleet = Fleet::start(2, &with_quota(WeirConfig::of(&cluster).default_settings())).await;
    let monitor = format!("monitor = \"http://{}\"", cluster.servers[0].monitor);
    fleet.weirs[0].reconfigure(&monitor, "");
    fleet.weirs[0].reloads().await;
    quota_of_the_dead_is_free(&cluster, &mut fleet).await;
}
