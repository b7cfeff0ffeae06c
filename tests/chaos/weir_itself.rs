//! weir is killed and started again at the same addresses, and stands still.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use weir_testkit::eventually;

use crate::scene::{EAGER, LONGEST, QUOTA, REST, Scene, nothing};

/// weir knows nothing of the quota's use when it starts, and the servers end its connections in their own time, while
/// clients come back at once.
async fn is_killed_and_started_again(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start_with(|server| server, |config, _| config, EAGER).await;
    for round in 1..=3 {
        scene.weir.kill9();
        let killed = Instant::now();
        let config = scene.config.clone();
        scene.weir.start_again(&config).await;
        eventually(LONGEST, "its clients have noticed", async || match scene.lost() {
            lost if lost >= round * (QUOTA + REST) => Ok(()),
            lost => Err(lost),
        })
        .await;
        scene.recovers("weir killed (SIGKILL) and started again", killed).await;
    }
    meanwhile(&mut scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_killed_and_started_again() {
    is_killed_and_started_again(nothing).await;
}

/// Clients give up and come again meanwhile; their connections wait in the kernel's queue and in weir.
async fn stands_still(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start().await;
    scene.weir.stand_still();
    // Longer than clients wait for an answer, so that those in the queue have given up.
    sleep(Duration::from_secs(4)).await;
    meanwhile(&mut scene).await;
    scene.weir.go_on();
    let given_up = scene.orders.refused("timed out");
    assert!(given_up > 0, "clients have given up meanwhile: {:?}", scene.orders.ends());
    scene.recovers("weir frozen (SIGSTOP) for 4 s", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "nobody has lost its connection: {:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_frozen() {
    stands_still(nothing).await;
}
