//! What a fleet does where its bucket refuses what weirs need, and what becomes of the leases of a weir that is killed.

use std::time::Instant;

use async_nats::{
    ConnectOptions,
    jetstream::{self, Context, stream},
};
use weir_testkit::metrics::Metrics;
use weir_testkit::*;

use crate::fleet_quota::{QUOTA, attempts, come, never_over, with_quota};
use crate::fleet_servers::three_servers;

const BUCKET: &str = "KV_weir-fleet-edge";

async fn of_account(cluster: &Cluster) -> async_nats::Client {
    let options = ConnectOptions::with_user_and_password("weir-10".into(), "fl33t-10-s3cret".into());
    options.connect(&cluster.servers[0].address).await.expect("another client of the account")
}

async fn jetstream_of(cluster: &Cluster) -> Context {
    jetstream::new(of_account(cluster).await)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_the_servers_refuse_is_told_once_and_tried_again_with_pauses() {
    let cluster = three_servers(|server| server).await;
    let fleet = Fleet::start(1, &with_quota(WeirConfig::of(&cluster))).await;
    let weir = &fleet.weirs[0];
    let context = jetstream_of(&cluster).await;
    let config = context.get_stream(BUCKET).await.expect("the bucket").cached_info().config.clone();
    let stored = r#"weir_fleet_bucket_writes_total{result="stored"}"#;
    let not_stored =
        |metrics: &Metrics| metrics.sum("weir_fleet_bucket_writes_total") - metrics.get(stored).unwrap_or(0.0);
    let before = not_stored(&weir.metrics().await);
    context.update_stream(stream::Config { max_message_size: 1, ..config.clone() }).await.expect("no write has room");
    let began = Instant::now();
    let many =
        not_stored(&weir.until("some are refused", |metrics| not_stored(metrics) >= before + 4.0).await) - before;
    let most = 4.0 * (began.elapsed().as_secs_f64() + 1.0);
    assert!(many <= most, "{many} in {:?}", began.elapsed());
    let rejected = weir.metrics().await.get(r#"weir_fleet_bucket_writes_total{result="rejected"}"#);
    assert!(rejected >= Some(4.0), "{rejected:?}");
    weir.says("no leases of the fleet").await;
    let told = "the servers do not make a write to the bucket of the fleet";
    weir.says_times(told, 1).await;
    assert!(weir.log().contains("message size exceeds maximum allowed"), "{}", weir.log());
    context.update_stream(config).await.expect("there is room again");
    fleet.has_leases().await;
    weir.says_times(told, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_watched_is_none_and_is_told() {
    let cluster = three_servers(|server| server).await;
    let context = jetstream_of(&cluster).await;
    let config = stream::Config {
        name: BUCKET.to_owned(),
        subjects: vec!["$KV.weir-fleet-edge.>".to_owned()],
        max_messages_per_subject: 1,
        num_replicas: 3,
        discard: stream::DiscardPolicy::New,
        max_consumers: 1,
        ..Default::default()
    };
    context.create_stream(config).await.expect("a bucket with room for one weir");
    let of_all = with_quota(WeirConfig::of(&cluster));
    let one = fleet::config(&of_all, 1).start().await;
    one.says("leases of the fleet are in force").await;
    let two = fleet::config(&of_all, 2).start().await;
    two.says("changes of the bucket cannot be watched").await;
    eventually(PATIENCE, "its quotas are split", async || {
        let seen = fleet::fleetz(&two).await;
        if seen["mode"] == "split" { Ok(()) } else { Err(seen) }
    })
    .await;
    assert!(two.log().contains("maximum consumers limit reached"), "{}", two.log());
    // Its quota holds all the same.
    let clients = attempts(&[one.address.clone(), two.address.clone()], 2 * QUOTA).await;
    assert!(clients.len() <= QUOTA, "{}", clients.len());
}
