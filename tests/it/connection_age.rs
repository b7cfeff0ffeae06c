//! Connections that have reached `max_connection_age` end, and their clients come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use weir_testkit::{admin::AdminSocket, *};

use crate::rehome::REHOME;

fn of_age(metrics: &metrics::Metrics) -> f64 {
    metrics.get("weir_moves_total{cause=\"age\",result=\"unreserved\"}").expect("it is shown from the start")
}

fn closed_for_age(metrics: &metrics::Metrics) -> f64 {
    metrics.get("weir_closed_total{party=\"weir\",phase=\"relay\",reason=\"age\"}").unwrap_or(0.0)
}

/// That nobody was refused, and nobody was moved but for its age.
fn assert_nothing_else(metrics: &metrics::Metrics) {
    assert_eq!(metrics.sum("weir_refused_total"), 0.0);
    assert_eq!(metrics.sum("weir_moves_total"), of_age(metrics));
    assert_eq!(metrics.sum_where("weir_closed_total", "party", "weir"), closed_for_age(metrics));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_is_closed_at_its_age_and_comes_back() {
    const CLIENTS: usize = 40;
    let cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).table("[rebalance]\nmax_connection_age = \"5s\"").start().await;
    // Each lives twice, as it sees it itself: weir's time of it begins later and ends sooner.
    let live = async |address: String| {
        let mut lived = Vec::new();
        for _ in 0..2 {
            let began = Instant::now();
            let mut client = RawClient::connect(&address, &Login::nobody()).await;
            assert_eq!(client.end(PATIENCE).await, client::End::Eof);
            assert_eq!(client.errors, [""; 0], "a plain end of stream, behind no error");
            lived.push(began.elapsed());
        }
        let mut client = RawClient::connect(&address, &Login::nobody()).await;
        client.round_trip().await.expect("it is back");
        lived
    };
    let lived = at_once(CLIENTS, |_| live(weir.address.clone())).await;
    for one in lived.iter().flatten() {
        assert!(*one >= Duration::from_millis(4500), "{one:?} is less than 0.9 of the age");
    }
    let all = (2 * CLIENTS) as f64;
    let metrics = weir.until("each close is counted", |metrics| closed_for_age(metrics) >= all).await;
    assert_eq!((of_age(&metrics), closed_for_age(&metrics)), (all, all), "the third ones have left by themselves");
    assert_nothing_else(&metrics);
    weir.says("connections are closed for their age").await;
    weir.assert_nothing_leaked().await;
}

/// The connection is to end, so that what stands in front of weir chooses anew: that its session could go on with
/// another server is of no use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_clients_come_back_whether_their_sessions_are_re_homable_or_not() {
    for rehome in [REHOME, "rehome = false"] {
        let cluster = Cluster::start(2, |server| server).await;
        let config = WeirConfig::of(&cluster).table("[rebalance]\nmax_connection_age = \"2s\"");
        let weir = config.account("default", rehome).start().await;
        let mut clients = Vec::new();
        for _ in 0..10 {
            let returns = Arc::<AtomicU64>::default();
            let seen = Arc::clone(&returns);
            let options = async_nats::ConnectOptions::new().event_callback(move |event| {
                if matches!(event, async_nats::Event::Disconnected) {
                    seen.fetch_add(1, Relaxed);
                }
                std::future::ready(())
            });
            clients.push((options.connect(weir.url()).await.expect("a client"), returns));
        }
        eventually(PATIENCE, "each has been closed twice", async || {
            let seen: Vec<_> = clients.iter().map(|(_, returns)| returns.load(Relaxed)).collect();
            if seen.iter().all(|n| *n >= 2) { Ok(()) } else { Err(seen) }
        })
        .await;
        for (client, _) in &clients {
            eventually(PATIENCE, "it is back", async || client.flush().await).await;
        }
        assert_nothing_else(&weir.until("closes are counted", |metrics| of_age(metrics) >= 20.0).await);
        drop(clients);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_sets_the_age_and_nobody_is_closed_in_a_pause() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let config = WeirConfig::of(&cluster).table(&admin.toml()).table("[rebalance]\nauto = false");
    let mut weir = config.log_level("debug").start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    admin.does(&["pause"]).await;
    weir.reconfigure("auto = false", "max_connection_age = \"1s\"");
    weir.reloads().await;
    // They are due, and it has been looked at them: nobody is closed.
    eventually(PATIENCE, "three looks have closed nobody", async || {
        let looks = weir.log().matches("no connection is closed for its age now").count();
        if looks >= 3 { Ok(()) } else { Err(weir.log()) }
    })
    .await;
    for client in &mut clients {
        client.round_trip().await.expect("it is still there");
    }
    assert_eq!(of_age(&weir.metrics().await), 0.0);

    admin.does(&["resume"]).await;
    for client in &mut clients {
        assert_eq!(client.end(PATIENCE).await, client::End::Eof);
    }
    let metrics = weir.until("each is counted", |metrics| closed_for_age(metrics) == 10.0).await;
    assert_nothing_else(&metrics);

    drop(clients);
    weir.assert_nothing_leaked().await;
}
