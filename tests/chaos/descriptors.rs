//! A storm takes every descriptor that weir may open, and connections that say nothing take those that are kept for
//! refusals.

use std::time::{Duration, Instant};

use tokio::{net::TcpStream, time::sleep};
use weir_testkit::*;

use crate::scene::{EAGER, LONGEST, Scene, nothing, rest};

/// weir's own 66, 2 for each of 120 sessions, some for those who wait, and room for few more.
const LIMIT: u32 = 430;

async fn a_storm_takes_all(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start_with(|server| server, |config, _| config.file_limit(LIMIT), EAGER).await;
    let full = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "listener_full") > 200.0;
    let storm = Crowd::start_each(&scene.weir.address, 400, EAGER, |i| rest(&format!("storm-{i}")));
    scene.weir.until("the storm is refused", full).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&scene.weir.address).await.expect("the kernel's queue has room"));
    }
    eventually(LONGEST, "no descriptor is left", async || match scene.weir.health().await {
        503 => Ok(()),
        status => Err(status),
    })
    .await;
    sleep(Duration::from_secs(2)).await;
    meanwhile(&mut scene).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    drop(silent);
    storm.end().await;
    scene.recovers("no descriptor left in a storm", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_descriptor_left_in_a_storm() {
    a_storm_takes_all(nothing).await;
}
